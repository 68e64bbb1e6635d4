"""Methods as people give them: every door takes the same."""

from __future__ import annotations

import pytest
import pytorch_grad_cam as upstream
import torch
from nets import CNN
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import cam_extras
from cam_extras import captum, evaluate, quantus
from cam_extras.evaluation import Evaluator
from cam_extras.layers import as_layer, as_layers, name_of, settle
from cam_extras.methods import GradCAM, OptiCAM, RandomCAM, ScoreCAM, as_method, as_methods
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import Upstream
from cam_extras.utilities import Logit, PerSampleUtility, TargetUtility, as_classes, as_target

X = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ("GradCAM", GradCAM()),
        (GradCAM, GradCAM()),
        (GradCAM(utility="rest"), GradCAM(utility="rest")),
        (cam_extras.GradCAM, GradCAM()),
        (captum.LayerGradCam, GradCAM()),
        ("ScoreCAM", ScoreCAM()),
        ("KPCA_CAM", Upstream(cam="KPCA_CAM")),
        (upstream.ScoreCAM, Upstream(cam="ScoreCAM")),
        (upstream.GradCAM, Upstream(cam="GradCAM")),
    ],
)
def test_a_method(given, method):
    assert as_method(given) == method
    assert as_methods(given) == as_methods([given])
    assert as_methods({"mine": given}) == {"mine": method}
    assert list(as_methods({"mine": given}).values()) == list(as_methods(given).values())


def test_hyper_parameters_of_a_method():
    assert as_method("GradCAM", {"utility": "rest"}) == as_method(GradCAM, {"utility": "rest"})
    assert as_method(OptiCAM(max_iterations=3), {"tolerance": 0}) == OptiCAM(max_iterations=3, tolerance=0)
    assert as_methods("OptiCAM:max_iterations=30,utility=softmax") == {
        "OptiCAM:max_iterations=30,utility=softmax": OptiCAM(max_iterations=30, utility="softmax")
    }
    assert as_methods({"fast": "OptiCAM:max_iterations=30"}) == {"fast": OptiCAM(max_iterations=30)}


def test_seeds():
    given = {"a": "RandomCAM", "b": RandomCAM, "c": RandomCAM(), "d": "RandomCAM:seed=5", "e": {"method": "RandomCAM"}}
    assert {name: method.seed for name, method in as_methods(given, 3).items()} == {
        "a": 3,
        "b": 3,
        "c": 0,
        "d": 5,
        "e": 3,
    }


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ([], ValueError, "there is no method: give one or more"),
        ([GradCAM(), GradCAM()], ValueError, "there are two methods named 'GradCAM'"),
        (dict, TypeError, 'the method must be a name, such as "GradCAM"'),
        ("GradCan", ValueError, "there is no method 'GradCan': did you mean GradCAM"),
        ({"a": 3}, TypeError, "methods must map names to methods"),
    ],
)
def test_what_is_no_method(given, error, told):
    with pytest.raises(error, match=told):
        as_methods(given)


class TestLayers:
    model = CNN().eval()

    def test_forms(self):
        layer = self.model.layer
        for given in (layer, "layer", [layer], ("layer",), torch.nn.ModuleList([layer])):
            assert as_layers(self.model, given) == [layer]
            assert as_layer(self.model, given) is layer
        assert as_layers(self.model, ["stem", layer]) == [self.model.stem, layer]
        assert as_layer(self.model, "auto") == "auto"
        assert settle(self.model, ["auto", layer], X) == [self.model.head, layer]
        assert name_of(self.model, layer) == "layer"

    @pytest.mark.parametrize(
        ("given", "error", "told"),
        [
            ("layr", ValueError, "there is no layer 'layr': did you mean layer"),
            (3, TypeError, 'the layer must be a module, its dotted name, "auto", or a list of them; got 3'),
            ([], ValueError, "at least one layer"),
            (["stem", "layer"], ValueError, "expected one layer, got 2"),
            (CNN().layer, ValueError, "not a module of this CNN"),
        ],
    )
    def test_what_is_none(self, given, error, told):
        with pytest.raises(error, match=told):
            as_layer(self.model, given)

    def test_names_in_a_function(self):
        with pytest.raises(TypeError, match="'layer' names a layer, and this function has none"):
            as_layer(lambda x: x, "layer")
        with pytest.raises(TypeError, match=r'layer="auto" looks for a layer in a torch\.nn\.Module; got function'):
            settle(lambda x: x, ["auto"], X)


