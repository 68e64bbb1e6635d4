"""Quantus classes and explain functions where samples are odd: constant, sure, wrong, turned or few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import CNN
from quantus.helpers.enums import EvaluationCategory
from quantus_calls import ALL_METRICS, QUICK, masks_for, score

import cam_extras.quantus as ours
from cam_extras.demo.classifier import LAYER
from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS
from cam_extras.probe import find_layer

pytestmark = pytest.mark.numerical


class Louder(torch.nn.Module):
    """A model whose logits are a multiple of another's."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


@pytest.mark.parametrize("cls", [cls for cls in ours.METRIC_CLASSES if METRICS[cls.metric].vector is None])
def test_sure_models_have_the_scores_of_our_own_evaluation(cls, digits):
    """In float32 a probability reaches 1, and that of another class 0, too soon."""
    model, x, y = digits
    loud = Louder(model, 8.0).eval()
    layer = f"model.{LAYER}"
    evaluator = Evaluator(loud, find_layer(loud, layer), {"m": METHODS["GradCAM"]()}, [cls.metric], QUICK)
    for target in (y, (y + 1) % 10):
        result = evaluator(torch.from_numpy(x), target, masks=torch.from_numpy(masks_for(x)[:, 0]))
        found = score(cls, loud, x, target, explain_func=ours.explain("GradCAM", layer=layer))
        np.testing.assert_allclose(found, result.scores["m"][cls.metric], rtol=1e-4, atol=1e-6)
    assert result.confidence.min() < 1e-30


def constant(value):
    def explain_func(model, inputs, targets, **kwargs):
        return np.full((len(inputs), 1, *inputs.shape[2:]), value, np.float32)

    explain_func.channel_weights = lambda model, inputs, targets, **kwargs: inputs.reshape(len(inputs), -1)
    return explain_func


@pytest.mark.parametrize("value", [0.0, 0.4])
@pytest.mark.parametrize(
    "metric", [cls for cls in ours.METRIC_CLASSES if cls not in (ours.EnergyPointingGame, ours.SaliencyMetric)]
)
def test_constant_maps_in_batches_of_any_size(metric, value, double_digits):
    model, x, y = double_digits
    explain_func = constant(value)
    found = [score(metric, model, x, y, explain_func=explain_func, batch_size=size) for size in (1, 3, 7)]
    found.append(score(metric, model, x, y, explain_func(model, x, y), explain_func=explain_func))
    for scores in found[1:]:
        assert scores == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize("metric", [ours.EnergyPointingGame, ours.SaliencyMetric])
def test_undefined_for_constant_maps(metric, digits):
    model, x, y = digits
    maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
    maps[4] = 0.5
    with pytest.raises(ValueError, match="came in sample 4"):
        score(metric, model, x, y, maps, batch_size=3)


class TestSamplesAreCountedOverTheData:
    @pytest.mark.parametrize("wrong", [99, -1])
    def test_wrong_class(self, wrong, digits):
        model, x, y = digits
        y = y.copy()
        y[4] = wrong
        explain_func = ours.explain("GradCAM", layer=LAYER)
        match = rf"class indices must lie in \[0, 10\); got {wrong} in sample 4"
        with pytest.raises(ValueError, match=match):
            ours.AverageDrop()(model, x, y, explain_func=explain_func, batch_size=3)
        for name in ("GradCAM", "FakeCAM", "RandomCAM", "KPCA_CAM", "FinerCAM", "FEM"):
            with pytest.raises(ValueError, match=match):
                ours.explain(name, layer=LAYER, batch_size=3)(model, x, y)

    def test_input(self, digits):
        model, x, y = digits
        x = x.copy()
        x[5, 0, 3, 3] = np.nan
        explain_func = ours.explain("GradCAM", layer=LAYER, batch_size=2)
        for batch_size in (1, 4, 7):
            with pytest.raises(ValueError, match="the input is NaN or infinite in sample 5"):
                ours.AverageDrop()(model, x, y, explain_func=explain_func, batch_size=batch_size)

    def test_map(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        maps[4, 0, 2, 2] = np.nan

        def known(model, inputs, targets, **kwargs):
            return np.stack([maps[next(n for n in range(7) if np.array_equal(x[n], image))] for image in inputs])

        with pytest.raises(ValueError, match="the map is NaN or infinite in sample 4"):
            ours.Complexity()(model, x, y, explain_func=known, batch_size=3)


@pytest.mark.parametrize("targets", [np.zeros(5, int), np.zeros(8, int), np.zeros((7, 1), int), [3]])
def test_not_one_target_for_each_sample(targets, digits):
    model, x, _ = digits
    with pytest.raises(ValueError, match=r"expected 7 targets, one for each sample; got shape \("):
        ours.explain("GradCAM", layer=LAYER, batch_size=2)(model, x, targets)


@ALL_METRICS
def test_turned_arrays(metric, double_digits):
    model, x, y = double_digits
    explain_func = ours.explain("GradCAM", layer=LAYER)
    maps = explain_func(model, x, y)
    expected = score(metric, model, x, y, maps, masks_for(x), explain_func=explain_func)
    masks = masks_for(x)
    found = score(metric, model, x[::-1], y[::-1], maps[::-1], masks[::-1], explain_func=explain_func)
    assert found[::-1] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(explain_func(model, x[::-1], y[::-1])[::-1], maps, rtol=0, atol=1e-6)


@ALL_METRICS
def test_channels_last_with_maps_as_explain_returns_them(metric):
    model = CNN().eval()
    x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
    y = np.array([0, 1, 2])
    explain_func = ours.explain("GradCAM", layer="layer")
    maps = explain_func(model, x, y)
    expected = score(metric, model, x, y, maps, explain_func=explain_func)
    found = score(metric, model, np.moveaxis(x, 1, -1), y, maps, masks_for(x), explain_func=explain_func)
    assert found == pytest.approx(expected, abs=1e-6)


@ALL_METRICS
def test_on_any_default_device(metric, digits):
    model, x, y = digits
    explain_func = ours.explain("GradCAM", layer=LAYER)
    expected = score(metric, model, x, y, explain_func=explain_func)
    with torch.device("meta"):
        assert score(metric, model, x, y, explain_func=explain_func) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(7, 1, 32, 32), (7, 2, 64, 64), (7, 64), (6, 64, 64)])
