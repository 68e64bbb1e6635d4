"""Score-CAM, SS-CAM and IS-CAM: the same as the other libraries', and no pass more than needed."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from nets import CLASSES, CNN
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from reference import is_cam, score_cam, ss_cam
from torch import nn

from cam_extras import pytorch_grad_cam
from cam_extras.maps import layer_map
from cam_extras.methods import ISCAM, SSCAM, ScoreCAM
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical
TARGETS = [1, 0, 3]


def make(double=True):
    torch.manual_seed(1)
    model, x = CNN().eval(), torch.randn(3, 3, 12, 16)
    model.classifier.weight.data *= 5  # so that the weights differ
    return (model.double(), x.double()) if double else (model, x)


def of_torchcam(name, model, x, **options):
    torchcam = pytest.importorskip("torchcam.methods")
    with getattr(torchcam, name)(model, "layer", **options) as cam:
        with torch.no_grad():
            model(x)
        (maps,) = cam(TARGETS)
    return maps


def test_equals_that_of_pytorch_grad_cam():
    model, x = make(double=False)
    expected = upstream.ScoreCAM(model, [model.layer])(x, [ClassifierOutputTarget(c) for c in TARGETS])
    found = pytorch_grad_cam.ScoreCAM(model, "layer")(x, TARGETS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    other = pytorch_grad_cam.ScoreCAM(model, "layer", variant="torch-cam")(x, TARGETS)
    assert abs(other - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("ScoreCAM", ScoreCAM(variant="torch-cam"), {}),
        ("ISCAM", ISCAM(n_samples=4), {"num_samples": 4}),
        ("SSCAM", SSCAM(n_samples=3, noise=0.5), {"num_samples": 3, "std": 0.5}),
    ],
)
def test_equals_those_of_torchcam(name, method, options, monkeypatch):
    model, x = make()
    if name == "SSCAM":
        drawn = iter(method.changes(x))

        def sample(self, shape):
            return next(drawn)(torch.zeros(shape, dtype=x.dtype).flatten(0, 1)).reshape(shape)

        monkeypatch.setattr(torch.distributions.normal.Normal, "sample", sample)
    expected = of_torchcam(name, model, x, **options)
    found = layer_map(method(Probe(model, model.layer, x, target=TARGETS)))
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-6)


def test_options_by_their_references():
    model, x = make()
    probe = Probe(model, model.layer, x, target=TARGETS)
    cases = [
        (ScoreCAM(variant="torch-cam", fill=0.5), score_cam, {"variant": "torch-cam", "fill": 0.5}),
        (SSCAM(n_samples=2, noise=0.3, seed=5), ss_cam, {"n": 2, "noise": 0.3, "seed": 5}),
        (ISCAM(n_samples=3, path="linear"), is_cam, {"n": 3, "path": "linear"}),
    ]
    for method, reference, options in cases:
        found = method(probe)
        for n, c in enumerate(TARGETS):
            expected = reference(None, probe.activations[n], c, x[n], model, **options)
            torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-12)


class Rows(nn.Module):
    """The rows of every forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x, *args):
        self.rows.append(len(x))
        return self.model(x)


@pytest.mark.parametrize(("method", "steps"), [(ScoreCAM, 1), (SSCAM, 2), (ISCAM, 2)])
def test_every_different_mask_is_scored_once_and_in_bounded_passes(method, steps):
    model, x = make()
    with torch.no_grad():
        for constant in (1, 4):
            model.layer.weight[constant], model.layer.bias[constant] = 0, constant
        model.layer.weight[5], model.layer.bias[5] = model.layer.weight[2], model.layer.bias[2]
    options = {} if steps == 1 else {"n_samples": steps}
    counted = Rows(model)
    probe = Probe(counted, model.layer, x, target=TARGETS)
    found = method(**options, internal_batch_size=4).channel_weights(probe)
    assert counted.rows == [3, *[4, 4, 4, 3] * steps]  # five different ones of seven, for three images
    torch.testing.assert_close(found[:, 1], found[:, 4], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 2], found[:, 5], rtol=0, atol=0)
    plain = Probe(model, model.layer, x, target=TARGETS)
    for n in range(3):
        alone = Probe(model, model.layer, x[n : n + 1], target=TARGETS[n])
        torch.testing.assert_close(method(**options).channel_weights(alone)[0], found[n])
    of_the_batch = plain.with_utility(lambda y: y.gather(1, torch.tensor(TARGETS)[:, None]))
    whole_batch = method(**options).channel_weights(of_the_batch)
    torch.testing.assert_close(whole_batch, found)


def test_with_additional_arguments():
    model, x = make()

    def scaled(images, scale):
        return model(images) * scale[:, None]

    scale = torch.tensor([1.0, 2.0, -3.0]).double()
    together = ScoreCAM()(Probe(scaled, model.layer, x, target=TARGETS, additional_forward_args=(scale,)))
    for n, target in enumerate(TARGETS):
        alone = Probe(lambda images, n=n: model(images) * scale[n], model.layer, x[n : n + 1], target=target)
        torch.testing.assert_close(together[n : n + 1], ScoreCAM()(alone))


def test_any_size_and_number_of_dimensions():
    torch.manual_seed(0)
    for dims, size in ((1, (20,)), (3, (8, 9, 7))):
        model, x = CNN(dims=dims).eval(), torch.randn(2, 3, *size)
        assert ScoreCAM().maps(Probe(model, model.layer, x)).shape == (2, *size)


def test_progress(capsys):
    model, x = make()
    probe = Probe(model, model.layer, x, target=0)
    ScoreCAM()(probe)
    assert capsys.readouterr().out == ""
    ScoreCAM(progress=True)(probe)
    assert "ScoreCAM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make_method", "told"),
    [
        (lambda: ScoreCAM(variant="paper"), "variant must be one of 'pytorch-grad-cam', 'torch-cam'"),
        (lambda: ScoreCAM(fill="black"), "fill must be a number or a"),
        (lambda: SSCAM(noise=-1), "noise must be a finite number, 0 or more; got -1"),
        (lambda: SSCAM(n_samples=0), "n_samples must be"),
        (lambda: ISCAM(path="squared"), "path must be one of 'accumulated', 'linear'"),
    ],
)
def test_mistakes(make_method, told):
    with pytest.raises((ValueError, TypeError), match=told):
        make_method()


def test_classes_that_the_model_lacks():
    model, x = make()
    with pytest.raises(ValueError, match=rf"class indices must lie in \[0, {CLASSES}\); got 7"):
        ScoreCAM()(Probe(model, model.layer, x, target=7))
