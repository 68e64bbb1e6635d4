"""Front end for Quantus: the metrics as `quantus.metrics.base.Metric` classes, the methods as explain functions.

>>> from cam_extras.quantus import AverageDrop, explain
>>> explain_func = explain("ShapleyCAM", layer="layer4")

There is a class for every metric in `cam_extras.metrics.METRICS`, named after its title. Importing this module lists
them in `quantus.AVAILABLE_METRICS`; `unregister()` removes them, `register()` adds them again. The class of your own
metric is made when first accessed.
"""

# Written by tools/generate.py: run that after changing a metric's options, title or docstring.

from collections.abc import Callable, Sequence
from typing import Any, Literal

from numpy import ndarray
from torch import Tensor

from cam_extras._outputs import Output
from cam_extras.metrics.insertion_and_deletion import Schedule
from cam_extras.metrics.probabilities import AnyConfidence
from cam_extras.quantus._classes import METRIC_CLASSES as METRIC_CLASSES
from cam_extras.quantus._classes import register as register
from cam_extras.quantus._classes import unregister as unregister
from cam_extras.quantus._classes import win_percentage as win_percentage
from cam_extras.quantus._explain import QUANTUS_ARGUMENTS as QUANTUS_ARGUMENTS
from cam_extras.quantus._explain import Explainer as Explainer
from cam_extras.quantus._explain import UpstreamExplainer as UpstreamExplainer
from cam_extras.quantus._explain import explain as explain
from cam_extras.quantus._metric import MapMetric as MapMetric

METHODS: dict[str, type]

class AverageDrop(MapMetric):
    """Average Drop: see `cam_extras.metrics.average_drop`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class IncreaseInConfidence(MapMetric):
    """Increase in Confidence: see `cam_extras.metrics.increase_in_confidence`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class AverageGain(MapMetric):
    """Average Gain: see `cam_extras.metrics.average_gain`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class DropInDeletion(MapMetric):
    """Drop in Deletion: see `cam_extras.metrics.drop_in_deletion`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class Coherency(MapMetric):
    """Coherency: see `cam_extras.metrics.coherency`.

    It also explains modified inputs, so it needs an `explain_func`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class Complexity(MapMetric):
    """Complexity: see `cam_extras.metrics.complexity`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class ADCC(MapMetric):
    """ADCC: see `cam_extras.metrics.adcc`.

    It also explains modified inputs, so it needs an `explain_func`.

    Scores are per sample. `return_aggregate=True` gives the ADCC of the means of the parts, which the papers'
    tables print; with `aggregate_func=numpy.mean` the mean of the per-sample values.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
    ) -> None: ...

class ThresholdedDrop(MapMetric):
    """Thresholded Drop: see `cam_extras.metrics.thresholded_drop`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
        threshold: pixels are shown where the map reaches this value, in [0, 1]. By default 0.5.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
        threshold: float = 0.5,
    ) -> None: ...

class ThresholdedIncrease(MapMetric):
    """Thresholded Increase: see `cam_extras.metrics.thresholded_increase`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
        threshold: pixels are shown where the map reaches this value, in [0, 1]. By default 0.5.
        baseline: what the pixels above the threshold are compared with: "fill", an image filled with `fill`, as in
            the paper, or "complement", the pixels where the map is 0, as in the authors' code. By default 'fill'.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
        threshold: float = 0.5,
        baseline: Literal["fill", "complement"] = "fill",
    ) -> None: ...

class HCI(MapMetric):
    """HCI: see `cam_extras.metrics.hci`.

    Scores are per sample. `return_aggregate=True` gives the HCI of the means of the parts, which the papers' tables
    print; with `aggregate_func=numpy.mean` the mean of the per-sample values.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
        threshold: pixels are shown where the map reaches this value, in [0, 1]. By default 0.5.
        baseline: what the pixels above the threshold are compared with: "fill", an image filled with `fill`, as in
            the paper, or "complement", the pixels where the map is 0, as in the authors' code. By default 'fill'.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
        threshold: float = 0.5,
        baseline: Literal["fill", "complement"] = "fill",
    ) -> None: ...

class Insertion(MapMetric):
    """Insertion: see `cam_extras.metrics.insertion`.

    After a call `details['insertion_curve']` is what the scores are made of.

    Args:
        schedule: how many pixels change per step, and what replaces the image's pixels: a key of PRESETS or a
            Schedule. By default 'rise'.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        schedule: Literal["rise", "mi"] | Schedule = "rise",
        internal_batch_size: int | None = None,
    ) -> None: ...

class Deletion(MapMetric):
    """Deletion: see `cam_extras.metrics.deletion`.

    After a call `details['deletion_curve']` is what the scores are made of.

    Args:
        schedule: how many pixels change per step, and what replaces the image's pixels: a key of PRESETS or a
            Schedule. By default 'rise'.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        schedule: Literal["rise", "mi"] | Schedule = "rise",
        internal_batch_size: int | None = None,
    ) -> None: ...

