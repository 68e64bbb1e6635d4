"""Attention maps: raw attention, and attention rollout by Abnar and Zuidema, ACL 2020."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cam_extras._attention import attention_probabilities
from cam_extras.methods._tokens import check_class_token, map_of_tokens
from cam_extras.methods.base import Method, method
from cam_extras.probe import Probe


@dataclass(frozen=True, kw_only=True)
class _AttentionMap(Method):
    particular: ClassVar[bool] = True

    query: Literal["class", "mean"] = "class"

    def __call__(self, probe: Probe) -> Tensor:
        """Return the map (N, 1, *S).

        Raises:
            ValueError: see `attention_probabilities` and `Probe.check_target`; or there is no class token.
        """
        probe.check_target()
        attention = self.attention(attention_probabilities(probe))
        if self.query == "mean":
            return map_of_tokens(probe, attention.mean(dim=1))
        check_class_token(probe, attention.shape[1])
        return map_of_tokens(probe, attention[:, 0])

    @abstractmethod
    def attention(self, probabilities: list[Tensor]) -> Tensor:
        """Return one matrix (N, T, T) from those of all blocks."""


@method
@dataclass(frozen=True, kw_only=True)
class RawAttention(_AttentionMap):
    """Raw attention: the attention of the last block, averaged over heads, shape (N, 1, *S).

    Use it for comparison, with vision transformers whose blocks attend to all tokens of an image. It does not depend on
    the class. It costs a forward pass beside that for the layer.

    Args:
        query: whose attention: "class", that of the first token, the class token; or "mean", that of all tokens, for
            models without a class token.

    A baseline in Chefer et al., "Transformer Interpretability Beyond Attention Visualization", CVPR 2021.
    """

    paper: ClassVar[str] = "baseline in Chefer et al., Transformer Interpretability Beyond Attention, CVPR 2021"

    def attention(self, probabilities: list[Tensor]) -> Tensor:
        """Return the mean over heads in the last block, shape (N, T, T)."""
        return probabilities[-1].mean(dim=1)


@method
@dataclass(frozen=True, kw_only=True)
class AttentionRollout(_AttentionMap):
    """Attention rollout: the product over blocks of (I + A_l) / 2, A_l averaged over heads, shape (N, 1, *S).

    The identity stands for the skip connection around the attention.

    Use it for comparison, with vision transformers whose blocks attend to all tokens of an image. It does not depend on
    the class. It costs a forward pass beside that for the layer.

    Args:
        query: which row of the product: "class", that of the first token, the class token; or "mean", the mean of all
            rows, for models without a class token.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """

    paper: ClassVar[str] = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"

    def attention(self, probabilities: list[Tensor]) -> Tensor:
        """Return the product, that of the last block on the left, shape (N, T, T)."""
        first, *others = [values.mean(dim=1) for values in probabilities]
        identity = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
        product = (identity + first) / 2
        for attention in others:
            product = (identity + attention) / 2 @ product
        return product
