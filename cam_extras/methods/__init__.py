"""The methods: one file per paper, each with pure tensor functions and a frozen dataclass, listed in `METHODS`.

>>> sorted(METHODS)[:3]
['AblationCAM', 'AttentionRollout', 'CAM']
"""

# METHODS lists them in the order in which they are imported.
# isort: off
from cam_extras.methods.base import (
    METHODS,
    ChannelMethod,
    GradientMethod,
    Method,
    UtilityMethod,
    channel_weights,
    method,
)
from cam_extras.methods.grad_cam import GradCAM
from cam_extras.methods.hires_cam import HiResCAM
from cam_extras.methods.xgrad_cam import XGradCAM
from cam_extras.methods.grad_cam_plus_plus import GradCAMPlusPlus
from cam_extras.methods.layer_cam import LayerCAM
from cam_extras.methods.grad_cam_element_wise import GradCAMElementWise
from cam_extras.methods.cam import CAM
from cam_extras.methods.eigen_cam import EigenCAM, EigenGradCAM
from cam_extras.methods.shapley_cam import ShapleyCAM, ShapleyCAME, ShapleyCAMH, shapley_weights
from cam_extras.methods.mi_grad_cam import MIGradCAM
from cam_extras.methods.expected_grad_cam import ExpectedGradCAM
from cam_extras.methods.integrated_grad_cam import IntegratedGradCAM
from cam_extras.methods.smooth_grad_cam import SmoothGradCAMPlusPlus
from cam_extras.methods.opti_cam import OptiCAM, Optimum
from cam_extras.methods.ablation_cam import AblationCAM
from cam_extras.methods.score_cam import ScoreCAM
from cam_extras.methods.ss_cam import SSCAM
from cam_extras.methods.is_cam import ISCAM
from cam_extras.methods.le_grad import LeGrad
from cam_extras.methods.attention_maps import AttentionRollout, RawAttention
from cam_extras.methods.fake_cam import FakeCAM
from cam_extras.methods.random_cam import RandomCAM
from cam_extras.methods._information import mutual_information
from cam_extras.methods.named import as_method, as_methods

# isort: on

# The methods that need one forward pass, and the two controls.
DEFAULT_METHODS = (
    "GradCAM",
    "HiResCAM",
    "ShapleyCAM",
    "ShapleyCAMH",
    "ShapleyCAME",
    "MIGradCAM",
    "FakeCAM",
    "RandomCAM",
)

__all__ = [
    "CAM",
    "DEFAULT_METHODS",
    "ISCAM",
    "METHODS",
    "SSCAM",
    "AblationCAM",
    "AttentionRollout",
    "ChannelMethod",
    "EigenCAM",
    "EigenGradCAM",
    "ExpectedGradCAM",
    "FakeCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GradientMethod",
    "HiResCAM",
    "IntegratedGradCAM",
    "LayerCAM",
    "LeGrad",
    "MIGradCAM",
    "Method",
    "OptiCAM",
    "Optimum",
    "RandomCAM",
    "RawAttention",
    "ScoreCAM",
    "ShapleyCAM",
    "ShapleyCAME",
    "ShapleyCAMH",
    "SmoothGradCAMPlusPlus",
    "UtilityMethod",
    "XGradCAM",
    "as_method",
    "as_methods",
    "channel_weights",
    "method",
    "mutual_information",
    "shapley_weights",
]
