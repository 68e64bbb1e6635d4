"""Methods x metrics on one batch, compared with doing everything by hand, one at a time."""

from __future__ import annotations

import warnings

import pytest
import torch
from nets import CNN, TinySwin, make_setting
from state import untouched
from torch import nn

from cam_extras._batching import rows_of_a_pass
from cam_extras.evaluation import Evaluator
from cam_extras.maps import black, input_map, mask
from cam_extras.methods import METHODS, GradCAM
from cam_extras.metrics import (
    DEFAULT_METRICS,
    METRICS,
    MetricOptions,
    Schedule,
    adcc,
    average_drop,
    average_gain,
    box_accuracy,
    box_mask,
    coherency,
    complexity,
    counterfactual,
    counterfactual_sensitivity,
    deletion_curve,
    drop_in_deletion,
    hci,
    insertion_curve,
    localisation_error,
    max_box_accuracy,
    saliency_metric,
    threshold_mask,
    thresholded_drop,
    thresholded_increase,
)
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical

METHODS_USED = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAMH", "FakeCAM")}
BOXES = [torch.tensor([[0, 0, 4, 5]]), torch.tensor([[3, 2, 9, 9], [0, 0, 2, 2]]), torch.tensor([[5, 1, 7, 8]])]


@pytest.mark.parametrize("fill", [0.0, 0.7])
@pytest.mark.parametrize("target", [None, 2, [0, 1, 2]])
@pytest.mark.parametrize("name", ["plain", "swin", "volume"])
def test_equals_a_probe_for_everything(name, target, fill):
    setting = make_setting(name)
    model, (layer,), x = setting.model, setting.layers, setting.x
    options = {"fill": fill, "threshold": 0.4}
    with untouched(model, x):
        result = Evaluator(model, layer, METHODS_USED, options=options, **setting.options)(x, target)
    with torch.no_grad():
        logits = model(x).double()
        assert torch.equal(result.predicted, logits.argmax(dim=1))
        classes = result.predicted if target is None else torch.as_tensor(target).expand(3)
        assert torch.equal(result.target, classes)

        def confidence(y):
            return model(y).double().softmax(dim=1)[range(3), classes]

        torch.testing.assert_close(result.confidence, confidence(x), rtol=0, atol=1e-6)
        assert result.confidence.dtype == torch.float64
    for method_name, method in METHODS_USED.items():

        def explain(y, method=method):
            return input_map(method(Probe(model, layer, y, target=classes, **setting.options)), x.shape[2:])

        maps = explain(x)
        shown = mask(x, maps, fill)
        with torch.no_grad():
            p, o, d = confidence(x), confidence(shown), confidence(mask(x, 1 - maps, fill))
            o_t = confidence(threshold_mask(x, maps, 0.4, fill))
            b = confidence(torch.full_like(x, fill))
        expected = {
            "average_drop": average_drop(p, o),
            "increase_in_confidence": (o > p).double(),
            "average_gain": average_gain(p, o),
            "drop_in_deletion": drop_in_deletion(p, d),
            "coherency": coherency(maps, explain(shown)),
            "complexity": complexity(maps),
            "thresholded_drop": thresholded_drop(p, o_t),
            "thresholded_increase": thresholded_increase(o_t, b),
        }
        expected["hci"] = hci(expected["thresholded_drop"], expected["thresholded_increase"])
        expected["adcc"] = adcc(expected["coherency"], expected["complexity"], expected["average_drop"])
        torch.testing.assert_close(result.maps[method_name], maps, rtol=0, atol=1e-6)
        assert set(result.scores[method_name]) == set(expected) == set(DEFAULT_METRICS)
        for metric, scores in expected.items():
            torch.testing.assert_close(
                result.scores[method_name][metric].double(), scores.double(), rtol=0, atol=1e-5, msg=metric
            )


