"""Targets that ask something else than "what speaks for this class": why A and not B, a box, a region, a likeness.

They are targets in every host: of pytorch-grad-cam's classes, of Captum's `attribute`, of Quantus' explain functions,
of `Evaluator` and of `Probe`. One by itself is for every sample of the batch; a list has one for each. They read the
model's own output, so the utility of the method plays no part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from cam_extras._checks import SampleError, check_choice, check_count, check_finite, check_number, check_tensor, which
from cam_extras.metrics._boxes import overlap
from cam_extras.metrics.probabilities import CONFIDENCES
from cam_extras.utilities import UTILITIES, OutputTarget, UtilityName, class_indices, select_class

__all__ = ["Box", "Contrast", "OutputTarget", "Region", "Similarity", "Value"]

_CLOSEST = 3
Probability: TypeAlias = Literal["softmax", "sigmoid"]
"""How the scores of classes become probabilities: of exclusive classes, or of each class by itself."""


class Contrast(OutputTarget):
    """Why class A and not class B: U = y_A - gamma * sum_B w_B y_B, with w the softmax of the references' scores y_B.

    With one reference it is y_A - gamma y_B. It equals the target of pytorch-grad-cam's FinerCAM,
    sum_B p_B (y_A - gamma y_B) / sum_B p_B with the probabilities p, in a form that stays right where all p_B are tiny.

    Args:
        target: A, the class index, or one per sample; None for the predicted class.
        references: B: a class index; a flat sequence of them, for every sample; a tensor (N, R), R for each sample;
            "second", the class with the highest score besides A; or None for the three classes whose scores are closest
            to A's, as in FinerCAM.
        gamma: strength of the comparison, FinerCAM's `alpha`: 0 explains A alone.

    Raises:
        TypeError: classes are not integers, or gamma is not a number.
        ValueError: (when called) a class does not exist, A is among its references (a `SampleError` that names the
            samples), or the model has a single class.

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", CVPR 2025.

    >>> Contrast(2, 0)(torch.tensor([1.0, 2.0, 4.0]))
    tensor(3.)
    """

    def __init__(
        self,
        target: int | Sequence[int] | Tensor | None = None,
        references: int | Sequence[int] | Tensor | Literal["second"] | None = None,
        gamma: float = 1.0,
    ):
        check_number("gamma", gamma)
        if isinstance(references, str):
            check_choice("references", references, ("second",))
        elif references is not None:
            references = _as_indices("references", references)
            if references.ndim == 1 and target is not None and _as_indices("target", target).numel() > 1:
                raise ValueError(
                    "with one target per sample, say which references are whose: a tensor (N, R), such as "
                    "references[:, None] for one each, or (1, R) for the same of every sample"
                )
        self.target = target
        self.references = references
        self.gamma = gamma

    @property
    def predicts(self) -> bool:
        """Whether a class is still to be chosen by the scores."""
        return self.target is None or not isinstance(self.references, Tensor)

    def resolved(self, outputs: Tensor) -> Contrast:
        """Return the contrast with the classes of scores (N, C)."""
        _check_scores(self, outputs, 2)
        target = class_indices(outputs, outputs.argmax(dim=1) if self.target is None else self.target)
        found = copy.copy(self)
        found.target, found.references = target, self._references(outputs, target)
        same = (found.references == target[:, None]).any(dim=1)
        if same.any():
            raise SampleError(
                f"the class {target[same][0]} cannot be compared with itself", which(same), "give another reference"
            )
        return found

    def _references(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the reference classes, shape (N, R)."""
        samples, classes = outputs.shape
        if isinstance(self.references, Tensor):
            rows = self.references.to(outputs.device)
            rows = rows if rows.ndim == 2 else rows.reshape(1, -1)
            if rows.ndim != 2 or len(rows) not in (1, samples) or not rows.numel():
                raise ValueError(
                    f"references must have shape ({samples}, R) for {samples} samples; got "
                    f"{tuple(self.references.shape)}"
                )
            for column in rows.T:
                class_indices(outputs, column)
            return rows.expand(samples, -1)
        if classes < 2:
            raise ValueError(f"a contrast needs two or more classes; got scores of shape {tuple(outputs.shape)}")
        scores = outputs.detach()
        own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, target[:, None], True)
        if self.references == "second":
            return scores.masked_fill(own, -torch.inf).argmax(dim=1, keepdim=True)
        distances = (scores - select_class(scores, target)[:, None]).abs().masked_fill(own, torch.inf)
        return distances.argsort(dim=1, stable=True)[:, : min(_CLOSEST, classes - 1)]

    def of_samples(self, samples: Tensor) -> Contrast:
        """Return the contrast for some of the samples, given by position."""
        found = copy.copy(self)
        if self.target is not None and (target := _as_indices("target", self.target)).numel() > 1:
            found.target = target[samples.to(target.device)]
        if isinstance(self.references, Tensor) and self.references.ndim == 2 and len(self.references) > 1:
            found.references = self.references[samples.to(self.references.device)]
        return found

    def __call__(self, output: Tensor) -> Tensor:
        """Return U for scores (C,), a scalar, or (N, C), shape (N,)."""
        check_tensor("the model's output", output)
        if output.ndim == 1:
            return self(output[None])[0]
        fixed = self.resolved(output)
        compared = output.gather(1, fixed.references)  # type: ignore[arg-type]
        return select_class(output, fixed.target) - self.gamma * (compared.softmax(dim=1) * compared).sum(dim=1)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Contrast({_short(self.target)}, {_short(self.references)}, gamma={self.gamma})"


