"""Where the class scores are in a model's output: `output=` at every door, and one row for several frames."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from captum.attr import LayerGradCam as TheirLayerGradCam
from hosts import ANYWHERE
from nets import CNN
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import GoogLeNet, googlenet
from torchvision.models.googlenet import GoogLeNetOutputs

from cam_extras import captum as of_captum
from cam_extras import pytorch_grad_cam as of_pgc
from cam_extras import quantus as of_quantus
from cam_extras._outputs import pick_output
from cam_extras.evaluation import Evaluator, saturation_curves
from cam_extras.layers import auto_layer
from cam_extras.methods import METHODS, GradCAM, ShapleyCAM
from cam_extras.metrics import thresholded_increase
from cam_extras.probe import Probe
from cam_extras.run import evaluate

LOGITS = torch.randn(3, 5)


class Wrapped(nn.Module):
    """A CNN whose class scores are put into some output."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.wrap = CNN(), wrap
        self.layer = self.cnn.layer
        self.eval()

    def forward(self, x):
        return self.wrap(self.cnn(x))


class Video(nn.Module):
    """One row of scores for all frames; a smooth head, so that the score has a Hessian across them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3, stride=2)
        self.time = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.head = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 5))
        self.double().eval()

    def above(self, features: Tensor) -> Tensor:
        pooled = features.square().mean(dim=(2, 3))
        return self.head((self.time[: len(features), None] * pooled).sum(dim=0, keepdim=True))

    def forward(self, x):
        return self.above(self.layer(x))


class Scored(NamedTuple):
    scores: Tensor
    embedding: Tensor


@dataclass
class Result:
    scores: Tensor
    values: Tensor


@pytest.fixture
def frames():
    torch.manual_seed(1)
    return torch.randn(4, 3, 9, 9, dtype=torch.float64)


class TestPicked:
    @pytest.mark.parametrize(
        "outputs",
        [
            LOGITS,
            (LOGITS,),
            [LOGITS, torch.randn(3, 5, 7)],  # as many entries as samples or not, of different kinds
            (LOGITS, torch.randn(3, 8, 4, 4)),
            (torch.tensor(0.3), LOGITS, None),
            (LOGITS, torch.ones(3, 5, dtype=torch.long)),
            (LOGITS, [torch.randn(3, 5)] * 2),
            {"logits": LOGITS, "a": torch.randn(3, 5)},
            {"out": LOGITS, "aux": torch.randn(3, 5)},
            {"scores": LOGITS},
            {"scores": LOGITS, "image_embeds": torch.randn(3, 6), "last_hidden_state": torch.randn(3, 4, 6)},
            OrderedDict(loss=torch.tensor(1.0), scores=LOGITS),
            Scored(LOGITS, torch.randn(3, 6)),
            GoogLeNetOutputs(LOGITS, torch.randn(3, 5), torch.randn(3, 5)),
        ],
    )
    def test_plain(self, outputs):
        scores, shared = pick_output(outputs, 3)
        assert scores is LOGITS
        assert not shared

    @pytest.mark.parametrize(
        ("outputs", "shown"),
        [
            ((LOGITS, LOGITS), r"tuple of 2, which are \(3, 5\), \(3, 5\)"),
            ([LOGITS, LOGITS], "list of 2, which are"),
            ({"a": LOGITS, "b": LOGITS}, r"dict with the keys \['a', 'b'\], which are \(3, 5\), \(3, 5\)"),
            ((LOGITS, torch.randn(1, 5)), r"\(1, 5\)"),  # one row for all: a class score as much as the other
            ({"pooler_output": LOGITS, "last_hidden_state": torch.randn(3, 4, 5)}, "'pooler_output'"),
            ((LOGITS.long(), LOGITS.long()), "tuple of 2"),
            ({"logits": None, "a": LOGITS, "b": LOGITS}, r"\['logits', 'a', 'b'\]"),
            ({}, r"dict with the keys \[\]"),
            ((), "tuple of 0"),
            ("text", "got str"),
            (Result(LOGITS, LOGITS), "got Result"),
        ],
    )
    def test_doubtful(self, outputs, shown):
        with pytest.raises(TypeError, match=rf"must return a tensor \(N, C\), .*{shown}.*: say which by output=KEY"):
            pick_output(outputs, 3)

    @pytest.mark.parametrize(
        ("outputs", "output"),
        [
            ((LOGITS, LOGITS + 1), 0),
            ([LOGITS + 1, LOGITS], -1),
            ({"a": LOGITS, "b": LOGITS + 1}, "a"),
            ({3: LOGITS, 4: LOGITS + 1}, 3),
            (Scored(LOGITS, LOGITS + 1), "scores"),
            (Result(LOGITS, LOGITS + 1), "scores"),
            ({"values": LOGITS, "b": LOGITS + 1}, "values"),  # the key, not the method of dict
            ((LOGITS + 1, {"main": LOGITS}), lambda outputs: outputs[1]["main"]),
        ],
    )
    def test_told(self, outputs, output):
        assert pick_output(outputs, 3, output).scores is LOGITS

    @pytest.mark.parametrize(
        ("outputs", "output"),
        [((LOGITS, LOGITS), 2), ((LOGITS, LOGITS), "a"), ({"a": LOGITS}, "values"), ({"a": LOGITS}, 0), (LOGITS, "T")],
    )
    def test_no_such_entry(self, outputs, output):
        with pytest.raises(ValueError, match=f"has no entry {output!r}: it is "):
            pick_output(outputs, 3, output)

    @pytest.mark.parametrize("outputs", [[{"boxes": LOGITS}] * 3, [torch.randn(k, 6) for k in (3, 1, 2)]])
    def test_one_entry_per_sample(self, outputs):
        """Detectors."""
        assert pick_output(outputs, 3).scores is outputs
        with pytest.raises(ValueError, match=r"returned 3 outputs for 6 samples: explain the frames"):
            pick_output([{"boxes": LOGITS}] * 3, 6)

    def test_a_row_for_all(self):
        scores, shared = pick_output((LOGITS[:1], None), 4)
        assert shared
        assert torch.equal(scores, LOGITS[[0, 0, 0, 0]])
        assert not pick_output(LOGITS[:1], 1).shared
        for outputs in (LOGITS[:2], LOGITS[0]):
            with pytest.raises(ValueError, match=r"returned . outputs for 4 samples"):
                pick_output(outputs, 4)

    def test_a_class_of_a_list(self):
        model = Wrapped(lambda y: [y, y])
        with pytest.raises(TypeError, match=r"one function for each sample, or by output=INDEX"):
            Probe(model, model.layer, torch.randn(2, 3, 16, 16), target=1).gradients  # noqa: B018


class TestDoors:
    """Each gives what it gives for the bare tensor."""

    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bare = Wrapped(lambda y: y)

    @pytest.fixture(params=["index", "key", "function"])
    def told(self, request):
        wrap, output = {
            "index": (lambda y: (-y, y), 1),
            "key": (lambda y: {"other": -y, "main": y}, "main"),
            "function": (lambda y: {"deep": [-y, y]}, lambda outputs: outputs["deep"][1]),
        }[request.param]
        return Wrapped(wrap), output

    def test_probe_and_auto_layer(self, told):
        model, output = told
        expected = Probe(self.bare, self.bare.layer, self.x, target=2)
        probe = Probe(model, model.layer, self.x, target=2, output=output)
        assert torch.equal(probe.gradients, expected.gradients)
        assert torch.equal(probe.at(self.x + 1).outputs, expected.at(self.x + 1).outputs)
        assert torch.equal(probe.utility(self.x[:1], torch.tensor([0])), expected.utility(self.x)[:1])
        assert auto_layer(model, self.x, output=output)[0] == auto_layer(self.bare, self.x)[0]
        with pytest.raises(TypeError, match="say which by output=KEY"):
            Probe(model, model.layer, self.x, target=2).gradients  # noqa: B018

    def test_pytorch_grad_cam(self, told):
        model, output = told
        expected = of_pgc.GradCAM(self.bare, "auto")(self.x, 2)
        np.testing.assert_array_equal(of_pgc.GradCAM(model, "auto", output=output)(self.x, 2), expected)

    def test_captum(self, told):
        model, output = told
        expected = of_captum.LayerShapleyCam(self.bare, "auto").attribute(self.x, target=2)
        assert torch.equal(of_captum.LayerShapleyCam(model, "auto", output=output).attribute(self.x, 2), expected)

    @pytest.mark.parametrize("method", ["GradCAM", "ScoreCAM", upstream.GradCAM, "AblationCAM"])
    def test_quantus_explain(self, told, method):
        model, output = told
        x, y = self.x.numpy(), np.array([2, 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = of_quantus.explain(method, layer="layer")(self.bare, x, y)
            found = of_quantus.explain(method, layer="layer", output=output)(model, x, y)
        np.testing.assert_array_equal(found, expected)

    def test_quantus_metrics(self, told):
        model, output = told
        x, y = self.x.numpy(), np.array([2, 1])
        call = {"x_batch": x, "y_batch": y, "a_batch": np.random.default_rng(0).random((2, 1, 16, 16))}
        expected = of_quantus.AverageDrop()(model=self.bare, **call)
        assert of_quantus.AverageDrop(output=output)(model=model, **call) == expected
        call["explain_func"] = of_quantus.explain("GradCAM", layer="layer", output=output)
        assert all(np.isfinite(of_quantus.Coherency(output=output)(model=model, **call)))
        with pytest.raises(TypeError, match="say which by output=KEY"):
            of_quantus.AverageDrop()(model=model, **call)

    def test_evaluator(self, told):
        model, output = told
        methods = {"GradCAM": GradCAM(), "ScoreCAM": "ScoreCAM"}
        expected = Evaluator(self.bare, "auto", methods)(self.x, 2)
        found = Evaluator(model, "auto", methods, output=output)(self.x, 2)
        assert torch.equal(found.confidence, expected.confidence)
        for method, scores in expected.scores.items():
            assert torch.equal(found.maps[method], expected.maps[method])
            assert all(torch.equal(found.scores[method][name], values) for name, values in scores.items())

    def test_saturation(self, told):
        model, output = told
        expected = saturation_curves(self.bare, self.bare.layer, self.x, steps=3)
        found = saturation_curves(model, model.layer, self.x, steps=3, output=output)
        assert all(map(torch.equal, found, expected))

    def test_evaluate(self, told, tmp_path):
        model, output = told
        settings = {"methods": ["GradCAM"], "metrics": ["average_drop"], "pictures": 0, "progress": False}
        expected = evaluate(self.bare, "auto", list(self.x), tmp_path / "a", **settings)
        run = evaluate(model, "auto", list(self.x), tmp_path / "b", model_output=output, **settings)
        assert run.results.equals(expected.results)
        with pytest.raises(ValueError, match="holds a run of another configuration"):
            evaluate(model, "layer", list(self.x), tmp_path / "b", model_output=lambda y: 0, mode="resume", **settings)

    @pytest.mark.parametrize("output", [True, 1.5, ("a",)])
    def test_wrong_kind(self, output, tmp_path):
        model, match = self.bare, "output must be a key, an attribute or an index .* or a function"
        for door in (
            lambda: Probe(model, model.layer, self.x, output=output),
            lambda: of_pgc.GradCAM(model, "layer", output=output),
            lambda: of_captum.LayerGradCam(model, "layer", output=output),
            lambda: of_quantus.explain("GradCAM", layer="layer", output=output),
            lambda: of_quantus.AverageDrop(output=output),
            lambda: Evaluator(model, "layer", "GradCAM", output=output),
            lambda: evaluate(model, "layer", list(self.x), tmp_path, model_output=output),
        ):
            with pytest.raises(TypeError, match=match):
                door()

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_googlenet_with_its_auxiliary_heads(self):
        torch.manual_seed(0)
        model: GoogLeNet = googlenet(weights=None, num_classes=5, init_weights=False, aux_logits=True).eval()
        x = torch.randn(1, 3, 64, 64)
        bare = of_pgc.GradCAM(model, "inception4e")(x, 1)

        class WithHeads(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = model

            def forward(self, x):
                y = self.net(x)
                return GoogLeNetOutputs(y, -y, 2 * y)

        np.testing.assert_array_equal(of_pgc.GradCAM(WithHeads().eval(), "net.inception4e")(x, 1), bare)


class TestFrames:
    """A model that returns one row for N frames; gradients by hand are those of the one score."""

    def test_gradients_and_hessian_by_hand(self, frames):
        model = Video()
        probe = Probe(model, model.layer, frames, target=2)
        activations = model.layer(frames).detach()

        def score(features):
            return model.above(features)[0, 2]

        gradients = torch.autograd.functional.jacobian(score, activations)
        v = torch.randn_like(activations)
        _, product = torch.autograd.functional.hvp(score, activations, v)
        assert probe.shares_output
        assert torch.equal(probe.outputs, model(frames).expand(4, -1))
        torch.testing.assert_close(probe.gradients, gradients, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(probe.hessian_vector_product(v), product, rtol=1e-12, atol=1e-15)
        _, of_itself = torch.autograd.functional.hvp(score, activations, activations)
        weights = ShapleyCAM(utility="logit").weights(probe)
        torch.testing.assert_close(weights, (gradients - of_itself / 2).mean(dim=(2, 3)), rtol=1e-10, atol=1e-14)

    def test_gradient_of_the_utility(self, frames):
        model = Video()
        probe = Probe(model, model.layer, frames, target=2)
        x = frames.clone().requires_grad_()
        (by_hand,) = torch.autograd.grad(model(x)[0, 2], x)
        values = probe.utility(x)
        assert torch.equal(values.detach(), model(frames)[0, 2].detach().expand(4))
        torch.testing.assert_close(torch.autograd.grad(values.sum(), x)[0], by_hand)
        some = torch.tensor([1, 3])
        part = frames[some].clone().requires_grad_()
        values = probe.utility(part, some)
        torch.testing.assert_close(torch.autograd.grad(values.sum(), part)[0], by_hand[some])

    def test_as_hosts_have_it(self, frames):
        """pytorch-grad-cam and Captum differentiate the one score when the target is given once."""
        model = Video()
        theirs = TheirLayerGradCam(model, model.layer).attribute(frames, target=1)
        ours = of_captum.LayerGradCam(model, model.layer).attribute(frames, target=1)
        torch.testing.assert_close(ours, theirs.detach())
        model, frames = model.float(), frames.float()
        expected = upstream.GradCAM(model, [model.layer])(frames, [ClassifierOutputTarget(1)])
        np.testing.assert_allclose(of_pgc.GradCAM(model, "layer")(frames, 1), expected, atol=1e-5)
        found = of_pgc.GradCAM(model, "layer")(frames, [ClassifierOutputTarget(1)] * 4)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("target", [[0, 1, 1, 1], [ClassifierOutputTarget(c) for c in (0, 1, 1, 1)]])
    def test_one_target(self, frames, target):
        model = Video().float()
        with pytest.raises(ValueError, match="have different targets: explain one target at a time"):
            of_pgc.GradCAM(model, "layer")(frames.float(), target)

    @pytest.mark.parametrize("name", ANYWHERE)
    def test_every_method(self, frames, name):
        """Frames one after the other in a batch: methods must not cut it, nor mix it with baselines or noise."""
        model = Video()
        options = {"max_iterations": 3} if name == "OptiCAM" else {}
        if name == "ExpectedGradCAM":
            model.layer = nn.Sequential(model.layer, nn.ReLU())
        maps = METHODS[name](**options).maps(Probe(model, model.layer, frames, target=1))
        assert maps.shape == (4, 9, 9)
        assert maps.isfinite().all()

    def test_other_numbers_of_rows_are_refused(self, frames):
        model = Video()
        probe = Probe(model, model.layer, frames, target=1)
        assert not probe.divisible
        assert torch.equal(probe.run(frames + 1), model(frames + 1).expand(4, -1))
        for action in (
            lambda: probe.run(frames[:2]),
            lambda: probe.at(frames[:3]).outputs,
            lambda: Probe(model, model.layer, frames[:1], target=1).run(frames),
            lambda: Probe(model, model.layer, frames[:1], target=1).at(frames).gradients,
        ):
            with pytest.raises(ValueError, match=r"returned 1 output for . samples.*images beside it cannot share one"):
                action()
        with pytest.raises(ValueError, match="samples cannot be chosen"):
            probe.at(frames[:2], torch.tensor([0, 1]))

    def test_evaluator(self, frames):
        model = Video()
        result = Evaluator(model, "layer", {"GradCAM": GradCAM()})(frames, 2)
        maps, p = result.maps["GradCAM"], model(frames).softmax(dim=1)[0, 2]
        with torch.no_grad():
            o = model(frames * maps[:, None]).softmax(dim=1)[0, 2]
            b = model(torch.zeros_like(frames)).softmax(dim=1)[0, 2]
            shown = model(frames * (maps >= 0.5)[:, None]).softmax(dim=1)[0, 2]
        expected = {
            "average_drop": (p - o).clamp(min=0) / p,
            "average_gain": (o - p).clamp(min=0) / (1 - p),
            "thresholded_increase": thresholded_increase(shown[None], b[None])[0],
        }
        for name, value in expected.items():
            torch.testing.assert_close(result.scores["GradCAM"][name], value.detach().expand(4))
        with pytest.raises(ValueError, match="metrics that change one image at a time, such as insertion"):
            Evaluator(model, "layer", "GradCAM", "insertion", {"schedule": {"step": 0.25}})(frames, 2)

    def test_data_sets_have_separate_images(self, frames, tmp_path):
        model, x = Video().float(), frames.float()
        match = r"returned 1 output for . samples.*separate images"
        with pytest.raises(ValueError, match=match):
            of_quantus.explain("GradCAM", layer="layer")(model, x.numpy(), np.zeros(4, int))
        with pytest.raises(ValueError, match=match):
            of_quantus.explain(upstream.ScoreCAM, layer="layer")(model, x.numpy(), np.zeros(4, int))
        with pytest.raises(ValueError, match=match):
            of_quantus.AverageDrop()(model, x.numpy(), np.zeros(4, int), a_batch=np.ones((4, 1, 9, 9)))
        run = evaluate(model, "layer", list(x), tmp_path, methods="GradCAM", metrics="average_drop", progress=False)
        alone = Evaluator(model, "layer", "GradCAM", "average_drop")
        expected = [alone(x[n : n + 1]).confidence.item() for n in range(4)]
        assert run.results["probability"].to_pylist() == expected  # image by image, as before
