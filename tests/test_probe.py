"""The probe: derivatives against plain autograd, and the user's world left as found."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch
from nets import CLASSES, CNN, SETTINGS, LinearHead, TinySwin, TinyViT, make_setting, spread_predictions
from state import untouched
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import roi_align

from cam_extras import quantus
from cam_extras.captum import LayerGradCam
from cam_extras.evaluation import saturation_curves
from cam_extras.layers import auto_layer
from cam_extras.methods import METHODS
from cam_extras.probe import Probe, _warn_of_training_mode, find_layer
from cam_extras.pytorch_grad_cam import UPSTREAM, GradCAM, OptiCAM, upstream_maps
from cam_extras.utilities import Logit, ReST

pytestmark = pytest.mark.numerical


def counted(model):
    """Count forward passes of a model."""
    calls = SimpleNamespace(number=0)

    def count(module, args):
        calls.number += 1

    model.register_forward_pre_hook(count)
    return calls


def plain_derivatives(model, layer, x, score, v=None, order=2):
    """Activations, gradient and H v by plain autograd through the whole model."""
    kept = {}
    handle = layer.register_forward_hook(lambda m, a, out: kept.update(a=out) or out.clone())
    outputs = model(x)
    handle.remove()
    gradient = torch.autograd.grad(score(outputs).sum(), kept["a"], create_graph=order == 2)[0]
    if order == 1:
        return kept["a"].detach(), gradient, None
    product = torch.autograd.grad(gradient, kept["a"], kept["a"].detach() if v is None else v)[0]
    return kept["a"].detach(), gradient.detach(), product


@pytest.mark.parametrize("score", [Logit([1, 2, 0]), ReST([1, 2, 0])], ids=repr)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_derivatives_equal_plain_autograd(dims, score):
    model = CNN(dims=dims).double().eval()
    x = torch.randn(3, 3, *(9, 8, 7)[:dims], dtype=torch.float64)
    probe = Probe(model, model.layer, x, utility=score)
    a, g, hv = plain_derivatives(model, model.layer, x, score)
    torch.testing.assert_close(probe.activations, a, rtol=0, atol=0)
    torch.testing.assert_close(probe.gradients, g, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(probe.hessian_vector_product(probe.activations), hv, rtol=1e-12, atol=1e-14)
    v = torch.randn_like(a)
    expected = plain_derivatives(model, model.layer, x, score, v)[2]
    torch.testing.assert_close(probe.hessian_vector_product(v), expected, rtol=1e-12, atol=1e-14)
    assert not any(t.requires_grad for t in (probe.activations, probe.gradients, probe.hessian_vector_product(v)))


def test_everything_asked_costs_one_forward_pass():
    model = CNN().eval()
    calls = counted(model)
    probes = Probe.several(model, [model.layer, model.stem], torch.randn(2, 3, 8, 8))
    assert calls.number == 0
    for probe in probes:
        for utility in ("logit", "rest", "softmax"):
            scored = probe.under(utility)
            assert scored.gradients.isfinite().all()
            scored.hessian_vector_product(scored.activations)
    assert probes[0].target.shape == (2,)
    assert probes[0].outputs.shape == (2, CLASSES)
    assert calls.number == 1


def test_nothing_below_the_layer_is_recorded():
    model = CNN().eval()
    recorded = []
    model.stem.register_forward_hook(lambda m, a, out: recorded.append(out.requires_grad))
    model.head.register_forward_hook(lambda m, a, out: recorded.append(out.requires_grad))
    assert Probe(model, model.layer, torch.randn(2, 3, 8, 8)).gradients.shape == (2, 7, 4, 4)
    assert recorded == [False, True]


def test_several_layers_are_paired_with_their_own_activations():
    model = CNN().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layers = [model.head, model.stem, model.layer]  # not the order in which they run
    for probe, layer in zip(Probe.several(model, layers, x, target=1), layers, strict=True):
        alone = Probe(model, layer, x, target=1)
        torch.testing.assert_close(probe.activations, alone.activations, rtol=0, atol=0)
        torch.testing.assert_close(probe.gradients, alone.gradients, rtol=1e-12, atol=1e-14)
        v = torch.randn_like(alone.activations)
        torch.testing.assert_close(
            probe.hessian_vector_product(v), alone.hessian_vector_product(v), rtol=1e-12, atol=1e-14
        )


def test_inplace_after_the_layer_does_not_rewrite_its_activations():
    model = CNN(inplace=True).eval()
    other = CNN(inplace=False).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    probe, expected = Probe(model, model.layer, x, target=0), Probe(other, other.layer, x, target=0)
    assert expected.activations.min() < 0
    torch.testing.assert_close(probe.activations, expected.activations, rtol=0, atol=0)
    torch.testing.assert_close(probe.gradients, expected.gradients, rtol=0, atol=0)
    assert probe.activations.min() < 0


def test_later_layer_that_returns_its_own_input():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.same = nn.Conv2d(3, 6, 3, padding=1), nn.Identity()
            self.conv, self.classifier = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, CLASSES)

        def forward(self, x):
            x = self.stem(x)
            h = self.conv(self.same(x)).relu()
            x += h
            return self.classifier(x.relu().mean(dim=(2, 3)))

    model = Residual().eval()
    x = torch.randn(2, 3, 8, 8)
    alone = Probe(model, model.same, x, target=1)
    together = Probe.several(model, [model.stem, model.same], x, target=1)[1]
    torch.testing.assert_close(together.activations, alone.activations)
    torch.testing.assert_close(together.gradients, alone.gradients)


def test_layers_on_parallel_branches_of_a_frozen_model():
    class Branches(CNN):
        def __init__(self):
            super().__init__()
            self.other = nn.Conv2d(6, 7, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            x = self.activation(self.layer(x) + self.other(x))
            return self.classifier(self.head(x).flatten(2).mean(dim=2))

    model = Branches().eval().requires_grad_(False)
    x = torch.randn(2, 3, 8, 8)
    for probe in Probe.several(model, [model.layer, model.other], x, target=1):
        alone = Probe(model, model.other, x, target=1)
        torch.testing.assert_close(probe.gradients, alone.gradients)  # a sum passes the same gradient to both


def test_layer_that_returns_its_own_input():
    class Residual(CNN):
        def forward(self, x):
            stream = self.stem(x)
            same = self.dropout(stream)  # in eval mode the very tensor that went in
            stream += 1
            return self.classifier(self.head(self.activation(self.layer(same))).flatten(2).mean(dim=2))

    model = Residual().eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.dropout, x, target=1)
    expected = Probe(model, model.stem, x, target=1)
    torch.testing.assert_close(probe.activations, expected.activations, rtol=0, atol=0)
    assert probe.gradients.abs().max() > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_world_is_left_as_found(name):
    setting = make_setting(name)
    x = setting.x.clone().requires_grad_()
    with untouched(setting.model, x):
        for probe in Probe.several(setting.model, setting.layers, x, **setting.options):
            probe.hessian_vector_product(probe.activations)
            assert probe.at(x + 1).gradients.shape == probe.gradients.shape
            assert probe.utility(x).shape == (len(x),)


@pytest.mark.parametrize("name", SETTINGS)
def test_world_is_left_as_found_when_the_model_raises(name):
    setting = make_setting(name)
    setting.model.fail = True
    with untouched(setting.model, setting.x), pytest.raises(RuntimeError, match="on purpose"):
        Probe(setting.model, setting.layers[0], setting.x, **setting.options).outputs  # noqa: B018
    with untouched(setting.model, setting.x), pytest.raises(RuntimeError, match="on purpose"):
        Probe(setting.model, setting.layers[0], setting.x, target=0, **setting.options).utility(setting.x)


def test_random_state_is_kept_when_the_model_draws():
    class Noisy(CNN):
        def forward(self, x):
            return super().forward(x) + torch.randn(())

    model = Noisy().eval()
    x = torch.randn(1, 3, 8, 8)
    with untouched(model):
        assert Probe(model, model.layer, x).gradients.isfinite().all()


def test_training_mode_is_restored_module_by_module():
    model = CNN(batch_norm=True).train()
    model.stem.eval()
    model.head[1].eval()
    modes = [m.training for m in model.modules()]
    evaluated = copy.deepcopy(model).eval()
    x = torch.randn(4, 3, 8, 8)
    with untouched(model):
        gradients = Probe(model, model.layer, x, target=0).gradients
    assert [m.training for m in model.modules()] == modes
    torch.testing.assert_close(gradients, Probe(evaluated, evaluated.layer, x, target=0).gradients)


EVERY_WAY_IN = {
    "probe": lambda model, x: Probe(model, model.layer, x).gradients,
    "utility of another input": lambda model, x: Probe(model, model.layer, x, target=1).utility(x),
    "pytorch-grad-cam": lambda model, x: GradCAM(model, [model.layer])(x),
    "Captum": lambda model, x: LayerGradCam(model, model.layer).attribute(x, target=1),
    "Quantus": lambda model, x: quantus.explain("GradCAM", layer="layer")(model, x.numpy(), [1] * len(x)),
    "upstream": lambda model, x: upstream_maps(UPSTREAM["GradCAM"], model, model.layer, x, torch.tensor([1, 1])),
    "auto_layer": auto_layer,
}


@pytest.mark.parametrize("way_in", EVERY_WAY_IN)
def test_training_mode_is_told_once_for_each_model_at_the_callers_line(way_in):
    x = torch.randn(2, 3, 8, 8)
    for model in (CNN(), CNN()):
        with pytest.warns(UserWarning, match=r"this CNN is in training mode: .* call model\.eval\(\) first") as told:
            EVERY_WAY_IN[way_in](model, x)
        (warning,) = told
        assert warning.filename == __file__
        assert model.training
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            EVERY_WAY_IN[way_in](model, x)


def test_eval_mode_is_no_news_within_a_wrapper_either():
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.layer = model, model.layer

        def forward(self, x):
            return self.model(x)

    x = torch.randn(2, 3, 8, 8)
    wrapper = Wrapper(CNN().eval())
    assert wrapper.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (CNN().eval(), wrapper):
            Probe(model, model.layer, x).gradients  # noqa: B018
    wrapper.model.dropout.train()
    with pytest.warns(UserWarning, match="this Wrapper is in training mode"):
        Probe(wrapper, wrapper.layer, x).gradients  # noqa: B018


def test_training_mode_is_told_once_to_all_threads():
    model = CNN()
    together = Barrier(8)

    def tell(number):
        together.wait()
        _warn_of_training_mode(model)

    with pytest.warns(UserWarning, match="training mode") as told, ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(8)))
    assert len(told) == 1


class CopiesItself(CNN):
    """Keeps a copy of itself from a forward pass, as detectors do that fuse their layers in one."""

    def __init__(self, copy_of):
        super().__init__()
        self.kept = []  # no attribute of its own: a list is no module
        self.copy_of = copy_of

    def forward(self, x):
        features = super().forward(x)
        if self.copy_of is not None:
            way, self.copy_of = self.copy_of, None
            kept, self.kept = self.kept, []
            kept.append(way(self))
            self.kept = kept
        return features


def unpickled(model):
    return pickle.loads(pickle.dumps(model))


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, unpickled, saved_and_loaded])
@pytest.mark.parametrize("way_in", ["probe", "layer's input", "upstream", "auto_layer"])
def test_copies_made_in_a_forward_pass_are_free_of_live_hooks(way, way_in):
    model = CopiesItself(way).eval().requires_grad_(False)
    x = torch.randn(2, 3, 8, 8)
    if way_in == "layer's input":
        Probe(model, model.layer, x, attribute_to_layer_input=True).gradients  # noqa: B018
    else:
        EVERY_WAY_IN[way_in](model, x)
    (twin,) = model.kept
    expected = model(x)
    for _ in range(2):
        outputs = twin(x)
        assert torch.equal(outputs, expected)
        assert not outputs.requires_grad
    assert Probe(twin, twin.layer, x).gradients.abs().max() > 0
    assert not model.layer._forward_hooks


def test_copy_that_runs_in_the_forward_pass_is_explained():
    class Fused(CNN):
        def forward(self, x):
            return CNN.forward(copy.deepcopy(self), x)

    model = Fused().eval()
    x = torch.randn(2, 3, 8, 8)
    expected = Probe(CNN.forward.__get__(model), model.layer, x, target=1).gradients
    torch.testing.assert_close(Probe(model, model.layer, x, target=1).gradients, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("net", [CNN, TinyViT])
def test_works_inside_the_callers_no_grad_and_inference_mode(mode, net):
    model = net().eval()
    x = torch.randn(2, 3, 12, 16)
    options = {"reshape_transform": TinyViT.reshape} if net is TinyViT else {}
    expected = Probe(model, model.layer, x, target=1, **options)
    v = torch.randn_like(expected.activations)
    with mode():
        made_inside = x + 0  # an inference tensor in inference mode
        probe = Probe(model, model.layer, made_inside, target=1, **options)
        torch.testing.assert_close(probe.gradients, expected.gradients)
        torch.testing.assert_close(probe.hessian_vector_product(v), expected.hessian_vector_product(v))


def test_model_that_switches_the_grad_mode_itself():
    class Switching(CNN):
        def forward(self, x):
            with torch.set_grad_enabled(True):
                x = self.layer(self.stem(x))
            return self.classifier(self.head(self.activation(x)).flatten(2).mean(dim=2))

    model = Switching().eval()
    x = torch.randn(2, 3, 8, 8)
    plain = plain_derivatives(model, model.layer, x, Logit(1))
    with untouched(model):
        torch.testing.assert_close(Probe(model, model.layer, x, target=1).gradients, plain[1])


class LeavesRecordingHalfWay(CNN):
    """Part of the way to the score is under no-grad once the model has put back the mode that it found."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(7, 7, 1), nn.Conv2d(7, 7, 1)

    def forward(self, x):
        with torch.no_grad():
            x = self.layer(self.stem(x))
        x = self.one(x)
        with torch.enable_grad():
            return self.classifier(self.head(self.activation(x + self.two(x))).flatten(2).mean(dim=2))


