"""Insertion and deletion: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation", BMVC 2018.

f_c of the input while its pixels are inserted into a substrate or deleted, in decreasing order of the map H:

>>> x, maps = torch.ones(1, 1, 2, 2), torch.tensor([[[0.1, 0.7], [0.3, 0.9]]])
>>> curve = insertion_curve(lambda images, samples: images[:, 0, 0, 1], x, maps, Schedule(step=1, insert_into="zeros"))
>>> curve.fractions.tolist(), curve.scores.tolist(), insertion(curve).tolist()
([0.0, 0.25, 0.5, 0.75, 1.0], [[0.0, 0.0, 1.0, 1.0, 1.0]], [0.625])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_extras._batching import rows_of_a_pass
from cam_extras._checks import (
    check_count,
    check_input,
    check_name,
    check_number,
    check_pixels,
    check_tensor,
    check_unit_range,
)
from cam_extras._deprecated import names_of
from cam_extras.maps import broadcast_to
from cam_extras.metrics.base import metric, quantity

_PAPER = "Petsiuk et al., RISE, 2018"

__getattr__ = names_of(__name__, {"spatial_mean": f"{__name__}.channel_mean"})

Confidence: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(images (M, C, *S), indices (M,) of the samples they were made from) -> f_c of each, shape (M,)."""

Substrate: TypeAlias = str | float | Tensor | Callable[[Tensor], Tensor]
"""A key of `SUBSTRATES`, a number or tensor that broadcasts to x, or a function of x that returns one."""


@dataclass(frozen=True)
class Blur:
    """Substrate: x blurred along every spatial dimension by a Gaussian kernel, with zeros around the image.

    The kernel is that of RISE's published evaluation, scipy's `gaussian_filter` of an impulse in the middle of `size`
    pixels: the Gaussian's tails are reflected at the ends instead of cut off, so that its sum is 1. RISE's kernel of
    size 11 with sigma 5 is almost a box, from .968 / 11 at the ends to 1.034 / 11 in the middle.

    Args:
        size: size of the kernel in each dimension, odd.
        sigma: standard deviation of the Gaussian, in pixels.

    Raises:
        TypeError: `size` is not an integer, or `sigma` not a number.
        ValueError: `size` is not odd and positive, or `sigma` is not positive and finite.
    """

    size: int = 11
    sigma: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, Integral) or isinstance(self.size, bool):
            raise TypeError(f"size must be an integer; got {self.size!r:.80}")
        check_number("sigma", self.sigma)
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"the size of a blur must be an odd number of pixels; got {self.size}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"the sigma of a blur must be a positive number of pixels; got {self.sigma}")

    @property
    def kernel(self) -> list[float]:
        """The kernel along one dimension; the full kernel is the outer product."""
        reach = int(4 * self.sigma + 0.5)  # where scipy cuts the Gaussian
        gaussian = {offset: math.exp(-0.5 * (offset / self.sigma) ** 2) for offset in range(-reach, reach + 1)}
        kernel = [0.0] * self.size
        for offset, value in gaussian.items():
            place = (self.size // 2 + offset) % (2 * self.size)  # reflection at both ends repeats after two sizes
            kernel[min(place, 2 * self.size - 1 - place)] += value
        total = math.fsum(gaussian.values())
        return [value / total for value in kernel]

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (N, C, *S) blurred."""
        for dim in range(2, x.ndim):
            # Sums of shifted images, not a convolution, which would round its input to TF32 on a GPU.
            padded = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [self.size // 2] * 2)
            shifted = (padded.narrow(dim, place, x.shape[dim]) for place in range(self.size))
            x = sum((weight * image for weight, image in zip(self.kernel, shifted, strict=True)), torch.zeros_like(x))
        return x


def channel_mean(x: Tensor) -> Tensor:
    """Substrate: the mean of every channel of every sample, (N, C, *S) -> (N, C, 1, ...)."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


SUBSTRATES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "mean": channel_mean,
    "blur": Blur(),
}


