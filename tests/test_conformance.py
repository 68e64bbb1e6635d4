"""What every method promises, in every host and whatever the model does: a method is tested by being listed."""

from __future__ import annotations

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from hosts import (
    ANYWHERE,
    CAPTUM,
    HOSTS,
    METHODS,
    PARTICULAR,
    PGC,
    SEVERAL_PASSES,
    kernels,
    setting_for,
    settings_of,
)
from nets import CLASSES, CNN, Setting, rounding_apart
from state import untouched
from torch import nn

import cam_extras
from cam_extras import quantus
from cam_extras.probe import Probe, reference_tensor
from cam_extras.utilities import UTILITIES

pytestmark = pytest.mark.numerical

CASES = pytest.mark.parametrize("host", HOSTS)
ALL_METHODS = pytest.mark.parametrize("name", METHODS)
ALL_SETTINGS = pytest.mark.parametrize(
    ("name", "setting_name"), [(name, setting) for name in METHODS for setting in settings_of(name)]
)


def test_every_method_has_a_class_in_every_host():
    assert set(PGC) == set(CAPTUM) == set(METHODS)
    for name, cls in PGC.items():
        assert cls.__name__ == name
        assert getattr(cam_extras, name) is cls
    for name, cls in CAPTUM.items():
        assert cls.__name__ == "Layer" + name.replace("CAM", "Cam")


def test_what_asks_something_of_the_model_is_tested_where_it_is():
    assert set(PARTICULAR) == set(METHODS) - set(ANYWHERE)


@CASES
@ALL_SETTINGS
class TestEveryMethod:
    def test_values_and_shape(self, name, setting_name, host):
        setting = setting_for(name, setting_name)
        results = HOSTS[host](name, setting, setting.x)
        if host == "pytorch-grad-cam":
            (maps,) = results
            assert maps.shape == (len(setting.x), *setting.x.shape[2:])
            assert maps.dtype == torch.float32
            assert (maps >= 0).all()
            assert (maps <= 1).all()
            assert (maps.flatten(1).amax(dim=1) > 0.999).all()
            assert (maps.flatten(1).amin(dim=1) == 0).all()
            return
        assert len(results) == len(setting.layers)
        for attribution, probe in zip(
            results, Probe.several(setting.model, setting.layers, setting.x, **setting.options), strict=True
        ):
            assert attribution.shape[:2] == (len(setting.x), 1)
            assert attribution.shape[2:] in (probe.activations.shape[2:], setting.x.shape[2:])
            assert attribution.dtype == setting.x.dtype
            assert attribution.isfinite().all()
            assert not attribution.requires_grad

    def test_batch_equals_one_by_one(self, name, setting_name, host):
        setting = rounding_apart(setting_for(name, setting_name))
        together = HOSTS[host](name, setting, setting.x)
        alone = [HOSTS[host](name, setting, sample[None]) for sample in setting.x]
        for layer, result in enumerate(together):
            scale = result.abs().amax()
            single = torch.cat([one[layer] for one in alone])
            # The maps of pytorch-grad-cam are float32.
            atol = 1e-6 if host == "pytorch-grad-cam" else 1e-9
            torch.testing.assert_close(result / scale, single / scale, rtol=0, atol=atol)

    def test_deterministic_and_world_as_found(self, name, setting_name, host):
        setting = setting_for(name, setting_name)
        first = HOSTS[host](name, setting, setting.x)
        torch.randn(3)  # what was drawn meanwhile must not matter
        with untouched(setting.model, setting.x):
            second = HOSTS[host](name, setting, setting.x)
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_inside_no_grad_and_inference_mode(self, name, setting_name, host, mode):
        setting = setting_for(name, setting_name)
        expected = HOSTS[host](name, setting, setting.x)
        with mode():
            results = HOSTS[host](name, setting, setting.x + 0)
        for a, b in zip(results, expected, strict=True):
            assert torch.equal(a, b)

    def test_world_as_found_after_an_exception(self, name, setting_name, host):
        setting = setting_for(name, setting_name)
        setting.model.fail = True
        with untouched(setting.model, setting.x), pytest.raises(RuntimeError, match="on purpose"):
            HOSTS[host](name, setting, setting.x)


def run_quantus(name, setting, x):
    (layer,) = [key for key, module in setting.model.named_modules() if module is setting.layers[0]]
    explainer = quantus.explain(name, layer=layer, **setting.options, **SEVERAL_PASSES.get(name, {}))
    return [torch.from_numpy(explainer(setting.model, x.numpy(), [2] * len(x)))]


ALL_HOSTS = {**HOSTS, "Quantus": run_quantus}


class NeverSwitched(CNN):
    """Models with LoRA layers merge their weights in train() and eval()."""

    def train(self, mode=True):
        raise AssertionError("train() or eval() was called")

    eval = train


