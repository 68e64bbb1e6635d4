"""What a run is made of, by name: methods with their hyper-parameters, metrics, and their options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from cam_extras._checks import check_name
from cam_extras._code import installed, load_code, load_installed
from cam_extras._text import names_code, read_settings, split_options
from cam_extras.methods import METHODS, Method
from cam_extras.metrics import METRICS, MetricOptions, Schedule


def read_methods(
    given: Sequence[str | Method] | Mapping[str, Method | Mapping[str, Any]], seed: int
) -> dict[str, Method]:
    """Return methods by the names that results have for them.

    Args:
        given: names such as "GradCAM", with hyper-parameters as "OptiCAM:max_iterations=30,score=softmax"; methods;
            or a mapping of names of your own to methods, or to hyper-parameters, with "method" where the name is not
            the class's. Names that are not ours are those of pytorch-grad-cam's classes, such as "ScoreCAM". A class
            or a method of your own is "FILE.py:NAME" or "MODULE:NAME", or what an installed package offers by name,
            as an entry point of the group `cam_extras.methods`.
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
        shown = name if value is not None else _without_source(name)
        if shown in methods:
            raise ValueError(f"there are two methods named {shown!r}: give them names of their own, in a mapping")
        methods[shown] = value if isinstance(value, Method) else _make_method(name, value, seed)
    if not methods:
        raise ValueError("there is no method to evaluate: give one or more")
    return methods


def _make_method(name: str, hyper: Mapping[str, Any] | None, seed: int) -> Method:
    if hyper is None:
        class_name, text = split_method(name)
        hyper = read_settings(text.split(",") if text else [])
    else:
        class_name = hyper.get("method", name)
    hyper = {key: value for key, value in hyper.items() if key != "method"}
    found = find_class(class_name) if isinstance(class_name, str) else None
    if found is None:
        from cam_extras.pytorch_grad_cam import UPSTREAM, Upstream  # only where asked for: it imports its host

        check_name("method", class_name, {**METHODS, **installed("methods"), **UPSTREAM})
        score = hyper.pop("score", "logit")
        return Upstream(cam=class_name, score=score, hyper=hyper)
    if isinstance(found, Method):
        if hyper:
            raise ValueError(
                f"{class_name} is a method with hyper-parameters of its own: it takes no {', '.join(hyper)}"
            )
        return found
    if any(field.name == "seed" for field in fields(found)):
        hyper = {"seed": seed, **hyper}
    return found.make(hyper)


def _without_source(name: str) -> str:
    """Return what results call a method that is given as FILE.py:NAME: no paths."""
    code, options = split_method(name)
    short = code.rpartition(":")[2]
    return name if short == code else f"{short}:{options}" if options else short


def split_method(text: str) -> tuple[str, str]:
    """Split what is typed for a method into its name, or the code that is named, and its hyper-parameters.

    >>> split_method("OptiCAM:max_iterations=3"), split_method("mine.py:MyCAM"), split_method("OptiCAM:fast")
    (('OptiCAM', 'max_iterations=3'), ('mine.py:MyCAM', ''), ('OptiCAM', 'fast'))
    """
    head, _, tail = text.partition(":")
    return (head, tail) if head in METHODS else split_options(text)


def find_class(name: str) -> type[Method] | Method | None:
    """Return the method of a name: of `METHODS`, of an installed package, or FILE.py:NAME or MODULE:NAME.

    Returns:
        A class, or a method with its hyper-parameters; None where there is none of ours.

    Raises:
        TypeError: what is named is no method.
        ValueError: there is no such file, or nothing of that name in it, or running it failed.
    """
    if name in METHODS:
        return METHODS[name]
    if name in installed("methods"):
        found = load_installed("methods", name)
    elif names_code(name):
        found = load_code(name, "method")
    else:
        return None
    if not isinstance(found, Method) and not (isinstance(found, type) and issubclass(found, Method)):
        raise TypeError(f"{name} must be a cam_extras.methods.Method, its class or an instance; it is {found!r:.80}")
    return found


def read_metrics(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return metrics by their names in `METRICS`: of those given as FILE.py:NAME the file is run, which lists them.

    Raises:
        TypeError: these are no names.
        ValueError: there is no metric of that name, or none is given.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable):
        raise TypeError(f"metrics must be names, in a list; got {given!r:.80}")
    found = tuple(map(_find_metric, given))
    if not found:
        raise ValueError("there is no metric to evaluate: give one or more")
    return found


def _find_metric(name: str) -> str:
    if not isinstance(name, str) or name in METRICS:
        check_name("metric", name, METRICS)
        return name
    if name in installed("metrics"):
        function = load_installed("metrics", name)
    elif names_code(name):
        function = load_code(name, "metric")
    else:
        check_name("metric", name, {**METRICS, **installed("metrics")})
    for listed in (name, getattr(function, "__name__", "")):
        if listed in METRICS and METRICS[listed].function is function:
            return listed
    raise ValueError(f"{name} is in no METRICS: put @metric(...) of cam_extras.metrics.base before the function")


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
