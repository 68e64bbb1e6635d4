"""Classes for a host, one per method, made from the method's definition."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from cam_extras._options import hints_of
from cam_extras.methods import Method

_Host = TypeVar("_Host")


def make_class(base: type[_Host], method: type[Method], name: str, module: str) -> type[_Host]:
    """Make a method's class for a host.

    Args:
        base: base class of the host; it reads the method from `method_type` and takes hyper-parameters as `**hyper`.
        method: the method.
        name: name of the class.
        module: where it can be imported from.
    """
    doc = (
        f"{inspect.cleandoc(method.__doc__ or '')}\n\n"
        f"See `{base.__name__}` for the arguments before these, and for what a call takes and returns."
    )
    presets = {key: value for key, value in vars(method).items() if key.isupper()}
    contents = {"method_type": method, "__doc__": doc, "__module__": module, "__signature__": signature(base, method)}
    return type(name, (base,), {**presets, **contents})


def signature(base: type, method: type[Method]) -> inspect.Signature:
    """Return the signature of a method's class for a host: what the host needs, and every hyper-parameter by name."""
    of_host = [
        parameter.replace(annotation=hints_of(base.__init__).get(parameter.name, parameter.annotation))  # type: ignore[misc]
        for parameter in list(inspect.signature(base).parameters.values())
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    return inspect.Signature([*of_host, *hyper_parameters(method)])


def hyper_parameters(method: type[Method]) -> list[inspect.Parameter]:
    """Return a method's hyper-parameters with their types and defaults."""
    hints = hints_of(method)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(method)
    ]


def describe(host: Any, model: object, layers: Sequence[str], method: Method) -> str:
    """Return the `repr` of a host's class: model, layer and hyper-parameters."""
    hyper = [f"{field.name}={getattr(method, field.name)!r:.80}" for field in fields(method)]
    return f"{type(host).__name__}({', '.join([type(model).__name__, *map(repr, layers), *hyper])})"
