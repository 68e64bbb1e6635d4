"""Insertion and deletion: against the slow reference and scipy, cases with known answers, and bad input."""

import pickle

import numpy as np
import pytest
import reference_insertion_deletion as reference
import scipy.integrate
import scipy.ndimage
import torch
import torch.nn.functional as F

from cam_extras.metrics.insertion_and_deletion import (
    PRESETS,
    SUBSTRATES,
    Blur,
    Curve,
    Schedule,
    area,
    deletion,
    deletion_curve,
    insertion,
    insertion_curve,
    insertion_deletion,
)

pytestmark = pytest.mark.numerical

SIZES = [(7,), (5, 6), (3, 4, 2)]
REFERENCES = {"zeros": reference.zeros, "mean": reference.mean, "blur": reference.blur}


def mean_confidence(images, samples):
    """The mean of an image with values in [0, 1]: linear, so that curves can be worked out by hand."""
    return images.flatten(1).mean(dim=1)


class Case:
    """Images and maps, and a classifier that looks at every pixel and explains another class for each sample."""

    def __init__(self, size, samples=3, channels=2, ties=False, dtype=torch.float64):
        self.x = torch.randn(samples, channels, *size, dtype=dtype)
        self.maps = torch.rand(samples, *size, dtype=dtype)
        if ties:
            self.maps = (self.maps * 3).floor() / 3
        self.weights = torch.randn(4, channels, *size, dtype=dtype)
        self.classes = torch.tensor([2, 0, 3, 1, 2])[:samples]

    def confidence(self, images, samples):
        logits = (images[:, None] * self.weights).flatten(2).sum(dim=2)
        return logits.softmax(dim=1)[torch.arange(len(images)), self.classes[samples]]

    def of_sample(self, n):
        return lambda image: self.confidence(image[None], torch.tensor([n])).item()


def check(case, schedule, insert_into, delete_to, internal_batch_size=32):
    ins = insertion_curve(case.confidence, case.x, case.maps, schedule, internal_batch_size=internal_batch_size)
    dele = deletion_curve(case.confidence, case.x, case.maps, schedule, internal_batch_size=internal_batch_size)
    step = schedule.step if isinstance(schedule, Schedule) else {"rise": 224, "mi": 0.01}[schedule]
    for n in range(len(case.x)):
        areas = []
        for curve, slow, substrate in ((ins, reference.insertion, insert_into), (dele, reference.deletion, delete_to)):
            fractions, scores = slow(case.of_sample(n), case.x[n], case.maps[n], step, substrate)
            assert curve.fractions.tolist() == pytest.approx(fractions, abs=1e-12)
            assert curve.scores[n].tolist() == pytest.approx(scores, abs=1e-12)
            areas.append(reference.area(fractions, scores))
        assert insertion(ins)[n].item() == pytest.approx(areas[0], abs=1e-12)
        assert deletion(dele)[n].item() == pytest.approx(areas[1], abs=1e-12)
        difference = insertion_deletion(insertion(ins), deletion(dele))[n].item()
        assert difference == pytest.approx(areas[0] - areas[1], abs=1e-12)


