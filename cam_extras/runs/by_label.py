"""One row for each image and label: of all labels in the data, or of all classes above a probability."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cam_extras._checks import check_finite
from cam_extras._outputs import pick_output
from cam_extras.metrics.probabilities import probabilities
from cam_extras.probe import undisturbed
from cam_extras.runs.batches import Input, Reader, message_of
from cam_extras.runs.config import RunConfig, threshold_in
from cam_extras.runs.engines.local import ahead
from cam_extras.runs.identity import Contents
from cam_extras.runs.progress import progress_bar
from cam_extras.runs.sources import Files, Indexed, Items, Sample, Source, sha256_of


@dataclass(frozen=True, eq=False)
class ByLabel(Indexed):
    """The images of a source, each once for every label; every such row has an index of its own.

    Attributes:
        source: the images.
        rows: the index of an image there, and a class; or why the image has none, in its only row.
        labelled: whether the classes are labels of the data.
    """

    source: Indexed
    rows: tuple[tuple[int, int | str], ...]
    labelled: bool

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, index: int) -> str:
        """Return the path of the image of a row."""
        return self.source.path(self.rows[index][0])

    def read(self, index: int) -> Sample:
        """Return the image of a row, with the class to explain."""
        image, target = self.rows[index]
        label = target if self.labelled and isinstance(target, int) else None
        return replace(self.source.read(image), index=index, label=label, target=target)

    def describe(self) -> dict[str, Any]:
        """Return what the source does, the number of rows and a hash over them."""
        classes = ((image, target if isinstance(target, int) else None) for image, target in self.rows)
        return {**self.source.describe(), "rows": len(self), "sha256_of_rows": sha256_of(classes)}

    def contents(self) -> Contents:
        """Return those of the source."""
        return self.source.contents()


def by_label(source: Source, config: RunConfig, device: torch.device) -> ByLabel:
    """Return the rows of a run whose target asks for one for each image and label.

    With "above=P" the model sees the images one by one, so that nothing but the model decides which rows there are.

    Args:
        source: opened with `several_labels`.
        config: resolved, with the model on `device`.
        device: where the model is.

    Raises:
        ValueError: the images can only be read in order; no image has a label, or a class above P; or a label is
            ambiguous.
    """
    if not isinstance(source, Files | Items):
        raise ValueError(
            f"target={config.target!r} needs the labels of all images before the run, but this data can only be read "
            "once, in order: give a folder, a table, or a data set with a length and an item for each index"
        )
    threshold = threshold_in(config.target)
    found = _labels(source) if threshold is None else _above(source, config, device, threshold)
    rows = tuple((image, target) for image, targets in enumerate(found) for target in targets)
    if not any(isinstance(target, int) for _, target in rows):
        raise ValueError(f"there is nothing to explain in {len(source)} images; the first: {rows[0][1]}")
    return ByLabel(source, rows, labelled=threshold is None)


def _labels(source: Files | Items) -> Iterator[tuple[int, ...] | tuple[str]]:
    """Yield the labels of each image, or why there are none."""
    for index in range(len(source)):
        yield source.labels_of(index) or ("the labels are to be explained, and this image has none",)


def _above(
    source: Indexed, config: RunConfig, device: torch.device, threshold: float
) -> Iterator[tuple[int, ...] | tuple[str]]:
    """Yield the classes of each image with a probability above the threshold, or why there are none."""
    reader = Reader(config.transform, config.target, object_needed=False)
    items = ahead(partial(reader.read, source, index) for index in range(len(source)))
    with closing(items), progress_bar(len(source), 0, config.progress, "looking for classes") as advance:
        for item in items:
            if isinstance(item, Input):
                try:
                    found = _classes(item.x[None].to(device), config, threshold)
                    yield found or (f"no class has a probability above {threshold}",)
                except Exception as error:  # the model is the user's, and may raise anything
                    yield (message_of(error),)
            else:
                yield (item.message,)
            advance(1)


def _classes(x: Tensor, config: RunConfig, threshold: float) -> tuple[int, ...]:
    with torch.no_grad(), undisturbed(config.model, x.device):
        picked = pick_output(config.model(x), 1, config.model_output)
    p = probabilities(picked.scores, config.confidence)
    check_finite("the probabilities", p)
    return tuple((p[0] > threshold).nonzero().flatten().tolist())
