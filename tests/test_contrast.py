"""Why A and not B: against pytorch-grad-cam's FinerCAM, against a formula in loops, in every host and in runs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from hosts import CAPTUM, METHODS, SEVERAL_PASSES
from nets import CLASSES, CNN
from PIL import Image
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from state import untouched

import cam_extras.pytorch_grad_cam as pgc_host
import cam_extras.quantus as quantus_host
from cam_extras.cli import main
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.methods import GradCAM
from cam_extras.probe import Probe
from cam_extras.run import evaluate
from cam_extras.runs.store import Run, unpack_map
from cam_extras.targets import Contrast
from cam_extras.utilities import as_classes

SCORES = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CNN().double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def reference(scores, target, references, gamma):
    """FinerCAM's formula, in loops over samples and classes; the small number in its denominator is left out."""
    found = []
    for row, a, of_sample in zip(scores, target, references, strict=True):
        p = row.exp() / row.exp().sum()
        compared = sum(p[b] * (row[a] - gamma * row[b]) for b in of_sample)
        found.append(compared / sum(p[b] for b in of_sample))
    return torch.stack(found)


def closest(row, target, count=3):
    others = [c for c in range(len(row)) if c != target]
    return sorted(others, key=lambda c: abs(float(row[c] - row[target])))[:count]


class TestFormula:
    @pytest.mark.parametrize("gamma", [0, 0.6, 1.0])
    def test_references(self, gamma):
        best = SCORES.argmax(dim=1).tolist()
        second = [closest(row, a, 1) for row, a in zip(SCORES, best, strict=True)]
        near = [closest(row, 2) for row in SCORES]
        for contrast, target, references in (
            (Contrast(None, None, gamma), best, [closest(row, a) for row, a in zip(SCORES, best, strict=True)]),
            (Contrast(2, gamma=gamma), [2] * 4, near),
            (Contrast(None, "second", gamma), best, second),
            (Contrast(2, 5, gamma), [2] * 4, [[5]] * 4),
            (Contrast(2, [5, 0], gamma), [2] * 4, [[5, 0]] * 4),
            (Contrast([0, 1, 2, 3], torch.tensor([[4], [5], [0], [1]]), gamma), [0, 1, 2, 3], [[4], [5], [0], [1]]),
        ):
            torch.testing.assert_close(contrast(SCORES), reference(SCORES, target, references, gamma))
            for n in range(4):
                alone = contrast.of_samples(torch.tensor([n]))(SCORES[n])
                torch.testing.assert_close(alone, contrast(SCORES)[n])
            assert torch.equal(pickle.loads(pickle.dumps(contrast))(SCORES), contrast(SCORES))

    def test_a_class_that_is_given_is_compared_with_the_best_other(self):
        scores = torch.tensor([[1.0, 5.0, 4.0]])
        assert Contrast(0, "second")(scores).item() == 1 - 5
        assert Contrast(1, "second")(scores).item() == 5 - 4

    def test_equals_the_target_of_finercam(self):
        theirs = torch.stack([FinerWeightedTarget(1, [0, 4, 5], 0.7)(row) for row in SCORES])
        torch.testing.assert_close(Contrast(1, [0, 4, 5], 0.7)(SCORES), theirs, rtol=1e-7, atol=1e-7)

    def test_stays_right_where_the_references_are_improbable(self):
        """There the small number in FinerCAM's denominator outweighs the probabilities, and turns the gradient over."""
        scores = torch.tensor([40.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(Contrast(0, 1)(scores), scores)
        assert gradient.tolist() == [1, -1, 0]
        (theirs,) = torch.autograd.grad(FinerWeightedTarget(0, [1], 1.0)(scores), scores)
        assert theirs[0] < 0

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (
                lambda: Contrast(2, 2)(SCORES),
                ValueError,
                r"class 2 cannot be compared with itself in samples 0, 1, 2, 3",
            ),
            (
                lambda: Contrast([0, 1, 0, 0], torch.tensor([[1]]))(SCORES),
                ValueError,
                "itself in sample 1: give another",
            ),
            (lambda: Contrast(2, 6)(SCORES), ValueError, r"must lie in \[0, 6\); got 6"),
            (lambda: Contrast(9, 1)(SCORES), ValueError, r"must lie in \[0, 6\); got 9"),
            (lambda: Contrast([0, 1], [2, 3]), ValueError, r"say which references are whose: a tensor \(N, R\)"),
            (
                lambda: Contrast(0, torch.ones(3, 2).long())(SCORES),
                ValueError,
                r"must have shape \(4, R\) for 4 samples",
            ),
            (lambda: Contrast(0, "third"), ValueError, "'second'"),
            (lambda: Contrast(0, 1.5), TypeError, "references must be class indices, integers"),
            (lambda: Contrast(0, 1, "much"), TypeError, "gamma must be a number"),
            (lambda: Contrast()(SCORES[:, :1]), ValueError, "needs two or more classes"),
            (lambda: Contrast()(SCORES[None]), ValueError, r"needs class scores \(N, C\)"),
        ],
    )
    def test_bad_arguments(self, make, error, match):
        with pytest.raises(error, match=match):
            make()


