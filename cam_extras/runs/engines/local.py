"""The local engine: threads read images ahead while the model works on earlier ones."""

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
from cam_extras.runs.batches import Drawing, Input, Reader, Scored, Scorer
from cam_extras.runs.config import RunConfig
from cam_extras.runs.sources import Indexed, Source
from cam_extras.runs.store import Failure

_READERS = min(4, os.cpu_count() or 1)
_READ_AHEAD = 32

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Job:
    """What to do with every image, in whatever process.

    Args:
        config: the resolved settings of the run: its model is a module, its layer a dotted name or a list of them, its
            methods a mapping by name, its options the dataclass, and it has no data.
        reader: turns images into inputs.
        drawing: see `Scorer`.
        metrics: by name, for other processes, whose `METRICS` lack the user's own.
    """

    config: RunConfig
    reader: Reader
    drawing: Drawing | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the metrics first: options, which come later, are read by their names."""
        return _job, (_Listed(self.metrics), self.config, self.reader, self.drawing)

    def scorer(self, device: torch.device, **options: Any) -> Scorer:
        """Make the scorer, for the device where the model is."""
        config = self.config
        evaluator = Evaluator(
            config.model,
            config.layer,
            config.methods,
            config.metrics,
            config.options,
            config.reshape_transform,
            config.model_output,
            config.confidence,
            config.fusion,
        )
        return Scorer(
            evaluator,
            target=config.target,
            against=config.against,
            batch_size=None if config.batch_size == "auto" else config.batch_size,
            device=device,
            maps=config.maps,
            drawing=self.drawing,
            **options,
        )

    def parts(self, images: int) -> range:
        """Return the numbers of the parts: part k starts at image k * `images_per_part`."""
        return range(math.ceil(images / self.config.images_per_part))

    def part_of(self, index: int) -> int:
        """Return the part that an image is in."""
        return index // self.config.images_per_part

    def inputs(self, source: Source, done: set[int]) -> Iterator[Callable[[], Input | Failure]]:
        """Yield for each image of the parts not yet done a function that makes its input."""
        if isinstance(source, Indexed):
            for index in range(len(source)):
                if self.part_of(index) not in done:
                    yield partial(self.reader.read, source, index)
        else:
            for sample in source:
                if self.part_of(sample.index) not in done:
                    yield partial(self.reader.prepare, sample)


class _Listed(dict[str, Metric]):
    """Metrics that are listed in `METRICS` wherever they are unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _list, (dict(self),)


def _list(metrics: dict[str, Metric]) -> dict[str, Metric]:
    for name, metric in metrics.items():
        METRICS.setdefault(name, metric)
    return metrics


def _job(metrics: Mapping[str, Metric], config: RunConfig, reader: Reader, drawing: Drawing | None) -> Job:
    return Job(config, reader, drawing, metrics)


def local_parts(
    job: Job, source: Source, done: set[int], device: torch.device, on_progress: Callable[[int], None]
) -> Iterator[tuple[int, Scored]]:
    """Yield the number of each part that is not done, with its results.

    Args:
        job: what to do with every image.
        source: where images come from.
        done: the parts that are done.
        device: where the model is.
        on_progress: called with the number of images that are done.

    Raises:
        RuntimeError: see `Scorer`.
    """
    scorer = job.scorer(device, stop_early=not done, on_progress=on_progress)
    inputs = ahead(job.inputs(source, done))
    try:
        for part, of_part in groupby(inputs, lambda item: job.part_of(item.index)):
            yield part, scorer(of_part)
    finally:
        inputs.close()


def ahead(calls: Iterable[Callable[[], _Item]]) -> Generator[_Item, None, None]:
    """Yield the results of calls in order; threads make the calls ahead of time."""
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
