"""What metrics are functions of: confidences of masked inputs, curves, channel weights and where the object is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cam_extras._checks import (
    check_choice,
    check_count,
    check_fill,
    check_name,
    check_number,
    check_pixels,
    check_seed,
    check_unit_range,
)
from cam_extras.maps import broadcast_to, mask
from cam_extras.metrics.base import METRICS, QUANTITIES, check_new
from cam_extras.metrics.counterfactual import counterfactual
from cam_extras.metrics.hci import threshold_mask
from cam_extras.metrics.insertion_and_deletion import (
    PRESETS,
    Curve,
    Schedule,
    deletion_curve,
    insertion_curve,
)
from cam_extras.metrics.localisation import TIES, box_mask, component_boxes
from cam_extras.utilities import select_class

BASELINES = ("black", "complement")


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricOptions:
    """The options of all metrics; `options_of` tells which a metric has.

    Args:
        fill: what stands where a map is 0, in the values that the model sees: a number, or a tensor that broadcasts to
            the input; see `cam_extras.maps.mask`.
        threshold: of thresholded drop, thresholded increase and HCI, in [0, 1]. The paper has 0.5 and 0.7.
        baseline: of thresholded increase and HCI: "black", an image of nothing but the `fill`, as the paper has it, or
            "complement", the pixels where the map is 0, as its authors' code has it.
        schedule: of insertion and deletion: a key of `PRESETS` or a `Schedule`.
        internal_batch_size: of insertion and deletion, most images in a forward pass, see `insertion_curve`.
        ties: of the pointing game: "first" or "any".
        delta: of the counterfactual, what is added to pixels.
        fraction: of the counterfactual, the share of pixels that it is added to.
        seed: of the counterfactual, which pixels those are.
        most_important: of counterfactual sensitivity, how many of the most important channels count; None for all.

    Raises:
        TypeError: a count or seed is no integer, another option no number, or the fill no number or tensor.
        ValueError: an option is out of its range.
    """

    fill: float | Tensor = 0.0
    threshold: float = 0.5
    baseline: str = "black"
    schedule: str | Schedule = "rise"
    internal_batch_size: int | None = None
    ties: str = "first"
    delta: float = 0.1
    fraction: float = 0.5
    seed: int = 0
    most_important: int | None = None

    def __post_init__(self) -> None:
        check_fill(self.fill)
        for name in ("threshold", "delta", "fraction"):
            check_number(name, getattr(self, name))
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold must lie in [0, 1], as maps do; got {self.threshold}")
        check_choice("baseline", self.baseline, BASELINES)
        if not isinstance(self.schedule, Schedule):
            check_name("schedule", self.schedule, PRESETS)
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)
        check_choice("ties", self.ties, TIES)
        if not 0 < abs(self.delta) < math.inf:
            raise ValueError(f"delta must be a number other than 0; got {self.delta}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1]; got {self.fraction}")
        check_seed(self.seed)
        if self.most_important is not None:
            check_count("most_important", self.most_important)


class Explained(ABC):
    """A batch with its explanation by one method, as a host gives them to `Quantities`.

    Attributes:
        x: the batch, shape (N, C, *S).
        target: the class explained, shape (N,).
    """

    x: Tensor
    target: Tensor

    @property
    @abstractmethod
    def probabilities(self) -> Tensor:
        """Softmax probabilities of all classes for x, shape (N, classes)."""

    @property
    @abstractmethod
    def maps(self) -> Tensor:
        """H, shape (N, *S), in [0, 1]."""

    @property
    @abstractmethod
    def channel_weights(self) -> Tensor:
        """The weights that the method gives to the layer's channels, shape (N, K)."""

    @abstractmethod
    def at(self, x: Tensor) -> Explained:
        """Explain another batch in the same way, for the same classes."""

    @abstractmethod
    def probabilities_of(self, images: Tensor) -> Tensor:
        """Softmax probabilities (M, classes) of any number of images (M, C, *S)."""

    def probabilities_of_nothing(self, image: Tensor) -> Tensor:
        """Softmax probabilities of images that show nothing, the same for every method."""
        return self.probabilities_of(image)