class ViewMadeBelow(CNN):
    """Works in place, above the layer, on a view that was made below it."""

    def forward(self, x):
        x = self.stem(x)
        view = x.flatten(2)
        view += self.layer(x.clone())[:, :6].flatten(2)
        return self.classifier(F.pad(view.reshape(x.shape), (0, 0, 0, 0, 0, 2)).flatten(2).mean(dim=2))


@pytest.mark.parametrize("net", [LeavesRecordingHalfWay, ViewMadeBelow])
def test_models_that_must_be_recorded_from_below(net):
    model = net().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradients = Probe(model, model.layer, x, target=1).gradients
    step = torch.zeros_like(gradients)
    step[0, 2, 1, 1] = 1e-6
    scores = []
    for moved in (-step, step):
        handle = model.layer.register_forward_hook(lambda m, a, out, moved=moved: out + moved)
        with torch.no_grad():
            scores.append(model(x)[0, 1])
        handle.remove()
    assert gradients[0, 2, 1, 1].item() == pytest.approx((scores[1] - scores[0]).item() / 2e-6, rel=1e-4)
    assert gradients[0, 2, 1, 1] != 0


def test_input_changed_in_place_by_the_model():
    class Changing(CNN):
        def forward(self, x):
            x -= 1
            return super().forward(x)

    model = Changing().eval()
    x = torch.randn(2, 3, 8, 8)
    with untouched(model, x):
        probe = Probe(model, model.layer, x, target=1)
        expected = Probe(CNN.forward.__get__(model), model.layer, x - 1, target=1)
        torch.testing.assert_close(probe.gradients, expected.gradients)
        torch.testing.assert_close(probe.activations, expected.activations)