class Region(OutputTarget):
    """A class over a region: the mean of its scores over the pixels of a mask; for segmentation.

    Where the model's output is (C, *S) for a sample, U = sum_p m_p y_c(p) / sum_p m_p, which has the same maps as
    pytorch-grad-cam's `SemanticSegmentationTarget`. Its confidence, for metrics, is the same mean of probabilities.

    Args:
        target: c, the class index.
        mask: m, shape (*S) of the model's output: booleans, or weights of 0 or more.
        utility: what is read of the scores y: a key of `cam_extras.utilities.UTILITIES`. The Shapley family needs one
            that is not linear, such as "rest".
        probability: "softmax" of the classes, or "sigmoid" of each, for the confidence.

    Raises:
        TypeError: the mask is not a tensor or an array of numbers.
        ValueError: the mask is empty, negative or not finite; or (when called) mask and output differ in size, or there
            is no such class.

    >>> Region(1, torch.tensor([True, True, False]))(torch.tensor([[0.0, 0.0, 0.0], [1.0, 3.0, 9.0]]))
    tensor(2.)
    """

    of_places: ClassVar[bool] = True

    def __init__(self, target: int, mask: Any, *, utility: UtilityName = "logit", probability: Probability = "softmax"):
        check_count("target", target, least=0)
        check_choice("utility", utility, UTILITIES)
        check_choice("probability", probability, CONFIDENCES)
        mask = torch.as_tensor(mask, device=mask.device if isinstance(mask, Tensor) else "cpu")
        check_finite("the mask", mask)
        if mask.is_complex() or (mask < 0).any() or not mask.any():
            raise ValueError(f"the mask of a region must have weights of 0 or more, and not only 0; got {mask!r:.80}")
        self.target, self.mask, self.utility, self.probability = target.__index__(), mask, utility, probability

    def _mean(self, values: Tensor) -> Tensor:
        weights = self.mask.to(values)
        mean: Tensor = (values[self.target] * weights).sum() / weights.sum()
        return mean

    def __call__(self, output: Tensor) -> Tensor:
        """Return U for scores (C, *S)."""
        self._check(output)
        return self._mean(UTILITIES[self.utility].transform(output, 0))

    def confidence(self, output: Tensor) -> Tensor:
        """Return the mean probability of the class over the region."""
        self._check(output)
        if self.probability == "softmax" and len(output) < 2:
            raise ValueError('softmax of one class is always 1: give the region probability="sigmoid"')
        return self._mean(CONFIDENCES[self.probability](output.double(), 0))

    def _check(self, output: Tensor) -> None:
        check_tensor("the model's output", output)
        if output.shape[1:] != self.mask.shape:
            raise ValueError(
                f"the mask of a region has the size of the model's output: expected {tuple(output.shape[1:])}, for an "
                f"output of shape {tuple(output.shape)} per sample; got {tuple(self.mask.shape)}"
            )
        if self.target >= len(output):
            raise ValueError(f"class indices must lie in [0, {len(output)}); got {self.target}")

    def __repr__(self) -> str:
        return f"Region({self.target}, mask of {int((self.mask > 0).sum())} pixels)"


