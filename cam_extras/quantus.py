"""Front end for Quantus: the metrics as `quantus.metrics.base.Metric` classes, the methods as explain functions.

>>> from cam_extras.quantus import AverageDrop, explain
>>> explain_func = explain("ShapleyCAM", layer="layer4")

Importing this module lists the metrics in `quantus.AVAILABLE_METRICS`; `unregister()` undoes it, `register()` does it
again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import quantus
import torch
from quantus.helpers import utils
from quantus.helpers.enums import DataType, EvaluationCategory, ModelType, ScoreDirection
from quantus.helpers.model.model_interface import ModelInterface
from quantus.metrics.base import Metric
from torch import Tensor, nn

from cam_extras._checks import SampleError, check_class_scores, check_count, check_finite, check_name, check_pixels
from cam_extras.batches import rows_of_a_pass
from cam_extras.maps import normalise
from cam_extras.methods import METHODS as _OURS
from cam_extras.methods import Method, channel_weights
from cam_extras.metrics import (
    METRICS,
    Curve,
    Explained,
    MetricOptions,
    Quantities,
    best_box_accuracy,
    box_accuracy,
    max_box_accuracy,
    options_of,
    sources_of,
)
from cam_extras.metrics import (
    win_percentage as _win_percentage,
)
from cam_extras.probe import Probe, find_layer, reference_tensor

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
"""What explain functions leave alone, for it was not meant for them.

`quantus.evaluate` hands over "method", the name in its results; and, to functions that follow a dict in `xai_methods`,
the arguments of `quantus.explain` in that dict.
"""


def __getattr__(name: str) -> Any:
    """Make `METHODS`, name -> class, when it is first asked for: pytorch-grad-cam is imported only then."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cam_extras.pytorch_grad_cam import UPSTREAM

    return {**_OURS, **{upstream: cls for upstream, cls in UPSTREAM.items() if upstream not in _OURS}}