class TestTargets:
    model = CNN().eval()

    @pytest.mark.parametrize(
        "given", [3, torch.tensor(3), [3, 3], torch.tensor([3, 3]), X.new_tensor([3, 3]).long().numpy()], ids=repr
    )
    def test_indices(self, given):
        assert isinstance(as_target(given), TargetUtility)
        expected = Probe(self.model, self.model.layer, X, target=3).gradients
        found = Probe(self.model, self.model.layer, X, utility=as_target(given)).gradients
        torch.testing.assert_close(found, expected)
        assert torch.as_tensor(as_classes(given)).flatten().unique().tolist() == [3]

    def test_functions(self):
        targets = [ClassifierOutputTarget(3), Logit(1)]
        assert isinstance(as_target(targets), PerSampleUtility)
        assert as_classes(targets) == [3, 1]
        assert as_classes(Logit(2)) == 2
        with pytest.raises(TypeError, match="that does not say which class it reads has no probability"):
            as_classes([lambda y: y[0]])
        with pytest.raises(TypeError, match="that does not say which class it reads has no probability"):
            as_classes(lambda y: y[:, 0])
        with pytest.raises(TypeError, match="targets must be a class index, a list"):
            as_target("3")

    def test_in_every_host(self):
        layer, targets = self.model.layer, [ClassifierOutputTarget(3), ClassifierOutputTarget(1)]
        expected = cam_extras.GradCAM(self.model, layer)(X, targets)
        assert abs(cam_extras.GradCAM(self.model, layer)(X, [3, 1]) - expected).max() == 0
        assert abs(cam_extras.GradCAM(self.model, layer)(X, torch.tensor([3, 1])) - expected).max() == 0
        of_captum = captum.LayerGradCam(self.model, layer)
        assert torch.equal(of_captum.attribute(X, targets), of_captum.attribute(X, [3, 1]))
        explain = quantus.explain("GradCAM", layer="layer")
        for given in (targets, [3, 1], torch.tensor([3, 1])):
            assert abs(explain(self.model, X, given)[:, 0] - expected).max() < 1e-6
        assert (explain(self.model, X, 3) == explain(self.model, X, [3, 3])).all()
        predicted = self.model(X).argmax(dim=1)
        assert (explain(self.model, X, None) == explain(self.model, X, predicted)).all()
        scored = quantus.explain("FEM", layer="layer")
        assert (scored(self.model, X, None) == scored(self.model, X, predicted)).all()


@pytest.mark.parametrize("layer", ["layer", "auto", ["layer"], "module"])
def test_a_layer_in_every_host(layer):
    model = CNN().eval()
    given = model.layer if layer == "module" else layer
    module = model.head if layer == "auto" else model.layer
    expected = cam_extras.GradCAM(model, [module])(X, 3)
    assert abs(cam_extras.GradCAM(model, given)(X, 3) - expected).max() == 0
    of_captum = captum.LayerGradCam(model, given).attribute(X, 3)
    of_captum = of_captum[0] if isinstance(of_captum, list) else of_captum
    assert torch.equal(of_captum, captum.LayerGradCam(model, module).attribute(X, 3))
    assert abs(quantus.explain("GradCAM", layer=given)(model, X, 3)[:, 0] - expected).max() < 1e-6
    evaluation = Evaluator(model, given, "GradCAM", ["complexity"])(X, 3)
    assert abs(evaluation.maps["GradCAM"].numpy() - expected).max() < 1e-6


def test_a_run_takes_the_same(tmp_path):
    model, found = CNN().eval(), []
    for number, (layer, methods, target) in enumerate(
        [
            ("layer", "GradCAM", 1),
            (model.layer, GradCAM, torch.tensor(1)),
            ([model.layer], {"GradCAM": GradCAM()}, ClassifierOutputTarget(1)),
            ("auto", [cam_extras.GradCAM], Logit(1)),
        ]
    ):
        run = evaluate(
            model, layer, list(X), tmp_path / str(number), methods=methods, metrics="complexity", target=target
        )
        found.append((run.configuration["layer"], run.results["complexity"].to_pylist()))
    assert found == [found[0]] * 3 + [("head", found[3][1])]
