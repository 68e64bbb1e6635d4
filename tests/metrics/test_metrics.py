"""Metrics: against scipy, at their limits, and with bad input. The formulas are compared in test_reference.py."""

import math
import re

import pytest
import scipy.stats
import torch

from cam_extras.metrics import (
    METRICS,
    QUANTITIES,
    adcc,
    average_drop,
    average_gain,
    coherency,
    complexity,
    drop_in_deletion,
    increase_in_confidence,
    quantity,
)
from cam_extras.metrics.base import harmonic_mean, metric

pytestmark = pytest.mark.numerical


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_coherency_equals_scipy():
    a, b = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    for n, value in enumerate(coherency(a, b)):
        expected = scipy.stats.pearsonr(a[n].flatten(), b[n].flatten()).statistic
        assert value.item() == pytest.approx((1 + expected) / 2, abs=1e-12)


def test_harmonic_mean_equals_scipy():
    parts = torch.rand(3, 8, dtype=torch.float64)
    torch.testing.assert_close(harmonic_mean(*parts), torch.from_numpy(scipy.stats.hmean(parts.numpy(), axis=0)))


def test_coherency_does_not_see_scale_and_shift():
    a, b = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(coherency(1e-30 * a, b), coherency(a, b), rtol=0, atol=1e-12)
    torch.testing.assert_close(coherency(3 * a - 7, 0.1 * b + 2), coherency(a, b), rtol=0, atol=1e-12)
    torch.testing.assert_close(coherency(a, a), tensor(1, 1, 1))
    torch.testing.assert_close(coherency(a, -a), tensor(0, 0, 0), rtol=0, atol=1e-12)
    # float32 squares of values like these are zero
    a, b = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(coherency(1e-30 * a, 1e-25 * b), coherency(a, b))


def test_coherency_is_zero_where_a_map_is_constant():
    a = torch.rand(2, 4, 5)
    for constant in (0.0, 0.1, 0.7):
        flat = torch.full_like(a, constant)
        assert coherency(a, flat).tolist() == coherency(flat, a).tolist() == coherency(flat, flat).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 0, 4)])
def test_maps_without_pixels(shape):
    maps = torch.zeros(shape)
    for function in (complexity, lambda maps: coherency(maps, maps)):
        with pytest.raises(
            ValueError, match=rf"the map must have shape \(N, \*S\) and pixels; got {re.escape(str(shape))}"
        ):
            function(maps)


def test_limits():
    p = tensor(0.5, 0.5, 0.5, 1.0)
    o = tensor(0.0, 0.5, 1.0, 1.0)
    assert average_drop(p, o).tolist() == [1, 0, 0, 0]
    assert drop_in_deletion(p, o).tolist() == [1, 0, 0, 0]
    assert increase_in_confidence(p, o).tolist() == [0, 0, 1, 0]
    assert average_gain(p, o).tolist() == [0, 0, 1, 0]
    assert adcc(tensor(1, 1, 0, 1), tensor(0, 1, 0.5, 0.5), tensor(0, 0, 0, 1)).tolist() == [1, 0, 0, 0]
    assert complexity(torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])).tolist() == [0, 1]


@pytest.mark.parametrize("function", [average_drop, increase_in_confidence, average_gain, drop_in_deletion])
def test_confidences_are_checked(function):
    with pytest.raises(ValueError, match=r"confidence p must lie in \[0, 1\]; got 1\.5 in sample 1"):
        function(tensor(0.5, 1.5), tensor(0.5, 0.5))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got -0\.1 in samples 0, 2"):
        function(tensor(0.5, 0.5, 0.5), tensor(-0.1, 0.5, -0.2))
    with pytest.raises(ValueError, match="got nan in sample 0"):
        function(tensor(0.5), tensor(float("nan")))
    with pytest.raises(ValueError, match=r"of one shape \(N,\); got \[\(1,\), \(2,\)\]"):
        function(tensor(0.5), tensor(0.5, 0.5))


@pytest.mark.parametrize("function", [average_drop, drop_in_deletion])
def test_drop_from_nothing_is_undefined(function):
    with pytest.raises(ValueError, match="undefined where the model's confidence p is 0, in samples 1, 3"):
        function(tensor(0.5, 0.0, 0.5, 0.0), tensor(0.5, 0.5, 0.5, 0.0))


def test_maps_are_checked():
    good = torch.rand(3, 4, 4)
    bad = good.clone()
    bad[1, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="the map is NaN or infinite in sample 1"):
        coherency(bad, good)
    with pytest.raises(ValueError, match="the map of the masked input is NaN or infinite in sample 1"):
        coherency(good, bad)
    with pytest.raises(ValueError, match="expected maps of one shape"):
        coherency(good, good[:, :2])
    with pytest.raises(ValueError, match=r"the map must lie in .* in sample 1"):
        complexity(bad)
    with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got 2 in sample 0"):
        complexity(torch.full((1, 2, 2), 2.0))


