"""CAM: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cam_extras.methods.base import ChannelMethod, GradientMethod, method, spatial_mean
from cam_extras.probe import Probe, find_layer

_TOLERANCE = 0.02  # of the terms' absolute sum; bfloat16 rounds each of three steps to 0.004


@method
@dataclass(frozen=True, kw_only=True)
class CAM(ChannelMethod, GradientMethod):
    """CAM, the original: contributions w_k A_k with w the weights of the class in the model's last, linear layer.

    The model must average the layer's feature map over space and apply one linear layer: y = W mean_S(A) + b. That
    layer is found by running the model: it is the module with weights of the right shape for which the equation holds,
    up to rounding. For another utility than the logit, w is the sum over classes of dU/dy_c W_c.

    Use it on the last layer of such models, as a check of other methods: Grad-CAM is the same there, up to a factor. It
    costs one forward pass and no backward pass through the model.

    Args:
        utility: the utility of the class: a key of `cam_extras.utilities.UTILITIES`. A function given to the host
            overrides it.
        head: the linear layer: its dotted name, or its weights (classes, C). By default it is found, and only models
            with y = W mean_S(A) + b are accepted. What is given is used as it is, also where something else is computed
            between the layer and the scores.

    Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """

    paper: ClassVar[str] = "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016"
    particular: ClassVar[bool] = True

    head: str | Tensor | None = None

    def weights(self, probe: Probe) -> Tensor:
        """Return w = sum_c dU/dy_c W_c, which for the logit of class c is W_c, shape (N, C).

        Raises:
            TypeError: the model's output is no tensor.
            ValueError: the model has no such head, or the one given does not fit the layer and the scores.
        """
        gradients = probe.output_gradients()
        weights = find_head(probe) if self.head is None else _given_head(probe, self.head)
        return gradients @ weights


def find_head(probe: Probe) -> Tensor:
    """Return W (classes, C) of the module with y = W mean_S(A) + b, where y is the model's output.

    Raises:
        ValueError: there is no such module.
    """
    outputs, features = probe.outputs, spatial_mean(probe.activations)
    fitting = []
    for name, module in probe.model.named_modules() if isinstance(probe.model, nn.Module) else ():
        weight = _weight_of(module)
        if weight is None or weight.shape != (*outputs.shape[1:], features.shape[1]):
            continue
        bias = getattr(module, "bias", None)
        bias = torch.zeros_like(outputs[0]) if bias is None else bias.detach().to(outputs)
        weight = weight.to(outputs)
        error = (F.linear(features, weight, bias) - outputs).abs()
        if (error <= _TOLERANCE * F.linear(features.abs(), weight.abs(), bias.abs())).all():
            return weight
        fitting.append(name)
    found = (
        f"its scores are not what {fitting[-1]!r} makes of the layer's mean over space: something else lies between"
        if fitting
        else f"no linear layer makes its scores from the layer's {features.shape[1]} channels"
    )
    raise ValueError(
        f"CAM needs a model that averages the layer's feature map over space and applies one linear layer; {found}: "
        "choose the last layer before pooling, give the linear layer as head, its name or its weights (classes, C), or "
        "use GradCAM, which is the same where CAM is defined"
    )


def _weight_of(module: nn.Module) -> Tensor | None:
    """Return a module's weights as a matrix; those of a convolution of kernel size 1 are one."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or weight.shape[2:].numel() != 1:
        return None
    return weight.detach().flatten(1)


def _given_head(probe: Probe, head: str | Tensor) -> Tensor:
    expected = (*probe.outputs.shape[1:], probe.activations.shape[1])
    if isinstance(head, Tensor):
        weight: Tensor | None = head.detach()
    elif isinstance(probe.model, nn.Module):
        weight = _weight_of(find_layer(probe.model, head))
    else:
        raise ValueError(f"this {type(probe.model).__name__} has no named layers: give the weights of the head")
    if weight is None or weight.shape != expected:
        got = "no weights of a linear layer" if weight is None else f"shape {tuple(weight.shape)}"
        named = f" {head!r}" if isinstance(head, str) else ""
        raise ValueError(f"the head{named} must have weights (classes, channels) of shape {expected}; got {got}")
    return weight.to(probe.outputs)
