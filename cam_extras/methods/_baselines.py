"""Baselines: where the paths of Expected Grad-CAM start, and the layer's activations there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cam_extras._checks import SampleError, check_choice, check_finite
from cam_extras.methods._sampling import extremes, generator_of, in_turn, noise_for, probe_at
from cam_extras.methods.base import rows_for
from cam_extras.probe import Probe

BaselineFunction = Callable[[Tensor, torch.Generator], Tensor]

BaselineName: TypeAlias = Literal["zeros", "blur", "noise", "batch"]
Difference: TypeAlias = Literal["activation", "none", "input"]


def check_baselines(baselines: str | Tensor | BaselineFunction) -> None:
    """Raise TypeError or ValueError unless these can be baselines; the input's shape is not checked."""
    if isinstance(baselines, Tensor):
        if not baselines.is_floating_point():
            raise TypeError(f"baselines must be of floating point; got {baselines.dtype}")
        if baselines.ndim < 2 or len(baselines) == 0:
            raise ValueError(f"expected baselines of shape (R, C, *S), one or more; got {tuple(baselines.shape)}")
        check_finite("the tensor of baselines", baselines)
    elif isinstance(baselines, str):
        check_choice("baselines", baselines, get_args(BaselineName))
    elif not callable(baselines):
        raise TypeError(
            f"baselines must be a tensor (R, C, *S), a function or one of {', '.join(get_args(BaselineName))}; "
            f"got {baselines!r}"
        )


class Baselines(ABC):
    """The baselines x' for every step and sample, and the differences D they make in the layer.

    Steps (k,) and samples (m,) give images (k, m, C, *S) and differences (k, m, K, *S').
    """

    def __init__(self, probe: Probe, x: Tensor, difference: str):
        self.probe, self.x, self.difference = probe, x, difference

    @abstractmethod
    def images(self, steps: Tensor, samples: Tensor) -> Tensor:
        """Return x'."""

    @abstractmethod
    def activations(self, steps: Tensor, samples: Tensor, images: Tensor) -> Tensor:
        """Return A(x - x') if the difference is "input", else A(x')."""

    def differences(self, steps: Tensor, samples: Tensor, images: Tensor) -> Tensor | float:
        """Return D."""
        if self.difference == "none":
            return 1.0
        activations = self.activations(steps, samples, images)
        return activations if self.difference == "input" else self.probe.activations[samples] - activations


