"""What a run is made of, read from text: methods with their hyper-parameters, options of metrics, and both as JSON."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cam_extras._checks import check_name
from cam_extras.methods import METHODS, Method
from cam_extras.metrics import Options, as_options


def read_methods(
    given: Sequence[str | Method] | Mapping[str, Method | Mapping[str, Any]], seed: int
) -> dict[str, Method]:
    """Return methods by the names that results have for them.

    Args:
        given: names such as "GradCAM", with hyper-parameters as "OptiCAM:max_iterations=30,score=softmax"; methods;
            or a mapping of names of your own to methods, or to hyper-parameters, with "method" where the name is not
            the class's. Names that are not ours are those of pytorch-grad-cam's classes, such as "ScoreCAM".
        seed: of those methods given by name that draw random numbers and are given no other.

    Raises:
        TypeError: a method does not have a hyper-parameter, or what is given are no methods.
        ValueError: there is no method of that name, or two have the same.
    """
    if isinstance(given, str):
        given = [given]
    named: list[tuple[str, Any]]
    if isinstance(given, Mapping):
        named = list(given.items())
        for name, value in named:
            if not isinstance(name, str) or not (value is None or isinstance(value, Method | Mapping)):
                raise TypeError(
                    "methods must map names to methods, or to hyper-parameters {name: value}; got "
                    f"{{{name!r:.80}: {value!r:.80}}}"
                )
    else:
        if not isinstance(given, Iterable):
            raise TypeError(f"methods must be names or methods, in a list or a mapping; got {given!r:.80}")
        given = list(given)
        for item in given:
            if not isinstance(item, str | Method):
                raise TypeError(f'methods must be names or methods, such as "GradCAM" or GradCAM(); got {item!r:.80}')
        named = [(type(item).__name__, item) if isinstance(item, Method) else (item, None) for item in given]
    methods: dict[str, Method] = {}
    for name, value in named:
        if name in methods:
            raise ValueError(f"there are two methods named {name!r}: give them names of their own, in a mapping")
        methods[name] = value if isinstance(value, Method) else _make_method(name, value, seed)
    if not methods:
        raise ValueError("there is no method to evaluate: give one or more")
    return methods


def _make_method(name: str, hyper: Mapping[str, Any] | None, seed: int) -> Method:
    if hyper is None:
        class_name, _, text = name.partition(":")
        hyper = read_settings(text.split(",") if text else [])
    else:
        class_name = hyper.get("method", name)
    hyper = {key: value for key, value in hyper.items() if key != "method"}
    if not isinstance(class_name, str) or class_name not in METHODS:
        from cam_extras.pytorch_grad_cam import UPSTREAM, Upstream  # only where asked for: it imports its host

        check_name("method", class_name, {**METHODS, **UPSTREAM})
        score = hyper.pop("score", "logit")
        return Upstream(cam=class_name, score=score, hyper=hyper)
    if any(field.name == "seed" for field in fields(METHODS[class_name])):
        hyper = {"seed": seed, **hyper}
    return METHODS[class_name].make(hyper)


def read_options(given: Any, metrics: Iterable[str], seed: int) -> Options:
    """Return the options of metrics, see `cam_extras.metrics.as_options`.

    Raises:
        TypeError: an option has another type.
        ValueError: there is no such option, or one is out of its range.
    """
    return as_options(given, metrics, seed=seed)


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read settings "name=value": numbers, None, True and False as Python writes them, anything else as text.

    Raises:
        ValueError: there is no "=" in a setting.

    >>> read_settings(["max_iterations=30", "score=softmax"])
    {'max_iterations': 30, 'score': 'softmax'}
    """
    read: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise ValueError(f"expected NAME=VALUE, such as max_iterations=30; got {setting!r}")
        try:
            read[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two of a thousand brackets
            read[name] = text
    return read


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
