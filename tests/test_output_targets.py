"""A region, a likeness and a number as targets: against pytorch-grad-cam, plain formulas, and in every host."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from hosts import CAPTUM
from nets import CNN
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import nn

import cam_extras.pytorch_grad_cam as pgc_host
import cam_extras.quantus as quantus_host
from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.probe import Probe
from cam_extras.targets import Contrast, Region, Similarity, Value
from cam_extras.utilities import Logit


class Segmenter(nn.Module):
    """Scores (N, 3, H, W)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 1))

    def forward(self, x):
        return self.head(self.layer(x))


class Embeds(CNN):
    """Embeddings (N, 8)."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Identity()


class Number(CNN):
    """One number per sample."""

    def forward(self, x):
        return super().forward(x)[:, 0]


X = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(1)) > 0.7


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def region():
    return made(Segmenter), [Region(1, mask) for mask in MASKS]


def likeness():
    model = made(Embeds)
    return model, Similarity(model(X.roll(1, 0)).detach())


def number():
    return made(Number), Value(low=-1, high=1)


CASES = pytest.mark.parametrize("make", [region, likeness, number])


@CASES
def test_maps_are_the_same_in_every_host(make):
    model, target = make()
    each = target if isinstance(target, list) else target.each(3)
    expected = pgc_host.HiResCAM(model, [model.layer])(X, target)
    assert (expected.reshape(3, -1).max(axis=1) > 0.99).all()
    larger = [lambda output, one=one: 1000 * one(output) for one in each]  # they add a small number to the maximum
    found = {
        "a list": pgc_host.HiResCAM(model, [model.layer])(X, each),
        "their class": upstream.HiResCAM(model, [model.layer])(X, larger),
        "Captum": input_map(CAPTUM["HiResCAM"](model, model.layer).attribute(X, target).detach(), (20, 24)),
        "Quantus": quantus_host.explain("HiResCAM", layer="layer", batch_size=2)(model, X, target)[:, 0],
        "Evaluator": Evaluator(model, model.layer, "HiResCAM", ["complexity"])(X, target).maps["HiResCAM"],
    }
    for host, maps in found.items():
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4, err_msg=host)


@CASES
def test_divisible_and_picklable(make):
    model, target = make()
    probe = Probe(model, model.layer, X, target=target)
    whole = probe.utility(X)
    for chosen in ([2, 0], [1]):
        samples = torch.tensor(chosen)
        torch.testing.assert_close(probe.utility(X[samples], samples), whole[samples])
        torch.testing.assert_close(probe.at(X[samples], samples).gradients, probe.gradients[samples])
    assert torch.equal(Probe(model, model.layer, X, target=pickle.loads(pickle.dumps(target))).utility(X), whole)


@CASES
def test_confidence_of_metrics(make):
    """The curve of deletion, in loops over samples and steps."""
    model, target = make()
    found = Evaluator(model, model.layer, "HiResCAM", ["deletion", "average_drop", "hci"])(X, target)
    each = target if isinstance(target, list) else target.each(3)
    curve = found.curves["HiResCAM"]["deletion_curve"]
    with torch.no_grad():
        for n, one in enumerate(each):
            assert found.confidence[n].item() == pytest.approx(one.confidence(model(X)[n]).item(), abs=1e-6)
            ranks = found.maps["HiResCAM"][n].flatten().argsort(descending=True, stable=True).argsort().reshape(20, 24)
            for fraction, score in zip(curve.fractions.tolist(), curve.scores[n].tolist(), strict=True):
                left = X[n] * (ranks >= round(fraction * 20 * 24))
                assert score == pytest.approx(one.confidence(model(left[None])[0]).item(), abs=1e-5)


class TestRegion:
    def test_equals_pytorch_grad_cams(self):
        model = made(Segmenter)
        for name in ("GradCAM", "HiResCAM"):
            theirs = [SemanticSegmentationTarget(2, mask.float().numpy()) for mask in MASKS]
            expected = getattr(upstream, name)(model, [model.layer])(X, theirs)
            ours = getattr(pgc_host, name)(model, [model.layer])(X, [Region(2, mask) for mask in MASKS])
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("utility", "probability"), [("logit", "softmax"), ("rest", "sigmoid")])
    def test_means(self, utility, probability):
        scores = torch.randn(3, 4, 5, dtype=torch.float64)
        weights = torch.rand(4, 5, dtype=torch.float64)
        values, sure, total = 0, 0, 0
        for i in range(4):
            for j in range(5):
                p = scores[:, i, j].exp() / scores[:, i, j].exp().sum()
                values += weights[i, j] * (scores[1, i, j] + (p[1].log() if utility == "rest" else 0))
                sure += weights[i, j] * (p[1] if probability == "softmax" else 1 / (1 + (-scores[1, i, j]).exp()))
                total += weights[i, j]
        target = Region(1, weights, utility=utility, probability=probability)
        torch.testing.assert_close(target(scores), values / total)
        torch.testing.assert_close(target.confidence(scores), sure / total)

    def test_the_shapley_family(self):
        """With the logit plus the log probability; the mask's own target is not divided by class."""
        model = made(Segmenter)
        targets = [Region(1, mask, utility="rest") for mask in MASKS]
        mine = [lambda output, mask=mask: (output + output.log_softmax(0))[1][mask].mean() for mask in MASKS]
        maps = [pgc_host.ShapleyCAM(model, [model.layer])(X, given) for given in (targets, mine)]
        np.testing.assert_allclose(*maps, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda: Region(0, torch.zeros(2, 2)), ValueError, "not only 0"),
            (lambda: Region(0, -torch.ones(2, 2)), ValueError, "0 or more"),
            (lambda: Region(0, torch.ones(2, 2), utility="logits"), ValueError, "utility must be one of"),
            (lambda: Region(0, MASKS[0])(torch.zeros(3, 6, 8)), ValueError, r"expected \(6, 8\).* got \(20, 24\)"),
            (lambda: Region(3, MASKS[0])(torch.zeros(3, 20, 24)), ValueError, r"must lie in \[0, 3\); got 3"),
            (lambda: Region(0, MASKS[0]).confidence(torch.zeros(1, 20, 24)), ValueError, "softmax of one class"),
        ],
    )
    def test_bad_arguments(self, make, error, match):
        with pytest.raises(error, match=match):
            make()

    def test_flips_would_move_it(self):
        model, targets = region()
        with pytest.raises(ValueError, match="aug_smooth flips the image"):
            pgc_host.GradCAM(model, [model.layer])(X, targets, aug_smooth=True)


