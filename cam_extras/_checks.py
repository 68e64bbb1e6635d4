"""Argument checks shared by the whole package: each says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError with the names that come close unless `name` is a known one."""
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no {kind} {name!r}: {meant}")


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


def check_finite(what: str, values: Tensor) -> None:
    """Raise ValueError naming the samples (first dimension) of `values` that are not finite."""
    if values.sum().isfinite():  # twenty times faster than looking at every element, and seldom wrong
        return
    finite = torch.isfinite(values)
    if not finite.all():
        raise ValueError(f"{what} is NaN or infinite {name_samples(~finite.flatten(1).all(dim=1))}")


def check_unit_range(what: str, values: Tensor) -> None:
    """Raise ValueError naming the samples (first dimension) of `values` outside [0, 1]."""
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        worst = values[outside][0].item()
        samples = name_samples(outside.reshape(len(values), -1).any(dim=1))
        raise ValueError(f"{what} must lie in [0, 1]; got {worst:.6g} {samples}")


def name_samples(selected: Tensor) -> str:
    """Name the samples that a boolean (N,) tensor selects: "in samples 0, 3"."""
    numbers = torch.nonzero(selected).flatten().tolist()
    shown = ", ".join(str(n) for n in numbers[:8]) + (", ..." if len(numbers) > 8 else "")
    return f"in sample{'s' if len(numbers) > 1 else ''} {shown}"


def check_targets(targets: Iterable[object], batch_size: int) -> list[Callable]:
    """Return per-sample score functions as a list.

    Raises:
        TypeError: `targets` is no sequence of callables.
        ValueError: there are more or fewer of them than samples.
    """
    functions = list_targets(targets)
    if len(functions) != batch_size:
        raise ValueError(f"expected {batch_size} targets, one for each sample of the batch; got {len(functions)}")
    return functions


def list_targets(targets: Iterable[object]) -> list[Callable]:
    """Return per-sample score functions as a list, or raise TypeError where they are no callables."""
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
                "wrap a class index as cam_extras.scores.Logit(index)"
            )
    return functions  # type: ignore[return-value]
