"""Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", ICCV 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import ChannelMethod, GradientMethod, method, spatial_mean
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class GradCAM(ChannelMethod, GradientMethod):
    """Grad-CAM: contributions w_k A_k with w_k = mean_S(G_k).

    The baseline method: use it for comparison. It costs one forward pass and a backward pass that stops at the layer.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """

    paper: ClassVar[str] = "Selvaraju et al., Grad-CAM, ICCV 2017"

    def weights(self, probe: Probe) -> Tensor:
        """Return w = mean_S(G), shape (N, C)."""
        return spatial_mean(probe.gradients)
