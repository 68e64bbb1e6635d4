"""Methods and metrics as entries and as tables: without torch, so that `cam-extras list` answers at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table


class MethodEntry(NamedTuple):
    """A method as lists show it; `hyper` has the defaults of its hyper-parameters as text."""

    name: str
    meaning: str
    paper: str
    control: bool
    hyper: Mapping[str, str]


class MetricEntry(NamedTuple):
    """A metric as lists show it; `options` has the defaults of its options as text."""

    name: str
    title: str
    short: str
    arrow: str
    meaning: str
    paper: str
    options: Mapping[str, str]


def list_tables(methods: Iterable[MethodEntry], metrics: Iterable[MetricEntry]) -> list[Table]:
    """Make a table of methods, controls last, and one of metrics, with their papers."""
    from rich.table import Table

    of_methods = Table(title="methods")
    for heading in ("name", "meaning", "paper"):
        of_methods.add_column(heading)
    for is_control, of_kind in groupby(sorted(methods, key=lambda method: method.control), lambda m: m.control):
        if is_control:
            head_controls(of_methods)
        for method in of_kind:
            of_methods.add_row(method.name, method.meaning, method.paper)
    of_metrics = Table(title="metrics")
    for heading in ("name", "short", "better", "meaning", "paper"):
        of_metrics.add_column(heading)
    for metric in metrics:
        better = {"↑": "↑ higher", "↓": "↓ lower"}[metric.arrow]
        of_metrics.add_row(metric.name, metric.short, better, metric.meaning, metric.paper)
    return [of_methods, of_metrics]


def head_controls(table: Table) -> None:
    """Start the controls section of a table."""
    table.add_section()
    table.add_row("[italic]Controls[/italic]")


def describe_entry(entry: MethodEntry | MetricEntry) -> str:
    """Describe a method or metric in full, including its hyper-parameters or options with their defaults."""
    if isinstance(entry, MethodEntry):
        head, values, kind = entry.name, entry.hyper, "hyper-parameters"
    else:
        head, values, kind = f"{entry.name}, {entry.title}, {entry.short} {entry.arrow}", entry.options, "options"
    told = "".join(f"\n    {name}={default}" for name, default in values.items())
    return f"{head}\n  {entry.meaning}\n  {entry.paper}\n  {kind}:{told or ' none'}"
