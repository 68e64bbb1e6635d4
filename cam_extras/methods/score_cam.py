"""Score-CAM: Wang et al., "Score-CAM", CVPR Workshops 2020."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cam_extras.maps import normalise, resize
from cam_extras.methods._masking import MaskingMethod
from cam_extras.methods.base import method


@method
@dataclass(frozen=True, kw_only=True)
class ScoreCAM(MaskingMethod):
    """Score-CAM: contributions w_k A_k with w = softmax_k(u(x * M_k)), where the mask M_k is channel k in [0, 1].

    The mask of a channel that is constant over space is 0. Subtracting u of a baseline image, as in the paper, would
    not change the softmax.

    Use it where you trust what the model says of masked images more than its gradients. It costs a forward pass for
    every different mask of a sample: channels with the same mask, such as those that are 0 everywhere, share one.

    In the softmax of logits a few channels often have nearly all the weight; with utility="softmax" all have nearly the
    same.

    Args:
        utility: the utility u, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        variant: how a channel becomes a mask. "pytorch-grad-cam": enlarged with the centres of corner cells at the
            image's corners, then normalised. "torch-cam": normalised, then enlarged as maps are.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            one 224 x 224 image, and 8 at most. With additional forward arguments that cannot be divided, or a utility
            of the whole batch, a pass holds one image for every sample of the batch instead.
        progress: show a progress bar.

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR Workshops 2020.
    """

    paper: ClassVar[str] = "Wang et al., Score-CAM, CVPR Workshops 2020"

    variant: Literal["pytorch-grad-cam", "torch-cam"] = "pytorch-grad-cam"

    def changes(self, x: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return the identity: one mask for each channel."""
        return [lambda masks: masks]

    def enlarge(self, masks: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return the masks in the input's size."""
        if self.variant == "torch-cam":
            return resize(masks, size)
        return normalise(resize(masks, size, align_corners=True))