class Similarity(OutputTarget):
    """Likeness of two images: the cosine of the model's output and the embedding of a reference, in [-1, 1].

    Its confidence, for metrics, is (1 + cosine) / 2.

    Args:
        embedding: the reference, shape (D,), or (N, D), one for each sample; it is not differentiated.

    Raises:
        TypeError: the embedding is not a floating-point tensor.
        ValueError: it is 0 or not finite; or (when called) it does not have the output's shape.

    >>> Similarity(torch.tensor([3.0, 4.0]))(torch.tensor([0.0, 2.0]))
    tensor(0.8000)
    """

    def __init__(self, embedding: Tensor):
        embedding = check_tensor("the embedding", embedding).detach()
        if not embedding.is_floating_point() or embedding.ndim not in (1, 2):
            raise TypeError(
                f"the embedding must be floating point, shape (D,) or (N, D); got {embedding.dtype} "
                f"{tuple(embedding.shape)}"
            )
        check_finite("the embedding", embedding)
        nothing = (embedding == 0).all(dim=-1).reshape(-1)
        if nothing.any():
            raise SampleError("an embedding of 0 has no direction, which came", which(nothing), "give another")
        self.embedding = embedding

    def of_samples(self, samples: Tensor) -> Similarity:
        """Return the target for some of the samples, given by position."""
        if self.embedding.ndim == 1 or len(self.embedding) == 1:
            return self
        return Similarity(self.embedding[samples.to(self.embedding.device)])

    def __call__(self, output: Tensor) -> Tensor:
        """Return the cosine for an output (D,)."""
        output = check_tensor("the model's output", output)
        wanted = self.embedding[0] if self.embedding.ndim == 2 and len(self.embedding) == 1 else self.embedding
        if output.shape != wanted.shape:
            raise ValueError(
                f"the model's output for a sample has shape {tuple(output.shape)}, and the embedding to compare it "
                f"with {tuple(wanted.shape)}: give an embedding that the same model made"
            )
        return torch.cosine_similarity(output, wanted.to(output), dim=0)

    def confidence(self, output: Tensor) -> Tensor:
        """Return (1 + cosine) / 2."""
        return (1 + self(output).double().clamp(-1, 1)) / 2

    def __repr__(self) -> str:
        return f"Similarity(embedding of shape {tuple(self.embedding.shape)})"


class Value(OutputTarget):
    """A number that the model returns, U = y_k: for regression.

    Its confidence, for metrics, says where the number lies between two others: (y_k - low) / (high - low), cut to
    [0, 1].

    Args:
        index: k, its position in a sample's output; a model with one output per sample needs none.
        low: where the confidence is 0; None if there are no metrics.
        high: where the confidence is 1; may be less than `low`.

    Raises:
        TypeError: the index is no integer, or low or high is not a number.
        ValueError: only one of low and high is given, or they are equal; or (when called) there is no such output.

    >>> age = Value(low=0, high=80)
    >>> age(torch.tensor([20.0])), age.confidence(torch.tensor([20.0]))
    (tensor(20.), tensor(0.2500, dtype=torch.float64))
    """

    def __init__(self, index: int = 0, *, low: float | None = None, high: float | None = None):
        check_count("index", index, least=0)
        for name, bound in (("low", low), ("high", high)):
            if bound is not None:
                check_number(name, bound)
        if (low is None) != (high is None) or (low is not None and low == high):
            raise ValueError(f"give both low and high, and not the same; got low={low}, high={high}")
        self.index, self.low, self.high = index.__index__(), low, high

    def __call__(self, output: Tensor) -> Tensor:
        """Return y_k for an output () or (K,)."""
        values = check_tensor("the model's output", output).reshape(-1)
        if output.ndim > 1 or self.index >= len(values):
            raise ValueError(f"there is no number {self.index} in an output of shape {tuple(output.shape)} per sample")
        return values[self.index]

    def confidence(self, output: Tensor) -> Tensor:
        """Return (y_k - low) / (high - low), cut to [0, 1]."""
        if self.low is None or self.high is None:
            raise ValueError(
                "a number is no probability: give Value(..., low=, high=), between which metrics measure it"
            )
        return ((self(output).double() - self.low) / (self.high - self.low)).clamp(0, 1)

    def __repr__(self) -> str:
        return f"Value({self.index}, low={self.low}, high={self.high})"


