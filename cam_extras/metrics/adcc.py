"""ADCC and its parts: Poppi et al., "Revisiting the Evaluation of Class Activation Mapping", 2021."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_extras._checks import check_finite, check_maps, check_unit_range
from cam_extras.metrics.base import harmonic_mean, metric


@metric(
    title="Coherency",
    short="Coh",
    higher_is_better=True,
    meaning="correlation of the map with the map of the masked image",
    paper="Poppi et al., Revisiting the Evaluation of CAM (ADCC), 2021",
    category="robustness",
)
def coherency(maps: Tensor, masked_maps: Tensor) -> Tensor:
    """Coherency (1 + r) / 2, where r is the Pearson correlation of the maps of x and of x*H for the same class.

    Args:
        maps: H(x), shape (N, *S).
        masked_maps: H(x*H(x)), same shape.

    Returns:
        Shape (N,), in [0, 1]; higher is better. 0 if either map is constant: then r is undefined and the map says
        nothing.

    Raises:
        TypeError: the maps are not floating-point tensors.
        ValueError: the shapes differ or have channels or no pixels, or a map is not finite.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021.

    >>> coherency(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.5], [1.0, 0.0]]))
    tensor([1., 0.])
    """
    check_maps("the map", maps)
    check_maps("the map of the masked input", masked_maps)
    if maps.shape != masked_maps.shape:
        raise ValueError(f"expected maps of one shape; got {tuple(maps.shape)} and {tuple(masked_maps.shape)}")
    check_finite("the map", maps)
    check_finite("the map of the masked input", masked_maps)
    a, b = maps.flatten(1), masked_maps.flatten(1)
    constant = (a.amin(1) == a.amax(1)) | (b.amin(1) == b.amax(1))
    correlation = (_standardise(a) * _standardise(b)).mean(dim=1)
    return torch.where(constant, 0, (1 + correlation.clamp(-1, 1)) / 2)


def _standardise(maps: Tensor) -> Tensor:
    centred = maps - maps.mean(dim=1, keepdim=True)
    centred = centred / centred.abs().amax(dim=1, keepdim=True)  # squares of small maps would underflow
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt()


@metric(
    title="Complexity",
    short="Com",
    higher_is_better=False,
    meaning="mean of the map: how much of the image it shows",
    paper="Poppi et al., Revisiting the Evaluation of CAM (ADCC), 2021",
    category="complexity",
    title_in_quantus="Complexity (mean of the map)",
)
def complexity(maps: Tensor) -> Tensor:
    """Complexity mean |H|: how much of the input the map shows.

    Args:
        maps: H in [0, 1], shape (N, *S).

    Returns:
        Shape (N,), in [0, 1]; lower is better.

    Raises:
        TypeError: the maps are not a floating-point tensor.
        ValueError: the maps have channels or no pixels, leave [0, 1] or are not finite; samples are named.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021.

    >>> complexity(torch.tensor([[0.0, 0.5, 1.0]]))
    tensor([0.5000])
    """
    check_maps("the map", maps)
    check_unit_range("the map", maps)
    return maps.abs().flatten(1).mean(dim=1)


@metric(
    title="ADCC",
    short="ADCC",
    higher_is_better=True,
    meaning="harmonic mean of coherency, 1 - complexity and 1 - average drop",
    paper="Poppi et al., Revisiting the Evaluation of CAM (ADCC), 2021",
    of_means=True,
)
def adcc(coherency: Tensor, complexity: Tensor, average_drop: Tensor) -> Tensor:
    """ADCC = 3 / (1/coherency + 1/(1 - complexity) + 1/(1 - AD)), or 0 if any part is 0.

    The papers' tables print the ADCC of the means of its parts; pass the means to get that. Per-sample values give
    per-sample values.

    Args:
        coherency: in [0, 1], any shape.
        complexity: in [0, 1], same shape.
        average_drop: in [0, 1], same shape.

    Returns:
        Same shape, in [0, 1]; higher is better.

    Raises:
        ValueError: a value is outside [0, 1] or NaN.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021.

    >>> adcc(torch.tensor(0.98), torch.tensor(0.4), torch.tensor(0.15))
    tensor(0.7765)
    """
    for name, part in (("coherency", coherency), ("complexity", complexity), ("average drop", average_drop)):
        check_unit_range(f"the {name}", part)
    return harmonic_mean(coherency, 1 - complexity, 1 - average_drop)
