"""From class scores to probabilities: by softmax, of classes that exclude each other, by sigmoid, or your own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from cam_extras._checks import check_choice, check_class_scores, check_unit_range
from cam_extras.utilities import Sigmoid, Softmax

AnyConfidence: TypeAlias = str | Callable[[Tensor], Tensor]
"""A key of `CONFIDENCES`, or a function: class scores (N, C) -> probabilities (N, C)."""

CONFIDENCES: dict[str, Callable[[Tensor, int], Tensor]] = {"softmax": Softmax.transform, "sigmoid": Sigmoid.transform}


def check_confidence(confidence: object) -> None:
    """Raise TypeError or ValueError unless `confidence` says how scores become probabilities."""
    if isinstance(confidence, str):
        check_choice("confidence", confidence, CONFIDENCES)
    elif not callable(confidence):
        raise TypeError(
            "confidence must be 'softmax', 'sigmoid' or a function, class scores (N, C) -> probabilities (N, C); got "
            f"{confidence!r:.80}"
        )


def probabilities(scores: object, confidence: AnyConfidence = "softmax") -> Tensor:
    """Return the probability of every class, p, from a model's class scores y, in float64.

    "softmax" gives p_c = exp(y_c) / sum_k exp(y_k), for classes of which one is true; "sigmoid" gives
    p_c = 1 / (1 + exp(-y_c)), for labels of which any number may be true.

    Args:
        scores: y, shape (N, C), for two or more classes.
        confidence: "softmax", "sigmoid", or a function y -> p that gets y in float64; `lambda p: p` for a model that
            returns probabilities.

    Returns:
        Shape (N, C), in [0, 1].

    Raises:
        TypeError: `confidence` is neither of these, or the function does not return a floating-point tensor.
        ValueError: there is no such `confidence`; there are no scores (N, C) of two or more classes; or the function
            returns another shape or leaves [0, 1]: samples are named.

    >>> labels = torch.tensor([[6.0, 6.0, 6.0, -6.0]])
    >>> probabilities(labels)[0, 0], probabilities(labels, "sigmoid")[0, 0]
    (tensor(0.3333, dtype=torch.float64), tensor(0.9975, dtype=torch.float64))
    """
    check_confidence(confidence)
    check_class_scores(scores)
    y: Tensor = scores.double()  # type: ignore[attr-defined]  # in float32 probabilities reach 1 too soon
    if isinstance(confidence, str):
        return CONFIDENCES[confidence](y, 1)
    p = confidence(y)
    if not isinstance(p, Tensor) or not p.is_floating_point():
        raise TypeError(
            "the function given as confidence must return a floating-point tensor; it returned "
            f"{p.dtype if isinstance(p, Tensor) else type(p).__name__}"
        )
    if p.shape != y.shape:
        raise ValueError(
            f"the function given as confidence must return a probability for each class, shape {tuple(y.shape)}; it "
            f"returned {tuple(p.shape)}"
        )
    check_unit_range("the confidence", p)
    return p.to(torch.float64)
