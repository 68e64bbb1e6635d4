"""Compare two runs: their settings, and their scores of the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from cam_extras._listing import head_controls
from cam_extras._text import printable
from cam_extras.metrics import METRICS
from cam_extras.report.figures import ABSENT, differences, excludes_0, printed
from cam_extras.report.html import (
    Plot,
    caption_of,
    controls_last,
    render,
    results_of,
    summary_of,
    title_of,
    write_page,
)
from cam_extras.runs.config import is_by_label
from cam_extras.runs.store import Run
from cam_extras.runs.summary import Row, paired_differences


def compare(run_a: Run, run_b: Run) -> list[Row]:
    """Return for each method and metric how the second run's value over the set differs from the first's.

    Args:
        run_a: the first run.
        run_b: the second; images are matched by path, and by the class explained if one of the runs has a row for each
            image and label.

    Returns:
        The rows of `cam_extras.runs.summary.paired_differences`, over the images that both runs have, with
        `only`: None; or "a" or "b" for a method or metric of only one run, whose value is over all its images.
        `win_percentage` and other metrics that compare the methods of a run are left out.

    Raises:
        ValueError: the runs have no image in common, or a folder does not hold a finished run.
    """
    comparable = {name for name, metric in METRICS.items() if not metric.of_methods}
    values = [
        {(row["method"], row["metric"]): row["value"] for row in run.summary if row["metric"] in comparable}
        for run in (run_a, run_b)
    ]
    of_labels = any(is_by_label(run.configuration.get("target")) for run in (run_a, run_b))
    (columns_a, table_a), (columns_b, table_b) = (_scores(run, of_labels) for run in (run_a, run_b))
    if not pc.any(pc.is_in(table_a["path"], table_b["path"].unique())).as_py():
        raise ValueError(
            f"the runs have no image in common: {run_a.folder} has {_example(table_a)}, {run_b.folder} has "
            f"{_example(table_b)}; give two runs over the same images, with the same paths"
        )
    both = [name for name in columns_a if name in columns_b]
    paired = {(row["method"], row["metric"]): row for row in paired_differences(table_a, table_b, both)}
    rows = []
    for method in dict.fromkeys(method for of_run in values for method, _ in of_run):
        for metric in dict.fromkeys(metric for of_run in values for _, metric in of_run):
            here = [(method, metric) in of_run for of_run in values]
            if all(here):
                rows.append({**paired[method, metric], "only": None})
            elif any(here):
                a, b = (of_run.get((method, metric)) for of_run in values)
                alone = {"method": method, "metric": metric, "a": a, "b": b, "difference": None}
                rows.append({**alone, "low": None, "high": None, "pairs": 0, "only": "a" if here[0] else "b"})
    return rows


def comparison_table(run_a: Run, run_b: Run) -> Table:
    """Make a terminal table of `compare`: differences whose interval excludes 0 are bold; controls come last."""
    controls = run_a.controls | run_b.controls
    rows = controls_last(compare(run_a, run_b), controls)
    notes = [
        "per cent, where a metric has a greatest value; paired over the images of both runs; bold where the 95 % "
        "interval of the difference excludes 0, not corrected for multiple comparisons",
        *_alone(rows),
    ]
    title = f"A: {printable(run_a.folder)}\nB: {printable(run_b.folder)}"
    table = Table(title=Text(title), caption=Text("\n".join(map(printable, notes))))
    for heading in ("method", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("A", "B", "B - A", "95 % interval", "pairs"):
        table.add_column(heading, justify="right", no_wrap=True)
    headed = False
    for method, of_method in groupby((row for row in rows if row["only"] is None), lambda row: row["method"]):
        table.add_section()
        if method in controls and not headed:
            head_controls(table)
            headed = True
        for row in of_method:
            metric = METRICS[row["metric"]]
            table.add_row(
                Text(printable(row["method"])),
                f"{metric.short} {metric.arrow}",
                printed(metric, row["a"]),
                printed(metric, row["b"]),
                Text(
                    printed(metric, row["difference"], sign=True),
                    "bold" if excludes_0(row) and method not in controls else "",
                ),
                _interval(row),
                str(row["pairs"]),
            )
    return table


def write_comparison(run_a: Run, run_b: Run, path: Path) -> Path:
    """Write a comparison of two runs as one HTML file: settings that differ, paired differences and both summaries.

    Returns:
        The file.

    Raises:
        ValueError: see `compare`.
        NoSpaceError: the disk is full.
    """
    controls = run_a.controls | run_b.controls
    rows = controls_last(compare(run_a, run_b), controls)
    paired = [
        {**row, "interval": _interval(row), "verdict": _verdict(row, is_control), "is_control": is_control}
        for row in rows
        if row["only"] is None
        for is_control in [row["method"] in controls]
    ]
    metrics = [METRICS[name] for name in dict.fromkeys(row["metric"] for row in paired)]
    page = render(
        "comparison.html.j2",
        runs=[
            (letter, run, title_of(run), summary_of(run.summary, run.controls))
            for letter, run in (("A", run_a), ("B", run_b))
        ],
        differences=[*_differences(run_a.configuration, run_b.configuration)],
        environments=[*_differences(_environment(run_a), _environment(run_b))],
        rows=paired,
        alone=_alone(rows),
        metrics=metrics,
        methods=list(dict.fromkeys(row["method"] for row in paired)),
        apart=sum(excludes_0(row) for row in paired if not row["is_control"]),
        plots=[
            Plot(
                differences(metric, [row for row in paired if row["metric"] == metric.name], controls),
                caption_of(metric),
            )
            for metric in metrics
        ],
    )
    write_page(path, page)
    return path


def is_comparison(path: Path) -> bool:
    """Return whether `write_comparison` wrote a file."""
    try:
        with path.open("rb") as file:
            return b'<meta name="generator" content="cam_extras comparison">' in file.read(2000)
    except OSError:
        return False


def _scores(run: Run, of_labels: bool) -> tuple[list[str], pa.Table]:
    """Return the metrics that a run has columns for, and the columns; with labels, paths name the class explained."""
    with results_of(run) as file:
        metrics = [name for name in METRICS if name in file.schema_arrow.names]
        table = file.read(["path", "method", *metrics, *(["target"] if of_labels else [])])
    if of_labels:
        named = pc.binary_join_element_wise(table["path"], pc.cast(table["target"], pa.string()), ", class ")
        table = table.set_column(table.column_names.index("path"), "path", named)
    return metrics, table


def _example(table: pa.Table) -> str:
    return repr(table["path"][0].as_py()) if len(table) else "none"


def _interval(row: Row) -> str:
    if row["low"] is None:
        return ABSENT
    low, high = (printed(METRICS[row["metric"]], row[key], sign=True) for key in ("low", "high"))
    return f"{low} to {high}"


def _verdict(row: Row, is_control: bool) -> str:
    if row["low"] is None:
        return "no pairs"
    if not excludes_0(row):
        return "equal" if row["low"] == row["high"] else "not told apart"
    if is_control:
        return "differs"
    return "B better" if (row["difference"] > 0) == METRICS[row["metric"]].higher_is_better else "B worse"


def _alone(rows: Sequence[Row]) -> list[str]:
    """Say which methods and metrics only one run has."""
    sentences = []
    for run in ("a", "b"):
        for kind in ("method", "metric"):
            found: dict[str, set[str | None]] = {}
            for row in rows:
                found.setdefault(row[kind], set()).add(row["only"])
            names = [name for name, only in found.items() if only == {run}]
            if names:
                sentences.append(f"{run.upper()} alone has the {kind}{'s' * (len(names) > 1)} {', '.join(names)}.")
    return sentences


def _environment(run: Run) -> dict[str, Any]:
    """Return the environment of a run's last start, without what always differs or is shown elsewhere."""
    left_out = ("started", "categories", "controls")
    return {key: value for key, value in (run.starts or [{}])[-1].items() if key not in left_out}


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the key and both values, as text, of everything that differs."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in {**a, **b}:
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}" if key else name)
    elif a != b:
        a, b = (ABSENT if value is None else json.dumps(value, ensure_ascii=False) for value in (a, b))
        yield key, a, b
