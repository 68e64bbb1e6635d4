"""The options of metrics: a dataclass for each, made from the functions' declarations, and `as_options`."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin

from torch import Tensor

from cam_extras._checks import stacklevel_of_the_caller
from cam_extras._options import bare, check_fields, expected, hints_of, meaning_of
from cam_extras.metrics.base import METRICS, declared_options

Fill = Annotated[
    float | Tensor,
    "value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the input, such as "
    "cam_extras.maps.black(mean, std)",
]
Seed = Annotated[int, "seed for random numbers"]


@dataclasses.dataclass(frozen=True)
class Renamed:
    """In an option's annotation: values that were renamed; old names still work, with a DeprecationWarning.

    Args:
        values: new names by old ones.
    """

    values: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))

    def current(self, name: str, value: Any) -> Any:
        """Return the value under its current name."""
        if not isinstance(value, str) or value not in self.values:
            return value
        now = self.values[value]
        warnings.warn(
            f"{name}={value!r} is called {now!r} now: the old name will go with the next release",
            DeprecationWarning,
            stacklevel=stacklevel_of_the_caller(),
        )
        return now


class Options:
    """Options of metrics, immutable: base of `METRICS["hci"].Options` and of what `as_options` returns.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is not one of its choices, or out of range.
    """

    _made_for: tuple[tuple[str, ...], str] = ((), "")

    def __post_init__(self) -> None:
        for name, annotation in hints_of(type(self)).items():
            for renamed in get_args(annotation):
                if isinstance(renamed, Renamed):
                    object.__setattr__(self, name, renamed.current(name, getattr(self, name)))
        check_fields(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the metrics' names: the class is made again on loading."""
        return _restored, (*self._made_for, _values(self))

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]

        def __getattr__(self, name: str) -> Any: ...


def _restored(metrics: tuple[str, ...], name: str, values: Mapping[str, Any]) -> Options:
    return options_class(metrics, name)(**values)


def _values(options: Any) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.init}


_classes: dict[tuple[Any, ...], type[Options]] = {}


def options_class(metrics: Iterable[str], name: str = "Options") -> type[Options]:
    """Return the dataclass of all options of metrics; the same metrics give the same class."""
    of_metrics = tuple(metrics)
    declared = declared_options(of_metrics)
    key = (of_metrics, name, *(id(option) for option in declared.values()))  # a metric may be removed and redefined
    if key not in _classes:
        lines = "".join(f"\n        {line}" for line in option_lines(of_metrics)) or " none."
        cls = dataclasses.make_dataclass(
            name,
            [
                (option.name, option.annotation, dataclasses.field(default=option.default))
                for option in declared.values()
            ],
            bases=(Options,),
            namespace={
                "_made_for": (of_metrics, name),
                "_declared": tuple(declared.values()),  # kept alive, so that no other option gets the same id
                "__module__": __name__,
                "__doc__": f"The options of {', '.join(of_metrics)}.\n\n    Args:{lines}\n    ",
            },
            frozen=True,
            kw_only=True,
            eq=False,
        )
        _classes[key] = cls
    return _classes[key]


def option_lines(metrics: Iterable[str]) -> list[str]:
    """Return a line of documentation for each of the metrics' options.

    >>> option_lines(["insertion"])[1]
    'internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.'
    """
    return [
        f"{option.name}: {meaning_of(option.annotation) or expected(option.annotation)}. By default "
        f"{brief(option.default)}."
        for option in declared_options(metrics).values()
    ]


def brief(value: Any) -> str:
    """Return a default as text; long sequences are shortened."""
    text = repr(value)
    if len(text) > 40 and isinstance(value, tuple | list):
        return f"({', '.join(map(repr, value[:3]))}, ..., {value[-1]!r})"
    return text


def as_options(given: Any, metrics: Iterable[str], *, seed: int = 0) -> Options:
    """Return all options of metrics: the given values, checked, and defaults for the others.

    Args:
        given: a mapping of names to values, an options dataclass of any metric, or None. For an option that is a
            dataclass, a mapping works too: `{"schedule": {"step": 0.05}}`. Options that none of these metrics uses are
            checked, then dropped.
        metrics: keys of `METRICS`.
        seed: for metrics that draw random numbers, if `given` has none.

    Returns:
        A frozen dataclass with the options as attributes.

    Raises:
        TypeError: an option has the wrong type, or `given` is neither a mapping nor a dataclass.
        ValueError: no metric has such an option; or one is not one of its choices, or out of range.

    >>> as_options({"threshold": 0.7}, ["hci"])
    Options(fill=0.0, threshold=0.7, baseline='fill')
    """
    of_metrics = tuple(metrics)
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        named = _values(given)
    elif given is None or isinstance(given, Mapping):
        named = dict(given or {})
    else:
        raise TypeError(
            'options must be a mapping, {"threshold": 0.7}, or a dataclass such as METRICS["hci"].Options(); '
            f"got {given!r:.80}"
        )
    declared, known = declared_options(of_metrics), declared_options(METRICS)
    if unknown := [name for name in named if name not in known]:
        raise ValueError(f"there is no option of metrics {unknown[0]!r:.80}: {_nearest(unknown[0], known)}")
    named = {name: _read(value, known[name].annotation) for name, value in named.items()}
    checked = options_class(METRICS)(**named)  # including options that no metric here uses
    values = {name: getattr(checked, name) for name in named if name in declared}
    if "seed" in declared:
        values.setdefault("seed", seed)
    return options_class(of_metrics)(**values)


def _read(value: Any, annotation: Any) -> Any:
    """Convert a mapping to the annotation's dataclass, and an array to a list if the annotation is a sequence."""
    if get_origin(bare(annotation)) is Sequence and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        for part in get_args(bare(annotation)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                return part(**value)
    return value


def _having(option: str) -> list[str]:
    return [name for name in METRICS if option in declared_options([name])]


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name)[:80], known, n=3, cutoff=0.5)
    if not close:
        return f"there are {', '.join(known)}"
    return "did you mean " + " or ".join(f"{one} (of {', '.join(_having(one))})" for one in close) + "?"


def MetricOptions(**given: Any) -> Options:
    """Return the options of all metrics. Deprecated: give a mapping, or `METRICS["hci"].Options(...)`.

    Raises:
        TypeError: see `Options`; or no metric has such an option.
        ValueError: see `Options`.
    """
    warnings.warn(
        "MetricOptions will go with the next release: give options as a mapping, {'threshold': 0.7}, or as those of a "
        "metric, METRICS['hci'].Options(threshold=0.7)",
        DeprecationWarning,
        stacklevel=stacklevel_of_the_caller(),
    )
    return options_class(METRICS, "MetricOptions")(**given)
