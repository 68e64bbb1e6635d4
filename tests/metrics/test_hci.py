"""Thresholded drop and increase, HCI and win percentage: against loops, at their limits, and with bad input."""

import math

import pytest
import scipy.stats
import torch

from cam_extras.metrics import average_drop, hci, threshold_mask, thresholded_drop, thresholded_increase, win_percentage

pytestmark = pytest.mark.numerical


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("size", [(5,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("fill", [0.0, -0.7])
def test_threshold_mask_pixel_by_pixel(size, threshold, fill):
    x, maps = torch.randn(2, 3, *size, dtype=torch.float64), torch.rand(2, *size, dtype=torch.float64)
    maps[0].view(-1)[0], maps[0].view(-1)[1] = 0.3, 1.0  # right at thresholds
    found = threshold_mask(x, maps, threshold, fill).reshape(2, 3, -1)
    for n in range(2):
        for c in range(3):
            for i, value in enumerate(maps[n].flatten().tolist()):
                assert found[n, c, i] == (x[n, c].flatten()[i] if value >= threshold else fill)


def test_formulas_sample_by_sample():
    p, o, b = torch.rand(3, 50, dtype=torch.float64)
    drop, increase = thresholded_drop(p, o), thresholded_increase(o, b)
    index = hci(drop, increase)
    for n in range(50):
        ad = max(0, p[n].item() - o[n].item()) / p[n].item()
        ai = max(0, o[n].item() - b[n].item()) / o[n].item()
        assert drop[n].item() == pytest.approx(ad, abs=1e-12)
        assert increase[n].item() == pytest.approx(ai, abs=1e-12)
        assert index[n].item() == pytest.approx(2 * (1 - ad) * ai / (1 - ad + ai), abs=1e-12)
    parts = torch.stack([1 - drop, increase]).numpy()
    torch.testing.assert_close(index, torch.from_numpy(scipy.stats.hmean(parts, axis=0)))
    assert torch.equal(drop, average_drop(p, o))


def test_hci_at_its_limits():
    assert hci(tensor(0, 1, 0, 1), tensor(1, 1, 0, 0)).tolist() == [1, 0, 0, 0]


def test_wins_sample_by_sample():
    drops = torch.randint(4, (5, 200), generator=torch.Generator().manual_seed(0)).double() / 4
    wins = win_percentage(drops)
    for n in range(200):
        column = drops[:, n].tolist()
        for m in range(5):
            assert wins[m, n] == (1 / column.count(min(column)) if column[m] == min(column) else 0)
    torch.testing.assert_close(wins.sum(dim=0), torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: threshold_mask(torch.zeros(1, 1, 2), torch.zeros(1, 2), 1.5),
            r"in \[0, 1\], as maps do; got 1.5",
        ),
        (lambda: threshold_mask(torch.zeros(1, 1, 2), torch.zeros(1, 2), math.nan), "must lie in"),
        (lambda: threshold_mask(torch.zeros(1, 1, 2), torch.full((1, 2), 2.0), 0.5), "in sample 0"),
        (lambda: threshold_mask(torch.zeros(1, 1, 2), torch.zeros(1, 3), 0.5), r"expected maps of shape \(1, 2\)"),
        (lambda: thresholded_drop(tensor(0.5, 0), tensor(0.5, 0.5)), "in sample 1"),
        (lambda: thresholded_increase(tensor(0.5, 0), tensor(0.5, 0.5)), "undefined where .* in sample 1"),
        (lambda: thresholded_increase(tensor(0.5, 0.5), tensor(0.5, -0.5)), "confidence b .* in sample 1"),
        (lambda: thresholded_increase(tensor(0.5, 0.5), tensor(0.5)), r"got \(2,\) and \(1,\)"),
        (lambda: hci(tensor(1.5), tensor(0.5)), "the drop"),
        (lambda: hci(tensor(0.5), tensor(math.nan)), "the increase"),
        (lambda: win_percentage(tensor(0.5, 0.5)), r"two or more methods, shape \(M, N\); got \(2,\)"),
        (lambda: win_percentage(tensor(0.5)[None]), r"got \(1, 1\)"),
        (lambda: win_percentage(torch.tensor([[0.5, 0.5], [0.5, math.nan]])), "drop of method 1 is NaN .* in sample 1"),
        (lambda: win_percentage(torch.zeros(2, 0)), r"got \(2, 0\)"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
