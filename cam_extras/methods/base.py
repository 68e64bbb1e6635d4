"""The interface of a method, probe -> contributions (N, C, *S), and the registry of methods."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from cam_extras import _batching
from cam_extras._deprecated import names_of, renamed, warn, with_new_names
from cam_extras._options import check_fields
from cam_extras.maps import input_map
from cam_extras.probe import Probe
from cam_extras.utilities import UtilityName


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A class activation map method. Its fields are its hyper-parameters.

    Calling it with a `Probe` returns its contributions (N, C, *S) at the layer's resolution, not yet summed over
    channels or rectified; methods that do not use channels return C = 1.
    """

    paper: ClassVar[str]
    second_order: ClassVar[bool] = False  # whether it needs Hessian-vector products
    # Whether it is a control, which explains nothing and is only there for comparison. Tables list controls separately,
    # and they cannot win.
    control: ClassVar[bool] = False
    # Whether it asks something of the model, so that it refuses others. Where all methods run, these are left out.
    particular: ClassVar[bool] = False
    old_names: ClassVar[Mapping[str, str]] = {}  # old names of hyper-parameters -> current names

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, probe: Probe) -> Tensor:
        """Return the contributions (N, C, *S)."""

    def maps(self, probe: Probe) -> Tensor:
        """Return the maps that hosts show, (N, *input size) in [0, 1]: n(Up(n(ReLU(sum_k C_k))))."""
        return input_map(self(probe), tuple(probe.x.shape[2:]))

    @classmethod
    def make(cls, hyper: Mapping[str, Any]) -> Method:
        """Make the method from named hyper-parameters; raise TypeError for an unknown one."""
        hyper = with_new_names(hyper, cls.old_names)
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(hyper) - set(known))
        if unknown:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(f"{cls.__name__} has no hyper-parameter {', '.join(map(repr, unknown))}: {has}")
        return cls(**hyper)

    def _see(self, probe: Probe) -> Probe:
        """Return the probe with the method's settings."""
        return probe

    def __getattr__(self, name: str) -> Any:
        """Return a hyper-parameter by its old name."""
        if name not in self.old_names:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn(f"{type(self).__name__}.{name}", f"{type(self).__name__}.{self.old_names[name]}")
        return getattr(self, self.old_names[name])


@dataclass(frozen=True, kw_only=True)
class UtilityMethod(Method):
    """A method that uses a utility of a class.

    Args:
        utility: the utility to use, a key of `cam_extras.utilities.UTILITIES`: "logit", "softmax",
            "log_softmax", "rest", "sigmoid" or "log_sigmoid". A function given to the host overrides it.
    """

    old_names: ClassVar[Mapping[str, str]] = {"score": "utility"}

    utility: UtilityName = "logit"

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept a default that a class sets under the field's old name."""
        super().__init_subclass__(**options)
        if "score" in inspect.get_annotations(cls):
            warn(f"the field 'score' of {cls.__name__}", "'utility'")
            del cls.__annotations__["score"]
            cls.__annotations__["utility"] = UtilityName
            cls.utility = cls.__dict__["score"]
            delattr(cls, "score")

    def __call__(self, probe: Probe) -> Tensor:
        """Return the contributions (N, C, *S)."""
        return self.contributions(self._see(probe))

    @abstractmethod
    def contributions(self, probe: Probe) -> Tensor:
        """Return the contributions under the probe's utility."""

    def _see(self, probe: Probe) -> Probe:
        return probe.under(self.utility)


@dataclass(frozen=True, kw_only=True)
class GradientMethod(UtilityMethod):
    """A method that differentiates a utility of a class.

    Args:
        utility: the utility to differentiate, a key of `cam_extras.utilities.UTILITIES`: "logit", "softmax",
            "log_softmax" or "rest". A function given to the host overrides it.
    """


