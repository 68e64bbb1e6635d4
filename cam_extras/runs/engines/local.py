"""The local engine: images are read ahead in threads while the model works on those before them."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch

from cam_extras.evaluation.evaluator import Evaluator
from cam_extras.metrics import METRICS, Metric
from cam_extras.probe import find_layer
from cam_extras.runs.batches import Drawing, Input, Reader, Scored, Scorer
from cam_extras.runs.config import RunConfig
from cam_extras.runs.sources import Indexed, Source
from cam_extras.runs.store import Failure

_READERS = min(4, os.cpu_count() or 1)
_READ_AHEAD = 32

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every image, wherever that is.

    Args:
        config: of the run, resolved: its model is a module, its layer a dotted name, its methods are by name, its
            options the dataclass, and it has no data.
        reader: makes inputs of images.
        drawing: see `Scorer`.
        metrics: by name, for other processes, in whose `METRICS` those of the user's own are not.
    """

    config: RunConfig
    reader: Reader
    drawing: Drawing | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def scorer(self, device: torch.device, **options: Any) -> Scorer:
        """Make what scores inputs on the device where the model is."""
        config = self.config
        for name, metric in self.metrics.items():
            METRICS.setdefault(name, metric)
        evaluator = Evaluator(
            config.model,
            find_layer(config.model, config.layer),
            config.methods,
            config.metrics,
            config.options,
            config.reshape_transform,
        )
        return Scorer(
            evaluator,
            target=config.target,
            batch_size=None if config.batch_size == "auto" else config.batch_size,
            device=device,
            maps=config.maps,
            drawing=self.drawing,
            **options,
        )

    def parts(self, images: int) -> range:
        """Number the parts of so many images: part k has those from k * `images_per_part` on."""
        return range(math.ceil(images / self.config.images_per_part))

    def part_of(self, index: int) -> int:
        """Return the part that an image is in."""
        return index // self.config.images_per_part

    def inputs(self, source: Source, done: set[int]) -> Iterator[Callable[[], Input | Failure]]:
        """Yield for each image of the parts that are not done what makes an input of it."""
        if isinstance(source, Indexed):
            for index in range(len(source)):
                if self.part_of(index) not in done:
                    yield partial(self.reader.read, source, index)
        else:
            for sample in source:
                if self.part_of(sample.index) not in done:
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
        for part, of_part in groupby(inputs, lambda item: job.part_of(item.index)):
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
