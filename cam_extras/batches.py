"""How many images go through a model at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED_PIXELS = 4 * 224 * 224
_MOST = 32


def rows_of_a_pass(x: Tensor, chosen: int | None = None) -> int:
    """Return how many images like those of x (N, C, *S) to run at a time: as chosen, or what the device does best."""
    return best_rows(x.shape[2:], x.device) if chosen is None else chosen


def best_rows(size: torch.Size, device: torch.device) -> int:
    """Return how many images of a size *S a device does best at a time."""
    if device.type != "cpu":
        return _MOST
    # Large intermediate results leave the processor's cache, and memory in pieces this big is taken anew every time.
    return min(max(_CACHED_PIXELS // size.numel(), 1), _MOST)
