"""Smooth Grad-CAM++: Omeiza et al., "Smooth Grad-CAM++", 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras.methods._sampling import (
    Distribution,
    SampledMethod,
    as_image,
    check_noise,
    generator_of,
    noise_for,
    probe_at,
    seeds_of,
)
from cam_extras.methods.base import ChannelMethod, method
from cam_extras.methods.grad_cam_plus_plus import plus_plus_weights
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class SmoothGradCAMPlusPlus(ChannelMethod, SampledMethod):
    """Smooth Grad-CAM++: contributions w_k A_k(x) with Grad-CAM++ weights from gradients averaged over noisy copies.

    w_k = sum_S alpha_k ReLU(D1_k), alpha_k = D2_k / (2 D2_k + D3_k sum_S A_k), where D1, D2 and D3 are the means of G,
    G^2 and G^3 over n noisy copies x + e of the input.

    Use it below the last layer, where single gradients are noisy; on the last layer of MobileNet-V2, Grad-CAM was at
    least as faithful (see docs/decisions.md). An image costs n + 1 forward passes.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments that cannot be divided, or
            a utility of the whole batch, a pass holds one copy of every image of the batch instead.
        noise: width of e as a fraction of the image's range (maximum minus minimum): the standard deviation if
            "normal", the full interval around 0 if "uniform". 0 for none.
        distribution: distribution of the noise, "normal" or "uniform".
        seed: seed of the noise. Every image of a batch gets the same noise, up to scale.

    Raises:
        TypeError: the input is not made of floating-point numbers.

    Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional
    Neural Network Models", arXiv:1908.01224, 2019.
    """

    paper: ClassVar[str] = "Omeiza et al., Smooth Grad-CAM++, 2019"

    n_samples: int = 10
    noise: float = 0.3
    distribution: Distribution = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    def weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C)."""
        x = as_image(probe)
        seeds = seeds_of(self.n_samples, generator_of(self.seed))

        def powers(steps: Tensor, samples: Tensor) -> Tensor:
            points = x[samples] + noise_for(x[samples], seeds[steps], self.noise, self.distribution)
            gradients = probe_at(probe, points, samples).gradients.unflatten(0, points.shape[:2])
            return torch.stack([gradients, gradients**2, gradients**3], dim=2)

        first, second, third = self.average(probe, powers).unbind(dim=1)
        ratio = torch.where(second > 0, third / second, 0)
        return plus_plus_weights(probe.activations, first, ratio)
