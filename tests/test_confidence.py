"""How class scores become probabilities: softmax, sigmoid or a function, wherever a probability is taken."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nets import CNN
from PIL import Image
from torch import nn

from cam_extras import captum as of_captum
from cam_extras import quantus as of_quantus
from cam_extras.cli import main
from cam_extras.evaluation import Evaluator, saturation_curves
from cam_extras.methods import GradCAM
from cam_extras.metrics import average_drop, probabilities
from cam_extras.models import load_model
from cam_extras.run import evaluate
from cam_extras.runs.store import Run
from cam_extras.utilities import LogSigmoid, Sigmoid

LABELS = torch.tensor([[6.0, 6.0, 6.0, -6.0]])
P_OF_SIX = 1 / (1 + math.exp(-6))  # 0.9975


class Labels(nn.Module):
    """Scores (6, 6, 6, -6) for an image of ones, and less where pixels are 0."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()
        self.eval()

    def forward(self, x):
        mean = self.layer(x).mean(dim=(1, 2, 3))[:, None]
        return LABELS.to(x) * mean


def sigmoid_by_hand(y):
    return 1 / (1 + (-y).exp())


@pytest.fixture
def ones():
    return torch.ones(2, 1, 6, 6)


def test_formula():
    torch.testing.assert_close(probabilities(LABELS, "sigmoid")[0, 0].item(), P_OF_SIX)
    torch.testing.assert_close(probabilities(LABELS)[0, 0].item(), 1 / (3 + math.exp(-12)))
    assert pytest.approx(0.998, abs=5e-4) == P_OF_SIX
    y = torch.randn(4, 3)
    torch.testing.assert_close(probabilities(y, "sigmoid"), sigmoid_by_hand(y.double()))
    assert torch.equal(probabilities(y, sigmoid_by_hand), sigmoid_by_hand(y.double()))
    assert probabilities(y.half(), "sigmoid").dtype == torch.float64


@pytest.mark.parametrize(
    ("confidence", "error", "match"),
    [
        ("sigmoidal", ValueError, "confidence must be one of 'softmax', 'sigmoid'; got 'sigmoidal'"),
        (3, TypeError, r"confidence must be 'softmax', 'sigmoid' or a function"),
        (lambda y: y[:, 0], ValueError, r"probability for each class, shape \(1, 4\); it returned \(1,\)"),
        (lambda y: y, ValueError, r"confidence must lie in \[0, 1\]; got 6 in sample 0"),
        (lambda y: y.long(), TypeError, "must return a floating-point tensor; it returned torch.int64"),
    ],
)
def test_wrong(confidence, error, match):
    with pytest.raises(error, match=match):
        probabilities(LABELS, confidence)


def test_scores_of_classes_are_needed():
    with pytest.raises(ValueError, match="two or more classes"):
        probabilities(LABELS[0], "sigmoid")


@pytest.mark.parametrize("confidence", ["sigmoid", sigmoid_by_hand])
def test_evaluator(ones, confidence):
    """For a map of ones nothing is hidden; with the left half hidden the scores are half as large."""
    evaluator = Evaluator(Labels(), "layer", {"GradCAM": GradCAM()}, ["average_drop", "insertion"],
                          {"schedule": {"step": 0.5, "insert_into": "zeros"}}, confidence=confidence)  # fmt: skip
    x = ones.clone()
    x[:, :, :, :3] = 0  # the map of the identity under Grad-CAM is x itself
    result = evaluator(x, 0)
    whole = 1 / (1 + math.exp(-3))
    torch.testing.assert_close(result.confidence, torch.full((2,), whole, dtype=torch.float64))
    assert result.scores["GradCAM"]["average_drop"].tolist() == [0, 0]
    scores = torch.stack([torch.tensor([0.5, whole, whole])] * 2).double()
    torch.testing.assert_close(result.curves["GradCAM"]["insertion_curve"].scores, scores, rtol=1e-5, atol=1e-5)
    assert result.predicted.tolist() == [0, 0]


def test_evaluator_of_the_issue(ones):
    assert Evaluator(Labels(), "layer", "FakeCAM", "average_drop", confidence="sigmoid")(ones, 0).confidence.tolist() \
        == pytest.approx([P_OF_SIX] * 2)  # fmt: skip
    assert Evaluator(Labels(), "layer", "FakeCAM", "average_drop")(ones, 0).confidence.tolist() \
        == pytest.approx([1 / 3] * 2, abs=1e-5)  # fmt: skip


@pytest.mark.parametrize("confidence", ["sigmoid", sigmoid_by_hand])
@pytest.mark.parametrize("softmax", [True, False])
def test_quantus(ones, confidence, softmax):
    half = ones.clone()
    half[:, :, :, :3] = 0
    call = {"x_batch": ones.numpy(), "y_batch": np.zeros(2, int), "a_batch": half.numpy(), "softmax": softmax}
    expected = average_drop(*probabilities(torch.cat([LABELS, LABELS / 2]), "sigmoid")[:, :1])
    assert of_quantus.AverageDrop(confidence=confidence)(model=Labels(), **call) == pytest.approx([expected.item()] * 2)
    if softmax:
        by_softmax = average_drop(*probabilities(torch.cat([LABELS, LABELS / 2]))[:, :1])
        found = of_quantus.AverageDrop()(model=Labels(), **call)
        assert found == pytest.approx([by_softmax.item()] * 2, abs=1e-6)
        assert found != pytest.approx([expected.item()] * 2)