@dataclass(frozen=True, kw_only=True)
class ChannelMethod(Method):
    """A method that weighs the layer's channels: contributions w_k A_k.

    Subclasses define `weights`. If they use a utility, they also derive from `UtilityMethod` or, to
    differentiate it, from `GradientMethod`.
    """

    @abstractmethod
    def weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C), under the probe's utility."""

    @property
    def weighs_channels(self) -> bool:
        """Whether it weighs channels with these hyper-parameters."""
        return True

    def channel_weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C)."""
        return self.weights(self._see(probe))

    def __call__(self, probe: Probe) -> Tensor:
        """Return the contributions (N, C, *S)."""
        return self.contributions(self._see(probe))

    def contributions(self, probe: Probe) -> Tensor:
        """Return w_k A_k, shape (N, C, *S), under the probe's utility."""
        return weigh_channels(self.weights(probe), probe.activations)


METHODS: dict[str, type[Method]] = {}
"""Name -> class, in order of registration."""

_Method = TypeVar("_Method", bound=type[Method])


def method(cls: _Method) -> _Method:
    """List a method in `METHODS` under its class name; from then on hosts and runs know it.

    A class decorator, to be put above `@dataclass(frozen=True, kw_only=True)`.

    Raises:
        TypeError: the class is not a `Method`, or not itself a frozen dataclass.
        ValueError: the name is taken, or the class does not name its paper. To redefine your own method, remove the old
            one first: `METHODS.pop(name)`.
    """
    if not isinstance(cls, type) or not issubclass(cls, Method):
        raise TypeError(f"a method must derive from cam_extras.methods.Method; got {cls!r:.80}")
    parameters = cls.__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise TypeError(
            f"{cls.__name__} must be a dataclass: write @dataclass(frozen=True, kw_only=True) between @method and it"
        )
    if not isinstance(getattr(cls, "paper", None), str):
        raise ValueError(f'{cls.__name__} must say where it is from: add paper: ClassVar[str] = "..."')
    if cls.__name__ in METHODS:
        raise ValueError(
            f"there is a method {cls.__name__!r} already: choose another name, or take that out by "
            f"METHODS.pop({cls.__name__!r})"
        )
    if cls.old_names:
        setattr(cls, "__init__", renamed(cls.old_names)(cls.__init__))  # noqa: B010  (not an assignment, to mypy)
    METHODS[cls.__name__] = cls
    return cls


def controls_of(methods: Mapping[str, Method]) -> list[str]:
    """Return the names of the methods that are controls."""
    return [name for name, method in methods.items() if method.control]


def channel_weights(method: Method) -> Callable[[Probe], Tensor]:
    """Return the method's function for the weights of the layer's channels, probe -> (N, K).

    Raises:
        TypeError: the method has no channel weights, with these hyper-parameters or at all.
    """
    if isinstance(method, ChannelMethod) and method.weighs_channels:
        return method.channel_weights
    function: Callable[[Probe], Tensor] | None = getattr(method, "channel_weights", None)
    if function is not None and not isinstance(method, ChannelMethod):
        warn(f"a method with channel_weights, {type(method).__name__},", "a ChannelMethod")
        return function
    with_these = f" with these hyper-parameters, {method}" if isinstance(method, ChannelMethod) else ""
    raise TypeError(
        f"{type(method).__name__} does not weigh channels{with_these}: counterfactual sensitivity takes methods with "
        "channel weights, such as GradCAM, ShapleyCAM, MIGradCAM or OptiCAM"
    )


def rows_for(probe: Probe, internal_batch_size: int | None) -> int:
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
    """Subtract the spatial minimum of the sum over channels from contributions (N, C, *S), split evenly over channels.

    Hosts rectify the sum over channels, which would remove negative values that a method means to show. They apply
    min-max normalisation afterwards, so the shift itself has no effect on the map.
    """
    summed = contributions.sum(dim=1, keepdim=True)
    return contributions - summed.amin(dim=tuple(range(1, summed.ndim)), keepdim=True) / contributions.shape[1]


__getattr__ = names_of(__name__, {"rows_of_a_pass": "cam_extras.methods.base.rows_for"})
