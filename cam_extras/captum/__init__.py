"""Front end for Captum: every method as a `LayerAttribution`.

>>> from cam_extras.captum import LayerShapleyCam  # next to: from captum.attr import LayerGradCam
"""

from __future__ import annotations

from typing import Any

from cam_extras import methods
from cam_extras._host_classes import make_class
from cam_extras.captum._host import MethodAttribution


def class_name(method: str) -> str:
    """Return the name of a method's class here.

    >>> class_name("ShapleyCAMH")
    'LayerShapleyCamH'
    """
    return "Layer" + method.replace("CAM", "Cam")


def __getattr__(name: str) -> Any:
    """Make the class of a method when it is first asked for, also of one that was listed a moment ago."""
    for method, cls in methods.METHODS.items():
        if class_name(method) == name:
            globals()[name] = make_class(MethodAttribution, cls, name, __name__)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *map(class_name, methods.METHODS)})


__all__ = ["MethodAttribution", *map(class_name, methods.METHODS)]