class Pooled(nn.Module):
    """No parameters, only a buffer."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.register_buffer("directions", torch.randn(CLASSES, 3))

    def forward(self, x):
        return self.pool(x).flatten(2).logsumexp(dim=2) @ self.directions.T


@pytest.mark.parametrize("host", ALL_HOSTS)
@pytest.mark.parametrize("name", ANYWHERE)
class TestEveryMethodInEveryHost:
    def test_neither_train_nor_eval_is_called(self, name, host):
        model = NeverSwitched()
        model.dropout.training = False
        setting = Setting(model, [model.layer], torch.randn(3, 3, 12, 16))
        with untouched(model):
            ALL_HOSTS[host](name, setting, setting.x)

    def test_model_without_parameters(self, name, host):
        model = Pooled()
        twin = copy.deepcopy(model)
        twin.unused = nn.Parameter(torch.zeros(1))
        x = torch.randn(3, 3, 12, 16)
        (result,) = ALL_HOSTS[host](name, Setting(model, [model.pool], x), x)
        (expected,) = ALL_HOSTS[host](name, Setting(twin, [twin.pool], x), x)
        assert torch.equal(result, expected)
        with torch.device("meta"):  # the default is for what the user makes
            assert torch.equal(ALL_HOSTS[host](name, Setting(model, [model.pool], x), x)[0], expected)
        assert reference_tensor(model.to("meta")).device.type == "meta"
        assert result.abs().max() > 0

    def test_fused_attention_unless_differentiated_twice(self, name, host):
        setting = setting_for(name, "vit")
        seen = []
        setting.model.norm.register_forward_hook(
            lambda module, args, out: seen.append(kernels(out.grad_fn)) if out.requires_grad else None
        )
        ALL_HOSTS[host](name, setting, setting.x)
        assert seen
        for names in seen:
            assert any("Flash" in kernel for kernel in names) is not METHODS[name].second_order


@ALL_METHODS
class TestEveryMethodClass:
    def test_frozen_and_comparable(self, name):
        method = METHODS[name]()
        assert method == METHODS[name]()
        assert hash(method) == hash(METHODS[name]())
        with pytest.raises(AttributeError):
            method.anything = 1

    def test_unknown_hyper_parameter(self, name):
        model = setting_for(name, settings_of(name)[0]).model
        for make in (
            lambda: PGC[name](model, [model.layer], momentum=1),
            lambda: CAPTUM[name](model, model.layer, momentum=1),
        ):
            with pytest.raises(TypeError, match=f"{name} has no hyper-parameter 'momentum': it has"):
                make()

    def test_says_what_it_is(self, name):
        assert METHODS[name].paper
        doc = " ".join(METHODS[name].__doc__.split())
        assert doc.partition(": ")[2]
        assert "Use it" in doc or "use it" in doc
        assert "cost" in doc
        assert "forward pass" in doc
        assert re.search(r"(19|20)\d\d[.,;]|Letting Your Model", doc)  # the paper


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if hasattr(method(), "utility")])
@pytest.mark.parametrize("utility", UTILITIES)
def test_the_utility_is_what_is_explained(name, utility):
    setting = rounding_apart(setting_for(name, settings_of(name)[0]))
    classes = [1, 0, 3]
    hyper = SEVERAL_PASSES.get(name, {})
    method, plain = METHODS[name](utility=utility, **hyper), METHODS[name](**hyper)
    where = partial(Probe, setting.model, setting.layers[0], setting.x, **setting.options)
    by_name, explicit = where(target=classes), where(utility=UTILITIES[utility](classes))
    torch.testing.assert_close(method(by_name), plain(explicit))
    if hasattr(method, "channel_weights"):
        torch.testing.assert_close(method.channel_weights(by_name), plain.channel_weights(explicit))


DRAWING = {"MIGradCAM": {"estimator": "knn"}}  # what makes a method draw that by default does not


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if hasattr(method(), "seed")])
def test_seed_decides(name):
    setting = setting_for(name, settings_of(name)[0])
    make = partial(METHODS[name], **DRAWING.get(name, {}))
    probe = Probe(setting.model, setting.layers[0], setting.x)
    first = make(seed=1)(probe)
    assert torch.equal(make(seed=1)(probe), first)
    assert not torch.allclose(make(seed=2)(probe), first)
    assert torch.equal(make(seed=np.int64(1))(probe), first)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(make(seed=1)(probe), first)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert torch.equal(make(seed=1)(probe), first)
    with pytest.raises(TypeError, match="seed must be an integer"):
        make(seed=0.5)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if hasattr(method, "channel_weights")])
def test_channel_weights_make_the_contributions(name):
    setting = setting_for(name, settings_of(name)[0])
    probe = Probe(setting.model, setting.layers[0], setting.x)
    method = METHODS[name](**SEVERAL_PASSES.get(name, {}))
    weights = method.channel_weights(probe)
    assert weights.shape == probe.activations.shape[:2]
    weighed = weights[:, :, None, None] * probe.activations
    if name == "OptiCAM":  # above the minimum of the sum
        weighed = weighed - weighed.sum(dim=1, keepdim=True).amin(dim=(2, 3), keepdim=True) / weighed.shape[1]
    torch.testing.assert_close(method(probe), weighed)
