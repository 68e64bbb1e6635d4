"""New class activation map methods and honest metrics for pytorch-grad-cam, Captum and Quantus.

The classes for pytorch-grad-cam are here by name (`cam_extras.ShapleyCAM`), next to its own that we do not have
(`cam_extras.FullGrad`); `cam_extras.captum` and `cam_extras.quantus` have those for the other two libraries;
`cam_extras.evaluate` explains and scores a data set. Importing this package imports none of the three.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from cam_extras._catalogue import METHODS, PYTORCH_GRAD_CAM
from cam_extras._deprecated import OldModules

__version__ = "0.1.0"

# Type checkers read the names in __init__.pyi, which tools/generate.py writes.
__all__ = sorted({"__version__", "evaluate", *(method.name for method in METHODS), *PYTORCH_GRAD_CAM})


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
