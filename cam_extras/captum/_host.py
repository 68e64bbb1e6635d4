"""Methods behind the interface of `LayerAttribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from captum._utils.common import _select_targets
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from cam_extras import methods
from cam_extras._checks import SampleError, check_finite, which
from cam_extras._host_classes import describe
from cam_extras._inputs import check_layer_is_named
from cam_extras._names import Fusion
from cam_extras._outputs import Output, check_output
from cam_extras.fusion import check_fusion, fused_maps
from cam_extras.layers import AnyLayer, as_layers, name_of, settle
from cam_extras.probe import Probe, ReshapeTransform
from cam_extras.utilities import OutputTarget, as_target


class MethodAttribution(LayerAttribution):
    """A method of `cam_extras.methods` behind the interface of `captum.attr.LayerAttribution`.

    Works with `LayerAttribution.interpolate`, `NoiseTunnel`, `captum.metrics.infidelity` and `sensitivity_max`. The
    model is left as found; an `nn.Module` is put in eval mode for the call.

    Args:
        forward_func: the model, or a function that calls it.
        layer: the layer to explain: a module, its dotted name, or "auto" for the last feature map before pooling, found
            at the first call; or a list of layers, which share one forward pass, see `fusion`.
        device_ids: not supported; only there to match Captum's signature.
        reshape_transform: how the layer's output becomes a feature map (N, C, *S): "auto", see `Probe`; a function; or
            None for an output that is taken as it is.
        output: where the class scores are in the model's output: a key or attribute, an index, or a function of the
            output, see `Probe`.
        fusion: None for the contributions of each layer, a list if a list of layers was given. Or "mean", "max" or
            "refine" for one map at the input's size, rectified and in [0, 1], as in the other hosts, see
            `cam_extras.fusion`: layers of different sizes have no signed contributions in common.
        hyper: the method's hyper-parameters.

    Raises:
        ValueError: `device_ids` is given, or there is no such fusion.
    """

    method_type: ClassVar[type[methods.Method]]

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: AnyLayer,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: ReshapeTransform = "auto",
        output: Output = None,
        fusion: Fusion | None = None,
        **hyper: Any,
    ):
        if device_ids is not None:
            raise ValueError(
                f"device_ids={device_ids} cannot be served: models split over devices by DataParallel are not "
                "supported; give the model's .module and explain one device's share of the batch at a time"
            )
        check_output(output)
        if fusion is not None:
            check_fusion(fusion)
        self._layers = as_layers(forward_func, layer)
        self._several = isinstance(layer, Iterable) and not isinstance(layer, str | nn.Sequential)
        super().__init__(forward_func, self._layers if self._several else self._layers[0], device_ids)
        self.reshape_transform, self.output, self.fusion = reshape_transform, output, fusion
        self.method = self.method_type.make(hyper)

    def __repr__(self) -> str:
        names = [name_of(self.forward_func, layer) for layer in self._layers]
        return describe(self, self.forward_func, names, self.method)

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        additional_forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor | tuple[Tensor, ...] | list[Tensor]:
        """Explain a batch at the layer's resolution.

        Args:
            inputs: the batch, shape (N, C, *S).
            target: what to explain, in any of Captum's forms: an int, a tuple, a tensor, or a list of ints or tuples;
                None if the model returns one number per sample; or one of `cam_extras.targets`, or one function per
                sample, like pytorch-grad-cam's targets, which override the method's utility. Utilities other than the
                logit are computed over the first dimension after the batch, the classes of (N, C), (N, C, H, W), ...
            additional_forward_args: one argument, or a tuple of arguments, passed after the inputs.
            attribute_to_layer_input: explain the layer's input instead of its output.
            relu_attributions: rectify the result.
            attr_dim_summation: sum over channels.
            grad_kwargs: not supported; only there to match Captum's signature.
            additional_forward_kwargs: passed to the model by name, see `Probe`.

        Returns:
            Signed contributions of shape (N, 1, *S), or (N, C, *S) without the sum, in the input's dtype; with a
            `fusion`, maps (N, 1, *input size) in [0, 1]. A list if a list of layers was given without a fusion;
            otherwise a tuple if the input was a tuple, without which `sensitivity_max` would mistake samples for
            tensors.

        Raises:
            TypeError: see `Probe`.
            ValueError: see `Probe`; or there are several input tensors, the target does not fit the output,
                `grad_kwargs` are given, `attr_dim_summation` is False with a `fusion`, or an attribution is not finite:
                samples are named.
        """
        if grad_kwargs:
            raise ValueError(f"grad_kwargs={grad_kwargs} cannot be served: the backward pass is shared by all methods")
        if self.fusion is not None and not attr_dim_summation:
            raise ValueError(
                f"attr_dim_summation=False cannot be served with fusion={self.fusion!r}: a fused map has no channels; "
                "leave one of them out"
            )
        x = _single(inputs)
        check_layer_is_named(self._layers, additional_forward_args is not None or additional_forward_kwargs)
        layers = settle(self.forward_func, self._layers, x, self.reshape_transform, self.output)
        self._layers, self.layer = [*layers], layers if self._several else layers[0]
        of_host = isinstance(target, OutputTarget) or (isinstance(target, list) and any(map(callable, target)))
        probes = Probe.several(
            self.forward_func,
            layers,
            x,
            utility=as_target(target if of_host else _Selection(target)),
            reshape_transform=self.reshape_transform,
            additional_forward_args=_as_tuple(additional_forward_args),
            additional_forward_kwargs=additional_forward_kwargs,
            attribute_to_layer_input=attribute_to_layer_input,
            second_order=self.method.second_order,
            output=self.output,
        )
        if self.fusion is not None:
            maps = fused_maps(self.method, probes[0], self.fusion)[:, None]
            maps = _in_type_of(x, maps) if x.is_floating_point() else maps
            return (maps,) if isinstance(inputs, tuple) else maps
        attributions = []
        for probe in probes:
            attribution = self.method(probe)
            if attr_dim_summation:
                attribution = attribution.sum(dim=1, keepdim=True)
            check_finite("the attribution", attribution)  # before relu, which would turn -inf into 0
            if relu_attributions:
                attribution = attribution.relu()
            attributions.append(_in_type_of(x, attribution) if x.is_floating_point() else attribution)
        if self._several:
            return attributions
        return tuple(attributions) if isinstance(inputs, tuple) else attributions[0]


class _Selection:
    """A target as Captum reads it, with errors that say what does not fit."""

    def __init__(self, target: Any):
        self.target = target

    def __call__(self, values: Tensor) -> Tensor:
        try:
            selected: Tensor = _select_targets(values, self.target)
            return selected
        except (AssertionError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"target {self.target!r} does not fit a model output of shape {tuple(values.shape)}: {error}"
            ) from error

    def of_samples(self, samples: Tensor) -> _Selection:
        """Return the target for some of the samples; an int, a tuple or a one-element tensor applies to all."""
        if isinstance(self.target, Tensor) and self.target.numel() > 1:
            return _Selection(self.target[samples.to(self.target.device)])
        if isinstance(self.target, list):
            return _Selection([self.target[sample] for sample in samples.tolist()])
        return self


def _in_type_of(x: Tensor, attribution: Tensor) -> Tensor:
    narrowed = attribution.to(x.dtype)
    if overflown := which(narrowed.isinf()):
        raise SampleError(f"the attribution is out of the range of {x.dtype}", overflown, "give the input in float32")
    return narrowed


def _single(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    if not isinstance(inputs, tuple):
        return inputs
    if len(inputs) != 1:
        raise ValueError(
            f"expected one input tensor, got {len(inputs)}: a class activation map has one input; give the others "
            "as additional_forward_args, or by name as additional_forward_kwargs"
        )
    return inputs[0]


def _as_tuple(arguments: Any) -> tuple[Any, ...]:
    if arguments is None:
        return ()
    return arguments if isinstance(arguments, tuple) else (arguments,)