def test_saturation(ones):
    model = Labels()
    curves = saturation_curves(model, model.layer, ones, steps=2, target=0, confidence="sigmoid")
    expected = sigmoid_by_hand(torch.tensor([0.0, 3.0, 6.0], dtype=torch.float64))
    torch.testing.assert_close(curves.softmax, expected.expand(2, -1))


@pytest.mark.parametrize("door", [
    lambda given: Evaluator(Labels(), "layer", "FakeCAM", confidence=given),
    lambda given: of_quantus.AverageDrop(confidence=given),
    lambda given: saturation_curves(Labels(), nn.Identity(), torch.ones(1, 1, 6, 6), confidence=given),
    lambda given: evaluate(Labels(), "layer", [torch.ones(1, 6, 6)], "nowhere", confidence=given),
])  # fmt: skip
def test_doors_check(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="confidence must be one of 'softmax', 'sigmoid'; got 'none'"):
        door("none")
    assert not (tmp_path / "nowhere").exists()


def test_evaluate_and_resume(ones, tmp_path):
    settings = {"methods": ["FakeCAM"], "metrics": ["average_drop"], "target": 0, "pictures": 0, "progress": False}
    data = list(ones)
    run = evaluate(Labels(), "layer", data, tmp_path / "a", confidence="sigmoid", **settings)
    assert run.results["probability"].to_pylist() == pytest.approx([P_OF_SIX] * 2)
    with pytest.raises(ValueError, match='confidence: "sigmoid" -> "softmax"'):
        evaluate(Labels(), "layer", data, tmp_path / "a", mode="resume", **settings)
    evaluate(Labels(), "layer", data, tmp_path / "b", confidence=lambda y: y.sigmoid(), **settings)
    with pytest.raises(ValueError, match="confidence: its values, its attributes or its code have changed"):
        evaluate(Labels(), "layer", data, tmp_path / "b", mode="resume", confidence=lambda y: y / 6, **settings)


def test_utilities_by_hand():
    """The gradient of a sigmoid looks at its own label alone."""
    torch.manual_seed(0)
    model = CNN().double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    y = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(Sigmoid(2)(y), sigmoid_by_hand(y)[:, 2])
    torch.testing.assert_close(LogSigmoid(2)(y), sigmoid_by_hand(y)[:, 2].log())
    p = sigmoid_by_hand(model(x))[:, 1].detach()
    logit = of_captum.LayerGradCam(model, "layer").attribute(x, target=1)
    for utility, factor in (("sigmoid", p * (1 - p)), ("log_sigmoid", 1 - p)):
        found = of_captum.LayerGradCam(model, "layer", utility=utility).attribute(x, target=1)
        torch.testing.assert_close(found, logit * factor[:, None, None, None])


class TestCommandLine:
    """`--model-output` and `--confidence`, as flags and in YAML."""

    CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.layer(x).mean(dim=(2, 3))
        return {"main": y, "other": -y}

def model():
    torch.manual_seed(0)
    return Net()

def main_head(outputs):
    return outputs["main"]

def by_hand(y):
    return 1 / (1 + torch.exp(-y))
"""

    @pytest.fixture
    def arguments(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text(self.CODE)
        (tmp_path / "photos").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
        return ["evaluate", "--model", "mine.py:model", "--layer", "layer", "--data", "photos", "--target", "1",
                "--methods", "GradCAM", "--metrics", "AD", "--pictures", "0"]  # fmt: skip

    @pytest.mark.parametrize(
        "told",
        [
            ["--model-output", "main", "--confidence", "sigmoid"],
            ["--model-output", "mine.py:main_head", "--confidence", "mine.py:by_hand"],
        ],
    )
    def test_evaluate(self, arguments, told, capsys):
        assert main([*arguments, *told, "--output", "out"]) == 0
        run = Run(Path("out"))
        classifier = load_model("mine.py:model")
        x = torch.stack([classifier.transform(Image.open(f"photos/{n}.png")) for n in (0, 1)])
        with torch.no_grad():
            expected = classifier.model(x)["main"].double().sigmoid()[:, 1]
        assert run.results["probability"].to_pylist() == pytest.approx(expected.tolist(), abs=1e-6)
        settings = yaml.safe_load(Path("out/config.yaml").read_text())
        assert [settings["model_output"], settings["confidence"]] == told[1::2]
        assert main(["evaluate", "--config", "out/config.yaml", "--output", "again"]) == 2
        assert told[1:2] == ["main"] or told[1] in capsys.readouterr().err  # code that is not trusted is named
        assert main(["evaluate", "--config", "out/config.yaml", "--trust-code", "--output", "again"]) == 0
        assert Run(Path("again")).results.equals(run.results)

    def test_explain(self, arguments):
        told = [*arguments[1:5], "--model-output", "main", "--confidence", "sigmoid", "--target", "1"]
        assert main(["explain", "photos/0.png", *told, "--methods", "GradCAM", "--output", "out"]) == 0
        assert 0.4 < Run(Path("out")).results["probability"][0].as_py() < 0.7

    @pytest.mark.parametrize(
        ("told", "match"),
        [
            ([], r"say which by output=KEY.*on the command line: --model-output"),
            (["--model-output", "third"], "no entry 'third'"),
            (["--model-output", "main", "--confidence", "softmin"], "--confidence must be one of 'softmax', 'sigmoid'"),
            (["--model-output", "missing.py:f"], "there is no file missing.py"),
        ],
    )
    def test_mistakes(self, arguments, told, match, capsys):
        assert main([*arguments, *told, "--output", "out"]) == 2
        assert re.search(match, capsys.readouterr().err)
