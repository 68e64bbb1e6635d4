"""Localisation: maps compared with boxes or masks of the object, and the maps of a study of boxes.

Formulas and symbols follow Zhang et al., "Opti-CAM: Optimizing Saliency Maps for Interpretability", 2024, appendix B. H
(N, H, W) are maps in [0, 1]. The object is given

- by its boxes: for each of the N samples an integer tensor (B, 4) of xmin, ymin, xmax, ymax in pixels of the map, the
  maximum exclusive, or
- by its masks: boolean, (N, H, W); `box_mask` makes them from boxes. With boxes a mask is their union U.

The predicted box B_p of a map is the box around the largest connected component of the pixels above the map's mean.
Components are connected through sides, not corners. A constant map has no pixel above its mean, so it has no B_p.
Scores are float64, on the maps' device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from cam_extras._checks import SampleError, check_choice, check_number, check_tensor, check_unit_range, which
from cam_extras._options import choices_of
from cam_extras.maps import resize
from cam_extras.metrics._boxes import best_overlap, check_boxes, check_image_maps, check_truth, predicted_boxes
from cam_extras.metrics._boxes import box_mask as box_mask
from cam_extras.metrics._boxes import component_boxes as component_boxes
from cam_extras.metrics._boxes import crop_boxes as crop_boxes
from cam_extras.metrics.base import metric
from cam_extras.metrics.box_accuracy import best_box_accuracy as best_box_accuracy
from cam_extras.metrics.box_accuracy import box_accuracy as box_accuracy
from cam_extras.metrics.box_accuracy import max_box_accuracy as max_box_accuracy

Ties = Annotated[
    Literal["first", "any"],
    'which of several maxima counts: the "first", row by row, or "any": a hit if one of them lies on the object',
]


@metric(
    title="Pointing Game",
    short="PG",
    higher_is_better=True,
    meaning="how often the map's maximum lies on the object",
    paper="Zhang et al., Excitation Backprop, 2018",
    category="localisation",
    title_in_quantus="Pointing Game (one maximum)",
)
def pointing_game(maps: Tensor, masks: Tensor, *, ties: Ties = "first") -> Tensor:
    """Standard pointing game SP = 1[p* in U], p* = argmax_p H_p: whether the map's maximum lies on the object.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.
        ties: which of several maxima is p*: the "first", row by row, or "any": a hit if any of them lies in U. "any" is
            what Quantus computes and what the Opti-CAM paper's table prints (there Fake-CAM, where all pixels but one
            are maxima, hits 99.8 per cent): it favours maps that are flat at the top.

    Returns:
        Shape (N,), 0 or 1; higher is better. p* of a constant map is its first pixel, top left.

    Raises:
        ValueError: shapes differ, a map leaves [0, 1] or is not finite, or a mask is empty; samples are named.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018; Opti-CAM (A6).

    >>> pointing_game(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[False, True]]]))
    tensor([1.], dtype=torch.float64)
    """
    check_choice("ties", ties, choices_of(Ties))
    masks = check_truth(maps, masks).flatten(1)
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
    category="localisation",
)
def energy_pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy pointing game EP = sum_{p in U} H_p / sum_p H_p: the share of the map that lies on the object.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.

    Returns:
        Shape (N,), in [0, 1]; higher is better. For a constant map it is the object's share of the image.

    Raises:
        ValueError: a map is 0 everywhere, where the share is undefined; or as for `pointing_game`. Samples are named.

    Wang et al., "Score-CAM", CVPR Workshops 2020; Opti-CAM (A3), the precision of `pixel_f1`.

    >>> energy_pointing_game(torch.tensor([[[0.25, 0.75]]]), torch.tensor([[[False, True]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    masks = check_truth(maps, masks)
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
    category="localisation",
)
def pixel_f1(maps: Tensor, masks: Tensor) -> Tensor:
    """Pixel-wise F1 = 2 P R / (P + R), precision P = sum_{p in U} H_p / sum_p H_p, recall R = sum_{p in U} H_p / |U|.

    It equals 2 sum_{p in U} H_p / (sum_p H_p + |U|), which is also defined if the map misses the object: then R and F1
    are 0, whatever P is.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        masks: U, boolean, same shape.

    Returns:
        Shape (N,), in [0, 1]; higher is better. 0 for a map that is 0 everywhere.

    Raises:
        ValueError: as for `pointing_game`.

    Opti-CAM (A3), (A4). On binary maps it is the F1 score of the pixels.

    >>> pixel_f1(torch.tensor([[[0.0, 1.0, 1.0]]]), torch.tensor([[[False, False, True]]]))
    tensor([0.6667], dtype=torch.float64)
    """
    masks = check_truth(maps, masks)
    return 2 * _sum(maps * masks) / (_sum(maps) + _sum(masks))


@metric(
    title="Localisation Error",
    short="LE",
    higher_is_better=False,
    meaning="1 - overlap of the map's box with the nearest box of the object",
    paper="Zhang et al., Opti-CAM, 2024",
    category="localisation",
)
def localisation_error(maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Localisation error LE = 1 - max_{B} IoU(B, B_p): how far the predicted box is from the nearest box.

    It is continuous, as in the paper. The ILSVRC challenge and the code of Zolna et al. use the share of images with an
    IoU below 0.5 instead: that is the mean of LE > 0.5.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.

    Returns:
        Shape (N,), in [0, 1]; lower is better. 1 for a constant map, which has no predicted box and overlaps nothing.

    Raises:
        TypeError: boxes are not integers.
        ValueError: a map leaves [0, 1] or is not finite, a sample has no box, or a box is empty or reaches outside the
            image; samples are named.

    Opti-CAM (A2).

    >>> localisation_error(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), [torch.tensor([[1, 0, 2, 1], [2, 0, 4, 1]])])
    tensor([0.5000], dtype=torch.float64)
    """
    boxes = check_boxes(boxes, *check_image_maps(maps))
    return 1 - best_overlap(predicted_boxes(maps), boxes).to(maps.device)


