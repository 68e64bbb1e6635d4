"""Integrated Grad-CAM: Sattarzadeh et al., ICASSP 2021."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cam_extras.methods._sampling import SampledMethod, as_image, probe_at
from cam_extras.methods.base import ChannelMethod, method, spatial_mean, weigh_channels
from cam_extras.methods.expected_grad_cam import ExpectedGradCAM
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class IntegratedGradCAM(ChannelMethod, SampledMethod):
    """Integrated Grad-CAM: gradients averaged along the straight path from zero to x.

    Contributions w_k A_k(x) with w_k = mean_S[ (A(x) - A(0))_k 1/n sum_s G_k(a_s x) ], a_s = (s - 1/2) / n for
    s = 1 ... n: Expected Grad-CAM with zero as the only baseline, regular positions and no noise. `variant="maps"` does
    what the authors' code does: sum_i ReLU( sum_k mean_S(G_k(x_i)) A_k(x_i) ), x_i = (i / n) x for i = 0 ... n - 1,
    shape (N, 1, *S).

    Use it where the model is saturated at x and zero is a natural baseline, or to compare with the paper. An image
    costs n + 1 forward passes, plus one for the batch.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments that cannot be divided, or
            a utility of the whole batch, a pass holds one point for every image of the batch instead.
        variant: "weights" or "maps".

    Raises:
        TypeError: the input is not made of floating-point numbers.

    Sattarzadeh et al., "Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional Networks via
    Integrated Gradient-Based Scoring", ICASSP 2021; remark 3.3 of the paper of Expected Grad-CAM.
    """

    paper: ClassVar[str] = "Sattarzadeh et al., Integrated Grad-CAM, ICASSP 2021"

    n_samples: int = 50
    variant: Literal["weights", "maps"] = "weights"

    @property
    def weighs_channels(self) -> bool:
        """Whether `variant` is "weights"."""
        return self.variant == "weights"

    def weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C); `variant="maps"` has none."""
        if not self.weighs_channels:
            raise ValueError('the sum of maps of variant="maps" has no channel weights: use variant="weights"')
        expected = ExpectedGradCAM(
            utility=self.utility,
            n_samples=self.n_samples,
            internal_batch_size=self.internal_batch_size,
            baselines="zeros",
            noise=0.0,
        )
        steps = torch.arange(self.n_samples, dtype=torch.float64, device="cpu")
        return expected.path_weights(probe, (steps + 0.5) / self.n_samples)

    def contributions(self, probe: Probe) -> Tensor:
        """Return w_k A_k, shape (N, C, *S); with `variant="maps"` the sum of maps, (N, 1, *S)."""
        if self.weighs_channels:
            return super().contributions(probe)
        x = as_image(probe)

        def term(steps: Tensor, samples: Tensor) -> Tensor:
            fractions = (steps.to(x) / self.n_samples).reshape(-1, *(1,) * x.ndim)
            there = probe_at(probe, fractions * x[samples], samples)
            maps = weigh_channels(spatial_mean(there.gradients), there.activations).sum(dim=1, keepdim=True).relu()
            return maps.reshape(len(steps), len(samples), *maps.shape[1:])

        return self.n_samples * self.average(probe, term)
