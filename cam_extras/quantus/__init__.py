"""Front end for Quantus: the metrics as `quantus.metrics.base.Metric` classes, the methods as explain functions.

>>> from cam_extras.quantus import AverageDrop, explain
>>> explain_func = explain("ShapleyCAM", layer="layer4")

Importing this module lists the metrics in `quantus.AVAILABLE_METRICS`; `unregister()` undoes it, `register()` does it
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import quantus
import torch
from quantus.helpers.enums import DataType, EvaluationCategory, ScoreDirection
from torch import Tensor

from cam_extras._checks import check_finite
from cam_extras.metrics import (
    MetricOptions,
    Quantities,
    best_box_accuracy,
    box_accuracy,
    max_box_accuracy,
)
from cam_extras.metrics import (
    win_percentage as _win_percentage,
)
from cam_extras.quantus._explain import QUANTUS_ARGUMENTS as QUANTUS_ARGUMENTS
from cam_extras.quantus._explain import Explainer as Explainer
from cam_extras.quantus._explain import UpstreamExplainer as UpstreamExplainer
from cam_extras.quantus._explain import all_methods
from cam_extras.quantus._explain import explain as explain
from cam_extras.quantus._metric import MapMetric as MapMetric


def __getattr__(name: str) -> Any:
    """Make `METHODS`, name -> class, when it is first asked for: pytorch-grad-cam is imported only then."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return all_methods()


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
