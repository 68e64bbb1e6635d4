"""Whether a feature map is what it is taken for, found out from outside: by changing images, and features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

Transform = Callable[[Tensor], Tensor]
_PLACES = 8
_DRAWS = 4
OFFSETS = (0, 0.25, 0.5)
"""Where noise begins in the part of the image that belongs to a cell; it covers half of that in every direction."""


def outputs(
    model: nn.Module, layer: nn.Module, x: Tensor, replace: Callable[[Tensor], Tensor] = lambda features: features
) -> tuple[Tensor, Tensor]:
    """Return what a layer returns and the scores, with the layer's output replaced."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        features, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        seen.append(features)
        return replace(features) if rest is None else (replace(features), *rest)

    handle = layer.register_forward_hook(hook)
    try:
        with torch.no_grad():
            scores = model(x)
    finally:
        handle.remove()
    return seen[0], scores_of(scores)


def scores_of(output: Any) -> Tensor:
    """Return the scores of what a model of any library returns."""
    scores: Tensor = getattr(output, "logits", output)
    return scores


def with_noise(x: Tensor, cell: Sequence[int], grid: Sequence[int], offset: float) -> Tensor:
    """Return images with noise in half of the part that belongs to a cell, always the same for a cell."""
    noisy = x.clone()
    patch = noisy[(..., *_part_of(cell, grid, x.shape[2:], offset))]
    random = torch.Generator().manual_seed(sum(7**n * place for n, place in enumerate(cell)))
    patch.copy_(3 * torch.randn(patch.shape, generator=random))
    return noisy


def share_at_its_place(model: nn.Module, layer: nn.Module, to_map: Transform, x: Tensor) -> float:
    """Return for which share of places noise at the place changes the cell of that place most.

    Changes are compared to those that the cell has anyway, and that there are on average: some cells see more of the
    image. The noise is in the first, the middle or the last half of the part of the image that belongs to the cell,
    whichever is best for all: padding decides on which pixel of its part a cell of a convolutional network is centred.
    """
    at_rest = to_map(outputs(model, layer, x)[0])
    grid = at_rest.shape[2:]
    cells = list(product(*map(range, grid)))
    random = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(cells), generator=random)[:_PLACES].tolist()
    best = 0.0
    for offset in OFFSETS:
        changes = []
        for number in chosen:
            noisy = with_noise(x.repeat(_DRAWS, *[1] * (x.ndim - 1)), cells[number], grid, offset)
            change = to_map(outputs(model, layer, noisy)[0]) - at_rest
            changes.append(change.abs().sum(1).mean(0).flatten())
        change = torch.stack(changes)
        most = (change / (change.mean(0) + change.mean())).argmax(1)
        best = max(best, (most == torch.tensor(chosen)).double().mean().item())
        if best == 1:
            break
    return best


def _part_of(cell: Sequence[int], grid: Sequence[int], size: Sequence[int], offset: float) -> tuple[slice, ...]:
    """Return half of the part of an image that belongs to a cell."""
    starts = [round((number + offset) * length / cells) for number, cells, length in zip(cell, grid, size, strict=True)]
    stops = [
        round((number + offset + 0.5) * length / cells) for number, cells, length in zip(cell, grid, size, strict=True)
    ]
    return tuple(slice(start, max(stop, start + 1)) for start, stop in zip(starts, stops, strict=True))


def effect_of_order(model: nn.Module, layer: nn.Module, to_map: Transform, x: Tensor) -> float:
    """Return how much the scores change if the map's cells change places, compared to those of another image.

    It is 0 for the last feature map if what follows pools it: any layer that mixes the cells would see their places.
    """
    random = torch.Generator().manual_seed(1)

    def disorder(maps: Tensor) -> Tensor:
        order = torch.randperm(maps[0, 0].numel(), generator=random)
        return maps.flatten(2)[:, :, order].reshape(maps.shape)

    other = outputs(model, layer, torch.randn(x.shape, generator=random))[0]
    scores = outputs(model, layer, x)[1]
    disordered = outputs(model, layer, x, lambda features: _with_map(features, to_map, disorder))[1]
    of_other = outputs(model, layer, x, lambda features: _with_map(features, to_map, lambda maps: to_map(other)))[1]
    return ((disordered - scores).norm() / (of_other - scores).norm()).item()


def effect_of_the_rest(model: nn.Module, layer: nn.Module, to_map: Transform, x: Tensor) -> float:
    """Return how much of the scores does not come from the map: what is left of x if its map is that of another image.

    It is 0 unless there are other ways around the layer, such as a class token or a residual connection.
    """
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    features, scores_of_other = outputs(model, layer, other)
    scores = outputs(model, layer, x)[1]
    mixed = outputs(model, layer, x, lambda own: _with_map(own, to_map, lambda maps: to_map(features)))[1]
    return ((mixed - scores_of_other).norm() / (scores - scores_of_other).norm()).item()


def _with_map(features: Tensor, to_map: Transform, change: Transform) -> Tensor:
    """Change a layer's output so that its map is changed, and what is not in the map stays."""
    with torch.enable_grad():
        leaf = features.detach().clone().requires_grad_()
        maps = to_map(leaf)
        (difference,) = torch.autograd.grad(maps, leaf, change(maps.detach()) - maps.detach())
    return features + difference
