"""The registry: quantities, the metrics that are functions of them, and the graph they form.

Metrics and quantities are functions of the same form. The positional parameters name the quantities or metrics they
need; the keyword-only parameters, each with an annotation and a default, are their options.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature, unwrap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

import torch
from torch import Tensor

from cam_extras._checks import check_finite
from cam_extras._options import check_annotated, expected

if TYPE_CHECKING:
    from cam_extras.metrics.options import Options

Category = Literal["faithfulness", "robustness", "localisation", "complexity", "randomisation", "axiomatic"]
Source = Literal["", "object", "weights"]


@dataclass(frozen=True)
class Option:
    """An option of a metric or quantity, a keyword-only parameter of its function.

    Args:
        name: the parameter's name.
        annotation: which values are allowed, see `cam_extras._options`.
        default: the value if none is given.
    """

    name: str
    annotation: Any
    default: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """What metrics and quantities have in common.

    Args:
        name: its key in `METRICS` or `QUANTITIES`, the name of the function.
        function: pure function of what `needs` names, and of its options.
        needs: names of quantities and metrics.
        declared: the function's own options.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    declared: tuple[Option, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the function's own options; `options_of` adds those of its parts."""
        return tuple(option.name for option in self.declared)


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantity(Entry):
    """What the package knows about a quantity.

    Args:
        source: what it needs besides the model and its maps: "object", "weights" or nothing.
        kept: whether hosts show it beside the scores computed from it.
    """

    source: Source = ""
    kept: bool = False

    @property
    def meaning(self) -> str:
        """What it is, in one line."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True)
class Vector:
    """How a set's scores become one number if each sample has several, shape (N, ...).

    Args:
        dims: number of dimensions of a sample's scores.
        of_mean: computes the value of a set from the mean of its scores over samples, (..., *scores) -> (...).
        of_samples: computes one number per sample of a set, (N, *scores) -> (N,); their mean is the value of the set.
    """

    dims: int
    of_mean: Callable[[Tensor], Tensor]
    of_samples: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class Metric(Entry):
    """What the package knows about a metric. The value of a set is the mean over samples, unless stated otherwise.

    Args:
        title: its name in tables.
        short: its name in narrow tables.
        higher_is_better: whether higher scores are better.
        meaning: one line that says what it measures.
        paper: where it comes from.
        range: the lowest and highest possible score.
        of_means: whether the value of a set is the function of its needs' means, not the mean of scores.
        of_methods: whether it compares methods: for each need its function takes the scores of M methods, shape (M, N),
            and returns scores of the same shape.
        vector: how the value of a set is computed if a sample's score has several numbers.
        category: its category in Quantus; localisation metrics are for images only.
        title_in_quantus: its name in Quantus, if Quantus already has a metric of the same title.
    """

    title: str
    short: str
    higher_is_better: bool
    meaning: str
    paper: str
    range: tuple[float, float] = (0.0, 1.0)
    of_means: bool = False
    of_methods: bool = False
    vector: Vector | None = None
    category: Category = "faithfulness"
    title_in_quantus: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def scale(self) -> int:
        """The factor for scores in reports: 100, for per cent, if the range is bounded above."""
        return 100 if math.isfinite(self.range[1]) else 1

    @property
    def class_name(self) -> str:
        """Its title without spaces and punctuation: the name of its class for Quantus.

        >>> METRICS["insertion_deletion"].class_name
        'InsertionDeletion'
        """
        return class_name(self.title)

    @property
    def Options(self) -> type[Options]:
        """Its options, and those of its parts, as a dataclass.

        >>> METRICS["hci"].Options(threshold=0.7)
        HCIOptions(fill=0.0, threshold=0.7, baseline='fill')
        """
        from cam_extras.metrics.options import options_class  # that module imports this one

        return options_class((self.name,), f"{self.class_name}Options")

    @property
    def parts(self) -> tuple[str, ...]:
        """The metrics whose means over samples give the value of a set: itself, or what it needs."""
        return self.needs if self.of_means else (self.name,)

    def of_averages(self, *means: Tensor) -> Tensor:
        """Return the value of a set, shape (...), from the mean of each of its `parts`, shape (..., *scores)."""
        if self.of_means:
            value: Tensor = self.function(*means)
            return value
        return means[0] if self.vector is None else self.vector.of_mean(means[0])

    def of_set(self, scores: Mapping[str, Tensor | Sequence[Any]]) -> float:
        """Return the value of a set of samples from per-sample scores (N,) by metric name.

        Raises:
            ValueError: there are no samples, or a score is not finite; samples are named.

        >>> METRICS["hci"].of_set({"thresholded_drop": [0.2, 0.6], "thresholded_increase": [0.9, 0.3]})
        0.6
        """
        means = []
        lacking = [name for name in self.parts if name not in scores]
        if lacking:
            raise ValueError(f"{self.name} of a set needs the scores {', '.join(lacking)}; got {', '.join(scores)}")
        for name in self.parts:
            given = scores[name]
            values = (
                given.double() if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64, device="cpu")
            )
            if values.numel() == 0:
                raise ValueError(f"a set without samples has no {name}")
            check_finite(f"the {name}", values)
            means.append(values.mean() if self.vector is None else values.mean(dim=0))
        return self.of_averages(*means).item()


