"""Methods as Quantus explain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cam_extras._batching import rows_of_a_pass
from cam_extras._checks import SampleError, check_count, check_name, check_pixels
from cam_extras._inputs import OtherInputs, check_layer_is_named, on_device, tensors_of
from cam_extras._names import Fusion
from cam_extras._outputs import Output, check_output, one_for_all
from cam_extras.fusion import check_fusion, fuse, fused_maps
from cam_extras.layers import AnyLayer, as_layers, listed, settle
from cam_extras.methods import METHODS as _OURS
from cam_extras.methods import Method, as_method, channel_weights
from cam_extras.methods.named import AnyMethod
from cam_extras.probe import Probe, ReshapeTransform, reference_tensor
from cam_extras.utilities import TargetUtility, Utility, as_classes, as_target

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
    output: Output = None,
    fusion: Fusion = "mean",
    additional_forward_args: tuple[Any, ...] = (),
    additional_forward_kwargs: Mapping[str, Any] | None = None,
    **hyper: Any,
) -> Explainer:
    """Return a method as a Quantus explain function: (model, inputs, targets) -> maps (N, 1, *S) in [0, 1].

    Args:
        method: a key of `METHODS`: the name of one of our methods (`cam_extras.methods.METHODS`) or of a class of
            pytorch-grad-cam, such as "FullGrad". If both have the name, such as "GradCAM", it means ours; for the
            other, give the class itself, `pytorch_grad_cam.GradCAM`. Or a class or an instance of our methods.
        layer: the layer's dotted name, or "auto" for the last feature map before pooling, looked up on the model at
            every call; or a list of layers, whose maps become one, see `fusion`. A module works too, but belongs to one
            model only, and Quantus' randomisation metrics explain changed copies of the model.
        reshape_transform: how the layer's output becomes a feature map (N, C, *S): "auto", see `Probe`; a function; or
            None for an output that is taken as it is.
        batch_size: how many samples to explain at a time; `quantus.evaluate` passes the whole data set at once. By
            default 32, on the CPU only as many as have the pixels of four 224 x 224 images.
        output: where the class scores are in the model's output: a key or attribute, an index, or a function of the
            output, see `Probe`.
        fusion: how the maps of several layers become one: "mean", "max", or "refine", their product; see
            `cam_extras.fusion`.
        additional_forward_args: passed to the model after the inputs, the same for every sample: numbers, or tensors
            with one row. Those that differ by sample are arguments of the call.
        additional_forward_kwargs: passed to the model by name, see `Probe`. Quantus' own passes need them too, as
            `model_predict_kwargs`.
        hyper: the method's hyper-parameters.

    Raises:
        ValueError: there is no method or fusion of that name, or no layer; or additional arguments have several rows:
            Quantus does not say which samples its batches are.
        TypeError: the method has no such hyper-parameter, or the layer is not a layer.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    check_output(output)
    check_fusion(fusion)
    layers = tuple(listed(layer))
    if not layers:
        raise ValueError("expected at least one layer, got none")
    if not all(isinstance(part, str | nn.Module) for part in layers):
        raise TypeError(f'a layer must be a dotted name, such as "layer4", or a module; got {layer!r:.80}')
    layer = layers[0] if len(layers) == 1 else layers
    kind: Any = method
    if isinstance(method, str) and method not in _OURS:
        known = all_methods()
        check_name("method", method, known)
        kind = known[method]
    theirs = isinstance(kind, type) and not issubclass(kind, Method) and not hasattr(kind, "method_type")
    others = (tuple(additional_forward_args), dict(additional_forward_kwargs or {}))
    if any(len(tensor) > 1 for tensor in tensors_of(others) if tensor.ndim):
        raise ValueError(
            "additional arguments with several rows belong to certain samples, and Quantus does not say which samples "
            "its batches are: give explain those that are the same for all, and the others when you call the function"
        )
    if not theirs:
        return Explainer(as_method(kind, hyper), layer, reshape_transform, batch_size, output, others, fusion)
    from cam_extras.pytorch_grad_cam import check_upstream

    check_upstream(kind, hyper)
    return UpstreamExplainer(kind, layer, reshape_transform, batch_size, output, others, fusion, hyper)


