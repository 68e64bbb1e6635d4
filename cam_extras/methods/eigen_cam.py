"""Eigen-CAM: Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras.methods._components import first_component
from cam_extras.methods.base import GradientMethod, Method, method
from cam_extras.probe import Probe

_FAINT = 1e-3  # more than rounding, less than what matters


@method
@dataclass(frozen=True, kw_only=True)
class EigenCAM(Method):
    """Eigen-CAM: the first principal component of the activations over space, shape (N, 1, *S).

    Contributions are X v: a row of X for every cell, a column for every channel of A, whose mean is subtracted; v is
    the direction in which the cells vary most. -v is one as well, and pytorch-grad-cam takes what the decomposition
    returns. Here the sign is such that the map grows with how active the cells are: sum_s a_s (X v)_s >= 0 with a_s the
    sum of |A| over channels.

    Use it to see what stands out to the model, whatever the class: it does not depend on it. It costs one forward pass
    and no backward pass.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. There X is not
    centred; pytorch-grad-cam and this class centre it.
    """

    paper: ClassVar[str] = "Muhammad and Yeasin, Eigen-CAM, IJCNN 2020"

    def __call__(self, probe: Probe) -> Tensor:
        """Return the first component of A, shape (N, 1, *S).

        Raises:
            ValueError: an activation is NaN or infinite; or see `Probe.check_target`.
        """
        probe.check_target()
        return first_component(probe.activations, probe.activations.abs().sum(dim=1))


@method
@dataclass(frozen=True, kw_only=True)
class EigenGradCAM(GradientMethod):
    """Eigen-Grad-CAM: the first principal component of G * A over space, shape (N, 1, *S).

    As Eigen-CAM, but of the product of gradients and activations, so that it depends on the class. Its sign is such
    that it grows with the sum of G * A over channels, which is the map of `HiResCAM`. Where that is 0, as below a
    LayerNorm, the sum of |G * A| decides.

    Use it for smoother maps than those of `HiResCAM`. It costs one forward pass and a backward pass that stops at the
    layer.

    Gildenblat and contributors, "PyTorch library for CAM methods", 2021; after Muhammad and Yeasin, "Eigen-CAM", 2020.
    """

    paper: ClassVar[str] = "Gildenblat and contributors, PyTorch library for CAM methods, 2021"

    def contributions(self, probe: Probe) -> Tensor:
        """Return the first component of G * A, shape (N, 1, *S).

        Raises:
            ValueError: an activation or gradient is NaN or infinite.
        """
        products = probe.gradients * probe.activations
        return first_component(products, products.sum(dim=1) + _FAINT * products.abs().sum(dim=1))
