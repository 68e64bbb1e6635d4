"""The class scores in what a model returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

Output: TypeAlias = str | int | Callable[[Any], Any] | None
"""Where the class scores are in a model's output: a key or attribute, an index, or a function of it; None to look."""

# Vectors (N, D) that models return beside class scores, or instead of them.
_NO_SCORES = re.compile("embed|hidden|pool|feature|token|attention|aux|loss|box", re.IGNORECASE)
_DETR = ("logits", "pred_boxes")  # what DETR and its like in transformers detect
_TELL = (
    "say which by output=KEY, by an index, or by a function of the model's output (in evaluate: model_output; on the "
    "command line: --model-output)"
)


class Picked(NamedTuple):
    """The class scores of a batch.

    Attributes:
        scores: a tensor with one row per sample, or a list with one entry per sample (detection models).
        shared: whether the model returned one row for several samples, such as the frames of a video. Every sample has
            got this row.
    """

    scores: Any
    shared: bool


def check_output(output: object) -> None:
    """Raise TypeError unless `output` can say where the class scores are."""
    if isinstance(output, bool) or not (output is None or isinstance(output, str | int) or callable(output)):
        raise TypeError(
            "output must be a key, an attribute or an index of the model's output, or a function of it that returns "
            f"the class scores (N, C); got {output!r:.80}"
        )


def pick_output(outputs: Any, samples: int, output: Output = None) -> Picked:
    """Return the class scores in a model's output.

    Without `output` they are: a tensor; the entry or attribute "logits", or else the entry "out"; the only tensor of a
    mapping, tuple or list; or its only floating-point entry (N, C) whose name is not that of an embedding, a loss or
    the like. A list with one entry per sample, as detectors return it, stays what it is; "logits" with "pred_boxes"
    become such a list, of dicts.

    Args:
        outputs: what the model returned.
        samples: N, the number of samples that the model was given.
        output: where the class scores are.

    Raises:
        TypeError: there are no class scores, or several tensors that could be meant.
        ValueError: there is no entry `output`; or there is not one row per sample, or one for all of them.
    """
    found = outputs if output is None else _entry(outputs, output)
    scores = _find(found, samples)
    if isinstance(scores, Tensor) and samples == 1 and (scores.ndim == 0 or (scores.ndim == 1 and len(scores) > 1)):
        scores = scores[None]  # heads that squeeze() also drop the batch dimension
    of_samples = (isinstance(scores, Tensor) and scores.ndim > 0) or isinstance(scores, list)
    if not of_samples or not len(scores):
        raise _no_scores(found)
    if len(scores) == samples:
        return Picked(scores, shared=False)
    if isinstance(scores, Tensor) and scores.ndim > 1 and len(scores) == 1:
        return Picked(scores.expand(samples, *scores.shape[1:]), shared=True)
    todo = ": explain the frames or views of one thing at a time" if samples % len(scores) == 0 else ""
    raise ValueError(f"the model returned {len(scores)} output{'s' * (len(scores) > 1)} for {samples} samples{todo}")


def one_for_all(samples: int, why: str) -> ValueError:
    """Return the error for one output for several images where each needs its own.

    Args:
        samples: the number of images.
        why: why they cannot share it.
    """
    return ValueError(
        f"the model returned 1 output for {samples} samples, as for the frames of one video: {why}; where it should "
        "have returned one for each, look at its forward"
    )


def _entry(outputs: Any, output: str | int | Callable[[Any], Any]) -> Any:
    if callable(output):
        return output(outputs)
    if isinstance(outputs, Mapping):
        if output in outputs:
            return outputs[output]
    elif isinstance(outputs, tuple | list) and isinstance(output, int):
        if -len(outputs) <= output < len(outputs):
            return outputs[output]
    elif isinstance(output, str) and not isinstance(outputs, Tensor) and hasattr(outputs, output):
        return getattr(outputs, output)
    raise ValueError(f"the model's output has no entry {output!r}: it is {_describe(outputs)}")


def _find(outputs: Any, samples: int) -> Any:
    """Return the class scores among the entries of an output; anything without entries as it is."""
    if isinstance(outputs, Mapping) and all(isinstance(outputs.get(name), Tensor) for name in _DETR):
        return [dict(zip(_DETR, of_sample, strict=True)) for of_sample in zip(*map(outputs.get, _DETR), strict=True)]
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    if isinstance(outputs, Mapping):
        entries = {key: value for key, value in outputs.items() if isinstance(value, Tensor)}
        for key in ("logits", "out"):
            if key in entries:
                return entries[key]
    elif isinstance(outputs, tuple) or (isinstance(outputs, list) and not _is_per_sample(outputs, samples)):
        names = getattr(outputs, "_fields", range(len(outputs)))
        entries = {name: value for name, value in zip(names, outputs, strict=True) if isinstance(value, Tensor)}
    else:
        return outputs
    if len(entries) == 1:
        return next(iter(entries.values()))
    plain = [
        value
        for name, value in entries.items()
        if value.is_floating_point()
        and value.ndim == 2
        and len(value) in (1, samples)
        and not _NO_SCORES.search(str(name))
    ]
    if len(plain) != 1:
        raise _no_scores(outputs)
    return plain[0]


def _is_per_sample(entries: list[Any], samples: int) -> bool:
    """Whether a list has one entry per sample, all of one kind, or no tensors at all."""
    ranks = {entry.ndim for entry in entries if isinstance(entry, Tensor)}
    return not ranks or (len(entries) == samples and len(ranks) == 1)


def _no_scores(outputs: Any) -> TypeError:
    return TypeError(
        "the model must return a tensor (N, C), alone, as 'logits' or 'out', or as the only entry that can be class "
        f"scores; got {_describe(outputs)}: {_TELL}"
    )


def _describe(outputs: Any) -> str:
    kind = type(outputs).__name__
    if isinstance(outputs, Tensor):
        return f"{kind} of shape {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"{kind} with the keys {list(outputs)}{_shapes(outputs.values())}"
    if isinstance(outputs, tuple | list):
        fields = getattr(outputs, "_fields", None)
        return f"{kind} of {len(outputs)}{f' with the fields {[*fields]}' if fields else ''}{_shapes(outputs)}"
    return kind


def _shapes(entries: Any) -> str:
    kinds = [str(tuple(e.shape)) if isinstance(e, Tensor) else type(e).__name__ for e in entries]
    return f", which are {', '.join(kinds[:8])}{', ...' * (len(kinds) > 8)}" if kinds else ""