class TestMaps:
    @pytest.mark.parametrize("alpha", [0.5, 1])
    @pytest.mark.parametrize("target", [None, 1])
    @pytest.mark.parametrize("categories", [None, [1], [2, 4]])
    def test_equal_those_of_finercam(self, model, x, alpha, target, categories):
        """With its own comparison classes, which it names by their rank."""
        settings = {"alpha": alpha, "comparison_categories": categories, "target_idx": target}
        theirs = upstream.FinerCAM(model, [model.layer])(x, **settings)
        references = None
        if categories is not None:
            scores = model(x).detach()
            wanted = scores.argmax(dim=1) if target is None else torch.full((3,), target)
            ranked = [closest(row, a, CLASSES) for row, a in zip(scores, wanted.tolist(), strict=True)]
            references = torch.tensor([[row[rank - 1] for rank in categories] for row in ranked])
        ours = pgc_host.GradCAM(model, [model.layer])(x, Contrast(target, references, alpha))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert abs(ours - pgc_host.GradCAM(model, [model.layer])(x, target)).max() > 0.01

    def test_equal_those_of_finercam_for_a_sure_classifier(self):
        model, x = load_classifier(), prepare(make_canvases(12, "test", seed=2).images)
        layer = model.get_submodule(LAYER)
        theirs = upstream.FinerCAM(model, [layer])(x)
        np.testing.assert_allclose(pgc_host.GradCAM(model, [layer])(x, Contrast()), theirs, rtol=0, atol=2e-5)

    @pytest.mark.parametrize(
        "contrast", [Contrast(), Contrast(1, 3), Contrast([1, 0, 2], torch.tensor([[3], [4], [3]]))]
    )
    def test_are_the_same_in_every_host(self, model, x, contrast):
        expected = torch.from_numpy(pgc_host.GradCAM(model, [model.layer])(x, contrast))
        each = contrast.resolved(model(x).detach()).each(3)
        found = {
            "a list": pgc_host.GradCAM(model, [model.layer])(x, each),
            "their class": upstream.GradCAM(model, [model.layer])(x, each),
            "Captum": input_map(CAPTUM["GradCAM"](model, model.layer).attribute(x, contrast), x.shape[2:]),
            "Captum, a list": input_map(CAPTUM["GradCAM"](model, model.layer).attribute(x, each), x.shape[2:]),
            "Quantus": quantus_host.explain("GradCAM", layer="layer", batch_size=2)(model, x.numpy(), contrast)[:, 0],
            "Quantus, theirs": quantus_host.explain(upstream.GradCAM, layer="layer")(model, x.numpy(), contrast)[:, 0],
            "Evaluator": Evaluator(model, model.layer, {"a": GradCAM()}, ["complexity"])(x, contrast).maps["a"],
            "Probe": GradCAM().maps(Probe(model, model.layer, x, target=contrast)),
        }
        for host, maps in found.items():
            torch.testing.assert_close(torch.as_tensor(maps).float(), expected, rtol=0, atol=2e-6, msg=host)

    @pytest.mark.parametrize("name", METHODS)
    def test_of_every_method(self, model, x, name):
        """One pass for several samples gives the maps of each alone; the class predicted first is kept."""
        method = METHODS[name](**SEVERAL_PASSES.get(name, {}))
        with untouched(model):
            probe = Probe(model, model.layer, x, target=Contrast())
            maps = method.maps(probe)
        assert probe.divisible
        assert torch.equal(probe.target, model(x).argmax(dim=1))
        # These look at the whole batch, or at random numbers of it.
        if name not in ("MIGradCAM", "ExpectedGradCAM", "RandomCAM", "SmoothGradCAMPlusPlus"):
            alone = method.maps(Probe(model, model.layer, x[1:2], target=Contrast()))
            torch.testing.assert_close(maps[1:2], alone, rtol=0, atol=1e-5)

    def test_the_first_class_is_kept_at_other_inputs(self, model, x):
        contrast = Contrast()
        for options in ({"target": contrast}, {"utility": contrast}, {"target": [contrast] * 3}):
            probe = Probe(model, model.layer, x, **options)
            other = probe.at(-x)
            fixed = contrast.resolved(model(x))
            torch.testing.assert_close(probe.utility(-x), fixed(model(-x)))
            assert torch.equal(other.target, probe.target)
            some = torch.tensor([2, 0])
            torch.testing.assert_close(probe.utility(-x[some], some), fixed(model(-x))[some])