METRICS: dict[str, Metric] = {}
QUANTITIES: dict[str, Quantity] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def metric(
    *,
    title: str,
    short: str,
    higher_is_better: bool,
    meaning: str,
    paper: str,
    range: tuple[float, float] = (0.0, 1.0),
    of_means: bool = False,
    of_methods: bool = False,
    vector: Vector | None = None,
    category: Category = "faithfulness",
    title_in_quantus: str = "",
) -> Callable[[_Function], _Function]:
    """List a function in `METRICS`, where the whole package finds it. The arguments are those of `Metric`.

    Raises:
        ValueError: the name, title or short name is taken; the function needs something unknown; or an option has no
            annotation or default, or differs from another function's option of the same name. To redefine your own
            metric, remove the old one first: `METRICS.pop(name)`.
    """

    def register(function: _Function) -> _Function:
        entry = Metric(
            **_read(function),
            title=title,
            short=short,
            higher_is_better=higher_is_better,
            meaning=meaning,
            paper=paper,
            range=range,
            of_means=of_means,
            of_methods=of_methods,
            vector=vector,
            category=category,
            title_in_quantus=title_in_quantus,
        )
        try:
            check_annotated("category", category, Category)
            _check_titles(entry)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the metric {entry.name!r}: {error}") from error
        if of_means and (other := [need for need in entry.needs if need not in METRICS]):
            raise ValueError(
                f"the metric {entry.name!r} is to be a function of means, and {', '.join(other)} has no mean: "
                "of_means=True goes with a function of other metrics"
            )
        METRICS[entry.name] = entry
        return function

    return register


def quantity(*, source: Source = "", kept: bool = False) -> Callable[[_Function], _Function]:
    """List a function in `QUANTITIES`, for metrics to use. The arguments are those of `Quantity`.

    A leading underscore is dropped from the name: `_insertion_curve`, next to a function `insertion_curve`.

    Raises:
        ValueError: as for `metric`.
    """

    def register(function: _Function) -> _Function:
        entry = Quantity(**_read(function), source=source, kept=kept)
        QUANTITIES[entry.name] = entry
        return function

    return register


def class_name(title: str) -> str:
    """Return a title as a class name: without spaces and punctuation.

    >>> class_name("Increase in Confidence")
    'IncreaseInConfidence'
    """
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"\w+", title))


