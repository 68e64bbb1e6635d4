"""ROAD, ARCC and SaCo: the same as pytorch-grad-cam's, and what a random map and a perfect one score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import CNN
from pytorch_grad_cam import GradCAM as TheirGradCAM
from pytorch_grad_cam.metrics import arcc as their_arcc
from pytorch_grad_cam.metrics import road as theirs
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from reference import imputed

from cam_extras.evaluation import Evaluator
from cam_extras.methods import GradCAM
from cam_extras.metrics import impute, road, saco

pytestmark = pytest.mark.numerical
CLASSES = [1, 0, 3]


def make():
    torch.manual_seed(0)
    model, x = CNN().eval(), torch.randn(3, 3, 12, 16)
    model.classifier.weight.data *= 40  # so that the confidence depends on the image
    maps = torch.rand(3, 12, 16)

    def confidence(images, samples):
        with torch.no_grad():
            return model(images).softmax(1).gather(1, torch.tensor(CLASSES)[samples, None])[:, 0]

    return model, x, maps, confidence


@pytest.fixture
def without_noise(monkeypatch):
    monkeypatch.setattr(theirs.NoisyLinearImputer.__init__, "__defaults__", (0.0, theirs.neighbors_weights))


def test_road_equals_that_of_pytorch_grad_cam(without_noise):
    model, x, maps, confidence = make()
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    for percentiles in ([10, 20, 30, 40, 50, 60, 70, 80, 90], [33, 77.7]):
        expected = theirs.ROADCombined(percentiles)(x, maps.numpy(), targets, model)
        found = road(x, maps, confidence, road_percentiles=percentiles, road_noise=0.0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    assert abs(found).max() > 1e-3


def test_arcc_equals_that_of_pytorch_grad_cam(without_noise):
    model, x, _, _ = make()
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    of_logits = [ClassifierOutputTarget(c) for c in CLASSES]
    base = TheirGradCAM(model, [model.layer])
    maps = base(x, of_logits)

    def of_the_logit(input_tensor, targets):
        return base(input_tensor, of_logits)

    result = Evaluator(model, model.layer, {"GradCAM": GradCAM()}, ["arcc", "road"], {"road_noise": 0.0})(x, CLASSES)
    untied = [n for n, h in enumerate(maps) if (h == 0).mean() < 0.2]  # theirs removes all pixels of others
    expected = their_arcc.ARCC(of_the_logit)(x, maps, targets, model)
    found = result.scores["GradCAM"]["arcc"].numpy()
    assert found[untied].max() > 0
    np.testing.assert_allclose(found[untied], expected[untied], rtol=0, atol=1e-4)


def test_imputed_pixels_solve_their_equations():
    torch.manual_seed(0)
    image, missing = torch.randn(3, 7, 6, dtype=torch.float64), torch.rand(7, 6) < 0.7
    torch.testing.assert_close(impute(image, missing), imputed(image, missing), rtol=0, atol=1e-12)
    assert torch.equal(impute(image, torch.zeros(7, 6, dtype=torch.bool)), image)
    with pytest.raises(ValueError, match="all pixels are missing"):
        impute(image, torch.ones(7, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected an image \(C, H, W\) and what is missing \(H, W\); got"):
        impute(image[None], missing)


def test_noise_is_the_same_for_every_image_and_batch():
    _, x, maps, confidence = make()
    together = road(x, maps, confidence, road_noise=0.5, internal_batch_size=5)
    alone = [
        road(
            x[n : n + 1], maps[n : n + 1], lambda images, samples, n=n: confidence(images, samples + n), road_noise=0.5
        )
        for n in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together - road(x, maps, confidence, road_noise=0.0)).abs().max() > 1e-4


def test_saco_of_what_matters_and_of_its_opposite():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 10, 10, dtype=torch.float64)
    weights = torch.rand(10, 10, dtype=torch.float64)
    matter = ((x - x.mean(dim=(2, 3), keepdim=True))[:, 0] * weights) / 10  # of a linear model
    low, high = matter.amin((1, 2), True), matter.amax((1, 2), True)
    maps = (matter - low) / (high - low)

    def confidence(images, samples):
        return 0.5 + (images[:, 0] * weights).sum(dim=(1, 2)) / 1000

    torch.testing.assert_close(saco(x, maps, confidence), torch.ones(4).double())
    torch.testing.assert_close(saco(x, 1 - maps, confidence), -torch.ones(4).double())
    assert saco(x, torch.rand(4, 10, 10).double(), confidence).abs().max() < 0.9
    assert (saco(x, torch.full((4, 10, 10), 0.3).double(), confidence, groups=7) == 0).all()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x, maps, f: road(x, maps, f, road_percentiles=[0, 50]), "one or more numbers between 0 and 100"),
        (lambda x, maps, f: road(x, maps[:, :5], f), r"expected maps of shape \(3, 12, 16\)"),
        (lambda x, maps, f: road(x.flatten(2), maps.flatten(1), f), r"ROAD is for images .* \(3, 3, 192\)"),
        (lambda x, maps, f: road(x, 2 * maps, f), r"the map must lie in \[0, 1\]"),
        (lambda x, maps, f: saco(x, maps, f, groups=1), "groups must be 2 or more, and at most the 192 pixels"),
        (lambda x, maps, f: saco(x, maps[:, :5], f), r"expected maps of shape \(3, 12, 16\)"),
    ],
)
def test_mistakes(call, told):
    _, x, maps, confidence = make()
    with pytest.raises(ValueError, match=told):
        call(x, maps, confidence)
