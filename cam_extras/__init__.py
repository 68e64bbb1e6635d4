"""New class activation map methods and honest metrics for pytorch-grad-cam, Captum and Quantus.

The classes for pytorch-grad-cam are here by name (`cam_extras.ShapleyCAM`), next to its own that we do not have
(`cam_extras.ScoreCAM`); `cam_extras.captum` and `cam_extras.quantus` have those for the other two libraries;
`cam_extras.evaluate` explains and scores a data set. Importing this package imports none of the three.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_grad_cam import (
        FEM,
        KPCA_CAM,
        SESS,
        AblationCAM,
        AblationLayer,
        AblationLayerFasterRCNN,
        AblationLayerVit,
        ActivationsAndGradients,
        DeepFeatureFactorization,
        EigenCAM,
        EigenGradCAM,
        FinerCAM,
        FullGrad,
        GradCAMElementWise,
        GradCAMPlusPlus,
        GuidedBackpropReLUModel,
        LayerCAM,
        RefineCAM,
        ScoreCAM,
        SegEigenCAM,
        XGradCAM,
        run_dff_on_image,
    )

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

from cam_extras._deprecated import OldModules

__version__ = "0.1.0"

__all__ = [
    "FEM",
    "KPCA_CAM",
    "SESS",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerFasterRCNN",
    "AblationLayerVit",
    "ActivationsAndGradients",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "ExpectedGradCAM",
    "FakeCAM",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackpropReLUModel",
    "HiResCAM",
    "IntegratedGradCAM",
    "LayerCAM",
    "MIGradCAM",
    "OptiCAM",
    "RandomCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "ShapleyCAME",
    "ShapleyCAMH",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
    "__version__",
    "evaluate",
    "run_dff_on_image",
]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return import_module("cam_extras.run").evaluate
    if name in __all__:
        return getattr(import_module("cam_extras.pytorch_grad_cam"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
    sys.meta_path.append(OldModules())