def test_metrics_of_curves_weights_and_the_object():
    model = CNN().eval()
    x = torch.randn(3, 3, 12, 16)
    names = ["insertion", "deletion", "counterfactual_sensitivity", "localisation_error", "saliency_metric"]
    methods = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAM")}
    options = {"schedule": Schedule(0.2, "mean"), "seed": 3, "most_important": 2}
    result = Evaluator(model, model.layer, methods, names, options)(x, [0, 1, 2], boxes=BOXES)
    classes = torch.tensor([0, 1, 2])

    def confidence(images, samples=slice(None)):
        return model(images).double().softmax(dim=1).gather(1, classes[samples, None])[:, 0]

    for name, method in methods.items():
        probes = [Probe(model, model.layer, y, target=[0, 1, 2]) for y in (x, counterfactual(x, seed=3))]
        maps = input_map(method(probes[0]), (12, 16))
        curves = {
            "insertion_curve": insertion_curve(confidence, x, maps, Schedule(0.2, "mean")),
            "deletion_curve": deletion_curve(confidence, x, maps, Schedule(0.2, "mean")),
        }
        assert set(result.curves[name]) == set(curves)
        for curve in curves:
            torch.testing.assert_close(result.curves[name][curve], curves[curve], rtol=0, atol=1e-6)
        expected = {curve[:-6]: torch.trapezoid(scores, fractions) for curve, (fractions, scores) in curves.items()}
        weights = [method.channel_weights(probe) for probe in probes]
        for kept, computed in zip(("weights", "counterfactual_weights"), weights, strict=True):
            torch.testing.assert_close(result.weights[name][kept], computed, rtol=1e-5, atol=1e-7)
        expected["counterfactual_sensitivity"] = counterfactual_sensitivity(*weights, most_important=2)
        expected["localisation_error"] = localisation_error(maps, BOXES)
        with torch.no_grad():
            expected["saliency_metric"] = saliency_metric(x, maps, confidence)
        for metric in names:
            found = result.scores[name][metric].double()
            torch.testing.assert_close(found, expected[metric].double(), rtol=0, atol=1e-5, msg=metric)


def count(model):
    sizes = []
    model.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))
    return sizes


def test_number_of_forward_passes():
    """One of the batch for all methods; for each one of x*H, x*(1-H) and x above the threshold; an image of nothing."""
    model = CNN().eval()
    sizes = count(model)
    evaluator = Evaluator(model, model.layer, METHODS_USED)
    evaluator(torch.randn(2, 3, 12, 16))
    assert sorted(sizes) == [1] + [2] * (1 + 3 * len(METHODS_USED))
    sizes.clear()
    evaluator(torch.randn(2, 3, 12, 16))
    assert sizes == [2] * (1 + 3 * len(METHODS_USED))
    sizes.clear()
    Evaluator(model, model.layer, METHODS_USED, ["complexity"])(torch.randn(2, 3, 12, 16))
    assert sizes == [2]


def test_curves_take_their_steps():
    model = CNN().eval()
    sizes = count(model)
    options = {"schedule": Schedule(0.1), "internal_batch_size": 8}
    methods = {"GradCAM": METHODS["GradCAM"]()}
    Evaluator(model, model.layer, methods, ["insertion_deletion"], options)(torch.randn(4, 3, 12, 16))
    assert sum(sizes) == 4 + 2 * 4 * 11
    assert max(sizes) == 8


def test_each_size_of_image_has_its_own_nothing():
    model = CNN().eval()
    evaluator = Evaluator(model, model.layer, METHODS_USED, ["hci"])
    small, large = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 20, 24)
    evaluator(large)
    found = evaluator(small).scores
    expected = Evaluator(model, model.layer, METHODS_USED, ["hci"])(small).scores
    for name in METHODS_USED:
        assert torch.equal(found[name]["thresholded_increase"], expected[name]["thresholded_increase"])


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (torch.empty(1, 3, 224, 224), 4),
        (torch.empty(1, 3, 225, 224), 3),
        (torch.empty(1, 3, 500, 500), 1),
        (torch.empty(1, 3, 8, 8), 32),
        (torch.empty(1, 3, 500, 500, device="meta"), 32),
    ],
)
def test_images_of_a_pass(x, rows):
    assert rows_of_a_pass(x) == rows
    assert rows_of_a_pass(x, 7) == 7


