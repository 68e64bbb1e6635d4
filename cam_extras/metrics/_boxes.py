"""Boxes of objects, and boxes around what maps show; see `cam_extras.metrics.localisation` for their format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cam_extras._checks import SampleError, check_sequence, check_tensor, check_unit_range, which
from cam_extras.metrics.base import quantity
from cam_extras.metrics.quantities import Explained

_Object = TypeVar("_Object")

# A pixel's neighbours: the four that share a side with it, in the same map.
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
    for mask, rows in zip(masks, check_boxes(boxes, len(boxes), height, width), strict=True):
        for xmin, ymin, xmax, ymax in rows.tolist():
            mask[ymin:ymax, xmin:xmax] = True
    return masks


def crop_boxes(boxes: Sequence[Tensor], corner: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
    """Move boxes into a crop of the image and clip them to it; boxes outside the crop are dropped.

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

    Components of equal size keep their order, row by row. The components are found by scipy, on the CPU.

    Args:
        masks: boolean, shape (N, H, W).

    Returns:
        For each sample (B, 4), integers on the CPU, as `box_mask` takes them; B is 0 where a mask is empty.

    Raises:
        ValueError: the masks are not boolean or have the wrong number of dimensions.

    >>> component_boxes(torch.tensor([[[1, 0, 0, 0], [0, 0, 1, 1]]]).bool())
    [tensor([[2, 1, 4, 2],
            [0, 0, 1, 1]])]
    """
    check_masks(masks)
    labels, count = ndimage.label(masks.cpu().numpy(), structure=_SIDES)
    found = np.empty((count, 5), dtype=np.int64)  # sample, xmin, ymin, xmax, ymax
    for row, (sample, y, x) in zip(found, ndimage.find_objects(labels), strict=True):
        row[:] = sample.start, x.start, y.start, x.stop, y.stop
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = found[np.lexsort((-size, found[:, 0]))]  # stable: labels count up row by row
    per_sample = np.bincount(found[:, 0], minlength=len(masks)).tolist()
    return list(torch.split(torch.from_numpy(found[:, 1:]), per_sample))


def predicted_boxes(maps: Tensor) -> list[Tensor]:
    """Find the box B_p around the largest connected component of the pixels above a map's mean, {H > mean H}.

    Args:
        maps: H in [0, 1], shape (N, H, W).

    Returns:
        For each sample (1, 4), integers on the CPU, or (0, 4) if the map is constant and has no B_p.

    Raises:
        ValueError: a map has the wrong shape, leaves [0, 1] or is not finite; samples are named.
    """
    check_image_maps(maps)
    mean = maps.mean(dim=(1, 2), keepdim=True, dtype=torch.float64)
    mean = mean.maximum(maps.amin(dim=(1, 2), keepdim=True))  # rounding can lower the mean of a constant map
    return [boxes[:1] for boxes in component_boxes(maps > mean)]


def best_overlap(predicted: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Largest IoU of any predicted box with any box, for each sample (N,); 0 if nothing is predicted."""
    return torch.stack(
        [
            overlap(found, wanted).amax() if len(found) else torch.zeros((), dtype=torch.float64, device="cpu")
            for found, wanted in zip(predicted, boxes, strict=True)
        ]
    )


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (A, 4) and (B, 4), shape (A, B), in float64."""
    low, high = a[:, None, :2].maximum(b[:, :2]), a[:, None, 2:].minimum(b[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (a, b))
    return shared.double() / (area_a[:, None] + area_b - shared)


def check_image_maps(maps: Tensor) -> tuple[int, int, int]:
    """Return the number, height and width of maps if they are valid."""
    check_tensor("the map", maps)
    if maps.ndim != 3 or maps.numel() == 0:
        raise ValueError(f"expected maps of shape (N, H, W); got {tuple(maps.shape)}")
    if not maps.is_floating_point():
        raise TypeError(f"the maps must be of floating point; got {maps.dtype}: convert them with .float()")
    check_unit_range("the map", maps)
    return maps.shape[0], maps.shape[1], maps.shape[2]


def check_masks(masks: Tensor) -> None:
    check_tensor("the masks", masks)
    if masks.dtype != torch.bool or masks.ndim != 3:
        raise ValueError(
            f"expected boolean masks of shape (N, H, W); got {masks.dtype} of shape {tuple(masks.shape)}: "
            "box_mask makes masks from boxes"
        )


def check_truth(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the masks on the maps' device if maps and masks are valid."""
    check_image_maps(maps)
    check_masks(masks)
    if maps.shape != masks.shape:
        raise ValueError(f"expected masks of the maps' shape {tuple(maps.shape)}; got {tuple(masks.shape)}")
    empty = ~masks.flatten(1).any(dim=1)
    if empty.any():
        raise SampleError("the mask of the object is empty", which(empty), "leave these samples out")
    return masks.to(maps.device)


def check_boxes(boxes: Sequence[Tensor], number: int, height: int, width: int) -> list[Tensor]:
    """Return boxes as int64 on the CPU if every sample has at least one and all lie in the image."""
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


@quantity()
def _boxes(given_boxes: Sequence[Tensor] | None, given_masks: Tensor | None) -> Sequence[Tensor]:
    """The object's boxes: (B, 4) for each sample."""
    if given_boxes is None:
        return component_boxes(_given(given_masks))
    return given_boxes


@quantity()
def _masks(given_masks: Tensor | None, given_boxes: Sequence[Tensor] | None, maps: Tensor) -> Tensor:
    """The object's masks: boolean, (N, H, W)."""
    if given_masks is not None:
        return given_masks
    boxes = _given(given_boxes)
    if maps.ndim != 3:
        raise ValueError(f"boxes need maps of shape (N, H, W); got {tuple(maps.shape)}")
    return box_mask(boxes, (maps.shape[1], maps.shape[2]))


@quantity()
def _correct(explained: Explained) -> Tensor:
    """Whether the class explained is the predicted one, shape (N,)."""
    return explained.probabilities.argmax(dim=1) == explained.target


def _given(what: _Object | None) -> _Object:
    if what is None:
        raise ValueError("this metric needs to know where the object is: give boxes or masks")
    return what
