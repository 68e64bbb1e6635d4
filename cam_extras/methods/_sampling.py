"""Shared by methods that average over points around an image, or along a path to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cam_extras._checks import check_count
from cam_extras.methods.base import GradientMethod, rows_for
from cam_extras.probe import Probe

Distribution: TypeAlias = Literal["uniform", "normal"]


@dataclass(frozen=True, kw_only=True)
class SampledMethod(GradientMethod):
    """A method that averages over n points in input space for every image.

    Args:
        n_samples: n, points per image.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments that cannot be divided, or
            a utility of the whole batch, a pass holds one point for every image of the batch instead.
    """

    n_samples: int = 16
    internal_batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_samples", self.n_samples)
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)

    def average(self, probe: Probe, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return 1/n sum_s t_s, shape (N, ...).

        Args:
            probe: the probe at the images.
            term: (steps (k,), samples (m,)) -> t for the k * m points of one pass, shape (k, m, ...). Steps are on the
                CPU, like the random numbers; samples are on the input's device.
        """
        samples = torch.arange(len(probe.x), device=probe.x.device)
        rows = rows_for(probe, self.internal_batch_size)
        averages = []
        for part in samples.tensor_split(math.ceil(len(samples) / rows)):
            steps = torch.arange(self.n_samples, device="cpu").split(max(1, rows // len(part)))
            terms = (term(some, part).sum(dim=0) for some in steps)
            averages.append(reduce(torch.add, terms) / self.n_samples)
        return torch.cat(averages)


def probe_at(probe: Probe, points: Tensor, samples: Tensor) -> Probe:
    """Return the probe at points (k, m, C, *S) of m samples: k * m rows."""
    rows = points.flatten(0, 1).to(probe.x.dtype)
    # If samples cannot be chosen, `average` asks for one point for every sample.
    return probe.at(rows, samples.repeat(len(points))) if probe.divisible else probe.at(rows)


def as_image(probe: Probe) -> Tensor:
    """Return the input in float32 or better, or raise TypeError for integers."""
    if not probe.x.is_floating_point():
        raise TypeError(
            f"the input holds {probe.x.dtype}; expected floating point: between two integers there is no path, and "
            "they have no noise"
        )
    return probe.x.to(torch.promote_types(probe.x.dtype, torch.float32))


# Random numbers come from the CPU, with explicit types and devices: users may change the defaults.


def generator_of(seed: int) -> torch.Generator:
    """Return a new CPU generator."""
    return torch.Generator("cpu").manual_seed(int(seed))


def seeds_of(count: int, generator: torch.Generator) -> Tensor:
    """Draw seeds, shape (count,)."""
    return torch.randint(2**31, (count,), generator=generator, dtype=torch.int64, device="cpu")


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Draw sorted positions, one in each of `count` equal parts of [0, 1]: shape (count,)."""
    inside = torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")
    return (torch.arange(count, dtype=torch.float64, device="cpu") + inside) / count


def in_turn(choices: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw from range(choices), using all of them in random order before any repeats: shape (count,).

    If positions on the paths are sorted, this spreads the positions of each baseline over the whole path too.
    """
    rounds = [
        torch.randperm(choices, generator=generator, dtype=torch.int64, device="cpu")
        for _ in range(math.ceil(count / choices))
    ]
    return torch.cat(rounds)[:count]


def noise_for(x: Tensor, seeds: Tensor, width: float, distribution: Distribution) -> Tensor:
    """Draw noise of mean 0 for images (m, C, *S), the same for each except for its scale: shape (k, m, C, *S).

    Args:
        x: the images.
        seeds: one for each of the k draws.
        width: as a fraction of an image's range: the full interval if "uniform", the standard deviation if "normal".
        distribution: "uniform" or "normal".
    """
    draws = []
    for seed in seeds.tolist():
        draw = torch.empty(x.shape[1:], dtype=torch.float32, device="cpu")
        if distribution == "uniform":
            draw.uniform_(-0.5, 0.5, generator=generator_of(seed))
        else:
            draw.normal_(generator=generator_of(seed))
        draws.append(draw)
    low, high = extremes(x)
    return width * (high - low) * torch.stack(draws)[:, None].to(x)


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and maximum of every image, shape (N, 1, ...)."""
    image = tuple(range(1, x.ndim))
    return x.amin(image, keepdim=True), x.amax(image, keepdim=True)


def check_noise(width: float) -> None:
    """Raise ValueError unless the noise width is a finite number, 0 or more."""
    if not 0 <= width < math.inf:
        raise ValueError(f"noise must be a finite number, 0 or more; got {width}")
