"""Mutual information between the channels of a feature map and the image it was computed from."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cam_extras._checks import check_choice, check_count, check_finite, check_tensor
from cam_extras.maps import normalise, resize

Estimator: TypeAlias = Literal["histogram", "discrete", "knn"]
Upsampling: TypeAlias = Literal["nearest", "bilinear"]
GREY_LEVELS = 256
MOST_BINS = 4096  # memory grows with the number of bins; for joint histograms, with its square
_LARGEST = 1 << 21  # elements of an intermediate result: results that fit in the cache are faster


def mutual_information(
    maps: Tensor,
    image: Tensor,
    *,
    estimator: Estimator = "histogram",
    bins: int = 64,
    upsample: Upsampling = "nearest",
    pixels: int = 1024,
    seed: int = 0,
) -> Tensor:
    """Mutual information I(A_k; X) between every channel of a feature map and the grey image, in nats.

    I = sum_ax p(a, x) ln(p(a, x) / (p(a) p(x))), where every pixel of the image is one draw of (a, x) and the map is
    upsampled to the image.

    With nearest upsampling no map is enlarged: each cell stands for the pixels it covers, and their grey levels are
    counted once for all channels. This costs a few per cent of a forward pass. Bilinear upsampling looks at every pixel
    for every channel; "discrete" is then the slowest.

    The plug-in estimates "histogram" and "discrete" are biased upwards, by about (a - 1)(x - 1) / (2 P) nats for
    independent variables with a and x values at P pixels. "discrete" cannot rank maps whose values all differ: it is
    the same for all of them.

    Args:
        maps: A, shape (N, K, *S).
        image: shape (N, C, *T); see `grey` for more than one channel.
        estimator: "histogram", equal-width bins over the range of each map and each image; "discrete", the distinct
            values of each map and 256 grey levels over the range of each image; or "knn", scikit-learn's
            `mutual_info_regression`, slow, on a sample of the pixels.
        bins: number of histogram bins for each of the two variables; 2 to 4096.
        upsample: "nearest" or "bilinear" (linear in one dimension, trilinear in three).
        pixels: how many pixels "knn" samples.
        seed: for the choice of these pixels, and for scikit-learn's noise.

    Returns:
        Shape (N, K), at least 0; 0 for constant maps and images.

    Raises:
        ValueError: an option is unknown, a value is not finite, or maps and image differ in the number of samples or
            spatial dimensions.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", equations (6) to (8).

    >>> image = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    >>> maps = torch.tensor([[[3.0, 7.0], [5.0, 5.0]]])
    >>> mutual_information(maps, image)  # one bit, and nothing
    tensor([[0.6931, 0.0000]])
    """
    check_choice("estimator", estimator, get_args(Estimator))
    check_choice("upsample", upsample, get_args(Upsampling))
    check_count("bins", bins, least=2, most=MOST_BINS)
    check_tensor("the feature map", maps)
    check_tensor("the image", image)
    check_count("pixels", pixels, least=2)
    if len(maps) != len(image) or maps.ndim != image.ndim or maps.ndim < 3:
        raise ValueError(
            "expected maps (N, K, *S) and an image (N, C, *T) with as many spatial dimensions; got "
            f"{tuple(maps.shape)} and {tuple(image.shape)}: transformers need a reshape_transform"
        )
    check_finite("the feature map", maps)
    check_finite("the image", image)
    size = tuple(image.shape[2:])
    x = grey(image).to(maps.dtype).flatten(1)
    if estimator == "knn":
        return _nearest_neighbours(maps, x, size, upsample, pixels, seed)
    levels = bins if estimator == "histogram" else GREY_LEVELS
    x = _bin(x, bins) if estimator == "histogram" else (normalise(x) * (GREY_LEVELS - 1)).round().long()
    by_cell = upsample == "nearest" or estimator == "discrete"
    cells, cell_of_pixel = _cells(tuple(maps.shape[2:]) if upsample == "nearest" else size, size, maps.device)
    if not by_cell:
        cell_of_pixel = torch.zeros_like(cell_of_pixel)
    counts = _count_levels(x, cell_of_pixel, len(cells) if by_cell else 1, levels)
    grey_counts, counts = counts.sum(dim=1), counts.to(maps.dtype)

    rows = maps.flatten(0, 1)
    samples = torch.arange(len(maps), device=maps.device).repeat_interleave(maps.shape[1])
    step = max(1, _LARGEST // (len(cells) * (levels if by_cell else 1)))
    information = []
    for part, sample in zip(rows.split(step), samples.split(step), strict=True):
        values = (part if upsample == "nearest" else resize(part, size)).flatten(1)
        if values.shape[1] > len(cells):  # the image is smaller than the map
            values = values[:, cells]
        codes = _bin(values, bins) if estimator == "histogram" else values
        if by_cell:
            joint, row = _joint_counts_of_cells(codes, counts, sample)
        else:
            joint, row = _joint_counts_of_pixels(codes, x[sample], bins)
        information.append(_plug_in(joint.to(maps.dtype), row, grey_counts[sample]))
    # Set to exactly 0, not left to rounding: constant images, and constant maps, which bilinear upsampling perturbs.
    varies = (rows.flatten(1).amin(1) < rows.flatten(1).amax(1)) & (grey_counts.amax(1) < x.shape[1])[samples]
    return (torch.cat(information).clamp(min=0) * varies).to(maps.dtype).view(maps.shape[:2])


def grey(image: Tensor) -> Tensor:
    """Turn images grey, (N, C, *S) -> (N, *S): 0.299 R + 0.587 G + 0.114 B (ITU-R 601), or the mean over channels."""
    if image.shape[1] == 3:
        return torch.einsum("nc...,c->n...", image, image.new_tensor([0.299, 0.587, 0.114]))
    return image.mean(dim=1)


def _bin(values: Tensor, bins: int) -> Tensor:
    """Number equal-width bins over the range of each row (R, P): integers in [0, bins)."""
    return (normalise(values) * bins).long().clamp(max=bins - 1)


def _cells(size: tuple[int, ...], image_size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cells that nearest upsampling shows, and for each pixel the position of its cell among them."""
    numbers = torch.arange(math.prod(size), dtype=torch.float64, device=device).view(1, 1, *size)
    shown = F.interpolate(numbers, image_size, mode="nearest").flatten().long()
    cells, of_pixel = torch.unique(shown, return_inverse=True)
    return cells, of_pixel