@dataclass(frozen=True)
class Schedule:
    """How many pixels change per step, and what replaces the image's pixels.

    Args:
        step: pixels (int) or share of the pixels (float): 1 is one pixel, 0.01 one per cent, 1.0 the whole image.
            A share of less than one pixel counts as one. The last step may be smaller.
        insert_into: the substrate that pixels are inserted into: "zeros" (in the model's input space: the mean colour
            if the input was normalised; see `cam_extras.maps.black`), "mean" (of the sample's channel), "blur"
            (`Blur()`), a number or tensor that broadcasts to x, or a function of x such as `Blur(21, 10.0)`.
        delete_to: the substrate that replaces deleted pixels; same choices.

    Raises:
        TypeError: `step` is not a number, or a substrate is not a name, number, tensor or function.
        ValueError: `step` is not positive, or a share above 1; there is no substrate of that name.
    """

    step: int | float
    insert_into: Substrate = "blur"
    delete_to: Substrate = "zeros"

    def __post_init__(self) -> None:
        if isinstance(self.step, bool) or not isinstance(self.step, Real):
            raise TypeError(f"step must be a number of pixels (int) or a share of them (float); got {self.step!r}")
        if isinstance(self.step, Integral):
            if self.step < 1:
                raise ValueError(f"a step must be of at least one pixel; got {self.step}")
        elif not 0 < self.step <= 1:
            raise ValueError(
                f"a step given as a float is a share of the pixels, in (0, 1]; got {self.step}: "
                "give a number of pixels as an int"
            )
        for substrate in (self.insert_into, self.delete_to):
            if isinstance(substrate, str):
                check_name("substrate", substrate, SUBSTRATES)
            elif not (isinstance(substrate, Real | Tensor) or callable(substrate)):
                raise TypeError(f"a substrate must be a name, number, tensor or function; got {substrate!r:.80}")

    def counts(self, pixels: int) -> list[int]:
        """Return how many of the pixels have changed at each point of the curve, from 0 to all of them.

        Shares are rounded point by point, so steps of one per cent always make a hundred steps.

        Raises:
            ValueError: a step is bigger than the image.

        >>> Schedule(4).counts(10), Schedule(0.25).counts(10)
        ([0, 4, 8, 10], [0, 2, 5, 8, 10])
        """
        if isinstance(self.step, Integral) and self.step > pixels:
            raise ValueError(
                f"a step of {self.step} pixels is bigger than the image, which has {pixels}: give fewer, or a share "
                "of the pixels such as 0.01"
            )
        width = int(self.step) if isinstance(self.step, Integral) else max(float(self.step) * pixels, 1)
        return sorted({round(point * width) for point in range(math.ceil(pixels / width))} | {pixels})


PRESETS: dict[str, Schedule] = {
    # RISE's published evaluation, for inputs of 224 x 224: 224 steps
    "rise": Schedule(step=224, insert_into="blur", delete_to="zeros"),
    # MI-Grad-CAM's table 2. Its text inserts in increasing order of the map; here both use decreasing order.
    "mi": Schedule(step=0.01, insert_into="zeros", delete_to="zeros"),
}


ScheduleOption = Annotated[
    Literal["rise", "mi"] | Schedule,
    "how many pixels change per step, and what replaces the image's pixels: a key of PRESETS or a Schedule",
]
InternalBatchSize = Annotated[
    Annotated[int, check_count] | None,
    "most images in a forward pass; None for the best value on the device",
]


class Curve(NamedTuple):
    """Confidence while the image changes: `plt.plot(curve.fractions.cpu(), curve.scores.T.cpu())`.

    Attributes:
        fractions: share of the pixels inserted or deleted, shape (T,), from 0 to 1; the last step may be smaller.
        scores: f_c there, shape (N, T), in [0, 1].
    """

    fractions: Tensor
    scores: Tensor


