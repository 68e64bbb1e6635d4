"""`Explained`, which hosts provide, and the quantities that all families share; each is computed on demand.

Quantities of a single family are in its file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from cam_extras._checks import check_name, check_pixels, check_unit_range
from cam_extras._deprecated import names_of
from cam_extras._outputs import one_for_all
from cam_extras.maps import mask
from cam_extras.metrics.base import METRICS, QUANTITIES, quantity, with_parts
from cam_extras.metrics.options import Fill, Options, as_options
from cam_extras.utilities import select_class

__getattr__ = names_of(
    __name__,
    {name: f"cam_extras.metrics.{name}" for name in ("MetricOptions", "options_of", "quantities_of", "sources_of")},
)


class Explained(ABC):
    """A batch with its explanation by one method, as hosts pass it to `Quantities`.

    Attributes:
        x: the batch, shape (N, C, *S).
        target: the class explained, shape (N,).
        of_frames: whether the model returns one output for the whole batch, as for the frames of a video.
    """

    x: Tensor
    target: Tensor
    of_frames: bool = False

    @property
    @abstractmethod
    def probabilities(self) -> Tensor:
        """Probabilities of all classes for x, shape (N, classes)."""

    @property
    @abstractmethod
    def maps(self) -> Tensor:
        """H, shape (N, *S), in [0, 1]."""

    @property
    @abstractmethod
    def channel_weights(self) -> Tensor:
        """The method's weights for the layer's channels, shape (N, K)."""

    @abstractmethod
    def at(self, x: Tensor) -> Explained:
        """Explain another batch in the same way, for the same classes."""

    @abstractmethod
    def probabilities_of(self, images: Tensor) -> Tensor:
        """Probabilities (M, classes) of any number of images (M, C, *S)."""

    def probabilities_of_samples(self, images: Tensor, samples: Tensor) -> Tensor:
        """The same for images made from certain samples, whose positions in the batch are `samples` (M,)."""
        return self.probabilities_of(images)

    def probabilities_of_nothing(self, image: Tensor) -> Tensor:
        """Probabilities of empty images, the same for every method."""
        return self.probabilities_of(image)


class Quantities:
    """The quantities that metrics need, for one method and one batch; each is computed on first use.

    See `QUANTITIES` for all names.

    Args:
        explained: the batch and its explanation.
        options: options of the metrics, see `cam_extras.metrics.as_options`.
        boxes: the object's boxes, (B, 4) for each sample, see `cam_extras.metrics.localisation`.
        masks: the object's boolean masks, shape (N, H, W). Either can replace the other: the mask of boxes is their
            union, the boxes of a mask are those around its connected components. If both are given, each metric uses
            the one in its formula, and nothing checks that they agree.

    Raises:
        ValueError: the input has no pixels; a map leaves [0, 1] or is not finite (samples are named); maps and input
            differ in size; or there are not boxes for every sample.
    """

    def __init__(
        self,
        explained: Explained,
        options: Any = None,
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
        self.options = options if isinstance(options, Options) else as_options(options, METRICS)
        self._known: dict[str, Any] = {"explained": explained, "given_boxes": boxes, "given_masks": masks}

    def __getitem__(self, name: str) -> Any:
        """Return a quantity or the scores of a metric, by name."""
        if name not in self._known:
            entry = METRICS[name] if name in METRICS else QUANTITIES[name]
            options = {option.name: getattr(self.options, option.name, option.default) for option in entry.declared}
            self._known[name] = entry.function(*(self[need] for need in entry.needs), **options)
        return self._known[name]

    def scores(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the scores of the named metrics and of the metrics they need, shape (N,) or (N, *scores).

        For metrics that compare methods, only the scores they compare are returned.
        """
        names = list(names)
        for name in names:
            check_name("metric", name, METRICS)
        return {name: self[name] for name in with_parts(names)}

    def known(self, *names: str) -> dict[str, Any]:
        """Return the named quantities that have been computed."""
        return {name: self._known[name] for name in names if name in self._known}

    def confidence(self, images: Tensor, samples: Tensor | None = None) -> Tensor:
        """f_c of images, one per sample, or one per entry of `samples`, positions in the batch."""
        found: Tensor = self["confidence"](images, samples)
        return found


@quantity()
def explained() -> Explained:
    """The batch and its explanation from the host, an `Explained`."""
    raise LookupError("hosts give it")


@quantity(source="object")
def given_boxes() -> Sequence[Tensor] | None:
    """The object's boxes that the host was given, or None; metrics use `boxes`."""
    return None


@quantity(source="object")
def given_masks() -> Tensor | None:
    """The object's masks that the host was given, or None; metrics use `masks`."""
    return None


@quantity()
def x(explained: Explained) -> Tensor:
    """The batch, shape (N, C, *S)."""
    return explained.x


@quantity()
def maps(explained: Explained) -> Tensor:
    """H, shape (N, *S), in [0, 1]."""
    return explained.maps


@quantity()
def target(explained: Explained) -> Tensor:
    """The class explained, shape (N,)."""
    return explained.target


@quantity()
def confidence(explained: Explained) -> Callable[..., Tensor]:
    """The function f_c itself, images (N, C, *S) -> (N,); a second argument gives the images' sample indices."""

    def confidence_in(images: Tensor, samples: Tensor | None = None) -> Tensor:
        if samples is None:
            return select_class(explained.probabilities_of(images), explained.target)
        if explained.of_frames:
            raise one_for_all(len(explained.x), "metrics that change one image at a time, such as insertion, need each")
        return select_class(explained.probabilities_of_samples(images, samples), explained.target[samples])

    return confidence_in


@quantity()
def p(explained: Explained, target: Tensor) -> Tensor:
    """f_c(x): confidence in the class explained, shape (N,)."""
    return select_class(explained.probabilities, target)


@quantity()
def masked(explained: Explained, x: Tensor, maps: Tensor, *, fill: Fill = 0.0) -> Explained:
    """x*H and its explanation: one forward pass for `o` and `masked_maps`."""
    return explained.at(mask(x, maps, fill))


@quantity()
def o(masked: Explained, target: Tensor) -> Tensor:
    """f_c(x*H): confidence when only what the map shows is kept, shape (N,)."""
    return select_class(masked.probabilities, target)


@quantity()
def masked_maps(masked: Explained) -> Tensor:
    """The method's maps of x*H for the same class, shape (N, *S)."""
    return masked.maps


@quantity()
def d(x: Tensor, maps: Tensor, confidence: Callable[..., Tensor], *, fill: Fill = 0.0) -> Tensor:
    """f_c(x*(1-H)): confidence when what the map shows is removed, shape (N,)."""
    return confidence(mask(x, 1 - maps, fill))
