"""The contract of a metric: pure functions of per-sample quantities, and what computes those quantities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor

from cam_extras._checks import check_name, check_unit_range
from cam_extras.maps import mask


@dataclass(frozen=True)
class Metric:
    """What the package knows of a metric.

    Args:
        name: its key in `METRICS`, the name of the function.
        title: its name in tables.
        short: its name in narrow tables.
        function: pure function of the quantities in `needs`, each of shape (N,) or (N, *S), to scores (N,).
        needs: names of quantities (see `Quantities`) or of other metrics.
        higher_is_better: the direction.
        meaning: one line that says what it measures.
        paper: where it comes from.
        of_means: whether the value of a set is the function of the means of what it needs, not the mean of scores.
    """

    name: str
    title: str
    short: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    higher_is_better: bool
    meaning: str
    paper: str
    of_means: bool = False

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"

    def of_set(self, scores: Mapping[str, Tensor]) -> float:
        """Return the value of a set of samples from per-sample scores (N,) by name, as `Quantities.scores` gives."""
        if self.of_means:
            return self.function(*(scores[need].double().mean() for need in self.needs)).item()
        return scores[self.name].double().mean().item()


METRICS: dict[str, Metric] = {}

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def metric(**known: Any) -> Callable[[_Function], _Function]:
    """List a function in `METRICS`; what it needs are the names of its positional parameters."""

    def register(function: _Function) -> _Function:
        needs = tuple(p.name for p in signature(function).parameters.values() if p.kind != p.KEYWORD_ONLY)
        METRICS[function.__name__] = Metric(name=function.__name__, function=function, needs=needs, **known)
        return function

    return register


class Quantities:
    """What metrics are functions of, for one method and one batch; each is computed when first asked for.

    ===============  ======================================================================================
    `p`              f_c(x): confidence in the class c, shape (N,)
    `o`              f_c(x*H): confidence when only what the map shows is kept
    `d`              f_c(x*(1-H)): confidence when what the map shows is taken away
    `maps`           H, shape (N, *S), in [0, 1]
    `masked_maps`    the method's maps of x*H for the same class
    ===============  ======================================================================================

    Args:
        x: the batch, shape (N, C, *S).
        maps: H.
        confidence: input -> f_c (N,), softmax probability of the class explained.
        explain: input -> maps of the same class.
        fill: what stands where the map is 0; see `cam_extras.maps.mask`.

    Raises:
        ValueError: a map leaves [0, 1] or is not finite; samples are named.
    """

    def __init__(
        self,
        x: Tensor,
        maps: Tensor,
        confidence: Callable[[Tensor], Tensor],
        explain: Callable[[Tensor], Tensor],
        fill: float | Tensor = 0.0,
    ):
        check_unit_range("the map", maps)
        self._known: dict[str, Tensor] = {"maps": maps}
        self._rules: dict[str, Callable[[], Tensor]] = {
            "p": lambda: confidence(x),
            "x*H": lambda: mask(x, maps, fill),
            "o": lambda: confidence(self["x*H"]),
            "d": lambda: confidence(mask(x, 1 - maps, fill)),
            "masked_maps": lambda: explain(self["x*H"]),
        }

    def __getitem__(self, name: str) -> Tensor:
        """Return a quantity or the scores of a metric, by name."""
        if name not in self._known:
            if name in self._rules:
                self._known[name] = self._rules[name]()
            else:
                metric = METRICS[name]
                self._known[name] = metric.function(*(self[need] for need in metric.needs))
        return self._known[name]

    def scores(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the scores (N,) of the named metrics and of those they are made of."""
        names = list(names)
        for name in names:
            check_name("metric", name, METRICS)
        parts = [need for name in names for need in METRICS[name].needs if need in METRICS]
        return {name: self[name] for name in dict.fromkeys([*names, *parts])}


def harmonic_mean(*parts: Tensor) -> Tensor:
    """Harmonic mean of parts in [0, 1], and 0 where any of them is 0.

    >>> harmonic_mean(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 1.0]))
    tensor([1.0000, 0.3333, 0.0000])
    """
    stacked = torch.stack(parts)
    positive = (stacked > 0).all(dim=0)
    inverse = 1 / torch.where(positive, stacked, 1)
    return torch.where(positive, len(parts) / inverse.sum(dim=0), 0)
