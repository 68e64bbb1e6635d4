"""SS-CAM: Wang et al., "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", 2020."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras._checks import check_count
from cam_extras.methods._masking import MaskingMethod
from cam_extras.methods._sampling import check_noise, generator_of, seeds_of
from cam_extras.methods.base import method


@method
@dataclass(frozen=True, kw_only=True)
class SSCAM(MaskingMethod):
    """SS-CAM: contributions w_k A_k with w = softmax_k(1/n sum_i u(x * (M_k + d_i))), smoothed Score-CAM.

    M_k is channel k, normalised to [0, 1] and enlarged as maps are; d_i is noise for each pixel, normal with mean 0. It
    is the same for all channels, so that their utilities differ by their masks only. torch-cam draws it for each.

    Use it instead of Score-CAM to even out what a single mask happens to show. It costs n forward passes for every
    different mask of a sample.

    Args:
        utility: the utility u, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        n_samples: n, draws of noise.
        noise: standard deviation of the noise.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            one 224 x 224 image, and 8 at most. With additional forward arguments that cannot be divided, or a utility
            of the whole batch, a pass holds one image for every sample of the batch instead.
        progress: show a progress bar.
        seed: seed of the noise.

    Wang et al., "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", 2020.
    """

    paper: ClassVar[str] = "Wang et al., SS-CAM, 2020"

    n_samples: int = 35
    noise: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_samples", self.n_samples)
        check_noise(self.noise)

    def changes(self, x: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return functions that add the noise."""
        seeds = seeds_of(self.n_samples, generator_of(self.seed)).tolist()
        return [partial(self._add_noise, seed=seed) for seed in seeds]

    def _add_noise(self, masks: Tensor, seed: int) -> Tensor:
        noise = torch.empty(masks.shape[1:], dtype=torch.float32, device="cpu").normal_(generator=generator_of(seed))
        return masks + self.noise * noise.to(masks)
