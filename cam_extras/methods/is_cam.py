"""IS-CAM: Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", 2020."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import mul
from typing import ClassVar, Literal

from torch import Tensor

from cam_extras._checks import check_count
from cam_extras.methods._masking import MaskingMethod
from cam_extras.methods.base import method


@method
@dataclass(frozen=True, kw_only=True)
class ISCAM(MaskingMethod):
    """IS-CAM: contributions w_k A_k with w = softmax_k(1/n sum_i u(x * c_i M_k)), Score-CAM along a path of masks.

    M_k is channel k, normalised to [0, 1] and enlarged as maps are. The paper's algorithm adds i/n times the mask at
    every step, so that c_i = 1/n + ... + i/n grows up to (n + 1) / 2, far above 1.

    Use it instead of Score-CAM to average over how much is shown. It costs n forward passes for every different mask of
    a sample.

    Args:
        utility: the utility u, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        n_samples: n, steps.
        path: c_i: "accumulated", as in the paper and in torch-cam, or "linear", i/n, which ends at the mask itself.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            one 224 x 224 image, and 8 at most. With additional forward arguments that cannot be divided, or a utility
            of the whole batch, a pass holds one image for every sample of the batch instead.
        progress: show a progress bar.

    Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", 2020.
    """

    paper: ClassVar[str] = "Naidu et al., IS-CAM, 2020"

    n_samples: int = 10
    path: Literal["accumulated", "linear"] = "accumulated"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_samples", self.n_samples)

    def changes(self, x: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return functions that multiply by c_i."""
        linear = [(step + 1) / self.n_samples for step in range(self.n_samples)]
        return [partial(mul, c) for c in (linear if self.path == "linear" else accumulate(linear))]
