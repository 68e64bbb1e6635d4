"""The classes of all metrics, and their registration in Quantus' own list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import quantus
import torch
from quantus.helpers.enums import DataType, EvaluationCategory

from cam_extras._checks import check_finite
from cam_extras.metrics import METRICS, Metric
from cam_extras.metrics import win_percentage as _win_percentage
from cam_extras.quantus._metric import MapMetric, class_of

_MODULE = __name__.rpartition(".")[0]  # where users import the classes from

METRIC_CLASSES: tuple[type[MapMetric], ...] = tuple(
    class_of(metric, _MODULE) for metric in METRICS.values() if not metric.of_methods
)
"""The classes of the metrics that come with the package."""


class ImageMetric(MapMetric):
    """Deprecated: base for your own classes that use boxes in images."""

    data_applicability = {DataType.IMAGE}  # noqa: RUF012
    evaluation_category = EvaluationCategory.LOCALISATION


_later: dict[str, tuple[Metric, type[MapMetric]]] = {}  # by class name


def class_named(name: str) -> type[MapMetric] | None:
    """Return the class of a metric added to `METRICS` after the package was imported, or None."""
    for metric in METRICS.values():
        if metric.class_name == name and not metric.of_methods:
            if name not in _later or _later[name][0] is not metric:  # it may have been redefined
                _later[name] = metric, class_of(metric, _MODULE)
            return _later[name][1]
    return None


def win_percentage(drops: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return for each method the share of samples on which its average drop is lowest; ties are shared.

    Args:
        drops: for each method its `AverageDrop` scores on the same samples, without `return_aggregate`.

    Raises:
        ValueError: there are fewer than two methods, they have no samples or different numbers of them, or a drop is
            not finite (method and sample are named).

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
    """List the metrics in `quantus.AVAILABLE_METRICS` under their categories.

    Raises:
        ValueError: another package's class is listed under the same name; nothing is changed.
    """
    for cls in METRIC_CLASSES:
        other = _listed_beside(cls).get(cls.name)
        if other is not None and other.__module__ != _MODULE:
            raise ValueError(
                f"quantus.AVAILABLE_METRICS has {cls.name!r} already, {other.__module__}.{other.__name__}: take that "
                f"out before {_MODULE} is imported"
            )
    for cls in METRIC_CLASSES:
        _listed_beside(cls)[cls.name] = cls


def unregister() -> None:
    """Remove the metrics from `quantus.AVAILABLE_METRICS`."""
    for cls in METRIC_CLASSES:
        if _listed_beside(cls).get(cls.name) is cls:
            del _listed_beside(cls)[cls.name]


def _listed_beside(cls: type[MapMetric]) -> dict[str, type[Any]]:
    """Return Quantus' own list of the metrics of a class's category."""
    return quantus.AVAILABLE_METRICS[cls.evaluation_category.value]  # type: ignore[return-value]
