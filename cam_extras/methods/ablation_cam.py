"""Ablation-CAM: Desai and Ramaswamy, "Ablation-CAM", WACV 2020."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cam_extras._batching import granted
from cam_extras._checks import SampleError, check_count, stacklevel_of_the_caller, which
from cam_extras.methods._channel_scores import score_channels
from cam_extras.methods.base import ChannelMethod, UtilityMethod, method, rows_for
from cam_extras.probe import Probe

# Values in the copies of a pass: on the CPU larger blocks of memory leave the cache, and are allocated anew every time.
_VALUES = {"cpu": 2**22}
_VALUES_ELSEWHERE = 2**26

REPLACEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": lambda activations: activations.mean(dim=tuple(range(2, activations.ndim)), keepdim=True),
    "minimum": lambda activations: activations.amin(dim=tuple(range(1, activations.ndim)), keepdim=True),
}


@method
@dataclass(frozen=True, kw_only=True)
class AblationCAM(ChannelMethod, UtilityMethod):
    """Ablation-CAM: contributions w_k A_k with w_k = (u - u_k) / |u|, where u_k is the utility without channel k.

    The channel's value in all cells is replaced, and everything else is kept. If u is 0, w_k = u - u_k.
    For u > 0 this is the paper's weight; the paper divides by u, which turns the map upside down for u < 0.

    Use it where gradients are saturated or missing, at the last layers: it differentiates nothing. It costs one forward
    pass, and for every channel that the replacement changes what lies above the layer: a few forward passes in
    all at the last layer of a convolutional network. Where something below the layer also reaches the output past it,
    such as a skip connection around it, it costs a whole forward pass for every channel.

    Equal to pytorch-grad-cam's class where the smallest value of the layer is 0, as after a ReLU, and u > 0. In other
    layers pytorch-grad-cam sets channels to about -1e7 times their position in its batch, which is no ablation.

    Args:
        utility: the utility u, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        replacement: what replaces a channel's values: "zero", as in the paper; "mean", its mean over space; or
            "minimum", the smallest value of the layer.
        internal_batch_size: most copies of the layer in a pass; by default as many as have four million values on the
            CPU and 64 million elsewhere. Where whole forward passes are needed, most images: by default 32, on the CPU
            only as many as have the pixels of four 224 x 224 images. With additional forward arguments that cannot be
            divided, or a utility of the whole batch, a pass holds one copy for every image of the batch instead.
        progress: show a progress bar.

    Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", WACV 2020.
    """

    paper: ClassVar[str] = "Desai and Ramaswamy, Ablation-CAM, WACV 2020"

    replacement: Literal["zero", "mean", "minimum"] = "zero"
    internal_batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)

    def weights(self, probe: Probe) -> Tensor:
        """Return w = (u - u_k) / |u|, shape (N, K)."""
        probe.check_target()
        activations = probe.activations
        replacements = REPLACEMENTS[self.replacement](activations).expand_as(activations)
        changes = (activations != replacements).flatten(2).any(dim=2)
        rows = self._rows(probe)

        def without(step: int, samples: Tensor, channels: Tensor) -> Tensor:
            copies = activations[samples]
            copies[torch.arange(len(copies), device=copies.device), channels] = replacements[samples, channels]
            return probe.above(copies, samples)

        def complete(step: int, samples: Tensor, channels: Tensor) -> Tensor:
            return probe.above(activations[samples], samples)

        # From passes like those for u_k, so that rounding is alike.
        whole = score_channels(probe, torch.ones_like(changes[:, :1]), rows, complete)
        ablated = score_channels(probe, changes, rows, without, progress="AblationCAM" if self.progress else "")
        differences = torch.where(changes, whole - ablated, 0)
        _check_that_something_changes(probe, whole, differences)
        return differences / torch.where(whole == 0, 1, whole.abs())

    def _rows(self, probe: Probe) -> int:
        if not probe.separable:
            return rows_for(probe, self.internal_batch_size)
        values = _VALUES.get(probe.x.device.type, _VALUES_ELSEWHERE)
        return granted(self.internal_batch_size or max(1, values // probe.activations[0].numel()))


def _check_that_something_changes(probe: Probe, whole: Tensor, differences: Tensor) -> None:
    """Warn of samples in which no channel matters: min-max would scale rounding errors up to a map."""
    rounding = 32 * torch.finfo(whole.dtype).eps * whole.abs()
    nothing = (differences.abs() <= rounding).all(dim=1)
    if nothing.all() and probe.reshape_transform is not None:
        raise probe.not_reached()
    if nothing.any():
        error = SampleError(
            "the utility is the same without any channel, but for rounding,",
            which(nothing),
            'their maps show nothing; a saturated utility does that: take utility="logit"',
        )
        warnings.warn(str(error), stacklevel=stacklevel_of_the_caller())
