"""Utilities: what a class activation map explains, one number per sample.

`Logit`, `Softmax`, `LogSoftmax`, `Sigmoid`, `LogSigmoid` and `ReST` turn a class index into a callable. Given the
model's output of one sample, shape (C,), it returns a scalar, as pytorch-grad-cam expects of its targets; given a
batch, shape (N, C), it returns shape (N,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cam_extras._checks import check_choice, check_classes, check_targets, check_tensor, list_targets

Target: TypeAlias = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None

UtilityName: TypeAlias = Literal["logit", "softmax", "log_softmax", "rest", "sigmoid", "log_sigmoid"]
"""Key of `UTILITIES`."""


class ClassUtility(ABC):
    """A function of the model's output, read at a class.

    Args:
        target: the class index, or one per sample: an int, a sequence of ints or a tensor of shape (N,).
    """

    def __init__(self, target: int | Sequence[int] | Tensor):
        self.target = target

    @staticmethod
    @abstractmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Turn the model's output into the utility of every class; `dim` is the class dimension."""

    def __call__(self, outputs: Tensor) -> Tensor:
        """Read the utility from an output of shape (C,) or (N, C): shape () or (N,).

        Raises:
            ValueError: the class index is outside [0, C), or there is not one for each sample.
        """
        check_tensor("the model's output", outputs)
        if outputs.ndim == 1:
            return select_class(self.transform(outputs, 0)[None], self.target)[0]
        return select_class(self.transform(outputs, 1), self.target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"


class Logit(ClassUtility):
    """The model's raw output y_c.

    >>> Logit(1)(torch.tensor([1.0, 3.0]))
    tensor(3.)
    """

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return y."""
        return outputs


class Softmax(ClassUtility):
    """The probability p_c = softmax(y)_c, in [0, 1]."""

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return softmax(y)."""
        return outputs.softmax(dim)


class LogSoftmax(ClassUtility):
    """The log probability ln p_c, at most 0."""

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return log softmax(y)."""
        return outputs.log_softmax(dim)


class Sigmoid(ClassUtility):
    """The probability p_c = sigmoid(y)_c of one of many labels, any number of which may be true, in [0, 1]."""

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return sigmoid(y)."""
        return outputs.sigmoid()


class LogSigmoid(ClassUtility):
    """The log probability ln sigmoid(y)_c of one of many labels, at most 0."""

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return log sigmoid(y)."""
        return logsigmoid(outputs)


class ReST(ClassUtility):
    """Residual Softmax Target-class utility U = y_c + ln p_c.

    The logit keeps the gradient from vanishing where p_c is close to 1; the log probability removes evidence that
    supports other classes too. Equation (16) of Cai, "CAMs as Shapley Value-based Explainers", 2025.
    """

    @staticmethod
    def transform(outputs: Tensor, dim: int) -> Tensor:
        """Return y + log softmax(y)."""
        return outputs + outputs.log_softmax(dim)


UTILITIES: dict[str, type[ClassUtility]] = {
    "logit": Logit,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
    "rest": ReST,
    "sigmoid": Sigmoid,
    "log_sigmoid": LogSigmoid,
}


def select_class(values: Tensor, target: int | Sequence[int] | Tensor) -> Tensor:
    """Read `values` (N, C) at one class index for all samples, or one index per sample: shape (N,).

    Raises:
        TypeError: `target` is not made of integers.
        ValueError: an index is outside [0, C), or there is not one for each sample.
    """
    return values.gather(1, class_indices(values, target)[:, None]).squeeze(1)


def class_indices(values: Tensor, target: int | Sequence[int] | Tensor) -> Tensor:
    """Return one valid class index for each sample of `values` (N, C): shape (N,)."""
    if values.ndim != 2:
        raise ValueError(
            f"a class index needs a model output of shape (N, C); got {tuple(values.shape)}: "
            "give a function of your own instead"
        )
    samples, classes = values.shape
    try:
        indices = torch.as_tensor(target, device=values.device)
    except (TypeError, ValueError, RuntimeError) as error:
        if "Overflow" in str(error):  # more than 64 bits
            raise ValueError(f"class indices must lie in [0, {classes}); got {target!r:.80}") from error
        raise TypeError(f"class indices must be integers; got {target!r:.80}") from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"class indices must be integers; got {target!r}")
    if indices.numel() == 1:
        indices = indices.reshape(1).expand(samples)
    if indices.shape != (samples,):
        raise ValueError(
            f"expected one class index, or {samples}, one for each sample; got shape {tuple(indices.shape)}"
        )
    check_classes(indices, classes)
    indices = indices.long()
    return indices.clone() if indices.is_inference() else indices  # a backward pass keeps them


class OutputTarget(ABC):
    """A target that reads the model's own output, such as those in `cam_extras.targets`: one sample's output -> scalar.

    It is a target in every host. By itself it is for every sample of the batch; a list has one for each. It says itself
    what is differentiated, so it overrides the method's utility.

    Attributes:
        of_places: whether it names places in the image, which flips of the image would move.
    """

    of_places: ClassVar[bool] = False

    @property
    def predicts(self) -> bool:
        """Whether something is still to be chosen by the model's output for the explained input."""
        return False

    @property
    def has_confidence(self) -> bool:
        """Whether `confidence` is defined: if not, the confidence is the probability of its `target`, a class."""
        return type(self).confidence is not OutputTarget.confidence

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """Return what is explained of one sample's output, a scalar that can be differentiated."""

    def confidence(self, output: Any) -> Tensor:
        """Return the model's confidence, a scalar in [0, 1], in what is explained of one sample's output; for metrics.

        Raises:
            TypeError: there is none but the probability of a class.
        """
        raise TypeError(f"{self!r} has no confidence of its own: it is the probability of its class")

    def resolved(self, outputs: Any) -> OutputTarget:
        """Return the target with everything chosen by a batch's outputs for the explained inputs."""
        return self

    def of_samples(self, samples: Tensor) -> OutputTarget:
        """Return the target for some of the samples, given by position; the same one, unless it differs by sample."""
        return self

    def each(self, samples: int) -> list[OutputTarget]:
        """Return the target of each of this number of samples."""
        return [self.of_samples(torch.tensor([sample])) for sample in range(samples)]


class Utility(ABC):
    """What a probe differentiates: a function of the model's output, one number per sample."""

    @property
    def predicts(self) -> bool:
        """Whether the class is still to be predicted."""
        return False

    @property
    def output_targets(self) -> list[OutputTarget]:
        """The `OutputTarget`s that it is made of, one, or one per sample."""
        return []

    @abstractmethod
    def __call__(self, outputs: Any, name: str) -> Tensor:
        """Return the utility of the model's output, shape (N,); `name`, a key of `UTILITIES`, says how to read it."""

    def resolved(self, outputs: Any) -> Utility:
        """Return the utility with its class fixed by these outputs."""
        return self

    def of_samples(self, samples: Tensor) -> Utility | None:
        """Return the utility of some of the samples, given by position; None if it needs the whole batch."""
        return None

    def key(self, name: str) -> tuple[Any, ...]:
        """Return a key that equal utilities share; the user's own functions ignore `name`."""
        return (self,)


AnyUtility: TypeAlias = Utility | Callable[[Any], Tensor] | Sequence[Callable[[Any], Tensor]]


class TargetUtility(Utility):
    """Utility of a target, in the form the method asks for.

    Args:
        target: class index, one index per sample, a function that reads one value per sample from the class scores (N,
            C, ...), or None for the predicted class. A model with one output per sample, (N,) or (N, 1), needs no
            target.
    """

    def __init__(self, target: Target = None):
        self.target = target

    @property
    def predicts(self) -> bool:
        """Whether the class is still to be predicted."""
        return self.target is None

    def resolved(self, outputs: Any) -> TargetUtility:
        """Fix the class of every sample, the predicted one if none was given."""
        if callable(self.target) or not isinstance(outputs, Tensor):
            return self
        if self.target is not None:
            return TargetUtility(class_indices(_with_class_dimension(outputs), self.target))
        if outputs.ndim > 2:
            raise ValueError(
                f"the predicted class is undefined for a model output of shape {tuple(outputs.shape)}: "
                "say what to explain with a target"
            )
        return TargetUtility(_with_class_dimension(outputs).argmax(dim=1))

    def of_samples(self, samples: Tensor) -> TargetUtility | None:
        """Return the utility of some of the samples, given by position."""
        if callable(self.target):  # a function of the whole batch, unless it has `of_samples`
            of_samples = getattr(self.target, "of_samples", None)
            return None if of_samples is None else TargetUtility(of_samples(samples))
        if self.target is None:
            return None
        indices = torch.as_tensor(self.target, device=samples.device)
        return self if indices.numel() == 1 else TargetUtility(indices[samples])

    def key(self, name: str) -> tuple[Any, ...]:
        """Return a key that equal utilities share."""
        return (self, name)

    def __call__(self, outputs: Any, name: str) -> Tensor:
        """Return the utility of the model's output, shape (N,)."""
        check_choice("utility", name, UTILITIES)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"a class index needs a model that returns a tensor (N, C); this one returns {_describe(outputs)}: "
                "give one function for each sample, or by output=INDEX the entry that has the class scores"
            )
        if self.target is None:
            return self.resolved(outputs)(outputs, name)
        outputs = _with_class_dimension(outputs)
        values = UTILITIES[name].transform(outputs, 1)
        if not callable(self.target):
            return select_class(values, self.target)
        return check_utilities(self.target(values), len(outputs))


