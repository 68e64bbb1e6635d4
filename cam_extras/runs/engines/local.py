"""The local engine: images are read ahead in threads while the model works on those before them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cam_extras.evaluation.evaluator import Evaluator
from cam_extras.methods import Method
from cam_extras.metrics import Options
from cam_extras.probe import find_layer
from cam_extras.runs.batches import Drawing, Input, Reader, Scored, Scorer
from cam_extras.runs.sources import Indexed, Source
from cam_extras.runs.store import Failure

_READERS = min(4, os.cpu_count() or 1)
_READ_AHEAD = 32

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every image, wherever that is.

    Args:
        reader: makes inputs of images.
        model: what is explained.
        layer: its layer, by dotted name.
        methods: by name.
        metrics: keys of `METRICS`.
        options: of the metrics.
        reshape_transform: see `Probe`.
        target: see `Scorer`.
        batch_size: see `Scorer`.
        maps: see `Scorer`.
        drawing: see `Scorer`.
        images_per_part: part k has the images from k * images_per_part on.
    """

    reader: Reader
    model: nn.Module
    layer: str
    methods: Mapping[str, Method]
    metrics: tuple[str, ...]
    options: Options
    reshape_transform: Callable[[Tensor], Tensor] | None
    target: str | int
    batch_size: int | None
    maps: bool
    drawing: Drawing | None
    images_per_part: int

    def scorer(self, device: torch.device, **options: Any) -> Scorer:
        """Make what scores inputs on the device where the model is."""
        evaluator = Evaluator(
            self.model,
            find_layer(self.model, self.layer),
            self.methods,
            self.metrics,
            self.options,
            self.reshape_transform,
        )
        return Scorer(
            evaluator,
            target=self.target,
            batch_size=self.batch_size,
            device=device,
            maps=self.maps,
            drawing=self.drawing,
            **options,
        )

    def inputs(self, source: Source, done: set[int]) -> Iterator[Callable[[], Input | Failure]]:
        """Yield for each image of the parts that are not done what makes an input of it."""
        if isinstance(source, Indexed):
            for index in range(len(source)):
                if index // self.images_per_part not in done:
                    yield partial(self.reader.read, source, index)
        else:
            for sample in source:
                if sample.index // self.images_per_part not in done:
                    yield partial(self.reader.prepare, sample)


def local_parts(
    job: Job, source: Source, done: set[int], device: torch.device, on_progress: Callable[[int], None]
) -> Iterator[tuple[int, Scored]]:
    """Yield the number of each part that is not done, with what came out for it.

    Args:
        job: what is done with every image.
        source: where they come from.
        done: the parts that are.
        device: where the model is.
        on_progress: called with the number of images that are done.

    Raises:
        RuntimeError: see `Scorer`.
    """
    scorer = job.scorer(device, stop_early=not done, on_progress=on_progress)
    inputs = _ahead(job.inputs(source, done))
    try:
        for part, of_part in groupby(inputs, lambda item: item.index // job.images_per_part):
            yield part, scorer(of_part)
    finally:
        inputs.close()


def _ahead(calls: Iterable[Callable[[], _Item]]) -> Generator[_Item, None, None]:
    """Yield what calls return, in order, made in threads before it is asked for."""
    with ThreadPoolExecutor(_READERS, "reader") as pool:
        waiting: deque[Future[_Item]] = deque()
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > _READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
