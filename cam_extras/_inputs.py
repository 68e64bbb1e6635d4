"""What a model takes besides the image that is explained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor


class OtherInputs:
    """The inputs of a model besides the image x, by position and by name.

    Tensors with one row per sample, at any depth of lists, tuples and dicts, go with their samples; everything else is
    the same for every sample.

    Args:
        args: passed after x.
        kwargs: passed by name. If they name the parameter that x would be, x is the first one that they do not name.
        samples: the number of samples.

    Raises:
        TypeError: args are not a tuple or list, or kwargs not a mapping with names.
    """

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, samples: int):
        if not isinstance(args, tuple | list):
            raise TypeError(f"additional_forward_args must be a tuple; got {type(args).__name__}")
        kwargs = {} if kwargs is None else kwargs
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise TypeError(f"additional_forward_kwargs must be a mapping from names to values; got {kwargs!r:.80}")
        self.args, self.kwargs, self.samples = tuple(args), dict(kwargs), samples

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)

    @property
    def divisible(self) -> bool:
        """Whether it is clear what belongs to which sample.

        It is not if there is something with one entry per sample that is no tensor, such as a list of names.
        """
        return all(self._is_clear(value) for value in (self.args, *self.kwargs.values()))

    def _is_clear(self, value: Any) -> bool:
        if isinstance(value, Tensor | str | bytes):
            return True
        parts = list(value.values()) if isinstance(value, Mapping) else value
        if not isinstance(parts, list | tuple):
            return not isinstance(value, Sized) or len(value) != self.samples
        if value is not self.args and not isinstance(value, Mapping) and len(parts) == self.samples > 1:
            return bool(parts) and all(self._has_rows(part) for part in parts)
        return all(map(self._is_clear, parts))

    def _has_rows(self, value: Any) -> bool:
        """Whether it is a tensor with one row per sample."""
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.samples

    def of_samples(self, samples: Tensor) -> OtherInputs:
        """Return those of some samples, given by position."""

        def rows(value: Tensor) -> Tensor:
            return value[samples.to(value.device)] if self._has_rows(value) else value

        args, kwargs = map_tensors((self.args, self.kwargs), rows)
        return OtherInputs(args, kwargs, len(samples))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> OtherInputs:
        """Return them with a function applied to every tensor."""
        args, kwargs = map_tensors((self.args, self.kwargs), function)
        return OtherInputs(args, kwargs, self.samples)

    def call(self, model: Callable[..., Any], x: Tensor) -> Any:
        """Run the model on a batch x of the same samples.

        Raises:
            ValueError: x has another number of rows than the inputs that go with it.
        """
        if len(x) != self.samples and (
            not self.divisible or any(map(self._has_rows, tensors_of(self.args, self.kwargs)))
        ):
            raise ValueError(
                f"the additional forward arguments are for {self.samples} samples, and the model is to see {len(x)}: "
                "say which samples they are"
            )
        name = self._name_of_x(model)
        if name is None:
            return model(x, *self.args, **self.kwargs)
        if self.args:
            raise TypeError(
                f"{name!r}, the image, comes after parameters given by name: give all additional arguments by name"
            )
        return model(**{name: x}, **self.kwargs)

    def _name_of_x(self, model: Callable[..., Any]) -> str | None:
        """Return the name by which x must be passed, None if it comes first."""
        if not self.kwargs:
            return None
        parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not named or named[0].name not in self.kwargs:
            return None
        return next((p.name for p in named if p.name not in self.kwargs), None)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(map_tensors(part, function) for part in value)
    if type(value) is dict:
        return {key: map_tensors(part, function) for key, part in value.items()}
    return value


def tensors_of(*values: Any) -> Iterator[Tensor]:
    """Yield every tensor in lists, tuples and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from tensors_of(*value)
        elif type(value) is dict:
            yield from tensors_of(*value.values())


def leave_inference(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd can use, even if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def on_device(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that moves tensors."""
    return lambda tensor: tensor.to(device)


def check_layer_is_named(layers: Iterable[Any], others: Any) -> None:
    """Raise ValueError if a layer is still to be found in a model that needs more than the image."""
    if others and any(isinstance(layer, str) and layer == "auto" for layer in layers):
        raise ValueError(
            'layer="auto" runs the model with the image alone, and this call has additional forward arguments: name '
            "the layer"
        )