def insertion_curve(
    confidence: Confidence,
    x: Tensor,
    maps: Tensor,
    schedule: str | Schedule = "rise",
    *,
    internal_batch_size: int | None = None,
) -> Curve:
    """Insertion curve f_c(x where rank(H) < k, else substrate): confidence as the map's highest pixels go in first.

    Pixels of equal value go in row-major order, on every device; so the curve of a constant map is that of a scan from
    the first corner to the last, and says nothing about the map. A curve of T points costs T forward passes per sample,
    without gradients, in batches shared by points and samples.

    Args:
        confidence: (images (M, C, *S), indices (M,) of the samples they were made from) -> f_c (M,), the
            probability of each sample's class, for example
            `lambda images, samples: model(images).softmax(1).gather(1, classes[samples, None])[:, 0]`.
        x: the input, shape (N, C, *S).
        maps: H in [0, 1], shape (N, *S).
        schedule: a `Schedule`, or a key of `PRESETS`: "rise", 224 pixels per step, inserted into a blurred image; "mi",
            one per cent per step, inserted into zeros.
        internal_batch_size: most images in a forward pass; it limits the memory and does not change the result. By
            default 32, on the CPU only as many as have the pixels of four 224 x 224 images.

    Returns:
        The curve, with scores (N, T) in [0, 1].

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the maps differ from the input in size, are not finite or leave [0, 1]; a step is bigger than the
            image; there is no such preset; the substrate does not fit the input or is not finite; `confidence` returns
            a shape other than (M,) or values outside [0, 1]. Samples are named.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    schedule = _schedule(schedule)
    return _curve(confidence, x, maps, schedule, (schedule.insert_into, _itself), internal_batch_size)


def deletion_curve(
    confidence: Confidence,
    x: Tensor,
    maps: Tensor,
    schedule: str | Schedule = "rise",
    *,
    internal_batch_size: int | None = None,
) -> Curve:
    """Deletion curve f_c(substrate where rank(H) < k, else x): confidence as the map's highest pixels are deleted.

    Order, arguments, errors and range as for `insertion_curve`; both presets set deleted pixels to zero.
    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    schedule = _schedule(schedule)
    return _curve(confidence, x, maps, schedule, (_itself, schedule.delete_to), internal_batch_size)


def area(curve: Curve) -> Tensor:
    """Area under a curve over the fraction of pixels, by the trapezoidal rule: the mean confidence, shape (N,).

    >>> area(Curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]])))
    tensor([0.5000, 0.2500])
    """
    if not isinstance(curve, Curve):
        raise TypeError(f"expected a Curve, as insertion_curve and deletion_curve return; got {type(curve).__name__}")
    fractions, scores = curve
    # The mean of a curve lies between its extremes; rounding must not lift the mean of ones above 1.
    return torch.trapezoid(scores, fractions).clamp(scores.amin(dim=1), scores.amax(dim=1))


@quantity(kept=True)
def _insertion_curve(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    *,
    schedule: ScheduleOption = "rise",
    internal_batch_size: InternalBatchSize = None,
) -> Curve:
    """f_c while the map's highest pixels are inserted."""
    return insertion_curve(confidence, x, maps, schedule, internal_batch_size=internal_batch_size)


@quantity(kept=True)
def _deletion_curve(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    *,
    schedule: ScheduleOption = "rise",
    internal_batch_size: InternalBatchSize = None,
) -> Curve:
    """f_c while the map's highest pixels are deleted."""
    return deletion_curve(confidence, x, maps, schedule, internal_batch_size=internal_batch_size)


@metric(
    title="Insertion",
    short="Ins",
    higher_is_better=True,
    meaning="mean confidence while pixels are inserted, the map's highest first",
    paper=_PAPER,
)
def insertion(insertion_curve: Curve) -> Tensor:
    """Insertion, the area under the insertion curve: mean confidence as the map's highest pixels are inserted first.

    Args:
        insertion_curve: see the function `insertion_curve`.

    Returns:
        Shape (N,), in [0, 1]; higher is better.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    return area(insertion_curve)


@metric(
    title="Deletion",
    short="Del",
    higher_is_better=False,
    meaning="mean confidence while pixels are deleted, the map's highest first",
    paper=_PAPER,
)
def deletion(deletion_curve: Curve) -> Tensor:
    """Deletion, the area under the deletion curve: mean confidence as the map's highest pixels are deleted first.

    Args:
        deletion_curve: see the function `deletion_curve`.

    Returns:
        Shape (N,), in [0, 1]; lower is better.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    return area(deletion_curve)


