"""Tables: what exists, what came out on average, and every single score."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cam_extras.evaluation import Evaluation
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS


def summary_table(evaluation: Evaluation, title: str) -> Table:
    """Make a table of methods x metrics: values of the whole set, arrows for direction, best in bold.

    Values are in per cent where a metric has a greatest one. `Win` is the share of samples on which a method has the
    least average drop of all.
    """
    summary = evaluation.of_set()
    table = Table(title=Text(title), caption="per cent; the best of each column in bold")
    table.add_column("method", no_wrap=True)
    columns = []
    for name in next(iter(summary.values())):
        metric = METRICS[name]
        values = [metric.scale * row[name] for row in summary.values()]
        columns.append((f"{metric.short} {metric.arrow}", values, metric.higher_is_better))
    if len(summary) > 1 and "average_drop" in next(iter(summary.values())):
        columns.append(("Win ↑", [100 * share for share in evaluation.win_percentage().values()], True))
    cells = []
    for heading, values, higher_is_better in columns:
        table.add_column(heading, justify="right", no_wrap=True)
        printed = [round(value, 1) for value in values]  # equal cells are equally bold
        best = max(printed) if higher_is_better else min(printed)
        cells.append([f"[bold]{value:.1f}[/bold]" if value == best else f"{value:.1f}" for value in printed])
    for method, *row in zip(summary, *cells, strict=True):
        table.add_row(Text(method), *row)
    return table


def list_table() -> list[Table]:
    """Make the tables of all methods and all metrics with their papers."""
    methods = Table(title="methods")
    for heading in ("name", "meaning", "paper"):
        methods.add_column(heading)
    for name, method in METHODS.items():
        methods.add_row(name, (method.__doc__ or "").split("\n")[0].partition(": ")[2], method.paper)
    metrics = Table(title="metrics")
    for heading in ("name", "short", "better", "meaning", "paper"):
        metrics.add_column(heading)
    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        metrics.add_row(name, metric.short, f"{metric.arrow} {better}", metric.meaning, metric.paper)
    return [methods, metrics]


def save_csv(path: Path, names: Sequence[str], evaluation: Evaluation) -> None:
    """Write one row for each image and method: classes, confidence and the scores, not in per cent."""
    metrics = list(next(iter(evaluation.scores.values())))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "method", "target", "predicted", "confidence", *metrics])
        for row, name in enumerate(names):
            for method, scores in evaluation.scores.items():
                writer.writerow(
                    [
                        name,
                        method,
                        int(evaluation.target[row]),
                        int(evaluation.predicted[row]),
                        float(evaluation.confidence[row]),
                        *(float(scores[metric][row]) for metric in metrics),
                    ]
                )
