"""The contract of a metric: a pure function of per-sample quantities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from cam_extras._checks import check_finite

if TYPE_CHECKING:
    from cam_extras.metrics.quantities import Quantity


@dataclass(frozen=True)
class Metric:
    """What the package knows of a metric.

    Args:
        name: its key in `METRICS`, the name of the function.
        title: its name in tables.
        short: its name in narrow tables.
        function: pure function of the quantities in `needs` to scores (N,).
        needs: names of quantities, keys of `cam_extras.metrics.QUANTITIES`, or of other metrics.
        options: names of the function's own options, fields of `cam_extras.metrics.MetricOptions`.
        higher_is_better: the direction.
        meaning: one line that says what it measures.
        paper: where it comes from.
        range: the least and the greatest score there can be.
        of_means: whether the value of a set is the function of the means of what it needs, not the mean of scores.
    """

    name: str
    title: str
    short: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    options: tuple[str, ...]
    higher_is_better: bool
    meaning: str
    paper: str
    range: tuple[float, float] = (0.0, 1.0)
    of_means: bool = False

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def scale(self) -> int:
        """What reports multiply a score by: 100, for per cent, where it has a greatest value."""
        return 100 if math.isfinite(self.range[1]) else 1

    def of_set(self, scores: Mapping[str, Tensor | Sequence[float]]) -> float:
        """Return the value of a set of samples from per-sample scores (N,) by name of metric.

        Raises:
            ValueError: there is no sample, or a score is not finite; samples are named.

        >>> METRICS["hci"].of_set({"thresholded_drop": [0.2, 0.6], "thresholded_increase": [0.9, 0.3]})
        0.6
        """
        means = []
        names = self.needs if self.of_means else (self.name,)
        lacking = [name for name in names if name not in scores]
        if lacking:
            raise ValueError(f"{self.name} of a set needs the scores {', '.join(lacking)}; got {', '.join(scores)}")
        for name in names:
            given = scores[name]
            values = (
                given.double() if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64, device="cpu")
            )
            if values.numel() == 0:
                raise ValueError(f"a set without samples has no {name}")
            check_finite(f"the {name}", values)
            means.append(values.mean())
        return (self.function(*means) if self.of_means else means[0]).item()


METRICS: dict[str, Metric] = {}
QUANTITIES: dict[str, Quantity] = {}

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def metric(**known: Any) -> Callable[[_Function], _Function]:
    """List a function in `METRICS`: its positional parameters name what it needs, those by keyword its options.

    Raises:
        ValueError: there is a metric or a quantity of that name. To define one of your own anew, take the old one out,
            `METRICS.pop(name)`.
    """

    def register(function: _Function) -> _Function:
        check_new(function.__name__)
        parameters = signature(function).parameters.values()
        needs = tuple(p.name for p in parameters if p.kind != p.KEYWORD_ONLY)
        options = tuple(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)
        METRICS[function.__name__] = Metric(
            name=function.__name__, function=function, needs=needs, options=options, **known
        )
        return function

    return register


def check_new(name: str) -> None:
    """Raise ValueError for the name of a metric or a quantity: scores that are made of it would change in silence."""
    for kind, registry in (("METRICS", METRICS), ("QUANTITIES", QUANTITIES)):
        if name in registry:
            raise ValueError(
                f"there is a {name!r} in {kind} already: choose another name, or take that out by {kind}.pop({name!r})"
            )


def harmonic_mean(*parts: Tensor) -> Tensor:
    """Harmonic mean of parts in [0, 1], and 0 where any of them is 0.

    >>> harmonic_mean(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 1.0]))
    tensor([1.0000, 0.3333, 0.0000])
    """
    stacked = torch.stack(parts)
    positive = (stacked > 0).all(dim=0)
    inverse = 1 / torch.where(positive, stacked, 1)
    return torch.where(positive, len(parts) / inverse.sum(dim=0), 0)