class CustomUtility(Utility):
    """The user's own utility, model output -> (N,); it overrides any method's."""

    def __init__(self, function: Callable[[Any], Tensor]):
        self.function = function

    def __call__(self, outputs: Any, name: str) -> Tensor:
        """Return the utility of the model's output, shape (N,)."""
        return check_utilities(self.function(outputs), len(outputs))


class PerSampleUtility(Utility):
    """One function per sample, like pytorch-grad-cam's targets: output of the sample -> scalar.

    Args:
        functions: one for each sample.
        shared: one for all samples instead.
    """

    def __init__(self, functions: Iterable[Callable[[Any], Tensor]] = (), shared: OutputTarget | None = None):
        self.functions, self.shared = functions, shared

    @property
    def predicts(self) -> bool:
        """Whether something is still to be chosen by the outputs for the explained inputs."""
        return any(target.predicts for target in self.output_targets)

    @property
    def output_targets(self) -> list[OutputTarget]:
        """The `OutputTarget`s among its functions."""
        if self.shared is not None:
            return [self.shared]
        self.functions = list(self.functions)
        return [function for function in self.functions if isinstance(function, OutputTarget)]

    @property
    def has_confidence(self) -> bool:
        """Whether all functions are `OutputTarget`s with a confidence that is not the probability of a class."""
        targets = self.output_targets
        return len(targets) == self._count and all(target.has_confidence for target in targets)

    @property
    def target(self) -> Tensor | None:
        """The class of each sample, shape (N,); None unless all functions are `OutputTarget`s that name one."""
        targets = self.output_targets
        classes = [None if target.has_confidence else getattr(target, "target", None) for target in targets]
        if len(targets) < self._count or any(index is None for index in classes):
            return None
        return torch.cat([torch.as_tensor(index).reshape(-1) for index in classes])

    @property
    def _count(self) -> int:
        return 1 if self.shared is not None else len(list(self.functions))

    def resolved(self, outputs: Any) -> PerSampleUtility:
        """Return the utility with everything chosen by these outputs."""
        if not self.predicts:
            return self
        if self.shared is not None:
            return PerSampleUtility(shared=self.shared.resolved(outputs))
        functions = check_targets(self.functions, len(outputs))
        return PerSampleUtility(
            [
                function.resolved(outputs[sample : sample + 1]) if isinstance(function, OutputTarget) else function
                for sample, function in enumerate(functions)
            ]
        )

    def of_samples(self, samples: Tensor) -> PerSampleUtility:
        """Return the utility of some of the samples, given by position."""
        if self.shared is not None:
            return PerSampleUtility(shared=self.shared.of_samples(samples))
        functions = list(self.functions)
        return PerSampleUtility([functions[sample] for sample in samples.tolist()])

    def each(self, samples: int) -> list[Callable[[Any], Tensor]]:
        """Return the function of each of this number of samples."""
        if self.shared is not None:
            return [*self.shared.each(samples)]
        return check_targets(self.functions, samples)

    def confidence(self, outputs: Any) -> Tensor:
        """Return the targets' own confidence in the model's output, shape (N,), in [0, 1] and float64."""
        targets: Any = self.each(len(outputs))
        found = [target.confidence(output) for target, output in zip(targets, outputs, strict=True)]
        return torch.stack([value.double().reshape(()) for value in found])

    def __call__(self, outputs: Any, name: str) -> Tensor:
        """Return the utility of the model's output, shape (N,)."""
        functions = self.resolved(outputs).each(len(outputs))
        values = []
        for number, (function, output) in enumerate(zip(functions, outputs, strict=True)):
            try:
                value = function(output)
            except IndexError as error:
                raise ValueError(
                    f"the target of sample {number} asks for what the model's output "
                    f"{_describe(output)} does not have: {error}"
                ) from error
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError(f"the target of sample {number} must return a scalar tensor; got {_describe(value)}")
            values.append(value.reshape(()))
        return torch.stack(values)


