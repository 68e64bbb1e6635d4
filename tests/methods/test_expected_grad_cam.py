"""Expected Grad-CAM, Integrated Grad-CAM and Smooth Grad-CAM++."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import reference
import torch
from captum.attr import LayerIntegratedGradients
from nets import CNN, LinearHead
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from state import untouched
from test_reference import double_net
from torch import nn

import cam_extras
from cam_extras.methods import ExpectedGradCAM, GradCAM, IntegratedGradCAM, SmoothGradCAMPlusPlus
from cam_extras.methods._baselines import BaselineName, Difference, blur
from cam_extras.methods._sampling import Distribution, in_turn, noise_for, stratified
from cam_extras.methods.base import spatial_mean, weigh_channels
from cam_extras.methods.grad_cam_plus_plus import plus_plus_weights
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical

CLASSES = [4, 0, 2]
METHODS = {cls.__name__: cls for cls in (ExpectedGradCAM, IntegratedGradCAM, SmoothGradCAMPlusPlus)}
SIZE = (10, 8)
exactly = {"rtol": 1e-10, "atol": 1e-14}


def images(n=3, *size):
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7, 1.2][:n], dtype=torch.float64)  # ranges differ
    return torch.randn(n, 3, *(size or SIZE), generator=generator, dtype=torch.float64) * scale.view(n, 1, 1, 1)


def shifted(x, generator):
    """A baselines function: random, and its result depends on the image."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / 2 + torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x)


# With three images a pass has two points of each, and the last pass one.
VARIANTS = {
    "expected": ExpectedGradCAM(n_samples=5, internal_batch_size=7),
    "blur": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines="blur"),
    "noise": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines="noise"),
    "images": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines=images(4)),
    "function": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines=shifted),
    "input": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines=images(2), difference="input"),
    "blur input": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines="blur", difference="input"),
    "function input": ExpectedGradCAM(n_samples=5, internal_batch_size=7, baselines=shifted, difference="input"),
    "none": ExpectedGradCAM(n_samples=5, internal_batch_size=7, difference="none"),
    "integrated": IntegratedGradCAM(n_samples=5, internal_batch_size=7),
    "maps": IntegratedGradCAM(n_samples=5, internal_batch_size=7, variant="maps"),
    "smooth": SmoothGradCAMPlusPlus(n_samples=5, internal_batch_size=7),
}
ALL_VARIANTS = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS)


