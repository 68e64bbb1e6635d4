"""Mutual information against sklearn, numpy and itself; MI-Grad-CAM against Grad-CAM."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import make_setting
from reference import histogram_information
from scipy.stats import spearmanr
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

import cam_extras.methods._information as module
from cam_extras import maps
from cam_extras.methods import METHODS, mutual_information
from cam_extras.methods._information import grey
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical

SIZES = [
    ((3, 4), (12, 16)),
    ((3, 4), (13, 17)),  # neither divides the other
    ((7,), (50,)),
    ((2, 3, 2), (5, 9, 7)),
    ((5, 6), (4, 5)),  # a map larger than the image: not all of its cells are seen
    ((4, 4), (4, 4)),
]


def make(size, image_size, channels=3):
    """Maps of a layer after a ReLU, some of them constant, and an image."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(2, 5, *size, generator=generator, dtype=torch.float64).relu()
    a[0, 1], a[1, 2] = 0, 0.3
    return a, torch.randn(2, channels, *image_size, generator=generator, dtype=torch.float64)


def enlarge(a, size, upsample):
    if upsample == "nearest":
        return F.interpolate(a, size, mode="nearest").flatten(2).numpy()
    return maps.resize(a.flatten(0, 1), size).unflatten(0, a.shape[:2]).flatten(2).numpy()


def by_histogram2d(a, b, bins):
    joint = np.histogram2d(a, b, bins=bins)[0] / len(a)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    present = joint > 0
    return (joint[present] * np.log(joint[present] / independent[present])).sum()


def by_sklearn(a, b):
    levels = np.round((b - b.min()) / (b.max() - b.min()) * 255)
    return mutual_info_score(np.unique(a, return_inverse=True)[1], levels)


def compare(a, x, upsample, information, expected):
    enlarged, image = enlarge(a, x.shape[2:], upsample), grey(x).flatten(1).numpy()
    for n in range(a.shape[0]):
        for k in range(a.shape[1]):
            value = 0 if a[n, k].min() == a[n, k].max() else expected(enlarged[n, k], image[n])
            assert information[n, k].item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("upsample", get_args(module.Upsampling))
@pytest.mark.parametrize(("size", "image_size"), SIZES)
class TestPlugInEstimates:
    def test_discrete_equals_sklearn(self, size, image_size, upsample, channels):
        a, x = make(size, image_size, channels)
        information = mutual_information(a, x, estimator="discrete", upsample=upsample)
        compare(a, x, upsample, information, by_sklearn)

    @pytest.mark.parametrize("bins", [2, 7, 64])
    def test_histogram_equals_numpy(self, size, image_size, upsample, channels, bins):
        a, x = make(size, image_size, channels)
        information = mutual_information(a, x, bins=bins, upsample=upsample)
        # Interpolation makes simple fractions, and numpy's edges of the bins are rounded in another way than ours.
        expected = by_histogram2d if upsample == "nearest" else histogram_information
        compare(a, x, upsample, information, lambda u, v: expected(u, v, bins))


