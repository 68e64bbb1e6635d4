"""ROAD and ARCC: Rong et al., 2022, and Domeniconi et al., 2026."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from cam_extras._batching import rows_of_a_pass
from cam_extras._checks import check_input, check_number, check_tensor, check_unit_range
from cam_extras.metrics.base import harmonic_mean, metric, quantity
from cam_extras.metrics.insertion_and_deletion import Confidence, InternalBatchSize, ranks_of

_NEIGHBOURS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]


def check_percentiles(name: str, percentiles: Sequence[float]) -> None:
    """Raise ValueError unless there are one or more numbers between 0 and 100."""
    if len(percentiles) == 0 or not all(0 < percentile < 100 for percentile in percentiles):
        raise ValueError(f"{name} must be one or more numbers between 0 and 100; got {percentiles!r}")


def check_noise(name: str, noise: float) -> None:
    """Raise ValueError unless noise is a finite number, 0 or more."""
    check_number(name, noise)
    if not 0 <= noise < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or more; got {noise}")


Percentiles = Annotated[Sequence[float], check_percentiles, "per cent of the pixels that are kept"]
Noise = Annotated[float, check_noise, "standard deviation of the noise added to imputed pixels"]


def impute(image: Tensor, missing: Tensor) -> Tensor:
    """Fill in missing pixels: each is the weighted mean of its eight neighbours, known or missing.

    Direct neighbours weigh 1/6, diagonal ones 1/12; beyond the edge there are none. The pixels are the solution of a
    sparse linear system, found by scipy on the CPU.

    Args:
        image: shape (C, H, W).
        missing: boolean, shape (H, W); at least one pixel must be known.

    Raises:
        ValueError: all pixels are missing, or the shapes do not fit.
    """
    if image.ndim != 3 or missing.shape != image.shape[1:]:
        shapes = tuple(image.shape), tuple(missing.shape)
        raise ValueError(f"expected an image (C, H, W) and what is missing (H, W); got {shapes[0]} and {shapes[1]}")
    holes = missing.cpu().numpy()
    if holes.all():
        raise ValueError("all pixels are missing: there is nothing to fill them in from")
    if not holes.any():
        return image.clone()
    number = np.full([size + 2 for size in holes.shape], -1)  # of the missing pixels, with a margin
    number[1:-1, 1:-1][holes] = np.arange(holes.sum())
    inside = np.pad(np.ones_like(holes), 1)
    values = np.pad(image.detach().cpu().double().numpy(), ((0, 0), (1, 1), (1, 1)))
    row, column = np.nonzero(holes)
    own = np.arange(len(row))
    weights, known = np.zeros(len(row)), np.zeros((len(row), len(image)))
    entries = []
    for down, right in _NEIGHBOURS:
        weight = 1 / 12 if down and right else 1 / 6
        place = row + 1 + down, column + 1 + right
        weights += weight * inside[place]
        unknown = number[place] >= 0
        entries.append((np.full(unknown.sum(), -weight), own[unknown], number[place][unknown]))
        known += weight * np.where(unknown, 0, values[:, place[0], place[1]]).T
    entries.append((weights, own, own))
    data, rows, columns = map(np.concatenate, zip(*entries, strict=True))
    system = coo_matrix((data, (rows, columns)), shape=(len(own), len(own))).tocsc()
    # The matrix is symmetric and diagonally dominant; these options are far faster for it than the defaults.
    solution = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(known)
    filled = image.detach().clone()
    filled[:, missing] = torch.from_numpy(solution.T).to(filled)
    return filled


def _road(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    percentiles: Sequence[float],
    noise: float,
    internal_batch_size: int | None,
) -> Tensor:
    check_percentiles("the percentiles", percentiles)
    check_input(x)
    check_tensor("the map", maps)
    check_unit_range("the map", maps)
    if x.ndim != 4:
        raise ValueError(f"ROAD is for images (N, C, H, W); got an input of shape {tuple(x.shape)}")
    if maps.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"expected maps of shape {(len(x), *x.shape[2:])} for an input of shape {tuple(x.shape)}; "
            f"got {tuple(maps.shape)}"
        )
    pixels = maps[0].numel()
    ranks = ranks_of(maps).unflatten(1, maps.shape[1:])
    kept = [math.ceil((pixels - 1) * percentile / 100) for percentile in percentiles]
    # Rows are (sample, kept pixels, whether the highest or the lowest are kept).
    rows = [(sample, count, high) for sample in range(len(x)) for count in kept for high in (True, False)]
    scores = []
    size = rows_of_a_pass(x, internal_batch_size)
    with torch.no_grad():
        for some in (rows[first : first + size] for first in range(0, len(rows), size)):
            images = []
            for sample, count, high in some:
                missing = ranks[sample] >= count if high else ranks[sample] < pixels - count
                image = impute(x[sample], missing)
                if noise > 0:
                    generator = torch.Generator("cpu").manual_seed(2 * count + high)
                    drawn = torch.empty(x.shape[1:], dtype=torch.float32, device="cpu").normal_(generator=generator)
                    image = image + noise * drawn.to(image) * missing
                images.append(image)
            samples = torch.tensor([sample for sample, _, _ in some], device=x.device)
            scores.append(confidence(torch.stack(images), samples).detach())
    found = torch.cat(scores).reshape(len(x), len(kept), 2)
    check_unit_range("the confidence", found)
    return (found[..., 0] - found[..., 1]).mean(dim=1) / 2


@metric(
    title="ROAD",
    short="ROAD",
    higher_is_better=True,
    meaning="confidence with the map's highest pixels kept less that with its lowest kept, others imputed, halved",
    paper="Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, 2022",
    range=(-0.5, 0.5),
    title_in_quantus="ROAD (combined)",
)
def road(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    *,
    road_percentiles: Percentiles = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    road_noise: Noise = 0.01,
    internal_batch_size: InternalBatchSize = None,
) -> Tensor:
    """ROAD, both orders combined: mean over p of (f_c(x with the highest p% kept) - f_c(x with the lowest kept)) / 2.

    Other pixels are imputed from their neighbours, see `impute`, with noise added, so that the shape of what is removed
    tells the model little. Of n pixels ceil((n - 1) p / 100) are kept. Pixels of equal value count in row-major order:
    the score of a constant map says nothing about it. It costs 2 forward passes, and 2 sparse linear systems on the
    CPU, for every percentile.

    Without noise it equals pytorch-grad-cam's `ROADCombined` for maps of different values. That takes thresholds: where
    a tenth of a map is 0, as after a ReLU, it removes all pixels, and its linear system has no solution.

    Args:
        x: images, shape (N, C, H, W).
        maps: H in [0, 1], shape (N, H, W).
        confidence: (images (M, C, H, W), indices (M,) of their samples) -> f_c (M,), as for `insertion_curve`.
        road_percentiles: p, between 0 and 100.
        road_noise: standard deviation of the noise; the same noise for every image.
        internal_batch_size: most images in a forward pass.

    Returns:
        Shape (N,), in [-0.5, 0.5]; higher is better.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input is not made of images; the maps differ from it in size, are not finite or leave [0, 1];
            or an option is out of range.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022.
    """
    return _road(x, maps, confidence, road_percentiles, road_noise, internal_batch_size)


@quantity()
def road_of_arcc(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    *,
    arcc_percentiles: Percentiles = (20, 40, 60, 80),
    road_noise: Noise = 0.01,
    internal_batch_size: InternalBatchSize = None,
) -> Tensor:
    """ROAD at the percentiles of ARCC, shape (N,)."""
    return _road(x, maps, confidence, arcc_percentiles, road_noise, internal_batch_size)


@metric(
    title="ARCC",
    short="ARCC",
    higher_is_better=True,
    meaning="harmonic mean of coherency, 1 - complexity and ROAD in [0, 1]",
    paper="Domeniconi et al., How to Evaluate and Refine your CAM, 2026",
)
def arcc(coherency: Tensor, complexity: Tensor, road_of_arcc: Tensor) -> Tensor:
    """ARCC = 3 / (1/coherency + 1/(1 - complexity) + 1/min(max(2 ROAD, 0), 1)), or 0 if any part is 0.

    As pytorch-grad-cam's `ARCC` computes it, which its documentation calls a geometric mean; but there a constant map
    has a coherency of 1/2, and here of 0. The value of a set is the mean over samples.

    Args:
        coherency: in [0, 1], any shape.
        complexity: in [0, 1], same shape.
        road_of_arcc: `road` at the percentiles 20, 40, 60 and 80, in [-0.5, 0.5], same shape.

    Returns:
        Same shape, in [0, 1]; higher is better.

    Raises:
        ValueError: a value is outside its range or NaN.

    Domeniconi et al., "How to Evaluate and Refine your CAM", 2026.

    >>> arcc(torch.tensor(0.9), torch.tensor(0.4), torch.tensor(0.2))
    tensor(0.5684)
    """
    for name, part in (("coherency", coherency), ("complexity", complexity), ("ROAD", road_of_arcc + 0.5)):
        check_unit_range(f"the {name}", part)
    return harmonic_mean(coherency, 1 - complexity, (2 * road_of_arcc).clamp(0, 1))