@metric(
    title="Insertion - Deletion",
    short="I-D",
    higher_is_better=True,
    meaning="insertion minus deletion",
    paper="Englebert et al., Poly-CAM, 2022",
    range=(-1.0, 1.0),
)
def insertion_deletion(insertion: Tensor, deletion: Tensor) -> Tensor:
    """Insertion minus deletion: how much more confident the model is with the map's highest pixels than without.

    Args:
        insertion: see the function `insertion`, shape (N,), in [0, 1].
        deletion: see the function `deletion`, shape (N,), in [0, 1].

    Returns:
        Shape (N,), in [-1, 1]; higher is better.

    Raises:
        ValueError: the shapes differ, or a value is outside [0, 1]; samples are named.

    Englebert et al., "Backward recursive Class Activation Map refinement", 2022 (Poly-CAM).

    >>> insertion_deletion(torch.tensor([0.75, 0.25]), torch.tensor([0.25, 0.5]))
    tensor([ 0.5000, -0.2500])
    """
    check_tensor("the insertion", insertion)
    check_tensor("the deletion", deletion)
    if insertion.shape != deletion.shape:
        raise ValueError(
            "expected insertion and deletion of the same samples, of one shape (N,); "
            f"got {tuple(insertion.shape)} and {tuple(deletion.shape)}"
        )
    check_unit_range("the insertion", insertion)
    check_unit_range("the deletion", deletion)
    return insertion - deletion


def _schedule(schedule: str | Schedule) -> Schedule:
    if isinstance(schedule, Schedule):
        return schedule
    check_name("schedule", schedule, PRESETS)
    return PRESETS[schedule]


def _itself(x: Tensor) -> Tensor:
    return x


def _curve(
    confidence: Confidence,
    x: Tensor,
    maps: Tensor,
    schedule: Schedule,
    images: tuple[Substrate, Substrate],
    internal_batch_size: int | None,
) -> Curve:
    """Return the curve from one image to another, each given as a substrate."""
    check_input(x)
    check_pixels(x.shape)
    space = x.shape[2:]
    check_tensor("the map", maps)
    if maps.shape != (x.shape[0], *space):
        raise ValueError(
            f"expected maps of shape {(x.shape[0], *space)} for an input of shape {tuple(x.shape)}; "
            f"got {tuple(maps.shape)}"
        )
    check_unit_range("the map", maps)
    if internal_batch_size is not None:
        check_count("internal_batch_size", internal_batch_size)
    counts = torch.tensor(schedule.counts(space.numel()), device=x.device)
    scores = []
    with torch.no_grad():
        before, after = (_substrate(image, x) for image in images)
        ranks = ranks_of(maps)
        rows = torch.arange(len(x) * len(counts), device=x.device)
        for row in torch.split(rows, rows_of_a_pass(x, internal_batch_size)):
            samples, points = row // len(counts), row % len(counts)
            changed = (ranks[samples] < counts[points, None]).reshape(-1, 1, *space)
            values = confidence(torch.where(changed, after[samples], before[samples]), samples)
            if not isinstance(values, Tensor) or values.shape != samples.shape:
                got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(
                    f"confidence must return a tensor ({len(samples)},) for {len(samples)} images, the probability "
                    f"of one class for each; got {got}"
                )
            scores.append(values.detach())  # a model that records gradients anyway would keep every pass in memory
    found = torch.cat(scores).reshape(len(x), len(counts))
    found = found.to(torch.promote_types(found.dtype, torch.float32))  # half precision cannot tell the fractions apart
    check_unit_range("the confidence", found)
    return Curve(counts.to(found.dtype) / space.numel(), found)


def ranks_of(maps: Tensor) -> Tensor:
    """Return how many pixels of the map come before each pixel, (N, *S) -> (N, pixels)."""
    values = maps.flatten(1) + 0.0  # turns -0 into 0: a radix sort (GPUs) may put it below 0
    order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _substrate(substrate: Substrate, x: Tensor) -> Tensor:
    """Return a substrate as a tensor of the input's shape."""
    if isinstance(substrate, str):
        substrate = SUBSTRATES[substrate]
    return broadcast_to("the substrate", substrate(x) if callable(substrate) else substrate, x)
