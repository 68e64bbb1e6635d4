"""The metrics: one file per family, pure tensor functions (N, ...) -> (N,), listed by name in `METRICS`.

>>> METRICS["average_drop"].title, METRICS["average_drop"].arrow
('Average Drop', '↓')
"""

from cam_extras.metrics.base import METRICS, Metric, Quantities
from cam_extras.metrics.confidence import average_drop, average_gain, drop_in_deletion, increase_in_confidence

from cam_extras.metrics.adcc import adcc, coherency, complexity  # isort: skip  (METRICS lists the families in this order)

__all__ = [
    "METRICS",
    "Metric",
    "Quantities",
    "adcc",
    "average_drop",
    "average_gain",
    "coherency",
    "complexity",
    "drop_in_deletion",
    "increase_in_confidence",
]
