"""Front end for Quantus: the metrics as `quantus.metrics.base.Metric` classes, the methods as explain functions.

>>> from cam_extras.quantus import AverageDrop, explain
>>> explain_func = explain("ShapleyCAM", layer="layer4")

There is a class for every metric in `cam_extras.metrics.METRICS`, named after its title. Importing this module lists
them in `quantus.AVAILABLE_METRICS`; `unregister()` removes them, `register()` adds them again. The class of your own
metric is made when first accessed.
"""

from __future__ import annotations

import warnings
from typing import Any

from cam_extras.quantus._classes import METRIC_CLASSES as METRIC_CLASSES
from cam_extras.quantus._classes import ImageMetric as _ImageMetric
from cam_extras.quantus._classes import class_named
from cam_extras.quantus._classes import register as register
from cam_extras.quantus._classes import unregister as unregister
from cam_extras.quantus._classes import win_percentage as win_percentage
from cam_extras.quantus._explain import QUANTUS_ARGUMENTS as QUANTUS_ARGUMENTS
from cam_extras.quantus._explain import Explainer as Explainer
from cam_extras.quantus._explain import UpstreamExplainer as UpstreamExplainer
from cam_extras.quantus._explain import all_methods
from cam_extras.quantus._explain import explain as explain
from cam_extras.quantus._metric import MapMetric as MapMetric

# Type checkers read the classes in __init__.pyi, which tools/generate.py writes.
globals().update({cls.__name__: cls for cls in METRIC_CLASSES})


def __getattr__(name: str) -> Any:
    """Make what is only made when first accessed.

    `METHODS`, name -> class, which imports pytorch-grad-cam; and the classes of metrics that were added later.
    """
    if name == "METHODS":
        return all_methods()
    if name == "ImageMetric":
        warnings.warn(
            f"{__name__}.ImageMetric will go with the next release: take MapMetric for a class of your own, it knows "
            "the category of a metric",
            DeprecationWarning,
            stacklevel=2,
        )
        return _ImageMetric
    if (cls := class_named(name)) is not None:
        return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
