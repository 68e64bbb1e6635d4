"""A target that does not fit the model's output raises in every host, for methods that do not read the score, too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hosts import ANYWHERE, CAPTUM, METHODS, PGC, SEVERAL_PASSES
from nets import CLASSES, CNN
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from state import untouched

import cam_extras.quantus as quantus_host
from cam_extras.evaluation import Evaluator
from cam_extras.probe import Probe

MISSING = 9999
CONTROLS = ("FakeCAM", "RandomCAM")


def in_pytorch_grad_cam(name, model, x, target):
    return PGC[name](model, [model.layer], **SEVERAL_PASSES.get(name, {}))(x, [ClassifierOutputTarget(target)] * len(x))


def in_captum(name, model, x, target):
    return CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {})).attribute(x, target)


def in_quantus(name, model, x, target):
    explain_func = quantus_host.explain(name, layer="layer", **SEVERAL_PASSES.get(name, {}))
    return explain_func(model, x.numpy(), np.full(len(x), target))


def in_evaluator(name, model, x, target):
    methods = {name: METHODS[name](**SEVERAL_PASSES.get(name, {}))}
    return Evaluator(model, model.layer, methods, metrics=["complexity"])(x, target)


HOSTS = pytest.mark.parametrize("explain", [in_pytorch_grad_cam, in_captum, in_quantus, in_evaluator])


@pytest.fixture
def model():
    return CNN().eval()


@HOSTS
@pytest.mark.parametrize("name", ANYWHERE)
def test_class_that_does_not_exist(name, explain, model):
    x = torch.randn(2, 3, 12, 16)
    explain(name, model, x, CLASSES - 1)
    with untouched(model), pytest.raises(ValueError, match=rf"{MISSING}.*{CLASSES}|{CLASSES}.*{MISSING}"):
        explain(name, model, x, MISSING)


@HOSTS
@pytest.mark.parametrize("target", [0, MISSING])
@pytest.mark.parametrize("name", CONTROLS)
def test_controls_look_at_the_target_without_a_second_pass(name, target, explain, model):
    passes = []
    model.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    try:
        explain(name, model, torch.randn(2, 3, 12, 16), target)
    except ValueError:
        assert target == MISSING
    assert passes == [2]


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_need_a_target_where_other_methods_do(name, model):
    """In Captum a missing target is an error, where the model has more than one output."""
    x = torch.randn(2, 3, 12, 16)
    with pytest.raises(ValueError, match="one utility for each sample"):
        CAPTUM[name](model, model.layer).attribute(x)
    assert CAPTUM[name](lambda x: model(x)[:, 0], model.layer).attribute(x).isfinite().all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_target_is_checked_as_it_is_differentiated(mode, model):
    """A score function may differentiate by itself, and draw random numbers."""

    def score(outputs):
        assert torch.is_grad_enabled()
        torch.rand(3)
        return outputs[:, 0]

    before = torch.get_rng_state()
    with mode():
        Probe(model, model.layer, torch.ones(2, 3, 12, 16), utility=score).check_target()
    assert torch.equal(torch.get_rng_state(), before)
