"""Grad-CAM, element by element: the class of that name in pytorch-grad-cam, 2021."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import method
from cam_extras.methods.hires_cam import HiResCAM
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class GradCAMElementWise(HiResCAM):
    """Grad-CAM element-wise, also Grad-CAM-E: contributions ReLU(G * A), rectified in every channel.

    Use it for maps that show all evidence: what speaks against the class in one channel takes nothing from what speaks
    for it in another, so that the map depends less on the class than that of `HiResCAM`. It costs one forward pass and
    a backward pass that stops at the layer.

    Gildenblat and contributors, "PyTorch library for CAM methods", 2021; compared in Cai, "CAMs as Shapley Value-based
    Explainers", arXiv:2501.06261, 2025, equation (4).
    """

    paper: ClassVar[str] = "Gildenblat and contributors, PyTorch library for CAM methods, 2021"

    def contributions(self, probe: Probe) -> Tensor:
        """Return ReLU(G * A), shape (N, C, *S)."""
        return super().contributions(probe).relu()
