"""Methods as Quantus explain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cam_extras._batching import rows_of_a_pass
from cam_extras._checks import SampleError, check_count, check_name, check_pixels
from cam_extras.layers import AnyLayer, as_layer, settle
from cam_extras.methods import METHODS as _OURS
from cam_extras.methods import Method, as_method, channel_weights
from cam_extras.methods.named import AnyMethod
from cam_extras.probe import Probe, ReshapeTransform, reference_tensor
from cam_extras.utilities import as_classes

QUANTUS_ARGUMENTS = frozenset(
    {
        "method",
        # of `quantus.explain`, with Captum and with zennit
        "attributor",
        "attributor_kwargs",
        "baseline",
        "canonizer",
        "canonizer_kwargs",
        "channel_first",
        "composite",
        "composite_kwargs",
        "constant_value",
        "gc_layer",
        "interpolate",
        "interpolate_mode",
        "keepdims",
        "reduce_axes",
        "return_shape",
        "softmax",
        "window",
        "xai_lib",
        "xai_lib_kwargs",
    }
)
"""Arguments that are not meant for explain functions, and which they ignore.

`quantus.evaluate` passes "method", the name in its results; and, to functions that come after a dict in `xai_methods`,
that dict's arguments of `quantus.explain`.
"""


def all_methods() -> dict[str, type]:
    """Return name -> class for our methods and for those that only pytorch-grad-cam has."""
    from cam_extras.pytorch_grad_cam import UPSTREAM

    return {**_OURS, **{upstream: cls for upstream, cls in UPSTREAM.items() if upstream not in _OURS}}


def explain(
    method: AnyMethod,
    *,
    layer: AnyLayer,
    reshape_transform: ReshapeTransform = "auto",
    batch_size: int | None = None,
    **hyper: Any,
) -> Explainer:
    """Return a method as a Quantus explain function: (model, inputs, targets) -> maps (N, 1, *S) in [0, 1].

    Args:
        method: a key of `METHODS`: the name of one of our methods (`cam_extras.methods.METHODS`) or of a class of
            pytorch-grad-cam, such as "ScoreCAM". If both have the name, such as "GradCAM", it means ours; for the
            other, give the class itself, `pytorch_grad_cam.GradCAM`. Or a class or an instance of our methods.
        layer: the layer's dotted name, or "auto" for the last feature map before pooling, looked up on the model at
            every call. A module works too, but belongs to one model only, and Quantus' randomisation metrics explain
            changed copies of the model.
        reshape_transform: how the layer's output becomes a feature map (N, C, *S): "auto", see `Probe`; a function; or
            None for an output that is taken as it is.
        batch_size: how many samples to explain at a time; `quantus.evaluate` passes the whole data set at once. By
            default 32, on the CPU only as many as have the pixels of four 224 x 224 images.
        hyper: the method's hyper-parameters.

    Raises:
        ValueError: there is no method of that name, or several layers are given.
        TypeError: the method has no such hyper-parameter, or the layer is not a layer.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if isinstance(layer, list | tuple) and len(layer) == 1:
        layer = layer[0]
    if not isinstance(layer, str | nn.Module) or isinstance(layer, nn.ModuleList):
        raise TypeError(f'the layer must be one: its dotted name, such as "layer4", or a module; got {layer!r:.80}')
    kind: Any = method
    if isinstance(method, str) and method not in _OURS:
        known = all_methods()
        check_name("method", method, known)
        kind = known[method]
    theirs = isinstance(kind, type) and not issubclass(kind, Method) and not hasattr(kind, "method_type")
    if not theirs:
        return Explainer(as_method(kind, hyper), layer, reshape_transform, batch_size)
    from cam_extras.pytorch_grad_cam import check_upstream

    check_upstream(kind, hyper)
    return UpstreamExplainer(kind, layer, reshape_transform, batch_size, hyper)