def test_parts_of_adcc_are_checked():
    good = tensor(0.5, 0.5)
    for bad in (tensor(0.5, 1.5), tensor(0.5, -0.5), tensor(0.5, float("nan"))):
        for number, name in enumerate(("coherency", "complexity", "average drop")):
            parts = [bad if n == number else good for n in range(3)]
            with pytest.raises(ValueError, match=rf"the {name} must lie in \[0, 1\]; got .* in sample 1"):
                adcc(*parts)
            with pytest.raises(ValueError, match=f"the {name} must lie in"):
                adcc(*(part[1] for part in parts))


def test_adcc_of_a_set_is_that_of_the_means():
    scores = {"coherency": tensor(1, 0.5), "complexity": tensor(0, 0.5), "average_drop": tensor(1, 0.5)}
    scores["adcc"] = adcc(*(scores[name] for name in METRICS["adcc"].needs))
    expected = 3 / (1 / 0.75 + 1 / 0.75 + 1 / 0.25)
    assert METRICS["adcc"].of_set(scores) == pytest.approx(expected)
    assert scores["adcc"].mean().item() == pytest.approx((0 + 0.5) / 2)
    assert METRICS["coherency"].of_set(scores) == 0.75


def test_value_of_a_set_is_computed_in_double_precision():
    scores = torch.tensor([0.1] * 3 + [0.7], dtype=torch.float32)
    assert METRICS["average_drop"].of_set({"average_drop": scores}) == scores.double().mean().item()
    assert scores.double().mean().item() != scores.mean().item()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name):
    metric = METRICS[name]
    assert metric.name == name == metric.function.__name__
    assert metric.needs
    assert metric.arrow in "↑↓"
    assert metric.meaning
    assert metric.paper
    assert "Returns:" in metric.function.__doc__ or name in ("drop_in_deletion", "thresholded_drop")
    assert metric.range[0] < metric.range[1]
    assert metric.scale == (100 if metric.range[1] < math.inf else 1)
    assert metric.class_name.isidentifier()


def test_names_in_tables_differ():
    for attribute in ("title", "short"):
        assert len({getattr(metric, attribute) for metric in METRICS.values()}) == len(METRICS)


def test_value_of_a_set_that_is_undefined():
    with pytest.raises(ValueError, match="a set without samples has no average_drop"):
        METRICS["average_drop"].of_set({"average_drop": []})
    parts = {"coherency": [0.5, 0.5], "complexity": [0.1, float("nan")], "average_drop": [0.1, 0.1]}
    with pytest.raises(ValueError, match="the complexity is NaN or infinite in sample 1"):
        METRICS["adcc"].of_set(parts)


def test_value_of_a_set_from_lists():
    scores = {"thresholded_drop": [0.2, 0.6], "thresholded_increase": [0.9, 0.3], "hci": [0.0, 0.0]}
    assert METRICS["hci"].of_set(scores) == pytest.approx(scipy.stats.hmean([0.6, 0.6]))
    assert METRICS["thresholded_drop"].of_set(scores) == pytest.approx(0.4)


KNOWN = {
    "title": "Mine",
    "short": "M",
    "higher_is_better": True,
    "meaning": "nothing",
    "paper": "none",
}


@pytest.mark.parametrize("name", ["average_drop", "adcc", "coherency", "pointing_game", "maps", "p", "insertion_curve"])
def test_a_name_that_is_taken(name):
    """Of a metric or a quantity: others are made of it, ADCC of the average drop, and would change in silence."""
    before, quantities = dict(METRICS), dict(QUANTITIES)

    def mine(maps):
        return maps.flatten(1).mean(dim=1)

    mine.__name__ = name
    with pytest.raises(ValueError, match=rf"there is a '{name}' in (METRICS|QUANTITIES) already: .*pop\('{name}'\)"):
        metric(**KNOWN)(mine)
    with pytest.raises(ValueError, match=f"there is a '{name}' in "):
        quantity()(mine)
    assert (before, quantities) == (METRICS, QUANTITIES)


def test_one_of_your_own_is_taken_out_first():
    def mine(maps):
        return maps.flatten(1).mean(dim=1)

    try:
        metric(**KNOWN)(mine)
        with pytest.raises(ValueError, match="there is a 'mine' in METRICS already"):
            metric(**KNOWN)(mine)
        METRICS.pop("mine")
        metric(**{**KNOWN, "title": "Again"})(mine)
        assert METRICS["mine"].title == "Again"
    finally:
        METRICS.pop("mine", None)