def test_no_graph_is_kept():
    model = CNN().eval()
    result = Evaluator(model, model.layer, METHODS_USED)(torch.randn(2, 3, 8, 8))
    assert not any(scores.requires_grad for by_metric in result.scores.values() for scores in by_metric.values())


def test_masks_and_a_list_of_metrics_that_changes():
    model, x = CNN().eval(), torch.randn(3, 3, 12, 16)
    names = ["pointing_game", "energy_pointing_game"]
    evaluator = Evaluator(model, model.layer, METHODS_USED, names)
    names.append("average_drip")
    by_boxes, by_masks = evaluator(x, boxes=BOXES), evaluator(x, masks=box_mask(BOXES, (12, 16)))
    for method in METHODS_USED:
        for name in names[:2]:
            assert torch.equal(by_boxes.scores[method][name], by_masks.scores[method][name])


def test_room_for_a_gain_does_not_vanish_in_float32():
    model = CNN().eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 30, 0, 0, 0]))
    evaluator = Evaluator(model, model.layer, {"FakeCAM": METHODS["FakeCAM"]()}, ["complexity"])
    confidence = evaluator(torch.randn(1, 3, 8, 8)).confidence
    assert 0 < 1 - confidence.item() < 1e-12


def test_progress_and_value_of_the_set():
    model = CNN().eval()
    done = []
    evaluator = Evaluator(model, model.layer, METHODS_USED, ["adcc", "average_gain"])
    result = evaluator(torch.randn(4, 3, 8, 8), on_progress=done.append)
    assert done == list(METHODS_USED)
    for name, values in result.of_set().items():
        scores = result.scores[name]
        assert set(values) == {"adcc", "average_gain", "coherency", "complexity", "average_drop"}
        means = {metric: scores[metric].double().mean() for metric in scores}
        assert values["average_gain"] == means["average_gain"].item()
        assert values["adcc"] == adcc(means["coherency"], means["complexity"], means["average_drop"]).item()


def test_wins():
    model = CNN().eval()
    used = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAMH", "MIGradCAM")}
    result = Evaluator(model, model.layer, used)(torch.randn(20, 3, 8, 8))
    drops = {name: scores["average_drop"].tolist() for name, scores in result.scores.items()}
    shares = dict.fromkeys(drops, 0.0)
    for n in range(20):
        least = min(values[n] for values in drops.values())
        winners = [name for name, values in drops.items() if values[n] == least]
        for name in winners:
            shares[name] += 1 / len(winners) / 20
    assert result.win_percentage() == pytest.approx(shares)
    gains = result.win_percentage("average_gain")
    assert sum(gains.values()) == pytest.approx(1)
    best = max(result.scores, key=lambda name: result.scores[name]["average_gain"].mean())
    assert gains[best] == max(gains.values())


def test_controls_take_no_wins():
    """FakeCAM has the least drop of all, and GradCAM and ShapleyCAM-H share the images as if it were not there."""
    model, x = CNN().eval(), torch.randn(20, 3, 8, 8)
    result = Evaluator(model, model.layer, METHODS_USED)(x)
    assert result.controls == ("FakeCAM",)
    without = {name: method for name, method in METHODS_USED.items() if name != "FakeCAM"}
    assert result.win_percentage() == Evaluator(model, model.layer, without)(x).win_percentage()
    alone = {name: METHODS_USED[name] for name in ("GradCAM", "FakeCAM")}
    with pytest.raises(ValueError, match="two or more methods that are no controls; got GradCAM"):
        Evaluator(model, model.layer, alone)(x).win_percentage()


