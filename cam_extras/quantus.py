"""Front end for Quantus: the metrics as `quantus.metrics.base.Metric` classes, the methods as explain functions.

>>> from cam_extras.quantus import AverageDrop, explain
>>> explain_func = explain("ShapleyCAM", layer="layer4")

Importing this module lists the metrics in `quantus.AVAILABLE_METRICS`; `unregister()` undoes it, `register()` does it
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import quantus
import torch
from quantus.helpers import utils
from quantus.helpers.enums import DataType, EvaluationCategory, ModelType, ScoreDirection
from quantus.metrics.base import Metric
from torch import Tensor, nn

from cam_extras._checks import SampleError, check_class_scores, check_name
from cam_extras.maps import input_map, normalise
from cam_extras.methods import METHODS, Method
from cam_extras.metrics import METRICS, Quantities
from cam_extras.probe import Probe, find_layer, reference_tensor
from cam_extras.scores import select_class


def explain(
    name: str,
    *,
    layer: str,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    **hyper: Any,
) -> Explainer:
    """Return a method as a Quantus explain function: (model, inputs, targets) -> maps (N, 1, *S) in [0, 1].

    Args:
        name: key of `cam_extras.methods.METHODS`.
        layer: dotted name of the layer, looked up on the model of every call: Quantus' randomisation metrics explain
            changed copies of the model, and a layer bound beforehand would belong to the wrong one.
        reshape_transform: makes a feature map (N, C, *S) of the layer's output, for transformers.
        batch_size: how many samples to explain at a time; `quantus.evaluate` hands over the whole data set at once.
        hyper: the method's hyper-parameters.

    Raises:
        ValueError: there is no method of that name.
        TypeError: the method has no such hyper-parameter.
    """
    check_name("method", name, METHODS)
    return Explainer(METHODS[name].make(hyper), layer, reshape_transform, batch_size)


@dataclass(frozen=True)
class Explainer:
    """A Quantus explain function; made by `explain`."""

    method: Method
    layer: str
    reshape_transform: Callable[[Tensor], Tensor] | None = None
    batch_size: int = 64

    def __call__(
        self,
        model: nn.Module,
        inputs: np.ndarray,
        targets: np.ndarray,
        device: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Explain inputs (N, C, *S) for the given classes (N,): maps (N, 1, *S), float32 in [0, 1].

        Args:
            model: the model, left as found.
            inputs: channels first.
            targets: class indices.
            device: where to explain; by default where the model is.
            kwargs: not used. `quantus.evaluate` hands over the name that the method has in its results, and the
                arguments meant for other explain functions of the same call.

        Raises:
            ValueError: the model has no layer of that name; or see `Probe`.
        """
        reference = reference_tensor(model)
        if reference is None:
            reference = torch.empty(0, dtype=torch.float32, device="cpu")
        x = torch.as_tensor(np.ascontiguousarray(inputs), dtype=reference.dtype, device=device or reference.device)
        classes = torch.as_tensor(targets, device=x.device)
        layer = find_layer(model, self.layer)
        maps = []
        for batch, target in zip(x.split(self.batch_size), classes.split(self.batch_size), strict=True):
            probe = Probe(
                model,
                layer,
                batch,
                target=target,
                reshape_transform=self.reshape_transform,
                second_order=self.method.second_order,
            )
            maps.append(input_map(self.method(probe), tuple(x.shape[2:])).float().cpu())
        return torch.cat(maps)[:, None].numpy()


def _normalise_maps(attributions: np.ndarray) -> np.ndarray:
    """Bring attributions (N, C, *S) to maps (N, 1, *S) in [0, 1]: mean over channels, min-max for every sample."""
    return normalise(_mean_over_channels(attributions)).numpy()[:, None]


def _normalise_absolute_maps(attributions: np.ndarray) -> np.ndarray:
    """Bring attributions to maps by their absolute values. Quantus takes these after normalising, too late here."""
    return _normalise_maps(np.abs(attributions))


def _mean_over_channels(attributions: np.ndarray) -> Tensor:
    values = torch.as_tensor(np.ascontiguousarray(attributions))
    return (values if values.is_floating_point() else values.float()).mean(dim=1)


