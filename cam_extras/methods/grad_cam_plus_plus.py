"""Grad-CAM++: Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations", WACV 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras.methods.base import ChannelMethod, GradientMethod, method
from cam_extras.probe import Probe


def plus_plus_weights(activations: Tensor, gradients: Tensor, ratio: Tensor, addend: float | Tensor = 0.0) -> Tensor:
    """Channel weights of Grad-CAM++: w_k = sum_S alpha_k ReLU(G_k), alpha_k = 1 / (2 + R_k sum_S A_k + e).

    alpha is 0 where its denominator is 0.

    Args:
        activations: A, shape (N, C, *S).
        gradients: G, shape (N, C, *S).
        ratio: R, the third derivative divided by the second, shape (N, C, *S).
        addend: e, 0 in the paper.

    Returns:
        Shape (N, C).
    """
    space = tuple(range(2, activations.ndim))
    denominator = 2 + ratio * activations.sum(dim=space, keepdim=True) + addend
    alpha = torch.where(denominator != 0, 1 / denominator, 0)
    return (alpha * gradients.relu()).sum(dim=space)


@method
@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(ChannelMethod, GradientMethod):
    """Grad-CAM++: contributions w_k A_k with w_k = sum_S ReLU(G_k) / (2 + G_k sum_S A_k).

    The paper weighs G^2 / (2 G^2 + G^3 sum_S A_k), which is the same. It explains exp(U), where U is the utility and
    linear in the layer, so that the second and third derivatives of exp(U) are exp(U) G^2 and exp(U) G^3. With the
    logit that is the paper's exp(y_c); with "log_softmax" it is the probability, with "softmax" exp(p_c) and with
    "rest" the probability times exp(y_c), for all of which the second derivative of U itself is left out. The factor
    exp(U), the same for all channels of an image, is left out of w.

    Use it for maps that show all of several objects of a class. Its weights are not negative, so that it also shows
    what supports other classes. On layers with negative activations the denominator may be close to 0 and a weight
    unbounded; where it is 0, the weight is 0. It costs one forward pass and a backward pass that stops at the layer.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        epsilon: added to the paper's denominator 2 G^2 + G^3 sum_S A_k; 0 or more. 1e-6 gives the maps of
            pytorch-grad-cam, which differ where G^2 is not much greater than that, as in the last layer of most
            networks.

    Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
    WACV 2018, equations (10), (11) and (19).
    """

    paper: ClassVar[str] = "Chattopadhay et al., Grad-CAM++, WACV 2018"

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon < float("inf"):
            raise ValueError(f"epsilon must be a finite number, 0 or more; got {self.epsilon!r}")

    def weights(self, probe: Probe) -> Tensor:
        """Return w = sum_S(ReLU(G) / (2 + G sum_S(A))), shape (N, C)."""
        gradients = probe.gradients
        addend = self.epsilon / gradients.square() if self.epsilon else 0.0
        return plus_plus_weights(probe.activations, gradients, gradients, addend)