def test_metrics_that_compare_methods_by_name():
    model, x = CNN().eval(), torch.randn(20, 3, 8, 8)
    result = Evaluator(model, model.layer, METHODS_USED, ["win"])(x)
    assert {name: list(scores) for name, scores in result.scores.items()} == {
        "GradCAM": ["average_drop", "win_percentage"],
        "ShapleyCAMH": ["average_drop", "win_percentage"],
        "FakeCAM": ["average_drop"],
    }
    wins = {name: of_set["win_percentage"] for name, of_set in result.of_set().items() if "win_percentage" in of_set}
    assert wins == pytest.approx(result.win_percentage())
    alone = {name: METHODS_USED[name] for name in ("GradCAM", "FakeCAM")}
    with pytest.raises(ValueError, match="two or more methods that are no controls; got GradCAM"):
        Evaluator(model, model.layer, alone, "win_percentage")


def test_box_accuracy_of_a_set():
    model, x = CNN().eval(), torch.randn(3, 3, 12, 16)
    options = {"overlaps": [0.1, 0.4], "thresholds": [0.2, 0.5, 0.8]}
    result = Evaluator(model, model.layer, METHODS_USED, "Box_Accuracy", options)(x, boxes=BOXES)
    for name, scores in result.scores.items():
        hits = box_accuracy(result.maps[name], BOXES, **options)
        assert torch.equal(scores["box_accuracy"], hits)
        assert result.of_set()[name]["box_accuracy"] == pytest.approx(max_box_accuracy(hits).item())


@pytest.mark.parametrize("metrics", ["ADCC", ["adcc"], ["Adcc", "ADCC"], ("ADCC",)])
def test_names_of_metrics(metrics):
    model = CNN().eval()
    assert Evaluator(model, model.layer, METHODS_USED, metrics).metrics == ("adcc",)


def test_options_of_any_kind():
    model, x = CNN().eval(), torch.randn(3, 3, 8, 8)
    hci = METRICS["hci"].Options(threshold=0.7)
    with pytest.warns(DeprecationWarning, match="MetricOptions will go with the next release"):
        of_all = MetricOptions(threshold=0.7)
    expected = Evaluator(model, model.layer, METHODS_USED, ["hci"], {"threshold": 0.7})(x).scores["GradCAM"]["hci"]
    for options in (hci, of_all):
        found = Evaluator(model, model.layer, METHODS_USED, ["hci"], options)(x).scores["GradCAM"]["hci"]
        assert torch.equal(found, expected)
    with pytest.warns(DeprecationWarning, match="baseline='black' is called 'fill' now") as caught:
        evaluator = Evaluator(model, model.layer, METHODS_USED, ["hci"], {"baseline": "black"})
    assert [warning.filename for warning in caught] == [__file__]
    assert evaluator.options.baseline == "fill"


class NoMap(METHODS["FakeCAM"]):
    def __call__(self, probe):
        return torch.zeros(len(probe.x), 1, 3, 4)


def test_methods_are_named_with_their_samples():
    model = CNN().eval()
    methods = {"one": METHODS["GradCAM"](), "two": NoMap()}
    evaluator = Evaluator(model, model.layer, methods, ["saliency_metric"])
    with pytest.raises(ValueError, match=r"two: the saliency metric is undefined .* came in samples 0, 1: leave"):
        evaluator(torch.randn(2, 3, 12, 16))


def test_what_is_optimised_for_another_mask_is_said():
    setting = make_setting("plain")
    dark, same = black((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)), black((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))

    def evaluator(optimised, shown, metrics=DEFAULT_METRICS):
        methods = {"best": METHODS["OptiCAM"](fill=optimised), "GradCAM": METHODS["GradCAM"]()}
        return Evaluator(setting.model, setting.layers[0], methods, metrics, {"fill": shown})

    other_blue = dark * torch.tensor([1.0, 1.0, 0.5]).reshape(3, 1, 1)
    for optimised, shown in ((0.0, dark), (dark, 0.0), (0.0, 0.5), (dark, other_blue)):
        with pytest.warns(UserWarning, match="^best optimises its maps for fill=") as caught:
            evaluator(optimised, shown)
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator(dark, same)
        evaluator(0, torch.zeros(3, 1, 1))
        evaluator(dark, 0.0, ["complexity", "insertion"])  # which do not mask