class MapMetric(Metric):
    """Base of the metric classes: computes what a function of `cam_extras.metrics` needs, and calls it.

    A subclass names the function in `metric`. The score of a sample does not depend on the batch it is in.

    Args:
        abs: take absolute values of the attributions, before the default `normalise_func` and after one of your own.
        normalise: bring the attributions to maps in [0, 1].
        normalise_func: how; by default mean over channels, then min-max for every sample.
        normalise_func_kwargs: given to `normalise_func`.
        return_aggregate: return one value for the whole set.
        aggregate_func: how; by default the mean over samples, for ADCC the ADCC of the means.
        default_plot_func: used by `plot`.
        disable_warnings: whether warnings are left out.
        display_progressbar: show progress.
        fill: what stands where a map is 0, see `cam_extras.maps.mask`; the same for every sample.
    """

    metric: ClassVar[str]

    data_applicability = {DataType.IMAGE, DataType.TIMESERIES}  # noqa: RUF012  (as Quantus declares it)
    model_applicability = {ModelType.TORCH}  # noqa: RUF012

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
        fill: float | np.ndarray = 0.0,
        **kwargs: Any,
    ):
        """Make the metric. Scores lie in [0, 1]; `score_direction` says which way is better."""
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
            **kwargs,
        )
        self.fill = fill
        self._parts: list[dict[str, Tensor]] = []

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
        custom_batch: Any = None,
        **kwargs: Any,
    ) -> list[float]:
        """Score explanations: one number a sample, or one in all with `return_aggregate`.

        Args:
            model: in eval mode.
            x_batch: inputs (N, C, *S), or (N, *S, C).
            y_batch: class indices (N,).
            a_batch: attributions (N, *S), or with one channel or one a channel of the input, where those of the
                input are; by default `explain_func` makes them.
            s_batch: not used.
            channel_first: whether channels come first; found out if None.
            explain_func: (model, inputs, targets, **kwargs) -> attributions.
            explain_func_kwargs: given to `explain_func`.
            model_predict_kwargs: given to the model.
            softmax: whether the model's output is turned into probabilities. True also for a model that ends in an
                `nn.Softmax` module, which Quantus finds; False for one whose probabilities come otherwise.
            device: where to compute.
            batch_size: how many samples at a time.
            custom_batch: not used.
            kwargs: none; others raise.

        Raises:
            ValueError: a map or confidence is undefined, not finite or outside [0, 1]; samples are named by their
                position in `x_batch`. `quantus.evaluate` prints the message and then fails with a KeyError.
        """
        self._parts = []
        if channel_first is None:
            channel_first = utils.infer_channel_first(x_batch)
        if not channel_first:  # Quantus would move the axes of the inputs alone, and explain none of them
            if a_batch is not None and a_batch.ndim == x_batch.ndim:
                a_batch = np.moveaxis(a_batch, -1, 1)
            x_batch = np.moveaxis(x_batch, -1, 1)
        return super().__call__(
            model=model,
            x_batch=x_batch,
            y_batch=y_batch,
            a_batch=a_batch,
            s_batch=s_batch,
            channel_first=True,
            explain_func=explain_func,
            explain_func_kwargs=dict(explain_func_kwargs or {}),  # a copy: Quantus adds the device
            model_predict_kwargs=model_predict_kwargs,
            softmax=softmax,
            device=device,
            batch_size=batch_size,
            custom_batch=custom_batch,
            **kwargs,
        )

    def evaluate_batch(
        self, model: Any, x_batch: np.ndarray, y_batch: np.ndarray, a_batch: np.ndarray, **kwargs: Any
    ) -> list[float]:
        """Score one batch of explanations."""
        x = torch.as_tensor(np.ascontiguousarray(x_batch), dtype=torch.float32)  # what Quantus feeds to the model
        fill = torch.as_tensor(self.fill)
        if fill.ndim == x.ndim and len(fill) > 1:
            raise ValueError(f"fill must be the same for every sample; got shape {tuple(fill.shape)}")
        targets = torch.as_tensor(y_batch)

        # Copies: models and explain functions may work in place.
        def confidence(x: Tensor) -> Tensor:
            probabilities = torch.from_numpy(model.predict(x.clone().numpy()))
            check_class_scores(probabilities)
            return select_class(probabilities, targets)

        def explain_again(x: Tensor) -> Tensor:
            return _mean_over_channels(self._explain(model.get_model(), x.clone().numpy(), y_batch))

        try:
            quantities = Quantities(x, _mean_over_channels(a_batch), confidence, explain_again, fill)
            scores = quantities.scores([self.metric])
        except SampleError as error:
            raise error.counted_from(sum(len(batch[self.metric]) for batch in self._parts)) from error
        self._parts.append(scores)
        return scores[self.metric].tolist()

    def of_set(self, scores: list[float]) -> float:
        """Return the value of the set evaluated last; for ADCC that of the means of its parts."""
        parts = {name: torch.cat([batch[name] for batch in self._parts]) for name in self._parts[0]}
        return METRICS[self.metric].of_set(parts)

    def _explain(self, model: nn.Module, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.explain_func is None:
            raise ValueError(f"{self.name} explains masked inputs: give an explain_func, not only an a_batch")
        # Not explain_batch: it refuses a batch whose maps are all constant, for which coherency is defined as 0.
        attributions = self.explain_func(model=model, inputs=x, targets=y, **self.explain_func_kwargs)
        attributions = utils.expand_attribution_channel(attributions, x)
        if self.normalise:
            attributions = self.normalise_func(attributions)
        return np.abs(attributions) if self.abs else attributions


class AverageDrop(MapMetric):
    """Average drop: see `cam_extras.metrics.average_drop`."""

    name = "Average Drop"
    metric = "average_drop"
    score_direction = ScoreDirection.LOWER
    evaluation_category = EvaluationCategory.FAITHFULNESS


class IncreaseInConfidence(MapMetric):
    """Increase in confidence: see `cam_extras.metrics.increase_in_confidence`."""

    name = "Increase in Confidence"
    metric = "increase_in_confidence"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.FAITHFULNESS


class AverageGain(MapMetric):
    """Average gain: see `cam_extras.metrics.average_gain`."""

    name = "Average Gain"
    metric = "average_gain"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.FAITHFULNESS


class DropInDeletion(MapMetric):
    """Drop in deletion: see `cam_extras.metrics.drop_in_deletion`."""

    name = "Drop in Deletion"
    metric = "drop_in_deletion"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.FAITHFULNESS


class Coherency(MapMetric):
    """Coherency: see `cam_extras.metrics.coherency`; needs an `explain_func`."""

    name = "Coherency"
    metric = "coherency"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.ROBUSTNESS


class Complexity(MapMetric):
    """Complexity: see `cam_extras.metrics.complexity`."""

    name = "Complexity (mean of the map)"
    metric = "complexity"
    score_direction = ScoreDirection.LOWER
    evaluation_category = EvaluationCategory.COMPLEXITY


class ADCC(MapMetric):
    """ADCC: see `cam_extras.metrics.adcc`; needs an `explain_func`.

    Scores are per sample. `return_aggregate=True` gives the ADCC of the means of the parts, which the papers' tables
    print; with `aggregate_func=numpy.mean` the mean of the per-sample values.
    """

    name = "ADCC"
    metric = "adcc"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.FAITHFULNESS


METRIC_CLASSES: tuple[type[MapMetric], ...] = (
    AverageDrop,
    IncreaseInConfidence,
    AverageGain,
    DropInDeletion,
    Coherency,
    Complexity,
    ADCC,
)


def register() -> None:
    """List the metrics in `quantus.AVAILABLE_METRICS`, under their categories."""
    for cls in METRIC_CLASSES:
        quantus.AVAILABLE_METRICS[cls.evaluation_category.value][cls.name] = cls


def unregister() -> None:
    """Take the metrics out of `quantus.AVAILABLE_METRICS`."""
    for cls in METRIC_CLASSES:
        quantus.AVAILABLE_METRICS[cls.evaluation_category.value].pop(cls.name, None)


register()
