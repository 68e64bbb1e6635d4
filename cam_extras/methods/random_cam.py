"""Random-CAM, a control: random channel weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras._checks import check_seed
from cam_extras.methods.base import Method, weigh_channels
from cam_extras.probe import Probe


@dataclass(frozen=True, kw_only=True)
class RandomCAM(Method):
    """Random-CAM: contributions w_k A_k with w_k ~ U(-1, 1).

    Use it to see what a method is worth, at the cost of one forward pass. The weights depend on `seed` and the number
    of channels alone: they are the same for every sample, so that a map does not depend on the batch it came in. The
    baseline of Cai, "CAMs as Shapley Value-based Explainers", 2025.

    Args:
        seed: of the weights' random generator.
    """

    paper: ClassVar[str] = "baseline in Cai, CAMs as Shapley Value-based Explainers, 2025"

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def channel_weights(self, probe: Probe) -> Tensor:
        """Return w ~ U(-1, 1), shape (N, C)."""
        probe.check_target()
        samples, channels = probe.activations.shape[:2]
        generator = torch.Generator("cpu").manual_seed(int(self.seed))
        # Type and device are spelt out: the defaults are the user's to change.
        weights = torch.empty(channels, dtype=torch.float32, device="cpu").uniform_(-1, 1, generator=generator)
        return weights.to(probe.activations).expand(samples, channels)

    def __call__(self, probe: Probe) -> Tensor:
        """Return w_k A_k, shape (N, C, *S)."""
        return weigh_channels(self.channel_weights(probe), probe.activations)
