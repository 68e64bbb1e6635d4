"""Old names work for one release, and say what they are called now."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings

import pytest
import torch
from nets import CNN

from cam_extras import captum, methods, pytorch_grad_cam
from cam_extras._deprecated import MOVED_MODULES, renamed
from cam_extras.methods import as_method
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import Upstream, upstream_maps
from cam_extras.utilities import Logit, PerSampleUtility

X = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def model():
    torch.manual_seed(0)
    return CNN().eval()


@pytest.mark.parametrize("old", MOVED_MODULES)
def test_modules(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"the module {old} is called .* now") as told:
        module = importlib.import_module(old)
    assert told[0].filename.endswith(("test_deprecated.py", "importlib/__init__.py"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    for home in map(importlib.import_module, MOVED_MODULES[old]):
        names = [name for name in vars(home) if not name.startswith("_")]
        assert any(getattr(module, name) is getattr(home, name) for name in names)


def test_names_in_modules():
    sys.modules.pop("cam_extras.scores", None)
    with pytest.warns(DeprecationWarning, match="cam_extras.utilities"):
        from cam_extras.scores import SCORES, ClassScore, PerSampleScorer, ReST, Scorer, check_scores
    from cam_extras import utilities

    assert SCORES is utilities.UTILITIES
    assert (ClassScore, Scorer, PerSampleScorer) == (utilities.ClassUtility, utilities.Utility, PerSampleUtility)
    assert (ReST, check_scores) == (utilities.ReST, utilities.check_utilities)


@pytest.mark.parametrize(
    ("make", "new"),
    [
        (lambda: methods.GradCAM(score="rest"), methods.GradCAM(utility="rest")),
        (lambda: methods.OptiCAM(h="relu", score="rest"), methods.OptiCAM(rectifier="relu", utility="rest")),
        (lambda: methods.GradCAM.make({"score": "rest"}), methods.GradCAM(utility="rest")),
        (lambda: as_method("OptiCAM", {"h": "relu"}), methods.OptiCAM(rectifier="relu")),
        (lambda: as_method("KPCA_CAM", {"score": "rest"}), Upstream(cam="KPCA_CAM", utility="rest")),
        (lambda: pytorch_grad_cam.GradCAM(model(), "layer", score="rest").method, methods.GradCAM(utility="rest")),
        (lambda: captum.LayerGradCam(model(), "layer", score="rest").method, methods.GradCAM(utility="rest")),
    ],
)
def test_hyper_parameters(make, new):
    with pytest.warns(DeprecationWarning, match="is called '(utility|rectifier)' now") as told:
        assert make() == new
    assert {warning.filename for warning in told} == {__file__}


def test_both_names():
    with pytest.raises(TypeError, match="utility is given twice: by its old name, score, too"):
        methods.GradCAM(score="rest", utility="rest")


def test_what_is_read():
    with pytest.warns(DeprecationWarning, match=r"GradCAM\.score is called GradCAM\.utility now"):
        assert methods.GradCAM(utility="rest").score == "rest"
    with pytest.warns(DeprecationWarning, match=r"OptiCAM\.h is called OptiCAM\.rectifier now"):
        assert methods.OptiCAM(rectifier="relu").h == "relu"
    with pytest.raises(AttributeError, match="'GradCAM' object has no attribute 'h'"):
        methods.GradCAM().h  # noqa: B018


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cam_extras.models.auto_layer", "cam_extras.layers.auto_layer"),
        ("cam_extras.methods.base.rows_of_a_pass", "cam_extras.methods.base.rows_for"),
        (
            "cam_extras.metrics.insertion_and_deletion.spatial_mean",
            "cam_extras.metrics.insertion_and_deletion.channel_mean",
        ),
        ("cam_extras.metrics.quantities.MetricOptions", "cam_extras.metrics.MetricOptions"),
    ],
)
def test_names_that_moved(old, new):
    def found(path):
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)

    with pytest.warns(DeprecationWarning, match=f"{old} is called {new} now"):
        assert found(old) is found(new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        found(f"{old.rpartition('.')[0]}.nothing")


def test_a_class_that_sets_the_default():
    with pytest.warns(DeprecationWarning, match="the field 'score' of Mine is called 'utility' now"):

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Mine(methods.GradientMethod):
            score: str = "softmax"

            def contributions(self, probe):
                return probe.gradients

    net = model()
    probe = Probe(net, net.layer, X, target=1)
    assert Mine() == Mine(utility="softmax")
    assert torch.equal(Mine()(probe), probe.under("softmax").gradients)


def test_a_method_that_weighs_channels_without_saying_so():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(methods.Method):
        def __call__(self, probe):
            return probe.activations

        def channel_weights(self, probe):
            return probe.activations.mean(dim=(2, 3))

    with pytest.warns(DeprecationWarning, match="Mine, is called a ChannelMethod now"):
        assert methods.channel_weights(Mine())


def test_probes():
    net = model()
    with pytest.warns(DeprecationWarning, match="'score' is called 'utility'"):
        old = Probe(net, net.layer, X, score=Logit(1))
    new = Probe(net, net.layer, X, utility=Logit(1))
    assert torch.equal(old.gradients, new.gradients)
    for name, old_call, new_call in (
        ("scored_by", lambda p: p.scored_by("rest").gradients, lambda p: p.under("rest").gradients),
        ("with_score", lambda p: p.with_score(Logit(2)).gradients, lambda p: p.with_utility(Logit(2)).gradients),
        ("score", lambda p: p.score(X), lambda p: p.utility(X)),
    ):
        with pytest.warns(DeprecationWarning, match=f"Probe.{name} is called"):
            assert torch.equal(old_call(new), new_call(new))


def test_a_function_of_upstream():
    net = model()
    targets = torch.tensor([1, 2])
    with pytest.warns(DeprecationWarning, match="'score' is called 'utility'"):
        old = upstream_maps(pytorch_grad_cam.UPSTREAM["GradCAM"], net, net.layer, X, targets, score="rest")
    assert torch.equal(
        old, upstream_maps(pytorch_grad_cam.UPSTREAM["GradCAM"], net, net.layer, X, targets, utility="rest")
    )


def test_new_names_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert renamed({"old": "new"})(lambda new: new)(new=1) == 1
        methods.GradCAM(utility="rest")
