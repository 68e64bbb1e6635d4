"""The front end for Captum: equal to it where it computes the same, and at home in its machinery."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from hosts import ANYWHERE, CAPTUM, SEVERAL_PASSES
from nets import CLASSES, CNN, LinearHead
from state import untouched
from torch import nn
from torchvision.models import resnet18

from cam_extras.captum import LayerFakeCam, LayerGradCam, LayerHiResCam, LayerShapleyCam

pytestmark = pytest.mark.numerical

ALL = pytest.mark.parametrize("name", ANYWHERE)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return resnet18().eval(), torch.randn(3, 3, 64, 96)


class TestEqualsCaptum:
    @pytest.mark.parametrize("options", [{}, {"relu_attributions": True}, {"attr_dim_summation": False}], ids=str)
    @pytest.mark.parametrize("layer", ["layer4", "layer2.0.conv1", "bn1"])
    def test_grad_cam_exactly(self, resnet, layer, options):
        model, x = resnet
        layer = model.get_submodule(layer)
        theirs = captum.attr.LayerGradCam(model, layer).attribute(x, [1, 0, 4], **options)
        mine = LayerGradCam(model, layer).attribute(x, [1, 0, 4], **options)
        assert torch.equal(mine, theirs)

    def test_grad_cam_exactly_at_the_layers_input(self, resnet):
        model, x = resnet
        theirs = captum.attr.LayerGradCam(model, model.layer4).attribute(x, 3, attribute_to_layer_input=True)
        mine = LayerGradCam(model, model.layer4).attribute(x, 3, attribute_to_layer_input=True)
        assert torch.equal(mine, theirs)

    def test_hires_cam_is_gradient_times_activation(self, resnet):
        model, x = resnet
        theirs = captum.attr.LayerGradientXActivation(model, model.layer4).attribute(x, 3)
        mine = LayerHiResCam(model, model.layer4).attribute(x, 3, attr_dim_summation=False)
        assert torch.equal(mine, theirs)

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_any_number_of_dimensions(self, dims):
        model = CNN(dims=dims).double().eval()
        x = torch.randn(2, 3, *(12, 10, 8)[:dims], dtype=torch.float64)
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(x, 1)
        mine = LayerGradCam(model, model.layer).attribute(x, 1)
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-15)


class Grid(CNN):
    """Returns (N, C, 2, 2): a score for each class and cell, as segmentation models do."""

    def forward(self, x):
        y = super().forward(x)
        return torch.stack([y, y.sin(), y.cos(), y * y], dim=2).reshape(len(x), CLASSES, 2, 2)


class Scalar(CNN):
    def forward(self, x):
        return super().forward(x)[:, 1]


class TestTargets:
    x = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize(
        "target",
        [2, torch.tensor(2), torch.tensor([2]), [2, 0, 4], torch.tensor([2, 0, 4]), (2,)],
        ids=repr,
    )
    def test_forms(self, target):
        model = CNN().eval()
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x, target)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x, target), theirs)

    @pytest.mark.parametrize("target", [(2, 1, 0), [(2, 1, 0), (0, 0, 0), (4, 1, 1)]], ids=repr)
    def test_tuples(self, target):
        model = Grid().eval()
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x, target)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x, target), theirs)

    @pytest.mark.parametrize("name", SEVERAL_PASSES)
    @pytest.mark.parametrize(
        ("kind", "target"),
        [
            (CNN, 2),
            (CNN, (2,)),
            (CNN, torch.tensor([2])),
            (CNN, [2, 0, 4]),
            (CNN, [(2,), (0,), (4,)]),
            (CNN, torch.tensor([2, 0, 4])),
            (Grid, (2, 1, 0)),
            (Grid, [(2, 1, 0), (0, 0, 0), (4, 1, 1)]),
            (Scalar, None),
        ],
        ids=repr,
    )
    def test_forms_follow_their_samples(self, kind, target, name):
        """Where a forward pass has points around some of the samples only."""
        model = kind().double().eval()
        method = CAPTUM[name](model, model.layer, internal_batch_size=2, **SEVERAL_PASSES[name])
        x = self.x.double()
        together = method.attribute(x, target)
        for n in range(3):
            several = not isinstance(target, int | tuple | None) and len(target) > 1
            alone = method.attribute(x[n : n + 1], target[n : n + 1] if several else target)
            torch.testing.assert_close(together[n], alone[0], rtol=1e-9, atol=1e-12)

    def test_rest_is_read_at_a_tuple(self):
        """The utility is taken over classes, in every cell."""
        model = Grid().eval()
        mine = LayerGradCam(model, model.layer, utility="rest").attribute(self.x, (2, 1, 0))

        def rest(x):
            y = model(x)
            return (y + y.log_softmax(dim=1))[:, 2, 1, 0]

        torch.testing.assert_close(mine, captum.attr.LayerGradCam(rest, model.layer).attribute(self.x))

    def test_none_where_the_model_returns_one_number(self):
        model = Scalar().eval()
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x), theirs)

    @ALL
    def test_every_method_on_every_form(self, name):
        model = CNN().eval()
        attribute = CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {})).attribute
        expected = attribute(self.x, 2)
        for target in (torch.tensor(2), [2, 2, 2], torch.tensor([2, 2, 2]), (2,)):
            assert torch.equal(attribute(self.x, target), expected)

    @pytest.mark.parametrize(
        "target", [5, -6, [0, 1], [0, 1, 5], torch.tensor([0, 1, 5]), (1, 1), "dog", None, torch.zeros(2, 2)], ids=repr
    )
    def test_that_do_not_fit(self, target):
        model = CNN().eval()
        with (
            untouched(model),
            pytest.raises(ValueError, match=r"does not fit a model output|one utility for each sample"),
        ):
            LayerGradCam(model, model.layer).attribute(self.x, target)


class TestMachinery:
    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))

    @ALL
    def test_interpolate(self, name):
        model = CNN().eval()
        attribution = CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {})).attribute(self.x, 1)
        assert LayerAttribution.interpolate(attribution, (12, 16)).shape == (2, 1, 12, 16)

    @ALL
    @pytest.mark.parametrize("nt_type", ["smoothgrad", "vargrad"])
    def test_noise_tunnel(self, name, nt_type):
        model, x = CNN().double().eval(), self.x.double()
        layer_method = CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {}))
        still = NoiseTunnel(layer_method).attribute(x, nt_samples=3, stdevs=0.0, target=1)
        torch.testing.assert_close(still, layer_method.attribute(x, 1))
        noisy = NoiseTunnel(layer_method).attribute(x, nt_type=nt_type, nt_samples=3, target=[1, 2])
        assert noisy.shape == still.shape
        assert noisy.isfinite().all()

    @ALL
    def test_infidelity_and_sensitivity(self, name):
        model = CNN().eval()
        layer_method = CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {}))

        def perturb(x):
            noise = 0.1 * torch.randn_like(x)
            return noise, x - noise

        maps = LayerAttribution.interpolate(layer_method.attribute(self.x, 1), (12, 16)).expand_as(self.x)
        scores = infidelity(model, perturb, self.x, maps, target=1, n_perturb_samples=3)
        assert scores.shape == (2,)
        assert scores.isfinite().all()
        sensitivity = sensitivity_max(layer_method.attribute, self.x, target=1, n_perturb_samples=3)
        assert sensitivity.shape == (2,)
        assert sensitivity.isfinite().all()

    def test_shapley_cam_with_the_logit_is_grad_cam_on_a_linear_head(self):
        model = LinearHead().double().eval()
        x = self.x.double()
        grad_cam = LayerGradCam(model, model.layer).attribute(x, 1)
        logit = LayerShapleyCam(model, model.layer, utility="logit").attribute(x, 1)
        rest = LayerShapleyCam(model, model.layer).attribute(x, 1)
        assert torch.equal(logit, grad_cam)
        assert (rest - grad_cam).abs().max() > 1e-3

    @pytest.mark.parametrize("arguments", [2.0, (2.0,), (2.0, torch.ones(2, CLASSES))], ids=repr)
    def test_additional_forward_args(self, arguments):
        class Scaled(CNN):
            def forward(self, x, scale, shift=0):
                return super().forward(x * scale) + shift

        model = Scaled().eval()
        options = {"target": 1, "additional_forward_args": arguments}
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x, **options)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x, **options), theirs)

    def test_list_is_one_additional_argument(self):
        class Scaled(CNN):
            def forward(self, x, scales):
                return super().forward(x * scales[0] * scales[1])

        model = Scaled().eval()
        options = {"target": 1, "additional_forward_args": [2.0, 0.7]}
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x, **options)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x, **options), theirs)

    def test_forward_function(self):
        model = CNN().eval()

        def twice(x):
            return 2 * model(x)

        theirs = captum.attr.LayerGradCam(twice, model.layer).attribute(self.x, 1)
        assert torch.equal(LayerGradCam(twice, model.layer).attribute(self.x, 1), theirs)

    def test_list_of_layers_shares_one_forward_pass(self):
        model = CNN().eval()
        calls = []
        model.stem.register_forward_hook(lambda m, a, out: calls.append(1))
        several = LayerShapleyCam(model, [model.layer, model.stem]).attribute(self.x, 1)
        assert len(calls) == 1
        for layer, attribution in zip((model.layer, model.stem), several, strict=True):
            torch.testing.assert_close(attribution, LayerShapleyCam(model, layer).attribute(self.x, 1))

    def test_layers_in_a_tuple_and_input_in_a_tuple(self):
        model = CNN().eval()
        expected = LayerGradCam(model, [model.layer, model.stem]).attribute(self.x, 1)
        for inputs in (self.x, (self.x,)):
            for layers in ((model.layer, model.stem), torch.nn.ModuleList([model.layer, model.stem])):
                several = LayerGradCam(model, layers).attribute(inputs, 1)
                assert isinstance(several, list)
                assert all(map(torch.equal, several, expected))

    @pytest.mark.parametrize("grad_kwargs", [None, {}])
    def test_no_grad_kwargs(self, grad_kwargs):
        model = CNN().eval()
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(self.x, 1)
        assert torch.equal(LayerGradCam(model, model.layer).attribute(self.x, 1, grad_kwargs=grad_kwargs), theirs)

    def test_token_ids_as_input(self):
        class Text(CNN):
            def __init__(self):
                super().__init__(dims=1)
                self.embedding = nn.Embedding(10, 3)

            def forward(self, ids):
                return super().forward(self.embedding(ids).transpose(1, 2))

        model = Text().eval()
        ids = torch.randint(10, (2, 16))
        theirs = captum.attr.LayerGradCam(model, model.layer).attribute(ids, 1)
        mine = LayerGradCam(model, model.layer).attribute(ids, 1)
        assert mine.is_floating_point()
        assert torch.equal(mine, theirs)

    def test_one_tensor_in_a_tuple(self):
        model = CNN().eval()
        alone = LayerGradCam(model, model.layer).attribute(self.x, 1)
        (in_tuple,) = LayerGradCam(model, model.layer).attribute((self.x,), 1)
        assert torch.equal(in_tuple, alone)


class Spoilt(CNN):
    """What an input above 100 becomes in the layer is not finite."""

    def __init__(self, value):
        super().__init__()
        self.layer = Spoil(value)


class Spoil(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.conv, self.value = nn.Conv2d(6, 7, 3, padding=1), value

    def forward(self, x):
        features = self.conv(x)
        above = x.flatten(1).amax(dim=1) > 100
        first = torch.arange(7) == 0  # one channel: a sum of inf and -inf would be NaN, which ReLU does not hide
        return features.masked_fill(above[:, None, None, None] & first[:, None, None], self.value)


class TestNotFinite:
    @pytest.mark.parametrize("relu_attributions", [False, True])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
    @pytest.mark.parametrize("name", sorted({*ANYWHERE} - {"FakeCAM"}))  # whose maps do not depend on the layer
    def test_attributions_raise_as_maps_do_in_other_hosts(self, name, value, relu_attributions):
        model, x = Spoilt(value).eval(), torch.randn(3, 3, 12, 16)
        method = CAPTUM[name](model, model.layer, **SEVERAL_PASSES.get(name, {}))
        assert method.attribute(x, 2, relu_attributions=relu_attributions).isfinite().all()
        x[1] = 1000
        with untouched(model), pytest.raises(ValueError, match=r"in sample 1\b"):
            method.attribute(x, 2, relu_attributions=relu_attributions)

    def test_out_of_the_range_of_half_precision(self):
        model, x = LinearHead().eval(), torch.randn(2, 3, 12, 16)
        nn.init.zeros_(model.layer[0].bias)
        nn.init.constant_(model.classifier.weight, 1e7)
        x[0] = 0

        def in_float32(images):
            return model(images.float())

        assert LayerHiResCam(model, model.layer).attribute(x, 1).isfinite().all()
        with pytest.raises(ValueError, match=r"range of torch\.float16 in sample 1: give the input in float32"):
            LayerHiResCam(in_float32, model.layer).attribute(x.half(), 1)


class TestBadInput:
    model = CNN().eval()
    x = torch.randn(2, 3, 8, 8)

    @ALL
    def test_several_inputs(self, name):
        with pytest.raises(ValueError, match=r"expected one input tensor, got 2: .* additional_forward_args"):
            CAPTUM[name](self.model, self.model.layer).attribute((self.x, self.x), 1)

    @ALL
    def test_device_ids(self, name):
        with pytest.raises(ValueError, match=r"device_ids=\[0, 1\] cannot be served"):
            CAPTUM[name](self.model, self.model.layer, [0, 1])

    @ALL
    def test_grad_kwargs(self, name):
        with pytest.raises(ValueError, match=r"grad_kwargs=\{'retain_graph': True\} cannot be served"):
            CAPTUM[name](self.model, self.model.layer).attribute(self.x, 1, grad_kwargs={"retain_graph": True})

    def test_no_input(self):
        with pytest.raises(ValueError, match="expected one input tensor, got 0"):
            LayerGradCam(self.model, self.model.layer).attribute((), 1)

    @pytest.mark.parametrize(
        ("bad", "error", "match"),
        [
            ("layr", ValueError, "there is no layer 'layr': did you mean layer"),
            (CNN().layer, ValueError, "the layer Conv2d is not a module of this CNN"),
        ],
        ids=["misspelt", "another model's"],
    )
    @ALL
    def test_one_of_the_layers(self, name, bad, error, match):
        with untouched(self.model), pytest.raises(error, match=match):
            CAPTUM[name](self.model, [self.model.stem, bad]).attribute(self.x, 1)

    def test_data_parallel(self):
        parallel = nn.DataParallel(self.model)
        parallel.device_ids = [0, 1]
        with pytest.raises(TypeError, match=r"give the model's \.module"):
            LayerGradCam(parallel, self.model.layer).attribute(self.x, 1)

    def test_unknown_score(self):
        with pytest.raises(ValueError, match=r"utility must be one of 'logit', .* got 'odds'"):
            LayerGradCam(self.model, self.model.layer, utility="odds")

    @pytest.mark.parametrize(
        ("x", "error", "match"),
        [
            (torch.randn(0, 3, 8, 8), ValueError, "batch is empty"),
            (torch.full((2, 3, 8, 8), float("inf")), ValueError, "NaN or infinite in samples 0, 1"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "floating point"),
            ([1], TypeError, r"must be a torch\.Tensor"),
        ],
    )
    @ALL
    def test_input(self, name, x, error, match):
        with pytest.raises(error, match=match):
            CAPTUM[name](self.model, self.model.layer).attribute(x, 1)

    def test_layer_without_space(self):
        with pytest.raises(ValueError, match="expected a feature map"):
            LayerFakeCam(self.model, self.model.classifier).attribute(self.x, 1)
