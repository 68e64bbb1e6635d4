"""What a run is made of, read from text: methods with their hyper-parameters, options of metrics, and both as JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cam_extras._checks import check_name
from cam_extras.methods import Method
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


def describe(value: Any) -> Any:
    """Return what tells a value from others, of JSON types: fields of dataclasses, hashes of tensors, names of code."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Method):
        return {"method": type(value).__name__, **_fields(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, Tensor):
        values = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()  # NumPy has no bfloat16
        return f"{value.dtype} {tuple(value.shape)} sha256 {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"
    if isinstance(value, partial):
        return {"call": describe(value.func), "arguments": describe([*value.args]), "options": describe(value.keywords)}
    if not isinstance(value, nn.Module) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: describe(getattr(value, field.name)) for field in fields(value) if field.init}