class TestAgainstTheReference:
    @pytest.mark.parametrize("step", [1, 3, 4, 7, 0.01, 0.07, 0.3, 0.5, 1.0])
    @pytest.mark.parametrize("size", SIZES)
    def test_steps(self, size, step):
        check(Case(size), Schedule(step, "zeros", "mean"), reference.zeros, reference.mean)

    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("substrate", REFERENCES)
    @pytest.mark.parametrize("size", [(7,), (5, 6), (2, 3, 2)])
    def test_substrates_and_ties(self, size, substrate, ties):
        slow = REFERENCES[substrate]
        case = Case(size, samples=2, channels=3 if len(size) < 3 else 1, ties=ties)
        check(case, Schedule(4, substrate, "zeros"), slow, reference.zeros)
        check(case, Schedule(5, "zeros", substrate), reference.zeros, slow)

    @pytest.mark.parametrize("internal_batch_size", [1, 2, 5, 1000])
    def test_batch_sizes(self, internal_batch_size):
        case = Case((4, 5), samples=5, ties=True)
        check(case, Schedule(0.15, "mean", "zeros"), reference.mean, reference.zeros, internal_batch_size)

    def test_rise(self):
        case = Case((20, 13), samples=2, channels=1)
        assert len(reference.counts(224, 260)) == 3
        check(case, "rise", reference.blur, reference.zeros)

    @pytest.mark.parametrize("size", [(9, 5), (12, 13)])  # less than a pixel a step, and one and a half
    def test_mi(self, size):
        check(Case(size, samples=2), "mi", reference.zeros, reference.zeros)

    def test_default_is_rise(self):
        case = Case((20, 13), samples=2)
        for function in (insertion_curve, deletion_curve):
            expected = function(case.confidence, case.x, case.maps, Schedule(224, Blur(11, 5.0), "zeros"))
            assert function(case.confidence, case.x, case.maps).scores.equal(expected.scores)
            assert function(case.confidence, case.x, case.maps, Schedule(224)).scores.equal(expected.scores)


def test_presets():
    assert {"rise": Schedule(224, "blur", "zeros"), "mi": Schedule(0.01, "zeros", "zeros")} == PRESETS
    assert SUBSTRATES["blur"] == Blur(11, 5.0)
    assert pickle.loads(pickle.dumps(PRESETS)) == PRESETS


