"""Maps: from contributions to the map that users see, and from a map to a masked input."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_extras._checks import (
    SampleError,
    check_finite,
    check_tensor,
    check_unit_range,
    stacklevel_of_the_caller,
    which,
)

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def normalise(maps: Tensor) -> Tensor:
    """Min-max normalise every map: n(M) = (M - min M) / (max M - min M), or 0 if M is constant.

    Args:
        maps: shape (N, *S).

    Returns:
        Shape (N, *S), in [0, 1].

    Raises:
        TypeError: the maps are not a tensor, or are boolean.
        ValueError: a map has no pixels or holds NaN or infinities; the message names the samples.

    >>> normalise(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    check_finite("the map", maps)
    if maps.ndim < 2 or not maps.shape[1:].numel():
        raise ValueError(f"the map must have shape (N, *S) and pixels; got {tuple(maps.shape)}")
    if maps.dtype == torch.bool:
        raise TypeError("the map must hold numbers; got torch.bool: convert it with .float()")
    space = tuple(range(1, maps.ndim))
    low, high = maps.amin(space, keepdim=True), maps.amax(space, keepdim=True)
    span = high - low
    if maps.is_floating_point() and not span.isfinite().all():  # the range is more than the type can hold
        maps, low, high = maps / 2, low / 2, high / 2
        span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def resize(maps: Tensor, size: tuple[int, ...], align_corners: bool = False) -> Tensor:
    """Resize maps (N, *S) linearly to (N, *size), in one, two or three dimensions.

    With `align_corners` the centres of the corner cells coincide, otherwise their outer corners.

    Raises:
        ValueError: `size` and the maps differ in their number of dimensions.
    """
    check_tensor("the map", maps)
    if not isinstance(size, Iterable):
        raise TypeError(f"size must be a tuple, one number for each dimension of the input; got {size!r:.80}")
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    if len(size) != maps.ndim - 1 or len(size) not in _INTERPOLATION:
        raise ValueError(
            f"cannot resize a map of size {tuple(maps.shape[1:])} to an input of size {tuple(size)}: the layer's "
            "feature map must have the input's spatial dimensions (transformers need a reshape_transform)"
        )
    return F.interpolate(maps[:, None], size, mode=_INTERPOLATION[len(size)], align_corners=align_corners)[:, 0]


def layer_map(contributions: Tensor) -> Tensor:
    """Sum contributions over channels, rectify and normalise: n(ReLU(sum_k C_k)), (N, C, *S) -> (N, *S).

    There is a `UserWarning` if there is only one cell, whose map is 0, or if the channels' contributions cancel, so
    that the map is only rounding error.

    Raises:
        TypeError: the contributions are not a tensor.
        ValueError: they have no channels or no spatial dimensions, or are NaN or infinite.
    """
    check_tensor("the contributions", contributions)
    if contributions.ndim < 3:
        raise ValueError(f"the contributions must have shape (N, C, *S); got {tuple(contributions.shape)}")
    warn_of_a_single_cell(contributions)
    summed = contributions.sum(dim=1)
    _warn_of_rounding(contributions, summed)
    return normalise(summed.relu())


def _warn_of_rounding(contributions: Tensor, summed: Tensor) -> None:
    """Warn if contributions cancel down to rounding errors, which min-max would scale up to a map."""
    check_finite("the map", summed)
    terms = contributions.abs().sum(dim=1).flatten(1).amax(dim=1)
    left = summed.abs().flatten(1).amax(dim=1)
    cancelled = (terms > 0) & (left < 100 * torch.finfo(contributions.dtype).eps * terms)
    if cancelled.any():
        error = SampleError(
            "the channels' contributions cancel, so that the map is rounding,",
            which(cancelled),
            "a layer that is read only through a LayerNorm does that to HiResCAM and ShapleyCAM-H: take the norm, or a "
            "method that weighs whole channels, such as GradCAM",
        )
        warnings.warn(str(error), stacklevel=stacklevel_of_the_caller())


def warn_of_a_single_cell(values: Tensor) -> None:
    """Warn if the values of a layer (N, C, *S) have a single cell."""
    if values.shape[2:].numel() == 1:
        warnings.warn(
            f"the layer's feature map has a single cell, shape {tuple(values.shape)}, and the map of one cell is 0 and "
            "shows no location: choose a layer before pooling, a layer further down, or give larger images",
            stacklevel=stacklevel_of_the_caller(),
        )


def input_map(contributions: Tensor, size: tuple[int, ...]) -> Tensor:
    """Turn contributions (N, C, *S) into maps (N, *size) in [0, 1] at the input's size: n(Up(layer map))."""
    return normalise(resize(layer_map(contributions), size))


def mask(x: Tensor, maps: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Keep what the maps show: x * H + fill * (1 - H).

    Args:
        x: the input, shape (N, C, *S).
        maps: H in [0, 1], shape (N, *S).
        fill: value where the map is 0, in the model's input space: a number or a tensor that broadcasts to `x`. 0 is
            the mean colour if the input was normalised; `black(mean, std)` is black.

    Raises:
        TypeError: the input is not made of floating-point numbers.
        ValueError: the maps differ from the input in size, or leave [0, 1] (samples are named); or the fill does not
            broadcast to the input or is not finite.
    """
    check_tensor("the input", x)
    check_tensor("the map", maps)
    if not x.is_floating_point():
        raise TypeError(f"the input to mask must be of floating point; got {x.dtype}: convert it with .float()")
    if maps.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"expected maps of shape {(x.shape[0], *x.shape[2:])} for an input of shape {tuple(x.shape)}; "
            f"got {tuple(maps.shape)}"
        )
    check_unit_range("the map", maps)
    return blend(x, maps, fill)


def blend(x: Tensor, maps: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Return x * H + fill * (1 - H) as `mask` does, for H of any values."""
    shown = maps[:, None].to(x.dtype)
    if isinstance(fill, int | float) and fill == 0:
        return x * shown
    return x * shown + broadcast_to("fill", fill, x) * (1 - shown)


def broadcast_to(name: str, values: float | Tensor, x: Tensor) -> Tensor:
    """Return a number or tensor in the shape of the input.

    Raises:
        ValueError: it does not broadcast to the input, or is not finite; samples are named.
    """
    try:
        tensor = torch.as_tensor(values, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number or a tensor; got {values!r:.80}") from error
    try:
        expanded = tensor.expand(x.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must be a number or a tensor that broadcasts to the input, {tuple(x.shape)}; "
            f"got {tuple(tensor.shape)}"
        ) from error
    if not tensor.isfinite().all():
        check_finite(name, expanded)
    return expanded


def black(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return the `fill` that is black in an input normalised by `mean` and `std`: -mean / std for every channel.

    >>> black((0.5,), (0.25,))
    tensor([[[-2.]]])
    """
    if len(mean) != len(std) or not all(std):
        raise ValueError(f"expected a mean and a std other than 0 for each channel; got {mean!r:.80} and {std!r:.80}")
    return (-torch.tensor(mean) / torch.tensor(std))[:, None, None]
