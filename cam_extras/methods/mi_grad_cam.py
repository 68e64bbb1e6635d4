"""MI-Grad-CAM: "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative"."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_extras._checks import SampleError, check_count, which
from cam_extras.methods._information import MOST_BINS, Estimator, Upsampling, mutual_information
from cam_extras.methods.base import ChannelMethod, GradientMethod, above_minimum, method, spatial_mean
from cam_extras.probe import Probe

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
}


@method
@dataclass(frozen=True, kw_only=True)
class MIGradCAM(ChannelMethod, GradientMethod):
    """MI-Grad-CAM: contributions w_k A_k with w_k = mean_S(G_k) m_k, m_k = I(A_k; X) / sum_j I(A_j; X).

    I is the mutual information between a channel and the grey image, see `mutual_information`. If it is 0 for all
    channels of a sample, all m_k are equal, which gives Grad-CAM, with a warning.

    Use it to damp channels that fire whatever the image shows, in layers whose maps have a few dozen cells or more. It
    costs one forward pass and a backward pass that stops at the layer; the histogram adds a fifth of a forward pass for
    1000 to 2000 channels of 7 x 7 cells.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        estimator: estimator of the mutual information: "histogram", "discrete" or "knn".
        bins: number of histogram bins for each of the two variables; 2 to 4096.
        upsample: how channels are upsampled to the image: "nearest" or "bilinear".
        activation: applied to the sum over channels: "relu", or "leaky_relu", "sigmoid" or "elu" as in the paper's
            table 9. With the last three the contributions are the activated sum minus its minimum, (N, 1, *S), so that
            the hosts' ReLU removes nothing.
        seed: for the choice of pixels that "knn" samples.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", equations (9) to (12).
    """

    paper: ClassVar[str] = "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative"

    estimator: Estimator = "histogram"
    bins: int = 64
    upsample: Upsampling = "nearest"
    activation: Literal["relu", "leaky_relu", "sigmoid", "elu"] = "relu"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("bins", self.bins, least=2, most=MOST_BINS)

    def channel_information(self, probe: Probe) -> Tensor:
        """Return m, the normalised mutual information, shape (N, C); it sums to 1."""
        information = mutual_information(
            probe.activations,
            probe.x,
            estimator=self.estimator,
            bins=self.bins,
            upsample=self.upsample,
            seed=self.seed,
        )
        total = information.sum(dim=1, keepdim=True)
        if (total == 0).any():
            error = SampleError("no channel shares information with the image", which(total == 0), "all weigh the same")
            warnings.warn(str(error), stacklevel=2)
        return torch.where(total > 0, information / total, 1 / information.shape[1])

    def weights(self, probe: Probe) -> Tensor:
        """Return w = mean_S(G) m, shape (N, C)."""
        return spatial_mean(probe.gradients) * self.channel_information(probe)

    def contributions(self, probe: Probe) -> Tensor:
        """Return w_k A_k, shape (N, C, *S); with another activation the activated sum, (N, 1, *S)."""
        contributions = super().contributions(probe)
        if self.activation == "relu":
            return contributions
        return above_minimum(ACTIVATIONS[self.activation](contributions.sum(dim=1, keepdim=True)))
