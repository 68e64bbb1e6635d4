"""Ablation-CAM: what runs, on how many rows, and that it is exact wherever a model's parts reach its output."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from nets import CLASSES, CNN, TinyViT
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from reference import ablation_cam
from state import untouched
from torch import nn

from cam_extras import pytorch_grad_cam
from cam_extras.methods import AblationCAM
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical


class Net(nn.Module):
    """A layer after a ReLU; subclasses lead something around it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.conv = nn.Conv2d(6, 7, 3, padding=1)
        self.layer = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Conv2d(7, 8, 3, padding=1), nn.GELU())
        self.classifier = nn.Linear(8, CLASSES)
        nn.init.constant_(self.classifier.bias, 2)  # positive logits

    def around(self, x, features):
        return 0

    def forward(self, x, scale=None):
        below = self.stem(x)
        features = self.layer(self.conv(below))
        logits = self.classifier(self.head(features).mean(dim=(2, 3)) + self.around(x, below))
        return logits if scale is None else logits * scale[:, None]


class Around(Net):
    """A skip connection: of another batch size than what is above the layer."""

    def around(self, x, below):
        return below.mean(dim=(2, 3)).repeat(1, 2)[:, :8]


class Broadcast(Net):
    """One row of this fits any number of rows, without an error."""

    def around(self, x, below):
        return below.mean(dim=(2, 3)).sum(dim=1, keepdim=True)


class BySize(Net):
    """What is above the layer depends on the size of the input."""

    def around(self, x, below):
        return below.shape[-1] / 10


class Shared(Net):
    """One module below the layer, twice at other sizes, and above it, where it must run."""

    def forward(self, x):
        below = self.stem(self.relu(x))
        below = self.relu(self.relu(below - 0.1) - 0.1)
        return self.classifier(self.relu(self.head(self.layer(self.conv(below)))).mean(dim=(2, 3)))


def make(kind=Net, double=True):
    torch.manual_seed(1)
    model = kind().eval()
    x = torch.randn(3, 3, 40, 36)
    return (model.double(), x.double()) if double else (model, x)


def by_whole_passes(model, x, target):
    """w_k A_k with every ablation in a hook of a pass of its own."""
    out = []
    for n in range(len(x)):
        replaced = {}

        def hook(module, args, output, replaced=replaced):
            replaced.setdefault("seen", output.detach().clone())
            output = output.clone()
            for k, value in replaced.get("set", {}).items():
                output[:, k] = value
            return output

        handle = model.layer.register_forward_hook(hook)
        with torch.no_grad():
            whole = model(x[n : n + 1])[0, target]
            a = replaced["seen"][0]
            weights = []
            for k in range(len(a)):
                replaced["set"] = {k: 0.0}
                weights.append((whole - model(x[n : n + 1])[0, target]) / whole.abs())
        handle.remove()
        out.append(torch.stack(weights)[:, None, None] * a)
    return torch.stack(out)


class Rows:
    """Counts the rows that go through a module in every call."""

    def __init__(self, module):
        self.rows = []
        module.register_forward_pre_hook(lambda module, args: self.rows.append(len(args[0])))


@pytest.mark.parametrize("targets", [None, [1, 0, 3]])
def test_equals_that_of_pytorch_grad_cam(targets):
    model, x = make(double=False)
    theirs = upstream.AblationCAM(model, [model.layer])
    with torch.no_grad():
        assert (model(x) > 0.1).all()
    expected = theirs(x, None if targets is None else [ClassifierOutputTarget(c) for c in targets])
    found = pytorch_grad_cam.AblationCAM(model, "layer")(x, targets)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Net, Around, Broadcast, BySize, Shared])
@pytest.mark.parametrize("samples", [1, 3])
def test_exact_whatever_reaches_the_output(kind, samples):
    model, x = make(kind)
    probe = Probe(model, model.layer, x[:samples], target=2)
    expected = by_whole_passes(model, x[:samples], 2)
    torch.testing.assert_close(AblationCAM()(probe), expected, rtol=1e-9, atol=1e-12)
    assert probe.separable == (kind not in (Around, Broadcast))


def test_what_depends_on_the_size_runs_at_that_size():
    model, x = make(BySize)
    probe = Probe(model, model.layer, x)
    assert probe.separable
    assert probe._recording.stand_in(0).image.shape == (1, 3, 40, 36)
    model, x = make(Net)
    assert Probe(model, model.layer, x)._recording.stand_in(0).image.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("replacement", ["zero", "mean", "minimum"])
def test_replacements(replacement):
    model, x = make()
    with torch.no_grad():
        model.conv.bias += 0.5  # so that the smallest value is not always 0
    model.layer = nn.Softplus()

    def head(a):
        return model.classifier(model.head(a).mean(dim=(2, 3)))

    probe = Probe(model, model.layer, x, target=4)
    found = AblationCAM(replacement=replacement)(probe)
    for n in range(len(x)):
        expected = ablation_cam(head, probe.activations[n], 4, x[n], model, replacement)
        torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-12)


def test_weights_do_not_turn_over_with_the_sign_of_the_utility():
    model, x = make()
    up, down = (Probe(model, model.layer, x, utility=lambda y, sign=sign: sign * y[:, 1]) for sign in (1, -1))
    torch.testing.assert_close(AblationCAM()(down), -AblationCAM()(up))


