"""The metrics: one file per family, pure tensor functions (N, ...) -> (N,), listed by name in `METRICS`.

>>> METRICS["average_drop"].title, METRICS["average_drop"].arrow
('Average Drop', '↓')
"""

# METRICS lists the families in import order; those that others build on come first.
# isort: off
from cam_extras.metrics.base import (
    METRICS,
    QUANTITIES,
    Metric,
    Option,
    Quantity,
    Vector,
    metric,
    options_of,
    quantities_of,
    quantity,
    sources_of,
    with_parts,
)
from cam_extras.metrics.options import MetricOptions, Options, as_options
from cam_extras.metrics.quantities import Explained, Quantities
from cam_extras.metrics.probabilities import probabilities
from cam_extras.metrics.confidence import average_drop, average_gain, drop_in_deletion, increase_in_confidence
from cam_extras.metrics.adcc import adcc, coherency, complexity
from cam_extras.metrics.hci import hci, threshold_mask, thresholded_drop, thresholded_increase, win_percentage
from cam_extras.metrics.insertion_and_deletion import (
    Blur,
    Curve,
    Schedule,
    deletion,
    deletion_curve,
    insertion,
    insertion_curve,
    insertion_deletion,
)
from cam_extras.metrics.road import arcc, impute, road
from cam_extras.metrics.saco import saco
from cam_extras.metrics._boxes import box_mask, component_boxes, crop_boxes, predicted_boxes
from cam_extras.metrics.localisation import (
    box_study,
    energy_pointing_game,
    localisation_error,
    official_metric,
    pixel_f1,
    pointing_game,
    saliency_metric,
    selectivity,
)
from cam_extras.metrics.box_accuracy import best_box_accuracy, box_accuracy, max_box_accuracy
from cam_extras.metrics.counterfactual import counterfactual, counterfactual_sensitivity
from cam_extras.metrics.named import as_metrics
# isort: on

# Metrics that work for every method, at five forward passes per batch at most.
DEFAULT_METRICS = (
    "average_drop",
    "increase_in_confidence",
    "average_gain",
    "drop_in_deletion",
    "coherency",
    "complexity",
    "adcc",
    "thresholded_drop",
    "thresholded_increase",
    "hci",
)

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "QUANTITIES",
    "Blur",
    "Curve",
    "Explained",
    "Metric",
    "MetricOptions",
    "Option",
    "Options",
    "Quantities",
    "Quantity",
    "Schedule",
    "Vector",
    "adcc",
    "arcc",
    "as_metrics",
    "as_options",
    "average_drop",
    "average_gain",
    "best_box_accuracy",
    "box_accuracy",
    "box_mask",
    "box_study",
    "coherency",
    "complexity",
    "component_boxes",
    "counterfactual",
    "counterfactual_sensitivity",
    "crop_boxes",
    "deletion",
    "deletion_curve",
    "drop_in_deletion",
    "energy_pointing_game",
    "hci",
    "impute",
    "increase_in_confidence",
    "insertion",
    "insertion_curve",
    "insertion_deletion",
    "localisation_error",
    "max_box_accuracy",
    "metric",
    "official_metric",
    "options_of",
    "pixel_f1",
    "pointing_game",
    "predicted_boxes",
    "probabilities",
    "quantities_of",
    "quantity",
    "road",
    "saco",
    "saliency_metric",
    "selectivity",
    "sources_of",
    "threshold_mask",
    "thresholded_drop",
    "thresholded_increase",
    "win_percentage",
    "with_parts",
]
