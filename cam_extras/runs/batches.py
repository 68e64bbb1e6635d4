"""Rows of scores, image by image: how every engine of a run processes its images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cam_extras._batching import best_rows, limited
from cam_extras._checks import SampleError, check_finite
from cam_extras.evaluation.evaluator import Evaluation, Evaluator
from cam_extras.metrics import METRICS
from cam_extras.runs.config import ALL_LABELS
from cam_extras.runs.pictures import Chosen, image_values
from cam_extras.runs.sources import Indexed, Sample
from cam_extras.runs.store import Failure, pack_map
from cam_extras.targets import Contrast

TARGETS = ("predicted", "label", ALL_LABELS)
REFERENCES = ("second", "label")
_ALIKE = 16  # the same failure on this many first images is no accident
_PICTURE_SIZE = 224


@dataclass(frozen=True, eq=False)
class Input:
    """An image as the model takes it.

    Attributes:
        index: its position in the data set.
        path: its file.
        label: its class, if known.
        x: shape (C, *S).
        boxes: where the object is, (B, 4) in pixels of x.
        mask: the same as a boolean mask (H, W).
        target: the class to explain, if the input has one of its own.
    """

    index: int
    path: str
    label: int | None
    x: Tensor
    boxes: Tensor | None = None
    mask: Tensor | None = None
    target: int | None = None

    def failure(self, stage: str, message: str) -> Failure:
        """Return the record of a failure on this image."""
        return Failure(self.index, self.path, stage, message)


@dataclass(frozen=True)
class Reader:
    """Turns images into inputs; an error on an image becomes a `Failure`.

    Args:
        transform: image -> (C, *S); None if images are inputs already.
        target: what will be explained; with "label", an image without a label is a failure.
        object_needed: whether a metric needs the object.
        against: what the class will be compared with; likewise.
    """

    transform: Callable[[Any], Tensor] | None
    target: str | int
    object_needed: bool
    against: str | int | None = None

    def read(self, source: Indexed, index: int) -> Input | Failure:
        """Read one image of a source."""
        try:
            sample = source.read(index)
        except Exception as error:  # decoders and data sets may raise anything
            return Failure(index, source.path(index), "read", message_of(error))
        return self.prepare(sample)

    def prepare(self, sample: Sample) -> Input | Failure:
        """Turn an image into an input."""

        def failure(stage: str, message: str) -> Failure:
            return Failure(sample.index, sample.path, stage, message)

        if isinstance(sample.target, str):
            return failure("label", sample.target)
        if self.target == "label" and sample.label is None:
            return failure("label", "the class to explain is the label, and this image has none")
        if self.against == "label" and sample.label is None:
            return failure("label", "the class to compare with is the label, and this image has none")
        if self.object_needed and sample.boxes is None and sample.mask is None:
            return failure("object", "a metric asks where the object is, and this image has neither boxes nor a mask")
        try:
            x = sample.image if self.transform is None else self.transform(sample.image)
            if not isinstance(x, Tensor):
                todo = "give a transform" if self.transform is None else "the transform must make one"
                raise TypeError(f"expected a tensor (C, *S) for the model; got {type(x).__name__}: {todo}")
            boxes, mask = sample.boxes, sample.mask
            if self.transform is not None and isinstance(sample.image, Image.Image) and self.object_needed:
                boxes, mask = self._transformed_object(sample)
        except Exception as error:
            return failure("transform", message_of(error))
        return Input(sample.index, sample.path, sample.label, x, boxes, mask, sample.target)

    def _transformed_object(self, sample: Sample) -> tuple[Tensor | None, Tensor | None]:
        """Move boxes and mask as the transform moves pixels: it is applied to white shapes on black."""
        width, height = sample.image.size  # type: ignore[misc]
        nothing_left = (
            "nothing is left of the object after the transform: it lies outside the part of the image that is kept, or "
            "is smaller than a pixel"
        )
        if sample.mask is not None:
            if not sample.mask.any():
                raise ValueError("the mask of the object is empty")
            mask = self._moved(sample.mask.cpu().numpy())
            if not mask.any():
                raise ValueError(nothing_left)
            return None, mask
        boxes = []
        if not any(left < width and top < height for left, top, _, _ in sample.boxes.tolist()):  # type: ignore[union-attr]
            raise ValueError(f"the boxes lie outside the image, which is {width} pixels wide and {height} high")
        for left, top, right, bottom in sample.boxes.tolist():  # type: ignore[union-attr]
            inside: np.ndarray = np.zeros((height, width), bool)
            inside[round(top) : round(bottom), round(left) : round(right)] = True
            rows, columns = (self._moved(inside).any(dim=axis).nonzero().flatten() for axis in (1, 0))
            if len(rows):
                boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
        if not boxes:
            raise ValueError(nothing_left)
        return torch.tensor(boxes), None

    def _moved(self, inside: np.ndarray) -> Tensor:
        black, shape, white = (
            self.transform(Image.fromarray(values.astype(np.uint8) * 255).convert("RGB")).double().mean(dim=0)  # type: ignore[misc]
            for values in (np.zeros_like(inside), inside, np.ones_like(inside))
        )
        return shape > (black + white) / 2


@dataclass
class Scored:
    """The results of a part of a data set, as `Store.write` takes them.

    Attributes:
        rows: one for each image and method.
        errors: the images without scores.
        pictures: pictures of the images chosen for the report.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[Failure] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing:
    """How the images chosen for the report are drawn.

    Args:
        picture_of: input (C, H, W) -> the image to show, in [0, 1].
        overlay: this image and a map (H, W) in [0, 1] -> (H, W, 3), in [0, 1].
        count: how many of the best, the worst and random images.
        metric: ranks the images.
        seed: chooses the random ones.
    """

    picture_of: Callable[[Tensor], Tensor]
    overlay: Callable[[Tensor, Tensor], np.ndarray]
    count: int
    metric: str
    seed: int

    def draw(self, evaluation: Evaluation, batch: Sequence[Input], number: int) -> list[dict[str, Any]]:
        """Return the pictures of one image of a batch, as `Store.write` takes them: itself and one overlay per method.

        Inputs that are not two-dimensional images with one or three channels have none.
        """
        if batch[number].x.ndim != 3 or len(batch[number].x) not in (1, 3):
            return []
        pixels = self.picture_of(batch[number].x).float().cpu()
        drawn = {"": pixels.permute(1, 2, 0).numpy()}
        for method, maps in evaluation.maps.items():
            drawn[method] = self.overlay(pixels, maps[number])
        return [
            {"index": batch[number].index, "method": method, "picture": _jpeg(picture)}
            for method, picture in drawn.items()
        ]


