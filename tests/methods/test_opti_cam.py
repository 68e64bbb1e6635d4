"""Opti-CAM: the paper's iterates, samples that do not disturb each other, and what happens at the limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from nets import CNN, TinySwin, TinyViT, make_setting
from reference import opti_cam_iterates, opti_cam_mask
from state import untouched

import cam_extras
from cam_extras._checks import SampleError
from cam_extras.captum import LayerOptiCam
from cam_extras.evaluation import Evaluator
from cam_extras.maps import black, input_map, mask, normalise
from cam_extras.methods import OptiCAM
from cam_extras.methods.opti_cam import NORMALISATIONS
from cam_extras.probe import Probe
from cam_extras.quantus import explain
from cam_extras.utilities import Logit

pytestmark = pytest.mark.numerical

CLASSES = [4, 0, 2]


def make_model(kind=CNN):
    """A network whose logits are so far apart that an iteration changes them noticeably."""
    model = kind().double().eval()
    with torch.no_grad():
        model.classifier.weight *= 20
    return model


def make_negative(model):
    """Let `model.layer` have negative values only, which a ReLU after it would take from the score, too."""
    model.activation = torch.nn.Identity()
    with torch.no_grad():
        model.layer.bias -= 1.5


@pytest.fixture
def probe():
    model = make_model()
    return Probe(model, model.stem, torch.randn(3, 3, 10, 8, dtype=torch.float64), target=CLASSES)


def reference(probe, sample, iterations, **options):
    model = probe._recording.model
    return opti_cam_iterates(model, probe.activations[sample], CLASSES[sample], probe.x[sample], iterations, **options)


@pytest.mark.parametrize("fill", [0.0, 0.4, black((0.3, 0.5, 0.4), (0.2, 0.3, 0.4))], ids=["0", "0.4", "black"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("objective", ["mask", "diff", "iomask", "iodiff"])
def test_every_iterate_is_the_papers(probe, objective, normalisation, fill):
    options = {"objective": objective, "normalisation": normalisation, "fill": fill}
    expected = [reference(probe, n, 12, **options) for n in range(3)]
    for iterations in (1, 2, 5, 12):
        optimum = OptiCAM(max_iterations=iterations, **options).optimise(probe)
        for n, (iterates, objectives) in enumerate(expected):
            torch.testing.assert_close(optimum.weights[n], iterates[iterations].softmax(0), rtol=0, atol=1e-9)
            assert optimum.objective[n].tolist() == pytest.approx(objectives[:iterations], abs=1e-9)


@pytest.mark.parametrize("kind", [TinySwin, TinyViT])
def test_where_the_mean_over_channels_does_not_vary_it_starts_elsewhere(kind):
    """A LayerNorm as it is made leaves of the mean what rounding leaves, which min-max would enlarge to a mask."""
    model = make_model(kind)
    x = torch.randn(3, 3, 12, 16, dtype=torch.float64)
    probe = Probe(model, model.layer, x, target=CLASSES, reshape_transform=kind.reshape)
    mean = probe.activations.mean(dim=1)
    assert mean.abs().max() < 1e-12
    optimum = OptiCAM(max_iterations=20).optimise(probe)
    for n in range(3):
        iterates, objectives = opti_cam_iterates(model, probe.activations[n], CLASSES[n], x[n], 20)
        assert iterates[0].max() == 1
        torch.testing.assert_close(optimum.weights[n], iterates[20].softmax(0), rtol=0, atol=1e-9)
        assert optimum.objective[n].tolist() == pytest.approx(objectives, abs=1e-9)
    # Rounding decides nothing: another batch size, and other noise than rounding makes.
    single = Probe(model, model.layer, x[:1] + 1e-9, target=4, reshape_transform=kind.reshape)
    torch.testing.assert_close(
        OptiCAM(max_iterations=20).optimise(single).masks[0], optimum.masks[0], rtol=0, atol=1e-6
    )


def test_fast_recipe(probe):
    optimum = OptiCAM(**OptiCAM.FAST).optimise(probe)
    assert LayerOptiCam.FAST is cam_extras.OptiCAM.FAST is OptiCAM.FAST
    iterations = OptiCAM.FAST["max_iterations"]
    options = {key: value for key, value in OptiCAM.FAST.items() if key != "max_iterations"}
    for n in range(3):
        iterates, objectives = reference(probe, n, iterations, **options)
        # torch keeps the momentum in float32
        torch.testing.assert_close(optimum.weights[n], iterates[iterations].softmax(0), rtol=0, atol=1e-5)
        assert optimum.objective[n].tolist() == pytest.approx(objectives, abs=1e-4)


@pytest.mark.parametrize("h", ["relu", "identity"])
def test_rectifier_matters_for_signed_layers(h):
    model = CNN().double().eval()
    probe = Probe(model, model.layer, torch.randn(3, 3, 10, 8, dtype=torch.float64), target=CLASSES)
    assert probe.activations.min() < 0
    weights = OptiCAM(max_iterations=5, rectifier=h).optimise(probe).weights
    for n in range(3):
        torch.testing.assert_close(weights[n], reference(probe, n, 5, rectifier=h)[0][5].softmax(0), rtol=0, atol=1e-9)
    other = OptiCAM(max_iterations=5, rectifier="identity" if h == "relu" else "relu").optimise(probe).weights
    assert (weights - other).abs().max() > 1e-4


def test_the_class_is_seen_better_in_what_the_map_shows(probe):
    def score(method):
        return probe.utility(mask(probe.x, input_map(method(probe), (10, 8))))

    assert (score(OptiCAM()) > score(OptiCAM(max_iterations=1, learning_rate=1e-9)) + 1e-3).all()
    optimum = OptiCAM().optimise(probe)
    torch.testing.assert_close(optimum.weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    for curve in optimum.objective:
        assert curve[-1] > curve[0]


def test_batch_equals_one_by_one(probe):
    weights = OptiCAM(max_iterations=30).optimise(probe).weights
    for n in range(3):
        alone = Probe(probe._recording.model, probe._recording.layers[0], probe.x[n : n + 1], target=CLASSES[n])
        torch.testing.assert_close(OptiCAM(max_iterations=30).optimise(alone).weights[0], weights[n], rtol=0, atol=1e-9)


def scores_of(kind):
    """The same score, as a host may hand it over."""
    if kind == "functions":
        return {"utility": [lambda y, c=c: y[c] for c in CLASSES]}
    if kind == "callable":
        return {"target": lambda y: y[range(len(CLASSES)), CLASSES]}
    return {"target": CLASSES if kind == "classes" else None}


@pytest.mark.parametrize("kind", ["classes", "predicted", "functions", "callable"])
def test_converged_samples_leave_the_batch(kind):
    model = make_model()
    x = torch.randn(3, 3, 10, 8, dtype=torch.float64)
    method = OptiCAM(max_iterations=60, tolerance=2e-3)
    probe = Probe(model, model.stem, x, **scores_of(kind))
    sizes = []
    handle = model.register_forward_hook(lambda m, a, out: sizes.append(len(out)))
    optimum = method.optimise(probe)
    handle.remove()
    lengths = [len(curve) for curve in optimum.objective]
    assert len(set(lengths)) > 1
    assert max(lengths) < 60
    if kind != "callable":  # which scores all samples or none
        assert sizes[-max(lengths) :] == [sum(length > t for length in lengths) for t in range(max(lengths))]
    for n in range(3):
        c = CLASSES[n] if kind != "predicted" else int(probe.target[n])
        alone = method.optimise(Probe(model, model.stem, x[n : n + 1], target=c))
        torch.testing.assert_close(alone.weights[0], optimum.weights[n], rtol=0, atol=1e-9)
        assert len(alone.objective[0]) == lengths[n]
        assert (optimum.objective[n][-1] - optimum.objective[n][-2]).abs() < 2e-3
        assert ((optimum.objective[n][1:-1] - optimum.objective[n][:-2]).abs() >= 2e-3).all()


@pytest.mark.parametrize("objective", ["mask", "diff", "iomask", "iodiff"])
def test_internal_batch_size(probe, objective):
    method = OptiCAM(objective=objective, max_iterations=20, internal_batch_size=3)
    expected = method.optimise(probe)
    for size in (1, 2, 100):
        sizes = []
        handle = probe._recording.model.register_forward_hook(lambda m, a, out, sizes=sizes: sizes.append(len(out)))
        optimum = OptiCAM(objective=objective, max_iterations=20, internal_batch_size=size).optimise(probe)
        handle.remove()
        assert max(sizes[1:]) == min(size, 3)  # after the scores of the images themselves
        torch.testing.assert_close(optimum.weights, expected.weights, rtol=0, atol=1e-9)
        for curve, other in zip(optimum.objective, expected.objective, strict=True):
            torch.testing.assert_close(curve, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("side", "rows"), [(224, 4), (300, 2), (600, 1), (64, 32), (8, 32)])
def test_default_internal_batch_size(side, rows):
    """As many pixels as four images of 224 x 224 have, and no more than 32 images."""
    model = CNN().eval()
    x = torch.randn(1, 3, side, side) * torch.linspace(1, 2, rows + 1)[:, None, None, None]
    for options, expected in (({"target": 1}, [rows + 1, rows, 1]), ({"utility": lambda y: y[:, 1]}, 2 * [rows + 1])):
        sizes = []
        probe = Probe(model, model.stem, x, **options)
        handle = model.register_forward_hook(lambda m, a, out, sizes=sizes: sizes.append(len(out)))
        OptiCAM(max_iterations=1).optimise(probe)
        handle.remove()
        assert sizes == expected


def test_additional_arguments_stay_with_their_samples():
    class Scaled(CNN):
        def forward(self, x, factor):
            return super().forward(x * factor)

    model = make_model(Scaled)
    x = torch.randn(3, 3, 10, 8, dtype=torch.float64)
    factor = torch.tensor([0.5, 1, 2], dtype=torch.float64).view(3, 1, 1, 1)
    method = LayerOptiCam(model, model.stem, max_iterations=60, tolerance=2e-3)
    together = method.attribute(x, CLASSES, additional_forward_args=factor)
    for n in range(3):
        alone = method.attribute(x[n : n + 1], CLASSES[n], additional_forward_args=factor[n : n + 1])
        torch.testing.assert_close(together[n], alone[0], rtol=0, atol=1e-9)


class TestWhatIsShownIsWhatWasOptimised:
    """Maps of the hosts against the mask that the paper's iteration ends with; not against weights."""

    def shown(self, values, **hyper):
        """The last masks by the reference, and the maps of every host by name."""
        model = make_model()
        layer = model.stem if values == "after a ReLU" else model.layer
        if values == "negative":
            make_negative(model)
        x = torch.randn(3, 3, 10, 8, dtype=torch.float64)
        activations = Probe(model, layer, x).activations
        assert (activations.amin() < 0) == (values != "after a ReLU")
        assert (activations.amax() < 0) == (values == "negative")
        hyper = {"max_iterations": 4, **hyper}
        options = {key: hyper[key] for key in ("normalisation", "rectifier") if key in hyper}
        masks = []
        for n, c in enumerate(CLASSES):
            u = opti_cam_iterates(model, activations[n], c, x[n], 4, **options)[0][-1]
            masks.append(opti_cam_mask(u, activations[n], (10, 8), **options))
        name = next(key for key, module in model.named_modules() if module is layer)
        probe = Probe(model, layer, x, target=CLASSES)
        attribution = LayerOptiCam(model, layer, **hyper).attribute(x, CLASSES)
        if hyper.get("normalisation", "range") == "range":
            assert attribution.amin() >= -1e-15 or "rectifier" in hyper
            attribution = attribution.relu()
            low, high = attribution.amin((1, 2, 3), keepdim=True), attribution.amax((1, 2, 3), keepdim=True)
            enlarged = LayerAttribution.interpolate((attribution - low) / (high - low), (10, 8), "bilinear")[:, 0]
            low, high = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
            attribution = ((enlarged - low) / (high - low))[:, None]
        evaluator = Evaluator(model, layer, {"OptiCAM": OptiCAM(**hyper)}, ["complexity"])
        return torch.stack(masks).detach(), {
            "method": OptiCAM(**hyper).maps(probe),
            "pytorch-grad-cam": cam_extras.OptiCAM(model, [layer], **hyper)(x, [Logit(c) for c in CLASSES]),
            "Captum": attribution[:, 0],
            "Quantus": explain("OptiCAM", layer=name, **hyper)(model, x.numpy(), np.array(CLASSES))[:, 0],
            "Evaluator": evaluator(x, CLASSES).maps["OptiCAM"],
        }

    @pytest.mark.parametrize(
        ("values", "hyper"),
        [
            *[(values, {"normalisation": n}) for values in ("after a ReLU", "signed") for n in NORMALISATIONS],
            *[("negative", {"normalisation": n}) for n in ("range", "sigmoid")],  # max has nothing to divide by
            *[(values, {"rectifier": "relu"}) for values in ("after a ReLU", "signed")],
        ],
        ids=str,
    )
    def test_in_every_host(self, values, hyper):
        masks, maps = self.shown(values, **hyper)
        assert (masks[0] - masks[1]).abs().max() > 0.005
        for shown in maps.values():
            torch.testing.assert_close(torch.as_tensor(shown).double(), masks, rtol=0, atol=1e-6)

    def test_in_a_volume(self):
        model = CNN(dims=3, channels=1).double().eval()
        x = torch.randn(2, 1, 8, 10, 12, dtype=torch.float64)
        masks = OptiCAM(max_iterations=3).optimise(Probe(model, model.layer, x, target=1)).masks
        maps = cam_extras.OptiCAM(model, [model.layer], max_iterations=3)(x, [Logit(1)] * 2)
        np.testing.assert_allclose(maps, masks, rtol=0, atol=1e-6)

    def test_of_two_layers_is_their_scaled_mean(self):
        model = make_model()
        x = torch.randn(2, 3, 10, 8, dtype=torch.float64)
        layers = [model.layer, model.stem]
        alone = [cam_extras.OptiCAM(model, [layer], max_iterations=3)(x, [Logit(1)] * 2) for layer in layers]
        both = cam_extras.OptiCAM(model, layers, max_iterations=3)(x, [Logit(1)] * 2)
        expected = normalise(torch.from_numpy(np.mean(alone, axis=0)))
        np.testing.assert_allclose(both, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["mask", "diff", "iomask", "iodiff"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_one_channel_has_nothing_to_weigh(normalisation, objective):
    model = make_model()
    model.stem[0] = torch.nn.Conv2d(3, 1, 3, stride=2, padding=1, dtype=torch.float64)
    model.layer = torch.nn.Conv2d(1, 7, 3, padding=1, dtype=torch.float64)
    probe = Probe(model, model.stem, torch.randn(2, 3, 10, 8, dtype=torch.float64))
    optimum = OptiCAM(objective=objective, normalisation=normalisation).optimise(probe)
    assert (optimum.weights == 1).all()
    assert all(len(curve) == 2 for curve in optimum.objective)  # nothing changes: converged
    for mask_, channel in zip(optimum.masks, probe.activations, strict=True):
        expected = opti_cam_mask(torch.zeros(1), channel, (10, 8), normalisation)
        torch.testing.assert_close(mask_, expected, rtol=0, atol=1e-12)


def test_two_cells_have_one_mask_whatever_the_weights():
    model = make_model()
    x = torch.randn(3, 3, 2, 4, dtype=torch.float64)  # min-max makes a ramp of two values, or turns it round
    probe = Probe(model, model.layer, x, target=CLASSES)
    assert probe.activations.shape[2:] == (1, 2)
    masks = OptiCAM().optimise(probe).masks
    assert (masks.amax((1, 2)) == 1).all()
    assert (masks.amin((1, 2)) == 0).all()


class TestAnOptimisationThatCannotStartSaysWhy:
    @pytest.mark.parametrize("objective", ["mask", "diff", "iomask", "iodiff"])
    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    @pytest.mark.parametrize("value", [0.0, 0.5])
    def test_a_constant_layer(self, value, normalisation, objective):
        model = CNN().eval()
        with torch.no_grad():
            model.stem[0].weight.zero_()
            model.stem[0].bias.fill_(value)
        probe = Probe(model, model.stem, torch.randn(2, 3, 10, 8))
        with pytest.raises(SampleError, match="cannot start: the layer has the same value in all cells"):
            OptiCAM(objective=objective, normalisation=normalisation).optimise(probe)

    def test_only_the_sample_concerned_is_named(self):
        model = CNN().eval()
        with torch.no_grad():
            model.stem[0].bias.zero_()
        x = torch.randn(3, 3, 10, 8)
        x[1] = 0
        with pytest.raises(SampleError) as error:
            OptiCAM().optimise(Probe(model, model.stem, x))
        assert error.value.samples == [1]

    @pytest.mark.parametrize(("h", "normalisation"), [("relu", "range"), ("relu", "max"), ("identity", "max")])
    def test_what_the_rectifier_empties(self, h, normalisation):
        model = make_model()
        make_negative(model)
        probe = Probe(model, model.layer, torch.randn(3, 3, 10, 8, dtype=torch.float64), target=CLASSES)
        with pytest.raises(SampleError, match=r'ReLU leaves nothing .* in samples 0, 1, 2: take rectifier="identity"'):
            OptiCAM(rectifier=h, normalisation=normalisation)(probe)
        assert OptiCAM(max_iterations=3)(probe).sum(dim=1).amax((1, 2)).min() > 0

    def test_an_image_of_nothing_but_the_fill(self):
        model = make_model()
        x = torch.randn(2, 3, 10, 8, dtype=torch.float64)
        x[1] = 0  # at the border of the layer's padding its map is not constant
        with pytest.warns(UserWarning, match="every mask keeps the utility in sample 1: Opti-CAM leaves all channels"):
            weights = OptiCAM(max_iterations=3).optimise(Probe(model, model.layer, x, target=1)).weights
        assert weights[0].std() > 0
        assert (weights[1] == weights[1, 0]).all()

    def test_a_saturated_score(self):
        model = make_model()
        with torch.no_grad():
            model.classifier.bias[1] += 1e4
        probe = Probe(model, model.stem, torch.randn(2, 3, 10, 8, dtype=torch.float64), target=1)
        with pytest.warns(UserWarning, match="every mask keeps the utility in samples 0, 1"):
            weights = OptiCAM(utility="softmax").optimise(probe).weights
        assert (weights == weights[:, :1]).all()
        assert OptiCAM(max_iterations=3).optimise(probe).weights.std() > 0

    @pytest.mark.parametrize("objective", ["mask", "diff", "iomask", "iodiff"])
    def test_a_score_without_a_gradient(self, objective):
        """The masked image has lost the score, and no change of the mask is told to be better."""
        model = make_model()
        x = torch.randn(2, 3, 10, 8, dtype=torch.float64)
        outputs, c = model(x), 1
        middle = (outputs[1, c] + model(x[1:] * 0.5)[0, c]) / 2
        probe = Probe(model, model.stem, x, utility=[lambda y: y[c], lambda y: (y[c] - middle).sign() + 0 * y[c]])
        with pytest.raises(
            SampleError, match="the utility of the masked image has no gradient in sample 1: take utility="
        ):
            OptiCAM(objective=objective).optimise(probe)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_state_modes_and_cost(mode):
    setting = make_setting("batch_norm_train")
    calls = []
    with untouched(setting.model, setting.x), mode():
        handle = setting.model.register_forward_hook(lambda *_: calls.append(1))
        contributions = OptiCAM(max_iterations=7, tolerance=0)(Probe(setting.model, setting.layers[0], setting.x + 0))
        handle.remove()
    assert len(calls) == 1 + 7
    expected = OptiCAM(max_iterations=7, tolerance=0)(Probe(setting.model, setting.layers[0], setting.x))
    torch.testing.assert_close(contributions, expected)


def test_progress_bar(capsys):
    setting = make_setting("plain")
    probe = Probe(setting.model, setting.layers[0], setting.x)
    OptiCAM(max_iterations=2)(probe)
    assert capsys.readouterr().out == ""
    OptiCAM(max_iterations=2, progress=True)(probe)
    assert "Opti-CAM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hyper", "match"),
    [
        ({"objective": "max"}, "objective must be one of 'mask', 'diff', 'iomask', 'iodiff'"),
        ({"normalisation": "l2"}, "normalisation must be one of 'range', 'max', 'sigmoid'"),
        ({"rectifier": "gelu"}, "rectifier must be one of 'identity', 'relu'"),
        ({"optimiser": "sgd"}, "optimiser must be one of 'adam', 'nadam'"),
        ({"max_iterations": 0}, "max_iterations must be 1 or more; got 0"),
        ({"internal_batch_size": 0}, "internal_batch_size must be 1 or more; got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"tolerance": -1.0}, "tolerance must be 0 or more"),
    ],
)
def test_bad_hyper_parameters(hyper, match):
    with pytest.raises(ValueError, match=match):
        OptiCAM(**hyper)


def test_a_fill_is_a_number_or_a_tensor():
    with pytest.raises(TypeError, match=r"fill must be a number or a tensor.*got 'black'"):
        OptiCAM(fill="black")


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["MobileNet-V2", "ResNet-20", "ViT-Tiny"])
def test_signed_layers_of_real_models(realdata, case, monkeypatch):
    """Where ReLU of the mean channel is zero everywhere, or another image than the mask."""
    monkeypatch.syspath_prepend(realdata.folder)
    x, reshape = realdata.read(2), None
    if case == "MobileNet-V2":
        model, name = realdata.model, "features.18.conv"
    elif case == "ResNet-20":
        import models

        model, name = models.resnet_cifar(20, realdata.folder / "resnet20_cifar10.safetensors"), "layer3.1.bn1"
        x = torch.nn.functional.interpolate(x, (32, 32), mode="area")
    else:
        import vit

        model, name, reshape = (
            vit.vit_tiny(realdata.folder / "vit_tiny_imagenet.safetensors"),
            vit.LAYER,
            vit.reshape_transform,
        )
    layer = model.get_submodule(name)
    probe = Probe(model, layer, x, reshape_transform=reshape)
    assert probe.activations.amin() < 0
    if case != "ViT-Tiny":
        with pytest.raises(SampleError, match="ReLU leaves nothing"):
            OptiCAM(rectifier="relu")(probe)
    hyper = {"max_iterations": 5, "learning_rate": 0.5}
    masks = OptiCAM(**hyper).optimise(probe).masks
    before = OptiCAM(max_iterations=1, learning_rate=1e-9).maps(probe)
    assert (probe.utility(mask(x, masks)) > probe.utility(mask(x, before)) + 0.3).all()
    shown = {
        "pytorch-grad-cam": cam_extras.OptiCAM(model, [layer], reshape, **hyper)(x),
        "Captum": input_map(
            LayerOptiCam(model, layer, reshape_transform=reshape, **hyper).attribute(x, probe.target), x.shape[2:]
        ),
        "Quantus": explain("OptiCAM", layer=name, reshape_transform=reshape, **hyper)(
            model, x.numpy(), probe.target.numpy()
        )[:, 0],
    }
    for maps in shown.values():
        torch.testing.assert_close(torch.as_tensor(maps), masks, rtol=0, atol=1e-6)
