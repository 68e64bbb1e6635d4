"""Counterfactuals and counterfactual sensitivity: against loops, at the limits of float32, and with bad input."""

import math

import pytest
import torch

from cam_extras._checks import SampleError
from cam_extras.metrics.counterfactual import counterfactual, counterfactual_sensitivity

pytestmark = pytest.mark.numerical

SIZES = pytest.mark.parametrize("size", [(7,), (4, 5), (2, 3, 4)])


def changed(x, **options):
    """Which pixels a counterfactual changes, in every sample and channel."""
    return counterfactual(x, **options) != x


def weights(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(w, v, k=None):
    """S, one sample and channel at a time."""
    scores = []
    for a, b in zip(w.tolist(), v.tolist(), strict=True):
        channels = sorted(range(len(a)), key=lambda i: -abs(a[i]))[:k]
        change = math.sqrt(math.fsum((a[i] - b[i]) ** 2 for i in channels))
        scores.append(change / math.sqrt(math.fsum(a[i] ** 2 for i in channels)))
    return torch.tensor(scores, dtype=torch.float64)


class TestCounterfactual:
    @SIZES
    @pytest.mark.parametrize("delta", [0.1, -2])
    @pytest.mark.parametrize("fraction", [0.2, 0.5, 0.77, 1])
    def test_pixel_by_pixel(self, size, fraction, delta):
        x = torch.randn(3, 2, *size, dtype=torch.float64)
        before = x.clone()
        found = counterfactual(x, delta, fraction, seed=3)
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert torch.equal(x, before)
        pixels = math.prod(size)
        was, now = x.reshape(6, pixels), found.reshape(6, pixels)
        count = 0
        for i in range(pixels):
            moved = now[0, i].item() != was[0, i].item()
            count += moved
            for row in range(6):  # all samples and channels together
                assert now[row, i].item() == was[row, i].item() + (delta if moved else 0)
        assert count == round(fraction * pixels)

    def test_defaults(self):
        x = torch.zeros(1, 3, 6, 6)
        assert torch.equal(counterfactual(x), counterfactual(x, delta=0.1, fraction=0.5, seed=0))
        assert counterfactual(x).amax() == torch.tensor(0.1)

    @SIZES
    def test_a_sample_alone_and_in_a_batch(self, size):
        x = torch.randn(4, 3, *size)
        together = counterfactual(x, seed=5)
        for n in range(4):
            assert torch.equal(counterfactual(x[n : n + 1], seed=5)[0], together[n])
        assert torch.equal(counterfactual(x.flip(0), seed=5), together.flip(0))

    def test_seeds(self):
        x = torch.zeros(1, 1, 8, 8)
        patterns = [changed(x, seed=seed) for seed in (0, 1, 2)]
        assert torch.equal(patterns[1], changed(x, seed=1))
        assert not torch.equal(patterns[0], patterns[1])
        assert not torch.equal(patterns[1], patterns[2])

    def test_pixels_are_chosen_evenly(self):
        x = torch.zeros(1, 1, 4, 5)
        share = torch.stack([changed(x, fraction=0.3, seed=seed) for seed in range(1000)]).double().mean(dim=0)
        assert (share - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 1000)

    def test_a_greater_fraction_has_the_pixels_of_a_smaller(self):
        x = torch.zeros(1, 1, 8, 8)
        small, great = changed(x, fraction=0.25), changed(x, fraction=0.75)
        assert (great | ~small).all()
        assert (great & ~small).any()

    def test_random_numbers_of_its_own(self):
        x = torch.zeros(1, 1, 8, 8)
        state = torch.get_rng_state()
        first = counterfactual(x)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(counterfactual(x), first)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_same_pixels_in_every_type(self, dtype):
        x = torch.zeros(1, 1, 8, 8)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            found = counterfactual(x.to(dtype))
        finally:
            torch.set_default_dtype(before)
        assert found.dtype == dtype
        assert torch.equal(found != 0, changed(x))

    @pytest.mark.gpu
    def test_same_pixels_on_every_device(self):
        x = torch.randn(2, 3, 8, 8)
        found = counterfactual(x.cuda())
        assert found.is_cuda
        assert torch.equal(found.cpu(), counterfactual(x))

    def test_gradients_pass(self):
        x = torch.randn(1, 2, 3, 3, requires_grad=True)
        counterfactual(x).sum().backward()
        assert torch.equal(x.grad, torch.ones_like(x))


class TestSensitivity:
    @pytest.mark.parametrize("k", [None, 1, 2, 6])
    def test_sample_by_sample(self, k):
        w, v = weights(20, 6), weights(20, 6, seed=1)
        found = counterfactual_sensitivity(w, v, most_important=k)
        assert found.shape == (20,)
        torch.testing.assert_close(found, reference(w, v, k), rtol=1e-13, atol=0)

    def test_most_important_are_those_of_the_original(self):
        w, v = torch.tensor([[1.0, -4.0, 2.0]]), torch.tensor([[9.0, -3.0, 2.0]])
        assert counterfactual_sensitivity(w, v, most_important=1).item() == 0.25
        assert counterfactual_sensitivity(v, w, most_important=1).item() == pytest.approx(8 / 9)

    @pytest.mark.parametrize("channels", [3, 64, 5000])
    def test_of_equal_channels_the_first(self, channels):
        w, v = torch.ones(2, channels), torch.full((2, channels), 5.0)
        w[:, 1::2] = -1
        v[:, :2] = torch.tensor([2.0, -1.0])
        assert counterfactual_sensitivity(w, v, most_important=2).tolist() == pytest.approx([math.sqrt(0.5)] * 2)

    def test_known_values(self):
        w = weights(3, 5)
        assert counterfactual_sensitivity(w, w).tolist() == [0, 0, 0]
        torch.testing.assert_close(counterfactual_sensitivity(w, -w), torch.full((3,), 2.0, dtype=w.dtype))
        torch.testing.assert_close(counterfactual_sensitivity(w, 0 * w), torch.ones(3, dtype=w.dtype))

    @pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e30, 1e37])
    @pytest.mark.parametrize("k", [None, 2])
    def test_no_scale_is_too_small_or_large(self, scale, k):
        w, v = weights(10, 6).float(), weights(10, 6, seed=1).float()
        found = counterfactual_sensitivity(w * scale, v * scale, most_important=k)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, reference(w, v, k).float(), rtol=1e-5, atol=0)

    def test_a_small_change_keeps_its_digits(self):
        w = weights(10, 6).float().abs() + 1
        v = w + 2**-22  # exact
        torch.testing.assert_close(counterfactual_sensitivity(w, v), reference(w, v).float(), rtol=1e-6, atol=0)

    def test_samples_are_independent(self):
        w, v = weights(5, 6), weights(5, 6, seed=1)
        w[0], v[0] = w[0] * 1e-200, v[0] * 1e-200
        together = counterfactual_sensitivity(w, v, most_important=3)
        for n in range(5):
            alone = counterfactual_sensitivity(w[n : n + 1], v[n : n + 1], most_important=3)
            assert alone.item() == pytest.approx(together[n].item(), rel=1e-14)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_left(self, dtype):
        w, v = weights(4, 300).to(dtype), weights(4, 300, seed=1).to(dtype)
        found = counterfactual_sensitivity(w, v)
        torch.testing.assert_close(found, reference(w.double(), v.double()).float(), rtol=1e-6, atol=0)

    def test_arguments_are_left_alone(self):
        w, v = weights(2, 4), weights(2, 4, seed=1)
        before = w.clone(), v.clone()
        counterfactual_sensitivity(w, v, most_important=2)
        assert torch.equal(w, before[0])
        assert torch.equal(v, before[1])


