"""Tables: methods and metrics, the summary of a run, and every single score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.csv import write_csv
from rich.table import Table
from rich.text import Text

from cam_extras._listing import MethodEntry, MetricEntry, head_controls, list_tables
from cam_extras._text import csv_cell, printable
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS
from cam_extras.metrics.options import brief
from cam_extras.runs.store import Run


def summary_table(
    values: Mapping[str, Mapping[str, float | None]], title: str, controls: Collection[str] = ()
) -> Table:
    """Make a table of methods x metrics: arrows show which way is better, best in bold; controls last, never in bold.

    Args:
        values: over the whole set, by method and metric; None if there is none.
        title: title of the table.
        controls: which of the methods are controls.
    """
    table = Table(title=Text(printable(title)), caption="per cent, where a metric has a greatest value; best in bold")
    table.add_column("method", no_wrap=True)
    cells = []
    methods = sorted(values, key=lambda method: method in controls)
    for name in dict.fromkeys(name for row in values.values() for name in row):
        metric = METRICS[name]
        table.add_column(f"{metric.short} {metric.arrow}", justify="right", no_wrap=True)
        column = [values[method].get(name) for method in methods]
        printed = [
            None if value is None else round(metric.scale * value, 1) for value in column
        ]  # cells printed alike are equally bold
        known = [v for method, v in zip(methods, printed, strict=True) if v is not None and method not in controls]
        best = (max if metric.higher_is_better else min)(known, default=None)
        cells.append(
            [
                "" if v is None else f"[bold]{v:.1f}[/bold]" if v == best and method not in controls else f"{v:.1f}"
                for method, v in zip(methods, printed, strict=True)
            ]
        )
    for is_control, rows in groupby(zip(methods, *cells, strict=True), lambda row: row[0] in controls):
        if is_control:
            head_controls(table)
        for method, *row in rows:
            table.add_row(Text(printable(method)), *row)
    return table


def list_table() -> list[Table]:
    """Make the tables of all methods and all metrics with their papers."""
    return list_tables(method_entries(), metric_entries())


def method_entries() -> Iterator[MethodEntry]:
    """Yield the list entry of every method."""
    for name, method in METHODS.items():
        hyper = {field.name: _shown(field.default) for field in fields(method)}
        meaning = (method.__doc__ or "").split("\n")[0].partition(": ")[2]
        yield MethodEntry(name, meaning, method.paper, method.control, hyper)


def metric_entries() -> Iterator[MetricEntry]:
    """Yield the list entry of every metric."""
    for name, metric in METRICS.items():
        options = {field.name: _shown(field.default) for field in fields(metric.Options)}
        yield MetricEntry(name, metric.title, metric.short, metric.arrow, metric.meaning, metric.paper, options)


def _shown(default: Any) -> str:
    return getattr(default, "__name__", brief(default))


def save_csv(path: Path, run: Run) -> None:
    """Write the results of a run as CSV, without curves and maps; spreadsheets read none of its text as a formula."""
    plain = [field.name for field in run.results.schema if not pa.types.is_nested(field.type) and field.name != "map"]
    table = run.results.select(plain)
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            cells = pa.array([csv_cell(value) for value in table[field.name].to_pylist()], field.type)
            table = table.set_column(number, field, cells)
    with path.open("wb") as file:
        write_csv(table, file)
