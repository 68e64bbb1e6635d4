"""Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", ICCV 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import GradientMethod, spatial_mean, weigh_channels
from cam_extras.probe import Probe


@dataclass(frozen=True, kw_only=True)
class GradCAM(GradientMethod):
    """Grad-CAM: contributions w_k A_k with w_k = mean_S(G_k).

    The yardstick: use it to compare with. It costs one forward pass and a backward pass that stops at the layer.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """

    paper: ClassVar[str] = "Selvaraju et al., Grad-CAM, ICCV 2017"

    def channel_weights(self, probe: Probe) -> Tensor:
        """Return w = mean_S(G), shape (N, C)."""
        return spatial_mean(probe.scored_by(self.score).gradients)

    def contributions(self, probe: Probe) -> Tensor:
        """Return w_k A_k, shape (N, C, *S)."""
        return weigh_channels(self.channel_weights(probe), probe.activations)
