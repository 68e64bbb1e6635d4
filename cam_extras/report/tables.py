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
    """Make a table of methods x metrics in per cent: values of the whole set, arrows for direction, best in bold."""
    summary = evaluation.of_set()
    metrics = list(next(iter(summary.values())))
    table = Table(title=Text(title), caption="per cent; the best of each column in bold")
    table.add_column("method", no_wrap=True)
    for name in metrics:
        table.add_column(f"{METRICS[name].short} {METRICS[name].arrow}", justify="right", no_wrap=True)
    best = {}
    for name in metrics:
        choose = max if METRICS[name].higher_is_better else min
        best[name] = choose(_per_cent(row[name]) for row in summary.values())
    for method, row in summary.items():
        cells = [_per_cent(row[name]) for name in metrics]
        marked = [
            f"[bold]{cell:.1f}[/bold]" if cell == best[name] else f"{cell:.1f}"
            for name, cell in zip(metrics, cells, strict=True)
        ]
        table.add_row(Text(method), *marked)
    return table


def _per_cent(value: float) -> float:
    """Round as printed, so that equal cells are equally bold."""
    return round(100 * value, 1)


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
    """Write one row for each image and method: classes, confidence and the scores in [0, 1], not in per cent."""
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
