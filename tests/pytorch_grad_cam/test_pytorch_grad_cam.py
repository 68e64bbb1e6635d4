"""The front end for pytorch-grad-cam: equal to it where it is right, and without its defects."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref
from importlib.metadata import version

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from hosts import PGC, SEVERAL_PASSES
from nets import CNN, LinearHead, TinyViT
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from state import untouched
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

import cam_extras as ours
from cam_extras.methods import GradientMethod
from cam_extras.probe import Probe
from cam_extras.utilities import Logit, ReST, Softmax

pytestmark = pytest.mark.numerical

COMPARED = ("GradCAM", "HiResCAM", "ShapleyCAM")
ALL = pytest.mark.parametrize("name", PGC)
ONE_PASS = pytest.mark.parametrize("name", [name for name in PGC if name not in SEVERAL_PASSES])


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    resnet, mobilenet = resnet18().eval(), mobilenet_v2().eval()
    cnn, volume = CNN().eval(), CNN(dims=3, channels=1).eval()
    image = torch.randn(3, 3, 64, 96)
    with torch.no_grad():  # batch statistics of its own: untrained, mobilenet's activations would vanish
        for model in (resnet, mobilenet):
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            model.train()(image)
            model.eval()
    return {
        "resnet18.layer4": (resnet, resnet.layer4[-1], image),
        "resnet18.layer2": (resnet, resnet.layer2[0].conv1, image),
        "mobilenet_v2": (mobilenet, mobilenet.features[-3], image),
        "cnn": (cnn, cnn.layer, image),
        "volume": (volume, volume.layer, torch.randn(3, 1, 8, 10, 12)),
    }


def three_targets(kind):
    return [kind(c) for c in (1, 0, 4)]


class TestEqualsUpstream:
    def test_version(self):
        """The comparisons, and the defects below, were read off this version."""
        assert version("grad-cam") == "1.5.7"

    @pytest.mark.parametrize("kind", [ClassifierOutputTarget, ClassifierOutputReST, ClassifierOutputSoftmaxTarget])
    @pytest.mark.parametrize("network", ["resnet18.layer4", "resnet18.layer2", "mobilenet_v2", "cnn", "volume"])
    @pytest.mark.parametrize("name", COMPARED)
    def test_maps(self, networks, name, network, kind):
        model, layer, x = networks[network]
        theirs = getattr(upstream, name)(model, [layer])(x, three_targets(kind))
        mine = getattr(ours, name)(model, [layer])(x, three_targets(kind))
        assert theirs.max() > 0.99
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("network", ["resnet18.layer4", "resnet18.layer2"])
    def test_xgrad_cam_where_activations_are_not_negative(self, networks, network):
        """Theirs adds 1e-7 to a sum that is close to 0 on signed layers, and knows two dimensions alone."""
        model, layer, x = networks[network]
        theirs = upstream.XGradCAM(model, [layer])(x, three_targets(ClassifierOutputTarget))
        mine = ours.XGradCAM(model, [layer])(x, three_targets(ClassifierOutputTarget))
        assert theirs.max() > 0.99
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
    def test_several_layers(self, networks, name):
        model, _, x = networks["resnet18.layer4"]
        layers = [model.layer2, model.layer3, model.layer4]
        theirs = getattr(upstream, name)(model, layers)(x, three_targets(ClassifierOutputTarget))
        mine = getattr(ours, name)(model, layers)(x, three_targets(ClassifierOutputTarget))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", COMPARED)
    @pytest.mark.parametrize("options", [{"aug_smooth": True}, {"eigen_smooth": True}], ids=str)
    def test_smoothing(self, networks, name, options):
        model, layer, x = networks["cnn"]
        theirs = getattr(upstream, name)(model, [layer])(x, three_targets(ClassifierOutputTarget), **options)
        mine = getattr(ours, name)(model, [layer])(x, three_targets(ClassifierOutputTarget), **options)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
    def test_reshape_transform(self, name):
        model = TinyViT().eval()
        x = torch.randn(2, 3, 12, 16)
        targets = [ClassifierOutputTarget(1)] * 2
        theirs = getattr(upstream, name)(model, [model.layer], TinyViT.reshape)(x, targets)
        mine = getattr(ours, name)(model, [model.layer], TinyViT.reshape)(x, targets)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
    def test_default_target_is_the_predicted_class(self, networks, name):
        model, layer, x = networks["cnn"]
        theirs = getattr(upstream, name)(model, [layer])(x, None)
        np.testing.assert_allclose(getattr(ours, name)(model, [layer])(x), theirs, rtol=0, atol=1e-5)


class TestCalls:
    def test_shapley_cam_with_the_logit_is_grad_cam_on_a_linear_head(self):
        model = LinearHead().eval()
        x = torch.randn(3, 3, 12, 16)
        expected = ours.GradCAM(model, [model.layer])(x)
        np.testing.assert_allclose(
            ours.ShapleyCAM(model, [model.layer], utility="logit")(x), expected, rtol=0, atol=1e-6
        )
        targets = [Logit(int(c)) for c in model(x).argmax(dim=1)]
        np.testing.assert_allclose(ours.ShapleyCAM(model, [model.layer])(x, targets), expected, rtol=0, atol=1e-6)
        assert np.abs(ours.ShapleyCAM(model, [model.layer])(x) - expected).max() > 1e-3

    def test_default_utility_of_shapley_cam_is_rest(self):
        model = CNN().eval()
        x = torch.randn(3, 3, 12, 16)
        targets = [ClassifierOutputReST(int(c)) for c in model(x).argmax(dim=1)]
        np.testing.assert_allclose(
            ours.ShapleyCAM(model, [model.layer])(x),
            upstream.ShapleyCAM(model, [model.layer])(x, targets),
            rtol=0,
            atol=1e-5,
        )

    @pytest.mark.parametrize(
        ("mine", "theirs"),
        [(Logit, ClassifierOutputTarget), (ReST, ClassifierOutputReST), (Softmax, ClassifierOutputSoftmaxTarget)],
    )
    def test_our_scores_are_targets_for_them_and_theirs_for_us(self, mine, theirs):
        model = CNN().eval()
        x = torch.randn(3, 3, 12, 16)
        expected = upstream.GradCAM(model, [model.layer])(x, three_targets(theirs))
        for module, kind in ((upstream, mine), (ours, mine), (ours, theirs)):
            result = module.GradCAM(model, [model.layer])(x, three_targets(kind))
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)

    @ONE_PASS
    def test_one_forward_pass_a_call(self, name):
        model = CNN().eval()
        calls = []
        model.stem.register_forward_hook(lambda m, a, out: calls.append(1))
        cam = PGC[name](model, [model.layer, model.stem])
        cam(torch.randn(2, 3, 12, 16), [Logit(1)] * 2)
        assert len(calls) == 1

    @ONE_PASS
    def test_layers_share_a_backward_pass_and_one_call_of_each_target(self, name):
        model = CNN().eval()
        calls = []

        def count(module, args, outputs):
            calls.append("forward")
            if outputs.requires_grad:
                outputs.register_hook(lambda gradient: calls.append("backward"))

        model.classifier.register_forward_hook(count)
        targets = [lambda y: calls.append("target 0") or y[1], lambda y: calls.append("target 1") or y[2]]
        PGC[name](model, [model.layer, model.stem])(torch.randn(2, 3, 12, 16), targets)
        differentiated = issubclass(PGC[name].method_type, GradientMethod)
        assert calls == ["forward", "target 0", "target 1"] + ["backward"] * differentiated

    @ALL
    def test_targets_from_a_generator(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        cam = PGC[name](model, [model.layer, model.stem], **SEVERAL_PASSES.get(name, {}))
        for options in ({}, {"aug_smooth": True}):
            expected = cam(x, [Logit(1), Logit(3)], **options)
            np.testing.assert_array_equal(cam(x, (Logit(c) for c in (1, 3)), **options), expected)

    @pytest.mark.parametrize("container", [tuple, nn.ModuleList])
    def test_layers_in_another_container(self, container):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        layers = [model.layer, model.stem]
        maps = ours.GradCAM(model, container(layers))(x)
        np.testing.assert_array_equal(maps, ours.GradCAM(model, layers)(x))

    @ALL
    def test_attributes_of_upstream(self, name):
        model = TinyViT().eval()
        x = torch.randn(2, 3, 12, 16)
        theirs = upstream.GradCAM(model, [model.layer], TinyViT.reshape)
        mine = PGC[name](model, [model.layer], TinyViT.reshape)
        theirs(x, [Logit(1)] * 2)
        mine(x, [Logit(1)] * 2)
        assert set(vars(theirs)) <= set(vars(mine))
        for attribute in ("model", "target_layers", "reshape_transform", "device", "compute_input_gradient", "detach"):
            assert getattr(mine, attribute) == getattr(theirs, attribute)
        assert PGC[name](model.to("meta"), [model.layer]).device.type == "meta"

    @ALL
    def test_outputs_are_kept(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        cam = PGC[name](model, [model.layer])
        cam(x)
        torch.testing.assert_close(cam.outputs, model(x).detach())
        assert not cam.outputs.requires_grad

    @ALL
    def test_with_block_aug_smooth_and_eigen_smooth(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        with PGC[name](model, [model.layer], **SEVERAL_PASSES.get(name, {})) as cam:
            for options in ({"aug_smooth": True}, {"eigen_smooth": True}, {"aug_smooth": True, "eigen_smooth": True}):
                maps = cam(x, [Logit(1)] * 2, **options)
                assert maps.shape == (2, 12, 16)
                assert maps.dtype == np.float32
                assert maps.min() >= 0
                assert maps.max() <= 1

    def test_eigen_smooth_leaves_a_single_channel_alone(self, monkeypatch):
        model = CNN().eval()
        x = torch.randn(2, 3, 224, 224)
        cam = ours.FakeCAM(model, [model.layer])
        expected = cam(x)
        monkeypatch.setattr(np.linalg, "svd", None)
        np.testing.assert_array_equal(cam(x, eigen_smooth=True), expected)

    @ALL
    def test_recording_goes_with_the_call(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        with PGC[name](model, [model.layer], **SEVERAL_PASSES.get(name, {})) as cam:
            recorder = cam.activations_and_grads
            cam(x)
            assert not recorder.probes
            with pytest.raises(ValueError, match="expected 2 targets"):
                cam(x, [Logit(1)])
            assert not recorder.probes
            recorder(x)
            assert recorder.probes
            with pytest.raises(ValueError, match="NaN or infinite"):
                recorder(x / 0)
            assert not recorder.probes
            recorder(x)
        assert not recorder.probes

    def test_input_is_moved_to_the_model(self):
        """Tensors without data cannot be, which shows on any machine that it was tried."""
        model = CNN().eval()
        with pytest.raises(NotImplementedError, match="meta tensor"):
            ours.GradCAM(model, [model.layer])(torch.empty(2, 3, 12, 16, device="meta"))

    @ALL
    def test_deep_copy_and_pickle(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        hyper = SEVERAL_PASSES.get(name, {})
        cam = PGC[name](model, [model.layer], **hyper)
        expected = cam(x)
        copied = copy.deepcopy(model)
        np.testing.assert_array_equal(PGC[name](copied, [copied.layer], **hyper)(x), expected)
        for twin in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam))):
            assert twin.model is not model
            np.testing.assert_array_equal(twin(x), expected)

    @ALL
    def test_base_method_of_refine_cam_and_finer_cam(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        refined = upstream.RefineCAM(model, [model.stem, model.layer], base_method=PGC[name])(x, [Logit(1)] * 2)
        assert refined.shape == (2, 12, 16)
        parts = [PGC[name](model, [layer])(x, [Logit(1)] * 2) for layer in (model.stem, model.layer)]
        product = parts[0] * parts[1]
        product = product - product.min(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(refined, product / product.max(axis=(1, 2), keepdims=True), rtol=0, atol=1e-5)
        with upstream.FinerCAM(model, [model.layer], base_method=PGC[name]) as finer:
            maps = finer(x)
        assert maps.shape == (2, 12, 16)
        assert np.isfinite(maps).all()

    @ALL
    def test_deep_copy_and_pickle_of_finer_cam(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        finer = upstream.FinerCAM(model, [model.layer], base_method=PGC[name])
        expected = finer(x)
        for twin in (copy.deepcopy(finer), pickle.loads(pickle.dumps(finer))):
            assert twin.base_cam.model is not model
            np.testing.assert_array_equal(twin(x), expected)
        copied = copy.deepcopy(model)
        np.testing.assert_array_equal(upstream.FinerCAM(copied, [copied.layer], base_method=PGC[name])(x), expected)

    @pytest.mark.parametrize("name", COMPARED)
    def test_finer_cam_equals_upstreams_on_upstreams_methods(self, name):
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        theirs = upstream.FinerCAM(model, [model.layer], base_method=getattr(upstream, name))(x)
        model.zero_grad()
        mine = upstream.FinerCAM(model, [model.layer], base_method=getattr(ours, name))(x)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
        assert all(p.grad is None for p in model.parameters())

    def test_own_test_time_augmentation(self):
        import ttach

        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        plain = ours.GradCAM(model, [model.layer])(x, [Logit(1)] * 2)
        identity = ours.GradCAM(model, [model.layer], tta_transforms=ttach.Compose([ttach.Multiply([1])]))
        np.testing.assert_array_equal(identity(x, [Logit(1)] * 2, aug_smooth=True), plain)


class TestDroppedIn:
    """What scripts that were written for pytorch-grad-cam do with its classes."""

    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    targets = (Logit(1), Logit(3))

    @pytest.mark.parametrize("layer", ["stem", "layer"])
    @ALL
    def test_single_layer(self, name, layer):
        """An `nn.Sequential` is one layer, too: its output is."""
        model = CNN().eval()
        hyper = SEVERAL_PASSES.get(name, {})
        module = getattr(model, layer)
        cam = PGC[name](model=model, target_layers=module, **hyper)
        assert cam.target_layers == [module]
        np.testing.assert_array_equal(cam(self.x), PGC[name](model, [module], **hyper)(self.x))

    @pytest.mark.parametrize("network", ["cnn", "two layers", "vit", "volume"])
    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
    def test_activations_and_gradients_after_a_call(self, name, network):
        model = {"vit": TinyViT, "volume": lambda: CNN(dims=3, channels=1)}.get(network, CNN)().eval()
        layers = [model.stem, model.layer] if network == "two layers" else [model.layer]
        reshape = TinyViT.reshape if network == "vit" else None
        x = torch.randn(2, 1, 6, 8, 10) if network == "volume" else self.x
        theirs = getattr(upstream, name)(model, layers, reshape)
        mine = getattr(ours, name)(model, layers, reshape)
        assert mine.activations_and_grads.activations == mine.activations_and_grads.gradients == []
        for targets in ([Logit(1), Logit(3)], None):
            theirs(x, targets)
            recorder = theirs.activations_and_grads
            wanted = {"activations": list(recorder.activations), "gradients": list(recorder.gradients)}
            mine(x, targets)  # which their hooks see, too
            for kind, expected in wanted.items():
                found = getattr(mine.activations_and_grads, kind)
                assert len(found) == len(expected) == len(layers)
                for a, b in zip(found, expected, strict=True):
                    assert (a.dtype, a.device, a.requires_grad) == (b.dtype, b.device, False)
                    torch.testing.assert_close(a, b)
                    assert a.abs().max() > 0

    @ALL
    def test_activations_and_gradients_are_those_of_what_was_explained(self, name):
        model = CNN().eval()
        cam = PGC[name](model, [model.layer], **SEVERAL_PASSES.get(name, {}))
        for targets, score in ((self.targets, list(self.targets)), (None, None)):
            cam(self.x, targets)
            utility = getattr(cam.method, "utility", "logit")
            probe = Probe(model, model.layer, self.x, utility=score).under(utility)
            torch.testing.assert_close(cam.activations_and_grads.gradients[0], probe.gradients)
            torch.testing.assert_close(cam.activations_and_grads.activations[0], probe.activations)
            for twin in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam))):
                assert twin.activations_and_grads.gradients == []
                twin(self.x, targets)
                torch.testing.assert_close(twin.activations_and_grads.gradients[0], probe.gradients)

    @ALL
    def test_what_is_not_asked_is_not_computed_and_what_is_known_holds_no_graph(self, name):
        model = CNN().eval()
        passes = []

        def count(module, args, outputs):
            passes.append("forward")
            if outputs.requires_grad:
                outputs.register_hook(lambda gradient: passes.append("backward"))

        cam = PGC[name](model, [model.layer], **SEVERAL_PASSES.get(name, {}))
        cam(self.x)  # an optimiser's first state takes a pass more
        model.classifier.register_forward_hook(count)
        probe = Probe(model, model.layer, self.x)
        cam.method(probe)
        by_the_method = list(passes)
        passes.clear()
        cam(self.x)
        assert passes == by_the_method
        recorder = cam.activations_and_grads
        assert recorder.activations[0].shape == (2, 7, 6, 8)
        assert passes == by_the_method
        recorder.gradients  # noqa: B018
        at_x = "backward" in by_the_method and by_the_method.count("forward") == 1
        assert passes == by_the_method + ["backward"] * (not at_x)
        if at_x:
            assert not recorder.seen[0]._recording._recorded

    def test_they_go_with_the_next_call_and_with_the_block(self):
        model = CNN().eval()
        with ours.GradCAM(model, [model.layer]) as cam:
            recorder = cam.activations_and_grads
            cam(self.x, self.targets)
            first = weakref.ref(recorder.seen[0]._recording)
            cam(self.x[:1], self.targets[:1])
            assert first() is None
            assert [a.shape[0] for a in (*recorder.activations, *recorder.gradients)] == [1, 1]
            with pytest.raises(ValueError, match="expected 2 targets"):
                cam(self.x, self.targets[:1])
            assert recorder.activations == recorder.gradients == []
            cam(self.x, self.targets)
        assert recorder.activations == recorder.gradients == []

    def test_recorder_called_by_itself(self):
        model = CNN().eval()
        recorder = ours.GradCAM(model, [model.layer]).activations_and_grads
        torch.testing.assert_close(recorder(self.x), model(self.x).detach())
        torch.testing.assert_close(recorder.activations[0], Probe(model, model.layer, self.x).activations)

    @pytest.mark.parametrize("network", ["cnn", "two layers", "vit", "volume"])
    def test_overridden_channel_weights(self, network):
        """A subclass of theirs and the same of ours: what the override is given, and the map."""

        def subclass(base):
            class Mine(base):
                def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
                    for array in (activations, grads):
                        assert isinstance(array, np.ndarray)
                    given.append((target_layer, [target.category for target in targets], activations, grads))
                    space = tuple(range(2, grads.ndim))
                    # Large, because their scaling adds an absolute epsilon.
                    return 1e4 * np.maximum(grads, 0).mean(axis=space) * activations.std(axis=space)

            return Mine

        given = []
        model = {"vit": TinyViT, "volume": lambda: CNN(dims=3, channels=1)}.get(network, CNN)().eval()
        layers = [model.stem, model.layer] if network == "two layers" else [model.layer]
        reshape = TinyViT.reshape if network == "vit" else None
        x = torch.randn(2, 1, 6, 8, 10) if network == "volume" else self.x
        for targets in ([ClassifierOutputTarget(1), ClassifierOutputTarget(3)], None):
            given.clear()
            theirs = subclass(upstream.GradCAM)(model, layers, reshape)(x, targets)
            mine = subclass(ours.GradCAM)(model, layers, reshape)(x, targets)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
            assert np.abs(mine - ours.GradCAM(model, layers, reshape)(x, targets)).max() > 0.01
            assert len(given) == 2 * len(layers)
            for (layer, classes, *expected), (found, same, *arrays) in zip(
                given[: len(layers)], given[len(layers) :], strict=True
            ):
                assert found is layer
                assert same == classes
                for a, b in zip(arrays, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    def test_overridden_channel_weights_of_another_shape(self):
        class Wrong(ours.GradCAM):
            def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
                return grads

        model = CNN().eval()
        with pytest.raises(
            ValueError, match=r"Wrong must return one weight a channel, shape \(2, 7\); got \(2, 7, 6, 8"
        ):
            Wrong(model, [model.layer])(self.x)


class TestDefectsOfUpstream:
    """Each shows what BaseCAM 1.5.7 does, and that ours does not."""

    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    targets = (Logit(1), Logit(1))

    def test_activations_are_rewritten_in_place(self):
        inplace, plain = CNN(inplace=True).eval(), CNN().eval()
        plain.load_state_dict(inplace.state_dict())

        def maps(module, model):
            return module.GradCAM(model, [model.layer])(self.x, self.targets)

        assert np.abs(maps(upstream, inplace) - maps(upstream, plain)).max() > 0.01
        np.testing.assert_allclose(maps(ours, inplace), maps(ours, plain), rtol=0, atol=1e-6)
        np.testing.assert_allclose(maps(ours, inplace), maps(upstream, plain), rtol=0, atol=1e-5)

    def layer_maps(self, cam, factor=1.0):
        """The maps of each layer at the input's size, before they are averaged."""
        outputs = cam.activations_and_grads(self.x)
        if not isinstance(cam, ours.pytorch_grad_cam.MethodCAM):
            (factor * outputs[:, 1].sum()).backward()
        return cam.compute_cam_per_layer(self.x, [lambda y: factor * y[1]] * 2, False)

    def test_layers_are_paired_with_activations_by_order_of_execution(self):
        model = CNN().eval()
        alone = self.layer_maps(ours.GradCAM(model, [model.layer]))[0]
        layers = [model.layer, model.stem]  # run in the other order
        np.testing.assert_allclose(self.layer_maps(ours.GradCAM(model, layers))[0], alone, rtol=0, atol=1e-6)
        assert np.abs(self.layer_maps(upstream.GradCAM(model, layers))[0] - alone).max() > 0.1

    def test_activations_pile_up_while_a_cam_is_alive(self):
        model = CNN().eval()
        theirs, mine = upstream.GradCAM(model, [model.layer]), ours.GradCAM(model, [model.layer])
        for _ in range(3):
            model(self.x)
        assert len(theirs.activations_and_grads.activations) == 3
        assert len(mine.activations_and_grads.probes) == 0
        theirs.activations_and_grads.release()
        assert not model.layer._forward_hooks

    def test_model_stays_in_eval_mode_and_gradients_are_overwritten(self):
        model = CNN().train()
        with untouched(model):
            ours.GradCAM(model, [model.layer])(self.x, self.targets)
        model.classifier.weight.grad = torch.full_like(model.classifier.weight, 0.5)
        upstream.GradCAM(model, [model.layer])(self.x, self.targets)
        assert not model.training
        assert not (model.classifier.weight.grad == 0.5).all()

    def test_frozen_models_fail(self):
        model = CNN().eval()
        expected = ours.GradCAM(model, [model.layer])(self.x, self.targets)
        model.requires_grad_(False)
        with pytest.raises(RuntimeError, match="does not require grad"):
            upstream.GradCAM(model, [model.layer])(self.x, self.targets)
        np.testing.assert_array_equal(ours.GradCAM(model, [model.layer])(self.x, self.targets), expected)

    def test_bf16_models_fail(self):
        model = CNN().eval()
        exact = ours.GradCAM(model, [model.layer])(self.x, self.targets)
        model.bfloat16()
        with pytest.raises(TypeError, match="BFloat16"):
            upstream.GradCAM(model, [model.layer])(self.x.bfloat16(), self.targets)
        maps = ours.GradCAM(model, [model.layer])(self.x.bfloat16(), self.targets)
        assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99 for a, b in zip(maps, exact, strict=True))

    def test_too_few_targets_silently_give_zero_maps(self):
        model = CNN().eval()
        silent = upstream.GradCAM(model, [model.layer])(self.x, self.targets[:1])
        assert (silent[1] == 0).all()
        for targets in ([], self.targets[:1], self.targets * 2):
            with pytest.raises(ValueError, match="expected 2 targets, one for each sample"):
                ours.GradCAM(model, [model.layer])(self.x, targets)

    def test_exit_swallows_index_errors(self, capsys):
        model = CNN().eval()
        with upstream.GradCAM(model, [model.layer]):
            raise IndexError("a mistake of the caller")
        assert "An exception occurred" in capsys.readouterr().out
        with pytest.raises(IndexError, match="a mistake of the caller"), ours.GradCAM(model, [model.layer]):
            raise IndexError("a mistake of the caller")

    def test_small_maps_are_squashed(self):
        """The map of a score a ten-millionth as large is the same map; an absolute epsilon makes it smaller."""
        model = CNN().eval()
        expected = self.layer_maps(ours.GradCAM(model, [model.layer]))[0]
        tiny = self.layer_maps(ours.GradCAM(model, [model.layer]), factor=1e-7)[0]
        np.testing.assert_allclose(tiny, expected, rtol=0, atol=1e-6)
        assert self.layer_maps(upstream.GradCAM(model, [model.layer]), factor=1e-7)[0].max() < 0.5 * expected.max()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in upstream's __del__
    def test_shapley_cam_fails_with_a_vit(self):
        model = TinyViT().eval()
        with pytest.raises(RuntimeError, match="derivative for aten::_scaled_dot_product"):
            upstream.ShapleyCAM(model, [model.layer], TinyViT.reshape)(self.x, self.targets)
        with (
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            pytest.raises(ValueError, match="Invalid"),
        ):
            upstream.ShapleyCAM(model, [model.layer], TinyViT.reshape)(self.x, self.targets)
        maps = ours.ShapleyCAM(model, [model.layer], TinyViT.reshape)(self.x, self.targets)
        assert maps.max() > 0.999

    def test_shapley_cam_fails_with_two_layers(self):
        model = CNN().eval()
        layers = [model.stem, model.layer]
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            upstream.ShapleyCAM(model, layers)(self.x, self.targets)
        together = self.layer_maps(ours.ShapleyCAM(model, layers))
        for layer, maps in zip(layers, together, strict=True):
            alone = self.layer_maps(ours.ShapleyCAM(model, [layer]))[0]
            np.testing.assert_allclose(maps, alone, rtol=0, atol=1e-6)

    def test_deep_copy_of_the_model_fails_while_a_cam_is_alive(self):
        model = CNN().eval()
        cam = upstream.ShapleyCAM(model, [model.layer])
        cam(self.x, self.targets)
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(model)
        del cam
        mine = ours.ShapleyCAM(model, [model.layer])
        mine(self.x, self.targets)
        assert isinstance(copy.deepcopy(model), CNN)