class TestMetrics:
    def test_know_the_class(self, model, x):
        evaluator = Evaluator(model, model.layer, {"GradCAM": GradCAM()}, ["average_drop", "insertion", "hci"])
        contrast = Contrast([2, 1, 0], torch.tensor([[0], [0], [1]]))
        found = evaluator(x, contrast)
        assert found.target.tolist() == [2, 1, 0]
        assert as_classes(contrast) == [2, 1, 0]
        p = model(x).softmax(dim=1)
        torch.testing.assert_close(found.confidence, p[range(3), [2, 1, 0]].detach())
        masked = (x * found.maps["GradCAM"][:, None]).double()
        o = model(masked).softmax(dim=1)[range(3), [2, 1, 0]]
        expected = (found.confidence - o).clamp(min=0) / found.confidence
        torch.testing.assert_close(found.scores["GradCAM"]["average_drop"], expected.detach(), rtol=1e-5, atol=1e-6)

    def test_upstream_method_of_an_evaluator(self, model, x):
        found = Evaluator(model, model.layer, "ScoreCAM", ["average_drop"])(x, Contrast())
        expected = upstream.ScoreCAM(model, [model.layer])(x, [*Contrast().resolved(model(x)).each(3)])
        np.testing.assert_allclose(found.maps["ScoreCAM"], expected, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match=r"FinerCAM .*explains class indices"):
            Evaluator(model, model.layer, "FinerCAM", ["average_drop"])(x, Contrast())


CANVASES = make_canvases(6, "test", seed=2)
INPUTS = prepare(CANVASES.images)
LABELLED = [{"image": x, "label": label} for x, label in zip(INPUTS, CANVASES.labels.tolist(), strict=True)]
QUICK = {"methods": ["GradCAM"], "metrics": ["average_drop"], "maps": True}


