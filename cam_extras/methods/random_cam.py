"""Random-CAM, a control: random channel weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cam_extras.methods.base import ChannelMethod, method
from cam_extras.probe import Probe

_TURNS = 25  # more turns: two images have less in common, and rounding errors matter more


@method
@dataclass(frozen=True, kw_only=True)
class RandomCAM(ChannelMethod):
    """Random-CAM: contributions w_k A_k with w_k ~ U(-1, 1), drawn for each sample.

    Use it to see what a method is worth, at the cost of one forward pass. A sample's weights depend only on `seed`, the
    number of channels and the values of its input. They are the same at every call and in every batch, and differ
    between images, also between an image and its masked copy, which coherency compares. The baseline of Cai, "CAMs as
    Shapley Value-based Explainers", 2025.

    Args:
        seed: seed of the weights, used together with the input.
    """

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "baseline in Cai, CAMs as Shapley Value-based Explainers, 2025"

    seed: int = 0

    def weights(self, probe: Probe) -> Tensor:
        """Return w ~ U(-1, 1), shape (N, C)."""
        probe.check_target()
        return random_weights(probe.x, probe.activations.shape[1], int(self.seed)).to(probe.activations)


def random_weights(x: Tensor, channels: int, seed: int) -> Tensor:
    """Return channel weights w ~ U(-1, 1) for each sample, shape (N, C), float64 on the CPU.

    w_k = 2 |2 frac(u_k + F (v_k <d, x> / |x| + v'_k log |x|)) - 1| - 1 with F = 25 and u, v, v', d ~ U(-1, 1) from the
    seed: uniform for every x, since u_k is, and different for different x. A hash of x would do that too, but not for a
    masked image: its last bits differ between batches and devices, and the hashes would have nothing in common. These
    weights change as little as x does.

    Args:
        x: the inputs, shape (N, ...); only their values matter, not dtype or layout.
        channels: C.
        seed: seed for u, v, v' and d.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw(*shape: int) -> np.ndarray:
        # Explicit type and device: users may change the defaults.
        drawn = torch.empty(shape, dtype=torch.float64, device="cpu").uniform_(-1, 1, generator=generator)
        return drawn.numpy()

    start, by_direction, by_size = draw(3, channels)
    direction = draw(x[0].numel())
    weights = []
    for sample in x.detach().cpu():  # one by one: a batch may be summed in another order
        values = sample.double().contiguous().numpy().ravel()
        size = math.sqrt((values * values).sum()) or 1.0
        turns = start + _TURNS * (by_direction * (direction * values).sum() / size + by_size * math.log(size))
        weights.append(2 * np.abs(2 * (turns % 1) - 1) - 1)
    return torch.from_numpy(np.stack(weights))
