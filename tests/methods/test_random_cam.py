"""Random-CAM: every sample has weights of its own, whatever batch, layout, device default or generator there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import CNN
from scipy.stats import kstest

from cam_extras import quantus
from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.methods import METHODS, FakeCAM, GradCAM, RandomCAM
from cam_extras.methods.random_cam import random_weights
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import UPSTREAM, Upstream, upstream_maps

CLASSES = torch.tensor([1, 0, 4])


@pytest.fixture
def setting():
    model = CNN().eval()
    return model, model.layer, torch.randn(3, 3, 12, 16)


def weights_of(x, channels=400, seed=0):
    return random_weights(x, channels, seed)


def alike(a, b):
    """The correlation of the weights of two samples: of independent ones, 0.05 is a standard deviation."""
    return np.corrcoef(a.numpy(), b.numpy())[0, 1]


class TestWeights:
    def test_are_uniform(self):
        for row in weights_of(torch.randn(5, 3, 8, 8), 20_000):
            assert kstest(row.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-4

    def test_of_a_sample_are_the_same_in_every_batch_and_at_every_call(self):
        x = torch.randn(6, 3, 24, 32)
        together = weights_of(x)
        for n in range(6):
            assert torch.equal(weights_of(x[n : n + 1])[0], together[n])
        order = torch.tensor([4, 1, 1, 5])
        assert torch.equal(weights_of(x[order]), together[order])

    def test_differ_between_samples_their_masked_images_and_seeds(self):
        x = torch.randn(4, 3, 24, 32)
        mask = torch.zeros(24, 32)
        mask[6:18, 8:24] = 1
        everything = torch.cat([x, x * mask, x.flip(3), 1.5 * x, x + 1])
        rows = torch.cat([weights_of(everything), weights_of(everything, seed=1)])
        correlations = np.corrcoef(rows.numpy())
        np.fill_diagonal(correlations, 0)
        assert np.abs(correlations).max() < 0.4

    def test_are_those_of_the_values_whatever_their_layout_and_type(self):
        x = torch.randn(2, 3, 24, 32).bfloat16().float()
        expected = weights_of(x)
        strided = torch.zeros(2, 3, 24, 64)[..., ::2]
        strided.copy_(x)
        turned = x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
        for same in (x.to(memory_format=torch.channels_last), strided, turned, x.double(), x.bfloat16()):
            assert torch.equal(weights_of(same), expected)
        assert torch.equal(weights_of(x.clone().requires_grad_()), expected)

    def test_do_not_depend_on_defaults_and_generators(self):
        x = torch.randn(2, 3, 24, 32)
        expected = weights_of(x)
        torch.randn(5)
        np.random.rand(5)  # noqa: NPY002
        try:
            torch.set_default_dtype(torch.float64)
            with torch.device("meta"), torch.inference_mode():
                found = weights_of(x)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, expected)

    def test_rounding_errors_hardly_change_them(self):
        """A masked image is computed: its last bits are not the same in every batch."""
        x = torch.randn(3, 3, 24, 32)
        nearly = x * (1 + 2**-22 * torch.randn_like(x))
        assert not torch.equal(nearly, x)
        torch.testing.assert_close(weights_of(nearly), weights_of(x), rtol=0, atol=1e-4)

    def test_of_nothing(self):
        assert weights_of(torch.zeros(2, 3, 4, 4)).isfinite().all()
        assert weights_of(torch.full((1, 1, 2, 2), 1e-320, dtype=torch.float64)).isfinite().all()


class TestMethod:
    def test_weighs_each_sample_with_its_own(self, setting):
        model, layer, x = setting
        probe = Probe(model, layer, x, target=CLASSES)
        maps = RandomCAM(seed=3)(probe)
        weights = weights_of(x, probe.activations.shape[1], seed=3).float()
        torch.testing.assert_close(maps, weights[:, :, None, None] * probe.activations)

    def test_scores_are_the_same_alone_and_in_a_batch(self, setting):
        model, layer, x = setting
        evaluator = Evaluator(model.double(), layer, {"RandomCAM": RandomCAM()}, ["coherency", "average_drop"])
        together = evaluator(x.double()).scores["RandomCAM"]
        for n in range(len(x)):
            for name, values in evaluator(x[n : n + 1].double()).scores["RandomCAM"].items():
                assert values.item() == pytest.approx(together[name][n].item(), abs=1e-9)

    def test_the_masked_image_has_other_weights(self, setting):
        """With the same ones coherency would be high for nothing."""
        model, layer, x = setting
        probe = Probe(model, layer, x, target=CLASSES)
        method = RandomCAM()
        maps = input_map(method(probe), (12, 16))
        masked = method.channel_weights(probe.at(x * maps[:, None]))
        assert (method.channel_weights(probe) - masked).abs().mean(dim=1).min() > 0.1


class TestUpstream:
    def test_draws_the_weights_of_ours(self, setting):
        model, layer, x = setting
        maps = upstream_maps(UPSTREAM["RandomCAM"], model, layer, x, CLASSES)
        ours = input_map(RandomCAM()(Probe(model, layer, x, target=CLASSES)), (12, 16))
        np.testing.assert_allclose(maps, ours, rtol=0, atol=1e-5)

    def test_of_a_sample_is_the_same_in_every_batch_and_whatever_numpy_has_drawn(self, setting):
        model, layer, x = setting
        together = upstream_maps(UPSTREAM["RandomCAM"], model, layer, x, CLASSES)
        np.random.rand(5)  # noqa: NPY002
        for n in (2, 0):
            alone = upstream_maps(UPSTREAM["RandomCAM"], model, layer, x[n : n + 1], CLASSES[n : n + 1])
            np.testing.assert_allclose(alone[0], together[n], rtol=0, atol=1e-5)

    def test_in_quantus(self, setting):
        model, _, x = setting
        explainer = quantus.explain(UPSTREAM["RandomCAM"], layer="layer")
        together = explainer(model, x.numpy(), CLASSES.numpy())
        np.random.rand(5)  # noqa: NPY002
        alone = explainer(model, x[2:].numpy(), CLASSES[2:].numpy())
        np.testing.assert_allclose(alone[0], together[2], rtol=0, atol=1e-5)


def test_which_methods_are_controls():
    assert {name for name, method in METHODS.items() if method.control} == {"FakeCAM", "RandomCAM"}
    assert FakeCAM().control
    assert not GradCAM().control
    assert [name for name in UPSTREAM if Upstream(cam=name).control] == ["RandomCAM"]
