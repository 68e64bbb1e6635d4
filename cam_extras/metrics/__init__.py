"""The metrics: one file per family, pure tensor functions (N, ...) -> (N,), listed by name in `METRICS`.

>>> METRICS["average_drop"].title, METRICS["average_drop"].arrow
('Average Drop', '↓')
"""

from cam_extras.metrics.base import METRICS, Metric, Quantities
from cam_extras.metrics.confidence import average_drop, average_gain, drop_in_deletion, increase_in_confidence

from cam_extras.metrics.adcc import adcc, coherency, complexity  # isort: skip  (METRICS lists the families in this order)
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
from cam_extras.metrics.localisation import (
    box_accuracy,
    box_mask,
    box_study,
    component_boxes,
    energy_pointing_game,
    localisation_error,
    max_box_accuracy,
    official_metric,
    pixel_f1,
    pointing_game,
    predicted_boxes,
    saliency_metric,
    selectivity,
)

__all__ = [
    "METRICS",
    "Blur",
    "Curve",
    "Metric",
    "Quantities",
    "Schedule",
    "adcc",
    "average_drop",
    "average_gain",
    "box_accuracy",
    "box_mask",
    "box_study",
    "coherency",
    "complexity",
    "component_boxes",
    "deletion",
    "deletion_curve",
    "drop_in_deletion",
    "energy_pointing_game",
    "hci",
    "increase_in_confidence",
    "insertion",
    "insertion_curve",
    "insertion_deletion",
    "localisation_error",
    "max_box_accuracy",
    "official_metric",
    "pixel_f1",
    "pointing_game",
    "predicted_boxes",
    "saliency_metric",
    "selectivity",
    "threshold_mask",
    "thresholded_drop",
    "thresholded_increase",
    "win_percentage",
]
