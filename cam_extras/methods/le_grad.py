"""LeGrad: Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers", ICCV 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cam_extras._attention import attention_gradients
from cam_extras._checks import check_count
from cam_extras.methods._tokens import map_of_tokens
from cam_extras.methods.base import GradientMethod, method
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class LeGrad(GradientMethod):
    """LeGrad: the mean over blocks, heads and queries of ReLU(d s_l / d A_l), shape (N, 1, *S).

    A_l are the attention probabilities of block l, and s_l is the utility of the class if the model's head is given the
    mean of the block's tokens. What a token receives as a key makes the map. All blocks are used, whatever the layer:
    the layer's feature map says which tokens are its cells.

    Use it for vision transformers whose blocks attend to all tokens of an image: torchvision's, timm's and Hugging
    Face's. It costs a forward pass and a backward pass within each block, beside the forward pass for the layer.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        blocks: how many blocks are averaged, counted from the last; by default all.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    arXiv:2404.03214, 2024.
    """

    paper: ClassVar[str] = "Bousselham et al., LeGrad, 2024"
    particular: ClassVar[bool] = True

    blocks: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None:
            check_count("blocks", self.blocks)

    def contributions(self, probe: Probe) -> Tensor:
        """Return the mean of ReLU(d s_l / d A_l), shape (N, 1, *S).

        Raises:
            ValueError: see `attention_gradients`; or the model has fewer blocks.
        """
        gradients = attention_gradients(probe)
        if self.blocks is not None and self.blocks > len(gradients):
            raise ValueError(f"the model has {len(gradients)} blocks; got blocks={self.blocks}")
        used = gradients[-(self.blocks or len(gradients)) :]
        return map_of_tokens(probe, torch.stack([gradient.relu().mean(dim=(1, 2)) for gradient in used]).mean(dim=0))
