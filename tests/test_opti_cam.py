"""Opti-CAM: the paper's iterates, samples that do not disturb each other, and what happens at the limits."""

from __future__ import annotations

import pytest
import torch
from nets import CNN, make_setting
from reference import opti_cam_iterates
from state import untouched

import cam_extras
from cam_extras.captum import LayerOptiCam
from cam_extras.maps import black, input_map, mask
from cam_extras.methods import OptiCAM
from cam_extras.methods.opti_cam import NORMALISATIONS, OBJECTIVES
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical

CLASSES = [4, 0, 2]


def make_model(kind=CNN):
    """A network whose logits are so far apart that an iteration changes them noticeably."""
    model = kind().double().eval()
    with torch.no_grad():
        model.classifier.weight *= 20
    return model


@pytest.fixture
def probe():
    model = make_model()
    return Probe(model, model.stem, torch.randn(3, 3, 10, 8, dtype=torch.float64), target=CLASSES)


def reference(probe, sample, iterations, **options):
    model = probe._recording.model
    return opti_cam_iterates(model, probe.activations[sample], CLASSES[sample], probe.x[sample], iterations, **options)


@pytest.mark.parametrize("fill", [0.0, 0.4, black((0.3, 0.5, 0.4), (0.2, 0.3, 0.4))], ids=["0", "0.4", "black"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_iterate_is_the_papers(probe, objective, normalisation, fill):
    options = {"objective": objective, "normalisation": normalisation, "fill": fill}
    expected = [reference(probe, n, 12, **options) for n in range(3)]
    for iterations in (1, 2, 5, 12):
        optimum = OptiCAM(max_iterations=iterations, **options).optimise(probe)
        for n, (iterates, objectives) in enumerate(expected):
            torch.testing.assert_close(optimum.weights[n], iterates[iterations].softmax(0), rtol=0, atol=1e-9)
            assert optimum.objective[n].tolist() == pytest.approx(objectives[:iterations], abs=1e-9)


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
    weights = OptiCAM(max_iterations=5, h=h).optimise(probe).weights
    for n in range(3):
        torch.testing.assert_close(weights[n], reference(probe, n, 5, h=h)[0][5].softmax(0), rtol=0, atol=1e-9)
    other = OptiCAM(max_iterations=5, h="identity" if h == "relu" else "relu").optimise(probe).weights
    assert (weights - other).abs().max() > 1e-4


def test_the_class_is_seen_better_in_what_the_map_shows(probe):
    def score(method):
        return probe.score(mask(probe.x, input_map(method(probe), (10, 8))))

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
        return {"score": [lambda y, c=c: y[c] for c in CLASSES]}
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


@pytest.mark.parametrize("objective", OBJECTIVES)
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
    x = torch.zeros(33, 3, side, side).index_fill_(0, torch.arange(0, 33, 2), 1.0)[: rows + 1]
    for options, expected in (({"target": 1}, [rows + 1, rows, 1]), ({"score": lambda y: y[:, 1]}, 2 * [rows + 1])):
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


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("case", ["zero", "constant", "one channel"])
def test_degenerate_maps(case, normalisation, objective):
    model = CNN().eval()
    with torch.no_grad():
        model.stem[0].weight.zero_()
        model.stem[0].bias.fill_(0.0 if case == "zero" else 0.5)
    if case == "one channel":
        model.stem[0] = torch.nn.Conv2d(3, 1, 3, stride=2, padding=1)
        model.layer = torch.nn.Conv2d(1, 7, 3, padding=1)
    probe = Probe(model, model.stem, torch.randn(2, 3, 10, 8))
    optimum = OptiCAM(objective=objective, normalisation=normalisation).optimise(probe)
    channels = 1 if case == "one channel" else 6
    torch.testing.assert_close(optimum.weights, torch.full((2, channels), 1 / channels))
    assert all(len(curve) == 2 for curve in optimum.objective)  # nothing changes: converged


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
        ({"h": "gelu"}, "h must be one of 'relu', 'identity'"),
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