def check_utilities(values: object, samples: int) -> Tensor:
    """Return a utility in shape (N,), or raise ValueError if there is not one number per sample."""
    if not isinstance(values, Tensor):
        raise TypeError(f"a utility must be a tensor; the function returned {type(values).__name__}")
    if values.numel() != samples or (values.ndim > 0 and len(values) != samples):
        raise ValueError(
            f"expected one utility for each sample, shape ({samples},); got {tuple(values.shape)}: "
            "choose a target, or reduce the function over its other dimensions"
        )
    return values.reshape(samples)


def _with_class_dimension(outputs: Tensor) -> Tensor:
    return outputs[:, None] if outputs.ndim == 1 else outputs


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def as_target(given: Any) -> Utility:
    """Return what the user wants explained as a `Utility`.

    Args:
        given: a class index, or one per sample, as a list, an array or a tensor; None for the predicted class; a
            function of the batch's class scores; an `OutputTarget`, for every sample; or host targets, one function per
            sample, output of the sample -> scalar, as in `pytorch_grad_cam.utils.model_targets`.

    Raises:
        TypeError: it is none of these, or mixes indices and functions in one list.
    """
    if isinstance(given, Utility):
        return given
    if isinstance(given, OutputTarget):
        return PerSampleUtility(shared=given)
    if given is None or callable(given) or isinstance(given, Tensor) or hasattr(given, "__index__"):
        return TargetUtility(given)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(
            "targets must be a class index, a list with a class index or a function for each sample, or None; "
            f"got {given!r:.80}"
        )
    if hasattr(given, "__array__"):
        return TargetUtility(given)  # type: ignore[arg-type]
    items = list(given)
    return TargetUtility(items) if items and not any(map(callable, items)) else PerSampleUtility(list_targets(items))


def as_classes(given: Any) -> int | Sequence[int] | Tensor | None:
    """Return the user's target as class indices, where a probability is needed.

    Args:
        given: as for `as_target`, but only functions that name the one class they read, such as `Logit(3)` and
            pytorch-grad-cam's `ClassifierOutputTarget(3)`.

    Raises:
        TypeError: it is a function that does not name its class, or none of these.
    """
    utility = as_target(given)
    if isinstance(utility, PerSampleUtility) and utility.shared is not None:
        return _class_of(utility.shared)  # type: ignore[no-any-return]
    if isinstance(utility, PerSampleUtility):
        return [_class_of(function) for function in utility.functions]
    target: Any = getattr(utility, "target", utility)
    classes: int | Sequence[int] | Tensor | None = _class_of(target) if callable(target) else target
    return classes


def _class_of(function: Any) -> Any:
    index = getattr(function, "category", getattr(function, "target", None))
    if isinstance(function, OutputTarget) and function.has_confidence:
        index = None  # that of a pixel or of a box
    if index is None:
        raise TypeError(
            "the target must be a class index, or one for each sample: a function that does not say which class it "
            f"reads has no probability; got {function!r:.80}"
        )
    return index