class Box(OutputTarget):
    """A detected object: the class score of the detection that overlaps a box best, in [0, 1].

    Where no detection overlaps the box by `iou_threshold`, as in a masked image, U is 0. Its confidence, for metrics,
    is U. It reads the outputs, in eval mode, of

    - torchvision's detectors: a dict of boxes, labels and scores for each image. The box is in pixels;
    - ultralytics' YOLO models, `DetectionModel`s: (4 + classes, anchors) with the centre and size of boxes, or, from
      end-to-end heads, (detections, 6) with corners, score and class. The box is in pixels;
    - DETR and its like in transformers: logits and pred_boxes. The box is in fractions of the image's width and height.

    Args:
        box: left, top, right and bottom.
        label: its class, as the model counts them: others do not count. None for the class of the detection that
            overlaps the box best in the explained image.
        iou_threshold: least intersection over union with the box, in (0, 1].
        probability: for logits: "softmax", where the last class is "no object", as in DETR and YOLOS, or "sigmoid", as
            in Deformable DETR and RT-DETR.

    Raises:
        TypeError: the box is not made of four numbers, or (when called) the output is of another kind.
        ValueError: right or bottom is not beyond left or top, or there is no such class.
        SampleError: (when explained) nothing that is detected in the explained image overlaps the box.
    """

    of_places: ClassVar[bool] = True

    def __init__(
        self,
        box: Sequence[float] | Tensor,
        label: int | None = None,
        *,
        iou_threshold: float = 0.5,
        probability: Probability = "softmax",
    ):
        corners = torch.as_tensor(box, dtype=torch.float64, device="cpu").detach()
        if corners.shape != (4,):
            raise TypeError(f"a box is left, top, right and bottom; got shape {tuple(corners.shape)}")
        check_finite("the box", corners)
        if (corners[2:] <= corners[:2]).any():
            raise ValueError(
                f"a box is left, top, right and bottom, right > left, bottom > top; got {corners.tolist()}"
            )
        if label is not None:
            check_count("label", label, least=0)
        check_number("iou_threshold", iou_threshold)
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must lie in (0, 1]; got {iou_threshold}")
        check_choice("probability", probability, CONFIDENCES)
        self.box, self.iou_threshold, self.probability = corners, iou_threshold, probability
        self.label: int | list[int] | None = None if label is None else label.__index__()
        self._seen = False

    @property
    def predicts(self) -> bool:
        """Whether the detection in the explained image is still to be found."""
        return not self._seen

    def resolved(self, outputs: Any) -> Box:
        """Return the target with the class of the detection in each of the explained images."""
        labels, missing = [], []
        for number, (target, output) in enumerate(zip(self.each(len(outputs)), outputs, strict=True)):
            best = target._best(output)  # type: ignore[attr-defined]
            missing += [] if best else [number]
            labels.append(best[1] if best else -1)
        if missing:
            of_label = "" if self.label is None else f" of class {self.label}"
            raise SampleError(
                f"no detection{of_label} overlaps the box {[round(side, 2) for side in self.box.tolist()]} by "
                f"{self.iou_threshold} or more",
                missing,
                "give a box that the model finds, in the units of its output (pixels of the input; for DETR, fractions "
                "of the image)",
            )
        found = copy.copy(self)
        found.label, found._seen = labels if len(set(labels)) > 1 else labels[0], True
        return found

    def of_samples(self, samples: Tensor) -> Box:
        """Return the target for some of the samples, given by position."""
        if not isinstance(self.label, list):
            return self
        found = copy.copy(self)
        labels = [self.label[sample] for sample in samples.tolist()]
        found.label = labels if len(set(labels)) > 1 else labels[0]
        return found

    def __call__(self, output: Any) -> Tensor:
        """Return the score of the detection in one sample's output, 0 if there is none."""
        best = self._best(output)
        return _detections(output, self.probability).scores.sum() * 0 if best is None else best[0]

    def confidence(self, output: Any) -> Tensor:
        """Return the same."""
        return self(output)

    def _best(self, output: Any) -> tuple[Tensor, int] | None:
        """Return score and class of the detection that overlaps the box best; None if none does."""
        found = _detections(output, self.probability)
        label: Any = self.label
        if found.labels is None and label is not None and label >= found.scores.shape[1]:
            raise ValueError(f"class indices must lie in [0, {found.scores.shape[1]}); got {label}")
        if not len(found.boxes):
            return None
        overlaps = overlap(self.box[None], found.boxes.detach().double().cpu())[0].nan_to_num(0)
        if found.labels is not None and label is not None:
            overlaps = overlaps.masked_fill(found.labels.cpu() != label, 0)
        best = int(overlaps.argmax())
        if overlaps[best] < self.iou_threshold:
            return None
        scores = found.scores[best]
        if found.labels is not None:
            return scores, int(found.labels[best])
        label = int(scores.argmax()) if label is None else label
        return scores[label], label

    def __repr__(self) -> str:
        return f"Box({self.box.tolist()}, {_short(self.label)}, iou_threshold={self.iou_threshold})"