class Quantities:
    """What metrics are functions of, for one method and one batch; each is computed when first asked for.

    See `QUANTITIES` for the names of all.

    Args:
        explained: the batch and its explanation.
        options: of the metrics.
        boxes: where the object is, for each sample (B, 4), see `cam_extras.metrics.localisation`.
        masks: the same as boolean masks, shape (N, H, W). One of the two can stand for the other: the mask of boxes is
            their union, the boxes of a mask are those around its connected components. Where both are given, each
            metric takes what its formula has, and nothing checks that the two agree.

    Raises:
        ValueError: the input has no pixels; a map leaves [0, 1] or is not finite, samples are named; maps have another
            size than the input; or there are not boxes for every sample.
    """

    def __init__(
        self,
        explained: Explained,
        options: MetricOptions | None = None,
        *,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
    ):
        check_pixels(explained.x.shape)
        check_unit_range("the map", explained.maps)
        expected = (len(explained.x), *explained.x.shape[2:])
        if explained.maps.shape != expected:
            raise ValueError(
                f"expected maps of shape {expected} for an input of shape {tuple(explained.x.shape)}; "
                f"got {tuple(explained.maps.shape)}"
            )
        if boxes is not None and len(boxes) != len(explained.x):
            raise ValueError(
                f"expected boxes for {len(explained.x)} samples, one tensor (B, 4) for each; got {len(boxes)}"
            )
        self.explained = explained
        self.options = options or MetricOptions()
        given = {"boxes": boxes, "masks": masks}
        self._known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        """Return a quantity or the scores of a metric, by name."""
        if name not in self._known:
            if name in QUANTITIES:
                self._known[name] = QUANTITIES[name].function(self)
            else:
                metric = METRICS[name]
                options = {option: getattr(self.options, option) for option in metric.options}
                self._known[name] = metric.function(*(self[need] for need in metric.needs), **options)
        return self._known[name]

    def scores(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the scores (N,) of the named metrics and of those they are made of."""
        names = list(names)
        for name in names:
            check_name("metric", name, METRICS)
        parts = [need for name in names for need in METRICS[name].needs if need in METRICS]
        return {name: self[name] for name in dict.fromkeys([*names, *parts])}

    def known(self, *names: str) -> dict[str, Any]:
        """Return those of the named quantities that have been computed."""
        return {name: self._known[name] for name in names if name in self._known}

    def confidence(self, images: Tensor, samples: Tensor | None = None) -> Tensor:
        """f_c of images: of one for each sample, or for each of `samples`, their positions in the batch."""
        target = self.explained.target if samples is None else self.explained.target[samples]
        return select_class(self.explained.probabilities_of(images), target)


@dataclass(frozen=True)
class Quantity:
    """What the package knows of a quantity.

    Args:
        function: computes it from other quantities.
        options: fields of `MetricOptions` that it depends on.
        source: what it takes besides the model and its maps: "object", "weights" or nothing.
    """

    function: Callable[[Quantities], Any]
    options: tuple[str, ...]
    source: str


def _quantity(*options: str, source: str = "") -> Callable[[Callable[[Quantities], Any]], Callable[[Quantities], Any]]:
    def register(function: Callable[[Quantities], Any]) -> Callable[[Quantities], Any]:
        name = function.__name__.strip("_")
        check_new(name)
        QUANTITIES[name] = Quantity(function, options, source)
        return function

    return register


@_quantity()
def _x(q: Quantities) -> Tensor:
    """The batch, shape (N, C, *S)."""
    return q.explained.x


@_quantity()
def _maps(q: Quantities) -> Tensor:
    """H, shape (N, *S), in [0, 1]."""
    return q.explained.maps


@_quantity()
def _confidence(q: Quantities) -> Callable[[Tensor], Tensor]:
    """The function f_c itself, images (N, C, *S) -> (N,)."""
    return q.confidence


@_quantity()
def _p(q: Quantities) -> Tensor:
    """f_c(x): confidence in the class explained, shape (N,)."""
    return select_class(q.explained.probabilities, q.explained.target)


@_quantity("fill")
def _masked(q: Quantities) -> Explained:
    """x*H and its explanation: one forward pass for `o` and `masked_maps`."""
    return q.explained.at(mask(q["x"], q["maps"], q.options.fill))


@_quantity("fill")
def _o(q: Quantities) -> Tensor:
    """f_c(x*H): confidence when only what the map shows is kept, shape (N,)."""
    return select_class(q["masked"].probabilities, q.explained.target)


@_quantity("fill")
def _masked_maps(q: Quantities) -> Tensor:
    """The method's maps of x*H for the same class, shape (N, *S)."""
    return q["masked"].maps


@_quantity("fill")
def _d(q: Quantities) -> Tensor:
    """f_c(x*(1-H)): confidence when what the map shows is taken away, shape (N,)."""
    return q.confidence(mask(q["x"], 1 - q["maps"], q.options.fill))


@_quantity("fill", "threshold")
def _o_t(q: Quantities) -> Tensor:
    """f_c(x where H >= t): confidence when only the pixels above a threshold are kept, shape (N,)."""
    return q.confidence(threshold_mask(q["x"], q["maps"], q.options.threshold, q.options.fill))


@_quantity("fill", "baseline")
def _b(q: Quantities) -> Tensor:
    """f_c(baseline): confidence for nothing but the fill, or for x where H = 0, shape (N,)."""
    x, fill = q["x"], q.options.fill
    if q.options.baseline == "complement":
        return q.confidence(mask(x, (q["maps"] == 0).to(q["maps"].dtype), fill))
    differs = isinstance(fill, Tensor) and fill.ndim == x.ndim and len(fill) > 1
    nothing = broadcast_to("fill", fill, x if differs else x[:1])  # one image for all samples wherever it is the same
    probabilities = q.explained.probabilities_of_nothing(nothing)
    return select_class(probabilities.expand(len(x), -1), q.explained.target)


@_quantity("schedule", "internal_batch_size")
def _insertion_curve(q: Quantities) -> Curve:
    """f_c while the map's highest pixels are inserted."""
    schedule, rows = q.options.schedule, q.options.internal_batch_size
    return insertion_curve(q.confidence, q["x"], q["maps"], schedule, internal_batch_size=rows)


@_quantity("schedule", "internal_batch_size")
def _deletion_curve(q: Quantities) -> Curve:
    """f_c while the map's highest pixels are deleted."""
    schedule, rows = q.options.schedule, q.options.internal_batch_size
    return deletion_curve(q.confidence, q["x"], q["maps"], schedule, internal_batch_size=rows)


@_quantity(source="weights")
def _weights(q: Quantities) -> Tensor:
    """The method's channel weights for x, shape (N, K)."""
    return q.explained.channel_weights


@_quantity("delta", "fraction", "seed", source="weights")
def _counterfactual_weights(q: Quantities) -> Tensor:
    """The method's channel weights for the counterfactual of x, shape (N, K)."""
    changed = counterfactual(q["x"], q.options.delta, q.options.fraction, q.options.seed)
    return q.explained.at(changed).channel_weights


@_quantity(source="object")
def _boxes(q: Quantities) -> list[Tensor]:
    """Where the object is: for each sample boxes (B, 4)."""
    return component_boxes(_given(q, "masks"))


@_quantity(source="object")
def _masks(q: Quantities) -> Tensor:
    """Where the object is: boolean masks (N, H, W)."""
    boxes, size = _given(q, "boxes"), tuple(q["maps"].shape[1:])
    if len(size) != 2:
        raise ValueError(f"boxes need maps of shape (N, H, W); got {tuple(q['maps'].shape)}")
    return box_mask(boxes, size)


@_quantity(source="object")
def _correct(q: Quantities) -> Tensor:
    """Whether the class explained is the one predicted, shape (N,)."""
    return q.explained.probabilities.argmax(dim=1) == q.explained.target


def _given(q: Quantities, name: str) -> Any:
    if name not in q._known:
        raise ValueError("this metric needs to know where the object is: give boxes or masks")
    return q._known[name]


def quantities_of(metric: str) -> list[str]:
    """Return the names of all quantities that a metric is made of."""
    needs = METRICS[metric].needs
    found = [name for need in needs for name in ([need] if need in QUANTITIES else quantities_of(need))]
    return list(dict.fromkeys(found))


def options_of(metric: str) -> list[str]:
    """Return the fields of `MetricOptions` that a metric depends on.

    >>> options_of("hci")
    ['fill', 'threshold', 'baseline']
    """
    needs = METRICS[metric].needs
    found = [name for need in needs for name in (options_of(need) if need in METRICS else QUANTITIES[need].options)]
    return list(dict.fromkeys([*found, *METRICS[metric].options]))


def sources_of(metric: str) -> set[str]:
    """Return what a metric takes besides the model and its maps: "object", "weights", both or nothing.

    >>> sources_of("pointing_game"), sources_of("average_drop")
    ({'object'}, set())
    """
    return {QUANTITIES[name].source for name in quantities_of(metric)} - {""}
