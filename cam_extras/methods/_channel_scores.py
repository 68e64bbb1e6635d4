"""Scores of a layer's channels, each from a pass of its own, in bounded batches."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from rich.progress import track
from torch import Tensor

from cam_extras.probe import Probe


def score_channels(
    probe: Probe,
    chosen: Tensor,
    rows: int,
    score: Callable[[int, Tensor, Tensor], Tensor],
    steps: int = 1,
    progress: str = "",
) -> Tensor:
    """Return the mean score over steps of the chosen channels, and 0 for the others, shape (N, K).

    Args:
        probe: the probe at the images.
        chosen: the channels to score, shape (N, K).
        rows: most rows in a pass. If the probe is not divisible, each pass has one row for every sample instead.
        score: (step, samples (m,), channels (m,)) -> scores (m,) of one pass. It runs under no-grad.
        steps: passes for each channel.
        progress: what the progress bar says; if empty, none is shown.
    """
    if probe.divisible:
        samples, channels = chosen.nonzero().unbind(1)
    else:
        channels, samples = chosen.any(dim=0)[:, None].expand(-1, len(chosen)).nonzero().unbind(1)
        rows = len(chosen)
    passes = list(product(range(steps), zip(samples.split(rows), channels.split(rows), strict=True)))
    with torch.inference_mode(False), torch.no_grad():
        total = torch.zeros(chosen.shape, dtype=probe.activations.dtype, device=chosen.device)
        for step, (some, of_them) in track(passes, progress, disable=not progress):
            total[some, of_them] += score(step, some, of_them).to(total.dtype)
    return total / steps


def first_alike(maps: Tensor) -> Tensor:
    """Return for each map of (N, K, *S) the first of its sample that equals it, shape (N, K)."""
    firsts = []
    for flat in maps.flatten(2):
        different, number = flat.unique(dim=0, return_inverse=True)
        position = torch.arange(len(flat), device=flat.device)
        first = torch.full((len(different),), len(flat), device=flat.device).scatter_reduce(0, number, position, "amin")
        firsts.append(first[number])
    return torch.stack(firsts)