class Scorer:
    """Scores inputs with an evaluator, in batches; an error on an image becomes a `Failure`.

    If the model fails on an image of a batch, or its scores are undefined, the batch is scored again without it. If
    memory runs out, the larger of two sizes is halved from then on, down to one image: the batch, or the passes that
    methods and metrics make within one (their `internal_batch_size`). An image is scored by all methods or by none.

    Args:
        evaluator: methods and metrics.
        target: "predicted", "label" or a class; not used for inputs that have a target of their own.
        against: what it is compared with: "second", "label" or a class; None to explain it alone.
        batch_size: largest number of images in a batch; None for what suits the device.
        device: where the model is.
        maps: whether rows have maps.
        drawing: how to draw pictures; None for none.
        stop_early: raise if the model fails in the same way on all of the first images.
        on_progress: called with the number of images that are done.

    Raises:
        RuntimeError: the model failed on all of the first images, or the device cannot go on.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        target: str | int = "predicted",
        against: str | int | None = None,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
        maps: bool = False,
        drawing: Drawing | None = None,
        stop_early: bool = True,
        on_progress: Callable[[int], None] = lambda images: None,
    ):
        self._evaluator, self._target, self._against, self._batch_size = evaluator, target, against, batch_size
        self._device, self._maps, self._drawing, self._on_progress = torch.device(device), maps, drawing, on_progress
        self._chosen = None if drawing is None else Chosen(drawing.count, drawing.seed)
        self._failed_alike: list[str] | None = [] if stop_early else None
        self._rows: int | None = None  # most images in a pass within a batch
        self._rows_that_fit: int | None = None

    def __call__(self, inputs: Iterable[Input | Failure]) -> Scored:
        """Score the inputs of a part."""
        scored = Scored()
        for batch in self._batches(inputs, scored):
            pending = [batch]
            while pending:
                now = pending.pop()
                most = self._batch_size or len(now)
                pending += self._score(now, scored) if len(now) <= most else [now[most:], now[:most]]
            self._on_progress(len(batch))
        scored.rows.sort(key=lambda row: row["index"])  # stable: methods stay in order
        scored.errors.sort(key=lambda error: error.index)
        scored.pictures.sort(key=lambda picture: picture["index"])
        return scored

    def _batches(self, inputs: Iterable[Input | Failure], scored: Scored) -> Iterator[list[Input]]:
        """Yield batches of inputs of one shape, and note the failures."""
        waiting: dict[tuple[Any, ...], list[Input]] = {}
        for item in inputs:
            if isinstance(item, Failure):
                scored.errors.append(item)
                self._on_progress(1)
                continue
            kind = (item.x.shape, item.x.dtype, item.boxes is None)
            batch = waiting.setdefault(kind, [])
            batch.append(item)
            if len(batch) >= (self._batch_size or best_rows(item.x.shape[1:], self._device)):
                yield waiting.pop(kind)
        yield from waiting.values()

    def _score(self, batch: list[Input], scored: Scored) -> list[list[Input]]:
        """Score a batch, or return the batches to try instead."""
        undefined: dict[int, str] = {}
        out_of_memory = False
        largest = len(batch)
        try:
            with limited(self._rows) as passes:
                self._add(batch, self._evaluate(batch), scored)
        except Exception as error:  # the model is the user's, and may raise anything
            message = message_of(error)
            if isinstance(error, SampleError) and max(error.samples) < len(batch):
                undefined = dict.fromkeys(error.samples, ": ".join(filter(None, [error.wrong, error.todo])))
            elif _device_is_lost(error):
                raise RuntimeError(f"{self._device} cannot go on: {message}") from error
            else:
                out_of_memory = _out_of_memory(error)
                largest = max(len(batch), passes.largest)
        else:
            self._failed_alike, self._rows_that_fit = None, self._rows
            return []
        # Only here are the tensors that the exception held released.
        if undefined:
            scored.errors += [batch[number].failure("score", wrong) for number, wrong in undefined.items()]
            left = [item for number, item in enumerate(batch) if number not in undefined]
            return [left] if left else []
        if out_of_memory and largest > 1:
            self._shrink(len(batch), passes.largest, (largest + 1) // 2)
            return [batch]
        if len(batch) > 1:
            half = (len(batch) + 1) // 2
            return [batch[half:], batch[:half]]
        self._rows = self._rows_that_fit  # this image does not fail because of the number
        scored.errors.append(batch[0].failure("memory" if out_of_memory else "model", message))
        self._check_first(message)
        return []

    def _shrink(self, images: int, rows: int, fewer: int) -> None:
        """Go on with fewer images in a batch, or in a pass within one."""
        most, going_on = max(images, rows), []
        if images > fewer:
            self._batch_size = fewer
            going_on.append(str(fewer))
        if rows > fewer:
            self._rows = fewer
            going_on.append(f"internal_batch_size={fewer}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"there is no memory for {most} images at a time: going on with {' and '.join(going_on)}",
            RuntimeWarning,
            stacklevel=2,
        )

    def _check_first(self, message: str) -> None:
        """Raise if the model has failed in the same way on all of so many images that they are not the cause."""
        if self._failed_alike is None:
            return
        self._failed_alike.append(message)
        if len(set(self._failed_alike)) > 1:
            self._failed_alike = None
        elif len(self._failed_alike) == _ALIKE:
            raise RuntimeError(f"all of the first {_ALIKE} images failed in the same way: {message}")

    def _evaluate(self, batch: list[Input]) -> Evaluation:
        x = torch.stack([item.x for item in batch]).to(self._device)
        target: Any = None if self._target == "predicted" else self._target
        if batch[0].target is not None:  # then so has every input of the run
            target = torch.tensor([item.target for item in batch], device=self._device)
        against: Any = self._against
        if "label" in (self._target, against):
            labels = torch.tensor([item.label for item in batch], device=self._device)
            target = labels if self._target == "label" else target
            against = labels[:, None] if against == "label" else against
        if against is not None:
            target = Contrast(target, against)
        known: dict[str, Any] = {}
        if batch[0].mask is not None:
            known["masks"] = torch.stack([item.mask for item in batch]).to(self._device)  # type: ignore[misc]
        elif batch[0].boxes is not None:
            known["boxes"] = [item.boxes.to(self._device) for item in batch]  # type: ignore[union-attr]
        evaluation = self._evaluator(x, target, frames=False, **known)
        _check_labels([item.label for item in batch], evaluation.classes)
        return evaluation

    def _add(self, batch: list[Input], evaluation: Evaluation, scored: Scored) -> None:
        """Add the rows and pictures of a batch, or raise SampleError for a score that is not finite."""
        of_batch = {
            "index": [item.index for item in batch],
            "path": [item.path for item in batch],
            "label": [item.label for item in batch],
            "target": evaluation.target.tolist(),
            "predicted": evaluation.predicted.tolist(),
            "probability": evaluation.confidence.tolist(),
        }
        columns = []
        for method, maps in evaluation.maps.items():
            scores = {
                name: values.double()
                for name, values in evaluation.scores[method].items()
                if not METRICS[name].of_methods  # the summary compares methods, over the images that all of them scored
            }
            for name, values in scores.items():
                check_finite(f"{method}: the {name}", values)
            flat = maps.flatten(1).double()
            of_method = {
                **of_batch,
                "method": [method] * len(batch),
                "map_mean": flat.mean(dim=1).tolist(),
                "map_max": flat.amax(dim=1).tolist(),
                **{name: values.tolist() for name, values in scores.items()},
            }
            for name, curve in evaluation.curves[method].items():
                of_method[name] = curve.scores.tolist()
                of_method["curve_fractions"] = [curve.fractions.tolist()] * len(batch)
            columns.append(of_method)
        rows = [
            {name: values[number] for name, values in of_method.items()}
            for number in range(len(batch))
            for of_method in columns
        ]
        if self._maps:
            of_maps = {method: maps.cpu() for method, maps in evaluation.maps.items()}
            for row_number, row in enumerate(rows):
                row.update(pack_map(of_maps[row["method"]][row_number // len(columns)]))
        if self._drawing is not None and self._chosen is not None:
            metric = self._drawing.metric
            indices, of_rows, best_by = ([row[name] for row in rows] for name in ("index", "method", metric))
            of_images = image_values(indices, of_rows, best_by, metric, evaluation.controls)
            chosen = self._chosen.add(of_images)
            for number, item in enumerate(batch):
                if item.index in chosen:
                    scored.pictures += self._drawing.draw(evaluation, batch, number)
        scored.rows += rows


def _jpeg(picture: np.ndarray) -> bytes:
    """Return an image (H, W, 1 or 3) in [0, 1] as a JPEG file, no larger than reports show it."""
    values = (picture * 255).round().astype(np.uint8)
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    image.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _check_labels(labels: Sequence[int | None], classes: int | None) -> None:
    """Raise SampleError if labels are classes that the model lacks: no prediction could be right."""
    for label in labels:
        if label is not None and classes is not None and label >= classes:
            raise SampleError(
                f"the label {label} is not one of the model's {classes} classes, which count from 0",
                [number for number, other in enumerate(labels) if other == label],
            )


def message_of(error: BaseException) -> str:
    """Return what an error says, with its kind where that tells more."""
    text = str(error).strip()
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _out_of_memory(error: Exception) -> bool:
    told = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in told)
    )


def _device_is_lost(error: Exception) -> bool:
    """Whether the device is unusable from now on, as after a failed assertion in a kernel."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
