"""Options declared once, as annotated fields: what a value must be, and the error if it is not.

An annotation may carry checks, `Annotated[int, check_seed]`: functions (name, value) that raise. A text in it says
what the option is, for errors and documentation.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from numbers import Real
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


def hints_of(cls: Any) -> dict[str, Any]:
    """Return the annotations of a class or function by name, resolved, with what `Annotated` adds.

    What cannot be resolved, such as a name imported only for type checkers, is `Any`. This also works for classes from
    files that were run and are not in `sys.modules`, where `typing.get_type_hints` looks for their names.
    """
    if not isinstance(cls, type):
        return get_type_hints(cls, include_extras=True)
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        made_in = getattr(inspect.unwrap(vars(base).get("__init__", object)), "__globals__", None)
        namespace = made_in or vars(sys.modules.get(base.__module__, sys))
        for name, annotation in inspect.get_annotations(base).items():
            try:
                hints[name] = eval(annotation, {**namespace}) if isinstance(annotation, str) else annotation
            except NameError:
                hints[name] = Any
    return hints


def check_fields(options: Any) -> None:
    """Check every field of a dataclass by its annotation.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is not one of the choices, or out of range.
    """
    hints = hints_of(options.__class__)
    for field in dataclasses.fields(options):
        if field.init:
            check_annotated(field.name, getattr(options, field.name), hints[field.name])


def check_annotated(name: str, value: object, annotation: Any) -> None:
    """Check a value by its annotation.

    Raises:
        TypeError: it has the wrong type.
        ValueError: it is not one of the choices, or out of range.

    >>> check_annotated("ties", "last", Literal["first", "any"])
    Traceback (most recent call last):
    ValueError: ties must be one of 'first', 'any'; got 'last'
    """
    if not fits(value, annotation):
        choices = choices_of(annotation)
        if choices and (isinstance(value, str) or all(isinstance(choice, str) for choice in choices)):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r:.80}")
        error = ValueError if isinstance(value, str) and any(map(choices_of, get_args(bare(annotation)))) else TypeError
        about = meaning_of(annotation)
        raise error(f"{name} must be {expected(annotation)}; got {value!r:.80}" + (f": it is {about}" if about else ""))
    _run_checks(name, value, annotation)


def fits(value: object, annotation: Any) -> bool:
    """Return whether a value has the type of an annotation, without running its checks."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return fits(value, parts[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in parts)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return hasattr(value, "__index__") and not isinstance(value, bool) and not getattr(value, "ndim", 0)
    if annotation is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    kind = origin or annotation
    if kind is Callable:
        return callable(value)
    if kind in (Sequence, list, tuple):
        of_kind = isinstance(value, list | tuple) if kind is Sequence else isinstance(value, kind)
        return of_kind and (not parts or all(fits(part, parts[0]) for part in value))  # type: ignore[attr-defined]
    if kind in (Mapping, dict):
        entries = value.items() if isinstance(value, Mapping) else ()
        of_parts = not parts or all(fits(key, parts[0]) and fits(part, parts[1]) for key, part in entries)
        return isinstance(value, Mapping) and of_parts
    return isinstance(value, kind)


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`, alone or with None; empty for any other annotation.

    >>> choices_of(Literal["first", "any"]), choices_of(int)
    (('first', 'any'), ())
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return choices_of(parts[0])
    if origin in (Union, types.UnionType):
        others = [part for part in parts if part is not type(None)]
        return choices_of(others[0]) if len(others) == 1 else ()
    return parts if origin is Literal else ()


def meaning_of(annotation: Any) -> str:
    """Return the text in an annotation that describes the option; empty if there is none.

    >>> meaning_of(Annotated[float, "the share of the pixels"])
    'the share of the pixels'
    """
    parts = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((part for part in parts if isinstance(part, str)), "")


def bare(annotation: Any) -> Any:
    """Return an annotation without what `Annotated` adds, as in signatures.

    >>> bare(Annotated[int, "how many"] | None)
    int | None
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bare(parts[0])
    if origin in (Union, types.UnionType):
        return reduce(or_, map(bare, parts))
    if origin is None or origin is Literal or not parts or origin is Callable:
        return annotation
    return origin[tuple(map(bare, parts))]


_WORDS = {bool: "True or False", int: "an integer", float: "a number", str: "text", type(None): "None"}


def expected(annotation: Any) -> str:
    """Say in words what an annotation accepts.

    >>> expected(int | None), expected(Sequence[str]), expected(Literal["auto"] | int)
    ('an integer or None', 'a list of text', "'auto' or an integer")
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(expected, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if annotation in _WORDS:
        return _WORDS[annotation]
    kind = origin or annotation
    if kind is Callable:
        return "a function"
    if kind in (Sequence, list, tuple):
        return f"a list of {expected(parts[0]).removeprefix('an ').removeprefix('a ')}" if parts else "a list"
    if kind in (Mapping, dict):
        return "a mapping"
    return f"a {kind.__name__}"


def _run_checks(name: str, value: object, annotation: Any) -> None:
    """Run the checks in an annotation; in a union, those of the parts that fit."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        _run_checks(name, value, parts[0])
        for check in parts[1:]:
            if callable(check):
                check(name, value)
    elif origin in (Union, types.UnionType):
        for part in parts:
            if fits(value, part):
                _run_checks(name, value, part)