@metric(
    title="Official Metric",
    short="OM",
    higher_is_better=False,
    meaning="localisation error, or 1 if another class is predicted",
    paper="Zhang et al., Opti-CAM, 2024",
    category="localisation",
)
def official_metric(maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> Tensor:
    """Official metric OM = 1 - max_{B} IoU(B, B_p) 1[c_p = c]: localisation error, or 1 if the class is wrong.

    Args:
        maps: H in [0, 1], shape (N, H, W).
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.
        correct: whether the predicted class c_p is the class c of the boxes, boolean, shape (N,).

    Returns:
        Shape (N,), in [0, 1]; lower is better. 1 for a constant map.

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


@metric(
    title="Saliency Metric",
    short="SM",
    higher_is_better=False,
    meaning="log area of the map's box minus log confidence in that crop",
    paper="Dabkowski and Gal, 2017",
    range=(math.log(0.05), math.inf),
    category="localisation",
)
def saliency_metric(x: Tensor, maps: Tensor, confidence: Callable[[Tensor], Tensor]) -> Tensor:
    """Saliency metric SM = log max(0.05, |B_p| / hw) - log p_c: how small a crop the model still recognises.

    p_c is the confidence in the class for the input cropped to B_p, resized bilinearly to the input's size (which
    changes the aspect ratio).

    Args:
        x: the input, shape (N, C, H, W).
        maps: H in [0, 1], shape (N, H, W).
        confidence: input of the shape of `x` -> p_c, the probabilities of the explained classes, shape (N,).

    Returns:
        Shape (N,), in nats, at least log 0.05 = -3.0; lower is better.

    Raises:
        ValueError: the maps differ from the input in size, leave [0, 1] or are not finite; a map is constant and has no
            B_p, or a p_c is 0, where the metric is undefined; samples are named.

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
    r"""Split maps by the object: their classification metrics show how much the object and its context matter.

    Args:
        maps: S in [0, 1], shape (N, H, W).
        masks: B, boolean, same shape.

    Returns:
        Maps with the shape and dtype of `maps`: `map` S, `inside` B ∩ S, `outside` S \ B, `box` B, `complement` I \ B.

    Raises:
        ValueError: as for `pointing_game`.

    Opti-CAM, section 5.4 and table 5.

    >>> {name: maps.tolist() for name, maps in box_study(torch.tensor([[[0.5, 1.0]]]), box_mask([
    ...     torch.tensor([[0, 0, 1, 1]])], (1, 2))).items() if name in ("inside", "outside", "complement")}
    {'inside': [[[0.5, 0.0]]], 'outside': [[[0.0, 1.0]]], 'complement': [[[0.0, 1.0]]]}
    """
    box = check_truth(maps, masks).to(maps.dtype)
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
