"""Options of metrics, read from text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cam_extras._checks import check_name
from cam_extras.metrics import MetricOptions, Schedule


def read_options(given: Mapping[str, Any], seed: int) -> MetricOptions:
    """Return the options of metrics from a mapping, with `schedule` as a name or the fields of a `Schedule`.

    Raises:
        TypeError: there is no such option, or one has another type.
        ValueError: an option is out of its range.
    """
    known = [field.name for field in fields(MetricOptions)]
    for name in given:
        check_name("option of metrics", name, known)
    options = {"seed": seed, **given}
    if isinstance(options.get("schedule"), Mapping):
        options["schedule"] = Schedule(**options["schedule"])
    return MetricOptions(**options)
