"""The contract of a method: probe -> contributions (N, C, *S)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from cam_extras import _batching
from cam_extras._checks import check_choice
from cam_extras.maps import input_map
from cam_extras.probe import Probe
from cam_extras.scores import SCORES


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A class activation map method. Its fields are its hyper-parameters.

    Calling it with a `Probe` returns its contributions (N, C, *S) at the layer's resolution, neither summed over
    channels nor rectified; methods that do not look at channels return C = 1.
    """

    paper: ClassVar[str]
    second_order: ClassVar[bool] = False  # whether it asks for Hessian-vector products
    # Whether it explains nothing, and is there to compare methods with: tables set it apart, and it wins nothing.
    control: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, probe: Probe) -> Tensor:
        """Return the contributions (N, C, *S)."""

    def maps(self, probe: Probe) -> Tensor:
        """Return the maps that hosts show, (N, *input size) in [0, 1]: n(Up(n(ReLU(sum_k C_k))))."""
        return input_map(self(probe), tuple(probe.x.shape[2:]))

    @classmethod
    def make(cls, hyper: Mapping[str, Any]) -> Method:
        """Make the method from hyper-parameters by name; raise TypeError for one that it does not have."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(hyper) - set(known))
        if unknown:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(f"{cls.__name__} has no hyper-parameter {', '.join(map(repr, unknown))}: {has}")
        return cls(**hyper)


@dataclass(frozen=True, kw_only=True)
class GradientMethod(Method):
    """A method that differentiates the score of a class.

    Args:
        score: the utility of the class that is differentiated, a key of `cam_extras.scores.SCORES`: "logit",
            "softmax", "log_softmax" or "rest". A score function given to the host wins over it.
    """

    score: str = "logit"

    def __post_init__(self) -> None:
        check_choice("score", self.score, SCORES)

    def __call__(self, probe: Probe) -> Tensor:
        """Return the contributions (N, C, *S)."""
        return self.contributions(probe.scored_by(self.score))

    @abstractmethod
    def contributions(self, probe: Probe) -> Tensor:
        """Return the contributions under the probe's utility."""


def controls_of(methods: Mapping[str, Method]) -> list[str]:
    """Return the names of those methods that are controls."""
    return [name for name, method in methods.items() if method.control]


def channel_weights(method: Method) -> Callable[[Probe], Tensor]:
    """Return the function of a method that gives the weights of the layer's channels, probe -> (N, K).

    Raises:
        TypeError: it has none.
    """
    function = getattr(method, "channel_weights", None)
    if function is None:
        raise TypeError(
            f"{type(method).__name__} does not weigh channels: counterfactual sensitivity takes methods with channel "
            "weights, such as GradCAM, ShapleyCAM, MIGradCAM or OptiCAM"
        )
    return function


def rows_of_a_pass(probe: Probe, internal_batch_size: int | None) -> int:
    """Return how many images go through the model at a time; see the methods' `internal_batch_size`."""
    if not probe.divisible:
        return len(probe.x)
    return _batching.rows_of_a_pass(probe.x, internal_batch_size)


def spatial_mean(values: Tensor) -> Tensor:
    """Mean over space: (N, C, *S) -> (N, C)."""
    return values.mean(dim=tuple(range(2, values.ndim)))


def weigh_channels(weights: Tensor, activations: Tensor) -> Tensor:
    """Weigh every channel, w_k A_k: (N, C) and (N, C, *S) -> (N, C, *S)."""
    return weights.reshape(*weights.shape, *(1,) * (activations.ndim - 2)) * activations


def above_minimum(contributions: Tensor) -> Tensor:
    """Subtract from contributions (N, C, *S) the minimum of their sum over space, in equal shares of the channels.

    Hosts rectify the sum over channels, which would take away what a method means to show of negative sums; they
    normalise by minimum and maximum afterwards, so that the shift itself does not show.
    """
    summed = contributions.sum(dim=1, keepdim=True)
    return contributions - summed.amin(dim=tuple(range(1, summed.ndim)), keepdim=True) / contributions.shape[1]