class Counted(CNN):
    """Remembers the size of every batch it is given, and takes one more argument."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x, factor=1.0):
        self.batches.append(len(x))
        return super().forward(x) * factor


def counted():
    torch.manual_seed(3)
    return Counted().double().eval()


@pytest.fixture
def net():
    return double_net("smooth head")


class TestAgainstLoops:
    @pytest.mark.parametrize("kind", ["smooth head", "linear head"])
    @pytest.mark.parametrize("name", METHODS)
    def test_defaults(self, name, kind):
        model, head = double_net(kind)
        x = images()
        probe = Probe(model, model.layer, x, target=CLASSES)
        contributions = METHODS[name]()(probe)
        assert contributions.dtype == torch.float64
        for n, c in enumerate(CLASSES):
            expected = reference.METHODS[name](head, probe.activations[n], c, x[n], model)
            assert expected.abs().amax() > 1e-6
            torch.testing.assert_close(contributions[n], expected, **exactly)

    @pytest.mark.parametrize("distribution", get_args(Distribution))
    @pytest.mark.parametrize("difference", get_args(Difference))
    @pytest.mark.parametrize("kind", [*get_args(BaselineName), "images", "function"])
    def test_options(self, net, kind, difference, distribution):
        model, head = net
        x, n, seed = images(), 5, 7
        references = images(3) + 0.3
        baselines = {"images": references, "function": shifted}.get(kind, kind)
        method = ExpectedGradCAM(
            baselines=baselines,
            difference=difference,
            noise=0.2,
            distribution=distribution,
            n_samples=n,
            internal_batch_size=7,  # two points of each image, and one in the last pass
            seed=seed,
        )
        probe = Probe(model, model.layer, x, target=CLASSES)
        weights = method.channel_weights(probe)
        choices = {"images": len(references), "batch": len(x) - 1}.get(kind, 1)
        positions, chosen, baseline_seeds, noise_seeds = reference.draws(x, n, choices, seed)
        for i, c in enumerate(CLASSES):

            def start(s, i=i):
                if kind == "zeros":
                    return torch.zeros_like(x[i])
                if kind == "blur":
                    return reference.blurred(x[i])
                if kind == "batch":
                    return x[(i + 1 + chosen[s]) % len(x)]
                if kind == "images":
                    return references[chosen[s]]
                if kind == "function":
                    return shifted(x[i][None], torch.Generator().manual_seed(baseline_seeds[s]))[0]
                middle = (x[i].max() + x[i].min()) / 2
                return middle + reference.noise(x[i], baseline_seeds[s], 1, "uniform")

            expected = reference.expected_weights(
                head,
                probe.activations[i],
                c,
                x[i],
                model,
                [start(s) for s in range(n)],
                positions,
                [reference.noise(x[i], number, 0.2, distribution) for number in noise_seeds],
                difference,
            )
            torch.testing.assert_close(weights[i], torch.tensor(expected, dtype=torch.float64), **exactly)

    def test_maps(self, net):
        model, head = net
        x = images()
        probe = Probe(model, model.layer, x, target=CLASSES)
        contributions = IntegratedGradCAM(variant="maps")(probe)
        assert contributions.shape == (3, 1, *probe.activations.shape[2:])
        for n, c in enumerate(CLASSES):
            expected = reference.integrated_grad_cam_maps(head, probe.activations[n], c, x[n], model)
            torch.testing.assert_close(contributions[n], expected, **exactly)

    @pytest.mark.parametrize(("noise", "distribution"), [(0.0, "normal"), (0.2, "uniform")])
    def test_smooth(self, net, noise, distribution):
        model, head = net
        x = images()
        probe = Probe(model, model.layer, x, target=CLASSES)
        method = SmoothGradCAMPlusPlus(
            noise=noise, distribution=distribution, n_samples=3, internal_batch_size=7, seed=5
        )
        contributions = method(probe)
        for n, c in enumerate(CLASSES):
            expected = reference.smooth_grad_cam_plus_plus(
                head, probe.activations[n], c, x[n], model, 3, noise, distribution, 5
            )
            torch.testing.assert_close(contributions[n], expected, **exactly)

    @pytest.mark.parametrize("size", [(10, 8), (3, 17), (1, 4)])
    def test_blur(self, size):
        x = images(2, *size)
        for image, smooth in zip(x, blur(x), strict=True):
            torch.testing.assert_close(smooth, reference.blurred(image), rtol=0, atol=1e-13)

    def test_blur_under_autocast(self):
        x = images(2).float()
        with torch.autocast("cpu", torch.bfloat16):
            inside = blur(x)
        assert torch.equal(inside, blur(x))

    def test_utility(self, net):
        """The score is differentiated at every point, not the logit."""
        model, head = net
        x = images(1)
        probe = Probe(model, model.layer, x, target=1)
        for name, method in METHODS.items():
            contributions = method(utility="softmax")(probe)
            expected = reference.METHODS[name](lambda a: head(a).softmax(1), probe.activations[0], 1, x[0], model)
            torch.testing.assert_close(contributions[0], expected, **exactly)


class TestSpecialCases:
    def test_linear_head_is_grad_cam_times_the_mean_difference(self):
        model, _ = double_net("linear head")
        x = images()
        probe = Probe(model, model.layer, x, target=CLASSES)
        difference = spatial_mean(probe.activations - model.layer(torch.zeros_like(x)).detach())
        expected = weigh_channels(difference, GradCAM()(probe))
        torch.testing.assert_close(IntegratedGradCAM(n_samples=3)(probe), expected, **exactly)
        # Completeness: the cells' shares add up to the score's difference.
        cells = probe.activations[0, 0].numel()
        scores, at_zero = (model(z).detach()[range(3), CLASSES] for z in (x, torch.zeros_like(x)))
        total = cells * IntegratedGradCAM(n_samples=3).channel_weights(probe).sum(dim=1)
        torch.testing.assert_close(total, scores - at_zero, **exactly)

    @pytest.mark.parametrize("kind", ["integrated", "zeros", "images"])
    def test_completeness_below_a_linear_layer(self, kind):
        """The layer moves on a straight line, so that the sum over cells is the integral along it."""
        torch.manual_seed(3)
        model = CNN().double().eval()
        model.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1).double()
        for parameter in model.parameters():  # far from linear above the layer
            parameter.data *= 1.7
        x = images()
        starts = images(4) + 0.3 if kind == "images" else torch.zeros_like(x[:1])
        method = {
            "integrated": IntegratedGradCAM(n_samples=400),
            "zeros": ExpectedGradCAM(n_samples=400, baselines="zeros", noise=0.0),
            "images": ExpectedGradCAM(n_samples=1600, baselines=starts, noise=0.0, internal_batch_size=1000),
        }[kind]
        probe = Probe(model, model.layer, x, target=CLASSES)
        total = probe.activations[0, 0].numel() * method.channel_weights(probe).sum(dim=1)
        expected = model(x).detach()[range(3), CLASSES] - model(starts).detach()[:, CLASSES].mean(dim=0)
        plain = probe.activations[0, 0].numel() * (
            spatial_mean(probe.gradients * (probe.activations - model.layer(model.stem(starts[:1])).detach()))
        ).sum(dim=1)
        torch.testing.assert_close(total, expected, rtol=0, atol=1e-3)
        assert ((plain - expected).abs() > 0.05 * expected.abs()).any()  # the gradient at x alone does not do it

    def test_captum_integrated_gradients_of_the_layer(self):
        """Below an affine layer a straight path in the input is one in the layer, which is where Captum goes."""
        torch.manual_seed(3)
        model = CNN().double().eval()
        model.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1).double()
        x = images()
        theirs = LayerIntegratedGradients(model, model.layer).attribute(
            x, torch.zeros_like(x), CLASSES, n_steps=7, method="riemann_middle"
        )
        probe = Probe(model, model.layer, x, target=CLASSES)
        weights = IntegratedGradCAM(n_samples=7).channel_weights(probe)
        torch.testing.assert_close(weights, spatial_mean(theirs), rtol=1e-6, atol=0)  # its positions are float32

    def test_grad_cam_plus_plus_of_pytorch_grad_cam(self):
        """Without noise; gradients are made large, for theirs have an absolute epsilon in the denominator."""
        torch.manual_seed(3)
        model = CNN().eval()
        with torch.no_grad():
            model.classifier.weight *= 1e4
        x = images().float()
        with upstream.GradCAMPlusPlus(model, [model.layer]) as cam:
            theirs = cam(x, [ClassifierOutputTarget(c) for c in CLASSES])
        ours = cam_extras.SmoothGradCAMPlusPlus(model, [model.layer], noise=0.0, n_samples=1)
        np.testing.assert_allclose(ours(x, [ClassifierOutputTarget(c) for c in CLASSES]), theirs, rtol=0, atol=1e-5)
        assert (theirs.reshape(3, -1).max(axis=1) > 0.99).all()

    def test_integrated_is_expected_on_a_grid(self, net):
        model, _ = net
        probe = Probe(model, model.layer, images(), target=CLASSES)
        expected = ExpectedGradCAM(baselines="zeros", noise=0.0, n_samples=6)
        grid = torch.tensor([1, 3, 5, 7, 9, 11], dtype=torch.float64) / 12
        torch.testing.assert_close(
            IntegratedGradCAM(n_samples=6).channel_weights(probe), expected.path_weights(probe, grid), **exactly
        )

    def test_plus_plus_without_denominator_is_zero(self):
        a = torch.ones(1, 3, 2, 2, dtype=torch.float64)
        g = torch.tensor([0.0, 0.5, 0.25], dtype=torch.float64).view(1, 3, 1, 1).expand_as(a)
        ratio = torch.tensor([0.0, -0.5, 0.25], dtype=torch.float64).view(1, 3, 1, 1).expand_as(a)
        weights = plus_plus_weights(a, g, ratio)  # no gradient in the first channel, 2 + 4 R = 0 in the second
        assert weights[0, :2].tolist() == [0.0, 0.0]
        assert weights[0, 2] == pytest.approx(4 * 0.25 / 3)

    def test_class_is_that_of_the_input(self):
        torch.manual_seed(0)
        model = LinearHead().double().eval()
        x = 4 * images()
        model.classifier.weight.data *= 30
        predicted = model(x).argmax(dim=1)
        assert (model(torch.zeros_like(x)).argmax(dim=1) != predicted).any()
        for method in VARIANTS.values():
            expected = method(Probe(model, model.layer, x, target=predicted))
            assert torch.equal(method(Probe(model, model.layer, x)), expected)


class TestDraws:
    @pytest.mark.parametrize("n", [1, 2, 7, 16])
    def test_one_position_in_each_part(self, n):
        positions = stratified(n, torch.Generator().manual_seed(4))
        assert (positions * n).floor().tolist() == list(range(n))
        assert len(set((positions * n % 1).tolist())) == n

    @pytest.mark.parametrize(("choices", "n"), [(1, 4), (3, 7), (4, 8), (9, 4)])
    def test_baselines_in_turn(self, choices, n):
        chosen = in_turn(choices, n, torch.Generator().manual_seed(4)).tolist()
        assert len(chosen) == n
        rounds = [chosen[i : i + choices] for i in range(0, n, choices)]
        for choice in rounds:
            assert len(set(choice)) == len(choice)
        assert choices == 1 or rounds[0] != list(range(choices))

    def test_noise_is_as_wide_as_said(self):
        x = images(3, 40, 50)
        x[1] = 0.3  # no range, no noise
        ranges = x.flatten(1).amax(dim=1) - x.flatten(1).amin(dim=1)
        seeds = torch.arange(4)
        uniform = noise_for(x, seeds, 0.2, "uniform")
        assert uniform.shape == (4, *x.shape)
        torch.testing.assert_close(uniform.amax(dim=(0, 2, 3, 4)), 0.1 * ranges, rtol=2e-3, atol=0)
        torch.testing.assert_close(uniform.amin(dim=(0, 2, 3, 4)), -0.1 * ranges, rtol=2e-3, atol=0)
        normal = noise_for(x, seeds, 0.2, "normal")
        torch.testing.assert_close(normal.std(dim=(0, 2, 3, 4)), 0.2 * ranges, rtol=2e-2, atol=0)
        for draws in (uniform, normal):
            assert (draws[0, 0] != draws[1, 0]).any()
            torch.testing.assert_close(draws[:, 0] / ranges[0], draws[:, 2] / ranges[2], **exactly)

    def test_baseline_and_noise_know_nothing_of_each_other(self, net):
        """With one and the same draw for both, z = x' + a (x - x') + e would have less variance than they have."""
        seen = []

        def baseline(x, generator):
            seen.append(torch.rand(x.shape, generator=generator) - 0.5)
            return torch.zeros_like(x)

        model, points = CNN().double().eval(), []
        model.register_forward_pre_hook(lambda module, args: points.append(args[0].clone()))
        x = images(1, 40, 50)
        method = ExpectedGradCAM(baselines=baseline, n_samples=2, difference="none", noise=1.0)
        method.path_weights(Probe(model, model.layer, x, target=1), torch.zeros(2))
        noise = points[-1] / (x.max() - x.min())
        assert noise.std() > 0.2
        for draw in seen:
            for e in noise:
                correlation = torch.corrcoef(torch.stack([draw.flatten().double(), e.flatten()]))[0, 1]
                assert abs(correlation) < 0.1

    @ALL_VARIANTS
    def test_seed_and_nothing_else(self, net, method):
        model, _ = net
        x = images()

        def run(method):
            return method(Probe(model, model.layer, x, target=CLASSES))

        first = run(method)
        torch.manual_seed(99)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(run(method), first)
        finally:
            torch.set_default_dtype(default)
        if not isinstance(method, IntegratedGradCAM):
            other = run(dataclasses.replace(method, seed=1))
            assert (other - first).abs().amax() > 1e-3 * first.abs().amax()

    def test_numpy_seed(self, net):
        model, _ = net
        probe = Probe(model, model.layer, images(), target=CLASSES)
        assert torch.equal(ExpectedGradCAM(seed=np.int64(3))(probe), ExpectedGradCAM(seed=3)(probe))


@ALL_VARIANTS
class TestBatches:
    def test_internal_batch_size(self, net, method):
        model, _ = net
        x = images(5)
        probe = Probe(model, model.layer, x, target=[1, 4, 0, 2, 3])
        expected = method(probe)
        for size in (1, 2, 3, 7, 12, 1000):
            torch.testing.assert_close(
                dataclasses.replace(method, internal_batch_size=size)(probe), expected, **exactly
            )

    def test_bound_is_kept(self, method):
        for size in (1, 2, 3, 4, 9, 1000):
            model = counted()
            probe = Probe(model, model.layer, images(3), target=CLASSES)
            assert probe.outputs.shape == (3, 5)
            model.batches.clear()
            dataclasses.replace(method, internal_batch_size=size)(probe)
            assert max(model.batches) <= size

    def test_batch_equals_one_by_one(self, net, method):
        model, _ = net
        x = images(4)
        together = method(Probe(model, model.layer, x))
        alone = torch.cat([method(Probe(model, model.layer, image[None])) for image in x])
        torch.testing.assert_close(together, alone, **exactly)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(method(Probe(model, model.layer, x[order])), together[order], **exactly)


class TestBatchBaselines:
    def test_others_of_the_batch_only(self):
        x = torch.stack([torch.full((3, *SIZE), float(i), dtype=torch.float64) for i in range(4)])
        model, points = CNN().double().eval(), []
        probe = Probe(model, model.layer, x, target=1)
        probe.activations  # noqa: B018
        model.register_forward_pre_hook(lambda module, args: points.append(args[0].clone()))
        method = ExpectedGradCAM(baselines="batch", n_samples=6, noise=0.0)
        method.path_weights(probe, torch.zeros(6))
        starts = torch.cat(points)[:, 0, 0, 0].reshape(6, 4)  # at position 0 points are baselines
        for i in range(4):
            assert sorted(starts[:, i].tolist()) == sorted(2 * [float(j) for j in range(4) if j != i])

    @pytest.mark.parametrize("difference", get_args(Difference))
    def test_internal_batch_size(self, net, difference):
        model, _ = net
        probe = Probe(model, model.layer, images(4), target=1)
        method = ExpectedGradCAM(baselines="batch", n_samples=5, difference=difference)
        for size in (1, 3, 1000):
            smaller = dataclasses.replace(method, internal_batch_size=size)
            torch.testing.assert_close(smaller(probe), method(probe), **exactly)

    def test_one_image(self, net):
        model, _ = net
        with pytest.raises(ValueError, match="other images of the batch, and there is none"):
            ExpectedGradCAM(baselines="batch")(Probe(model, model.layer, images(1)))


class TestCost:
    """Sizes of the batches that the model is given, the forward pass of the images among them."""

    @pytest.mark.parametrize(
        ("options", "batches"),
        [
            ({"baselines": "zeros"}, [2, 1, 8, 8]),
            ({"baselines": "blur"}, [2, 2, 8, 8]),
            ({"baselines": "batch"}, [2, 8, 8]),
            ({"baselines": "images"}, [2, 3, 8, 8]),
            ({"baselines": "noise"}, [2, 8, 8, 8, 8]),
            ({"baselines": "function"}, [2, 8, 8, 8, 8]),
            ({"baselines": "zeros", "difference": "none"}, [2, 8, 8]),
            ({"baselines": "noise", "difference": "none"}, [2, 8, 8]),
            ({"baselines": "zeros", "difference": "input"}, [2, 2, 8, 8]),
            ({"baselines": "images", "difference": "input"}, [2, 6, 8, 8]),
        ],
    )
    def test_expected(self, options, batches):
        special = {"images": images(3), "function": shifted}
        options["baselines"] = special.get(options["baselines"], options["baselines"])
        model = counted()
        probe = Probe(model, model.layer, images(2))
        ExpectedGradCAM(n_samples=8, internal_batch_size=8, **options)(probe)
        assert sorted(model.batches) == sorted(batches)

    def test_only_the_baselines_that_are_used(self):
        model = counted()
        ExpectedGradCAM(n_samples=2, baselines=images(6))(Probe(model, model.layer, images(2)))
        assert sorted(model.batches) == [2, 2, 4]

    @pytest.mark.parametrize(
        ("method", "batches"),
        [
            (IntegratedGradCAM(n_samples=8, internal_batch_size=8), [2, 1, 8, 8]),
            (IntegratedGradCAM(n_samples=8, internal_batch_size=8, variant="maps"), [8, 8, 2]),
            (SmoothGradCAMPlusPlus(n_samples=8, internal_batch_size=8), [2, 8, 8]),
            (SmoothGradCAMPlusPlus(n_samples=3, internal_batch_size=1), [2] + 6 * [1]),
        ],
    )
    def test_others(self, method, batches):
        model = counted()
        method(Probe(model, model.layer, images(2)))
        assert sorted(model.batches) == sorted(batches)


@ALL_VARIANTS
class TestTargets:
    """Every kind of target follows its sample to the points around it."""

    def test_kinds(self, method):
        model = counted()
        x = images()
        expected = method(Probe(model, model.layer, x, target=CLASSES))

        def reads(c):
            return lambda output: output[c]

        for options in (
            {"target": torch.tensor(CLASSES)},
            {"utility": [reads(c) for c in CLASSES]},
            {"utility": lambda outputs: outputs[range(3), CLASSES]},  # knows the batch: one point of each in a pass
            {"target": lambda outputs: outputs[range(3), CLASSES]},
        ):
            for size in (2, 32):
                smaller = dataclasses.replace(method, internal_batch_size=size)
                torch.testing.assert_close(smaller(Probe(model, model.layer, x, **options)), expected, **exactly)

    def test_additional_forward_arguments(self, method):
        model = counted()
        x = images()
        factors = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
        together = method(Probe(model, model.layer, x, target=1, additional_forward_args=(factors[:, None],)))
        for n in range(3):
            probe = Probe(model, model.layer, x[n][None], target=1, additional_forward_args=(factors[n],))
            torch.testing.assert_close(together[n : n + 1], method(probe), **exactly)

    def test_too_few_or_too_many(self, method):
        model = counted()
        for options in (
            {"target": [0, 1]},
            {"target": [0, 1, 2, 3]},
            {"utility": 2 * [lambda output: output[0]]},
            {"utility": 4 * [lambda output: output[0]]},
        ):
            with pytest.raises(ValueError, match=r"expected one class index, or 3|expected 3 targets"):
                method(Probe(model, model.layer, images(), **options))


@ALL_VARIANTS
class TestWorld:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes_and_model_untouched(self, net, method, mode):
        model, _ = net
        x = images()
        expected = method(Probe(model, model.layer, x, target=CLASSES))
        with untouched(model, x), mode():
            contributions = method(Probe(model, model.layer, x + 0, target=CLASSES))
        assert not contributions.requires_grad
        assert torch.equal(contributions, expected)

    def test_train_mode_and_frozen(self, net, method):
        model, _ = net
        x = images()
        expected = method(Probe(model, model.layer, x, target=CLASSES))
        model.requires_grad_(False).train()
        with untouched(model, x):
            assert torch.equal(method(Probe(model, model.layer, x, target=CLASSES)), expected)

    def test_untouched_after_an_exception(self, net, method):
        model, _ = net
        probe = Probe(model, model.layer, images(), target=CLASSES)
        assert probe.outputs.shape == (3, 5)
        model.fail = True
        with untouched(model), pytest.raises(RuntimeError, match="on purpose"):
            method(probe)

    def test_half_precision(self, net, method):
        model, _ = net
        x = images().float()
        exact = method(Probe(model.float(), model.layer, x, target=CLASSES))
        coarse = method(Probe(model.bfloat16(), model.layer, x.bfloat16(), target=CLASSES))
        assert exact.dtype == coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, exact, rtol=0, atol=0.1 * exact.abs().amax().item())

    def test_points_of_half_precision_are_rounded_once(self, method):
        points = {}
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(3)
            model = CNN().to(dtype).eval()
            seen = points[dtype] = []
            model.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].clone()))
            method(Probe(model, model.layer, images().bfloat16().to(dtype), target=CLASSES))
        assert all(map(torch.equal, points[torch.bfloat16], (z.bfloat16() for z in points[torch.float32])))

    def test_reshape_transform(self, net, method):
        """Turned maps give turned contributions."""
        model, _ = net
        x = images()
        expected = method(Probe(model, model.layer, x, target=CLASSES))
        turned = Probe(model, model.layer, x, target=CLASSES, reshape_transform=lambda a: a.transpose(2, 3))
        torch.testing.assert_close(method(turned).transpose(2, 3), expected, **exactly)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_other_dimensions(name, dims):
    model = CNN(dims=dims).double().eval()
    x = torch.randn(2, 3, *(9, 8, 7)[:dims], dtype=torch.float64)
    probe = Probe(model, model.layer, x)
    contributions = METHODS[name](n_samples=3)(probe)
    assert contributions.shape == probe.activations.shape
    assert (contributions.flatten(1).abs().amax(dim=1) > 0).all()


class TestUsersFunction:
    def run(self, function, n=2):
        model = counted()
        probe = Probe(model, model.layer, images(), target=CLASSES)
        return ExpectedGradCAM(baselines=function, n_samples=n)(probe)

    def test_sees_one_image_at_a_time_and_cannot_change_it(self):
        seen = []
        x = images()

        def function(image, generator):
            seen.append(image.clone())
            return image.zero_()

        torch.testing.assert_close(
            self.run(function), ExpectedGradCAM(baselines="zeros", n_samples=2)(self.probe()), **exactly
        )
        assert [s.shape for s in seen] == 6 * [(1, 3, *SIZE)]
        torch.testing.assert_close(torch.cat(seen), x.repeat(2, 1, 1, 1))

    def probe(self):
        model = counted()
        return Probe(model, model.layer, images(), target=CLASSES)

    def test_gradients_and_types_do_not_matter(self):
        expected = self.run(lambda image, generator: torch.full_like(image, 0.5))
        contributions = self.run(lambda image, generator: torch.full(image.shape, 0.5, requires_grad=True))
        assert not contributions.requires_grad
        torch.testing.assert_close(contributions, expected, **exactly)

    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [
            (lambda image, generator: None, TypeError, "must return a tensor of floating point.*got NoneType"),
            (lambda image, generator: image.numpy(), TypeError, "got ndarray"),
            (lambda image, generator: image.long(), TypeError, "got torch.int64"),
            (lambda image, generator: image[0], ValueError, r"its input, \(1, 3, 10, 8\), on cpu; got \(3, 10, 8\) on"),
            (lambda image, generator: image[..., 1:], ValueError, r"got \(1, 3, 10, 7\)"),
            (lambda image, generator: image / 0, ValueError, "the baseline is NaN or infinite in sample 0"),
        ],
    )
    def test_wrong_results(self, function, error, message):
        with pytest.raises(error, match=message):
            self.run(function)

    def test_sample_of_a_wrong_result_is_named(self):
        odd = images()[2, 0, 0, 0]

        def function(image, generator):
            return image / 0 if image[0, 0, 0, 0] == odd else image / 2

        with pytest.raises(ValueError, match="in sample 2"):
            self.run(function)


class TestBadInput:
    @pytest.mark.parametrize("method", METHODS.values())
    @pytest.mark.parametrize("name", ["n_samples", "internal_batch_size"])
    def test_counts(self, method, name):
        for wrong in (0, -3):
            with pytest.raises(ValueError, match=f"{name} must be 1 or more; got {wrong}"):
                method(**{name: wrong})
        for wrong in (2.5, "4"):
            with pytest.raises(TypeError, match=f"{name} must be an integer( or None)?; got {wrong!r}"):
                method(**{name: wrong})

    @pytest.mark.parametrize("method", [ExpectedGradCAM, SmoothGradCAMPlusPlus])
    def test_noise_and_seed(self, method):
        for wrong in (-0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match="noise must be a finite number, 0 or more; got"):
                method(noise=wrong)
        with pytest.raises(ValueError, match="distribution must be one of 'uniform', 'normal'; got 'gauss'"):
            method(distribution="gauss")
        with pytest.raises(TypeError, match="seed must be an integer; got None"):
            method(seed=None)

    @pytest.mark.parametrize(
        ("method", "options", "error", "message"),
        [
            (ExpectedGradCAM, {"baselines": "black"}, ValueError, "baselines must be one of 'zeros', 'blur'"),
            (ExpectedGradCAM, {"baselines": 0.0}, TypeError, "baselines must be a tensor .* got 0.0"),
            (ExpectedGradCAM, {"baselines": None}, TypeError, "baselines must be a tensor .* got None"),
            (ExpectedGradCAM, {"difference": "activations"}, ValueError, "difference must be one of 'activation'"),
            (IntegratedGradCAM, {"variant": "sum"}, ValueError, "variant must be one of 'weights', 'maps'"),
            (SmoothGradCAMPlusPlus, {"utility": "loss"}, ValueError, "utility must be one of"),
        ],
    )
    def test_names(self, method, options, error, message):
        with pytest.raises(error, match=message):
            method(**options)

    @pytest.mark.parametrize(
        ("references", "error", "message"),
        [
            (torch.zeros(0, 3, *SIZE), ValueError, "one or more; got"),
            (torch.zeros(7), ValueError, r"shape \(R, C, \*S\), one or more; got \(7,\)"),
            (torch.zeros(2, 3, *SIZE).long(), TypeError, "baselines must be of floating point; got torch.int64"),
            (torch.full((2, 3, *SIZE), math.nan), ValueError, "tensor of baselines is NaN or infinite in samples 0, 1"),
        ],
    )
    def test_references(self, references, error, message):
        with pytest.raises(error, match=message):
            ExpectedGradCAM(baselines=references)

    @pytest.mark.parametrize("shape", [(3, *SIZE), (2, 1, *SIZE), (2, 3, 10, 9), (2, 3, 10)])
    def test_references_of_another_shape(self, net, shape):
        model, _ = net
        with pytest.raises(ValueError, match=r"expected baselines of shape \(R, 3, 10, 8\), like the input; got"):
            ExpectedGradCAM(baselines=torch.zeros(shape))(Probe(model, model.layer, images()))

    def test_references_on_another_device(self, net):
        model, _ = net
        references = torch.zeros(2, 3, *SIZE)
        object.__setattr__(method := ExpectedGradCAM(baselines=references), "baselines", references.to("meta"))
        with pytest.raises(ValueError, match="on the input's device, cpu; got meta: move them there"):
            method(Probe(model, model.layer, images()))

    def test_maps_have_no_weights(self, net):
        model, _ = net
        with pytest.raises(ValueError, match='use variant="weights"'):
            IntegratedGradCAM(variant="maps").channel_weights(Probe(model, model.layer, images()))

    @pytest.mark.parametrize("name", METHODS)
    def test_integers(self, name):
        class Words(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.layer, self.out = nn.Embedding(9, 4), nn.Conv1d(4, 6, 3), nn.Linear(6, 2)

            def forward(self, words):
                return self.out(self.layer(self.embedding(words).transpose(1, 2)).relu().mean(dim=2))

        model = Words()
        with pytest.raises(TypeError, match=r"the input holds torch.int64; expected floating point"):
            METHODS[name]()(Probe(model, model.layer, torch.randint(9, (2, 7)), target=1))

    @pytest.mark.parametrize("name", METHODS)
    def test_not_a_layer_of_the_score(self, name):
        model = CNN()
        probe = Probe(model, model.layer, images().float(), utility=lambda outputs: outputs.detach()[:, 0])
        with pytest.raises(ValueError, match="does not depend on layer"):
            METHODS[name]()(probe)
