"""Counterfactual sensitivity: "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative".

How much a method's channel weights change with the image: w are the weights for x, w' those for `counterfactual(x)` and
the same class, both of shape (N, K).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from cam_extras._checks import (
    SampleError,
    check_count,
    check_finite,
    check_input,
    check_number,
    check_pixels,
    check_seed,
    check_tensor,
    which,
)
from cam_extras.metrics.base import metric, quantity
from cam_extras.metrics.options import Seed
from cam_extras.metrics.quantities import Explained


def check_delta(name: str, delta: float) -> None:
    """Raise TypeError or ValueError unless delta is a finite number other than 0."""
    check_number(name, delta)
    if not math.isfinite(delta) or delta == 0:
        raise ValueError(f"{name} must be a finite number other than 0; got {delta}")


def check_fraction(name: str, fraction: float) -> None:
    """Raise TypeError or ValueError unless a fraction lies in (0, 1]."""
    check_number(name, fraction)
    if not 0 < fraction <= 1:
        raise ValueError(f"the {name} of the pixels must lie in (0, 1]; got {fraction}")


Delta = Annotated[float, check_delta, "what is added to the changed pixels, in the model's input space"]
Fraction = Annotated[float, check_fraction, "share of the pixels to change, in (0, 1]"]
MostImportant = Annotated[
    Annotated[int, check_count] | None, "how many of the most important channels count; None for all"
]


def counterfactual(x: Tensor, delta: float = 0.1, fraction: float = 0.5, seed: int = 0) -> Tensor:
    """Add a constant to a random share of the pixels, in all channels: x + delta where chosen, else x.

    Args:
        x: the input, shape (N, C, *S).
        delta: what is added, in the model's input space: if the input is normalised by a standard deviation of 0.226,
            0.1 is 6 of 255 grey levels.
        fraction: share of the pixels to change, in (0, 1]: round(fraction * pixels) of them.
        seed: seed for choosing them. The choice is the same on every device; a larger fraction includes a smaller one's
            pixels.

    Returns:
        Shape (N, C, *S); not clamped to the range of x.

    Raises:
        TypeError: the input is not made of floating-point numbers, or the seed is not an integer.
        ValueError: the fraction is outside (0, 1] or less than one pixel; delta is 0 or not finite; the input has no
            pixels, or is not finite (samples are named).

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", section 4.6, which does not state the share, or
    whether 0.1 is added before or after normalisation.

    >>> counterfactual(torch.zeros(2, 1, 4), delta=0.1, fraction=0.5)
    tensor([[[0.1000, 0.1000, 0.0000, 0.0000]],
    <BLANKLINE>
            [[0.1000, 0.1000, 0.0000, 0.0000]]])
    """
    check_fraction("fraction", fraction)
    check_delta("delta", delta)
    check_seed(seed)
    size = check_input(x).shape[2:]
    check_pixels(x.shape)
    pixels = size.numel()
    count = round(fraction * pixels)
    if count == 0:
        raise ValueError(f"a fraction of {fraction} of {pixels} pixels is less than one: nothing would change")
    # Random numbers come from the CPU, with explicit types and devices: users may change the defaults.
    generator = torch.Generator("cpu").manual_seed(int(seed))
    chosen = torch.randperm(pixels, generator=generator, dtype=torch.int64, device="cpu")[:count]
    # One pattern for all samples: with one for each, a score would depend on the sample's batch.
    pattern = torch.zeros(pixels, dtype=x.dtype, device="cpu").index_fill(0, chosen, delta)
    return x + pattern.reshape(size).to(x.device)


@quantity(source="weights", kept=True)
def weights(explained: Explained) -> Tensor:
    """The method's channel weights for x, shape (N, K)."""
    return explained.channel_weights


@quantity(source="weights", kept=True)
def counterfactual_weights(
    explained: Explained, x: Tensor, *, delta: Delta = 0.1, fraction: Fraction = 0.5, seed: Seed = 0
) -> Tensor:
    """The method's channel weights for the counterfactual of x, shape (N, K)."""
    return explained.at(counterfactual(x, delta, fraction, seed)).channel_weights


@metric(
    title="Counterfactual Sensitivity",
    short="CFS",
    higher_is_better=True,
    meaning="relative change of the channel weights when a little is added to some of the pixels",
    paper="MI-Grad-CAM: Letting Your Model Reveal What's Most Informative",
    range=(0.0, math.inf),
    category="robustness",
)
def counterfactual_sensitivity(
    weights: Tensor, counterfactual_weights: Tensor, *, most_important: MostImportant = None
) -> Tensor:
    """Counterfactual sensitivity S = ||w - w'|| / ||w||, the relative change of a method's channel weights.

    The paper plots w and w', and argues that for a causal explanation they differ, above all in the most important
    channels; S measures that. Weights that do not depend on the image have S = 0, however good the map is: for example
    those of Grad-CAM if the layer is followed by global average pooling and one linear layer, which are the
    classifier's. Noise in the weights also raises S.

    Args:
        weights: w, the `channel_weights` for x, shape (N, K).
        counterfactual_weights: w', for `counterfactual(x)` and the same class, same shape.
        most_important: use only this many channels of every sample, those with the largest |w|; if equal, the first. By
            default all.

    Returns:
        Shape (N,), in [0, inf), in float32 or better; higher is better according to the paper. A common scale of w and
        w' does not matter.

    Raises:
        TypeError: `most_important` is not an integer.
        ValueError: the weights are not both (N, K) with K at least 1; there are fewer channels than `most_important`; a
            weight is not finite; or all w are 0, where S is undefined (samples are named).

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", section 4.6 and appendix A.8.2.

    >>> w, v = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.5]])
    >>> counterfactual_sensitivity(w, v), counterfactual_sensitivity(w, v, most_important=1)
    (tensor([0.5000]), tensor([0.5000]))
    """
    check_tensor("the weights", weights)
    check_tensor("the counterfactual weights", counterfactual_weights)
    if weights.shape != counterfactual_weights.shape or weights.ndim != 2 or not weights.shape[1]:
        raise ValueError(
            "expected the weights of one or more channels for the input and its counterfactual, both (N, K); got "
            f"{tuple(weights.shape)} and {tuple(counterfactual_weights.shape)}"
        )
    check_finite("the weight", weights)
    check_finite("the counterfactual weight", counterfactual_weights)
    dtype = torch.promote_types(torch.promote_types(weights.dtype, counterfactual_weights.dtype), torch.float32)
    w, difference = weights.to(dtype), weights.to(dtype) - counterfactual_weights.to(dtype)
    if most_important is not None:
        check_count("most_important", most_important)
        if most_important > w.shape[1]:
            raise ValueError(
                f"most_important must be {w.shape[1]}, the number of channels, or less; got {most_important}"
            )
        # Not topk: its choice among equal values depends on the device.
        channels = w.abs().argsort(dim=1, descending=True, stable=True)[:, :most_important]
        w, difference = w.gather(1, channels), difference.gather(1, channels)
    greatest = w.abs().amax(dim=1, keepdim=True)
    if (greatest == 0).any():
        raise SampleError(
            "the sensitivity is undefined where all weights are 0,", which(greatest == 0), "leave these out"
        )
    # Scaled after the subtraction, which is exact for close values; squares of small gradients would underflow.
    change, before = (torch.linalg.vector_norm(values / greatest, dim=1) for values in (difference, w))
    sensitivity: Tensor = change / before
    check_finite(f"the sensitivity, in {dtype},", sensitivity)
    return sensitivity
