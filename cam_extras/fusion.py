"""Fusion: from the maps of several layers to one map.

What is fused are the layers' maps M_l = Up(n(ReLU(sum_k C_k))) at the input's size, before the last scaling of
`cam_extras.maps.input_map`, with n(M_l) the map that a host shows for the layer alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from cam_extras._checks import SampleError, stacklevel_of_the_caller, which
from cam_extras._names import Fusion, check_choice
from cam_extras.maps import layer_map, normalise, resize
from cam_extras.methods.base import Method
from cam_extras.probe import Probe


def mean(maps: Tensor) -> Tensor:
    """Mean over layers, n(mean_l M_l), as in `pytorch_grad_cam.BaseCAM`: (L, N, *S) -> (N, *S)."""
    return normalise(maps.mean(dim=0))


def maximum(maps: Tensor) -> Tensor:
    """Maximum over layers, n(max_l n(M_l)): (L, N, *S) -> (N, *S)."""
    return normalise(_scaled(maps).amax(dim=0))


def refine(maps: Tensor) -> Tensor:
    """Product over layers, n(prod_l n(M_l)), as in RefineCAM (arXiv 2605.14641): (L, N, *S) -> (N, *S).

    It shows what all layers show. There is a `UserWarning` for samples whose maps have no cell in common, so that the
    product is 0.
    """
    scaled = _scaled(maps)
    product = scaled.prod(dim=0)
    shown = scaled.flatten(2).amax(dim=2).gt(0).all(dim=0)
    apart = shown & product.flatten(1).amax(dim=1).eq(0)
    if apart.any():
        error = SampleError(
            "the layers' maps have no place in common, so that their product is 0,",
            which(apart),
            'take fusion="mean" or "max", or layers that are closer to each other',
        )
        warnings.warn(str(error), stacklevel=stacklevel_of_the_caller())
    return normalise(product)


def _scaled(maps: Tensor) -> Tensor:
    """Scale the map of each layer and sample."""
    return normalise(maps.flatten(0, 1)).reshape(maps.shape)


FUSIONS: dict[Fusion, Callable[[Tensor], Tensor]] = {"mean": mean, "max": maximum, "refine": refine}
"""Name -> function, maps of L layers (L, N, *S) in [0, 1] -> maps (N, *S) in [0, 1]."""


def fuse(maps: Iterable[Tensor], fusion: Fusion = "mean") -> Tensor:
    """Make one map of those of several layers: "mean", "max" or "refine", their product.

    Args:
        maps: one tensor (N, *S) a layer, in [0, 1], all at the input's size.
        fusion: a key of `FUSIONS`.

    Returns:
        Shape (N, *S), in [0, 1].

    Raises:
        ValueError: there is no such fusion; there are no maps; or they differ in shape, or are not finite.

    >>> fuse([torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.0, 1.0, 0.5]])], "max")
    tensor([[0., 1., 1.]])
    """
    check_fusion(fusion)
    of_layers = list(maps)
    if not of_layers:
        raise ValueError("expected the map of at least one layer, got none")
    shapes = {tuple(layer.shape) for layer in of_layers}
    if len(shapes) > 1:
        raise ValueError(
            f"maps to be fused must have one shape (N, *S), that of the input; got {', '.join(map(str, shapes))}: "
            "resize them first"
        )
    return FUSIONS[fusion](torch.stack(of_layers))


def fused_maps(method: Method, probe: Probe, fusion: Fusion = "mean") -> Tensor:
    """Return a method's maps (N, *input size) in [0, 1], fused over all layers that share the probe's forward pass."""
    of_layers = probe.of_each_layer()
    if len(of_layers) == 1:
        return method.maps(probe)
    return fuse([_map_before_scaling(method, of_layer) for of_layer in of_layers], fusion)


def _map_before_scaling(method: Method, probe: Probe) -> Tensor:
    """Return M (N, *input size), or the maps of a method that scales them itself."""
    if type(method).maps is not Method.maps:
        return method.maps(probe)
    return resize(layer_map(method(probe)), tuple(probe.x.shape[2:]))


def check_fusion(fusion: object) -> None:
    """Raise ValueError unless there is such a fusion."""
    check_choice("fusion", fusion, FUSIONS)
