"""The methods: one file per paper, pure tensor functions and one frozen dataclass each.

>>> sorted(METHODS)[:3]
['FakeCAM', 'GradCAM', 'HiResCAM']
"""

from cam_extras.methods.base import GradientMethod, Method
from cam_extras.methods.fake_cam import FakeCAM
from cam_extras.methods.grad_cam import GradCAM
from cam_extras.methods.hires_cam import HiResCAM
from cam_extras.methods.information import mutual_information
from cam_extras.methods.mi_grad_cam import MIGradCAM
from cam_extras.methods.opti_cam import OptiCAM, Optimum
from cam_extras.methods.random_cam import RandomCAM
from cam_extras.methods.shapley_cam import ShapleyCAM, ShapleyCAME, ShapleyCAMH, shapley_weights

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (GradCAM, HiResCAM, ShapleyCAM, ShapleyCAMH, ShapleyCAME, MIGradCAM, OptiCAM, FakeCAM, RandomCAM)
}

__all__ = [
    "METHODS",
    "FakeCAM",
    "GradCAM",
    "GradientMethod",
    "HiResCAM",
    "MIGradCAM",
    "Method",
    "OptiCAM",
    "Optimum",
    "RandomCAM",
    "ShapleyCAM",
    "ShapleyCAME",
    "ShapleyCAMH",
    "mutual_information",
    "shapley_weights",
]