@dataclass(frozen=True)
class Explainer:
    """A Quantus explain function; made by `explain`."""

    method: Any
    layer: str | nn.Module
    reshape_transform: ReshapeTransform = "auto"
    batch_size: int | None = None

    def __call__(
        self,
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: Any,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Explain inputs (N, C, *S) for the given classes (N,): maps (N, 1, *S), float32 in [0, 1].

        Args:
            model: the model, left as found.
            inputs: channels first; arrays, or tensors on any device, with or without `requires_grad`.
            targets: one class index per sample, or one for all; None for the predicted class.
            device: where to explain; by default where the model is.
            kwargs: hyper-parameters, which override those given to `explain`; the names in `QUANTUS_ARGUMENTS` are
                ignored, unless the method has a hyper-parameter of that name.

        Raises:
            TypeError: the method has no such hyper-parameter.
            ValueError: the model has no layer of that name, or the inputs have no pixels; or see `Probe`.
        """
        explainer = self._of_call(kwargs)
        return explainer._in_batches(explainer._maps, model, inputs, targets, device)[:, None]

    def channel_weights(
        self,
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: Any,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the method's weights for the layer's channels, (N, K); arguments as for a call.

        Raises:
            TypeError: the method does not weigh channels, or has no such hyper-parameter.
        """
        explainer = self._of_call(kwargs)
        return explainer._in_batches(explainer._weights, model, inputs, targets, device)

    def _of_call(self, given: Mapping[str, Any]) -> Explainer:
        """Return the explainer with the hyper-parameters given to a call."""
        kind = self.method if isinstance(self.method, type) else type(self.method)
        has = inspect.signature(kind).parameters
        hyper = {name: value for name, value in given.items() if name in has or name not in QUANTUS_ARGUMENTS}
        return self._with(hyper) if hyper else self

    def _with(self, hyper: Mapping[str, Any]) -> Explainer:
        return replace(self, method=as_method(self.method, hyper))

    def _in_batches(
        self,
        function: Callable[[nn.Module, Tensor, Tensor | None], Tensor],
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: Any,
        device: str | torch.device | None,
    ) -> np.ndarray:
        reference = reference_tensor(model)
        if reference is None:
            reference = torch.empty(0, dtype=torch.float32, device="cpu")
        x = to_tensor(inputs, reference.dtype, device or reference.device)
        check_pixels(x.shape)
        if not len(x):
            raise ValueError(f"there are no inputs to explain: their shape is {tuple(x.shape)}")
        given: Any = as_classes(targets)
        if hasattr(given, "__index__") and not getattr(given, "ndim", 0):  # one class for all
            given = [given.__index__()] * len(x)
        classes = None if given is None else to_tensor(given, device=x.device)
        if classes is not None and classes.shape != (len(x),):
            raise ValueError(f"expected {len(x)} targets, one for each sample; got shape {tuple(classes.shape)}")
        rows, found = rows_of_a_pass(x, self.batch_size), []
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            try:
                found.append(function(model, x[part], None if classes is None else classes[part]).float().cpu())
            except SampleError as error:
                raise error.counted_from(first) from error
        return torch.cat(found).numpy()

    def _layer(self, model: nn.Module, x: Tensor) -> nn.Module:
        if isinstance(self.layer, nn.Module) and all(self.layer is not module for module in model.modules()):
            raise ValueError(
                f"the layer {type(self.layer).__name__} is not a module of this {type(model).__name__}: give its "
                "dotted name, which holds for copies of the model, too"
            )
        return settle(model, [as_layer(model, self.layer)], x, self.reshape_transform)[0]

    def _maps(self, model: nn.Module, x: Tensor, target: Tensor | None) -> Tensor:
        maps: Tensor = self.method.maps(self._probe(model, x, target))
        return maps

    def _weights(self, model: nn.Module, x: Tensor, target: Tensor | None) -> Tensor:
        return channel_weights(self.method)(self._probe(model, x, target))

    def _probe(self, model: nn.Module, x: Tensor, target: Tensor | None) -> Probe:
        return Probe(
            model,
            self._layer(model, x),
            x,
            target=target,
            reshape_transform=self.reshape_transform,
            second_order=self.method.second_order,
        )


@dataclass(frozen=True)
class UpstreamExplainer(Explainer):
    """A class of pytorch-grad-cam as a Quantus explain function; made by `explain`."""

    hyper: Mapping[str, Any] = field(default_factory=dict)

    def _with(self, hyper: Mapping[str, Any]) -> Explainer:
        from cam_extras.pytorch_grad_cam import check_upstream

        check_upstream(self.method, hyper)
        return replace(self, hyper={**self.hyper, **hyper})

    def _maps(self, model: nn.Module, x: Tensor, target: Tensor | None) -> Tensor:
        from cam_extras.pytorch_grad_cam import upstream_maps

        layer = self._layer(model, x)
        if target is None:
            target = Probe(model, layer, x, reshape_transform=self.reshape_transform).target
        return upstream_maps(self.method, model, layer, x, target, self.reshape_transform, self.hyper)

    def _weights(self, model: nn.Module, x: Tensor, target: Tensor | None) -> Tensor:
        raise TypeError(
            f"pytorch-grad-cam's {self.method.__name__} does not tell its channel weights: counterfactual sensitivity "
            "takes methods of cam_extras.methods, such as GradCAM or MIGradCAM"
        )


def to_tensor(
    values: np.ndarray | Tensor, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Tensor:
    """Return a tensor or an array of any layout as a tensor on a device; the default device does not matter."""
    if not isinstance(values, Tensor):
        values = np.ascontiguousarray(values)
    return torch.as_tensor(values, dtype=dtype, device=device)
