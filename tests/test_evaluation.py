"""Methods x metrics on one batch, compared with doing everything by hand, one at a time."""

from __future__ import annotations

import pytest
import torch
from nets import CNN, TinySwin, make_setting
from state import untouched
from torch import nn

from cam_extras.evaluation import evaluate_batch
from cam_extras.maps import input_map, mask
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS, adcc, average_drop, average_gain, coherency, complexity, drop_in_deletion
from cam_extras.probe import Probe

METHODS_USED = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAMH", "FakeCAM")}


@pytest.mark.parametrize("fill", [0.0, 0.7])
@pytest.mark.parametrize("target", [None, 2, [0, 1, 2]])
@pytest.mark.parametrize("name", ["plain", "swin", "volume"])
def test_equals_a_probe_for_everything(name, target, fill):
    setting = make_setting(name)
    model, (layer,), x = setting.model, setting.layers, setting.x
    with untouched(model, x):
        result = evaluate_batch(model, layer, x, METHODS_USED, METRICS, target=target, fill=fill, **setting.options)
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
        expected = {
            "average_drop": average_drop(p, o),
            "increase_in_confidence": (o > p).double(),
            "average_gain": average_gain(p, o),
            "drop_in_deletion": drop_in_deletion(p, d),
            "coherency": coherency(maps, explain(shown)),
            "complexity": complexity(maps),
        }
        expected["adcc"] = adcc(expected["coherency"], expected["complexity"], expected["average_drop"])
        torch.testing.assert_close(result.maps[method_name], maps, rtol=0, atol=1e-6)
        assert set(result.scores[method_name]) == set(expected) == set(METRICS)
        for metric, scores in expected.items():
            torch.testing.assert_close(
                result.scores[method_name][metric].double(), scores.double(), rtol=0, atol=1e-5, msg=metric
            )


def test_number_of_forward_passes():
    """One of the batch for all methods; for each, one of x*H for confidence and map, and one of x*(1-H)."""
    model = CNN().eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    evaluate_batch(model, model.layer, torch.randn(2, 3, 12, 16), METHODS_USED, METRICS)
    assert len(calls) == 1 + 2 * len(METHODS_USED)
    calls.clear()
    evaluate_batch(model, model.layer, torch.randn(2, 3, 12, 16), METHODS_USED, ["complexity"])
    assert len(calls) == 1


def test_room_for_a_gain_does_not_vanish_in_float32():
    model = CNN().eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 30, 0, 0, 0]))
    confidence = evaluate_batch(model, model.layer, torch.randn(1, 3, 8, 8), {}, []).confidence
    assert 0 < 1 - confidence.item() < 1e-12


def test_progress_and_value_of_the_set():
    model = CNN().eval()
    done = []
    result = evaluate_batch(
        model, model.layer, torch.randn(4, 3, 8, 8), METHODS_USED, ["adcc", "average_gain"], on_progress=done.append
    )
    assert done == list(METHODS_USED)
    for name, values in result.of_set().items():
        scores = result.scores[name]
        assert set(values) == {"adcc", "average_gain", "coherency", "complexity", "average_drop"}
        means = {metric: scores[metric].double().mean() for metric in scores}
        assert values["average_gain"] == means["average_gain"].item()
        assert values["adcc"] == adcc(means["coherency"], means["complexity"], means["average_drop"]).item()


def test_bad_input():
    model, x = CNN().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="there is no metric 'average_drip': did you mean average_drop"):
        evaluate_batch(model, model.layer, x, METHODS_USED, ["average_drip"])
    model.classifier = nn.Linear(8, 1)
    with pytest.raises(ValueError, match=r"two or more classes; got shape \(2, 1\): for one output y, return \(0, y\)"):
        evaluate_batch(model, model.layer, x, METHODS_USED, ["complexity"])
    swin = TinySwin().eval()
    with pytest.raises(ValueError, match="expected one class index, or 3, one for each sample"):
        evaluate_batch(swin, swin.layer, torch.randn(3, 3, 12, 16), METHODS_USED, ["complexity"], target=[1, 2])
