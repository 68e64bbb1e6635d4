"""Localisation: maps against boxes or masks of the object, and the maps of a study of boxes.

Formulas and letters are those of Zhang et al., "Opti-CAM: Optimizing Saliency Maps for Interpretability", 2024,
appendix B. H (N, H, W) are maps in [0, 1]. The object is known

- by its boxes: for each of the N samples an integer tensor (B, 4) of xmin, ymin, xmax, ymax in pixels of the map, the
  maximum exclusive, or
- by its masks: boolean, (N, H, W); `box_mask` makes them from boxes. With boxes a mask is their union U.

The predicted box B_p of a map is the box around the largest connected component of the pixels above the map's mean.
Components are connected through sides, not corners. A constant map has no pixel above its mean, and so no B_p.
Scores are float64, on the maps' device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor

from cam_extras._checks import (
    SampleError,
    check_choice,
    check_number,
    check_sequence,
    check_tensor,
    check_unit_range,
    which,
)
from cam_extras.maps import resize
from cam_extras.metrics.base import metric

TIES = ("first", "any")
_THRESHOLDS = tuple(step / 100 for step in range(100))

# Neighbours of a pixel: those at its sides, in the same map.
_SIDES = np.zeros((3, 3, 3), dtype=bool)
_SIDES[1] = [[False, True, False], [True, True, True], [False, True, False]]


def box_mask(boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Fill boxes: the union U of every sample's boxes.

    Args:
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.
        size: height and width of the masks.

    Returns:
        Boolean, shape (N, *size).

    Raises:
        TypeError: boxes are not integers.
        ValueError: a sample has no box, or a box is empty or reaches outside the image; samples are named.

    >>> box_mask([torch.tensor([[1, 0, 3, 2]])], (2, 4)).int()
    tensor([[[0, 1, 1, 0],
             [0, 1, 1, 0]]], dtype=torch.int32)
    """
    check_sequence("boxes", boxes)
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device="cpu")
    for mask, rows in zip(masks, _check_boxes(boxes, len(boxes), height, width), strict=True):
        for xmin, ymin, xmax, ymax in rows.tolist():
            mask[ymin:ymax, xmin:xmax] = True
    return masks