def test_attributions_of_another_shape(shape, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match=r"expected attributions of shape \(7, 64, 64\) or \(7, 1, 64, 64\) for"):
        ours.Complexity()(model, x, y, np.ones(shape, np.float32))


def test_attributions_that_are_no_array(digits):
    model, x, y = digits
    for metric in (ours.Complexity(), ours.Coherency()):
        with pytest.raises(TypeError, match="attributions must be a numpy array; got Tensor"):
            metric(model, x, y, explain_func=lambda model, inputs, targets, **kwargs: torch.from_numpy(inputs))
    with pytest.raises(ValueError, match="give an explain_func, not only an a_batch"):
        ours.Complexity()(model, x, y)


def test_attributions_are_not_changed_by_normalising_in_place(digits):
    model, x, y = digits
    attributions = np.abs(np.random.default_rng(0).normal(size=x.shape)).astype(np.float32)
    before = attributions.copy()

    def in_place(a):
        a /= a.max()
        return a

    ours.Complexity(normalise_func=in_place)(model, x, y, attributions)
    np.testing.assert_array_equal(attributions, before)


def test_arguments_for_the_model(digits):
    """Quantus gives them to the softmax that it adds, too."""

    class Scaled(CNN):
        def forward(self, x, *, factor):
            return super().forward(factor * x)

    model = Scaled().eval()
    plain = CNN().eval()
    plain.load_state_dict(model.state_dict())
    x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
    y = np.array([0, 1, 2])
    maps = np.random.default_rng(1).random(size=(3, 1, 12, 16)).astype(np.float32)
    found = ours.AverageDrop()(model, x, y, maps, model_predict_kwargs={"factor": 2})
    assert found == pytest.approx(ours.AverageDrop()(plain, 2 * x, y, maps), abs=1e-6)


def test_what_looks_at_boxes_is_for_images():
    for cls in ours.METRIC_CLASSES:
        kinds = {kind.value for kind in cls.data_applicability}
        localisation = cls.evaluation_category == EvaluationCategory.LOCALISATION
        assert kinds == ({"image"} if localisation else {"image", "time-series"})


@pytest.mark.parametrize(
    ("drops", "match"),
    [
        ({"a": [0.1, 0.1], "b": [0.1, float("nan")]}, "the drop of b is NaN or infinite in sample 1"),
        ({"a": [], "b": []}, r"shape \(M, N\); got \(2, 0\)"),
        ({"a": [0.1]}, "two or more methods"),
        ({}, "two or more methods"),
    ],
)
def test_win_percentage_of_bad_drops(drops, match):
    with pytest.raises(ValueError, match=match):
        ours.win_percentage(drops)


def test_win_percentage_of_tensors():
    assert ours.win_percentage({"a": torch.tensor([0.1, 0.5]), "b": torch.tensor([0.2, 0.5])}) == {"a": 0.75, "b": 0.25}