class TestBadInput:
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)

    @pytest.mark.parametrize("layers", [None, 3, {CNN()}], ids=str)
    def test_no_list_of_layers(self, layers):
        with pytest.raises(TypeError, match="the layer must be a module, its dotted name"):
            ours.GradCAM(self.model, layers)

    def test_no_layer(self):
        with pytest.raises(ValueError, match="at least one layer"):
            ours.GradCAM(self.model, [])(self.x)

    def test_layer_of_another_model(self):
        with pytest.raises(ValueError, match="not from a copy"):
            ours.GradCAM(self.model, [copy.deepcopy(self.model).layer])(self.x)

    @pytest.mark.parametrize(
        ("bad", "error", "match"),
        [
            ("layr", ValueError, "there is no layer 'layr': did you mean layer"),
            (None, TypeError, r"must be a torch\.nn\.Module of the model; got None"),
            (CNN().layer, ValueError, "the layer Conv2d is not a module of this CNN"),
        ],
        ids=["misspelt", "None", "another model's"],
    )
    @ALL
    def test_one_of_the_layers(self, name, bad, error, match):
        with untouched(self.model), pytest.raises(error, match=match):
            PGC[name](self.model, [self.model.stem, bad])

    def test_failed_construction_leaves_nothing_to_tear_down(self, monkeypatch):
        gc.collect()
        unraisable = []
        monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
        with pytest.raises(TypeError, match="the layer must be a module, its dotted name"):
            ours.GradCAM(self.model, None)
        gc.collect()
        assert not unraisable

    def test_no_module(self):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module; got function"):
            ours.GradCAM(lambda x: x, [self.model.layer])

    @ALL
    def test_targets(self, name):
        cam = PGC[name](self.model, [self.model.layer])
        with pytest.raises(ValueError, match="expected 2 targets"):
            cam(self.x, [Logit(0)] * 3)
        with pytest.raises(TypeError, match=r"targets\[1\] is 3, which is not callable: .*Logit"):
            cam(self.x, [Logit(0), 3])
        with pytest.raises(TypeError, match=r"write \[target\]"):
            cam(self.x, Logit(0))

    def test_target_out_of_range(self):
        cam = ours.GradCAM(self.model, [self.model.layer])
        with pytest.raises(ValueError, match="target of sample 1 asks for what"):
            cam(self.x, [ClassifierOutputTarget(0), ClassifierOutputTarget(1000)])
        with pytest.raises(ValueError, match=r"must lie in \[0, 5\)"):
            cam(self.x, [Logit(0), Logit(1000)])

    def test_transformer_without_reshape_transform(self):
        model = TinyViT().eval()
        with pytest.raises(ValueError, match="transformers need a reshape_transform"):
            ours.GradCAM(model, [model.layer], None)(torch.randn(2, 3, 12, 16))

    def test_signal(self):
        model = CNN(dims=1).eval()
        with pytest.raises(ValueError, match="Only 2D or 3D images are supported"):
            ours.GradCAM(model, [model.layer])(torch.randn(2, 3, 16))

    @pytest.mark.parametrize(
        ("x", "error", "match"),
        [
            (torch.randn(0, 3, 8, 8), ValueError, "batch is empty"),
            (torch.full((2, 3, 8, 8), float("nan")), ValueError, "NaN or infinite in samples 0, 1"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "floating point"),
            (np.zeros((2, 3, 8, 8)), TypeError, "must be a torch.Tensor"),
        ],
    )
    @ALL
    def test_input(self, name, x, error, match):
        with pytest.raises(error, match=match):
            PGC[name](self.model, [self.model.layer])(x)

    def test_weights_that_are_not_finite(self):
        model = CNN().eval()
        nn.init.constant_(model.layer.bias, float("inf"))
        with pytest.raises(ValueError, match="the map is NaN or infinite in samples 0, 1"):
            ours.GradCAM(model, [model.layer])(self.x)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", COMPARED)
    def test_contributions_that_are_not_finite(self, name, value):
        model = CNN().eval()
        model.layer.register_forward_hook(lambda module, args, out: out.index_fill(0, torch.tensor(1), value))
        for eigen_smooth in (False, True):
            with pytest.raises(ValueError, match="the map is NaN or infinite in sample 1"):
                PGC[name](model, [model.layer])(self.x, eigen_smooth=eigen_smooth)