IMAGE = torch.zeros(2, 1, 4)
ONES = torch.ones(3, 4)


def with_value(value, *, sample):
    changed = torch.ones(3, 4)
    changed[sample] = torch.tensor(value)
    return changed


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: counterfactual(IMAGE, fraction=0), r"the fraction of the pixels must lie in \(0, 1\]; got 0$"),
        (lambda: counterfactual(IMAGE, fraction=1.5), r"must lie in \(0, 1\]; got 1.5"),
        (lambda: counterfactual(IMAGE, fraction=math.nan), r"must lie in \(0, 1\]; got nan"),
        (lambda: counterfactual(IMAGE, fraction=0.1), "a fraction of 0.1 of 4 pixels is less than one: nothing would"),
        (lambda: counterfactual(IMAGE, delta=0), "delta must be a finite number other than 0; got 0$"),
        (lambda: counterfactual(IMAGE, delta=math.inf), "delta must be a finite number other than 0; got inf"),
        (lambda: counterfactual(IMAGE, delta=math.nan), "delta must be a finite number other than 0; got nan"),
        (lambda: counterfactual(torch.zeros(2, 3)), r"must have pixels, shape \(N, C, \*S\); got \(2, 3\)"),
        (lambda: counterfactual(torch.zeros(2, 3, 0, 4)), r"must have pixels, .* got \(2, 3, 0, 4\)"),
        (lambda: counterfactual(torch.zeros(0, 3, 4)), "the input batch is empty"),
        (lambda: counterfactual(with_value(math.nan, sample=2)[:, None]), "the input is NaN or infinite in sample 2"),
        (lambda: counterfactual_sensitivity(ONES, ONES[:2]), r"both \(N, K\); got \(3, 4\) and \(2, 4\)"),
        (lambda: counterfactual_sensitivity(ONES[0], ONES[0]), r"got \(4,\) and \(4,\)"),
        (lambda: counterfactual_sensitivity(ONES[:, :0], ONES[:, :0]), r"one or more channels .* got \(3, 0\)"),
        (
            lambda: counterfactual_sensitivity(with_value(math.nan, sample=1), ONES),
            "^the weight is NaN or infinite in sample 1$",
        ),
        (
            lambda: counterfactual_sensitivity(ONES, with_value(math.inf, sample=2)),
            "^the counterfactual weight is NaN or infinite in sample 2$",
        ),
        (
            lambda: counterfactual_sensitivity(with_value(0.0, sample=1), ONES),
            "the sensitivity is undefined where all weights are 0, in sample 1: leave these out",
        ),
        (lambda: counterfactual_sensitivity(with_value(0.0, sample=0), ONES, most_important=2), "0, in sample 0"),
        (
            lambda: counterfactual_sensitivity(with_value(1e-30, sample=1), with_value(1e30, sample=1)),
            "the sensitivity, in torch.float32, is NaN or infinite in sample 1",
        ),
        (
            lambda: counterfactual_sensitivity(with_value(3e38, sample=2), with_value(-3e38, sample=2)),
            "in torch.float32, is NaN or infinite in sample 2",
        ),
        (lambda: counterfactual_sensitivity(ONES, ONES, most_important=0), "most_important must be 1 or more; got 0"),
        (
            lambda: counterfactual_sensitivity(ONES, ONES, most_important=5),
            "most_important must be 4, the number of channels, or less; got 5",
        ),
    ],
)
def test_bad_values(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: counterfactual(IMAGE, seed=0.5), "seed must be an integer; got 0.5"),
        (lambda: counterfactual(IMAGE.long()), "the input holds torch.int64"),
        (lambda: counterfactual([[0.0]]), "the input must be a torch.Tensor .* got list"),
        (
            lambda: counterfactual_sensitivity(ONES, ONES, most_important=1.5),
            "most_important must be an integer; got 1.5",
        ),
    ],
)
def test_bad_types(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_undefined_samples_can_be_read():
    with pytest.raises(SampleError) as raised:
        counterfactual_sensitivity(torch.tensor([[0.0], [1.0], [0.0]]), torch.ones(3, 1))
    assert raised.value.samples == [0, 2]
