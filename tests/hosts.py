"""Run a method through each host in the same way."""

from __future__ import annotations

from dataclasses import replace

import torch
from nets import SETTINGS, Setting, make_setting

import cam_extras.captum as captum_host
import cam_extras.pytorch_grad_cam as pgc_host
from cam_extras.methods import METHODS

PGC = {name: getattr(pgc_host, name) for name in METHODS}
CAPTUM = {name: getattr(captum_host, captum_host.class_name(name)) for name in METHODS}


# Methods that run the model more than once, and options with which they do not take long. An optimisation amplifies
# rounding with every iteration, too, so that only a few can be compared in float32.
SEVERAL_PASSES = {
    "OptiCAM": {"max_iterations": 3},
    "ExpectedGradCAM": {"n_samples": 3},
    "IntegratedGradCAM": {"n_samples": 3},
    "SmoothGradCAMPlusPlus": {"n_samples": 3},
    "AblationCAM": {},
    "ScoreCAM": {},
    "SSCAM": {"n_samples": 2},
    "ISCAM": {"n_samples": 2},
}

# Methods that ask something of the model, and the settings that have it.
PARTICULAR = {
    "CAM": ["plain", "inplace", "batch_norm_train", "frozen", "volume", "bf16"],  # pooling and one linear layer
    **{name: ["vit"] for name in ("LeGrad", "AttentionRollout", "RawAttention")},  # attention to all tokens
}
ANYWHERE = [name for name, method in METHODS.items() if not method.particular]


def settings_of(name: str) -> list[str]:
    """The settings in which a method runs."""
    return PARTICULAR.get(name, list(SETTINGS))


def setting_for(name: str, setting_name: str) -> Setting:
    """A setting, with a layer that the method takes."""
    setting = make_setting(setting_name)
    return replace(setting, layers=[setting.model.head]) if name == "CAM" else setting


def run_pgc(name, setting, x) -> list[torch.Tensor]:
    """Maps (N, *S) of the predicted class."""
    hyper = SEVERAL_PASSES.get(name, {})
    cam = PGC[name](setting.model, setting.layers, setting.options.get("reshape_transform"), **hyper)
    return [torch.from_numpy(cam(x))]


def run_captum(name, setting, x) -> list[torch.Tensor]:
    """Attributions (N, 1, *S) of class 2, one a layer."""
    layer = setting.layers if len(setting.layers) > 1 else setting.layers[0]
    attributions = CAPTUM[name](setting.model, layer, **setting.options, **SEVERAL_PASSES.get(name, {})).attribute(x, 2)
    return attributions if isinstance(attributions, list) else [attributions]


def kernels(node) -> set[str]:
    """Names of an autograd node and of all below it."""
    return {node.name()}.union(*(kernels(below) for below, _ in node.next_functions if below))


HOSTS = {"pytorch-grad-cam": run_pgc, "Captum": run_captum}

__all__ = [
    "ANYWHERE",
    "CAPTUM",
    "HOSTS",
    "METHODS",
    "PARTICULAR",
    "PGC",
    "SEVERAL_PASSES",
    "kernels",
    "setting_for",
    "settings_of",
]
