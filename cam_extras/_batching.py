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
        most: the limit; None for no limit.
        largest: the most that have been granted so far; 0 if none have.
    """

    most: int | None
    largest: int = 0


_limit: ContextVar[Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited(most: int | None) -> Iterator[Limit]:
    """Limit the passes that methods and metrics make within a batch to `most` images."""
    limit = Limit(most)
    token = _limit.set(limit)
    try:
        yield limit
    finally:
        _limit.reset(token)


def granted(rows: int) -> int:
    """Return how many of the images asked for may go through the model at a time: all, unless `limited`."""
    limit = _limit.get()
    if limit is None:
        return rows
    rows = rows if limit.most is None else min(rows, limit.most)
    limit.largest = max(limit.largest, rows)
    return rows


def rows_of_a_pass(x: Tensor, chosen: int | None = None) -> int:
    """Return how many images like those of x (N, C, *S) to run at a time: as chosen, or what suits the device best."""
    return granted(best_rows(x.shape[2:], x.device) if chosen is None else chosen)


def best_rows(size: torch.Size, device: torch.device) -> int:
    """Return how many images of size *S at a time suit a device best."""
    if device.type != "cpu":
        return _MOST
    # Large intermediate results leave the processor's cache, and memory blocks this big are allocated anew every time.
    return min(max(_CACHED_PIXELS // size.numel(), 1), _MOST)
