"""Methods by name, class or instance, one or many: ours, pytorch-grad-cam's or the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from cam_extras._checks import check_name
from cam_extras._code import installed, load_code, load_installed
from cam_extras._text import names_code, read_settings, split_options
from cam_extras.methods.base import METHODS, Method

AnyMethod: TypeAlias = str | type | Method
"""A name, a class (ours or pytorch-grad-cam's), or an instance."""

AnyMethods: TypeAlias = AnyMethod | Iterable[AnyMethod] | Mapping[str, AnyMethod | Mapping[str, Any] | None]
"""One or several; or a mapping from your own names to methods or hyper-parameters."""


def as_method(given: AnyMethod, hyper: Mapping[str, Any] | None = None) -> Method:
    """Return a method given by name, class or instance.

    Args:
        given: a name, a class or an instance. A name is a key of `METHODS`; a class of pytorch-grad-cam, such as
            "FullGrad", returned as an `Upstream`; an entry point `cam_extras.methods` of an installed package; or your
            own code, "FILE.py:NAME" or "MODULE:NAME". A class is one of ours, a host's class of a method, or one of
            pytorch-grad-cam's.
        hyper: its hyper-parameters by name; for an instance, those to change.

    Raises:
        TypeError: `given` is none of these, or the method has no such hyper-parameter.
        ValueError: there is no method of that name, or a hyper-parameter is out of range.
    """
    hyper = hyper or {}
    found = _find(given) if isinstance(given, str) else given
    if isinstance(found, Method):
        made = {field.name: getattr(found, field.name) for field in fields(found) if field.init}
        return type(found).make({**made, **hyper}) if hyper else found
    if isinstance(found, type):
        found = getattr(found, "method_type", found)  # a host's class
    if isinstance(found, type) and issubclass(found, Method):
        return found.make(hyper)
    from cam_extras.pytorch_grad_cam.upstream import UPSTREAM, Upstream  # only when needed: it imports pytorch-grad-cam

    if found is None:
        check_name("method", given, {**METHODS, **installed("methods"), **UPSTREAM})
        return Upstream.of(str(given), hyper)
    if isinstance(found, type) and found in UPSTREAM.values():
        return Upstream.of(found.__name__, hyper)
    if isinstance(given, str):
        raise TypeError(f"{given} must be a cam_extras.methods.Method, its class or an instance; it is {found!r:.80}")
    raise TypeError(
        f'the method must be a name, such as "GradCAM", a class or a method, such as GradCAM(); got {given!r:.80}'
    )


def as_methods(given: AnyMethods, seed: int | None = None) -> dict[str, Method]:
    """Return methods by the names that they have in results.

    Args:
        given: one or several, see `as_method`, with hyper-parameters after the name as in
            "OptiCAM:max_iterations=30,utility=softmax"; or a mapping from your own names to these, or to
            hyper-parameters, with a key "method" if the name is not the method's.
        seed: for methods that draw random numbers, unless they are instances or have their own seed.

    Raises:
        TypeError: something given is not a method, or a method has no such hyper-parameter.
        ValueError: nothing is given, there is no method of that name, or two have the same name.
    """
    methods: dict[str, Method] = {}
    for name, method in _named(given):
        if name in methods:
            raise ValueError(f"there are two methods named {name!r}: give them names of their own, in a mapping")
        methods[name] = _with_seed(*_read(name, method), seed)
    if not methods:
        raise ValueError("there is no method: give one or more")
    return methods


def split_method(text: str) -> tuple[str, str]:
    """Split what the user typed into the method's name, or its code, and its hyper-parameters.

    >>> split_method("OptiCAM:max_iterations=3"), split_method("mine.py:MyCAM"), split_method("OptiCAM:fast")
    (('OptiCAM', 'max_iterations=3'), ('mine.py:MyCAM', ''), ('OptiCAM', 'fast'))
    """
    head, _, tail = text.partition(":")
    return (head, tail) if head in METHODS else split_options(text)


def _find(name: str) -> Any:
    """Return what a name stands for in `METHODS`, an installed package, or FILE.py:NAME; None if nothing."""
    if name in METHODS:
        return METHODS[name]
    if name in installed("methods"):
        return load_installed("methods", name)
    return load_code(name, "method") if names_code(name) else None


def _named(given: AnyMethods) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if not isinstance(name, str) or not (value is None or isinstance(value, str | type | Method | Mapping)):
                raise TypeError(
                    "methods must map names to methods, or to hyper-parameters {name: value}; got "
                    f"{{{name!r:.80}: {value!r:.80}}}"
                )
        return list(given.items())
    items: Any = [given] if isinstance(given, str | type | Method) else given
    if not isinstance(items, Iterable):
        raise TypeError(f"methods must be names or methods, in a list or a mapping; got {given!r:.80}")
    named: list[tuple[str, Any]] = []
    for item in items:
        if not isinstance(item, str | type | Method):
            raise TypeError(f'methods must be names or methods, such as "GradCAM" or GradCAM(); got {item!r:.80}')
        named.append((_shown(item), item))
    return named


def _shown(given: AnyMethod) -> str:
    """Return a method's name in results; for FILE.py:NAME without the path."""
    if not isinstance(given, str):
        return (given if isinstance(given, type) else type(given)).__name__
    code, options = split_method(given)
    short = code.rpartition(":")[2]
    return given if short == code else f"{short}:{options}" if options else short


def _read(name: str, given: Any) -> tuple[AnyMethod, Mapping[str, Any]]:
    """Return a method and its hyper-parameters, read from its name or from a mapping."""
    if isinstance(given, Mapping):
        return given.get("method", name), {key: value for key, value in given.items() if key != "method"}
    if given is None:
        given = name
    if isinstance(given, str):
        code, options = split_method(given)
        return code, read_settings(options.split(",") if options else [])
    return given, {}


def _with_seed(given: AnyMethod, hyper: Mapping[str, Any], seed: int | None) -> Method:
    method = as_method(given, hyper)
    is_instance = isinstance(_find(given) if isinstance(given, str) else given, Method)
    draws = any(field.name == "seed" for field in fields(method))
    if seed is None or is_instance or not draws or "seed" in hyper:
        return method
    return as_method(method, {"seed": seed})
