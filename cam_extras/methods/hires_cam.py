"""HiResCAM: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for Faithful Explanations", 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import GradientMethod, method
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class HiResCAM(GradientMethod):
    """HiResCAM: contributions G * A, element by element.

    Use it below the last layer, where a channel may support the class in one place and oppose it in another. It costs
    one forward pass and a backward pass that stops at the layer.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for Faithful Explanations of Convolutional Neural
    Networks", arXiv:2011.08891, 2020.
    """

    paper: ClassVar[str] = "Draelos and Carin, HiResCAM, 2020"

    def contributions(self, probe: Probe) -> Tensor:
        """Return G * A, shape (N, C, *S)."""
        return probe.gradients * probe.activations
