"""Saturation curves: against one image and one point at a time, at their limits, and with bad input."""

from __future__ import annotations

import math

import pytest
import torch
from nets import CNN, make_setting
from state import untouched
from torch import nn

from cam_extras._checks import SampleError
from cam_extras.evaluation.saturation import SaturationCurves, saturation_curves

pytestmark = pytest.mark.numerical

SETTINGS = pytest.mark.parametrize("name", ["plain", "volume", "vit", "swin", "inplace", "batch_norm_train"])


def double_setting(name):
    setting = make_setting(name)
    return setting.model.double(), setting.layers[0], setting.x.double(), setting.options


def by_hand(model, layer, x, baseline, steps, classes, reshape_transform=lambda features: features):
    """One image and one point at a time; the model is in eval mode."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output.detach().clone()))
    score, softmax, similarity = (torch.zeros(len(x), steps + 1, dtype=torch.float64) for _ in range(3))
    start = torch.as_tensor(baseline, dtype=x.dtype).expand(x.shape)
    with torch.no_grad():
        for n, c in enumerate(classes):
            logits, embeddings = [], []
            for i in range(steps + 1):
                kept.clear()
                logits.append(model((start[n] + i / steps * (x[n] - start[n]))[None])[0])
                embeddings.append(reshape_transform(kept[0]).flatten().tolist())
            for i in range(steps + 1):
                score[n, i] = logits[i][c]
                softmax[n, i] = logits[i][c].exp() / logits[i].exp().sum()
                product = math.fsum(a * b for a, b in zip(embeddings[i], embeddings[-1], strict=True))
                similarity[n, i] = product / math.hypot(*embeddings[i]) / math.hypot(*embeddings[-1])
    handle.remove()
    return score, softmax, similarity


def assert_curves(curves, expected, atol=1e-9):
    for found, wanted in zip(curves[1:], expected, strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@SETTINGS
@pytest.mark.parametrize("target", [None, 2, [4, 0, 1], torch.tensor([4, 0, 1])], ids=["predicted", "one", "list", "t"])
def test_one_point_at_a_time(name, target):
    model, layer, x, options = double_setting(name)
    with untouched(model, x):
        curves = saturation_curves(model, layer, x, steps=5, target=target, **options)
    model.eval()
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    classes = predicted if target is None else torch.as_tensor(target).expand(3)
    assert isinstance(curves, SaturationCurves)
    torch.testing.assert_close(curves.fractions, torch.tensor([0, 0.2, 0.4, 0.6, 0.8, 1], dtype=torch.float64))
    expected = by_hand(model, layer, x, 0.0, 5, classes.tolist(), *options.values())
    assert expected[2].std(dim=1).min() > 1e-4  # there is something to see
    assert_curves(curves, expected)


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 12, 16), (3, 3, 12, 16)])
def test_baselines(shape):
    model, layer, x, _ = double_setting("plain")
    baseline = torch.randn(shape, dtype=torch.float64)
    expected = by_hand(model, layer, x, baseline, 4, [0, 1, 2])
    assert_curves(saturation_curves(model, layer, x, baseline=baseline, steps=4, target=[0, 1, 2]), expected)
    if not shape:
        found = saturation_curves(model, layer, x, baseline=baseline.item(), steps=4, target=[0, 1, 2])
        assert_curves(found, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 100])
@pytest.mark.parametrize("name", ["plain", "vit"])
def test_passes_of_any_size(name, size):
    model, layer, x, options = double_setting(name)
    batches = []
    handle = model.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    found = saturation_curves(model, layer, x, steps=5, internal_batch_size=size, **options)
    handle.remove()
    assert_curves(found, saturation_curves(model, layer, x, steps=5, **options)[1:])
    assert batches[0] == 3
    assert max(batches[1:]) <= size
    assert sum(batches) == 3 * 6
    for n in range(3):
        alone = saturation_curves(model, layer, x[n : n + 1], steps=5, internal_batch_size=size, **options)
        assert_curves(alone, [values[n : n + 1] for values in found[1:]])


def test_defaults():
    model, layer, x, _ = double_setting("plain")
    found = saturation_curves(model, layer, x)
    assert found.fractions.shape == (51,)
    assert [values.shape for values in found[1:]] == [(3, 51)] * 3
    assert_curves(found, saturation_curves(model, layer, x, baseline=0, steps=50)[1:])


def test_both_ends_are_exact():
    model, layer, x, _ = double_setting("plain")
    baseline = torch.full((3, 1, 1), 0.3, dtype=torch.float64)
    found = saturation_curves(model, layer, x, baseline=baseline, steps=1, target=1)
    assert found.fractions.tolist() == [0, 1]
    with torch.no_grad():
        for place, image in ((0, baseline.expand(x.shape)), (1, x)):
            torch.testing.assert_close(found.logit[:, place], model(image)[:, 1])
    assert found.similarity[:, 1].tolist() == [1, 1, 1]


def test_no_way_to_go():
    model, layer, x, _ = double_setting("plain")
    found = saturation_curves(model, layer, x, baseline=x, steps=3)
    torch.testing.assert_close(found.similarity, torch.ones(3, 4, dtype=torch.float64))
    assert found.similarity.max() <= 1
    torch.testing.assert_close(found.logit, found.logit[:, -1:].expand(3, 4))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(mode):
    model, layer, x, _ = double_setting("plain")
    x.requires_grad_()
    baseline = torch.zeros(3, 12, 16, dtype=torch.float64, requires_grad=True)
    with mode(), untouched(model, x, baseline):
        found = saturation_curves(model, layer, x, steps=2, baseline=baseline)
    assert not any(values.requires_grad for values in found)
    assert_curves(found, saturation_curves(model, layer, x, steps=2)[1:])


@pytest.mark.parametrize("name", ["plain", "vit"])
def test_left_as_found_when_it_raises(name):
    model, layer, x, options = double_setting(name)
    model.train()
    model.fail = True
    with untouched(model, x), pytest.raises(RuntimeError, match="fails on purpose"):
        saturation_curves(model, layer, x, **options)


def test_half_precision():
    setting = make_setting("bf16")
    found = saturation_curves(setting.model, setting.layers[0], setting.x, steps=4, target=1)
    expected = by_hand(setting.model.float(), setting.layers[0], setting.x.float(), 0.0, 4, [1, 1, 1])
    assert found.similarity.dtype == torch.float64
    torch.testing.assert_close(found.similarity, expected[2], rtol=0, atol=1e-2)
    torch.testing.assert_close(found.softmax, expected[1], rtol=0, atol=0.1)


class WithoutBiases(nn.Module):
    """Positively homogeneous up to a constant: the embedding is 0 at zero, and has x's direction everywhere else."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.layer = nn.Sequential(nn.Conv2d(3, 7, 3, bias=False), nn.ReLU())
        self.classifier = nn.Linear(7, 5)

    def forward(self, x):
        return self.classifier(self.layer(self.scale * x).mean(dim=(2, 3)))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_an_embedding_without_direction_has_similarity_0(scale):
    model, x = WithoutBiases(scale), torch.randn(2, 3, 6, 6)
    found = saturation_curves(model, model.layer, x, steps=4)
    assert found.similarity[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(found.similarity[:, 1:], torch.ones(2, 4, dtype=torch.float64))


def test_small_double_embeddings_do_not_underflow():
    model, x = WithoutBiases(1e-200).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    found = saturation_curves(model, model.layer, x, steps=4)
    torch.testing.assert_close(found.similarity[:, 1:], torch.ones(2, 4, dtype=torch.float64))


def test_probabilities_do_not_reach_1_too_soon():
    model = WithoutBiases()
    with torch.no_grad():
        model.classifier.bias[:] = torch.tensor([30.0, 0, 0, 0, 0])
    found = saturation_curves(model, model.layer, torch.randn(1, 3, 6, 6), steps=2, target=0)
    assert (found.softmax < 1).all()


def test_an_image_without_embedding_is_named():
    model, x = WithoutBiases(), torch.randn(3, 3, 6, 6)
    x[1] = 0
    with pytest.raises(
        SampleError, match="embedding of the input is all 0 in sample 1: choose another layer"
    ) as raised:
        saturation_curves(model, model.layer, x, baseline=1.0)
    assert raised.value.samples == [1]


class Broken(nn.Module):
    """Sample-wise NaN where an image is very bright: in the logits, the other logits or the embedding."""

    def __init__(self, what: str):
        super().__init__()
        self.what = what
        self.layer = nn.Identity()
        self.inner = nn.Identity()

    def forward(self, x):
        bad = torch.where(x.amax(dim=(1, 2, 3)) > 10, math.inf, 0.0)
        features = self.layer(x + bad[:, None, None, None] if self.what == "similarity" else x)
        logits = features.nan_to_num(posinf=0.0).mean(dim=(2, 3))
        shift = {"similarity": 0, "logit": torch.tensor([1.0, 0, 0]), "probability": torch.tensor([0, 1.0, 0])}
        return logits + (bad[:, None] * shift[self.what]).nan_to_num(posinf=math.inf)


@pytest.mark.parametrize("what", ["logit", "probability", "similarity"])
@pytest.mark.parametrize("end", [0, 1])
def test_what_is_not_finite_is_named(what, end):
    model, x = Broken(what), torch.rand(4, 3, 5, 5)
    baseline = torch.rand(4, 3, 5, 5)
    (baseline, x)[end][2] = 20
    with pytest.raises(SampleError, match=f"the {what} on the way from the baseline is NaN or infinite in sample 2"):
        saturation_curves(model, model.layer, x, baseline=baseline, steps=3, target=0, internal_batch_size=2)


MODEL = CNN().eval()
X = torch.zeros(3, 3, 12, 16)


def curves(**options):
    return saturation_curves(MODEL, MODEL.layer, X, **options)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: curves(steps=0), ValueError, "steps must be 1 or more; got 0"),
        (lambda: curves(steps=2.5), TypeError, "steps must be an integer; got 2.5"),
        (lambda: curves(internal_batch_size=0), ValueError, "internal_batch_size must be 1 or more; got 0"),
        (lambda: curves(internal_batch_size="4"), TypeError, "internal_batch_size must be an integer; got '4'"),
        (lambda: curves(baseline=math.nan), ValueError, "the baseline is NaN or infinite"),
        (lambda: curves(baseline=torch.tensor([0, math.inf, 0])[:, None, None]), ValueError, "the baseline is NaN"),
        (
            lambda: curves(baseline=torch.zeros(2, 12, 16)),
            ValueError,
            r"a tensor that broadcasts to the input, \(3, 3, 12, 16\); got \(2, 12, 16\)",
        ),
        (lambda: curves(baseline=torch.zeros(2, 3, 3, 12, 16)), ValueError, r"got \(2, 3, 3, 12, 16\)"),
        (lambda: curves(target=5), ValueError, r"class indices must lie in \[0, 5\); got 5"),
        (lambda: curves(target=[0, 1]), ValueError, "expected one class index, or 3"),
        (
            lambda: curves(target=lambda scores: scores[:, 0]),
            TypeError,
            "must be a class index, or one for each sample",
        ),
        (lambda: saturation_curves(MODEL, MODEL.layer, X + math.nan), ValueError, "the input is NaN or infinite"),
        (lambda: saturation_curves(MODEL, CNN().layer, X), ValueError, "is not a module of this CNN"),
        (lambda: saturation_curves(MODEL, MODEL.classifier, X), ValueError, "a layer with spatial dimensions"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_model_needs_classes():
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"scores \(N, C\) of two or more classes"):
        saturation_curves(model, model[0], torch.randn(2, 3, 4, 4))


def test_integers_have_no_path():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(TypeError, match=r"the input holds torch\.int64; expected floating point"):
        saturation_curves(model, model[0], torch.ones(2, 5, dtype=torch.long))
