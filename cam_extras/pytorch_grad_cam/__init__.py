"""Front end for pytorch-grad-cam: every method as a `BaseCAM`.

>>> from cam_extras.pytorch_grad_cam import ShapleyCAM  # was: from pytorch_grad_cam import ShapleyCAM

pytorch-grad-cam's own classes that we do not have, such as `FullGrad`, are here by name, too. `UPSTREAM` lists those
that explain one layer, `upstream_maps` calls one without a trace on the model, and `Upstream` makes it a method like
ours.
"""

from __future__ import annotations

from typing import Any

import pytorch_grad_cam as _theirs

from cam_extras import __all__ as _public_names
from cam_extras import methods
from cam_extras._host_classes import make_class
from cam_extras.pytorch_grad_cam._host import MethodCAM
from cam_extras.pytorch_grad_cam.upstream import UPSTREAM, Upstream, check_upstream, upstream_maps


def __getattr__(name: str) -> Any:
    """Make the class of a method when it is first asked for; return what else pytorch-grad-cam has as it is there."""
    if name in methods.METHODS:
        globals()[name] = make_class(MethodCAM, methods.METHODS[name], name, __name__)
        return globals()[name]
    if name in _public_names and hasattr(_theirs, name):
        return getattr(_theirs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *methods.METHODS})


__all__ = ["UPSTREAM", "MethodCAM", "Upstream", "check_upstream", "upstream_maps", *methods.METHODS]
