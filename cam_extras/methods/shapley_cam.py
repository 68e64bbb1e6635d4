"""ShapleyCAM and its variants: Cai, "CAMs as Shapley Value-based Explainers", 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods.base import ChannelMethod, GradientMethod, method, spatial_mean
from cam_extras.probe import Probe
from cam_extras.utilities import UtilityName


def shapley_weights(gradients: Tensor, curvature: Tensor) -> Tensor:
    """Second-order Shapley weights W = G - 1/2 H A, element by element.

    W_j . A_j is the Shapley value of position j when the utility is replaced by its second-order Taylor expansion
    at A (equation 14 of the paper).

    Args:
        gradients: G, shape (N, C, *S).
        curvature: H A, the Hessian of the utility times the activations, shape (N, C, *S).
    """
    return gradients - curvature / 2


@dataclass(frozen=True, kw_only=True)
class _ShapleyMethod(GradientMethod):
    paper: ClassVar[str] = "Cai, CAMs as Shapley Value-based Explainers, 2025"
    second_order: ClassVar[bool] = True

    utility: UtilityName = "rest"

    def position_weights(self, probe: Probe) -> Tensor:
        """Return W = G - 1/2 H A, shape (N, C, *S), under the probe's utility."""
        return shapley_weights(probe.gradients, probe.hessian_vector_product(probe.activations))


@method
@dataclass(frozen=True, kw_only=True)
class ShapleyCAM(ChannelMethod, _ShapleyMethod):
    """ShapleyCAM: contributions w_k A_k with w = mean_S(G - 1/2 H A), under the ReST utility.

    Use it instead of Grad-CAM where the utility is not linear above the layer: below the last layer, or with a utility
    other than the logit. Where the utility is linear in the layer (the logit, global average pooling and one linear
    layer), H = 0 and it equals Grad-CAM. It costs one forward pass and two backward passes that stop at the layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.
    """

    def weights(self, probe: Probe) -> Tensor:
        """Return w = mean_S(W), shape (N, C)."""
        return spatial_mean(self.position_weights(probe))


@method
@dataclass(frozen=True, kw_only=True)
class ShapleyCAMH(_ShapleyMethod):
    """ShapleyCAM-H: contributions (G - 1/2 H A) * A, element by element, under the ReST utility.

    Use it like HiResCAM, below the last layer. It costs one forward pass and two backward passes that stop at the
    layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.
    """

    def contributions(self, probe: Probe) -> Tensor:
        """Return W * A, shape (N, C, *S)."""
        return self.position_weights(probe) * probe.activations


@method
@dataclass(frozen=True, kw_only=True)
class ShapleyCAME(ShapleyCAMH):
    """ShapleyCAM-E: contributions ReLU((G - 1/2 H A) * A), rectified per channel, under the ReST utility.

    Use it for maps that show all evidence; they depend less on the class than those of the other two (section 5). It
    costs one forward pass and two backward passes that stop at the layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.
    """

    def contributions(self, probe: Probe) -> Tensor:
        """Return ReLU(W * A), shape (N, C, *S)."""
        return super().contributions(probe).relu()
