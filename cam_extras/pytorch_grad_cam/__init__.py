"""Front end for pytorch-grad-cam: every method as a `BaseCAM`.

>>> from cam_extras.pytorch_grad_cam import ShapleyCAM  # was: from pytorch_grad_cam import ShapleyCAM

pytorch-grad-cam's own classes that we do not have, such as `ScoreCAM`, are here by name, too. `UPSTREAM` lists those
that explain one layer, `upstream_maps` calls one without a trace on the model, and `Upstream` makes it a method like
ours.
"""

from __future__ import annotations

from typing import Any

import pytorch_grad_cam as _theirs

from cam_extras import __all__ as public_names
from cam_extras import methods
from cam_extras.pytorch_grad_cam._host import MethodCAM as MethodCAM
from cam_extras.pytorch_grad_cam.upstream import UPSTREAM as UPSTREAM
from cam_extras.pytorch_grad_cam.upstream import Upstream as Upstream
from cam_extras.pytorch_grad_cam.upstream import check_upstream as check_upstream
from cam_extras.pytorch_grad_cam.upstream import upstream_maps as upstream_maps


class GradCAM(MethodCAM):
    """Grad-CAM: see `cam_extras.methods.GradCAM` for its hyper-parameters."""

    method_type = methods.GradCAM


class HiResCAM(MethodCAM):
    """HiResCAM: see `cam_extras.methods.HiResCAM` for its hyper-parameters."""

    method_type = methods.HiResCAM


class ShapleyCAM(MethodCAM):
    """ShapleyCAM: see `cam_extras.methods.ShapleyCAM` for its hyper-parameters."""

    method_type = methods.ShapleyCAM


class ShapleyCAMH(MethodCAM):
    """ShapleyCAM-H: see `cam_extras.methods.ShapleyCAMH` for its hyper-parameters."""

    method_type = methods.ShapleyCAMH


class ShapleyCAME(MethodCAM):
    """ShapleyCAM-E: see `cam_extras.methods.ShapleyCAME` for its hyper-parameters."""

    method_type = methods.ShapleyCAME


class MIGradCAM(MethodCAM):
    """MI-Grad-CAM: see `cam_extras.methods.MIGradCAM` for its hyper-parameters."""

    method_type = methods.MIGradCAM


class ExpectedGradCAM(MethodCAM):
    """Expected Grad-CAM: see `cam_extras.methods.ExpectedGradCAM` for its hyper-parameters."""

    method_type = methods.ExpectedGradCAM


class IntegratedGradCAM(MethodCAM):
    """Integrated Grad-CAM: see `cam_extras.methods.IntegratedGradCAM` for its hyper-parameters."""

    method_type = methods.IntegratedGradCAM


class SmoothGradCAMPlusPlus(MethodCAM):
    """Smooth Grad-CAM++: see `cam_extras.methods.SmoothGradCAMPlusPlus` for its hyper-parameters."""

    method_type = methods.SmoothGradCAMPlusPlus


class OptiCAM(MethodCAM):
    """Opti-CAM: see `cam_extras.methods.OptiCAM` for its hyper-parameters."""

    method_type = methods.OptiCAM
    FAST = methods.OptiCAM.FAST


class FakeCAM(MethodCAM):
    """Fake-CAM, a control: see `cam_extras.methods.FakeCAM`."""

    method_type = methods.FakeCAM


class RandomCAM(MethodCAM):
    """Random-CAM, a control: see `cam_extras.methods.RandomCAM` for its hyper-parameters."""

    method_type = methods.RandomCAM


def __getattr__(name: str) -> Any:
    if name in public_names and hasattr(_theirs, name):
        return getattr(_theirs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
