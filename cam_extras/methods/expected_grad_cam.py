"""Expected Grad-CAM: Buono et al., "Expected Grad-CAM: Towards gradient faithfulness", 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods._baselines import BaselineFunction, BaselineName, Difference, check_baselines, make_baselines
from cam_extras.methods._sampling import (
    Distribution,
    SampledMethod,
    as_image,
    check_noise,
    generator_of,
    noise_for,
    probe_at,
    seeds_of,
    stratified,
)
from cam_extras.methods.base import ChannelMethod, method, spatial_mean
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class ExpectedGradCAM(ChannelMethod, SampledMethod):
    """Expected Grad-CAM: contributions w_k A_k(x) with gradients averaged along paths from random baselines to x.

    w_k = mean_S[ 1/n sum_s D_k(x, x'_s) G_k(z_s) ] with z_s = x' + a_s (x - x') + e_s for s = 1 ... n, baselines x'_s,
    positions a_s ~ U(0, 1), noise e_s, and G the gradient of the utility of the class explained at x. The paper's
    smoothing kernel k is the noise. D is

    ============  ===============================================================
    `activation`  A(x) - A(x'), the change in the layer along the path
    `none`        1: the expected gradient alone
    `input`       A(x - x'), equation (21) of the paper taken literally
    ============  ===============================================================

    Use it where the model is saturated at x, so that the gradient there says little, and on layers without negative
    activations: w_k is already a contribution, and a negative A_k would flip its sign.

    Positions are stratified, one in each of n equal parts of [0, 1], and all baselines of a set are used equally often.
    Every image of a batch gets the same random numbers, so its map does not depend on the batch or on its place in it.
    An image costs n + 1 forward passes, and one more for each distinct baseline, except for other images of the batch,
    whose activations are known.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments, or a utility of the whole
            batch, a pass holds one point for every image of the batch instead.
        baselines: where paths start: "zeros"; "blur", the image without its detail; "noise", uniform between the
            image's minimum and maximum; "batch", the other images of the batch, on which the map then depends; a tensor
            (R, C, *S) of reference images; or a function (x, generator) -> tensor like x, called for one image at a
            time, shape (1, C, *S), with the same random numbers for each.
        difference: D: "activation", "none" or "input".
        noise: width of e as a fraction of the image's range (maximum minus minimum): the full interval around 0 if
            "uniform", the standard deviation if "normal". 0 for none.
        distribution: distribution of the noise, "uniform" or "normal".
        seed: seed for all random numbers.

    Raises:
        TypeError: the input is not made of floating-point numbers, or `baselines` is or returns something else.
        ValueError: the baselines differ from the input in shape or device or are not finite, or the batch has no other
            image.

    Buono et al., "Expected Grad-CAM: Towards gradient faithfulness", 2024, equations (18) and (21).
    """

    paper: ClassVar[str] = "Buono et al., Expected Grad-CAM, 2024"

    baselines: BaselineName | Tensor | BaselineFunction = "zeros"
    difference: Difference = "activation"
    noise: float = 0.1
    distribution: Distribution = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        check_baselines(self.baselines)
        super().__post_init__()
        check_noise(self.noise)

    def weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C)."""
        return self.path_weights(probe)

    def path_weights(self, probe: Probe, positions: Tensor | None = None) -> Tensor:
        """Return w, shape (N, C), for given positions a_s in [0, 1], shape (n,), instead of random ones."""
        probe = probe.under(self.utility)
        x = as_image(probe)
        generator = generator_of(self.seed)
        drawn = stratified(self.n_samples, generator)
        positions = drawn if positions is None else positions
        # One seed per step: the draws do not depend on which steps and samples share a pass.
        baseline_seeds, noise_seeds = seeds_of(2 * self.n_samples, generator).reshape(2, -1)
        baselines = make_baselines(
            self.baselines, self.difference, probe, x, baseline_seeds, generator, self.internal_batch_size
        )

        def term(steps: Tensor, samples: Tensor) -> Tensor:
            starts = baselines.images(steps, samples)
            along = positions[steps].to(x).reshape(-1, *(1,) * x.ndim)
            points = starts + along * (x[samples] - starts)
            if self.noise > 0:
                points = points + noise_for(x[samples], noise_seeds[steps], self.noise, self.distribution)
            gradients = probe_at(probe, points, samples).gradients
            gradients = gradients.reshape(*points.shape[:2], *gradients.shape[1:])
            return gradients * baselines.differences(steps, samples, starts)

        return spatial_mean(self.average(probe, term))
