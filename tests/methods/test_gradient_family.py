"""Grad-CAM++, CAM, Eigen-CAM and Eigen-Grad-CAM: what they claim, their options and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import CNN, LinearHead, TinyViT
from torch import nn
from torchvision.models import densenet121, vgg11

from cam_extras.maps import input_map, normalise
from cam_extras.methods import CAM, METHODS, EigenCAM, EigenGradCAM, GradCAM, GradCAMPlusPlus
from cam_extras.methods._components import first_component
from cam_extras.methods.base import weigh_channels
from cam_extras.probe import Probe
from cam_extras.utilities import UTILITIES

pytestmark = pytest.mark.numerical

CLASSES = [4, 0, 2]


@pytest.fixture
def linear():
    torch.manual_seed(3)
    model = LinearHead().double().eval()
    return model, torch.randn(3, 3, 10, 8, dtype=torch.float64)


class TestGradCAMPlusPlus:
    def test_explains_the_exponential_of_the_logit(self, linear):
        """With second and third derivatives of exp(y_c) from autograd, where y_c is linear in the layer."""
        model, x = linear
        probe = Probe(model, model.layer, x[:1], target=1)
        a = probe.activations.clone().requires_grad_()
        y = model.classifier(a.mean(dim=(2, 3)))[0, 1].exp()
        first, second, third = [], [], []
        (gradient,) = torch.autograd.grad(y, a, create_graph=True)
        for cell in gradient.flatten():
            (row,) = torch.autograd.grad(cell, a, create_graph=True)
            position = len(first)
            first.append(cell.item())
            second.append(row.flatten()[position].item())
            (cube,) = torch.autograd.grad(row.flatten()[position], a, retain_graph=True)
            third.append(cube.flatten()[position].item())
        first, second, third = (torch.tensor(d, dtype=torch.float64).view_as(a) for d in (first, second, third))
        alpha = second / (2 * second + a.sum(dim=(2, 3), keepdim=True) * third)
        expected = (alpha * first.relu()).sum(dim=(2, 3)).detach()
        torch.testing.assert_close(GradCAMPlusPlus().channel_weights(probe) * y.detach(), expected)
        assert (expected > 0).any()

    def test_small_gradients_are_not_lost(self):
        """The square of a gradient of 1e-30 is 0 in float32."""
        torch.manual_seed(0)
        model = CNN().eval()
        x = torch.randn(2, 3, 12, 16)
        found, expected = (
            GradCAMPlusPlus().maps(
                Probe(net, net.layer, x.to(net.classifier.weight), utility=lambda outputs: 1e-30 * outputs[:, 1])
            )
            for net in (model, copy.deepcopy(model).double())
        )
        assert found.amax() > 0.99
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("epsilon", [-1e-6, float("nan"), float("inf")])
    def test_epsilon_out_of_range(self, epsilon):
        with pytest.raises(ValueError, match="epsilon must be a finite number, 0 or more; got"):
            GradCAMPlusPlus(epsilon=epsilon)


class OneByOne(LinearHead):
    """A convolution as the linear layer, before pooling or after it."""

    def __init__(self, before):
        super().__init__()
        self.before = before
        self.classifier = nn.Conv2d(7, 5, 1)

    def forward(self, x):
        x = self.layer(x)
        if self.before:
            return self.classifier(x).mean(dim=(2, 3))
        return self.classifier(x.mean(dim=(2, 3), keepdim=True)).flatten(1)


class TestCAM:
    @pytest.mark.parametrize("utility", UTILITIES)
    def test_is_grad_cam_times_the_number_of_cells(self, linear, utility):
        model, x = linear
        probe = Probe(model, model.layer, x, target=CLASSES)
        cells = probe.activations[0, 0].numel()
        torch.testing.assert_close(CAM(utility=utility)(probe), cells * GradCAM(utility=utility)(probe))

    def test_weights_are_those_of_the_class(self, linear):
        model, x = linear
        probe = Probe(model, model.layer, x, target=CLASSES)
        torch.testing.assert_close(CAM().channel_weights(probe), model.classifier.weight[CLASSES].detach())
        for head in ("classifier", model.classifier.weight, model.classifier.weight.detach().float()):
            torch.testing.assert_close(CAM(head=head)(probe), CAM()(probe), rtol=1e-6, atol=1e-6)

    def test_no_backward_pass_through_the_model(self, linear):
        model, x = linear
        expected = CAM()(Probe(model, model.layer, x, target=1))
        model.classifier.register_forward_hook(lambda module, args, output: output.detach())
        torch.testing.assert_close(CAM()(Probe(model, model.layer, x, target=1)), expected)

    @pytest.mark.parametrize("before", [True, False])
    def test_convolution_as_the_linear_layer(self, before):
        model = OneByOne(before).eval()
        probe = Probe(model, model.layer, torch.randn(2, 3, 10, 8), target=[3, 1])
        expected = weigh_channels(model.classifier.weight[[3, 1], :, 0, 0].detach(), probe.activations)
        torch.testing.assert_close(CAM()(probe), expected)

    def test_of_torchcam(self, linear):
        torchcam = pytest.importorskip("torchcam", reason="torch-cam is not installed: pip install torchcam")
        model, x = linear
        with torchcam.methods.CAM(model, model.layer, model.classifier) as cam:
            model(x)
            (expected,) = cam(CLASSES)
        found = CAM()(Probe(model, model.layer, x, target=CLASSES)).sum(dim=1)  # theirs has no ReLU
        torch.testing.assert_close(normalise(found), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("made", "layer", "told"),
        [
            (CNN, "layer", "no linear layer makes its scores from the layer's 7 channels"),
            (vgg11, "features", "no linear layer makes its scores from the layer's 512 channels"),
            # A ReLU without a module follows.
            (densenet121, "features", "its scores are not what 'classifier' makes of the layer's mean over space"),
        ],
    )
    def test_models_without_such_a_head_are_refused(self, made, layer, told):
        torch.manual_seed(0)
        model = made().eval()
        with pytest.raises(ValueError, match=f"^CAM needs a model that averages .*{told}.* or use GradCAM"):
            CAM()(Probe(model, model.get_submodule(layer), torch.randn(2, 3, 64, 64), target=1))

    def test_class_token(self):
        model = TinyViT().eval()
        probe = Probe(model, model.layer, torch.randn(2, 3, 12, 16), target=1, reshape_transform=TinyViT.reshape)
        with pytest.raises(ValueError, match="its scores are not what 'classifier' makes of the layer's mean"):
            CAM()(probe)

    def test_a_head_that_is_given_is_not_questioned(self):
        model = densenet121().eval()
        probe = Probe(model, model.features, torch.randn(1, 3, 64, 64), target=7)
        weights = CAM(head="classifier").channel_weights(probe)
        assert torch.equal(weights, model.classifier.weight[7:8].detach())

    @pytest.mark.parametrize(
        ("head", "told"),
        [
            ("layer.0", r"the head 'layer\.0' must have .* of shape \(5, 7\); got no weights of a linear layer"),
            ("classifer", "there is no layer 'classifer': did you mean classifier"),
            (torch.randn(7, 5), r"the head must have .* of shape \(5, 7\); got shape \(7, 5\)"),
        ],
    )
    def test_heads_that_do_not_fit(self, linear, head, told):
        model, x = linear
        with pytest.raises(ValueError, match=told):
            CAM(head=head)(Probe(model, model.layer, x, target=1))

    def test_functions(self, linear):
        model, x = linear
        probe = Probe(model.forward, model.layer, x, target=1)
        with pytest.raises(ValueError, match="CAM needs a model"):
            CAM()(probe)
        with pytest.raises(ValueError, match="this method has no named layers: give the weights"):
            CAM(head="classifier")(probe)
        torch.testing.assert_close(
            CAM(head=model.classifier.weight)(probe), CAM()(Probe(model, model.layer, x, target=1))
        )

    def test_detectors(self):
        class Detector(LinearHead):
            def forward(self, x):
                return [{"scores": row} for row in super().forward(x)]

        model = Detector().eval()
        probe = Probe(model, model.layer, torch.randn(2, 3, 10, 8), utility=[lambda found: found["scores"][0]] * 2)
        with pytest.raises(TypeError, match="must return a tensor"):
            CAM()(probe)


class TestComponents:
    @pytest.mark.parametrize("shape", [(5, 3, 4), (40, 3, 4), (12, 3, 4), (6, 2, 3, 4), (3, 7)])
    def test_either_matrix_gives_the_same(self, shape):
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(3, *shape, generator=generator)
        found = first_component(values, values.abs().sum(dim=1))
        assert found.shape == (3, 1, *shape[1:])
        assert found.dtype == torch.float32
        for sample, component in zip(values.double(), found, strict=True):
            cells = sample.flatten(1).T
            cells = cells - cells.mean(dim=0)
            left, sizes, _ = torch.linalg.svd(cells, full_matrices=False)
            expected = left[:, 0] * sizes[0]
            expected = expected * (expected @ sample.abs().sum(dim=0).flatten()).sign()
            torch.testing.assert_close(component.flatten().double(), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
    def test_scale(self, scale):
        values = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(1))
        guide = values.abs().sum(dim=1)
        torch.testing.assert_close(
            first_component(scale * values, guide), scale * first_component(values, guide), rtol=1e-5, atol=0
        )

    def test_without_variation_is_zero(self):
        for channels in (2, 30):
            values = torch.full((2, channels, 3, 4), 0.7)
            assert (first_component(values, values.sum(dim=1)) == 0).all()

    def test_not_finite(self):
        values = torch.ones(2, 6, 3, 4)
        values[1, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"feature map is NaN or infinite in sample 1$"):
            first_component(values, values.sum(dim=1))

    def test_the_sign_follows_what_is_active(self):
        """An image of which a part is bright has a map of that part, however large it is."""
        model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        nn.init.uniform_(model[0].weight, 0.1, 1)
        for width in (2, 5, 8):
            x = torch.full((1, 3, 10, 10), 0.1)
            x[..., :width] = 1
            maps = EigenCAM().maps(Probe(model, model[0], x, target=1))
            torch.testing.assert_close(maps[..., :width], torch.ones(1, 10, width))
            assert maps[..., width:].max() == 0

    def test_the_sign_follows_the_evidence(self, linear):
        """For the opposite utility, Eigen-Grad-CAM's map is the opposite, and Eigen-CAM's the same."""
        model, x = linear
        probes = [
            Probe(model, model.layer, x, utility=lambda outputs, sign=sign: sign * outputs[:, 1]) for sign in (1, -1)
        ]
        there, opposite = (EigenGradCAM()(probe) for probe in probes)
        torch.testing.assert_close(there, -opposite)
        hires = [METHODS["HiResCAM"]()(probe).sum(dim=1, keepdim=True) for probe in probes]
        assert ((there * hires[0]).sum(dim=(1, 2, 3)) > 0).all()
        assert torch.equal(*(EigenCAM()(probe) for probe in probes))

    def test_below_a_layer_norm_the_sign_is_not_rounding(self):
        """There the sum of G * A over channels is 0."""
        torch.manual_seed(2)

        class Normed(LinearHead):
            def forward(self, x):
                tokens = nn.functional.layer_norm(self.layer(x).movedim(1, -1), (7,), eps=0)
                return self.classifier((tokens**3).mean(dim=(1, 2)))

        model = Normed().eval()
        model.layer = model.layer[0]
        x = torch.randn(3, 3, 10, 8)
        found = [
            EigenGradCAM().maps(Probe(net, net.layer, x.to(net.classifier.weight), target=1)).double()
            for net in (model, copy.deepcopy(model).double())
        ]
        torch.testing.assert_close(*found, rtol=0, atol=1e-3)
        assert found[0].amax() > 0.99


def test_layers_without_negative_activations_make_two_methods_one(linear):
    model, x = linear
    probe = Probe(model, model.layer, x, target=CLASSES)
    torch.testing.assert_close(METHODS["LayerCAM"]()(probe), METHODS["GradCAMElementWise"]()(probe))
    assert input_map(METHODS["LayerCAM"]()(probe), (10, 8)).amax() > 0.99
