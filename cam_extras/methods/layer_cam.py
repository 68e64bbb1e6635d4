"""LayerCAM: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps", IEEE TIP 2021."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import GradientMethod, method
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class LayerCAM(GradientMethod):
    """LayerCAM: contributions ReLU(G) * A, element by element.

    Use it in lower layers, for maps with finer cells. On layers without negative activations it equals
    `GradCAMElementWise`. It costs one forward pass and a backward pass that stops at the layer.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021.
    """

    paper: ClassVar[str] = "Jiang et al., LayerCAM, IEEE TIP 2021"

    def contributions(self, probe: Probe) -> Tensor:
        """Return ReLU(G) * A, shape (N, C, *S)."""
        return probe.gradients.relu() * probe.activations
