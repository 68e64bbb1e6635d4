"""What every metric makes of a constant map, as docs/metrics.md says."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from explained import Formulas

from cam_extras._checks import SampleError
from cam_extras.metrics import (
    METRICS,
    Quantities,
    Schedule,
    box_accuracy,
    deletion_curve,
    insertion_curve,
)

pytestmark = pytest.mark.numerical

X = 3 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
BOXES = [torch.tensor([[0, 0, 2, 3]]), torch.tensor([[1, 1, 5, 4]])]  # the first pixel is in the first
AREAS = torch.tensor([6 / 20, 12 / 20], dtype=torch.float64)
SCHEDULE = Schedule(0.25, "zeros")


def confidence(images, samples=None):
    classes = torch.arange(2) if samples is None else samples
    return Formulas.outputs(images).gather(1, classes[:, None])[:, 0]


P, NOTHING = confidence(X), torch.full((2,), 1 / 3, dtype=torch.float64)
DROP, GAIN = (P - NOTHING).clamp(min=0) / P, (NOTHING - P).clamp(min=0) / (1 - P)
RISING = torch.arange(20.0, 0, -1).double().reshape(1, 4, 5).expand(2, 4, 5) / 20  # a scan from the first pixel on


def areas(function):
    fractions, scores = function(confidence, X, RISING, SCHEDULE)
    return torch.trapezoid(scores, fractions)


ZEROS = {
    "average_drop": DROP,
    "increase_in_confidence": (NOTHING > P).double(),
    "average_gain": GAIN,
    "drop_in_deletion": 0,
    "coherency": 0,
    "complexity": 0,
    "adcc": 0,
    "thresholded_drop": DROP,
    "thresholded_increase": 0,
    "hci": 0,
    "insertion": areas(insertion_curve),
    "deletion": areas(deletion_curve),
    "insertion_deletion": areas(insertion_curve) - areas(deletion_curve),
    "pointing_game": torch.tensor([1.0, 0.0]),
    "energy_pointing_game": "undefined for a map that is 0 everywhere, which came in samples 0, 1",
    "pixel_f1": 0,
    "localisation_error": 1,
    "official_metric": 1,
    "saliency_metric": "no predicted box and came in samples 0, 1",
}
ONES = ZEROS | {
    "average_drop": 0,
    "increase_in_confidence": 0,
    "average_gain": 0,
    "drop_in_deletion": DROP,
    "complexity": 1,
    "thresholded_drop": 0,
    "thresholded_increase": (P - NOTHING).clamp(min=0) / P,
    "hci": 2 * DROP / (1 + DROP),
    "energy_pointing_game": AREAS,
    "pixel_f1": 2 * AREAS / (1 + AREAS),
}


C = 0.4
PART, REST = confidence(C * X), confidence((1 - C) * X)
HALF = ZEROS | {
    "average_drop": (P - PART).clamp(min=0) / P,
    "increase_in_confidence": (PART > P).double(),
    "average_gain": (PART - P).clamp(min=0) / (1 - P),
    "drop_in_deletion": (P - REST).clamp(min=0) / P,
    "complexity": torch.tensor(C, dtype=torch.float64),
    "energy_pointing_game": AREAS,
    "pixel_f1": 2 * C * AREAS / (C + AREAS),
}


def score(name, value, **options):
    maps = torch.full((2, 4, 5), value, dtype=torch.float64)
    explained = Formulas(X, maps=maps)
    explained.map_of = lambda images: maps[:, 0]
    return Quantities(explained, dict(schedule=SCHEDULE, **options), boxes=BOXES).scores([name])[name]


@pytest.mark.parametrize("name", ZEROS)
@pytest.mark.parametrize(("value", "expected"), [(0.0, ZEROS), (C, HALF), (1.0, ONES)])
def test_constant_map(value, expected, name):
    if isinstance(expected[name], str):
        with pytest.raises(ValueError, match=expected[name]):
            score(name, value)
    else:
        found = score(name, value).double()
        torch.testing.assert_close(found, torch.as_tensor(expected[name]).double().expand(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ZEROS and not METRICS[name].of_methods])
@pytest.mark.parametrize("value", [0.0, C, 1.0])
def test_other_metrics_say_something_or_name_the_samples(value, name):
    """Those that the tables above do not have."""
    with suppress(SampleError):
        assert score(name, value).isfinite().all()


def test_both_drops_and_gains_are_among_the_samples():
    assert (DROP > 0).any()
    assert (GAIN > 0).any()


@pytest.mark.parametrize(("value", "threshold"), [(0.0, 0), (C, C), (C, 0.1)])
def test_thresholds_that_constant_maps_reach(value, threshold):
    for name in ("thresholded_drop", "thresholded_increase", "hci"):
        found = score(name, value, threshold=threshold).double()
        torch.testing.assert_close(found, torch.as_tensor(ONES[name]).double().expand(2), rtol=0, atol=1e-12)


def test_the_complement_of_a_map_of_zeros_is_the_image():
    expected = (NOTHING - P).clamp(min=0) / NOTHING
    torch.testing.assert_close(score("thresholded_increase", 0.0, baseline="complement"), expected)


def test_box_accuracy():
    assert not box_accuracy(torch.zeros(2, 4, 5), BOXES).any()
    whole = box_accuracy(torch.ones(2, 4, 5), BOXES, thresholds=[0, 0.99, 1], overlaps=[0.5])[..., 0]
    assert whole.tolist() == [[0, 0, 0], [1, 1, 0]]  # the box of the whole image
