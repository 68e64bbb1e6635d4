"""XGrad-CAM: Fu et al., "Axiom-based Grad-CAM", BMVC 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras.methods.base import ChannelMethod, GradientMethod, method
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class XGradCAM(ChannelMethod, GradientMethod):
    """XGrad-CAM: contributions w_k A_k with w_k = sum_S(G_k A_k) / sum_S(A_k).

    The gradient is averaged over space with the activations as weights, so a channel's weight comes from where it is
    active. If sum_S(A_k) is 0, the weight is 0.

    Use it instead of Grad-CAM below the last layer, where activations are not negative: on signed layers sum_S(A_k) may
    be close to 0 and the weight unbounded. It costs one forward pass and a backward pass that stops at the layer.

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020.
    """

    paper: ClassVar[str] = "Fu et al., Axiom-based Grad-CAM, BMVC 2020"

    def weights(self, probe: Probe) -> Tensor:
        """Return w = sum_S(G A) / sum_S(A), shape (N, C)."""
        space = tuple(range(2, probe.activations.ndim))
        total = probe.activations.sum(dim=space)
        products = (probe.gradients * probe.activations).sum(dim=space)
        return torch.where(total != 0, products / torch.where(total != 0, total, 1), 0)