class InsertionDeletion(MapMetric):
    """Insertion - Deletion: see `cam_extras.metrics.insertion_deletion`.

    After a call `details['insertion_curve']` and `details['deletion_curve']` are what the scores are made of.

    Args:
        schedule: how many pixels change per step, and what replaces the image's pixels: a key of PRESETS or a
            Schedule. By default 'rise'.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        schedule: Literal["rise", "mi"] | Schedule = "rise",
        internal_batch_size: int | None = None,
    ) -> None: ...

class ROAD(MapMetric):
    """ROAD: see `cam_extras.metrics.road`.

    Args:
        road_percentiles: per cent of the pixels that are kept. By default (10, 20, 30, 40, 50, 60, 70, 80, 90).
        road_noise: standard deviation of the noise added to imputed pixels. By default 0.01.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        road_percentiles: Sequence[float] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        road_noise: float = 0.01,
        internal_batch_size: int | None = None,
    ) -> None: ...

class ARCC(MapMetric):
    """ARCC: see `cam_extras.metrics.arcc`.

    It also explains modified inputs, so it needs an `explain_func`.

    Args:
        fill: value where a map is 0, in the model's input space: a number, or a tensor that broadcasts to the
            input, such as cam_extras.maps.black(mean, std). By default 0.0.
        arcc_percentiles: per cent of the pixels that are kept. By default (20, 40, 60, 80).
        road_noise: standard deviation of the noise added to imputed pixels. By default 0.01.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        fill: float | Tensor = 0.0,
        arcc_percentiles: Sequence[float] = (20, 40, 60, 80),
        road_noise: float = 0.01,
        internal_batch_size: int | None = None,
    ) -> None: ...

class SaCo(MapMetric):
    """SaCo: see `cam_extras.metrics.saco`.

    Args:
        groups: groups of pixels that are compared. By default 10.
        internal_batch_size: most images in a forward pass; None for the best value on the device. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        groups: int = 10,
        internal_batch_size: int | None = None,
    ) -> None: ...

class BoxAccuracy(MapMetric):
    """Box Accuracy: see `cam_extras.metrics.box_accuracy`.

    The score of a sample is one number, which depends on the whole set; `return_aggregate=True` gives their mean.
    After a call `details['hits']` has all numbers, (N, ...).

    Args:
        thresholds: T values of eta, in [0, 1], at which maps are cut. By default (0.0, 0.01, 0.02, ..., 0.99).
        overlaps: D values of delta, in (0, 1]: the overlap that boxes must reach. By default (0.3, 0.5, 0.7).
        components: whether only the box of the largest component counts, or that of any. By default 'largest'.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        thresholds: Sequence[float] = ...,
        overlaps: Sequence[float] = (0.3, 0.5, 0.7),
        components: Literal["largest", "all"] = "largest",
    ) -> None: ...

class PointingGame(MapMetric):
    """Pointing Game: see `cam_extras.metrics.pointing_game`.

    Args:
        ties: which of several maxima counts: the "first", row by row, or "any": a hit if one of them lies on the
            object. By default 'first'.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        ties: Literal["first", "any"] = "first",
    ) -> None: ...

class EnergyPointingGame(MapMetric):
    """Energy Pointing Game: see `cam_extras.metrics.energy_pointing_game`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class PixelF1(MapMetric):
    """Pixel F1: see `cam_extras.metrics.pixel_f1`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class LocalisationError(MapMetric):
    """Localisation Error: see `cam_extras.metrics.localisation_error`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class OfficialMetric(MapMetric):
    """Official Metric: see `cam_extras.metrics.official_metric`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class SaliencyMetric(MapMetric):
    """Saliency Metric: see `cam_extras.metrics.saliency_metric`."""

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
    ) -> None: ...

class CounterfactualSensitivity(MapMetric):
    """Counterfactual Sensitivity: see `cam_extras.metrics.counterfactual_sensitivity`.

    It also explains modified inputs, so it needs an `explain_func`.

    After a call `details['weights']` and `details['counterfactual_weights']` are what the scores are made of.

    Args:
        delta: what is added to the changed pixels, in the model's input space. By default 0.1.
        fraction: share of the pixels to change, in (0, 1]. By default 0.5.
        seed: seed for random numbers. By default 0.
        most_important: how many of the most important channels count; None for all. By default None.
    """

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        delta: float = 0.1,
        fraction: float = 0.5,
        seed: int = 0,
        most_important: int | None = None,
    ) -> None: ...
