"""New class activation map methods and honest metrics for pytorch-grad-cam, Captum and Quantus.

The classes for pytorch-grad-cam are here by name (`cam_extras.ShapleyCAM`); `cam_extras.captum` and
`cam_extras.quantus` have those for the other two libraries; `cam_extras.evaluate` explains and scores a data set.
Importing this package imports none of the three.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cam_extras.pytorch_grad_cam import (
        ExpectedGradCAM,
        FakeCAM,
        GradCAM,
        HiResCAM,
        IntegratedGradCAM,
        MIGradCAM,
        OptiCAM,
        RandomCAM,
        ShapleyCAM,
        ShapleyCAME,
        ShapleyCAMH,
        SmoothGradCAMPlusPlus,
    )
    from cam_extras.run import evaluate

__version__ = "0.1.0"

__all__ = [
    "ExpectedGradCAM",
    "FakeCAM",
    "GradCAM",
    "HiResCAM",
    "IntegratedGradCAM",
    "MIGradCAM",
    "OptiCAM",
    "RandomCAM",
    "ShapleyCAM",
    "ShapleyCAME",
    "ShapleyCAMH",
    "SmoothGradCAMPlusPlus",
    "__version__",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return import_module("cam_extras.run").evaluate
    if name in __all__:
        return getattr(import_module("cam_extras.pytorch_grad_cam"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