def test_an_evaluator_cannot_be_changed():
    """What the model makes of an image of nothing is kept, for one fill."""
    model = CNN().eval()
    evaluator = Evaluator(model, model.layer, METHODS_USED)
    with pytest.raises(AttributeError, match="cannot assign to field 'options'"):
        evaluator.options = {"fill": 1.0}


def test_on_any_default_device():
    model, x = CNN().eval(), torch.randn(3, 3, 12, 16)
    methods = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAM")}
    evaluator = Evaluator(model, model.layer, methods, METRICS, {"schedule": Schedule(0.5)})
    expected = evaluator(x, [0, 1, 2], boxes=BOXES)
    with torch.device("meta"):
        found = evaluator(x, [0, 1, 2], boxes=BOXES)
        summary = found.of_set()
    for name in METRICS:
        torch.testing.assert_close(found.scores["GradCAM"][name], expected.scores["GradCAM"][name])
    assert summary == expected.of_set()


def test_bad_input():
    model, x = CNN().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="there is no metric 'average_drip': did you mean average_drop"):
        Evaluator(model, model.layer, METHODS_USED, ["average_drip"])
    with pytest.raises(TypeError, match="ShapleyCAMH does not weigh channels: counterfactual sensitivity takes"):
        Evaluator(model, model.layer, METHODS_USED, METRICS)
    with pytest.raises(ValueError, match="there are two methods named 'GradCAM': give them names of their own"):
        Evaluator(model, model.layer, ["GradCAM", GradCAM()], ["average_drop"])
    with pytest.raises(TypeError, match="methods must be names or methods"):
        Evaluator(model, model.layer, 5, ["average_drop"])
    with pytest.raises(TypeError, match='metrics must be names, such as "adcc", in a list; got 5'):
        Evaluator(model, model.layer, METHODS_USED, 5)
    with pytest.raises(TypeError, match="options must be a mapping"):
        Evaluator(model, model.layer, METHODS_USED, options=0.5)
    with pytest.raises(ValueError, match=r"no option of metrics 'treshold': did you mean threshold \(of "):
        Evaluator(model, model.layer, METHODS_USED, options={"treshold": 0.5})
    with pytest.raises(TypeError, match="a function that does not say which class it reads has no probability"):
        Evaluator(model, model.layer, METHODS_USED)(x, lambda outputs: outputs[:, 0])
    with pytest.raises(ValueError, match="give boxes or masks"):
        Evaluator(model, model.layer, METHODS_USED, ["pointing_game"])(x)
    model.classifier = nn.Linear(8, 1)
    with pytest.raises(ValueError, match=r"two or more classes; got shape \(2, 1\): for one output y, return \(0, y\)"):
        Evaluator(model, model.layer, METHODS_USED, ["complexity"])(x)
    swin = TinySwin().eval()
    with pytest.raises(ValueError, match="expected one class index, or 3, one for each sample"):
        Evaluator(swin, swin.layer, METHODS_USED, ["complexity"])(torch.randn(3, 3, 12, 16), [1, 2])


@pytest.mark.gpu
def test_on_the_gpu():
    model = CNN().double().eval()
    x = torch.randn(3, 3, 12, 16, dtype=torch.float64)
    options = {"schedule": Schedule(0.2), "fill": torch.tensor([0.1, 0.2, 0.3], dtype=x.dtype)[:, None, None]}
    methods = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAM")}
    results = []
    for device in ("cpu", "cuda"):
        evaluator = Evaluator(model.to(device), model.layer, methods, METRICS, options)
        results.append(evaluator(x.to(device), [0, 1, 2], boxes=BOXES).scores)
    for name in methods:
        for metric in METRICS:
            torch.testing.assert_close(results[1][name][metric].cpu(), results[0][name][metric], msg=metric)