@dataclass(frozen=True)
class Explainer:
    """A Quantus explain function; made by `explain`."""

    method: Any
    layer: str | nn.Module | tuple[str | nn.Module, ...]
    reshape_transform: ReshapeTransform = "auto"
    batch_size: int | None = None
    output: Output = None
    others: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), MappingProxyType({}))
    fusion: Fusion = "mean"

    def __call__(
        self,
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: Any,
        device: str | torch.device | None = None,
        *,
        additional_forward_args: tuple[Any, ...] | None = None,
        additional_forward_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Explain inputs (N, C, *S) for the given classes (N,): maps (N, 1, *S), float32 in [0, 1].

        Args:
            model: the model, left as found.
            inputs: channels first; arrays, or tensors on any device, with or without `requires_grad`.
            targets: one class index per sample, or one for all; None for the predicted class. Or one of
                `cam_extras.targets`, or a list with one for each sample.
            device: where to explain; by default where the model is.
            additional_forward_args: passed to the model after the inputs, instead of those given to `explain`; of
                tensors with one row per sample, every pass gets the rows of its samples.
            additional_forward_kwargs: the same by name.
            kwargs: hyper-parameters, which override those given to `explain`; the names in `QUANTUS_ARGUMENTS` are
                ignored, unless the method has a hyper-parameter of that name.

        Raises:
            TypeError: the method has no such hyper-parameter.
            ValueError: the model has no layer of that name, or the inputs have no pixels; or see `Probe`.
        """
        explainer = self._of_call(kwargs)
        args = self.others[0] if additional_forward_args is None else additional_forward_args
        others = args, self.others[1] if additional_forward_kwargs is None else additional_forward_kwargs
        return explainer._in_batches(explainer._maps, model, inputs, targets, device, others)[:, None]

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
            ValueError: there are several layers.
        """
        explainer = self._of_call(kwargs)
        return explainer._in_batches(explainer._weights, model, inputs, targets, device, self.others)

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
        function: Callable[[nn.Module, Tensor, Any, OtherInputs], Tensor],
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: Any,
        device: str | torch.device | None,
        others: tuple[tuple[Any, ...], Mapping[str, Any]],
    ) -> np.ndarray:
        reference = reference_tensor(model)
        if reference is None:
            reference = torch.empty(0, dtype=torch.float32, device="cpu")
        x = to_tensor(inputs, reference.dtype, device or reference.device)
        check_pixels(x.shape)
        if not len(x):
            raise ValueError(f"there are no inputs to explain: their shape is {tuple(x.shape)}")
        utility = self._utility(targets, x)
        given = OtherInputs(*others, len(x)).mapped(on_device(x.device))
        check_layer_is_named(listed(self.layer), given)
        rows, found = rows_of_a_pass(x, self.batch_size), []
        if given and not given.divisible:
            rows = len(x)
        for first in range(0, len(x), rows):
            part = torch.arange(first, min(first + rows, len(x)), device=x.device)
            of_part = utility if utility.predicts and not utility.output_targets else utility.of_samples(part)
            try:
                found.append(function(model, x[part], of_part, given.of_samples(part)).float().cpu())
            except SampleError as error:
                raise error.counted_from(first) from error
        return torch.cat(found).numpy()

    def _utility(self, targets: Any, x: Tensor) -> Utility:
        """Return what is explained of a whole data set: its targets, or one class for each sample."""
        utility = as_target(targets)
        if utility.output_targets:
            return utility
        given: Any = as_classes(utility)
        if given is None:
            return utility
        if hasattr(given, "__index__") and not getattr(given, "ndim", 0):  # one class for all
            given = [given.__index__()] * len(x)
        classes = to_tensor(given, device=x.device)
        if classes.shape != (len(x),):
            raise ValueError(f"expected {len(x)} targets, one for each sample; got shape {tuple(classes.shape)}")
        return TargetUtility(classes)

    def _settled(self, model: nn.Module, x: Tensor) -> list[nn.Module]:
        for layer in listed(self.layer):
            if isinstance(layer, nn.Module) and all(layer is not module for module in model.modules()):
                raise ValueError(
                    f"the layer {type(layer).__name__} is not a module of this {type(model).__name__}: give its "
                    "dotted name, which holds for copies of the model, too"
                )
        return settle(model, as_layers(model, self.layer), x, self.reshape_transform, self.output)

    def _maps(self, model: nn.Module, x: Tensor, target: Utility, others: OtherInputs) -> Tensor:
        return fused_maps(self.method, self._probe(model, x, target, others), self.fusion)

    def _weights(self, model: nn.Module, x: Tensor, target: Utility, others: OtherInputs) -> Tensor:
        if isinstance(self.layer, tuple):
            raise ValueError(f"channel weights are those of one layer, and there are {len(self.layer)}: give one")
        return channel_weights(self.method)(self._probe(model, x, target, others))

    def _probe(self, model: nn.Module, x: Tensor, target: Utility, others: OtherInputs) -> Probe:
        probe, *_ = Probe.several(
            model,
            self._settled(model, x),
            x,
            utility=target,
            reshape_transform=self.reshape_transform,
            additional_forward_args=others.args,
            additional_forward_kwargs=others.kwargs,
            second_order=self.method.second_order,
            output=self.output,
        )
        if probe.shares_output:
            raise one_for_all(len(x), "a data set for Quantus has separate images")
        return probe


@dataclass(frozen=True)
class UpstreamExplainer(Explainer):
    """A class of pytorch-grad-cam as a Quantus explain function; made by `explain`."""

    hyper: Mapping[str, Any] = field(default_factory=dict)

    def _with(self, hyper: Mapping[str, Any]) -> Explainer:
        from cam_extras.pytorch_grad_cam import check_upstream

        check_upstream(self.method, hyper)
        return replace(self, hyper={**self.hyper, **hyper})

    def _maps(self, model: nn.Module, x: Tensor, target: Utility, others: OtherInputs) -> Tensor:
        from cam_extras.pytorch_grad_cam.upstream import upstream_maps, upstream_targets

        probe, *_ = probes = Probe.several(
            model,
            self._settled(model, x),
            x,
            utility=target,
            reshape_transform=self.reshape_transform,
            additional_forward_args=others.args,
            additional_forward_kwargs=others.kwargs,
            output=self.output,
        )
        targets = upstream_targets(probe)
        maps = [
            upstream_maps(
                self.method,
                model,
                of_layer.layer,
                x,
                targets,
                self.reshape_transform,
                self.hyper,
                output=self.output,
            )
            for of_layer in probes
        ]
        return maps[0] if len(maps) == 1 else fuse(maps, self.fusion)

    def _weights(self, model: nn.Module, x: Tensor, target: Utility, others: OtherInputs) -> Tensor:
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