def explain(
    method: str | type,
    *,
    layer: str,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    **hyper: Any,
) -> Explainer:
    """Return a method as a Quantus explain function: (model, inputs, targets) -> maps (N, 1, *S) in [0, 1].

    Args:
        method: key of `METHODS`: the name of one of ours (`cam_extras.methods.METHODS`) or of a class of
            pytorch-grad-cam, such as "ScoreCAM". Of names that both have, such as "GradCAM", it is ours; give the class
            itself, `pytorch_grad_cam.GradCAM`, for the other.
        layer: dotted name of the layer, looked up on the model of every call: Quantus' randomisation metrics explain
            changed copies of the model, and a layer bound beforehand would belong to the wrong one.
        reshape_transform: makes a feature map (N, C, *S) of the layer's output, for transformers.
        batch_size: how many samples to explain at a time; `quantus.evaluate` hands over the whole data set at once. By
            default 32, on the CPU as many as four images of 224 x 224 have pixels.
        hyper: the method's hyper-parameters.

    Raises:
        ValueError: there is no method of that name.
        TypeError: the method has no such hyper-parameter.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    kind: Any = method
    if isinstance(method, str):
        known = _OURS if method in _OURS else __getattr__("METHODS")
        check_name("method", method, known)
        kind = known[method]
    if not isinstance(kind, type):
        raise TypeError(f'the method must be a name, such as "GradCAM", or a class; got {method!r:.80}')
    if issubclass(kind, Method):
        return Explainer(kind.make(hyper), layer, reshape_transform, batch_size)
    from cam_extras.pytorch_grad_cam import check_upstream

    check_upstream(kind, hyper)
    return UpstreamExplainer(kind, layer, reshape_transform, batch_size, hyper)


@dataclass(frozen=True)
class Explainer:
    """A Quantus explain function; made by `explain`."""

    method: Any
    layer: str
    reshape_transform: Callable[[Tensor], Tensor] | None = None
    batch_size: int | None = None

    def __call__(
        self,
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: np.ndarray | Tensor,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Explain inputs (N, C, *S) for the given classes (N,): maps (N, 1, *S), float32 in [0, 1].

        Args:
            model: the model, left as found.
            inputs: channels first; arrays, or tensors on any device, with or without `requires_grad`.
            targets: class indices.
            device: where to explain; by default where the model is.
            kwargs: hyper-parameters, which win over those given to `explain`; the names in `QUANTUS_ARGUMENTS` are
                left alone, unless the method has one of them.

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
        targets: np.ndarray | Tensor,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the weights that the method gives to the layer's channels, (N, K); arguments as for a call.

        Raises:
            TypeError: the method does not weigh channels, or has no such hyper-parameter.
        """
        explainer = self._of_call(kwargs)
        return explainer._in_batches(explainer._weights, model, inputs, targets, device)

    def _of_call(self, given: Mapping[str, Any]) -> Explainer:
        """Return the explainer with the hyper-parameters that are given to a call."""
        kind = self.method if isinstance(self.method, type) else type(self.method)
        has = inspect.signature(kind).parameters
        hyper = {name: value for name, value in given.items() if name in has or name not in QUANTUS_ARGUMENTS}
        return self._with(hyper) if hyper else self

    def _with(self, hyper: Mapping[str, Any]) -> Explainer:
        made = {name: getattr(self.method, name) for name in inspect.signature(type(self.method)).parameters}
        return replace(self, method=type(self.method).make({**made, **hyper}))

    def _in_batches(
        self,
        function: Callable[[nn.Module, Tensor, Tensor], Tensor],
        model: nn.Module,
        inputs: np.ndarray | Tensor,
        targets: np.ndarray | Tensor,
        device: str | torch.device | None,
    ) -> np.ndarray:
        reference = reference_tensor(model)
        if reference is None:
            reference = torch.empty(0, dtype=torch.float32, device="cpu")
        x = _tensor(inputs, reference.dtype, device or reference.device)
        check_pixels(x.shape)
        if not len(x):
            raise ValueError(f"there are no inputs to explain: their shape is {tuple(x.shape)}")
        classes = _tensor(targets, device=x.device)
        if classes.shape != (len(x),):
            raise ValueError(f"expected {len(x)} targets, one for each sample; got shape {tuple(classes.shape)}")
        rows, found = rows_of_a_pass(x, self.batch_size), []
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            try:
                found.append(function(model, x[part], classes[part]).float().cpu())
            except SampleError as error:
                raise error.counted_from(first) from error
        return torch.cat(found).numpy()

    def _maps(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return self.method.maps(self._probe(model, x, target))

    def _weights(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return channel_weights(self.method)(self._probe(model, x, target))

    def _probe(self, model: nn.Module, x: Tensor, target: Tensor) -> Probe:
        return Probe(
            model,
            find_layer(model, self.layer),
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

    def _maps(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        from cam_extras.pytorch_grad_cam import upstream_maps

        layer = find_layer(model, self.layer)
        return upstream_maps(self.method, model, layer, x, target, self.reshape_transform, self.hyper)

    def _weights(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        raise TypeError(
            f"pytorch-grad-cam's {self.method.__name__} does not tell its channel weights: counterfactual sensitivity "
            "takes methods of cam_extras.methods, such as GradCAM or MIGradCAM"
        )


def _normalise_maps(attributions: np.ndarray) -> np.ndarray:
    """Bring attributions (N, C, *S) to maps (N, 1, *S) in [0, 1]: mean over channels, min-max for every sample."""
    return normalise(_mean_over_channels(attributions)).numpy()[:, None]


def _normalise_absolute_maps(attributions: np.ndarray) -> np.ndarray:
    """Bring attributions to maps by their absolute values. Quantus takes these after normalising, too late here."""
    return _normalise_maps(np.abs(attributions))


def _mean_over_channels(attributions: np.ndarray) -> Tensor:
    values = _tensor(attributions)
    return (values if values.is_floating_point() else values.float()).mean(dim=1)


def _tensor(
    values: np.ndarray | Tensor, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Tensor:
    """Return a tensor, or an array of any layout, as a tensor on a device, whatever the default device is."""
    if not isinstance(values, Tensor):
        values = np.ascontiguousarray(values)
    return torch.as_tensor(values, dtype=dtype, device=device)


def _no_explain_func(**kwargs: Any) -> np.ndarray:
    """Stand where Quantus wants a function and none was given."""
    raise ValueError("there is nothing to explain with: give an explain_func, not only an a_batch")


class MapMetric(Metric):
    """Base of the metric classes: computes what a function of `cam_extras.metrics` needs, and calls it.

    A subclass names the function in `metric`. The score of a sample does not depend on the batch it is in.

    Args:
        abs: take absolute values of the attributions, before the default `normalise_func` and after one of your own:
            for signed attributions of which large negative values count, such as those of gradients.
        normalise: bring the attributions to maps in [0, 1].
        normalise_func: how; by default mean over channels, then min-max for every sample. One of your own must leave
            values in [0, 1], and look at each sample alone if a score is not to depend on the batch.
        normalise_func_kwargs: given to `normalise_func`.
        return_aggregate: return one value for the whole set.
        aggregate_func: how; by default the mean over samples, for ADCC and HCI their value for the means of their
            parts.
        default_plot_func: used by `plot`.
        disable_warnings: whether warnings are left out.
        display_progressbar: show progress.
        options: those fields of `cam_extras.metrics.MetricOptions` that the metric depends on, such as `fill`;
            `cam_extras.metrics.options_of` names them.

    Attributes:
        details: what the last call's scores were made of, for plots; see the classes.
    """

    metric: ClassVar[str]
    kept: ClassVar[tuple[str, ...]] = ()  # names of the quantities in `details`

    data_applicability = {DataType.IMAGE, DataType.TIMESERIES}  # noqa: RUF012  (as Quantus declares it)
    model_applicability = {ModelType.TORCH}  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        """Take the name and the direction from the function's entry in `METRICS`."""
        entry = METRICS.get(getattr(cls, "metric", ""))
        if entry is not None:
            cls.name = cls.__dict__.get("name", entry.title)
            cls.score_direction = ScoreDirection.HIGHER if entry.higher_is_better else ScoreDirection.LOWER

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., np.ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        **options: Any,
    ):
        """Make the metric. `score_direction` says which way is better."""
        own = {name: options.pop(name) for name in self.option_names() if name in options}
        super().__init__(
            abs=abs,
            normalise=normalise,
            normalise_func=normalise_func or (_normalise_absolute_maps if abs else _normalise_maps),
            normalise_func_kwargs=normalise_func_kwargs,
            return_aggregate=return_aggregate,
            aggregate_func=aggregate_func or self.of_set,
            default_plot_func=default_plot_func,
            disable_warnings=disable_warnings,
            display_progressbar=display_progressbar,
            **options,  # which raises
        )
        self._set_options(own)
        self.details: dict[str, Any] = {}
        self._parts: list[dict[str, Tensor]] = []
        self._kept: list[dict[str, Any]] = []
        self._given: np.ndarray | None = None
        self._from_logits = False

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the options that the metric has besides Quantus' own."""
        return options_of(cls.metric)

    def _set_options(self, own: dict[str, Any]) -> None:
        if isinstance(own.get("fill"), np.ndarray):
            own["fill"] = _tensor(own["fill"])
        self.options = MetricOptions(**own)

    def __call__(
        self,
        model: nn.Module,
        x_batch: np.ndarray,
        y_batch: np.ndarray,
        a_batch: np.ndarray | None = None,
        s_batch: np.ndarray | None = None,
        channel_first: bool | None = None,
        explain_func: Callable[..., np.ndarray] | None = None,
        explain_func_kwargs: dict[str, Any] | None = None,
        model_predict_kwargs: dict[str, Any] | None = None,
        softmax: bool | None = True,
        device: str | None = None,
        batch_size: int = 64,
        custom_batch: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """Score explanations: one number a sample, or one in all with `return_aggregate`.

        Args:
            model: in eval mode.
            x_batch: inputs (N, C, *S), or (N, *S, C).
            y_batch: class indices (N,).
            a_batch: attributions (N, *S), or with one channel or one a channel of the input, where those of the
                input are; by default `explain_func` makes them.
            s_batch: for metrics of localisation the object's masks, (N, 1, H, W) or (N, H, W), where not 0.
            channel_first: whether channels come first; found out if None.
            explain_func: (model, inputs, targets, **kwargs) -> attributions.
            explain_func_kwargs: given to `explain_func`.
            model_predict_kwargs: given to the model.
            softmax: whether the model's output is turned into probabilities. True also for a model that ends in an
                `nn.Softmax` module, which Quantus finds; False for one whose probabilities come otherwise.
            device: where to compute.
            batch_size: how many samples at a time.
            custom_batch: for metrics of localisation the object's boxes, instead of its masks: for each sample integers
                (B, 4) of xmin, ymin, xmax, ymax, the maximum exclusive.
            kwargs: none; others raise.

        Raises:
            ValueError: the inputs have no pixels, as tables have none; a map or confidence is undefined, not finite or
                outside [0, 1], or the object is missing; samples are named by their position in `x_batch`.
                `quantus.evaluate` prints the message and then fails with a KeyError.
            TypeError: attributions are no array; or counterfactual sensitivity needs an `explain_func` with channel
                weights.
        """
        self.details, self._parts, self._kept = {}, [], []
        if "object" in self.sources() and s_batch is None and custom_batch is None:
            raise ValueError(
                f"{self.name} compares maps with the object: give its masks as s_batch, of shape (N, 1, H, W), or its "
                "boxes as custom_batch, (B, 4) for each sample"
            )
        check_pixels(np.shape(x_batch))
        if channel_first is None:
            channel_first = utils.infer_channel_first(x_batch)
        if not channel_first:  # Quantus would move the axes of the inputs alone, and explain none of them
            size = x_batch.shape[1:-1]
            if a_batch is not None and a_batch.shape[1:-1] == size:
                a_batch = np.moveaxis(a_batch, -1, 1)
            if s_batch is not None and s_batch.shape[1:-1] == size:
                s_batch = np.moveaxis(s_batch, -1, 1)
            x_batch = np.moveaxis(x_batch, -1, 1)
        # In float32, as Quantus has it, a softmax reaches 1 too soon.
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self._from_logits = bool(softmax) and bool(modules) and not isinstance(modules[-1], nn.Softmax)
        self._given = a_batch
        return super().__call__(
            model=model,
            x_batch=x_batch,
            y_batch=y_batch,
            a_batch=None,  # see custom_preprocess
            s_batch=s_batch,
            channel_first=True,
            explain_func=_no_explain_func if explain_func is None else explain_func,
            explain_func_kwargs=dict(explain_func_kwargs or {}),  # a copy: Quantus adds the device
            model_predict_kwargs=model_predict_kwargs,
            softmax=softmax and not self._from_logits,
            device=device,
            batch_size=batch_size,
            custom_batch=custom_batch,
            **kwargs,
        )

    def custom_preprocess(self, x_batch: np.ndarray, **data: Any) -> dict[str, Any] | None:
        """Bring the attributions given to maps: Quantus would refuse them where all are constant."""
        given, self._given = self._given, None
        return None if given is None else {"a_batch": self._maps_of(given, x_batch)}

    def batch_preprocess(self, data_batch: dict[str, Any]) -> dict[str, Any]:
        """Explain a batch where there are no attributions."""
        with self._counting():
            return super().batch_preprocess(data_batch)

    def explain_batch(self, model: Any, x_batch: np.ndarray, y_batch: np.ndarray) -> np.ndarray:
        """Explain a batch and bring its attributions to maps; unlike Quantus' own, where all are constant, too."""
        model = model.get_model() if isinstance(model, ModelInterface) else model
        attributions = self.explain_func(model=model, inputs=x_batch, targets=y_batch, **self.explain_func_kwargs)
        return self._maps_of(attributions, x_batch)

    def _maps_of(self, attributions: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Bring attributions (N, *S), (N, 1, *S) or (N, C, *S) to what they are to be scored as."""
        if not isinstance(attributions, np.ndarray):
            raise TypeError(f"attributions must be a numpy array; got {type(attributions).__name__}")
        forms = [(len(x), *channels, *x.shape[2:]) for channels in ((), (1,), x.shape[1:2])]
        if attributions.shape not in forms:
            raise ValueError(
                f"expected attributions of shape {' or '.join(map(str, dict.fromkeys(forms)))} for inputs of shape "
                f"{x.shape}; got {attributions.shape}"
            )
        if attributions.shape == forms[0]:
            attributions = attributions[:, None]
        if self.normalise:
            attributions = self.normalise_func(attributions.copy())  # some of Quantus' work in place
        return np.abs(attributions) if self.abs else attributions

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Name samples by their position in the data, not in the batch."""
        try:
            yield
        except SampleError as error:
            raise error.counted_from(sum(len(batch[self.metric]) for batch in self._parts)) from error

    @classmethod
    def sources(cls) -> set[str]:
        """Return what the metric takes besides the model and maps, see `cam_extras.metrics.sources_of`."""
        return sources_of(cls.metric)

    def evaluate_batch(
        self,
        model: Any,
        x_batch: np.ndarray,
        y_batch: np.ndarray,
        a_batch: np.ndarray,
        s_batch: np.ndarray | None = None,
        custom_batch: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """Score one batch of explanations."""
        x = _tensor(x_batch, torch.float32)  # what Quantus feeds to the model
        fill = self.options.fill
        if isinstance(fill, Tensor) and fill.ndim == x.ndim and len(fill) > 1:
            raise ValueError(f"fill must be the same for every sample; got shape {tuple(fill.shape)}")
        known: dict[str, Any] = {}
        if "object" in self.sources():
            if s_batch is not None:
                known["masks"] = _object_masks(s_batch, x)
            if custom_batch is not None:
                known["boxes"] = [_tensor(boxes) for boxes in custom_batch]
        with self._counting():
            explained = _Explained(self, model, x, y_batch, _mean_over_channels(a_batch))
            quantities = Quantities(explained, self.options, **known)
            scores = self._scores(quantities)
        self._parts.append(scores)
        self._kept.append({name: quantities[name] for name in self.kept})
        return scores[self.metric].tolist()

    def _scores(self, quantities: Quantities) -> dict[str, Tensor]:
        return quantities.scores([self.metric])

    def custom_postprocess(self, **data: Any) -> None:
        """Put together the details of all batches."""
        self.details = {name: _together([batch[name] for batch in self._kept]) for name in self.kept}
        self._kept = []

    def of_set(self, scores: list[float]) -> float:
        """Return the value of the set evaluated last; for ADCC and HCI that of the means of their parts."""
        parts = {name: torch.cat([batch[name] for batch in self._parts]) for name in self._parts[0]}
        return METRICS[self.metric].of_set(parts)

    def channel_weights(self, model: nn.Module, x: Tensor, y: np.ndarray) -> Tensor:
        """Return the channel weights of the call's explain function for inputs, shape (N, K)."""
        if self.explain_func is _no_explain_func:
            _no_explain_func()
        function = getattr(self.explain_func, "channel_weights", None)
        if function is None:
            raise TypeError(
                f"{self.name} looks at channel weights, which this explain_func does not have: give one made by "
                "cam_extras.quantus.explain of a method that weighs channels, such as GradCAM or MIGradCAM"
            )
        return _tensor(function(model=model, inputs=x.clone().numpy(), targets=y, **self.explain_func_kwargs))


class _Explained(Explained):
    """A batch as Quantus hands it over, for `Quantities`. It gives copies away: others may work in place."""

    def __init__(self, metric: MapMetric, model: Any, x: Tensor, y: np.ndarray, maps: Tensor | None = None):
        self.x, self.target = x, _tensor(y)
        self._metric, self._model, self._y, self._maps = metric, model, y, maps

    @cached_property
    def probabilities(self) -> Tensor:
        return self.probabilities_of(self.x)

    @cached_property
    def maps(self) -> Tensor:
        if self._maps is not None:
            return self._maps
        return _mean_over_channels(self._metric.explain_batch(self._model, self.x.clone().numpy(), self._y))

    @cached_property
    def channel_weights(self) -> Tensor:
        return self._metric.channel_weights(self._model.get_model(), self.x, self._y)

    def at(self, x: Tensor) -> Explained:
        return _Explained(self._metric, self._model, x, self._y)

    def probabilities_of(self, images: Tensor) -> Tensor:
        outputs = torch.from_numpy(self._model.predict(images.clone().numpy()))
        check_class_scores(outputs)
        return outputs.double().softmax(dim=1) if self._metric._from_logits else outputs.double()


def _object_masks(s_batch: np.ndarray, x: Tensor) -> Tensor:
    """Return masks (N, 1, *S) or (N, *S) of numbers as booleans (N, *S)."""
    masks = _tensor(s_batch)
    check_finite("the mask of the object", masks)
    masks = masks != 0
    if masks.ndim == x.ndim and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"expected masks s_batch of shape {(len(x), 1, *x.shape[2:])} for inputs of shape {tuple(x.shape)}; "
            f"got {s_batch.shape}"
        )
    return masks


def _together(batches: list[Any]) -> Any:
    if isinstance(batches[0], Curve):
        return Curve(batches[0].fractions, torch.cat([curve.scores for curve in batches]))
    return torch.cat(batches)


class AverageDrop(MapMetric):
    """Average drop: see `cam_extras.metrics.average_drop`."""

    metric = "average_drop"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class IncreaseInConfidence(MapMetric):
    """Increase in confidence: see `cam_extras.metrics.increase_in_confidence`."""

    metric = "increase_in_confidence"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class AverageGain(MapMetric):
    """Average gain: see `cam_extras.metrics.average_gain`."""

    metric = "average_gain"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class DropInDeletion(MapMetric):
    """Drop in deletion: see `cam_extras.metrics.drop_in_deletion`."""

    metric = "drop_in_deletion"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class Coherency(MapMetric):
    """Coherency: see `cam_extras.metrics.coherency`; needs an `explain_func`."""

    metric = "coherency"
    evaluation_category = EvaluationCategory.ROBUSTNESS


class Complexity(MapMetric):
    """Complexity: see `cam_extras.metrics.complexity`."""

    metric = "complexity"
    name = "Complexity (mean of the map)"  # Quantus has another
    evaluation_category = EvaluationCategory.COMPLEXITY


class ADCC(MapMetric):
    """ADCC: see `cam_extras.metrics.adcc`; needs an `explain_func`.

    Scores are per sample. `return_aggregate=True` gives the ADCC of the means of the parts, which the papers' tables
    print; with `aggregate_func=numpy.mean` the mean of the per-sample values.
    """

    metric = "adcc"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class ThresholdedDrop(MapMetric):
    """Thresholded drop: see `cam_extras.metrics.thresholded_drop`; options `fill` and `threshold`."""

    metric = "thresholded_drop"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class ThresholdedIncrease(MapMetric):
    """Thresholded increase: see `cam_extras.metrics.thresholded_increase`.

    Options `fill`, `threshold` and `baseline`.
    """

    metric = "thresholded_increase"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class HCI(MapMetric):
    """HCI: see `cam_extras.metrics.hci`; options `fill`, `threshold` and `baseline`.

    Scores are per sample. `return_aggregate=True` gives the HCI of the means of the parts, which the papers' tables
    print; with `aggregate_func=numpy.mean` the mean of the per-sample values.
    """

    metric = "hci"
    evaluation_category = EvaluationCategory.FAITHFULNESS


class Insertion(MapMetric):
    """Insertion: see `cam_extras.metrics.insertion`; options `schedule` and `internal_batch_size`.

    After a call `details["insertion_curve"]` is what the scores are the area under.
    """

    metric = "insertion"
    kept = ("insertion_curve",)
    evaluation_category = EvaluationCategory.FAITHFULNESS


class Deletion(MapMetric):
    """Deletion: see `cam_extras.metrics.deletion`; options `schedule` and `internal_batch_size`.

    After a call `details["deletion_curve"]` is what the scores are the area under.
    """

    metric = "deletion"
    kept = ("deletion_curve",)
    evaluation_category = EvaluationCategory.FAITHFULNESS


class InsertionDeletion(MapMetric):
    """Insertion minus deletion: see `cam_extras.metrics.insertion_deletion`.

    Options `schedule` and `internal_batch_size`. After a call `details["insertion_curve"]` and
    `details["deletion_curve"]` are what the scores are the areas under.
    """

    metric = "insertion_deletion"
    kept = ("insertion_curve", "deletion_curve")
    evaluation_category = EvaluationCategory.FAITHFULNESS


class ImageMetric(MapMetric):
    """Base of the metrics that look at boxes in images."""

    data_applicability = {DataType.IMAGE}  # noqa: RUF012
    evaluation_category = EvaluationCategory.LOCALISATION


class PointingGame(ImageMetric):
    """Pointing game: see `cam_extras.metrics.pointing_game`; option `ties`."""

    metric = "pointing_game"
    name = "Pointing Game (one maximum)"  # Quantus has another


class EnergyPointingGame(ImageMetric):
    """Energy pointing game: see `cam_extras.metrics.energy_pointing_game`."""

    metric = "energy_pointing_game"


class PixelF1(ImageMetric):
    """Pixel F1: see `cam_extras.metrics.pixel_f1`."""

    metric = "pixel_f1"


class LocalisationError(ImageMetric):
    """Localisation error: see `cam_extras.metrics.localisation_error`."""

    metric = "localisation_error"


class OfficialMetric(ImageMetric):
    """Official metric: see `cam_extras.metrics.official_metric`."""

    metric = "official_metric"


class SaliencyMetric(ImageMetric):
    """Saliency metric: see `cam_extras.metrics.saliency_metric`."""

    metric = "saliency_metric"


class CounterfactualSensitivity(MapMetric):
    """Counterfactual sensitivity: see `cam_extras.metrics.counterfactual_sensitivity`.

    Needs an `explain_func` with channel weights: `explain` of a method that has them. Options `delta`, `fraction`,
    `seed` and `most_important`. After a call `details["weights"]` and `details["counterfactual_weights"]` are the
    channel weights (N, K) of x and of its counterfactual, for the paper's plot of the two over channels.
    """

    metric = "counterfactual_sensitivity"
    kept = ("weights", "counterfactual_weights")
    evaluation_category = EvaluationCategory.ROBUSTNESS


class BoxAccuracy(ImageMetric):
    """Box accuracy: see `cam_extras.metrics.box_accuracy`, whose options it has.

    The score of a sample is the share of overlaps at which its box is accurate, for each at the threshold that is best
    for the whole set; `return_aggregate=True` gives their mean, MaxBoxAcc. `details["hits"]` (N, T, D) are the
    accuracies at all thresholds and overlaps.
    """

    name = "Box Accuracy"
    metric = "box_accuracy"
    score_direction = ScoreDirection.HIGHER

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the options that the metric has besides Quantus' own."""
        return ["thresholds", "overlaps", "components"]

    @classmethod
    def sources(cls) -> set[str]:
        """Return what the metric takes besides the model and maps."""
        return {"object"}

    def _set_options(self, own: dict[str, Any]) -> None:
        self.options = MetricOptions()
        self.box_options = own

    def _scores(self, quantities: Quantities) -> dict[str, Tensor]:
        return {self.metric: box_accuracy(quantities["maps"], quantities["boxes"], **self.box_options)}

    def evaluate_batch(self, *args: Any, **kwargs: Any) -> list[float]:
        """Look at one batch; the scores come when the best thresholds of the set are known."""
        return [0.0] * len(super().evaluate_batch(*args, **kwargs))

    def custom_postprocess(self, **data: Any) -> None:
        """Score all samples."""
        self.details, self._parts = {"hits": torch.cat([batch[self.metric] for batch in self._parts])}, []
        self.evaluation_scores = best_box_accuracy(self.details["hits"]).tolist()

    def of_set(self, scores: list[float]) -> float:
        """Return MaxBoxAcc of the set evaluated last."""
        return max_box_accuracy(self.details["hits"]).item()


METRIC_CLASSES: tuple[type[MapMetric], ...] = (
    AverageDrop,
    IncreaseInConfidence,
    AverageGain,
    DropInDeletion,
    Coherency,
    Complexity,
    ADCC,
    ThresholdedDrop,
    ThresholdedIncrease,
    HCI,
    Insertion,
    Deletion,
    InsertionDeletion,
    PointingGame,
    EnergyPointingGame,
    PixelF1,
    LocalisationError,
    OfficialMetric,
    BoxAccuracy,
    SaliencyMetric,
    CounterfactualSensitivity,
)


def win_percentage(drops: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return for each method the share of samples on which its average drop is the least, ties shared.

    Args:
        drops: for each method the scores of `AverageDrop`, without `return_aggregate`, of the same samples.

    Raises:
        ValueError: there are not two or more methods, they have different numbers of samples or none, or a drop is not
            finite: method and sample are named.

    >>> win_percentage({"GradCAM": [0.1, 0.2], "OptiCAM": [0.3, 0.2]})
    {'GradCAM': 0.75, 'OptiCAM': 0.25}
    """
    counts = {name: len(scores) for name, scores in drops.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected drops of the same samples for every method; got {counts}")
    rows = {name: torch.as_tensor(scores, dtype=torch.float64) for name, scores in drops.items()}
    for name, row in rows.items():
        check_finite(f"the drop of {name}", row)
    wins = _win_percentage(torch.stack(list(rows.values())) if rows else torch.zeros(0, 0))
    return dict(zip(drops, wins.mean(dim=1).tolist(), strict=True))


def register() -> None:
    """List the metrics in `quantus.AVAILABLE_METRICS`, under their categories.

    Raises:
        ValueError: a class of somebody else's is listed under the same name; nothing is changed.
    """
    for cls in METRIC_CLASSES:
        other = quantus.AVAILABLE_METRICS[cls.evaluation_category.value].get(cls.name)
        if other is not None and other.__module__ != __name__:
            raise ValueError(
                f"quantus.AVAILABLE_METRICS has {cls.name!r} already, {other.__module__}.{other.__name__}: take that "
                f"out before {__name__} is imported"
            )
    for cls in METRIC_CLASSES:
        quantus.AVAILABLE_METRICS[cls.evaluation_category.value][cls.name] = cls


def unregister() -> None:
    """Take the metrics out of `quantus.AVAILABLE_METRICS`."""
    for cls in METRIC_CLASSES:
        listed = quantus.AVAILABLE_METRICS[cls.evaluation_category.value]
        if listed.get(cls.name) is cls:
            del listed[cls.name]


register()