class _Detections:
    """What is detected in an image.

    Attributes:
        boxes: (D, 4), left, top, right and bottom.
        scores: (D,) of the `labels`, or (D, classes).
        labels: (D,), or None.
    """

    def __init__(self, boxes: Tensor, scores: Tensor, labels: Tensor | None = None):
        self.boxes, self.scores, self.labels = boxes, scores, labels


def _detections(output: Any, probability: Probability) -> _Detections:
    """Read one sample's output of a detector."""
    if isinstance(output, Mapping):
        if {"boxes", "scores", "labels"} <= set(output):
            return _Detections(output["boxes"], output["scores"], output["labels"])
        if {"logits", "pred_boxes"} <= set(output):
            scores = CONFIDENCES[probability](output["logits"], 1)
            scores = scores[:, :-1] if probability == "softmax" else scores
            return _Detections(_corners(output["pred_boxes"]), scores)
        got = f"a dict of {', '.join(map(str, output))}"
    elif isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == 6:
        return _Detections(output[:, :4], output[:, 4], output[:, 5].long())
    elif isinstance(output, Tensor) and output.ndim == 2 and len(output) > 4:
        return _Detections(_corners(output[:4].T), output[4:].T)
    else:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise TypeError(
        f"a box is read from boxes, labels and scores (torchvision), (4 + classes, anchors) (YOLO), or logits and "
        f"pred_boxes (DETR); the model returns {got} for a sample: give a function of your own instead"
    )


def _corners(boxes: Tensor) -> Tensor:
    """Turn boxes (D, 4) of centre and size into left, top, right and bottom."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _as_indices(name: str, given: Any) -> Tensor:
    """Return class indices as a tensor, or raise TypeError."""
    try:
        indices = torch.as_tensor(given, device=given.device if isinstance(given, Tensor) else "cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be class indices, integers; got {given!r:.80}") from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{name} must be class indices, integers; got {given!r:.80}")
    return indices.long()


def _check_scores(target: OutputTarget, outputs: Any, dims: int) -> None:
    check_tensor("the model's output", outputs)
    if outputs.ndim != dims:
        raise ValueError(f"{target!r} needs class scores (N, C); got an output of shape {tuple(outputs.shape)}")


def _short(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