class KnownBaselines(Baselines):
    """Baselines that are used more than once: rows of `pool` (R, C, *S), chosen by `index` (n, N)."""

    def __init__(self, probe: Probe, x: Tensor, difference: str, pool: Tensor, index: Tensor, batch_size: int | None):
        super().__init__(probe, x, difference)
        self.pool, self.index, self.batch_size = pool, index.to(x.device), batch_size

    def images(self, steps: Tensor, samples: Tensor) -> Tensor:
        """Return x'."""
        return self.pool[self.index[steps][:, samples]]

    def activations(self, steps: Tensor, samples: Tensor, images: Tensor) -> Tensor:
        """Return A(x - x') if the difference is "input", else A(x')."""
        known, where = self._known
        return known[where[steps][:, samples]]

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """The activations of all inputs needed, each computed once, and their row numbers (n, N)."""
        numbers = torch.arange(len(self.x), device=self.x.device)
        needed = self.index + len(self.pool) * numbers if self.difference == "input" else self.index
        if self.difference == "activation" and self.pool is self.x:
            return self.probe.activations, self.index
        if self.probe.divisible and not self.probe.other_inputs:
            needed, where = needed.unique(return_inverse=True)
            passes = needed.split(rows_for(self.probe, self.batch_size))
        else:  # each pass holds one input for every sample
            needed, where = needed.unique(dim=0, return_inverse=True)
            passes, where = needed.unbind(), len(numbers) * where[:, None] + numbers
        return torch.cat([self.probe.at(self._inputs(part)).activations for part in passes]), where

    def _inputs(self, needed: Tensor) -> Tensor:
        images = self.pool[needed % len(self.pool)]
        if self.difference == "input":
            images = self.x[needed // len(self.pool)] - images
        return images.to(self.probe.x.dtype)


class FreshBaselines(Baselines):
    """Baselines that are used once, made when needed: `make` returns those of one step for some samples."""

    def __init__(self, probe: Probe, x: Tensor, difference: str, make: Callable[[int, Tensor], Tensor]):
        super().__init__(probe, x, difference)
        self.make = make

    def images(self, steps: Tensor, samples: Tensor) -> Tensor:
        """Return x'."""
        return torch.stack([self.make(step, samples) for step in steps.tolist()])

    def activations(self, steps: Tensor, samples: Tensor, images: Tensor) -> Tensor:
        """Return A(x - x') if the difference is "input", else A(x')."""
        inputs = self.x[samples] - images if self.difference == "input" else images
        activations = probe_at(self.probe, inputs, samples).activations
        return activations.reshape(*inputs.shape[:2], *activations.shape[1:])


def make_baselines(
    baselines: str | Tensor | BaselineFunction,
    difference: str,
    probe: Probe,
    x: Tensor,
    seeds: Tensor,
    generator: torch.Generator,
    batch_size: int | None,
) -> Baselines:
    """Choose the baselines of every step for images x (N, C, *S); there is one step for each of the `seeds`.

    Raises:
        ValueError: a tensor has a different shape from the images or is on another device, or there is no other image.
    """
    steps, samples = len(seeds), torch.arange(len(x), device="cpu")
    if isinstance(baselines, Tensor):
        pool = _like_images(baselines, x)
        index = in_turn(len(pool), steps, generator)[:, None].expand(steps, len(x))
    elif callable(baselines):
        function = baselines
        return FreshBaselines(probe, x, difference, lambda s, some: _call(function, probe.x, int(seeds[s]), some))
    elif baselines == "noise":
        return FreshBaselines(probe, x, difference, lambda s, some: _random_images(x[some], seeds[s : s + 1]))
    elif baselines == "zeros":
        pool, index = torch.zeros_like(x[:1]), torch.zeros_like(samples).expand(steps, -1)
    elif baselines == "blur":
        pool, index = blur(x), samples.expand(steps, -1)
    else:
        if len(x) < 2:
            raise ValueError(
                'baselines="batch" takes the other images of the batch, and there is none: '
                "give two or more images, or other baselines"
            )
        pool, index = x, (samples + 1 + in_turn(len(x) - 1, steps, generator)[:, None]) % len(x)
    return KnownBaselines(probe, x, difference, pool, index, batch_size)


def _like_images(images: Tensor, x: Tensor) -> Tensor:
    if images.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"expected baselines of shape (R, {', '.join(map(str, x.shape[1:]))}), like the input; "
            f"got {tuple(images.shape)}"
        )
    if images.device != x.device:
        raise ValueError(f"expected baselines on the input's device, {x.device}; got {images.device}: move them there")
    return images.detach().to(x.dtype)


def _call(function: BaselineFunction, x: Tensor, seed: int, samples: Tensor) -> Tensor:
    """Call the user's function for each sample separately, so that no sample depends on the others."""
    images = []
    for sample in samples.tolist():
        image = function(x[sample : sample + 1].clone(), generator_of(seed))
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"the baselines function must return a tensor of floating point like its input; got {kind}")
        if image.shape != (1, *x.shape[1:]) or image.device != x.device:
            raise ValueError(
                f"the baselines function must return the shape of its input, {(1, *x.shape[1:])}, on {x.device}; "
                f"got {tuple(image.shape)} on {image.device}"
            )
        if not image.isfinite().all():
            raise SampleError("the baseline is NaN or infinite", [sample])
        images.append(image.detach().to(torch.promote_types(x.dtype, torch.float32)))
    return torch.cat(images)


def _random_images(x: Tensor, seed: Tensor) -> Tensor:
    """Draw images, uniform between the minimum and maximum of each image in x."""
    low, high = extremes(x)
    return (low + high) / 2 + noise_for(x, seed, 1.0, "uniform")[0]


def blur(x: Tensor, width: float = 0.05) -> Tensor:
    """Blur images (N, C, *S) with a Gaussian whose standard deviation is `width` times the size; no padding."""
    with torch.autocast(x.device.type, enabled=False):  # autocast would round the image to half precision
        for dim in range(min(2, x.ndim - 1), x.ndim):
            place = torch.arange(x.shape[dim], dtype=x.dtype, device=x.device)
            kernel = torch.exp(-((place[:, None] - place) ** 2) / (2 * (width * len(place)) ** 2))
            kernel = kernel / kernel.sum(dim=1, keepdim=True)
            x = (x.movedim(dim, -1) @ kernel.T).movedim(-1, dim)
    return x