class TestRuns:
    def maps_of(self, run):
        return np.stack([unpack_map(row) for row in run.results.to_pylist()])

    @pytest.mark.parametrize("against", ["second", 9])
    def test_scores_are_those_of_the_evaluator(self, tmp_path, against):
        run = evaluate(load_classifier(), LAYER, LABELLED, tmp_path / "a", against=against, **QUICK)
        found = Evaluator(load_classifier(), LAYER, "GradCAM", ["average_drop"])(INPUTS, Contrast(None, against))
        np.testing.assert_allclose(self.maps_of(run), found.maps["GradCAM"], rtol=0, atol=1e-3)  # kept as float16
        assert run.results.column("average_drop").to_pylist() == pytest.approx(
            found.scores["GradCAM"]["average_drop"].tolist(), abs=1e-5
        )
        plain = evaluate(load_classifier(), LAYER, LABELLED, tmp_path / "b", **QUICK)
        assert abs(self.maps_of(run) - self.maps_of(plain)).max() > 0.1
        report = (run.folder / "report.html").read_text()
        assert ("against the second best" if against == "second" else "against class 9") in report
        with pytest.raises(ValueError, match="against: "):
            evaluate(load_classifier(), LAYER, LABELLED, run.folder, mode="resume", **QUICK)

    def test_why_it_is_wrong(self, tmp_path):
        """With the label as reference, only images that are seen as something else have an answer."""
        labelled = [{**item, "label": 9} if number == 2 else item for number, item in enumerate(LABELLED)]
        predicted = load_classifier()(INPUTS).argmax(dim=1)
        right = [n for n in range(6) if labelled[n]["label"] == predicted[n]]
        assert 0 < len(right) < 6
        run = evaluate(load_classifier(), LAYER, labelled, tmp_path, against="label", **QUICK)
        assert [error["index"] for error in run.errors.to_pylist()] == right
        assert "cannot be compared with itself" in run.errors.to_pylist()[0]["message"]
        expected = Evaluator(load_classifier(), LAYER, "GradCAM", ["average_drop"])(INPUTS[2:3], Contrast(None, 9))
        mine = next(row for row in run.results.to_pylist() if row["index"] == 2)
        assert mine["average_drop"] == pytest.approx(expected.scores["GradCAM"]["average_drop"].item(), abs=1e-5)

    def test_on_the_command_line(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "net.py").write_text(
            "from torchvision import transforms\n"
            "from cam_extras.demo.classifier import load_classifier\n"
            "from cam_extras.models import Classifier\n\n"
            "def net():\n"
            "    scale = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.0], [0.26])]\n"
            '    return Classifier(load_classifier(), transforms.Compose(scale), tuple("abcdefghij"))\n'
        )
        for number, image in enumerate(CANVASES.images):
            Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)).save(f"{number}.png")
        scores = {}
        common = ["--model", "net.py:net", "--layer", LAYER, "--method", "GradCAM"]
        for against in ("second", "9", "j"):
            where = ["--against", against, "--output", against]
            assert main(["evaluate", "--data", ".", "--metric", "average_drop", *common, *where]) == 0
            scores[against] = Run(tmp_path / against).results.column("average_drop").to_pylist()
        assert scores["j"] == scores["9"] != scores["second"]
        for images, refusal in (([], "'.' has no labels"), (["0.png"], "a list of paths has no labels")):
            command = ["explain", *images] if images else ["evaluate", "--data", "."]
            assert main([*command, *common, "--against", "label", "--output", "none"]) == 2
            assert refusal in capsys.readouterr().err
        assert main(["explain", "0.png", *common, "--against", "second", "--output", "explained"]) == 0
        assert Run(tmp_path / "explained").configuration["against"] == "second"
        assert main(["explain", "0.png", *common, "--against", "thrid", "--output", "none"]) == 2
        assert "there is no class 'thrid'" in capsys.readouterr().err

    def test_a_contrast_is_not_dropped(self, tmp_path):
        with pytest.raises(TypeError, match="compare it with another by against="):
            evaluate(load_classifier(), LAYER, LABELLED, tmp_path / "a", target=Contrast(3, 5), **QUICK)
        with pytest.raises(ValueError, match="against must be one of 'second', 'label'"):
            evaluate(load_classifier(), LAYER, LABELLED, tmp_path / "a", against="third", **QUICK)
