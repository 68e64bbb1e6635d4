"""How many images go through a model at a time."""

from __future__ import annotations

from torch import Tensor

_CACHED_PIXELS = 4 * 224 * 224
_MOST = 32


def rows_of_a_pass(x: Tensor, chosen: int | None = None) -> int:
    """Return how many images like those of x (N, C, *S) to run at a time: as chosen, or what the device does best."""
    if chosen is not None:
        return chosen
    if x.device.type != "cpu":
        return _MOST
    # Large intermediate results leave the processor's cache, and memory in pieces this big is taken anew every time.
    return min(max(_CACHED_PIXELS // x.shape[2:].numel(), 1), _MOST)
