"""Box accuracy: how often the box around what a map shows overlaps a box of the object.

Maps and boxes are as in `cam_extras.metrics.localisation`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor

from cam_extras._checks import check_choice, check_tensor
from cam_extras._options import choices_of
from cam_extras.metrics._boxes import best_overlap, check_boxes, check_image_maps, component_boxes
from cam_extras.metrics.base import Vector, metric

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def check_thresholds(name: str, thresholds: Sequence[float]) -> None:
    """Raise ValueError unless there is at least one, and all are in [0, 1]."""
    if len(thresholds) == 0 or not all(0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"{name} must be one or more numbers in [0, 1]; got {thresholds!r}")


def check_overlaps(name: str, overlaps: Sequence[float]) -> None:
    """Raise ValueError unless there is at least one, and all are in (0, 1]."""
    if len(overlaps) == 0 or not all(0 < overlap <= 1 for overlap in overlaps):
        raise ValueError(f"{name} must be one or more numbers in (0, 1]; got {overlaps!r}")


Thresholds = Annotated[Sequence[float], check_thresholds, "T values of eta, in [0, 1], at which maps are cut"]
Overlaps = Annotated[Sequence[float], check_overlaps, "D values of delta, in (0, 1]: the overlap that boxes must reach"]
Components = Annotated[
    Literal["largest", "all"], "whether only the box of the largest component counts, or that of any"
]


def _by_keyword(function: _Function) -> _Function:
    """Let options still work by position, with a DeprecationWarning."""
    names = [p.name for p in signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY]

    @wraps(function)
    def call(maps: Tensor, boxes: Sequence[Tensor], *given: Any, **options: Any) -> Tensor:
        if given:
            warnings.warn(
                f"give {', '.join(names[: len(given)])} by keyword: by position they will go with the next release",
                DeprecationWarning,
                stacklevel=2,
            )
        found: Tensor = function(maps, boxes, **dict(zip(names, given, strict=False)), **options)
        return found

    return call  # type: ignore[return-value]


def _at_best_thresholds(hits: Tensor) -> Tensor:
    """MaxBoxAcc from the mean of hits over samples, (..., T, D) -> (...)."""
    return hits.amax(dim=-2).mean(dim=-1)


def best_box_accuracy(hits: Tensor) -> Tensor:
    """Share of the overlaps at which a sample's box is accurate, each at the best threshold for the whole set.

    The mean over samples is `max_box_accuracy`. If several thresholds are equally good, the lowest is used.

    Args:
        hits: what `box_accuracy` returns for all images of the set, shape (N, T, D).

    Returns:
        Shape (N,), in [0, 1]; higher is better.

    Raises:
        ValueError: `hits` has the wrong number of dimensions or no samples.
    """
    check_tensor("the hits", hits)
    if hits.ndim != 3 or hits.numel() == 0:
        raise ValueError(f"expected hits of shape (samples, thresholds, overlaps); got {tuple(hits.shape)}")
    hits = hits.double()
    best = hits.mean(dim=0).argmax(dim=0)  # the threshold of each overlap
    return hits.gather(1, best.expand(len(hits), 1, -1))[:, 0].mean(dim=1)


@metric(
    title="Box Accuracy",
    short="BoxAcc",
    higher_is_better=True,
    meaning="how often the map's box overlaps one of the object enough, at the best thresholds for the set (MaxBoxAcc)",
    paper="Choe et al., Evaluating WSOL Right, 2020",
    vector=Vector(dims=2, of_mean=_at_best_thresholds, of_samples=best_box_accuracy),
    category="localisation",
)
@_by_keyword
def box_accuracy(
    maps: Tensor,
    boxes: Sequence[Tensor],
    *,
    thresholds: Thresholds = tuple(step / 100 for step in range(100)),
    overlaps: Overlaps = (0.3, 0.5, 0.7),
    components: Components = "largest",
) -> Tensor:
    """Box accuracy BoxAcc(eta, delta) = max_{B} 1[IoU(B, B_p^eta) >= delta] at every threshold and overlap.

    B_p^eta is the box around the largest connected component of {H > eta}. The value of a set of images comes from
    `max_box_accuracy`, since the threshold is chosen for the set, not for each image:

    - MaxBoxAcc of Choe et al.: `overlaps=[0.5]`.
    - BA of Opti-CAM: the defaults.
    - MaxBoxAccV2 of Choe et al.: `components="all"`, where the box of any component may overlap.

    Args:
        maps: H in [0, 1], shape (N, H, W). eta is a fraction of the maximum for maps that reach 1.
        boxes: for each sample (B, 4), integers xmin, ymin, xmax, ymax in pixels, the maximum exclusive.
        thresholds: T values of eta, in [0, 1]; by default 0, 0.01, ..., 0.99.
        overlaps: D values of delta, in (0, 1].
        components: "largest" or "all".

    Returns:
        Shape (N, T, D), 0 or 1; higher is better. It is 0 if no pixel is above eta; a constant map gives one box, the
        whole image, for eta below its value.

    Raises:
        TypeError: boxes are not integers.
        ValueError: thresholds or overlaps are empty or out of range, or as for `localisation_error`.

    Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and its extension, TPAMI
    2022; Opti-CAM (A5).

    >>> H = torch.tensor([[[0.0, 0.6, 1.0, 0.6]]])
    >>> box_accuracy(H, [torch.tensor([[2, 0, 4, 1]])], thresholds=[0.0, 0.5, 0.8], overlaps=[0.5, 0.6])[0]
    tensor([[1., 1.],
            [1., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    boxes = check_boxes(boxes, *check_image_maps(maps))
    check_choice("components", components, choices_of(Components))
    check_thresholds("thresholds", thresholds)
    check_overlaps("overlaps", overlaps)
    kept = 1 if components == "largest" else None
    best = torch.stack(
        [
            best_overlap([found[:kept] for found in component_boxes(maps > threshold)], boxes)
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
        ValueError: `hits` has the wrong number of dimensions or no samples.

    >>> max_box_accuracy(torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]], [[0.0], [1.0]]]))
    tensor(0.6667, dtype=torch.float64)
    """
    return best_box_accuracy(hits).mean()
