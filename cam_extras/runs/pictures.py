"""Which images the report shows: the best, the worst and some at random, chosen while the run goes on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from cam_extras.metrics import METRICS


def image_values(
    indices: Iterable[int],
    methods: Iterable[str],
    scores: Iterable[float],
    metric: str,
    controls: Collection[str] = (),
) -> dict[int, float]:
    """Return for each image the mean of its scores over methods, negative where lower is better.

    Args:
        indices: the image of each row.
        methods: the method of each row.
        scores: the score of each row.
        metric: the metric of the scores, a key of `METRICS`.
        controls: methods that are left out, unless there are no others.
    """
    rows = list(zip(indices, methods, scores, strict=True))
    of_image: dict[int, list[float]] = {}
    for index, _, score in [row for row in rows if row[1] not in controls] or rows:
        of_image.setdefault(index, []).append(score)
    sign = 1 if METRICS[metric].higher_is_better else -1
    return {index: sign * sum(values) / len(values) for index, values in of_image.items()}


def choose_images(values: Mapping[int, float], count: int, seed: int) -> dict[str, list[int]]:
    """Return the indices of the best, the worst and random images, `count` of each, from their values.

    The choice from two sets together follows from the choices from each: an image not chosen from a set is not chosen
    from a larger one.

    >>> choose_images({0: 0.5, 1: 0.9, 2: 0.1}, 1, seed=0)
    {'best': [1], 'worst': [2], 'random': [2]}
    """
    orders: dict[str, Callable[[int], Any]] = {
        "best": lambda index: (-values[index], index),
        "worst": lambda index: (values[index], index),
        "random": lambda index: hashlib.sha256(f"{seed} {index}".encode()).digest(),
    }
    return {name: heapq.nsmallest(count, values, key=order) for name, order in orders.items()}


class Chosen:
    """The images chosen so far, as parts of a run come in, in any order."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed = count, seed
        self._values: dict[int, float] = {}

    def add(self, values: Mapping[int, float]) -> Sequence[int]:
        """Add the values of more images and return which of them are now among the chosen."""
        together = {**self._values, **values}
        chosen = {index for group in choose_images(together, self._count, self._seed).values() for index in group}
        self._values = {index: together[index] for index in chosen}
        return sorted(chosen & values.keys())
