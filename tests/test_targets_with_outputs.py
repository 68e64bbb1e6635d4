"""Targets, additional inputs, `output=`, `confidence=`, frames and "auto" in one call."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from hosts import CAPTUM
from torch import nn

import cam_extras.pytorch_grad_cam as pgc_host
import cam_extras.quantus as quantus_host
from cam_extras._outputs import pick_output
from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS
from cam_extras.probe import Probe
from cam_extras.targets import Box, Contrast, Region, Similarity, Value

X = torch.randn(4, 3, 20, 24, generator=torch.Generator().manual_seed(0))
SHIFT = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
METRICS = ["average_drop", "average_gain", "adcc"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Small(nn.Module):
    """Five classes; the head bends, so that scores have a Hessian."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))


class Heads(Small):
    """Two heads in a dict, one of them with a shift for each sample."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 3)

    def forward(self, x, shift=0.0):
        pooled = self.pooled(x)
        return {"breed": self.classifier(pooled) + shift, "colour": self.other(pooled)}

    def pooled(self, x):
        return self.layer(x).mean(dim=(2, 3))


class OfOneHead(Heads):
    """The same scores as a plain tensor, with the shift inside."""

    def forward(self, x):
        return super().forward(x, SHIFT)["breed"]


@pytest.fixture
def heads():
    model = Heads().eval()
    plain = OfOneHead().eval()
    plain.load_state_dict(model.state_dict())
    return model, plain


GIVEN = {"additional_forward_kwargs": {"shift": SHIFT}}


TARGETS = [None, [0, 1, 2, 3], Contrast(None, "second"), Value(2, low=-3, high=3), Similarity(torch.ones(5))]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_door_picks_the_output_for_every_target(heads, target):
    model, plain = heads
    of_plain = Evaluator(plain, "layer", "GradCAM", METRICS, confidence="sigmoid")(X, target)
    found = Evaluator(model, "layer", "GradCAM", METRICS, confidence="sigmoid", output="breed")(X, target, **GIVEN)
    torch.testing.assert_close(found.confidence, of_plain.confidence)
    assert torch.equal(found.predicted, of_plain.predicted)
    for name in METRICS:
        torch.testing.assert_close(found.scores["GradCAM"][name], of_plain.scores["GradCAM"][name])
    expected = of_plain.maps["GradCAM"].numpy()
    np.testing.assert_allclose(found.maps["GradCAM"], expected, atol=1e-6)
    of_pgc = pgc_host.GradCAM(model, "layer", output="breed")(X, target, **GIVEN)
    np.testing.assert_allclose(of_pgc, expected, atol=1e-5)
    of_quantus = quantus_host.explain("GradCAM", layer="layer", output="breed", batch_size=2)(model, X, target, **GIVEN)
    np.testing.assert_allclose(of_quantus[:, 0], expected, atol=1e-5)
    if target is not None:  # Captum predicts no class
        attribution = CAPTUM["GradCAM"](model, "layer", output="breed").attribute(X, target, **GIVEN)
        torch.testing.assert_close(attribution, CAPTUM["GradCAM"](plain, "layer").attribute(X, target))


@pytest.mark.parametrize("confidence", ["softmax", "sigmoid", lambda y: y.sigmoid() ** 2])
def test_confidence_of_a_contrast_is_that_of_its_class(heads, confidence):
    model, plain = heads
    found = Evaluator(model, "layer", "GradCAM", "average_drop", output="breed", confidence=confidence)(
        X, Contrast(1, 0), **GIVEN
    )
    y = plain(X).detach().double()
    p = {"softmax": y.softmax(1), "sigmoid": y.sigmoid()}[confidence] if isinstance(confidence, str) else confidence(y)
    torch.testing.assert_close(found.confidence, p[:, 1])


def test_a_target_keeps_its_own_confidence(heads):
    found = [
        Evaluator(heads[0], "layer", "GradCAM", METRICS, output="breed", confidence=confidence)(
            X, Value(1, low=-2, high=2)
        )
        for confidence in ("softmax", "sigmoid")
    ]
    expected = ((heads[0](X)["breed"][:, 1].detach().double() + 2) / 4).clamp(0, 1)
    for one in found:
        torch.testing.assert_close(one.confidence, expected)


def test_a_region_of_one_of_two_outputs():
    class TwoSizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
            self.head = nn.Conv2d(6, 3, 1)

        def forward(self, x):
            scores = self.head(self.layer(x))
            return [scores[..., ::2, ::2], scores]

    model = TwoSizes().eval()
    mask = torch.zeros(20, 24, dtype=torch.bool)
    mask[3:9, 4:9] = True
    target = Region(1, mask)
    found = Evaluator(model, "layer", "HiResCAM", METRICS, output=1)(X, target)
    p = model(X)[1].double().softmax(1)[:, 1][:, mask].mean(1)
    torch.testing.assert_close(found.confidence, p.detach())
    with pytest.raises(ValueError, match="the mask of a region has the size of the model's output"):
        Evaluator(model, "layer", "HiResCAM", METRICS, output=0)(X, target)


class Video(Small):
    """One row for all frames, with a weight for each of them."""

    def forward(self, x, weights):
        pooled = self.layer(x).mean(dim=(2, 3))
        return self.classifier((pooled * weights[:, None]).sum(dim=0, keepdim=True))


class BoundVideo(Video):
    def forward(self, x):
        return super().forward(x, WEIGHTS)


WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.0])


@pytest.fixture
def videos():
    model = Video().eval()
    bound = BoundVideo().eval()
    bound.load_state_dict(model.state_dict())
    return model, bound


class TestFrames:
    given = {"additional_forward_args": (WEIGHTS,)}  # noqa: RUF012

    @pytest.mark.filterwarnings("ignore:the gradient of the utility")  # the last frame has no weight
    @pytest.mark.parametrize("target", [2, Contrast(1, 0), Value(3, low=-2, high=2)], ids=str)
    def test_additional_arguments_go_with_their_frames(self, videos, target):
        model, bound = videos
        probe = Probe(model, model.layer, X, target=target, **self.given)
        assert probe.shares_output
        assert not probe.divisible
        features = model.layer(X).detach().requires_grad_()
        row = model.classifier((features.mean(dim=(2, 3)) * WEIGHTS[:, None]).sum(dim=0))
        score = row[2] if target == 2 else target(row)
        torch.testing.assert_close(probe.gradients, torch.autograd.grad(score, features)[0])
        some = torch.tensor([2, 0])
        expected = Probe(bound, bound.layer, X, target=target).utility(X[some] + 1, some)
        torch.testing.assert_close(probe.utility(X[some] + 1, some), expected)
        found = Evaluator(model, "layer", "GradCAM", METRICS)(X, target, **self.given)
        alone = Evaluator(bound, "layer", "GradCAM", METRICS)(X, target)
        torch.testing.assert_close(found.confidence, alone.confidence)
        for name in METRICS:
            torch.testing.assert_close(found.scores["GradCAM"][name], alone.scores["GradCAM"][name])

    @pytest.mark.filterwarnings("ignore:the gradient of the utility")
    def test_what_needs_one_image_at_a_time_is_refused(self, videos):
        for target in (2, Value(3, low=-2, high=2)):
            with pytest.raises(ValueError, match="metrics that change one image at a time, such as insertion"):
                Evaluator(videos[0], "layer", "GradCAM", "insertion")(X, target, **self.given)
        with pytest.raises(ValueError, match=r"samples cannot be chosen .*one output for the whole batch"):
            Probe(videos[0], videos[0].layer, X, target=2, **self.given).at(X[:1], torch.tensor([0]))

    @pytest.mark.parametrize(
        "targets", [[Value(n) for n in (0, 1, 1, 1)], Contrast([1, 2, 1, 1], torch.zeros(4, 1).long())]
    )
    def test_one_target(self, videos, targets):
        with pytest.raises(ValueError, match="have different targets: explain one target at a time"):
            pgc_host.GradCAM(videos[0], "layer")(X, targets, **self.given)


@pytest.mark.parametrize("name", ["GradCAM", "ShapleyCAM", "ExpectedGradCAM", "OptiCAM"])
def test_auto_follows_the_axes_with_other_inputs(name):
    """Channels last, and a mask that is multiplied onto the image."""

    class Last(Small):
        def __init__(self):
            super().__init__()
            self.last = nn.ReLU()

        def forward(self, x, mask):
            features = self.last(self.layer(x * mask).permute(0, 2, 3, 1))
            return self.classifier(features.tanh().mean(dim=(1, 2)))

    model = Last().eval()
    masks = (torch.rand(4, 1, 20, 24, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    options = {"max_iterations": 3} if name == "OptiCAM" else {}
    found, expected = (
        METHODS[name](**options).maps(
            Probe(model, model.last, X, target=1, additional_forward_args=(masks,), reshape_transform=transform)
        )
        for transform in ("auto", lambda output: output.permute(0, 3, 1, 2))
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("method", ["AblationCAM", "ScoreCAM"])
def test_what_is_made_of_them_below_the_layer_reaches_the_right_samples_above(method, late):
    """What runs below the layer is not kept for passes of other samples."""

    class Conditional(Small):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(5, 8)

        def forward(self, x, condition):
            embedded = None if late else self.embed(condition)
            pooled = self.layer(x).mean(dim=(2, 3))
            return self.classifier(2 * (pooled + (self.embed(condition) if late else embedded)))

    model = Conditional().eval()
    options = {"internal_batch_size": 4}  # as many as samples
    probe = Probe(model, model.layer, X, target=[0, 1, 2, 3], additional_forward_args=(SHIFT,))
    found = METHODS[method](**options).maps(probe)
    for n in range(4):
        alone = Probe(model, model.layer, X[n : n + 1], target=n, additional_forward_args=(SHIFT[n : n + 1],))
        torch.testing.assert_close(found[n : n + 1], METHODS[method]().maps(alone), rtol=0, atol=1e-5)


def test_what_is_the_same_for_all_leaves_the_layer_separable():
    class Scaled(Small):
        def forward(self, x, factor):
            return self.classifier(factor * self.layer(x).mean(dim=(2, 3)))

    model = Scaled().eval()
    probe = Probe(model, model.layer, X, target=1, additional_forward_kwargs={"factor": 3.0})
    assert probe.separable
    changed = probe.activations.clone()
    changed[:, 2] = 0
    expected = model.classifier(3 * changed.mean(dim=(2, 3)))[[3, 0], 1]
    torch.testing.assert_close(probe.above(changed[[3, 0]], torch.tensor([3, 0])), expected)


def test_one_image_where_the_number_of_rows_is_read_below_the_layer():
    class Counts(Small):
        def forward(self, x, factor):
            return self.classifier(factor * self.layer(x).reshape(len(x), 8, -1).mean(dim=2))

    model = Counts().eval()
    found, expected = (
        METHODS["AblationCAM"]().maps(Probe(model, model.layer, x, target=1, additional_forward_args=(2.0,)))
        for x in (X[:1], X)
    )
    torch.testing.assert_close(found, expected[:1], rtol=0, atol=1e-5)


class Detector(nn.Module):
    """As DETR in transformers: logits and boxes of three queries."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 3 * 5)

    def forward(self, x):
        logits = self.head(self.layer(x).mean(dim=(2, 3))).reshape(-1, 3, 5)
        boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.5, 0.1, 0.1, 0.1]])
        return {"logits": logits, "pred_boxes": boxes.expand(len(x), -1, -1)}


def test_detections_are_one_dict_for_each_image_unless_output_says_else():
    outputs = Detector()(X)
    scores, shared = pick_output(outputs, 4)
    assert not shared
    assert [one["logits"].shape for one in scores] == [(3, 5)] * 4
    assert torch.equal(pick_output(outputs, 4, "logits").scores, outputs["logits"])


def test_classes_of_pytorch_grad_cam_read_a_box():
    model = Detector().eval()
    target = Box([0.6, 0.6, 0.8, 0.8], 1)

    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = model

        def forward(self, x):
            return self.detector(x)["logits"].softmax(-1)[:, 1, 1]

    expected = upstream.HiResCAM(Score(), [model.layer])(X, [lambda score: score] * 4)
    found = Evaluator(model, "layer", {"theirs": pgc_host.Upstream(cam="HiResCAM")}, "complexity")
    np.testing.assert_allclose(found(X, target).maps["theirs"], expected, atol=1e-6)