@pytest.mark.parametrize("estimator", get_args(module.Estimator))
@pytest.mark.parametrize("upsample", get_args(module.Upsampling))
class TestProperties:
    def test_not_negative_and_zero_for_constants(self, estimator, upsample):
        a, x = make((3, 4), (13, 17))
        information = mutual_information(a, x, estimator=estimator, upsample=upsample)
        assert information.shape == (2, 5)
        assert (information >= 0).all()
        if estimator != "knn":  # which adds noise
            assert information[0, 1] == information[1, 2] == 0
            assert (information[0] > 0).sum() == (information[1] > 0).sum() == 4
            assert (mutual_information(a, torch.full_like(x, 0.1), estimator=estimator, upsample=upsample) == 0).all()

    def test_neither_scale_nor_shift_matters(self, estimator, upsample):
        if (estimator, upsample) == ("discrete", "bilinear"):
            pytest.skip("which interpolated values are equal is a matter of rounding")
        a, x = make((3, 4), (13, 17))
        expected = mutual_information(a, x, estimator=estimator, upsample=upsample)
        moved = mutual_information(4 * a - 2, 0.5 * x + 8, estimator=estimator, upsample=upsample)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6 if estimator == "knn" else 1e-12)

    def test_parts_give_the_same(self, estimator, upsample, monkeypatch):
        a, x = make((3, 4), (13, 17))
        expected = mutual_information(a, x, estimator=estimator, upsample=upsample)
        monkeypatch.setattr(module, "_LARGEST", 1)
        torch.testing.assert_close(mutual_information(a, x, estimator=estimator, upsample=upsample), expected)

    def test_rank_of_dependence(self, estimator, upsample):
        """Noise takes away what a channel knows of the image, and all estimators see how much."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, 1, 32, 32, generator=generator, dtype=torch.float64)
        noise = torch.randn(1, 8, 32, 32, generator=generator, dtype=torch.float64)
        a = x + noise * torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0, 1e6]).view(1, 8, 1, 1)
        if estimator == "discrete":
            a = maps.normalise(a[0]).mul(8).round()[None]
        information = mutual_information(a, x, estimator=estimator, upsample=upsample, bins=8)[0]
        theirs = mutual_info_regression(a.flatten(2)[0].T.numpy(), x.flatten().numpy(), random_state=0)
        assert spearmanr(information, theirs).statistic > 0.9
        assert information[0] > 2 * information[-1]


@pytest.mark.parametrize("bins", [8, 64])
def test_symmetry(bins):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 1, 9, 11, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mutual_information(a, b, bins=bins), mutual_information(b, a, bins=bins))


def test_knn_equals_sklearn_on_all_pixels():
    a, x = make((3, 4), (12, 16))
    information = mutual_information(a, x, estimator="knn", pixels=10_000)
    order = torch.randperm(12 * 16, generator=torch.Generator().manual_seed(0)).numpy()
    for n in range(2):
        features = enlarge(a, (12, 16), "nearest")[n].T[order]
        image = grey(x)[n].flatten().numpy()[order]
        np.testing.assert_allclose(information[n], mutual_info_regression(features, image, random_state=0), atol=1e-12)
    assert not torch.equal(mutual_information(a, x, estimator="knn", pixels=50), information)


def test_single_precision():
    a, x = make((7, 7), (64, 64))
    for estimator in ("histogram", "discrete"):
        exact = mutual_information(a, x, estimator=estimator)
        single = mutual_information(a.float(), x.float(), estimator=estimator)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=2e-3)  # values at the edges of bins
    counted = mutual_information((8 * a).round().float(), (8 * x[:, :1]).round().float(), bins=16)
    # A sum of up to 256 float32 numbers below 3; a value in another bin would move it by 1e-4.
    torch.testing.assert_close(
        counted.double(), mutual_information((8 * a).round(), (8 * x[:, :1]).round(), bins=16), rtol=0, atol=1e-5
    )


class TestMIGradCAM:
    def make(self, name="plain", **hyper):
        setting = make_setting(name)
        return Probe(setting.model, setting.layers[0], setting.x, **setting.options), METHODS["MIGradCAM"](**hyper)

    def test_weights_are_grad_cams_times_the_share_of_information(self):
        probe, method = self.make()
        shares = method.channel_information(probe)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(3))
        expected = mutual_information(probe.activations, probe.x)
        torch.testing.assert_close(shares, expected / expected.sum(dim=1, keepdim=True))
        weights = METHODS["GradCAM"]().channel_weights(probe) * shares
        torch.testing.assert_close(method.channel_weights(probe), weights)
        torch.testing.assert_close(method(probe), weights[:, :, None, None] * probe.activations)

    def test_options_reach_the_estimate(self):
        probe, method = self.make()
        seen = [method.channel_information(probe)]
        for hyper in ({"bins": 8}, {"estimator": "discrete"}, {"upsample": "bilinear"}, {"estimator": "knn"}):
            seen.append(METHODS["MIGradCAM"](**hyper).channel_information(probe))
        seen.append(METHODS["MIGradCAM"](estimator="knn", seed=1).channel_information(probe))
        for number, shares in enumerate(seen):
            assert not any(torch.allclose(shares, other, rtol=0, atol=1e-6) for other in seen[:number])

    def test_discrete_is_grad_cam_where_all_values_differ(self):
        probe, method = self.make(estimator="discrete")
        assert all(len(plane.unique()) == plane.numel() for plane in probe.activations.flatten(0, 1))
        expected = METHODS["GradCAM"]()(probe)
        size = tuple(probe.x.shape[2:])
        torch.testing.assert_close(maps.input_map(method(probe), size), maps.input_map(expected, size))

    def test_no_information_leaves_grad_cam_and_warns(self):
        setting = make_setting("plain")
        x = setting.x.clone()
        x[1] = 0.5
        probe = Probe(setting.model, setting.layers[0], x)
        with pytest.warns(UserWarning, match="no channel shares information with the image in sample 1"):
            weights = METHODS["MIGradCAM"]().channel_weights(probe)
        plain = METHODS["GradCAM"]().channel_weights(probe)
        torch.testing.assert_close(weights[1], plain[1] / 7)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            METHODS["MIGradCAM"]().channel_weights(self.make()[0])

    @pytest.mark.parametrize(
        ("activation", "function"),
        [
            ("leaky_relu", lambda v: v if v > 0 else 0.01 * v),
            ("sigmoid", lambda v: 1 / (1 + np.exp(-v))),
            ("elu", lambda v: v if v > 0 else np.exp(v) - 1),
        ],
    )
    def test_activation(self, activation, function):
        setting = make_setting("plain")
        setting.model.double()
        probe = Probe(setting.model, setting.layers[0], setting.x.double())
        method = METHODS["MIGradCAM"](activation=activation)
        summed = METHODS["MIGradCAM"]()(probe).sum(dim=1)
        assert (summed < 0).any()
        activated = torch.from_numpy(np.vectorize(function)(summed.numpy()))
        torch.testing.assert_close(maps.layer_map(method(probe)), maps.normalise(activated), rtol=0, atol=1e-9)

    @pytest.mark.parametrize(
        ("hyper", "match"),
        [
            ({"estimator": "parzen"}, "estimator must be one of 'histogram', 'discrete', 'knn'"),
            ({"upsample": "cubic"}, "upsample must be one of 'nearest', 'bilinear'"),
            ({"activation": "tanh"}, "activation must be one of 'relu'"),
            ({"bins": 1}, "bins must be 2 or more; got 1"),
        ],
    )
    def test_bad_hyper_parameters(self, hyper, match):
        with pytest.raises(ValueError, match=match):
            METHODS["MIGradCAM"](**hyper)


class TestBadInput:
    a, x = make((3, 4), (12, 16))

    def test_shapes(self):
        for x in (self.x[0], self.x[:1], self.x[..., 0]):
            with pytest.raises(ValueError, match="as many spatial dimensions"):
                mutual_information(self.a, x)

    def test_not_finite(self):
        bad = self.a.clone()
        bad[1, 2, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="the feature map is NaN or infinite in sample 1"):
            mutual_information(bad, self.x)


@pytest.mark.gpu
@pytest.mark.parametrize("upsample", get_args(module.Upsampling))
@pytest.mark.parametrize("estimator", get_args(module.Estimator))
def test_on_the_gpu(estimator, upsample):
    a, x = make((3, 4), (13, 17))
    expected = mutual_information(a, x, estimator=estimator, upsample=upsample)
    information = mutual_information(a.cuda(), x.cuda(), estimator=estimator, upsample=upsample)
    assert information.is_cuda
    torch.testing.assert_close(information.cpu(), expected, rtol=0, atol=1e-9)