def _read(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the fields of an `Entry` from a function, or raise ValueError if it does not qualify."""
    name = function.__name__.lstrip("_")
    _check_new(name)
    parameters = signature(function).parameters.values()
    if several := [str(p) for p in parameters if p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]:
        raise ValueError(f"{name!r} has the parameter {several[0]}: name each quantity and option that it takes")
    needs = tuple(p.name for p in parameters if p.kind != Parameter.KEYWORD_ONLY)
    for need in needs:
        if need not in METRICS and need not in QUANTITIES:
            close = difflib.get_close_matches(need, [*QUANTITIES, *METRICS], n=3, cutoff=0.5)
            meant = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(QUANTITIES)}"
            raise ValueError(
                f"{name!r} needs {need!r}, and there is no quantity or metric of that name: {meant} Options go "
                "after a *, as keyword arguments"
            )
    declared = _declared(name, function, [p for p in parameters if p.kind == Parameter.KEYWORD_ONLY])
    return {"name": name, "function": function, "needs": needs, "declared": declared}


def _check_new(name: str) -> None:
    """Raise ValueError for an existing name: scores computed from it would change silently."""
    for kind, registry in (("METRICS", METRICS), ("QUANTITIES", QUANTITIES)):
        if name in registry:
            raise ValueError(
                f"there is a {name!r} in {kind} already: choose another name, or take that out by {kind}.pop({name!r})"
            )


def _declared(name: str, function: Callable[..., Any], parameters: Sequence[Parameter]) -> tuple[Option, ...]:
    for parameter in parameters:
        lacking = [what for what in ("annotation", "default") if getattr(parameter, what) is Parameter.empty]
        if lacking:
            raise ValueError(
                f"the option {parameter.name!r} of {name!r} has no {' and no '.join(lacking)}: write it as "
                f"{parameter.name}: float = 0.5"
            )
    # Only those of options: annotations of positional parameters may not be defined when this runs.
    annotations = SimpleNamespace(__annotations__={p.name: p.annotation for p in parameters})
    try:
        hints = get_type_hints(annotations, getattr(unwrap(function), "__globals__", {}), include_extras=True)
    except NameError as error:
        raise ValueError(f"an annotation of {name!r} cannot be read: {error}") from error
    options = tuple(Option(p.name, hints[p.name], p.default) for p in parameters)
    for option in options:
        try:
            check_annotated(option.name, option.default, option.annotation)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the default of an option of {name!r} does not fit its annotation: {error}") from error
        for other in (*QUANTITIES.values(), *METRICS.values()):
            for known in other.declared:
                if known.name == option.name and not _same(known, option):
                    raise ValueError(
                        f"the option {option.name!r} of {name!r} is not that of {other.name!r}, which is "
                        f"{expected(known.annotation)}, by default {known.default!r}: options of one name are one "
                        "option; give it the same annotation and default, or another name"
                    )
    return options


def _same(a: Option, b: Option) -> bool:
    if a.annotation != b.annotation:
        return False
    if isinstance(a.default, Tensor) or isinstance(b.default, Tensor):
        return a.default is b.default
    return type(a.default) is type(b.default) and bool(a.default == b.default)


def _check_titles(entry: Metric) -> None:
    """Raise ValueError if a title or short name is ambiguous, in tables or for users."""
    if not entry.class_name.isidentifier():
        raise ValueError(f"the title {entry.title!r} must begin with a letter: a class is named after it")
    for other in METRICS.values():
        for what, ours, theirs in (
            ("title", entry.class_name, other.class_name),
            ("short name", entry.short, other.short),
            ("short name", entry.short, other.name),
            ("name", entry.name, other.short),
        ):
            if ours.casefold() == theirs.casefold():
                raise ValueError(f"the {what} {ours!r} is taken by {other.name!r}: choose another")


def made_of(name: str) -> Iterator[Entry]:
    """Yield everything that a metric or quantity is computed from, each before what needs it, and itself last."""
    seen: dict[str, Entry] = {}

    def visit(name: str) -> None:
        if name not in seen:
            entry = METRICS[name] if name in METRICS else QUANTITIES[name]
            for need in entry.needs:
                visit(need)
            seen[name] = entry

    visit(name)
    yield from seen.values()


def declared_options(metrics: Iterable[str]) -> dict[str, Option]:
    """Return the options, by name, of metrics and of everything they are computed from."""
    return {option.name: option for name in metrics for entry in made_of(name) for option in entry.declared}


def quantities_of(metric: str) -> list[str]:
    """Return the names of the quantities that a metric, or the metrics it needs, are computed from.

    >>> quantities_of("hci")
    ['p', 'o_t', 'b']
    """
    needs = METRICS[metric].needs
    found = [name for need in needs for name in ([need] if need in QUANTITIES else quantities_of(need))]
    return list(dict.fromkeys(found))


def options_of(metric: str) -> list[str]:
    """Return the names of the options that a metric depends on: its own and those of its parts.

    >>> options_of("hci")
    ['fill', 'threshold', 'baseline']
    """
    return list(declared_options([metric]))


def sources_of(metric: str) -> set[str]:
    """Return what a metric needs besides the model and its maps: "object", "weights", both or nothing.

    >>> sources_of("pointing_game"), sources_of("average_drop")
    ({'object'}, set())
    """
    return {entry.source for entry in made_of(metric) if isinstance(entry, Quantity) and entry.source}


def kept_of(metric: str) -> tuple[str, ...]:
    """Return the names of the quantities that hosts show beside a metric's scores.

    >>> kept_of("insertion")
    ('insertion_curve',)
    """
    return tuple(name for name in quantities_of(metric) if QUANTITIES[name].kept)


def with_parts(metrics: Iterable[str]) -> list[str]:
    """Return the names of metrics and of the metrics they need, except those that compare methods.

    >>> with_parts(["hci"]), with_parts(["win_percentage"])
    (['hci', 'thresholded_drop', 'thresholded_increase'], ['average_drop'])
    """
    names = list(metrics)
    parts = [need for name in names for need in METRICS[name].needs if need in METRICS]
    return [name for name in dict.fromkeys([*names, *parts]) if not METRICS[name].of_methods]


def harmonic_mean(*parts: Tensor) -> Tensor:
    """Harmonic mean of parts in [0, 1], or 0 if any of them is 0.

    >>> harmonic_mean(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 1.0]))
    tensor([1.0000, 0.3333, 0.0000])
    """
    stacked = torch.stack(parts)
    positive = (stacked > 0).all(dim=0)
    inverse = 1 / torch.where(positive, stacked, 1)
    return torch.where(positive, len(parts) / inverse.sum(dim=0), 0)
