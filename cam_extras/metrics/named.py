"""Metrics by name or function, one or many: ours or the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cam_extras._checks import check_name
from cam_extras._code import installed, load_code, load_installed
from cam_extras._names import find_name
from cam_extras._text import names_code
from cam_extras.metrics.base import METRICS


def as_metrics(given: Any) -> tuple[str, ...]:
    """Return metrics as their names in `METRICS`.

    Args:
        given: one or several of: names, in any case, or the short names in tables; functions listed in `METRICS`; entry
            points `cam_extras.metrics` of installed packages; or your own, "FILE.py:NAME" or "MODULE:NAME", where
            running the file registers them.

    Raises:
        TypeError: `given` is none of these.
        ValueError: there is no metric of that name, or a function is not listed.

    >>> as_metrics(["AD", "adcc"])
    ('average_drop', 'adcc')
    """
    if isinstance(given, str) or callable(given):
        given = [given]
    if not isinstance(given, Iterable):
        raise TypeError(f'metrics must be names, such as "adcc", in a list; got {given!r:.80}')
    return tuple(dict.fromkeys(map(_find, given)))


def _find(given: Any) -> str:
    function: Any = given
    if isinstance(given, str):
        if given in METRICS:
            return given
        if given in installed("metrics"):
            function = load_installed("metrics", given)
        elif names_code(given):
            function = load_code(given, "metric")
        else:
            known = {**METRICS, **installed("metrics")}
            return find_name("metric", given, known, {entry.short: name for name, entry in METRICS.items()})
    elif not callable(given):
        check_name("metric", given, METRICS)
    for name in (given, getattr(function, "__name__", "")):
        if name in METRICS and METRICS[name].function is function:
            return str(name)
    raise ValueError(f"{given} is not in METRICS: put @metric(...) of cam_extras.metrics above the function")
