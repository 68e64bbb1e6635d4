"""pytorch-grad-cam's own classes, called without a trace on the model."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from functools import partial
from itertools import count
from unittest import mock

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from nets import CNN, LinearHead, TinySwin, TinyViT, make_setting
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from state import untouched
from torch import nn

from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.methods import METHODS
from cam_extras.methods.random_cam import random_weights
from cam_extras.metrics import coherency
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import UPSTREAM, OptiCAM, Upstream, check_upstream, upstream_maps

pytestmark = pytest.mark.numerical

ALL = pytest.mark.parametrize("name", UPSTREAM)
CLASSES = torch.tensor([1, 0, 4])

LEFT_OUT = {
    "RefineCAM": "a product over several layers; of one layer it is its base method",
    "DeepFeatureFactorization": "returns several concepts and no map of a class",
    "GuidedBackpropReLUModel": "returns a gradient (H, W, C) of one image, replaces ReLUs and explains no layer",
    "ActivationsAndGradients": "no method: records what the methods use",
    "AblationLayer": "no method: an argument of AblationCAM",
    "AblationLayerVit": "no method: an argument of AblationCAM",
    "AblationLayerFasterRCNN": "no method: an argument of AblationCAM",
}
BROKEN = {"pytorch_grad_cam.ablation_cam_multilayer": "an older AblationCAM that BaseCAM cannot call any more"}


def directly(name, model, layer, x, reshape_transform=None, classes=CLASSES, **hyper):
    """What pytorch-grad-cam itself returns, on a copy of the model."""
    model, layer = copy.deepcopy((model, layer))
    model.eval().requires_grad_()
    if name == "FinerCAM":
        with torch.no_grad():
            logits = model(x.clone())
        nearest = (logits - logits.gather(1, classes[:, None])).abs().argsort(dim=1)
        targets = [FinerWeightedTarget(int(c), others[1:4].tolist(), 1) for c, others in zip(classes, nearest)]  # noqa: B905
    else:
        targets = [ClassifierOutputTarget(int(c)) for c in classes]
    layers = [] if name == "FullGrad" else [layer]

    def drawn(low, high, size):  # what RandomCAM draws for whatever batch there is
        return random_weights(x, size[1], seed=0).numpy()

    with mock.patch.object(np.random, "uniform", drawn):
        return UPSTREAM[name](model, layers, reshape_transform, **hyper)(x.clone(), targets)


@pytest.fixture
def plain():
    setting = make_setting("plain")
    return setting.model, setting.model.layer, setting.x


class FailsLater(CNN):
    """Raises in its n-th forward pass."""

    def __init__(self, number):
        super().__init__()
        self.number, self.passes = number, count(1)

    def forward(self, x):
        self.fail = next(self.passes) >= self.number
        return super().forward(x)


class TestUpstreamMaps:
    @ALL
    @pytest.mark.parametrize("kind", ["plain", "inplace", "batch_norm_train", "frozen"])
    def test_equals_a_direct_call(self, name, kind):
        setting = make_setting(kind)
        model, x = setting.model, setting.x
        expected = directly(name, model, model.layer, x)
        before = np.random.get_state()[1]  # noqa: NPY002
        with untouched(model, x):
            maps = upstream_maps(UPSTREAM[name], model, model.layer, x, CLASSES)
        np.testing.assert_allclose(maps.numpy(), expected, rtol=0, atol=1e-5)
        assert maps.dtype == torch.float32
        assert maps.min() == 0 < maps.max() <= 1
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    @ALL
    def test_linear_head(self, name):
        model = LinearHead().eval()
        x = torch.randn(3, 3, 24, 32)
        layer = model.layer[0]
        expected = directly(name, model, layer, x)
        with untouched(model, x):
            np.testing.assert_allclose(
                upstream_maps(UPSTREAM[name], model, layer, x, CLASSES), expected, rtol=0, atol=1e-5
            )
        model.requires_grad_(False)
        np.testing.assert_allclose(upstream_maps(UPSTREAM[name], model, layer, x, CLASSES), expected, rtol=0, atol=1e-5)

    @ALL
    def test_vit(self, name):
        setting = make_setting("vit")
        model, x = setting.model, setting.x
        arguments = (UPSTREAM[name], model, model.layer, x, CLASSES, TinyViT.reshape)
        if name == "ShapleyCAM":
            with untouched(model, x), pytest.raises(ValueError, match="ShapleyCAM cannot use a reshape_transform"):
                upstream_maps(*arguments)
            return
        if name == "SESS":  # looks at square windows
            with untouched(model, x), pytest.raises(RuntimeError, match="size of tensor"):
                upstream_maps(*arguments)
            return
        hyper = {"ablation_layer": upstream.AblationLayerVit()} if name == "AblationCAM" else {}
        expected = directly(name, model, model.layer, x, None if name == "FullGrad" else TinyViT.reshape, **hyper)
        with untouched(model, x):
            maps = upstream_maps(*arguments, hyper)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "ScoreCAM", "EigenCAM", "FinerCAM"])
    def test_swin(self, name):
        setting = make_setting("swin")
        model, x = setting.model, setting.x
        expected = directly(name, model, model.layer, x, TinySwin.reshape)
        maps = upstream_maps(UPSTREAM[name], model, model.layer, x, CLASSES, TinySwin.reshape)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "ShapleyCAM", "GradCAMPlusPlus", "LayerCAM", "EigenCAM"])
    def test_volume(self, name):
        setting = make_setting("volume")
        model, x = setting.model, setting.x
        maps = upstream_maps(UPSTREAM[name], model, model.layer, x, CLASSES)
        assert maps.shape == (3, 8, 10, 12)
        np.testing.assert_allclose(maps, directly(name, model, model.layer, x), rtol=0, atol=1e-5)

    @ALL
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_in_the_callers_mode(self, name, mode, plain):
        model, layer, x = plain
        expected = directly(name, model, layer, x)
        with mode():
            maps = upstream_maps(UPSTREAM[name], model, layer, x + 0, CLASSES)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)

    def test_layer_above_one_that_runs_without_gradients(self):
        class Frozen(CNN):
            def forward(self, x):
                with torch.no_grad():
                    x = self.stem(x)
                return self.classifier(self.head(self.activation(self.layer(x))).mean(dim=(2, 3)))

        model, x = Frozen().eval(), torch.randn(3, 3, 12, 16)
        maps = upstream_maps(upstream.GradCAM, model, model.layer, x, CLASSES)
        np.testing.assert_allclose(maps, directly("GradCAM", model, model.layer, x), rtol=0, atol=1e-5)

    def test_classes_given_themselves(self, plain):
        model, layer, x = plain
        maps = upstream_maps(OptiCAM, model, layer, x, CLASSES, hyper={"max_iterations": 2})
        targets = [ClassifierOutputTarget(int(c)) for c in CLASSES]
        np.testing.assert_allclose(maps, OptiCAM(model, [layer], max_iterations=2)(x, targets), rtol=0, atol=1e-5)
        refined = upstream_maps(upstream.RefineCAM, model, layer, x, CLASSES, hyper={"base_method": upstream.LayerCAM})
        np.testing.assert_allclose(
            refined, upstream_maps(upstream.LayerCAM, model, layer, x, CLASSES), rtol=0, atol=1e-5
        )

    @pytest.mark.parametrize("score", ["softmax", "log_softmax", "rest"])
    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
    def test_scores(self, name, score, plain):
        model, layer, x = plain
        maps = upstream_maps(UPSTREAM[name], model, layer, x, CLASSES, utility=score)
        ours = METHODS[name](utility=score)(Probe(model, layer, x, target=CLASSES))
        np.testing.assert_allclose(maps, input_map(ours, (12, 16)), rtol=0, atol=1e-5)
        assert (maps - upstream_maps(UPSTREAM[name], model, layer, x, CLASSES)).abs().max() > 1e-3

    def test_scores_there_are_not(self, plain):
        model, layer, x = plain
        with pytest.raises(ValueError, match="utility must be one of"):
            upstream_maps(upstream.GradCAM, model, layer, x, CLASSES, utility="logits")
        with pytest.raises(ValueError, match="FinerCAM compares logits"):
            upstream_maps(upstream.FinerCAM, model, layer, x, CLASSES, utility="rest")


class TestMethod:
    @ALL
    def test_evaluated(self, name, plain):
        """Its maps are those of a direct call, and so are those of masked inputs, of which coherency is made."""
        model, layer, x = plain
        with untouched(model, x):
            result = Evaluator(model, layer, {name: Upstream(cam=name)}, ["average_drop", "coherency"])(x, CLASSES)
        expected = torch.from_numpy(directly(name, model, layer, x))
        np.testing.assert_allclose(result.maps[name], expected, rtol=0, atol=1e-5)
        again = torch.from_numpy(directly(name, model, layer, x * result.maps[name][:, None]))
        np.testing.assert_allclose(
            result.scores[name]["coherency"], coherency(result.maps[name], again), rtol=0, atol=1e-4
        )

    def test_reshape_transform(self):
        setting = make_setting("swin")
        probe = Probe(setting.model, setting.model.layer, setting.x, target=CLASSES, reshape_transform=TinySwin.reshape)
        maps = directly("LayerCAM", setting.model, setting.model.layer, setting.x, TinySwin.reshape)
        np.testing.assert_allclose(Upstream(cam="LayerCAM")(probe)[:, 0], maps, rtol=0, atol=1e-5)

    def test_its_score_hyper_parameters_and_layer_are_those_that_are_used(self, plain):
        model, layer, x = plain
        first, second = Probe.several(model, [model.stem, layer], x, target=CLASSES)
        for made, options in (
            (Upstream(cam="GradCAM", utility="rest"), {"utility": "rest"}),
            (Upstream(cam="GradCAM", hyper={"eigen_smooth": True}), {"hyper": {"eigen_smooth": True}}),
        ):
            maps = [made(probe)[:, 0] for probe in (first, second)]
            for found, where in zip(maps, (model.stem, layer), strict=True):
                plainly = upstream_maps(UPSTREAM["GradCAM"], model, where, x, CLASSES)
                expected = upstream_maps(UPSTREAM["GradCAM"], model, where, x, CLASSES, **options)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
                assert (expected - plainly).abs().max() > 1e-3

    def test_mistakes(self, plain):
        model, layer, x = plain
        with pytest.raises(ValueError, match="there is no class of pytorch-grad-cam 'ScoreCam': did you mean ScoreCAM"):
            Upstream(cam="ScoreCam")
        with pytest.raises(ValueError, match="utility must be one of"):
            Upstream(cam="ScoreCAM", utility="logits")
        with pytest.raises(TypeError, match="ScoreCAM has no hyper-parameter 'steps'"):
            Upstream(cam="ScoreCAM", hyper={"steps": 3})
        with pytest.raises(TypeError, match="explain a class index"):
            Upstream(cam="GradCAM")(Probe(model, layer, x, utility=lambda outputs: outputs[:, 0]))
        with pytest.raises(TypeError, match="GradCAM"):
            Evaluator(model, layer, {"GradCAM": Upstream(cam="GradCAM")}, ["counterfactual_sensitivity"])


class TestLeavesNoTrace:
    @pytest.mark.parametrize("name", ["ScoreCAM", "AblationCAM"])
    def test_no_bar_for_every_image(self, name, plain, capsys):
        model, layer, x = plain
        upstream_maps(UPSTREAM[name], model, layer, x, CLASSES)
        assert capsys.readouterr().err == ""
        directly(name, model, layer, x)
        assert "it/s" in capsys.readouterr().err

    @ALL
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_when_the_model_raises(self, name, number):
        model, x = FailsLater(number).train(), torch.randn(3, 3, 12, 16)
        model.layer.register_forward_hook(lambda *_: None)
        modules, hooks = list(model.modules()), dict(model.layer._forward_hooks)
        raised = False
        with untouched(model, x):
            gradients = [parameter.grad for parameter in model.parameters()]
            try:
                upstream_maps(UPSTREAM[name], model, model.layer, x, CLASSES)
            except RuntimeError as error:
                raised = "fails on purpose" in str(error)
            assert all(p.grad is gradient for p, gradient in zip(model.parameters(), gradients, strict=True))
        assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
        assert model.layer._forward_hooks == hooks
        assert raised or (number > 1 and name not in ("AblationCAM", "ScoreCAM", "SESS", "FinerCAM"))

    @ALL
    def test_random_gradients_are_preserved(self, name, plain):
        model, layer, x = plain
        for parameter in list(model.parameters())[::2]:  # the others have none
            parameter.grad = torch.randn_like(parameter)
        model.zero_grad = partial(model.zero_grad, set_to_none=False)  # works on them in place
        gradients = [p.grad for p in model.parameters()]
        values = [None if g is None else g.clone() for g in gradients]
        upstream_maps(UPSTREAM[name], model, layer, x, CLASSES)
        for parameter, gradient, value in zip(model.parameters(), gradients, values, strict=True):
            assert parameter.grad is gradient
            assert gradient is None or torch.equal(gradient, value)

    @ALL
    def test_no_parameter_gradient_is_computed(self, name, plain):
        model, layer, x = plain
        computed = []
        for parameter in model.parameters():  # such a hook may take a step of an optimiser
            parameter.register_post_accumulate_grad_hook(computed.append)
        upstream_maps(UPSTREAM[name], model, layer, x, CLASSES)
        assert not computed

    @pytest.mark.parametrize("name", sorted(UPSTREAM.keys() - {"FullGrad", "ShapleyCAM"}))  # which go down to the input
    def test_input_worked_on_in_place(self, name, plain):
        model, layer, x = plain
        x.requires_grad_()
        before = x.detach().clone()
        handle = model.register_forward_pre_hook(lambda _, args: (args[0].detach().mul_(2),))
        upstream_maps(UPSTREAM[name], model, layer, x, CLASSES)
        handle.remove()
        assert torch.equal(x, before)
        assert x.grad is None

    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("name", ["GradCAM", "ShapleyCAM", "FinerCAM"])
    def test_views(self, name):
        """Called directly, ShapleyCAM fails in its destructor here and leaves its hooks."""
        convolution = nn.Conv2d(3, 7, 3, stride=4, padding=1)
        model = nn.Sequential(convolution, nn.Identity(), nn.Flatten(), nn.Linear(7 * 3 * 4, 5)).eval()
        x = torch.randn(3, 3, 12, 16)
        with untouched(model, x):
            upstream_maps(UPSTREAM[name], model, convolution, x, CLASSES)


class TestHyperParameters:
    @pytest.mark.parametrize(
        ("name", "made", "called"),
        [
            ("FEM", {"k": 0.5}, {}),
            ("KPCA_CAM", {"kernel": "rbf", "gamma": 0.1}, {}),
            ("AblationCAM", {"batch_size": 2, "ratio_channels_to_ablate": 0.5}, {}),
            ("SESS", {"num_scales": 2, "base_method": upstream.LayerCAM}, {"eigen_smooth": True}),
            ("LayerCAM", {}, {"eigen_smooth": True}),
            ("GradCAM", {}, {"aug_smooth": True}),
        ],
    )
    def test_are_handed_over(self, name, made, called, plain):
        model, layer, x = plain
        maps = upstream_maps(UPSTREAM[name], model, layer, x, CLASSES, hyper=made | called)
        targets = [ClassifierOutputTarget(int(c)) for c in CLASSES]
        expected = UPSTREAM[name](*copy.deepcopy((model, [layer])), **made)(x.clone(), targets, **called)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)
        assert np.abs(maps.numpy() - directly(name, model, layer, x)).max() > 1e-3

    def test_of_finer_cam(self, plain):
        model, layer, x = plain
        finer = upstream_maps(upstream.FinerCAM, model, layer, x, CLASSES)
        gradcam = upstream_maps(upstream.GradCAM, model, layer, x, CLASSES)
        assert (finer - gradcam).abs().max() > 1e-2
        other = upstream_maps(
            upstream.FinerCAM, model, layer, x, CLASSES, hyper={"alpha": 0.3, "comparison_categories": [2]}
        )
        assert (finer - other).abs().max() > 1e-3
        based = upstream_maps(upstream.FinerCAM, model, layer, x, CLASSES, hyper={"base_method": upstream.LayerCAM})
        assert (finer - based).abs().max() > 1e-3

    @ALL
    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    def test_unknown(self, name, plain):
        if name == "SESS":  # hands them on
            assert check_upstream(upstream.SESS, {"foo": 1}) == ["eigen_smooth"]
            return
        with pytest.raises(TypeError, match=rf"^{name} has no hyper-parameter 'foo': it has .*eigen_smooth"):
            upstream_maps(UPSTREAM[name], *plain, CLASSES, hyper={"foo": 1})


class TestBadInput:
    @pytest.mark.parametrize("targets", [CLASSES[:2], CLASSES[:, None], CLASSES[0]])
    def test_targets(self, targets, plain):
        with pytest.raises(ValueError, match="expected 3 targets, one for each sample"):
            upstream_maps(upstream.GradCAM, *plain, targets)

    @ALL
    @pytest.mark.parametrize("category", [-1, 10])
    def test_class_that_does_not_exist(self, name, category, plain):
        """Also those that do not read the score, such as EigenCAM, and at the end, where Python counts from."""
        wrong = CLASSES.clone()
        wrong[1] = category
        with untouched(plain[0]), pytest.raises(ValueError, match=rf"lie in \[0, 5\); got {category} in sample 1"):
            upstream_maps(UPSTREAM[name], *plain, wrong)

    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    def test_nan_maps(self, plain):
        model, layer, x = plain
        nn.init.zeros_(model.classifier.weight[1])
        nn.init.zeros_(model.classifier.bias[1:2])
        with untouched(model), pytest.raises(ValueError, match=r"map of AblationCAM must .* got nan in sample 0$"):
            upstream_maps(upstream.AblationCAM, model, layer, x, CLASSES)

    def test_layer_of_another_model(self, plain):
        model, layer, x = plain
        with pytest.raises(ValueError, match="is not a module of this CNN"):
            upstream_maps(upstream.GradCAM, copy.deepcopy(model), layer, x, CLASSES)

    def test_nan_input(self, plain):
        model, layer, x = plain
        x[1] = np.nan
        with pytest.raises(ValueError, match="input is NaN or infinite in sample 1"):
            upstream_maps(upstream.GradCAM, model, layer, x, CLASSES)


class TestEveryClassIsKnown:
    def test_exported(self):
        exported = {name: cls for name, cls in vars(upstream).items() if inspect.isclass(cls)}
        assert set(exported) == set(UPSTREAM) | set(LEFT_OUT)
        assert exported.items() >= UPSTREAM.items()

    def test_not_exported(self):
        for module in pkgutil.walk_packages(upstream.__path__, "pytorch_grad_cam."):
            importlib.import_module(module.name)

        def below(cls):
            return {cls}.union(*map(below, cls.__subclasses__()))

        of_upstream = {cls for cls in below(BaseCAM) if cls.__module__.split(".")[0] == "pytorch_grad_cam"}
        assert {cls for cls in of_upstream - set(UPSTREAM.values()) if cls.__module__ not in BROKEN} == {BaseCAM}