def crop_boxes(boxes: Sequence[Tensor], corner: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
    """Move boxes into a crop of the image and clip them to it; those that lie outside are left out.

    Args:
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels of the image, the maximum exclusive.
        corner: left and top of the crop, in pixels of the image.
        size: height and width of the crop.

    Returns:
        For each sample (B', 4) with B' <= B, in pixels of the crop.

    >>> crop_boxes([torch.tensor([[10, 5, 30, 40], [0, 0, 8, 8]])], corner=(8, 16), size=(20, 12))
    [tensor([[ 2,  0, 12, 20]])]
    """
    left, top = corner
    height, width = size
    cropped = []
    for rows in boxes:
        check_tensor("the boxes of a sample", rows)
        moved = rows - rows.new_tensor([left, top, left, top])
        moved = moved.clamp(min=0).minimum(moved.new_tensor([width, height, width, height]))
        cropped.append(moved[(moved[:, 2:] > moved[:, :2]).all(dim=1)])
    return cropped


def component_boxes(masks: Tensor) -> list[Tensor]:
    """Find the boxes around the connected components of masks, largest component first.

    Of components of one size the one that comes first, row by row, is first. The components are found by scipy, on the
    CPU.

    Args:
        masks: boolean, shape (N, H, W).

    Returns:
        For each sample (B, 4), integers on the CPU, as `box_mask` takes them; B is 0 where a mask is empty.

    Raises:
        ValueError: the masks are not boolean or have another number of dimensions.

    >>> component_boxes(torch.tensor([[[1, 0, 0, 0], [0, 0, 1, 1]]]).bool())
    [tensor([[2, 1, 4, 2],
            [0, 0, 1, 1]])]
    """
    _check_masks(masks)
    labels, count = ndimage.label(masks.cpu().numpy(), structure=_SIDES)
    found = np.empty((count, 5), dtype=np.int64)  # sample, xmin, ymin, xmax, ymax
    for row, (sample, y, x) in zip(found, ndimage.find_objects(labels), strict=True):
        row[:] = sample.start, x.start, y.start, x.stop, y.stop
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = found[np.lexsort((-size, found[:, 0]))]  # stable: labels count up row by row
    per_sample = np.bincount(found[:, 0], minlength=len(masks)).tolist()
    return list(torch.from_numpy(found[:, 1:]).split(per_sample))


def predicted_boxes(maps: Tensor) -> list[Tensor]:
    """Find the box B_p around the largest connected component of the pixels above a map's mean, {H > mean H}.

    Args:
        maps: H in [0, 1], shape (N, H, W).

    Returns:
        For each sample (1, 4), integers on the CPU, or (0, 4) where the map is constant and has no B_p.

    Raises:
        ValueError: a map has the wrong shape, leaves [0, 1] or is not finite; samples are named.
    """
    _check_maps(maps)
    mean = maps.mean(dim=(1, 2), keepdim=True, dtype=torch.float64)
    mean = mean.maximum(maps.amin(dim=(1, 2), keepdim=True))  # rounded, the mean of a constant map can be less than it
    return [boxes[:1] for boxes in component_boxes(maps > mean)]


@metric(
    title="Pointing Game",
    short="PG",
    higher_is_better=True,
    meaning="how often the map's maximum lies on the object",
    paper="Zhang et al., Excitation Backprop, 2018",
)
def pointing_game(maps: Tensor, masks: Tensor, *, ties: str = "first") -> Tensor:
    """Standard pointing game SP = 1[p* in U], p* = argmax_p H_p: whether the map's maximum lies on the object.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.
        ties: which of several maxima is p*: the "first", row by row, or "any", which is a hit if any of them lies in
            U. "any" is what Quantus computes and what the table of the Opti-CAM paper prints (Fake-CAM, all of whose
            pixels but one are maxima, hits 99.8 per cent there): it favours maps that are flat at the top.

    Returns:
        Shape (N,), 0 or 1; higher is better. p* of a constant map is its first pixel, top left.

    Raises:
        ValueError: shapes differ, a map leaves [0, 1] or is not finite, or a mask is empty; samples are named.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018; Opti-CAM (A6).

    >>> pointing_game(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[False, True]]]))
    tensor([1.], dtype=torch.float64)
    """
    check_choice("ties", ties, TIES)
    masks = _check_truth(maps, masks).flatten(1)
    values = maps.flatten(1)
    if ties == "any":
        return (masks & (values == values.amax(dim=1, keepdim=True))).any(dim=1).double()
    return masks.gather(1, values.argmax(dim=1, keepdim=True))[:, 0].double()


@metric(
    title="Energy Pointing Game",
    short="EPG",
    higher_is_better=True,
    meaning="share of the map that lies on the object",
    paper="Wang et al., Score-CAM, 2020",
)
def energy_pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy pointing game EP = sum_{p in U} H_p / sum_p H_p: the share of the map that lies on the object.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.

    Returns:
        Shape (N,), in [0, 1]; higher is better. A constant map has the object's share of the image.

    Raises:
        ValueError: a map is 0 everywhere, where the share is undefined; or as for `pointing_game`. Samples are named.

    Wang et al., "Score-CAM", CVPR Workshops 2020; Opti-CAM (A3), the precision of `pixel_f1`.

    >>> energy_pointing_game(torch.tensor([[[0.25, 0.75]]]), torch.tensor([[[False, True]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    masks = _check_truth(maps, masks)
    total = _sum(maps)
    if (total == 0).any():
        raise SampleError(
            "the energy inside a box is undefined for a map that is 0 everywhere, which came",
            which(total == 0),
            "leave these samples out",
        )
    return _sum(maps * masks) / total


@metric(
    title="Pixel F1",
    short="F1",
    higher_is_better=True,
    meaning="harmonic mean of the map's precision and recall of the object's pixels",
    paper="Zhang et al., Opti-CAM, 2024",
)
def pixel_f1(maps: Tensor, masks: Tensor) -> Tensor:
    """Pixel-wise F1 = 2 P R / (P + R), precision P = sum_{p in U} H_p / sum_p H_p, recall R = sum_{p in U} H_p / |U|.

    That is 2 sum_{p in U} H_p / (sum_p H_p + |U|), which stays defined where the map misses the object: R is 0 and so
    is F1, whatever P.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.

    Returns:
        Shape (N,), in [0, 1]; higher is better. A map that is 0 everywhere has 0.

    Raises:
        ValueError: as for `pointing_game`.

    Opti-CAM (A3), (A4). On binary maps it is the F1 score of the pixels.

    >>> pixel_f1(torch.tensor([[[0.0, 1.0, 1.0]]]), torch.tensor([[[False, False, True]]]))
    tensor([0.6667], dtype=torch.float64)
    """
    masks = _check_truth(maps, masks)
    return 2 * _sum(maps * masks) / (_sum(maps) + _sum(masks))


@metric(
    title="Localisation Error",
    short="LE",
    higher_is_better=False,
    meaning="1 - overlap of the map's box with the nearest box of the object",
    paper="Zhang et al., Opti-CAM, 2024",
)
def localisation_error(maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Localisation error LE = 1 - max_{B} IoU(B, B_p): how far the predicted box is from the nearest box.

    It is graded, as the paper prints it. Where LE is the share of images whose IoU is less than 0.5, as in the ILSVRC
    challenge and in the code of Zolna et al., it is the mean of LE > 0.5.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.

    Returns:
        Shape (N,), in [0, 1]; lower is better. A constant map has no predicted box, overlaps nothing and has 1.

    Raises:
        TypeError: boxes are not integers.
        ValueError: a map leaves [0, 1] or is not finite, a sample has no box, or a box is empty or reaches outside the
            image; samples are named.

    Opti-CAM (A2).

    >>> localisation_error(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), [torch.tensor([[1, 0, 2, 1], [2, 0, 4, 1]])])
    tensor([0.5000], dtype=torch.float64)
    """
    boxes = _check_boxes(boxes, *_check_maps(maps))
    return 1 - _best_overlap(predicted_boxes(maps), boxes).to(maps.device)


@metric(
    title="Official Metric",
    short="OM",
    higher_is_better=False,
    meaning="localisation error, and 1 where another class is predicted",
    paper="Zhang et al., Opti-CAM, 2024",
)
def official_metric(maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> Tensor:
    """Official metric OM = 1 - max_{B} IoU(B, B_p) 1[c_p = c]: localisation error, and 1 where the class is wrong.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.
        correct: whether the predicted class c_p is the class c of the boxes, boolean, shape (N,).

    Returns:
        Shape (N,), in [0, 1]; lower is better. A constant map has 1.

    Raises:
        TypeError: boxes are not integers.
        ValueError: `correct` is not boolean or has another shape, or as for `localisation_error`.

    Opti-CAM (A1).
    """
    check_tensor("the map", maps)
    check_tensor("correct", correct)
    if correct.dtype != torch.bool or correct.shape != maps.shape[:1]:
        raise ValueError(
            f"correct must be boolean of shape {tuple(maps.shape[:1])}, predicted == target; "
            f"got {correct.dtype} of shape {tuple(correct.shape)}"
        )
    return torch.where(correct.to(maps.device), localisation_error(maps, boxes), 1)


def box_accuracy(
    maps: Tensor,
    boxes: Sequence[Tensor],
    thresholds: Sequence[float] = _THRESHOLDS,
    overlaps: Sequence[float] = (0.3, 0.5, 0.7),
    components: str = "largest",
) -> Tensor:
    """Box accuracy BoxAcc(eta, delta) = max_{B} 1[IoU(B, B_p^eta) >= delta] at every threshold and overlap.

    B_p^eta is the box around the largest connected component of {H > eta}. The number of a set of images comes from
    `max_box_accuracy`, for its threshold is the best for the set and not for each image:

    - MaxBoxAcc of Choe et al.: `overlaps=[0.5]`.
    - BA of Opti-CAM: the defaults.
    - MaxBoxAccV2 of Choe et al.: `components="all"`, where the box of any component may be the one that overlaps.

    Args:
        maps: H in [0, 1], shape (N, H, W). eta is a fraction of the maximum for maps that reach 1.
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.
        thresholds: T values of eta, in [0, 1]; by default 0, 0.01, ..., 0.99.
        overlaps: D values of delta, in (0, 1].
        components: "largest" or "all".

    Returns:
        Shape (N, T, D), 0 or 1; higher is better. Where no pixel is above eta it is 0; a constant map is one box below
        its value: the whole image.

    Raises:
        TypeError: boxes are not integers.
        ValueError: thresholds or overlaps are none or out of range, or as for `localisation_error`.

    Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and its extension, TPAMI
    2022; Opti-CAM (A5).

    >>> H = torch.tensor([[[0.0, 0.6, 1.0, 0.6]]])
    >>> box_accuracy(H, [torch.tensor([[2, 0, 4, 1]])], thresholds=[0.0, 0.5, 0.8], overlaps=[0.5, 0.6])[0]
    tensor([[1., 1.],
            [1., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    boxes = _check_boxes(boxes, *_check_maps(maps))
    check_choice("components", components, ("largest", "all"))
    if len(thresholds) == 0 or not all(0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds must be one or more numbers in [0, 1]; got {thresholds!r}")
    if len(overlaps) == 0 or not all(0 < overlap <= 1 for overlap in overlaps):
        raise ValueError(f"overlaps must be one or more numbers in (0, 1]; got {overlaps!r}")
    kept = 1 if components == "largest" else None
    best = torch.stack(
        [
            _best_overlap([found[:kept] for found in component_boxes(maps > threshold)], boxes)
            for threshold in thresholds
        ],
        dim=1,
    )
    return (best[:, :, None] >= best.new_tensor(overlaps)).to(maps.device, torch.float64)


def max_box_accuracy(hits: Tensor) -> Tensor:
    """MaxBoxAcc = mean_delta max_eta mean_n BoxAcc_n(eta, delta): the box accuracy of a set at its best thresholds.

    The threshold is chosen on the set itself, as Choe et al. and Opti-CAM do.

    Args:
        hits: what `box_accuracy` returns for all images of the set, shape (N, T, D).

    Returns:
        Shape (), in [0, 1]; higher is better.

    Raises:
        ValueError: `hits` has another number of dimensions or no sample.

    >>> max_box_accuracy(torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]], [[0.0], [1.0]]]))
    tensor(0.6667, dtype=torch.float64)
    """
    return best_box_accuracy(hits).mean()


def best_box_accuracy(hits: Tensor) -> Tensor:
    """Share of the overlaps at which a sample's box is accurate, each at the threshold that is best for the whole set.

    The mean over samples is `max_box_accuracy`. Of thresholds that are equally good the lowest is taken.

    Args:
        hits: what `box_accuracy` returns for all images of the set, shape (N, T, D).

    Returns:
        Shape (N,), in [0, 1]; higher is better.

    Raises:
        ValueError: `hits` has another number of dimensions or no sample.
    """
    check_tensor("the hits", hits)
    if hits.ndim != 3 or hits.numel() == 0:
        raise ValueError(f"expected hits of shape (samples, thresholds, overlaps); got {tuple(hits.shape)}")
    hits = hits.double()
    best = hits.mean(dim=0).argmax(dim=0)  # the threshold of each overlap
    return hits.gather(1, best.expand(len(hits), 1, -1))[:, 0].mean(dim=1)


@metric(
    title="Saliency Metric",
    short="SM",
    higher_is_better=False,
    meaning="log area of the map's box minus log confidence in that crop",
    paper="Dabkowski and Gal, 2017",
    range=(math.log(0.05), math.inf),
)
def saliency_metric(x: Tensor, maps: Tensor, confidence: Callable[[Tensor], Tensor]) -> Tensor:
    """Saliency metric SM = log max(0.05, |B_p| / hw) - log p_c: how small a crop is still recognised.

    p_c is the confidence in the class for the input cropped to B_p, resized bilinearly to the input's size (which
    changes the aspect ratio).

    Args:
        x: the input, shape (N, C, H, W).
        maps: H in [0, 1], shape (N, H, W).
        confidence: input of the shape of `x` -> p_c, softmax probabilities of the classes, shape (N,).

    Returns:
        Shape (N,), in nats, at least log 0.05 = -3.0; lower is better.

    Raises:
        ValueError: the maps have another size than the input, leave [0, 1] or are not finite; a map is constant and has
            no B_p, or a p_c is 0, where the metric is undefined; samples are named.

    Dabkowski and Gal, "Real Time Image Saliency for Black Box Classifiers", NeurIPS 2017; Opti-CAM (A7).
    """
    check_tensor("the input", x)
    check_tensor("the map", maps)
    if x.ndim != 4 or maps.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"expected an input (N, C, H, W) and maps (N, H, W); got {tuple(x.shape)} and {tuple(maps.shape)}"
        )
    boxes = predicted_boxes(maps)
    missing = [sample for sample, box in enumerate(boxes) if len(box) == 0]
    if missing:
        raise SampleError(
            "the saliency metric is undefined for a constant map, which has no predicted box and came",
            missing,
            "leave these samples out",
        )
    size = (x.shape[2], x.shape[3])
    corners = torch.cat(boxes).tolist()
    crops = [resize(image[:, y0:y1, x0:x1], size) for image, (x0, y0, x1, y1) in zip(x, corners, strict=True)]
    p = confidence(torch.stack(crops))
    check_tensor("the confidence in the crop", p)
    if p.shape != x.shape[:1]:
        raise ValueError(f"the confidence must have shape {tuple(x.shape[:1])}; got {tuple(p.shape)}")
    check_unit_range("the confidence in the crop", p)
    if (p == 0).any():
        raise SampleError("the saliency metric is undefined where the confidence in the crop is 0,", which(p == 0))
    areas = [(x1 - x0) * (y1 - y0) / math.prod(size) for x0, y0, x1, y1 in corners]
    return torch.tensor(areas, dtype=torch.float64, device=p.device).clamp(min=0.05).log() - p.double().log()


def box_study(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    r"""Split maps by the object: the maps whose classification metrics tell how much the object and its context count.

    Args:
        maps: S in [0, 1], shape (N, H, W).
        masks: B, boolean, same shape.

    Returns:
        Maps of the shape and type of `maps`: `map` S, `inside` B ∩ S, `outside` S \ B, `box` B, `complement` I \ B.

    Raises:
        ValueError: as for `pointing_game`.

    Opti-CAM, section 5.4 and table 5.

    >>> {name: maps.tolist() for name, maps in box_study(torch.tensor([[[0.5, 1.0]]]), box_mask([
    ...     torch.tensor([[0, 0, 1, 1]])], (1, 2))).items() if name in ("inside", "outside", "complement")}
    {'inside': [[[0.5, 0.0]]], 'outside': [[[0.0, 1.0]]], 'complement': [[[0.0, 1.0]]]}
    """
    box = _check_truth(maps, masks).to(maps.dtype)
    return {"map": maps, "inside": maps * box, "outside": maps * (1 - box), "box": box, "complement": 1 - box}


def selectivity(maps: Tensor, exponent: float) -> Tensor:
    """Change the selectivity of maps, H^a: less than 1 spreads them, more than 1 keeps their peaks.

    Args:
        maps: H in [0, 1], shape (N, *S).
        exponent: a, greater than 0; the paper takes 0.01 to 10.

    Returns:
        Same shape, in [0, 1].

    Raises:
        ValueError: a map leaves [0, 1] or is not finite, or the exponent is not a positive number.

    Opti-CAM, appendix F.1 and figure A4.

    >>> selectivity(torch.tensor([[0.0, 0.5, 1.0]]), 2)
    tensor([[0.0000, 0.2500, 1.0000]])
    """
    check_unit_range("the map", maps)
    check_number("exponent", exponent)
    if not 0 < exponent < math.inf:
        raise ValueError(f"exponent must be a positive number; got {exponent!r}")
    return maps**exponent


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=(1, 2), dtype=torch.float64)


def _best_overlap(predicted: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Largest IoU of any predicted box with any box, for each sample (N,); 0 where nothing is predicted."""
    return torch.stack(
        [
            _overlap(found, wanted).amax() if len(found) else torch.zeros((), dtype=torch.float64, device="cpu")
            for found, wanted in zip(predicted, boxes, strict=True)
        ]
    )


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (A, 4) and (B, 4), shape (A, B), in float64."""
    low, high = a[:, None, :2].maximum(b[:, :2]), a[:, None, 2:].minimum(b[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (a, b))
    return shared.double() / (area_a[:, None] + area_b - shared)


def _check_maps(maps: Tensor) -> tuple[int, int, int]:
    """Return the number, height and width of maps if they can be looked at."""
    check_tensor("the map", maps)
    if maps.ndim != 3 or maps.numel() == 0:
        raise ValueError(f"expected maps of shape (N, H, W); got {tuple(maps.shape)}")
    if not maps.is_floating_point():
        raise TypeError(f"the maps must be of floating point; got {maps.dtype}: convert them with .float()")
    check_unit_range("the map", maps)
    return maps.shape[0], maps.shape[1], maps.shape[2]


def _check_masks(masks: Tensor) -> None:
    check_tensor("the masks", masks)
    if masks.dtype != torch.bool or masks.ndim != 3:
        raise ValueError(
            f"expected boolean masks of shape (N, H, W); got {masks.dtype} of shape {tuple(masks.shape)}: "
            "box_mask makes masks from boxes"
        )


def _check_truth(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the masks on the device of the maps if both fit."""
    _check_maps(maps)
    _check_masks(masks)
    if maps.shape != masks.shape:
        raise ValueError(f"expected masks of the maps' shape {tuple(maps.shape)}; got {tuple(masks.shape)}")
    empty = ~masks.flatten(1).any(dim=1)
    if empty.any():
        raise SampleError("the mask of the object is empty", which(empty), "leave these samples out")
    return masks.to(maps.device)


def _check_boxes(boxes: Sequence[Tensor], number: int, height: int, width: int) -> list[Tensor]:
    """Return boxes as int64 on the CPU if every sample has some and all lie in the image."""
    check_sequence("boxes", boxes)
    if len(boxes) != number:
        raise ValueError(f"expected boxes for {number} samples, one tensor (B, 4) for each; got {len(boxes)}")
    for sample, rows in enumerate(boxes):
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != 4:
            got = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise SampleError(f"boxes must be a tensor of shape (B, 4); got {got}", [sample])
        if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
            raise TypeError(
                f"boxes must be integers, in pixels; got {rows.dtype} in sample {sample}: round them, .round().long()"
            )
    checked = [rows.detach().to("cpu", torch.int64) for rows in boxes]
    if missing := [sample for sample, rows in enumerate(checked) if len(rows) == 0]:
        raise SampleError("there is no box", missing, "leave these samples out")
    if empty := [sample for sample, rows in enumerate(checked) if (rows[:, 2:] <= rows[:, :2]).any()]:
        raise SampleError("a box is empty", empty, "boxes are xmin, ymin, xmax, ymax with the maximum exclusive")
    corner = torch.tensor([width, height], device="cpu")
    if outside := [n for n, rows in enumerate(checked) if (rows[:, :2] < 0).any() or (rows[:, 2:] > corner).any()]:
        raise SampleError(
            f"a box reaches outside the image of {width} x {height} pixels (width x height)",
            outside,
            "clip the boxes to what the model sees of the image",
        )
    return checked