class TestSimilarity:
    def test_is_the_cosine(self):
        a, b = torch.randn(2, 5, dtype=torch.float64)
        expected = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
        assert Similarity(a)(b).item() == pytest.approx(expected, rel=1e-9)
        assert Similarity(a).confidence(b).item() == pytest.approx((1 + expected) / 2, rel=1e-9)
        assert Similarity(a[None])(b).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda: Similarity([1.0]), TypeError, "must be a torch.Tensor"),
            (lambda: Similarity(torch.ones(3).long()), TypeError, "floating point"),
            (lambda: Similarity(torch.tensor([[1.0, 0], [0, 0]])), ValueError, "no direction.* in sample 1"),
            (lambda: Similarity(torch.ones(3))(torch.ones(4)), ValueError, r"shape \(4,\).* with \(3,\)"),
        ],
    )
    def test_bad_arguments(self, make, error, match):
        with pytest.raises(error, match=match):
            make()


class TestValue:
    def test_a_scalar_output_needs_no_target(self):
        model, target = number()
        plain = pgc_host.GradCAM(model, [model.layer])(X)
        np.testing.assert_allclose(pgc_host.GradCAM(model, [model.layer])(X, target), plain, rtol=0, atol=1e-6)

    def test_metrics_need_a_scale(self):
        model, _ = number()
        with pytest.raises(ValueError, match=r"no probability: give Value\(..., low=, high=\)"):
            Evaluator(model, model.layer, "GradCAM", ["average_drop"])(X, Value())

    def test_direction(self):
        assert Value(low=10, high=0).confidence(torch.tensor(2.0)).item() == pytest.approx(0.8)
        assert Value(1, low=0, high=1).confidence(torch.tensor([0.0, 7.0])).item() == 1

    @pytest.mark.parametrize("options", [{"low": 1}, {"low": 1, "high": 1}])
    def test_bad_scale(self, options):
        with pytest.raises(ValueError, match="give both low and high"):
            Value(**options)


def test_classes_and_boxes_do_not_mix():
    """In a batch, metrics measure either probabilities of classes or the targets' own confidence."""
    model = made(CNN)
    with pytest.raises(TypeError, match="must all be class targets, or all tell a confidence"):
        Evaluator(model, model.layer, "GradCAM", ["average_drop"])(
            X, [Contrast(1, 2), Value(low=0, high=1), Contrast()]
        )
    with pytest.raises(TypeError, match="must all be class targets"):
        Evaluator(model, model.layer, "GradCAM", ["average_drop"])(X, [Contrast(1, 2), Logit(1), Contrast()])