def test_tokens_that_are_dropped_keep_their_value():
    torch.manual_seed(0)
    model = TinyViT().double().eval()
    x = torch.randn(2, 3, 12, 16, dtype=torch.float64)
    probe = Probe(model, model.layer, x, target=1, reshape_transform=TinyViT.reshape)
    assert not probe.separable  # tokens lead around the norm
    found = AblationCAM().channel_weights(probe)
    channel = 0

    def ablate(module, args, tokens):
        tokens = tokens.clone()
        tokens[:, 1:, channel] = 0
        return tokens

    with torch.no_grad():
        whole = model(x)[:, 1]
        model.layer.register_forward_hook(ablate)
        for channel in range(8):
            expected = (whole - model(x)[:, 1]) / whole.abs()
            torch.testing.assert_close(found[:, channel], expected, rtol=1e-9, atol=1e-12)
    assert Probe(model, model.blocks[0], x, reshape_transform=TinyViT.reshape).separable


def test_a_transform_that_cannot_be_undone():
    model = TinyViT().eval()
    probe = Probe(model, model.blocks[0], torch.randn(2, 3, 12, 16), reshape_transform=lambda t: 2 * TinyViT.reshape(t))
    with pytest.raises(ValueError, match=r"the reshape_transform computes new values, .* only move and drop values"):
        AblationCAM()(probe)


def test_only_what_is_above_runs_and_in_bounded_passes():
    model, x = make()
    with torch.no_grad():
        model.conv.weight[5], model.conv.bias[5] = 0, -1  # an inactive channel
        model.conv.weight[6], model.conv.bias[6] = 0, -1
    stem, head = Rows(model.stem[0]), Rows(model.head)
    expected = by_whole_passes(model, x, 0)
    stem.rows.clear()
    head.rows.clear()
    found = AblationCAM(internal_batch_size=4)(Probe(model, model.layer, x, target=0))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[:, 5:] == 0).all()
    assert stem.rows == [3, 1, 1]  # the images, and two stand-ins
    assert head.rows == [3, 2, 2, 2, 3, 4, 4, 4, 3]  # the same, a third without its stem, u, and 15 channels


def test_whole_passes_are_bounded_too():
    model, x = make(Around)
    stem = Rows(model.stem[0])
    AblationCAM(internal_batch_size=4)(Probe(model, model.layer, x, target=0))
    assert max(stem.rows) == 4
    assert sum(rows for rows in stem.rows if rows > 1) >= 3 * 7


@pytest.mark.parametrize("kind", [Net, Around])
def test_with_additional_arguments(kind):
    model, x = make(kind)
    scale = torch.tensor([1.0, 2.0, -3.0]).double()
    together = AblationCAM()(Probe(model, model.layer, x, target=[1, 2, 3], additional_forward_args=(scale,)))
    for n, target in enumerate([1, 2, 3]):
        alone = Probe(model, model.layer, x[n : n + 1], target=target, additional_forward_args=(scale[n : n + 1],))
        torch.testing.assert_close(together[n : n + 1], AblationCAM()(alone))


def test_of_the_layers_input():
    model, x = make()
    of_input = Probe(model, model.head, x, target=1, attribute_to_layer_input=True)
    torch.testing.assert_close(AblationCAM()(of_input), AblationCAM()(Probe(model, model.layer, x, target=1)))


def test_nothing_is_left_behind_when_a_pass_fails():
    model, x = make()
    model.stem.forward = model.stem.forward  # of the instance, as some libraries set it
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("on purpose")

    model.head.register_forward_pre_hook(fail)
    own = model.stem.forward
    with untouched(model, x), pytest.raises(RuntimeError, match="on purpose"):
        AblationCAM()(Probe(model, model.layer, x, target=0))
    assert model.stem.forward is own


def test_says_that_no_channel_matters():
    model, x = make()
    with torch.no_grad():
        model.classifier.bias[1] = 100
    with pytest.warns(UserWarning, match=r"same without any channel, but for rounding, in samples 0, 1, 2: .* a satur"):
        AblationCAM(utility="softmax")(Probe(model, model.layer, x, target=1))


@pytest.mark.parametrize(
    ("hyper", "error", "told"),
    [
        ({"replacement": "blur"}, ValueError, "replacement must be one of 'zero', 'mean', 'minimum'; got 'blur'"),
        ({"internal_batch_size": 0}, ValueError, "internal_batch_size must be"),
    ],
)
def test_options(hyper, error, told):
    with pytest.raises(error, match=told):
        AblationCAM(**hyper)


def test_progress(capsys):
    model, x = make()
    probe = Probe(model, model.layer, x, target=0)
    AblationCAM()(probe)
    assert capsys.readouterr().out == ""
    AblationCAM(progress=True)(probe)
    assert "AblationCAM" in capsys.readouterr().out


def test_a_plain_function_as_the_model():
    model = CNN().double().eval()
    x = torch.randn(2, 3, 12, 16).double()
    of_function = AblationCAM()(Probe(lambda images: model(images), model.layer, x, target=1))
    torch.testing.assert_close(of_function, AblationCAM()(Probe(model, model.layer, x, target=1)))