class TestKnownAnswers:
    def test_by_hand(self):
        """One bright pixel, ranked first in one map and last in the other."""
        x = torch.zeros(2, 1, 1, 4, dtype=torch.float64)
        x[:, 0, 0, 1] = 1
        maps = torch.tensor([[[0.0, 1.0, 0.5, 0.25]], [[0.75, 0.0, 0.5, 0.25]]], dtype=torch.float64)

        def confidence(images, samples):
            return images.amax(dim=(1, 2, 3))

        ins = insertion_curve(confidence, x, maps, Schedule(1, "zeros"))
        dele = deletion_curve(confidence, x, maps, Schedule(1))
        assert ins.fractions.tolist() == dele.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert ins.scores.tolist() == [[0, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
        assert dele.scores.tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]
        assert insertion(ins).tolist() == [0.875, 0.125]
        assert deletion(dele).tolist() == [0.125, 0.875]
        assert insertion_deletion(insertion(ins), deletion(dele)).tolist() == [0.75, -0.75]

    def test_last_step_is_smaller(self):
        x, maps = torch.ones(1, 2, 5, 2), torch.rand(1, 5, 2)
        curve = insertion_curve(mean_confidence, x, maps, Schedule(4, "zeros"))
        torch.testing.assert_close(curve.fractions, torch.tensor([0, 0.4, 0.8, 1.0]))
        torch.testing.assert_close(curve.scores, torch.tensor([[0, 0.4, 0.8, 1.0]]))
        torch.testing.assert_close(area(curve), torch.tensor([0.5]))  # equal steps on the axis would give 0.5333

    def test_deletion_is_insertion_from_the_other_end(self):
        case = Case((4, 5))
        forward = deletion_curve(case.confidence, case.x, case.maps, Schedule(1, delete_to="mean"))
        backward = insertion_curve(case.confidence, case.x, 1 - case.maps, Schedule(1, "mean"))
        torch.testing.assert_close(forward.scores, backward.scores.flip(1), rtol=0, atol=1e-15)

    def test_constant_confidence(self):
        def confidence(images, samples):
            return torch.full((len(images),), 1.0)

        for pixels in range(1, 60):
            x, maps = torch.zeros(1, 1, pixels), torch.rand(1, pixels)
            assert area(insertion_curve(confidence, x, maps, "mi")).tolist() == [1]

    def test_ends_are_the_image_and_the_substrate(self):
        case = Case((5, 5))
        everyone = torch.arange(3)
        whole, nothing = case.confidence(case.x, everyone), case.confidence(torch.zeros_like(case.x), everyone)
        for function, ends in ((insertion_curve, (nothing, whole)), (deletion_curve, (whole, nothing))):
            scores = function(case.confidence, case.x, case.maps, "mi").scores
            torch.testing.assert_close((scores[:, 0], scores[:, -1]), ends, rtol=0, atol=1e-15)


class TestOrder:
    def seen(self, maps, schedule, function=insertion_curve):
        """The images that were scored, for an input of ones."""
        images = []

        def confidence(batch, samples):
            images.extend(batch[:, 0].tolist())
            return mean_confidence(batch, samples)

        function(confidence, torch.ones(len(maps), 1, *maps.shape[1:]), maps, schedule)
        return images

    @pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
    def test_constant_map_is_scanned(self, constant):
        maps = torch.full((1, 2, 3), constant)
        scan = [[[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]]
        assert self.seen(maps, Schedule(2, "zeros")) == scan
        rest = [[[1 - value for value in row] for row in image] for image in scan]
        assert self.seen(maps, Schedule(2), deletion_curve) == rest

    def test_equal_values_go_row_by_row(self):
        maps = torch.zeros(1, 300)
        maps[0, 100:200] = 0.5  # enough for a sort that is not stable to show
        for count, image in zip(range(0, 301, 50), self.seen(maps, Schedule(50, "zeros")), strict=True):
            order = [*range(100, 200), *range(100), *range(200, 300)]
            assert [place for place, value in enumerate(image) if value] == sorted(order[:count])

    def test_negative_zero_is_zero(self):
        maps = torch.tensor([[0.0, -0.0, 0.0, -0.0]])
        assert self.seen(maps, Schedule(1, "zeros")) == self.seen(maps.abs(), Schedule(1, "zeros"))

    def test_maps_of_other_types(self):
        """Masks of 0 and 1, and differences that the input's type would not keep."""
        mask = torch.tensor([[False, True, False, True]])
        expected = self.seen(mask.float(), Schedule(1, "zeros"))
        assert self.seen(mask, Schedule(1, "zeros")) == self.seen(mask.long(), Schedule(1, "zeros")) == expected
        close = torch.tensor([[0.5, 0.5 + 1e-15, 0.5 + 2e-15]], dtype=torch.float64)
        assert self.seen(close, Schedule(1, "zeros"))[1] == [0, 0, 1]


class TestPasses:
    @pytest.mark.parametrize("internal_batch_size", [1, 4, 7, 33, 100])
    @pytest.mark.parametrize("function", [insertion_curve, deletion_curve])
    def test_same_images_in_batches_of_any_size(self, function, internal_batch_size):
        case = Case((4, 5), samples=3)
        seen, sizes = {}, {}

        def confidence(images, samples, size):
            seen[size].append((images.clone(), samples))
            sizes[size].append(len(images))
            return case.confidence(images, samples)

        curves = {}
        for size in (internal_batch_size, 32):
            seen[size], sizes[size] = [], []
            curves[size] = function(
                lambda images, samples, size=size: confidence(images, samples, size),
                *(case.x, case.maps, Schedule(2, "mean")),
                internal_batch_size=size,
            )
        assert sizes[32] == [32, 1]  # eleven points of three samples
        assert sum(sizes[internal_batch_size]) == 33
        assert max(sizes[internal_batch_size]) == min(internal_batch_size, 33)
        assert len(sizes[internal_batch_size]) == -(-33 // internal_batch_size)
        for ours, theirs in zip(zip(*seen[internal_batch_size], strict=True), zip(*seen[32], strict=True), strict=True):
            assert torch.cat(ours).equal(torch.cat(theirs))
        torch.testing.assert_close(curves[internal_batch_size], curves[32], rtol=0, atol=1e-15)

    def test_default_batch_is_bounded(self):
        sizes = []

        def confidence(images, samples):
            sizes.append(len(images))
            return mean_confidence(images, samples)

        insertion_curve(confidence, torch.rand(2, 1, 10, 10), torch.rand(2, 10, 10), "mi")
        deletion_curve(confidence, torch.rand(2, 1, 10, 10), torch.rand(2, 10, 10), "mi")
        assert sizes == [32] * 6 + [10] + [32] * 6 + [10]

    def test_gradients_are_not_recorded(self):
        weight = torch.tensor(1.0, requires_grad=True)
        modes = []

        def confidence(images, samples):
            modes.append(torch.is_grad_enabled())
            with torch.enable_grad():  # as a probe does
                return mean_confidence(images, samples) * weight

        x = torch.rand(1, 1, 2, 2, requires_grad=True)
        for function in (insertion_curve, deletion_curve):
            assert not function(confidence, x, torch.rand(1, 2, 2, requires_grad=True), "mi").scores.requires_grad
        assert not any(modes)
        assert torch.is_grad_enabled()

    def test_nothing_given_is_changed(self):
        case = Case((4, 5))

        def confidence(images, samples):
            scores = case.confidence(images, samples)
            images.zero_()  # a model with in-place operations
            samples.zero_()
            return scores

        x, maps, filling = case.x.clone(), case.maps.clone(), torch.ones(1, 2, 1, 1, dtype=case.x.dtype)
        for function in (insertion_curve, deletion_curve):
            schedule = Schedule(3, filling, filling)
            expected = function(case.confidence, case.x, case.maps, schedule, internal_batch_size=7)
            found = function(confidence, case.x, case.maps, schedule, internal_batch_size=7)
            torch.testing.assert_close(found, expected)
        assert case.x.equal(x)
        assert case.maps.equal(maps)
        assert filling.eq(1).all()

    @pytest.mark.parametrize(
        ("given", "expected"),
        [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    )
    def test_types(self, given, expected):
        x, maps = torch.ones(2, 3, 10, 10, dtype=given), torch.rand(2, 10, 10)
        for function in (insertion_curve, deletion_curve):
            types = []

            def confidence(images, samples, types=types):
                types.append((images.dtype, samples.dtype))
                return mean_confidence(images, samples)

            curve = function(confidence, x, maps, Schedule(0.1, "blur", "mean"))
            assert set(types) == {(given, torch.int64)}
            assert curve.fractions.dtype == curve.scores.dtype == area(curve).dtype == expected
            assert curve.fractions.tolist() == pytest.approx([k / 10 for k in range(11)], abs=1e-7)


class TestSchedule:
    def test_counts(self):
        assert Schedule(224).counts(224 * 224) == list(range(0, 224 * 224 + 1, 224))
        assert Schedule(3).counts(3) == [0, 3]
        assert Schedule(1.0).counts(7) == [0, 7]
        assert Schedule(1).counts(7) == list(range(8))
        assert Schedule(0.33).counts(10) == [0, 3, 7, 10]  # 9.9 is all of them: not twice
        assert Schedule(1e-9).counts(5) == [0, 1, 2, 3, 4, 5]
        assert Schedule(np.int64(2)).counts(5) == [0, 2, 4, 5]
        assert Schedule(np.float32(0.5)).counts(4) == [0, 2, 4]

    @pytest.mark.parametrize("pixels", [100, 150, 299 * 299, 224 * 224, 50 * 3, 12345])
    @pytest.mark.parametrize("steps", [1, 3, 7, 10, 49, 100])
    def test_shares_make_equal_steps(self, pixels, steps):
        counts = Schedule(1 / steps).counts(pixels)
        assert len(counts) == steps + 1
        assert all(abs(count - point * pixels / steps) <= 0.5 + 1e-6 for point, count in enumerate(counts))
        assert counts[0] == 0
        assert counts[-1] == pixels

    @pytest.mark.parametrize("step", [0, -1, -224])
    def test_too_small(self, step):
        with pytest.raises(ValueError, match=f"a step must be of at least one pixel; got {step}"):
            Schedule(step)

    @pytest.mark.parametrize("step", [0.0, -0.1, 1.01, 224.0, float("nan"), float("inf")])
    def test_no_share(self, step):
        with pytest.raises(ValueError, match=r"a share of the pixels, in \(0, 1\]; got .*: give a number of pixels as"):
            Schedule(step)

    @pytest.mark.parametrize("step", [None, "224", True, [1]])
    def test_no_number(self, step):
        with pytest.raises(TypeError, match="step must be a number of pixels"):
            Schedule(step)

    def test_bigger_than_the_image(self):
        x, maps = torch.rand(1, 1, 3, 3), torch.rand(1, 3, 3)
        with pytest.raises(ValueError, match="a step of 10 pixels is bigger than the image, which has 9"):
            insertion_curve(mean_confidence, x, maps, Schedule(10))
        with pytest.raises(ValueError, match="a step of 224 pixels is bigger than the image, which has 9"):
            deletion_curve(mean_confidence, x, maps)

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="there is no substrate 'blurr': did you mean blur"):
            Schedule(1, "blurr")
        with pytest.raises(ValueError, match="there is no substrate 'black': there are zeros, mean, blur"):
            Schedule(1, delete_to="black")
        for function in (insertion_curve, deletion_curve):
            with pytest.raises(ValueError, match="there is no schedule 'ries': did you mean rise"):
                function(mean_confidence, torch.rand(1, 1, 3, 3), torch.rand(1, 3, 3), "ries")


class TestSubstrates:
    @pytest.mark.parametrize(("size", "sigma"), [(11, 5.0), (11, 0.9), (5, 5.0), (3, 10.0), (1, 2.0), (21, 2.3)])
    def test_kernel_equals_scipy(self, size, sigma):
        impulse = np.zeros((size, size))
        impulse[size // 2, size // 2] = 1
        expected = scipy.ndimage.gaussian_filter(impulse, sigma)
        kernel = np.array(Blur(size, sigma).kernel)
        np.testing.assert_allclose(np.outer(kernel, kernel), expected, rtol=0, atol=1e-15)
        assert kernel.sum() == pytest.approx(1, abs=1e-14)

    def test_narrow_kernel_is_the_image_itself(self):
        x = torch.rand(2, 3, 6, 7)
        assert Blur(11, 0.1)(x).equal(x)

    def test_kernel_equals_the_slow_one(self):
        for size, sigma in [(11, 5.0), (7, 0.8), (3, 4.0)]:
            assert Blur(size, sigma).kernel == pytest.approx(reference.gaussian_kernel(size, sigma), abs=1e-15)

    def test_what_the_docstring_says_of_the_kernel(self):
        kernel = Blur().kernel
        assert (round(11 * kernel[0], 3), round(11 * kernel[5], 3)) == (0.968, 1.034)

    @pytest.mark.parametrize("shape", [(12, 15), (4, 3)])  # the second smaller than the kernel
    def test_blur_is_that_of_rise(self, shape):
        """`conv2d(x, kern, padding=klen // 2)` with `gkern(11, 5)`, in RISE's evaluation."""
        x = torch.randn(2, 3, *shape, dtype=torch.float64)
        impulse = np.zeros((11, 11))
        impulse[5, 5] = 1
        kernel = torch.zeros(3, 3, 11, 11, dtype=torch.float64)
        for channel in range(3):
            kernel[channel, channel] = torch.from_numpy(scipy.ndimage.gaussian_filter(impulse, 5))
        torch.testing.assert_close(SUBSTRATES["blur"](x), F.conv2d(x, kernel, padding=5), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("size", [(20,), (6, 9), (5, 4, 6)])
    def test_blur_in_any_dimension_equals_scipy(self, size):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = x.numpy()
        for axis in range(2, x.ndim):
            expected = scipy.ndimage.correlate1d(expected, Blur(7, 1.5).kernel, axis, mode="constant")
        np.testing.assert_allclose(Blur(7, 1.5)(x).numpy(), expected, rtol=0, atol=1e-14)

    def test_mean_is_of_the_channel_of_the_sample(self):
        x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
        expected = x.numpy().mean(axis=(2, 3), keepdims=True)
        np.testing.assert_allclose(SUBSTRATES["mean"](x).numpy(), expected, rtol=0, atol=1e-15)

    @pytest.mark.parametrize(
        "substrate",
        [0.25, torch.tensor(0.25), torch.full((2, 1, 1), 0.25), torch.full((3, 2, 4, 5), 0.25), lambda x: 0 * x + 0.25],
        ids=["number", "scalar", "channels", "images", "function"],
    )
    def test_own(self, substrate):
        case = Case((4, 5))

        def filling(image):
            return torch.full_like(image, 0.25)

        check(case, Schedule(3, substrate, substrate), filling, filling)

    def test_one_for_each_sample(self):
        case = Case((4, 5))
        substrates = torch.randn(3, 1, 1, 1, dtype=torch.float64)
        together = insertion_curve(case.confidence, case.x, case.maps, Schedule(3, substrates))
        for n in range(3):
            alone = insertion_curve(
                lambda images, samples, n=n: case.confidence(images, samples + n),
                *(case.x[n : n + 1], case.maps[n : n + 1]),
                Schedule(3, substrates[n].item()),
            )
            torch.testing.assert_close(together.scores[n : n + 1], alone.scores, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("shape", [(2,), (4, 2, 4, 5), (1, 3, 2, 4, 5), (2, 4, 6)])
    def test_of_a_wrong_shape(self, shape):
        case = Case((4, 5))
        message = r"the substrate must be a number or a tensor that broadcasts to the input, \(3, 2, 4, 5\); got \("
        for substrate in (torch.zeros(shape), lambda x: torch.zeros(shape)):
            with pytest.raises(ValueError, match=message):
                insertion_curve(case.confidence, case.x, case.maps, Schedule(1, substrate, "zeros"))
            with pytest.raises(ValueError, match=message):
                deletion_curve(case.confidence, case.x, case.maps, Schedule(1, "zeros", substrate))

    def test_not_finite(self):
        case = Case((4, 5))
        substrate = torch.zeros(3, 1, 1, 1)
        substrate[1] = float("inf")
        with pytest.raises(ValueError, match="the substrate is NaN or infinite in sample 1"):
            insertion_curve(case.confidence, case.x, case.maps, Schedule(1, substrate))

    @pytest.mark.parametrize("size", [0, -3, 2, 10])
    def test_size_of_a_blur(self, size):
        with pytest.raises(ValueError, match=f"must be an odd number of pixels; got {size}"):
            Blur(size)

    @pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf")])
    def test_sigma_of_a_blur(self, sigma):
        with pytest.raises(ValueError, match="the sigma of a blur must be a positive number of pixels; got"):
            Blur(11, sigma)


class TestArea:
    def test_equals_scipy(self):
        fractions = torch.cat([torch.zeros(1), torch.rand(6).sort().values, torch.ones(1)]).double()
        scores = torch.rand(5, 8, dtype=torch.float64)
        expected = scipy.integrate.trapezoid(scores.numpy(), fractions.numpy(), axis=1)
        np.testing.assert_allclose(area(Curve(fractions, scores)).numpy(), expected, rtol=0, atol=1e-15)

    def test_equals_that_of_rise(self):
        """(sum - first / 2 - last / 2) / steps, where the steps are equal."""
        scores = torch.rand(3, 225, dtype=torch.float64)
        expected = (scores.sum(1) - scores[:, 0] / 2 - scores[:, -1] / 2) / 224
        curve = Curve(torch.arange(225, dtype=torch.float64) / 224, scores)
        for function in (area, insertion, deletion):
            torch.testing.assert_close(function(curve), expected, rtol=0, atol=1e-14)

    def test_difference_is_checked(self):
        good = torch.tensor([0.5, 0.5])
        with pytest.raises(ValueError, match=r"the insertion must lie in \[0, 1\]; got 1\.5 in sample 1"):
            insertion_deletion(torch.tensor([0.5, 1.5]), good)
        with pytest.raises(ValueError, match=r"the deletion must lie in \[0, 1\]; got nan in sample 0"):
            insertion_deletion(good, torch.tensor([float("nan"), 0.5]))
        with pytest.raises(ValueError, match=r"of one shape \(N,\); got \(2,\) and \(1,\)"):
            insertion_deletion(good, good[:1])


@pytest.mark.parametrize("function", [insertion_curve, deletion_curve])
class TestInput:
    def test_maps(self, function):
        x, maps = torch.rand(3, 2, 4, 5), torch.rand(3, 4, 5)
        for wrong in (maps[:2], maps[:, :2], maps[:, None], maps.transpose(1, 2)):
            with pytest.raises(ValueError, match=r"expected maps of shape \(3, 4, 5\) for an input of shape \(3, 2, 4"):
                function(mean_confidence, x, wrong, "mi")
        for value in (float("nan"), float("inf"), 1.5, -0.5):
            wrong = maps.clone()
            wrong[1, 2, 3] = value
            with pytest.raises(ValueError, match=rf"the map must lie in \[0, 1\]; got {value} in sample 1"):
                function(mean_confidence, x, wrong, "mi")

    def test_input(self, function):
        x, maps = torch.rand(3, 2, 4, 5), torch.rand(3, 4, 5)
        with pytest.raises(TypeError, match="expected floating point"):
            function(mean_confidence, (255 * x).long(), maps, "mi")
        with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
            function(mean_confidence, x.numpy(), maps, "mi")
        with pytest.raises(ValueError, match=r"must have pixels, shape \(N, C, \*S\); got \(3, 2\)"):
            function(mean_confidence, x[:, :, 0, 0], maps[:, 0, 0], "mi")
        with pytest.raises(ValueError, match="the input is NaN or infinite in sample 0"):
            function(mean_confidence, x / torch.tensor([0.0, 1, 1])[:, None, None, None], maps, "mi")
        with pytest.raises(ValueError, match="the input batch is empty"):
            function(mean_confidence, x[:0], maps[:0], "mi")
        for size in (0, -1):
            with pytest.raises(ValueError, match=f"internal_batch_size must be 1 or more; got {size}"):
                function(mean_confidence, x, maps, "mi", internal_batch_size=size)

    def test_confidence(self, function):
        x, maps = torch.rand(3, 2, 4, 5), torch.rand(3, 4, 5)
        for wrong, got in [
            (lambda images, samples: images.mean(dim=(2, 3)), r"shape \(32, 2\)"),
            (lambda images, samples: images.mean(dim=(1, 2, 3))[:, None], r"shape \(32, 1\)"),
            (lambda images, samples: images.mean(), r"shape \(\)"),
            (lambda images, samples: images.mean(dim=(1, 2, 3))[:-1], r"shape \(31,\)"),
            (lambda images, samples: images.mean(dim=(1, 2, 3)).tolist(), "list"),
        ]:
            with pytest.raises(ValueError, match=rf"a tensor \(32,\) for 32 images, .* for each; got {got}$"):
                function(wrong, x, maps, "mi")
        for value in (1.5, -0.5, float("nan")):

            def confidence(images, samples, value=value):
                return torch.where(samples == 2, value, 0.5)

            with pytest.raises(ValueError, match=rf"the confidence must lie in \[0, 1\]; got {value} in sample 2$"):
                function(confidence, x, maps, "mi")


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(500,), (20, 30), (5, 12, 8)])
@pytest.mark.parametrize("preset", PRESETS)
def test_on_the_gpu(preset, size):
    case = Case(size, ties=True)
    case.maps[0, 0] = -0.0
    for function in (insertion_curve, deletion_curve):
        expected = function(case.confidence, case.x, case.maps, preset)
        curve = function(
            lambda images, samples: case.confidence(images.cpu(), samples.cpu()).cuda(),
            *(case.x.cuda(), case.maps.cuda(), preset),
        )
        torch.testing.assert_close(Curve(*(part.cpu() for part in curve)), expected, rtol=0, atol=1e-12)
