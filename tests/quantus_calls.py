"""Call any of the Quantus classes in the same way."""

from __future__ import annotations

import numpy as np
import pytest

import cam_extras.quantus as ours
from cam_extras.metrics import METRICS, Schedule

ALL_METRICS = pytest.mark.parametrize("metric", ours.METRIC_CLASSES, ids=lambda cls: cls.__name__)
LISTED_METRICS = pytest.mark.parametrize(
    "metric", [cls for cls in ours.METRIC_CLASSES if METRICS[cls.metric].vector is None], ids=lambda cls: cls.__name__
)

# 224 pixels of a canvas are a twentieth of it, but of the small images below more than all.
QUICK = {"schedule": Schedule(0.25), "road_percentiles": (30, 60), "arcc_percentiles": (30, 60)}
QUICK["road_noise"] = 0.0  # which is not scaled where tests scale images


def make(metric, **given):
    """A metric with options that do not take long."""
    return metric(**{name: value for name, value in QUICK.items() if name in metric.option_names()}, **given)


def masks_for(x):
    """Masks (N, 1, *S) of an object in another place in every image."""
    masks = np.zeros((len(x), 1, *x.shape[2:]), bool)
    for n, mask in enumerate(masks):
        mask[0, 1 + n : 5 + n, 2:7] = True
    return masks


def box_pixels(boxes, size):
    """One mask (size, size) for each box."""
    masks = np.zeros((len(boxes), size, size), bool)
    for mask, (xmin, ymin, xmax, ymax) in zip(masks, boxes, strict=True):
        mask[ymin:ymax, xmin:xmax] = True
    return masks


def score(metric, model, x, y, a_batch=None, s_batch=None, *, init=None, **options):
    """Scores of any of the metrics: those of localisation have their object."""
    s_batch = masks_for(x) if s_batch is None else s_batch
    return make(metric, **init or {})(model, x, y, a_batch, s_batch, **options)
