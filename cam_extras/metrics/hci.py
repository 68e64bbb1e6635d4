"""Harmonised confidence index and its parts: "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative".

p is the confidence in the class for the whole input, o_t for the pixels where the map H reaches a threshold t, b for a
baseline. All are probabilities of the same class, shape (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from cam_extras._checks import SampleError, check_finite, check_number, check_tensor, check_unit_range, which
from cam_extras.maps import broadcast_to, mask
from cam_extras.metrics.base import harmonic_mean, metric, quantity
from cam_extras.metrics.confidence import average_drop
from cam_extras.metrics.options import Fill, Renamed
from cam_extras.metrics.quantities import Explained
from cam_extras.utilities import select_class

_PAPER = "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative"


def check_threshold(name: str, threshold: float) -> None:
    """Raise TypeError or ValueError unless a threshold lies in [0, 1]."""
    check_number(name, threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"the {name} must lie in [0, 1], as maps do; got {threshold}")


Threshold = Annotated[float, check_threshold, "pixels are shown where the map reaches this value, in [0, 1]"]
Baseline = Annotated[
    Literal["fill", "complement"],
    Renamed({"black": "fill"}),
    'what the pixels above the threshold are compared with: "fill", an image filled with `fill`, as in the paper, or '
    '"complement", the pixels where the map is 0, as in the authors\' code',
]


def threshold_mask(x: Tensor, maps: Tensor, threshold: float, fill: float | Tensor = 0.0) -> Tensor:
    """Keep the pixels where the map reaches a threshold: x where H >= t, else `fill`.

    Args:
        x: the input, shape (N, C, *S).
        maps: H in [0, 1], shape (N, *S).
        threshold: t in [0, 1].
        fill: the value elsewhere, see `cam_extras.maps.mask`.

    Raises:
        TypeError: the input is not made of floating-point numbers.
        ValueError: the threshold is outside [0, 1]; the maps differ from the input in size, or leave [0, 1].

    >>> threshold_mask(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[0.2, 0.5, 1.0]]), 0.5)
    tensor([[[0., 2., 3.]]])
    """
    check_threshold("threshold", threshold)
    check_unit_range("the map", maps)
    return mask(x, (maps >= threshold).to(maps.dtype), fill)


@quantity()
def o_t(
    x: Tensor, maps: Tensor, confidence: Callable[..., Tensor], *, fill: Fill = 0.0, threshold: Threshold = 0.5
) -> Tensor:
    """f_c(x where H >= t): confidence when only the pixels above a threshold are kept, shape (N,)."""
    return confidence(threshold_mask(x, maps, threshold, fill))


@quantity()
def b(
    explained: Explained,
    x: Tensor,
    maps: Tensor,
    confidence: Callable[..., Tensor],
    *,
    fill: Fill = 0.0,
    baseline: Baseline = "fill",
) -> Tensor:
    """f_c(baseline): confidence for an image of only the fill, or for x where H = 0, shape (N,)."""
    if baseline == "complement":
        return confidence(mask(x, (maps == 0).to(maps.dtype), fill))
    differs = isinstance(fill, Tensor) and fill.ndim == x.ndim and len(fill) > 1
    nothing = broadcast_to("fill", fill, x if differs else x[:1])  # one image for all samples if it is the same
    probabilities = explained.probabilities_of_nothing(nothing)
    return select_class(probabilities.expand(len(x), -1), explained.target)


@metric(
    title="Thresholded Drop",
    short="ADt",
    higher_is_better=False,
    meaning="share of confidence lost when only the pixels above a threshold are seen",
    paper=_PAPER,
)
def thresholded_drop(p: Tensor, o_t: Tensor) -> Tensor:
    """Thresholded drop AD_t = max(0, p - o_t) / p, with o_t the confidence for `threshold_mask(x, maps, t)`.

    Arguments, errors and range as for `average_drop`; lower is better. For t > 0 a constant map of zeros hides
    everything; any other constant map hides nothing for t up to its value.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", section 4.1.
    """
    return average_drop(p, o_t)


@metric(
    title="Thresholded Increase",
    short="AIt",
    higher_is_better=True,
    meaning="share of the confidence in the pixels above a threshold that a baseline lacks",
    paper=_PAPER,
)
def thresholded_increase(o_t: Tensor, b: Tensor) -> Tensor:
    """Thresholded increase AI_t = max(0, o_t - b) / o_t: the share of o_t that the map's pixels add to a baseline.

    Args:
        o_t: confidence for `threshold_mask(x, maps, t)`, shape (N,), in (0, 1].
        b: confidence for the baseline, same shape, in [0, 1]: for the `fill` alone, as in the paper, or for x where H =
            0, as in the authors' code.

    Returns:
        Shape (N,), in [0, 1]; higher is better.

    Raises:
        ValueError: a value is outside [0, 1], or an o_t is 0, where the share is undefined; samples are named.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", section 4.1.

    >>> thresholded_increase(torch.tensor([0.8, 0.5]), torch.tensor([0.2, 0.9]))
    tensor([0.7500, 0.0000])
    """
    for name, values in (("o_t", o_t), ("b", b)):
        check_unit_range(f"the confidence {name}", values)
    if o_t.shape != b.shape:
        raise ValueError(f"expected confidences of one shape (N,); got {tuple(o_t.shape)} and {tuple(b.shape)}")
    if (o_t == 0).any():
        raise SampleError(
            "the increase is undefined where the confidence o_t is 0,", which(o_t == 0), "leave these samples out"
        )
    return torch.clamp(o_t - b, min=0) / o_t


@metric(
    title="HCI",
    short="HCI",
    higher_is_better=True,
    meaning="harmonic mean of 1 - thresholded drop and thresholded increase",
    paper=_PAPER,
    of_means=True,
)
def hci(thresholded_drop: Tensor, thresholded_increase: Tensor) -> Tensor:
    """Harmonised confidence index HCI = 2 (1 - AD_t) AI_t / ((1 - AD_t) + AI_t), or 0 if either part is 0.

    The paper's tables print the HCI of the means of its parts; pass the means to get that.

    Args:
        thresholded_drop: AD_t in [0, 1], any shape.
        thresholded_increase: AI_t in [0, 1], same shape.

    Returns:
        Same shape, in [0, 1]; higher is better.

    Raises:
        ValueError: a value is outside [0, 1] or NaN.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", equation (13).

    >>> hci(torch.tensor(0.729), torch.tensor(0.486))  # DenseNet-121 in its table 1, which prints .347
    tensor(0.3480)
    """
    check_unit_range("the drop", thresholded_drop)
    check_unit_range("the increase", thresholded_increase)
    return harmonic_mean(1 - thresholded_drop, thresholded_increase)


@metric(
    title="Win Percentage",
    short="Win",
    higher_is_better=True,
    meaning="share of images on which the method has the lowest average drop of all methods in the run; ties are "
    "shared, controls do not compete",
    paper="Chattopadhyay et al., Grad-CAM++, 2018",
    of_methods=True,
)
def win_percentage(average_drop: Tensor) -> Tensor:
    """Win share: 1 for the method with the lowest drop on a sample, shared equally in a tie.

    Args:
        average_drop: average drops of M methods on N samples, shape (M, N).

    Returns:
        Shape (M, N), in [0, 1], with sum 1 over methods; the mean over samples, in per cent, is the win percentage.

    Raises:
        ValueError: there are fewer than two methods or no samples, or a drop is not finite (method and sample are named
            by position).

    Chattopadhyay et al., "Grad-CAM++", WACV 2018.

    >>> win_percentage(torch.tensor([[0.1, 0.2], [0.3, 0.2]]))
    tensor([[1.0000, 0.5000],
            [0.0000, 0.5000]])
    """
    drops = check_tensor("the drops", average_drop)
    if drops.ndim != 2 or len(drops) < 2 or drops.shape[1] == 0:
        raise ValueError(f"expected drops of two or more methods, shape (M, N); got {tuple(drops.shape)}")
    for number, row in enumerate(drops):
        check_finite(f"the drop of method {number}", row)
    least = (drops == drops.amin(dim=0)).to(drops.dtype)
    return least / least.sum(dim=0)
