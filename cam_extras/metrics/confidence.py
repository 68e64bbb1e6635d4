"""Metrics on confidence: how the probability of a class changes when the input is masked by the map.

p is the confidence in the class for the whole input, o for the part that the map shows, d for the part that it does not
show. All are probabilities of the same class, shape (N,): see
`cam_extras.metrics.probabilities`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cam_extras._checks import SampleError, check_unit_range, which
from cam_extras.metrics.base import metric


@metric(
    title="Average Drop",
    short="AD",
    higher_is_better=False,
    meaning="share of confidence lost when only what the map shows is seen",
    paper="Chattopadhyay et al., Grad-CAM++, 2018",
)
def average_drop(p: Tensor, o: Tensor) -> Tensor:
    """Average drop AD = max(0, p - o) / p: the share of confidence lost when only what the map shows is seen.

    Args:
        p: confidence for the whole input, shape (N,), in (0, 1].
        o: confidence for what the map shows, shape (N,), in [0, 1].

    Returns:
        Shape (N,), in [0, 1]; lower is better.

    Raises:
        ValueError: a value is outside [0, 1], or a p is 0, where the drop is undefined; samples are named.

    Chattopadhyay et al., "Grad-CAM++", WACV 2018.

    >>> average_drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.9]))
    tensor([0.2500, 0.0000])
    """
    _check(p=p, o=o)
    if (p == 0).any():
        raise SampleError(
            "the drop is undefined where the model's confidence p is 0,",
            which(p == 0),
            "explain the predicted class, or leave these samples out",
        )
    return (p - o).clamp(min=0) / p


@metric(
    title="Increase in Confidence",
    short="IC",
    higher_is_better=True,
    meaning="share of images whose confidence rises when only what the map shows is seen",
    paper="Chattopadhyay et al., Grad-CAM++, 2018",
)
def increase_in_confidence(p: Tensor, o: Tensor) -> Tensor:
    """Increase in confidence IC = 1[o > p]: whether confidence rises when only what the map shows is seen.

    Args:
        p: confidence for the whole input, shape (N,), in [0, 1].
        o: confidence for what the map shows, shape (N,), in [0, 1].

    Returns:
        Shape (N,), 0 or 1; higher is better.

    Chattopadhyay et al., "Grad-CAM++", WACV 2018.
    """
    _check(p=p, o=o)
    return (o > p).to(p.dtype)


@metric(
    title="Average Gain",
    short="AG",
    higher_is_better=True,
    meaning="share of the missing confidence won when only what the map shows is seen",
    paper="Zhang et al., Opti-CAM, 2024",
)
def average_gain(p: Tensor, o: Tensor) -> Tensor:
    """Average gain AG = max(0, o - p) / (1 - p): the share of missing confidence gained by seeing only the map's part.

    Where p is 1, nothing can be gained and the gain is 0.

    Args:
        p: confidence for the whole input, shape (N,), in [0, 1].
        o: confidence for what the map shows, shape (N,), in [0, 1].

    Returns:
        Shape (N,), in [0, 1]; higher is better.

    Zhang et al., "Opti-CAM: Optimizing Saliency Maps for Interpretability", 2024.

    >>> average_gain(torch.tensor([0.5, 0.9, 1.0]), torch.tensor([0.75, 0.8, 1.0]))
    tensor([0.5000, 0.0000, 0.0000])
    """
    _check(p=p, o=o)
    room = 1 - p
    return (o - p).clamp(min=0) / torch.where(room > 0, room, 1)


@metric(
    title="Drop in Deletion",
    short="ADD",
    higher_is_better=True,
    meaning="share of confidence lost when what the map shows is taken away",
    paper="Jung and Oh, LIFT-CAM, 2021",
)
def drop_in_deletion(p: Tensor, d: Tensor) -> Tensor:
    """Drop in deletion ADD = max(0, p - d) / p: the share of confidence lost without what the map shows.

    Arguments, errors and range as for `average_drop`, with d the confidence for what the map does not show; higher is
    better. Jung and Oh, "Towards Better Explanations of Class Activation Mapping", ICCV 2021.
    """
    return average_drop(p, d)


def _check(**confidences: Tensor) -> None:
    for name, values in confidences.items():
        check_unit_range(f"the confidence {name}", values)
    shapes = {tuple(values.shape) for values in confidences.values()}
    if len(shapes) > 1:
        raise ValueError(f"expected confidences of one shape (N,); got {sorted(shapes)}")
