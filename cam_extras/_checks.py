"""Argument checks shared by the whole package: each says what was expected, what was given and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from cam_extras._names import check_choice as check_choice
from cam_extras._names import check_count as check_count
from cam_extras._names import check_name as check_name
from cam_extras._names import check_number as check_number
from cam_extras._names import check_seed as check_seed

_NOT_THE_CALLER = ("cam_extras", "contextlib", "torch", "pytorch_grad_cam", "captum", "quantus")


class SampleError(ValueError):
    """Something is wrong with some samples of a batch.

    Args:
        wrong: what is wrong.
        samples: their positions in the batch.
        todo: what to do about it.
    """

    def __init__(self, wrong: str, samples: Sequence[int], todo: str = ""):
        super().__init__(wrong, samples, todo)
        self.wrong, self.samples, self.todo = wrong, list(samples), todo

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.samples[:8])) + (", ..." if len(self.samples) > 8 else "")
        plural = "s" if len(self.samples) > 1 else ""
        return f"{self.wrong} in sample{plural} {numbers}" + (f": {self.todo}" if self.todo else "")

    def counted_from(self, first: int) -> SampleError:
        """Return the error for a batch whose first sample has this number."""
        return SampleError(self.wrong, [first + sample for sample in self.samples], self.todo)


def check_tensor(what: str, value: object) -> Tensor:
    """Return `value` if it is a tensor, or raise TypeError."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} must be a torch.Tensor; got {type(value).__name__}: torch.as_tensor makes one of numbers, lists "
            "and arrays"
        )
    return value


def check_sequence(what: str, value: object) -> None:
    """Raise TypeError unless `value` has one entry for each sample."""
    if not isinstance(value, Sequence | Tensor) or isinstance(value, str):
        raise TypeError(f"{what} must be a list with one entry for each sample; got {type(value).__name__}")


def check_maps(what: str, given: object) -> None:
    """Raise TypeError or ValueError unless these are floating-point maps (N, *S), without a channel dimension."""
    maps = check_tensor(what, given)
    if maps.ndim < 2 or maps.numel() == 0:
        raise ValueError(f"{what} must have shape (N, *S) and pixels; got {tuple(maps.shape)}")
    if maps.ndim == 4 and maps.shape[1] == 1:
        raise ValueError(f"{what} must have shape (N, *S), without channels; got {tuple(maps.shape)}: give maps[:, 0]")
    if not maps.is_floating_point():
        raise TypeError(f"{what} must be of floating point; got {maps.dtype}: convert it with .float()")


def check_fill(value: object) -> None:
    """Raise TypeError unless `value` can stand where a mask is 0."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"fill must be a number or a tensor, such as cam_extras.maps.black; got {value!r}")


def check_input(x: object) -> Tensor:
    """Return `x` if it is a batch that a model can be explained on.

    Raises:
        TypeError: `x` is no tensor, or holds integers where an image is expected.
        ValueError: `x` is empty, has no batch dimension or holds NaN or infinities.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"the input must be a torch.Tensor of shape (N, C, *S); got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(f"the input must have shape (N, C, *S); got {tuple(x.shape)}: add the batch dimension")
    if x.shape[0] == 0:
        raise ValueError(f"the input batch is empty: its shape is {tuple(x.shape)}")
    if not x.is_floating_point() and x.ndim > 2:
        raise TypeError(
            f"the input holds {x.dtype}; expected floating point: convert the images with .float() "
            "and normalise them as the model was trained"
        )
    check_finite("the input", x)
    return x


def check_pixels(shape: Sequence[int]) -> None:
    """Raise ValueError unless an input of this shape has pixels, or positions in time or space, for maps to show."""
    if len(shape) < 3 or 0 in shape[2:]:
        raise ValueError(
            f"the input must have pixels, shape (N, C, *S); got {tuple(shape)}"
            + (": a table (N, F) has none, give signals as (N, 1, L)" if len(shape) == 2 else "")
        )


def check_finite(what: str, values: Tensor) -> None:
    """Raise ValueError naming the samples (first dimension) of `values` that are not finite, or TypeError."""
    check_tensor(what, values)
    if values.sum().isfinite():  # twenty times faster than checking every element, and rarely wrong
        return
    finite = torch.isfinite(values)
    if not finite.all():
        raise SampleError(f"{what} is NaN or infinite", which(~finite))


def check_unit_range(what: str, values: Tensor) -> None:
    """Raise ValueError naming the samples (first dimension, if any) of `values` outside [0, 1], or TypeError."""
    check_tensor(what, values)
    inside = (values >= 0) & (values <= 1)
    if inside.all():
        return
    wrong = f"{what} must lie in [0, 1]; got {values[~inside].flatten()[0].item():.9g}"
    if values.ndim == 0:
        raise ValueError(wrong)
    raise SampleError(wrong, which(~inside))


def check_class_scores(outputs: object) -> None:
    """Raise ValueError unless a model's output has scores (N, C) of at least two classes."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"confidence is the probability of a class among others: the model must return scores (N, C) of two or "
            f"more classes; got {got}: for one output y, return (0, y)"
        )


def check_classes(indices: Tensor, classes: int) -> None:
    """Raise ValueError naming the samples whose class index, of shape (N,), is outside [0, classes)."""
    outside = (indices < 0) | (indices >= classes)
    if outside.any():
        raise SampleError(f"class indices must lie in [0, {classes}); got {indices[outside][0]}", which(outside))


def which(selected: Tensor) -> list[int]:
    """Return the samples (first dimension) where a boolean tensor is true anywhere."""
    return torch.nonzero(selected.reshape(len(selected), -1).any(dim=1)).flatten().tolist()


def check_targets(targets: Iterable[object], batch_size: int) -> list[Callable[..., Any]]:
    """Return functions, one for each sample, as a list.

    Raises:
        TypeError: `targets` is no sequence of callables.
        ValueError: there are more or fewer of them than samples.
    """
    functions = list_targets(targets)
    if len(functions) != batch_size:
        raise ValueError(f"expected {batch_size} targets, one for each sample of the batch; got {len(functions)}")
    return functions


def list_targets(targets: Iterable[object]) -> list[Callable[..., Any]]:
    """Return functions, one for each sample, as a list, or raise TypeError if they are not callable."""
    if callable(targets) or not isinstance(targets, Iterable):
        raise TypeError(
            f"targets must be a list with one callable a sample, got {type(targets).__name__}: "
            "write [target] for a single image"
        )
    functions = list(targets)
    for number, function in enumerate(functions):
        if not callable(function):
            raise TypeError(
                f"targets[{number}] is {function!r}, which is not callable: "
                "wrap a class index as cam_extras.utilities.Logit(index)"
            )
    return functions  # type: ignore[return-value]


def stacklevel_of_the_caller() -> int:
    """Return the `stacklevel` that points a warning at the caller outside this package and its hosts."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_CALLER:
        frame, level = frame.f_back, level + 1
    return level
