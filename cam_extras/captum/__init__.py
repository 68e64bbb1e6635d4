"""Front end for Captum: every method as a `LayerAttribution`.

>>> from cam_extras.captum import LayerShapleyCam  # next to: from captum.attr import LayerGradCam
"""

from __future__ import annotations

from cam_extras import methods
from cam_extras.captum._host import MethodAttribution as MethodAttribution


class LayerGradCam(MethodAttribution):
    """Grad-CAM: see `cam_extras.methods.GradCAM` for its hyper-parameters."""

    method_type = methods.GradCAM


class LayerHiResCam(MethodAttribution):
    """HiResCAM: see `cam_extras.methods.HiResCAM` for its hyper-parameters."""

    method_type = methods.HiResCAM


class LayerShapleyCam(MethodAttribution):
    """ShapleyCAM: see `cam_extras.methods.ShapleyCAM` for its hyper-parameters."""

    method_type = methods.ShapleyCAM


class LayerShapleyCamH(MethodAttribution):
    """ShapleyCAM-H: see `cam_extras.methods.ShapleyCAMH` for its hyper-parameters."""

    method_type = methods.ShapleyCAMH


class LayerShapleyCamE(MethodAttribution):
    """ShapleyCAM-E: see `cam_extras.methods.ShapleyCAME` for its hyper-parameters."""

    method_type = methods.ShapleyCAME


class LayerMIGradCam(MethodAttribution):
    """MI-Grad-CAM: see `cam_extras.methods.MIGradCAM` for its hyper-parameters."""

    method_type = methods.MIGradCAM


class LayerExpectedGradCam(MethodAttribution):
    """Expected Grad-CAM: see `cam_extras.methods.ExpectedGradCAM` for its hyper-parameters."""

    method_type = methods.ExpectedGradCAM


class LayerIntegratedGradCam(MethodAttribution):
    """Integrated Grad-CAM: see `cam_extras.methods.IntegratedGradCAM` for its hyper-parameters."""

    method_type = methods.IntegratedGradCAM


class LayerSmoothGradCamPlusPlus(MethodAttribution):
    """Smooth Grad-CAM++: see `cam_extras.methods.SmoothGradCAMPlusPlus` for its hyper-parameters."""

    method_type = methods.SmoothGradCAMPlusPlus


class LayerOptiCam(MethodAttribution):
    """Opti-CAM: see `cam_extras.methods.OptiCAM` for its hyper-parameters."""

    method_type = methods.OptiCAM
    FAST = methods.OptiCAM.FAST


class LayerFakeCam(MethodAttribution):
    """Fake-CAM, a control: see `cam_extras.methods.FakeCAM`."""

    method_type = methods.FakeCAM


class LayerRandomCam(MethodAttribution):
    """Random-CAM, a control: see `cam_extras.methods.RandomCAM` for its hyper-parameters."""

    method_type = methods.RandomCAM