def _count_levels(x: Tensor, cell_of_pixel: Tensor, cells: int, levels: int) -> Tensor:
    """Count the grey levels x (N, P) in every cell: (N, cells, levels)."""
    counts = torch.zeros(len(x), cells * levels, dtype=torch.float64, device=x.device)
    keys = cell_of_pixel * levels + x
    return counts.scatter_add_(1, keys, torch.ones_like(keys, dtype=counts.dtype)).view(len(x), cells, levels)


def _joint_counts_of_cells(values: Tensor, counts: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Count grey levels for every distinct value of a map.

    Args:
        values: values of the maps, shape (R, cells).
        counts: counts of the grey levels in every cell, shape (N, cells, levels).
        sample: the sample each map belongs to, shape (R,).

    Returns:
        Joint counts, one row for each value of each map, shape (G, levels), and the map each row belongs to, shape
        (G,).
    """
    cells = values.shape[1]
    ordered, order = values.sort(dim=1)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = starts.flatten().nonzero().squeeze(1)
    lines = order + sample[:, None] * cells
    return F.embedding_bag(lines.flatten(), counts.flatten(0, 1), first, mode="sum"), first // cells


def _joint_counts_of_pixels(codes: Tensor, x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Count pairs of codes (R, P) and x (R, P), both in [0, levels): see `_joint_counts_of_cells`."""
    keys = codes * levels + x
    counts = torch.zeros(len(codes), levels * levels, dtype=torch.float64, device=x.device)
    counts.scatter_add_(1, keys, torch.ones_like(keys, dtype=counts.dtype))
    row = torch.arange(len(codes), device=x.device).repeat_interleave(levels)
    return counts.view(-1, levels), row


def _plug_in(joint: Tensor, row: Tensor, grey_counts: Tensor) -> Tensor:
    """Estimate I = H(A) + H(X) - H(A, X) from relative frequencies, in float64.

    Args:
        joint: counts of the grey levels, one row for each value of each map, shape (G, levels).
        row: the map each row belongs to, shape (G,).
        grey_counts: counts of the grey levels in the image of each map, shape (R, levels).
    """
    pixels = grey_counts[0].sum()
    values = joint.sum(dim=1)
    lines = _sum_n_log_n(joint).double() - _sum_n_log_n(values[:, None].double())
    information = torch.zeros(len(grey_counts), dtype=torch.float64, device=joint.device).index_add_(0, row, lines)
    return (information - _sum_n_log_n(grey_counts.double())) / pixels + pixels.double().log()


def _sum_n_log_n(counts: Tensor) -> Tensor:
    """Sum n ln n over the last dimension of counts, several times faster than `torch.xlogy`."""
    return counts.clamp(min=1).log_().mul_(counts).sum(dim=-1)


def _nearest_neighbours(
    maps: Tensor, x: Tensor, size: tuple[int, ...], upsample: Upsampling, pixels: int, seed: int
) -> Tensor:
    """Estimate by nearest neighbours (Kraskov et al., 2004) on pixels drawn once for all samples."""
    from sklearn.feature_selection import mutual_info_regression

    generator = torch.Generator("cpu").manual_seed(int(seed))
    chosen = torch.randperm(x.shape[1], generator=generator, device="cpu")[:pixels].to(x.device)
    information = []
    for sample, image in zip(maps, x, strict=True):
        enlarged = F.interpolate(sample[None], size)[0] if upsample == "nearest" else resize(sample, size)
        features = enlarged.flatten(1)[:, chosen].T.cpu().numpy()
        information.append(mutual_info_regression(features, image[chosen].cpu().numpy(), random_state=int(seed)))
    return torch.from_numpy(np.stack(information)).to(maps)
