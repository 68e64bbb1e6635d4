"""Fake-CAM, a control: Poppi et al., "Revisiting the Evaluation of Class Activation Mapping", 2021."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cam_extras._checks import check_pixels
from cam_extras.methods.base import Method, method
from cam_extras.probe import Probe


@method
@dataclass(frozen=True, kw_only=True)
class FakeCAM(Method):
    """Fake-CAM: one everywhere except in the top-left input pixel, which is zero; shape (N, 1, *input size).

    Use it to test metrics, at the cost of one forward pass. It explains nothing, yet gets an almost perfect average
    drop, increase in confidence and coherency. A good metric must see through it.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021.
    """

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "Poppi et al., Revisiting the Evaluation of CAM (ADCC), 2021"

    def __call__(self, probe: Probe) -> Tensor:
        """Return ones with one zero, shape (N, 1, *input size).

        Raises:
            ValueError: the input has no pixels; or see `Probe.check_target`.
        """
        probe.check_target()
        check_pixels(probe.x.shape)
        size = probe.x.shape[2:]
        maps = probe.activations.new_ones((len(probe.x), 1, *size))
        maps[(slice(None), 0) + (0,) * len(size)] = 0
        return maps
