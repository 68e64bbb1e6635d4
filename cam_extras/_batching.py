"""How many images go through a model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

_CACHED_PIXELS = 4 * 224 * 224
_MOST = 32


@dataclass
class Limit:
    """How many images may go through a model at a time.

    Attributes:
        most: that many; None for as many as are asked for.
        largest: the most that have been asked for and granted; 0 where nothing has.
    """

    most: int | None
    largest: int = 0


_limit: ContextVar[Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited(most: int | None) -> Iterator[Limit]:
    """Have the passes that methods and metrics make inside of a batch be of so many images at most."""
    limit = Limit(most)
    token = _limit.set(limit)
    try:
        yield limit
    finally:
        _limit.reset(token)


def granted(rows: int) -> int:
    """Return how many images of those asked for may go through the model at a time: all, unless `limited`."""
    limit = _limit.get()
    if limit is None:
        return rows
    rows = rows if limit.most is None else min(rows, limit.most)
    limit.largest = max(limit.largest, rows)
    return rows


def rows_of_a_pass(x: Tensor, chosen: int | None = None) -> int:
    """Return how many images like those of x (N, C, *S) to run at a time: as chosen, or what the device does best."""
    return granted(best_rows(x.shape[2:], x.device) if chosen is None else chosen)


def best_rows(size: torch.Size, device: torch.device) -> int:
    """Return how many images of a size *S a device does best at a time."""
    if device.type != "cpu":
        return _MOST
    # Large intermediate results leave the processor's cache, and memory in pieces this big is taken anew every time.
    return min(max(_CACHED_PIXELS // size.numel(), 1), _MOST)