class Checkpointed(CNN):
    """Runs its head again in the backward pass; both what it computes and what it keeps depend on the mode."""

    def __init__(self):
        super().__init__(batch_norm=True)
        self.attention = nn.MultiheadAttention(7, 1, batch_first=True)

    def part(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        x = x + tokens.transpose(1, 2).reshape(x.shape)
        return self.head(self.activation(x)) * (3.0 if self.training else 1.0)

    def forward(self, x):
        x = self.layer(self.stem(x))
        return self.classifier(checkpoint(self.part, x, use_reentrant=False).flatten(2).mean(dim=2))


def test_checkpoints_above_the_layer():
    model = Checkpointed().train()
    x = torch.randn(4, 3, 8, 8)
    plain = copy.deepcopy(model).eval()
    plain.forward = lambda x: plain.classifier(plain.part(plain.layer(plain.stem(x))).flatten(2).mean(dim=2))
    expected = Probe(plain, plain.layer, x, target=1)
    with untouched(model):
        probe = Probe(model, model.layer, x, target=1)
        torch.testing.assert_close(probe.gradients, expected.gradients)
        torch.testing.assert_close(
            probe.hessian_vector_product(probe.activations),
            expected.hessian_vector_product(expected.activations),
        )


@pytest.mark.parametrize("layer", [0, 1])
def test_transformer_encoder_with_a_padding_mask(layer):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            self.classifier = nn.Linear(8, CLASSES)
            self.mask = torch.zeros(2, 12, dtype=torch.bool)
            self.mask[1, -3:] = True

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.classifier(self.encoder(tokens, src_key_padding_mask=self.mask).mean(dim=1))

    model = Encoder().eval()
    x = torch.randn(2, 3, 12, 16)
    module = model.encoder.layers[layer].norm1

    def reshape(tokens):
        return tokens.transpose(1, 2).reshape(len(tokens), -1, 3, 4)

    with untouched(model):
        gradients = Probe(model, module, x, target=1, reshape_transform=reshape).gradients
    _, expected, _ = plain_derivatives(model, module, x, Logit(1), order=1)
    torch.testing.assert_close(gradients, reshape(expected))


@pytest.mark.parametrize("method", ["gradients", "hessian"])
def test_compiled_model(method):
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    expected = Probe(model, model.layer, x, target=1)
    probe = Probe(compiled, model.layer, x, target=1)
    if method == "gradients":
        torch.testing.assert_close(probe.gradients, expected.gradients)
    else:
        torch.testing.assert_close(
            probe.hessian_vector_product(probe.activations), expected.hessian_vector_product(expected.activations)
        )


def test_compiled_model_runs_plain_code_in_every_pass():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    probe = Probe(compiled, model.layer, x, target=1)
    for run in (probe.run, probe.utility, lambda y: probe.at(y).gradients, lambda y: probe.utility(y.requires_grad_())):
        run(torch.randn(2, 3, 8, 8))
    METHODS["OptiCAM"](max_iterations=2)(probe)
    assert not compilations
    compiled(x)
    assert compilations  # the caller's own passes stay compiled


def test_layer_that_returns_a_tuple_of_one():
    class Wrapping(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return (self.module(x),)

    class Unwrapping(CNN):
        def forward(self, x):
            return self.classifier(self.head(self.activation(self.layer(self.stem(x))[0])).flatten(2).mean(dim=2))

    model = Unwrapping().eval()
    expected = Probe(CNN.forward.__get__(model), model.layer, torch.ones(2, 3, 8, 8), target=1).gradients
    model.layer = Wrapping(model.layer)
    torch.testing.assert_close(Probe(model, model.layer, torch.ones(2, 3, 8, 8), target=1).gradients, expected)


def test_backward_pass_keeps_the_types_of_the_forward_pass():
    """A head that leaves autocast computes in float32, and so must its derivatives."""

    class Exact(CNN):
        def forward(self, x):
            x = self.layer(self.stem(x)).float()
            with torch.autocast("cpu", enabled=False):
                return self.classifier(self.head(self.activation(x)).flatten(2).mean(dim=2))

    model = Exact().eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe = Probe(model, model.layer, x, target=1)
        gradients, activations = probe.gradients, probe.activations
    leaf = activations.clone().requires_grad_()
    score = model.classifier(model.head(model.activation(leaf)).flatten(2).mean(dim=2))[:, 1]
    exact = torch.autograd.grad(score.sum(), leaf)[0]
    torch.testing.assert_close(gradients, exact.bfloat16().float(), rtol=0, atol=0)


def test_autocast_bf16():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    exact = Probe(model, model.layer, x, target=1)
    with torch.autocast("cpu", dtype=torch.bfloat16), untouched(model):
        probe = Probe(model, model.layer, x, target=1)
        product = probe.hessian_vector_product(probe.activations)
        assert probe.activations.dtype == probe.gradients.dtype == product.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa, and near zero the ReLU after the layer may fall on the other side.
    clear = exact.activations.abs() > 0.02
    for rounded, value in (
        (probe.gradients, exact.gradients),
        (product, exact.hessian_vector_product(exact.activations)),
    ):
        error = (rounded - value)[clear].abs().max() / value.abs().max()
        assert 0 < error < 0.03


def test_autocast_cache_is_not_poisoned():
    """Weights cast under our no-grad must not be reused, without gradients, by the caller's training step."""
    model = CNN()
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Probe(model, model.layer, x).gradients.isfinite().all()
        model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_half_precision_model_gives_float32_mathematics(dtype, mode):
    model = CNN().to(dtype).eval()
    with mode():
        probe = Probe(model, model.layer, torch.randn(2, 3, 8, 8, dtype=dtype))
        assert probe.gradients.abs().max() > 0
    product = probe.hessian_vector_product(probe.activations)
    assert {t.dtype for t in (probe.activations, probe.gradients, product, probe.outputs)} == {torch.float32}


def kernels_of(probe):
    """Names of all autograd nodes between the layer and the output."""
    nodes, names = [probe._recording.outputs.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [following for following, _ in node.next_functions if following is not None]
    return " ".join(names)


def test_fused_attention_above_the_layer():
    model = TinyViT().eval()
    x = torch.randn(2, 3, 12, 16)
    probe = Probe(model, model.layer, x, target=1, reshape_transform=TinyViT.reshape)
    fast = Probe(model, model.layer, x, target=1, reshape_transform=TinyViT.reshape, second_order=False)
    assert "Flash" in kernels_of(fast)
    assert "Flash" not in kernels_of(probe)
    torch.testing.assert_close(fast.gradients, probe.gradients)
    assert probe.hessian_vector_product(probe.activations).abs().max() > 0
    with pytest.raises(ValueError, match="second_order=True"):
        fast.hessian_vector_product(fast.activations)


def test_hessian_with_reshape_transform_holds_the_class_token_fixed():
    """H is the Hessian with respect to the patches: compared with the whole Hessian of the head, patch by patch."""
    model = TinyViT().double().eval()
    x = torch.randn(1, 3, 12, 16, dtype=torch.float64)
    probe = Probe(model, model.layer, x, target=2, reshape_transform=TinyViT.reshape)
    kept = []
    handle = model.layer.register_forward_hook(lambda m, a, out: kept.append((a[0].detach(), out.detach())))
    model(x)
    handle.remove()
    stream, tokens = kept[0]

    def score(patches):
        normed = torch.cat([tokens[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            block = model.blocks[1]
            out = stream + block.attention(normed)
            out = out + block.out(block.mlp(block.norm2(out)))
        return model.classifier(model.norm(out)[:, 0])[0, 2]

    patches = TinyViT.reshape(tokens)
    whole = torch.autograd.functional.hessian(score, patches).reshape(patches.numel(), patches.numel())
    v = torch.randn_like(patches)
    expected = (whole @ v.flatten()).reshape(patches.shape)
    torch.testing.assert_close(probe.activations, patches)
    torch.testing.assert_close(probe.hessian_vector_product(v), expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-6


def test_channels_last_features_with_reshape_transform():
    model = TinySwin().eval()
    x = torch.randn(2, 3, 12, 16)
    probe = Probe(model, model.layer, x, target=1, reshape_transform=TinySwin.reshape)
    a, g, hv = plain_derivatives(model, model.layer, x, Logit(1))
    torch.testing.assert_close(probe.activations, TinySwin.reshape(a))
    torch.testing.assert_close(probe.gradients, TinySwin.reshape(g))
    torch.testing.assert_close(probe.hessian_vector_product(probe.activations), TinySwin.reshape(hv))


def test_frozen_parameters():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    expected = Probe(model, model.layer, x, target=1).gradients
    model.requires_grad_(False)
    torch.testing.assert_close(Probe(model, model.layer, x, target=1).gradients, expected, rtol=0, atol=0)


def test_hessian_is_zero_where_the_score_is_linear():
    model = LinearHead().eval()
    probe = Probe(model, model.layer, torch.randn(2, 3, 8, 8))
    assert (probe.hessian_vector_product(probe.activations) == 0).all()
    rest = probe.under("rest")
    assert rest.hessian_vector_product(rest.activations).abs().max() > 0


def test_layer_input():
    model = CNN().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    at_input = Probe(model, model.layer, x, target=1, attribute_to_layer_input=True)
    before = Probe(model, model.stem, x, target=1)
    torch.testing.assert_close(at_input.activations, before.activations, rtol=0, atol=0)
    torch.testing.assert_close(at_input.gradients, before.gradients, rtol=0, atol=0)


def test_another_input_keeps_the_class():
    model = CNN().double().eval()
    x, other = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    spread_predictions(model, x)
    predicted = model(x).argmax(dim=1)
    assert not torch.equal(model(other).argmax(dim=1), predicted)
    probe = Probe(model, model.layer, x)
    assert torch.equal(probe.target, predicted)
    moved = probe.at(other)
    assert torch.equal(moved.target, predicted)
    explicit = Probe(model, model.layer, other, target=predicted)
    torch.testing.assert_close(moved.gradients, explicit.gradients, rtol=0, atol=0)
    torch.testing.assert_close(probe.utility(other), Logit(predicted)(model(other)))
    torch.testing.assert_close(probe.under("rest").utility(other), ReST(predicted)(model(other)))


def test_samples_are_not_mixed_up():
    model = CNN().double().eval()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    spread_predictions(model, x)
    together = Probe(model, model.layer, x)
    for n, sample in enumerate(x):
        alone = Probe(model, model.layer, sample[None])
        assert together.target[n] == alone.target[0]
        torch.testing.assert_close(together.gradients[n], alone.gradients[0], rtol=1e-10, atol=1e-14)


def test_given_class_needs_no_forward_pass_of_the_first_input():
    model = CNN().eval()
    calls = counted(model)
    probe = Probe(model, model.layer, torch.randn(2, 3, 8, 8), target=1)
    assert probe.utility(torch.randn(6, 3, 8, 8)).shape == (6,)
    assert probe.at(torch.randn(6, 3, 8, 8)).gradients.shape[0] == 6
    assert calls.number == 2


def test_other_layer_options_hold_at_another_input():
    model = TinyViT().eval()
    x = torch.randn(2, 3, 12, 16)
    options = {"reshape_transform": TinyViT.reshape, "attribute_to_layer_input": True, "second_order": False}
    moved = Probe(model, model.layer, x, target=1, **options).at(x + 1)
    torch.testing.assert_close(moved.gradients, Probe(model, model.layer, x + 1, target=1, **options).gradients)
    assert "Flash" in kernels_of(moved)
    assert not torch.allclose(
        moved.activations, Probe(model, model.layer, x + 1, reshape_transform=TinyViT.reshape).activations
    )


def test_score_can_be_differentiated_with_respect_to_a_mask():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.layer, x)
    mask = torch.full((2, 1, 8, 8), 0.7, requires_grad=True)
    with untouched(model):
        score = probe.utility(x * mask)
        gradient = torch.autograd.grad(score.sum(), mask)[0]
    assert gradient.abs().max() > 0
    with torch.no_grad():
        assert not probe.utility(x * mask).requires_grad


@pytest.mark.parametrize(
    "options",
    [
        {"target": 2},
        {"target": [4, 0, 2]},
        {},
        {"utility": [lambda y, c=c: y[c] for c in (4, 0, 2)]},
        {"target": lambda y: y[range(3), [4, 0, 2]]},
        {"target": [4, 0, 2], "additional_forward_args": (torch.tensor([0.5, 1, 2]).view(3, 1, 1, 1),)},
    ],
    ids=["class", "classes", "predicted", "functions", "callable", "arguments"],
)
def test_score_of_some_samples(options):
    class Scaled(CNN):
        def forward(self, x, factor=1.0):
            return super().forward(x * factor)

    model = Scaled().eval()
    x = torch.randn(3, 3, 8, 8)
    spread_predictions(model, x)
    probe = Probe(model, model.layer, x, **options)
    moved = x + 0.1
    scores = probe.utility(moved)
    for chosen in ([2, 0], [1], [2], [0, 1, 2]):
        samples = torch.tensor(chosen)
        torch.testing.assert_close(probe.utility(moved[samples], samples), scores[samples])


@pytest.mark.parametrize(
    "target", [2, [2], [2, 2, 2], torch.tensor(2), torch.tensor([2]), torch.tensor([2, 2, 2])], ids=repr
)
def test_target_is_one_class_a_sample(target):
    model = CNN().eval()
    probe = Probe(model, model.layer, torch.randn(3, 3, 8, 8), target=target)
    assert probe.target.tolist() == [2, 2, 2]
    assert probe.at(probe.x + 1).target.tolist() == [2, 2, 2]


def test_score_functions():
    model = CNN().eval()
    x = torch.randn(3, 3, 8, 8)
    classes = [1, 0, 4]
    by_class = Probe(model, model.layer, x, target=classes).under("rest").gradients
    whole = Probe(model, model.layer, x, utility=ReST(classes)).gradients
    each = Probe(model, model.layer, x, utility=[ReST(c) for c in classes])
    assert each.target is None
    for gradients in (whole, each.gradients, each.under("softmax").gradients):
        torch.testing.assert_close(gradients, by_class)
    rescored = Probe(model, model.layer, x).with_utility([ReST(c) for c in classes])
    torch.testing.assert_close(rescored.gradients, by_class)


class Wrapped(CNN):
    """A model whose output is not a plain tensor."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: {"logits": y, "hidden": y * 2},
        lambda y: {"out": y, "aux": y * 2},
        lambda y: {"anything": y, "loss": None},
        lambda y: SimpleNamespace(logits=y, hidden=y * 2),
    ],
)
def test_output_adapter(wrap):
    model = Wrapped(wrap).eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.layer, x, target=1)
    torch.testing.assert_close(probe.outputs, CNN.forward(model, x))
    gradients = probe.gradients
    model.wrap = lambda y: y
    torch.testing.assert_close(gradients, Probe(model, model.layer, x, target=1).gradients)


def test_detection_style_output_with_a_score_for_each_sample():
    model = Wrapped(lambda y: [{"scores": row} for row in y]).eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.layer, x, utility=[lambda out: out["scores"][1], lambda out: out["scores"][2:3]])
    gradients = probe.gradients
    assert not probe.outputs[0]["scores"].requires_grad
    model.wrap = lambda y: y
    torch.testing.assert_close(gradients, Probe(model, model.layer, x, target=[1, 2]).gradients)


def test_additional_forward_args():
    class Scaled(CNN):
        def forward(self, x, scale, shift=0):
            return super().forward(x * scale) + shift

    model = Scaled().eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.layer, x, target=1, additional_forward_args=(2.0, torch.ones(2, CLASSES)))
    torch.testing.assert_close(
        probe.gradients, Probe(model, model.layer, 2 * x, target=1, additional_forward_args=(1.0,)).gradients
    )
    assert probe.at(x).outputs.shape == (2, CLASSES)


def test_inference_tensor_as_additional_argument_above_the_layer():
    class Scaled(CNN):
        def forward(self, x, scale):
            return super().forward(x) * scale

    model = Scaled().eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        scale = torch.full((2, CLASSES), 3.0)
    probe = Probe(model, model.layer, x, target=1, additional_forward_args=(scale,))
    expected = 3 * Probe(CNN.forward.__get__(model), model.layer, x, target=1).gradients
    torch.testing.assert_close(probe.gradients, expected)


@pytest.mark.parametrize("utility", ["logit", "rest"])
def test_model_with_one_output_a_sample(utility):
    """Without classes, ln p is that of the only one: 0."""

    class Scalar(CNN):
        def forward(self, x):
            return super().forward(x)[:, 3]

    model = Scalar().eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(model, model.layer, x).under(utility)
    expected = Probe(CNN.forward.__get__(model), model.layer, x, target=3)
    torch.testing.assert_close(probe.gradients, expected.gradients)


class Squeezes(CNN):
    """A head that drops every dimension of one, that of the batch, too."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classifier = nn.Linear(8, classes)

    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.mark.parametrize("classes", [CLASSES, 1])
@pytest.mark.parametrize("name", METHODS)
def test_head_that_squeezes(name, classes):
    model = Squeezes(classes).eval()
    x = torch.randn(2, 3, 8, 8)
    assert model(x[:1]).shape == ((classes,) if classes > 1 else ())
    method = METHODS[name]()
    together = method(Probe(model, model.layer, x, target=classes - 1))
    expected = method(Probe(CNN.forward.__get__(model), model.layer, x, target=classes - 1))
    torch.testing.assert_close(together, expected)
    for sample in x:
        alone = Probe(model, model.layer, sample[None], target=classes - 1)
        assert alone.outputs.shape == ((1, classes) if classes > 1 else (1,))
        assert alone.utility(sample[None]).shape == (1,)
        assert method(alone).shape[1:] == expected.shape[1:]
    predicted = Probe(model, model.layer, x[:1])
    torch.testing.assert_close(predicted.gradients, Probe(CNN.forward.__get__(model), model.layer, x[:1]).gradients)


def test_data_parallel_on_one_device_is_its_module():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    expected = Probe(model, model.layer, x, target=1).gradients
    parallel = nn.DataParallel(model)
    for device_ids in ([], [0]):
        parallel.device_ids = device_ids
        probe = Probe(parallel, parallel.module.layer, x, target=1)
        assert probe.model is model
        assert torch.equal(probe.gradients, expected)
    assert (GradCAM(parallel, [model.layer])(x) == GradCAM(model, [model.layer])(x)).all()


def test_modules_that_a_traced_graph_calls_can_be_explained():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    graph = fx.symbolic_trace(model)
    expected = Probe(model, model.layer, x, target=1).gradients
    assert torch.equal(Probe(graph, graph.layer, x, target=1).gradients, expected)
    unflattened = torch.export.unflatten(torch.export.export(model, (x,)))
    found = Probe(unflattened, unflattened.get_submodule("layer"), x, target=1).gradients
    torch.testing.assert_close(found, expected)


def test_layers_of_one_cell_have_contributions_but_no_map():
    model = CNN().eval()
    model.head.append(nn.AdaptiveAvgPool2d(1))
    x = torch.randn(2, 3, 8, 8)
    attribution = LayerGradCam(model, model.head).attribute(x, target=1)
    assert attribution.shape == (2, 1, 1, 1)
    assert attribution.abs().min() > 0
    assert saturation_curves(model, model.head, x, steps=3).similarity.shape == (2, 4)
    for way_in in (
        lambda: GradCAM(model, [model.head])(x),
        lambda: OptiCAM(model, [model.head], max_iterations=2)(x),
        lambda: quantus.explain("GradCAM", layer="head")(model, x.numpy(), [1, 1]),
    ):
        with pytest.warns(UserWarning, match=r"single cell, shape \(2, 8, 1, 1\), .* choose a layer before pooling"):
            assert (way_in() == 0).all()
    fake = quantus.explain("FakeCAM", layer="head")(model, x.numpy(), [1, 1])  # as large as the image
    assert fake.shape == (2, 1, 8, 8)


def after_the_last_attention():
    torch.manual_seed(0)
    model = TinyViT().eval()
    return model, model.blocks[1].norm2, torch.randn(2, 3, 12, 16)


@pytest.mark.parametrize("name", METHODS)
def test_layer_after_the_last_attention(name):
    model, layer, x = after_the_last_attention()
    probe = Probe(model, layer, x, target=1, reshape_transform=TinyViT.reshape)
    if name in ("FakeCAM", "RandomCAM", "OptiCAM"):  # take no gradient
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert METHODS[name]()(probe).isfinite().all()
        return
    with pytest.raises(
        ValueError,
        match=r"'blocks\.1\.norm2' only through what the reshape_transform drops, .* such as blocks\[-1\]\.norm1",
    ):
        METHODS[name]()(probe)


def test_layer_after_the_last_attention_is_not_reached():
    model, layer, x = after_the_last_attention()
    assert Probe(model, layer, x, reshape_transform=TinyViT.reshape).cells_reached() == 0
    assert Probe(model, layer, x, reshape_transform=lambda tokens: tokens.transpose(1, 2)).cells_reached() == 1
    assert Probe(model, model.layer, x, reshape_transform=TinyViT.reshape).cells_reached() > 1


def dead_where_the_image_is_black():
    model = CNN().eval()
    nn.init.zeros_(model.stem[0].bias)
    nn.init.constant_(model.layer.bias, -1.0)  # the ReLU after the layer is shut where nothing comes in
    x = torch.randn(4, 3, 8, 8)
    x[1] = x[3] = 0
    return model, x * 9


def test_samples_without_a_gradient_are_named():
    model, x = dead_where_the_image_is_black()
    probes = Probe.several(model, [model.layer, model.head], x, target=1)
    with pytest.warns(
        UserWarning, match="gradient of the utility in layer 'layer' is exactly 0 in samples 1, 3"
    ) as told:
        gradients = probes[0].gradients
    assert told[0].filename == __file__
    assert [bool(gradient.any()) for gradient in gradients] == [True, False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(probes[0].gradients, gradients)  # known by now
        assert probes[1].gradients.flatten(1).any(dim=1).all()
        there = probes[0].at(x)  # rows of methods that run other images, black baselines among them
        assert torch.equal(there.gradients, gradients)
        for name in ("FakeCAM", "RandomCAM"):
            METHODS[name]()(Probe(model, model.layer, x, target=1))
    with pytest.warns(UserWarning, match="is exactly 0 in samples 1, 3"):
        GradCAM(model, [model.layer])(x)


def test_without_graph():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    calls = counted(model)
    probe = Probe(model, model.layer, x, target=1)
    assert probe.without_graph() is probe
    gradients = probe.gradients
    bare = probe.without_graph()
    recording = bare._recording
    assert not recording._recorded
    assert not any(
        t.requires_grad for t in (*recording._feature_maps, *recording._gradients[(probe._utility, "logit")])
    )
    assert torch.equal(bare.gradients, gradients)
    assert torch.equal(bare.activations, probe.activations)
    assert calls.number == 1
    rest = bare.under("rest")  # starts anew
    torch.testing.assert_close(rest.gradients, probe.under("rest").gradients)
    assert calls.number == 2


def test_changed_vector_gives_another_product():
    model = CNN().eval()
    probe = Probe(model, model.layer, torch.randn(2, 3, 8, 8))
    v = torch.randn_like(probe.activations)
    assert probe.hessian_vector_product(v).abs().max() > 0
    v.zero_()
    assert (probe.hessian_vector_product(v) == 0).all()


def test_function_instead_of_a_module():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    probe = Probe(lambda y: model(y), model.layer, x, target=1)
    torch.testing.assert_close(probe.gradients, Probe(model, model.layer, x, target=1).gradients)


def test_users_own_hooks_still_work():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    model.layer.register_forward_hook(lambda m, a, out: out * 2)
    probe = Probe(model, model.layer, x, target=1)
    torch.testing.assert_close(probe.activations, 2 * model.layer.forward(model.stem(x)))


def test_memory_of_the_graph_goes_with_the_probe():
    import gc
    import weakref

    model = CNN().eval()
    probe = Probe(model, model.layer, torch.randn(2, 3, 8, 8))
    probe.hessian_vector_product(probe.activations)
    recorded = weakref.ref(probe._recording._recorded[0])
    gc.disable()
    try:
        del probe
        assert recorded() is None
    finally:
        gc.enable()


def test_find_layer():
    model = CNN()
    assert find_layer(model, "head.0") is model.head[0]
    model.alias = model.head
    assert find_layer(model, "alias.0") is model.head[0]
    with pytest.raises(ValueError, match="there is no layer 'haed': did you mean head"):
        find_layer(model, "haed")


@pytest.mark.gpu
def test_on_the_gpu():
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)
    cpu = Probe(model, model.layer, x, target=1)
    cpu_product = cpu.hessian_vector_product(cpu.activations)
    model.cuda()
    state = torch.cuda.get_rng_state()
    gpu = Probe(model, model.layer, x.cuda(), target=1)
    torch.testing.assert_close(gpu.gradients.cpu(), cpu.gradients, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(gpu.hessian_vector_product(gpu.activations).cpu(), cpu_product, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.cuda.get_rng_state(), state)


class TestBadInput:
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)

    def fails(self, error, match, **changes):
        arguments = {"model": self.model, "layer": self.model.layer, "x": self.x, "target": 1} | changes
        with untouched(self.model), pytest.raises(error, match=match):
            Probe(**arguments).gradients  # noqa: B018

    def test_wrong_layer(self):
        self.fails(ValueError, "not a module of this CNN", layer=nn.Conv2d(3, 3, 1))
        self.fails(TypeError, r"must be a torch.nn.Module of the model; got 'layer'", layer="layer")

    def test_second_layer_of_another_model(self):
        with pytest.raises(ValueError, match="not from a copy"):
            Probe.several(self.model, [self.model.layer, CNN().layer], self.x)

    def test_layer_not_executed(self):
        model = CNN().eval()
        model.unused = nn.Conv2d(3, 3, 1)
        self.fails(ValueError, "layer 'unused' did not run", model=model, layer=model.unused)

    def test_layer_executed_twice(self):
        class Twice(CNN):
            def forward(self, x):
                return super().forward(self.activation(x))

        model = Twice().eval()
        self.fails(ValueError, "'activation' ran more than once", model=model, layer=model.activation)

    def test_layer_output_is_not_a_feature_map(self):
        self.fails(ValueError, r"expected a feature map of shape \(2, C, \*S\)", layer=self.model.classifier)

    def test_layer_output_is_not_a_tensor(self):
        class Pair(nn.Module):
            def forward(self, x):
                return x, x

        model = CNN().eval()
        model.stem = nn.Sequential(model.stem, Pair())
        self.fails(TypeError, "must be one floating-point tensor .* got tuple", model=model, layer=model.stem[1])

    def test_score_does_not_depend_on_the_layer(self):
        class Cut(CNN):
            def forward(self, x):
                return super().forward(x).detach()

        model = Cut().eval()
        self.fails(ValueError, "does not depend on layer 'layer'", model=model, layer=model.layer)
        self.fails(ValueError, "does not depend on layer 'layer'", utility=lambda y: torch.ones(2), target=None)

    def test_empty_batch(self):
        self.fails(ValueError, r"batch is empty: its shape is \(0, 3, 8, 8\)", x=self.x[:0])

    def test_no_batch_dimension(self):
        self.fails(ValueError, "add the batch dimension", x=torch.randn(8))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, value):
        x = torch.randn(5, 3, 8, 8)
        x[1, 0, 2, 3] = x[4, 2, 0, 0] = value
        self.fails(ValueError, "the input is NaN or infinite in samples 1, 4", x=x)

    def test_integer_images(self):
        self.fails(TypeError, r"torch.uint8.*\.float\(\)", x=torch.zeros(2, 3, 8, 8, dtype=torch.uint8))

    def test_not_a_tensor(self):
        self.fails(TypeError, "must be a torch.Tensor.*got list", x=[1.0])

    @pytest.mark.parametrize("target", [-1, 5, [0, 5]])
    def test_target_out_of_range(self, target):
        self.fails(ValueError, r"must lie in \[0, 5\)", target=target)

    def test_wrong_number_of_targets(self):
        self.fails(ValueError, "expected one class index, or 2, one for each sample", target=[0, 1, 2])
        self.fails(
            ValueError, "expected 2 targets, one for each sample of the batch; got 1", utility=[Logit(1)], target=None
        )

    def test_target_is_no_integer(self):
        self.fails(TypeError, "must be integers", target=[0.5, 1.0])

    def test_target_and_score(self):
        self.fails(ValueError, "not both", utility=Logit(1))

    def test_non_scalar_score(self):
        self.fails(
            ValueError, r"one utility for each sample, shape \(2,\); got \(2, 5\)", utility=lambda y: y, target=None
        )
        self.fails(ValueError, r"got \(\)", utility=lambda y: y.sum(), target=None)
        self.fails(ValueError, r"got \(1, 2\)", utility=lambda y: y[None, :, 0], target=None)
        self.fails(ValueError, "sample 1 must return a scalar tensor", utility=[Logit(0), lambda y: y], target=None)
        self.fails(TypeError, "must be a tensor; the function returned float", utility=lambda y: 0.5, target=None)

    def test_target_callable_out_of_range(self):
        self.fails(ValueError, "target of sample 0 asks for what", utility=[lambda y: y[7], Logit(0)], target=None)

    @pytest.mark.parametrize(
        ("wrap", "match"),
        [
            (lambda y: None, "must return a tensor .* got NoneType"),
            (lambda y: (y, y), "got tuple"),
            (lambda y: {"a": y, "b": y}, r"got dict with the keys \['a', 'b'\]"),
        ],
    )
    def test_model_returns_no_tensor(self, wrap, match):
        model = Wrapped(wrap).eval()
        self.fails(TypeError, match, model=model, layer=model.layer)

    def test_one_output_for_several_frames(self):
        class Frames(CNN):
            def forward(self, x):
                return super().forward(x).mean(dim=0, keepdim=True)

        model = Frames().eval()
        self.fails(
            ValueError,
            r"returned 1 output for 2 samples: .*frames or views, .* outputs\.repeat_interleave\(2, dim=0\)",
            model=model,
            layer=model.layer,
        )

        class Repeated(Frames):
            def forward(self, x):
                return super().forward(x).repeat_interleave(len(x), dim=0)

        model = Repeated().eval()
        assert Probe(model, model.layer, self.x, target=1).gradients.flatten(1).any(dim=1).all()

    def test_scalar_for_several_samples(self):
        model = Wrapped(lambda y: y.sum()).eval()
        self.fails(
            TypeError, r"must return a tensor \(N, C\), .* got Tensor of shape \(\)", model=model, layer=model.layer
        )

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's
    def test_torchscript(self):
        model = CNN().eval()
        traced = torch.jit.trace(model, self.x)
        self.fails(TypeError, "is TorchScript: .* only the original module", model=traced, layer=traced.layer)
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))).eval()
        self.fails(TypeError, "is TorchScript: .* only the original module", model=scripted, layer=scripted[0])
        partly = nn.Sequential(nn.Identity(), scripted).eval()
        match = "'1' is TorchScript and takes no hook: .* only the original module"
        self.fails(ValueError, match, model=partly, layer=partly[1])
        partly = nn.Sequential(nn.Identity(), traced).eval()
        match = "'1.layer' did not run .* only the original module"
        self.fails(ValueError, match, model=partly, layer=partly[1].layer)
        assert Probe(partly, partly[0], self.x, target=1).gradients.any()  # below it

    def test_exported(self):
        exported = torch.export.export(self.model, (self.x,))
        self.fails(TypeError, "ExportedProgram .* only the original module", model=exported)
        module = exported.module()
        layer = module.get_submodule("layer")
        self.fails(ValueError, "'layer' did not run .* only the original module", model=module, layer=layer)

    def test_container_in_a_traced_graph(self):
        graph = fx.symbolic_trace(self.model)
        match = r"'stem' did not run .* in a graph choose one that it calls, such as head\.2 or dropout or classifier"
        self.fails(ValueError, match, model=graph, layer=graph.stem)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's
    def test_quantised(self):
        model = torch.ao.quantization.quantize_dynamic(CNN().eval(), {nn.Linear})
        self.fails(
            ValueError,
            "module 'classifier' is quantised, .* explain the model as it was",
            model=model,
            layer=model.layer,
        )
        probe = Probe(model, model.layer, self.x, target=1)
        assert probe.utility(self.x).shape == (2,)
        assert METHODS["FakeCAM"]()(probe).shape == (2, 1, 8, 8)
        with pytest.raises(ValueError, match="module 'classifier' is quantised"):
            METHODS["OptiCAM"]()(probe)

    def test_model_returns_another_batch(self):
        model = Wrapped(lambda y: y[:1]).eval()
        self.fails(ValueError, "returned 1 output for 2 samples", model=model, layer=model.layer)
        model.wrap = lambda y: y[[0, 1, 0]]
        self.fails(ValueError, "returned 3 outputs for 2 samples$", model=model, layer=model.layer)

    def test_prediction_undefined(self):
        model = Wrapped(lambda y: y[:, :, None, None].expand(-1, -1, 2, 2)).eval()
        self.fails(ValueError, "predicted class is undefined", model=model, layer=model.layer, target=None)

    def test_model_is_not_callable(self):
        self.fails(TypeError, "must be callable", model=3)

    def test_data_parallel_on_several_devices(self):
        model = nn.DataParallel(self.model)
        model.device_ids = [0, 1]
        self.fails(TypeError, r"give the model's \.module", model=model)

    def test_distributed_data_parallel(self):
        model = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
        self.fails(TypeError, r"DistributedDataParallel .* give the model's \.module", model=model)

    def test_no_second_derivative(self):
        model = CNN().eval()
        model.activation = nn.Hardsigmoid()
        with pytest.raises(ValueError, match=r"above layer 'layer' has no second derivative .* such as GradCAM"):
            Probe(model, model.layer, self.x).hessian_vector_product(torch.ones(2, 7, 4, 4))

    def test_no_second_derivative_of_detectors(self):
        class Pooled(CNN):
            def forward(self, x):
                boxes = [torch.tensor([[0.0, 0.0, 3.0, 3.0]])] * len(x)
                return roi_align(self.layer(self.stem(x)), boxes, 2).flatten(1) ** 2

        model = Pooled().eval()
        with pytest.raises(ValueError, match=r"above layer 'layer' has no second derivative .*roi_align.* GradCAM"):
            Probe(model, model.layer, self.x).hessian_vector_product(torch.ones(2, 7, 4, 4))

    def test_forward_in_inference_mode(self):
        class Inference(CNN):
            @torch.inference_mode()
            def forward(self, x):
                return super().forward(x)

        model = Inference().eval()
        self.fails((ValueError, RuntimeError), "inference", model=model, layer=model.layer)
