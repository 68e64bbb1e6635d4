"""The front end for Quantus in detail: batches, options, precision, and functions that work in place."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import quantus
import torch
from nets import CNN, TinyViT, in_double
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from quantus.metrics.base import Metric

import cam_extras.quantus as ours
from cam_extras.methods import GradCAM
from cam_extras.metrics import Schedule, best_box_accuracy, coherency

pytestmark = pytest.mark.numerical

X = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
Y = np.array([0, 1, 2])


def test_pytorch_grad_cam_is_imported_only_for_its_methods(monkeypatch):
    monkeypatch.setitem(sys.modules, "cam_extras.pytorch_grad_cam", None)
    assert ours.explain("GradCAM", layer="layer")(CNN().eval(), X, Y).shape == (3, 1, 12, 16)
    with pytest.raises(ImportError):
        ours.explain("ScoreCAM", layer="layer")


def test_batch_size_of_pytorch_grad_cam():
    model = CNN().eval()
    sizes = []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    ours.explain("LayerCAM", layer="layer", batch_size=2)(model, X, Y)
    assert sizes == [2, 2, 1]  # the first batch once more, to see how the layer's output is arranged


def test_transformers_with_pytorch_grad_cam():
    model = TinyViT().eval()
    maps = ours.explain("LayerCAM", layer="blocks.1.norm1", reshape_transform=TinyViT.reshape)(model, X, Y)
    cam = upstream.LayerCAM(model, [model.blocks[1].norm1], reshape_transform=TinyViT.reshape)
    expected = cam(torch.from_numpy(X), [ClassifierOutputTarget(c) for c in Y])
    np.testing.assert_allclose(maps[:, 0], expected, rtol=0, atol=1e-5)


def test_lowest_of_equally_good_thresholds():
    hits = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])
    assert best_box_accuracy(hits).tolist() == [1, 0]


def test_models_in_double_precision():
    model = CNN().eval()
    explain_func = ours.explain("GradCAM", layer="layer")
    maps = explain_func(model, X, Y)
    double = explain_func(model.double(), X, Y)
    assert double.dtype == np.float32
    np.testing.assert_allclose(double, maps, rtol=0, atol=1e-5)


class MeansOfChannels(torch.nn.Module):
    """No parameters; class k's score is the mean of channel k."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Identity()

    def forward(self, x):
        return self.layer(x).square().flatten(2).mean(dim=2)


def test_models_without_parameters():
    maps = ours.explain("HiResCAM", layer="layer")(MeansOfChannels().eval(), X, Y)
    squares = X[range(3), Y].astype(np.float64) ** 2
    low, high = (f(squares, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    np.testing.assert_allclose(maps[:, 0], (squares - low) / (high - low), rtol=0, atol=1e-5)


def test_device_of_the_call():
    model = MeansOfChannels().eval()
    model.elsewhere = torch.nn.Parameter(torch.empty(1, device="meta"))
    assert ours.explain("GradCAM", layer="layer")(model, X, Y, device="cpu").shape == (3, 1, 12, 16)


def test_second_derivatives_only_where_they_are_needed():
    class Curious(GradCAM):
        def __call__(self, probe):
            with pytest.raises(ValueError, match="second_order=True"):
                probe.hessian_vector_product(probe.activations)
            return super().__call__(probe)

    ours.explain(Curious, layer="layer")(CNN().eval(), X, Y)


def test_tiny_attributions_in_double_precision():
    maps = np.random.default_rng(1).random((3, 1, 12, 16))
    expected = ours.Complexity()(CNN().eval(), X, Y, maps)
    assert ours.Complexity()(CNN().eval(), X, Y, 1e-60 * maps) == pytest.approx(expected)


def test_details_are_those_of_the_last_call():
    model, maps = CNN().eval(), np.random.default_rng(1).random((3, 1, 12, 16))
    metric = ours.InsertionDeletion(schedule=Schedule(0.5))
    assert metric.details == {}
    metric(model, X, Y, maps)
    metric(model, X[:2], Y[:2], maps[:2], batch_size=1)
    assert [metric.details[f"{name}_curve"].scores.shape for name in ("insertion", "deletion")] == [(2, 3)] * 2
    metric.normalise = False
    bad = maps.copy()
    bad[2] += 2
    with pytest.raises(ValueError, match=r"in sample 2$"):
        metric(model, X, Y, bad, batch_size=1)
    assert metric.details == {}
    metric(model, X, Y, maps)
    assert metric.details["insertion_curve"].scores.shape == (3, 3)


def test_bad_samples_of_a_last_batch_that_is_smaller():
    maps = np.random.default_rng(1).random((3, 1, 12, 16))
    maps[2] += 2
    with pytest.raises(ValueError, match=r"in sample 2$"):
        ours.AverageDrop(normalise=False)(CNN().eval(), X, Y, maps, batch_size=2)


def test_one_fill_of_as_many_dimensions_as_the_inputs():
    model, maps = CNN().eval(), np.random.default_rng(1).random((3, 1, 12, 16))
    fill = np.float32([1, -1, 2]).reshape(1, 3, 1, 1)
    assert ours.AverageDrop(fill=fill)(model, X, Y, maps) == ours.AverageDrop(fill=fill[0])(model, X, Y, maps)


def test_objects_are_looked_at_only_where_they_count():
    """`quantus.evaluate` gives them to all metrics."""
    model, maps = CNN().eval(), np.random.default_rng(1).random((3, 1, 12, 16))
    given = {"s_batch": np.ones((3, 5)), "custom_batch": np.array(["a", "b", "c"])}
    assert ours.AverageDrop()(model, X, Y, maps, **given) == ours.AverageDrop()(model, X, Y, maps)


class Squares:
    """An explain function that works in place on what it is given."""

    def __call__(self, model, inputs, targets, *, factor=1, **kwargs):
        np.multiply(inputs, factor * inputs, out=inputs)
        return inputs.mean(axis=1, keepdims=True)

    def channel_weights(self, model, inputs, targets, *, factor=1, **kwargs):
        np.multiply(inputs, inputs, out=inputs)
        return inputs.mean(axis=(2, 3)) + factor


def test_explain_functions_that_work_in_place():
    model, x = CNN().eval(), X.copy()
    maps = Squares()(model, X.copy(), Y)
    scores = ours.ADCC()(model, x, Y, maps, explain_func=Squares())
    assert scores == ours.ADCC()(
        model,
        X,
        Y,
        maps,
        explain_func=lambda model, inputs, targets, **kwargs: Squares()(model, inputs.copy(), targets),
    )
    metric = ours.CounterfactualSensitivity()
    metric(model, x, Y, maps, explain_func=Squares(), explain_func_kwargs={"factor": 5})
    np.testing.assert_allclose(metric.details["weights"], (X**2).mean(axis=(2, 3)) + 5, rtol=1e-5)
    np.testing.assert_array_equal(x, X)


def test_normalise_func_that_works_in_place():
    maps = np.random.default_rng(1).random((3, 1, 12, 16))
    before = maps.copy()
    ours.Complexity(normalise_func=lambda a: np.multiply(a, 0.5, out=a))(CNN().eval(), X, Y, maps)
    np.testing.assert_array_equal(maps, before)


def test_absolute_values_without_normalisation_of_masked_inputs():
    def signed(model, inputs, targets, **kwargs):
        return np.sin(inputs[:, :1])

    maps = np.abs(np.sin(X[:, 0]))
    masked = np.abs(np.sin(X[:, 0] * maps))
    metric = ours.Coherency(abs=True, normalise=False, normalise_func=np.square)
    scores = metric(CNN().eval(), X, Y, explain_func=signed)
    expected = coherency(torch.from_numpy(maps), torch.from_numpy(masked))
    assert scores == pytest.approx(expected.tolist(), abs=1e-6)


def test_names_are_not_those_of_quantus_own_metrics():
    classes = [cls for cls in vars(quantus).values() if isinstance(cls, type) and issubclass(cls, Metric)]
    assert not {cls.name for cls in classes if cls is not Metric} & {cls.name for cls in ours.METRIC_CLASSES}
    assert quantus.AVAILABLE_METRICS["Complexity"]["Complexity"] is quantus.Complexity


def test_a_class_of_another_is_not_replaced():
    """Neither one of a coming version of Quantus nor one of the user's."""
    listed = quantus.AVAILABLE_METRICS[ours.PixelF1.evaluation_category.value]
    before = {name: dict(classes) for name, classes in quantus.AVAILABLE_METRICS.items()}

    class Another(Metric):
        pass

    try:
        listed[ours.PixelF1.name] = Another
        with pytest.raises(ValueError, match=r"has 'Pixel F1' already, test_quantus_details.Another: take that out"):
            ours.register()
        ours.unregister()
        assert listed[ours.PixelF1.name] is Another
        with pytest.raises(ValueError, match="already"):
            ours.register()
        assert ours.AverageDrop.name not in quantus.AVAILABLE_METRICS["Faithfulness"]  # all or none
    finally:
        listed.pop(ours.PixelF1.name, None)
        ours.register()
    assert {name: dict(classes) for name, classes in quantus.AVAILABLE_METRICS.items()} == before


def test_names_differ_within_a_category():
    names = [(cls.evaluation_category, cls.name) for cls in ours.METRIC_CLASSES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", [ours.Insertion, ours.Deletion])
def test_curve_of_one_kind(metric):
    made = metric(schedule=Schedule(0.25))
    scores = made(CNN().eval(), X, Y, np.random.default_rng(1).random((3, 1, 12, 16)))
    ((name, curve),) = made.details.items()
    assert name == f"{made.metric}_curve"
    assert scores == pytest.approx(torch.trapezoid(curve.scores, curve.fractions).tolist(), abs=1e-6)


def test_masks_are_where_they_are_not_0():
    model, maps = CNN().eval(), np.random.default_rng(1).random((3, 1, 12, 16))
    masks = np.zeros((3, 12, 16))
    masks[:, 2:6, 3:9] = -1
    assert ours.PixelF1()(model, X, Y, maps, masks) == ours.PixelF1()(model, X, Y, maps, masks != 0)
    with pytest.raises(ValueError, match=r"expected masks s_batch of shape \(3, 1, 12, 16\) .* got \(3, 3, 12, 16\)"):
        ours.PixelF1()(model, X, Y, maps, np.ones(X.shape))


def test_components_of_box_accuracy():
    maps = torch.zeros(3, 12, 16)
    maps[:, :6, :6] = 1
    maps[:, 8:11, 9:14] = 1
    metric = ours.BoxAccuracy(components="all", thresholds=[0.5], overlaps=[0.9])
    boxes = [np.array([[9, 8, 14, 11]])] * 3
    assert metric(CNN().eval(), X, Y, maps.numpy(), custom_batch=boxes) == [1, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_value_of_a_set_of_several_batches(batch_size):
    model, maps = in_double(CNN().eval()), np.random.default_rng(1).random((3, 1, 12, 16))
    metric = ours.HCI(return_aggregate=True)
    expected = metric(model, X, Y, maps)
    assert metric(model, X, Y, maps, batch_size=batch_size) == pytest.approx(expected)


def test_wins_by_very_little():
    assert ours.win_percentage({"a": [0.1, 0.2], "b": [0.1 + 1e-12, 0.2]}) == {"a": 0.75, "b": 0.25}


def test_unregistering_twice():
    try:
        ours.unregister()
        ours.unregister()
    finally:
        ours.register()


def test_confidences_next_to_1_differ():
    """In float32 both of these are 1."""
    x = np.zeros((1, 3, 12, 16), np.float32)
    x[:, 0, :6], x[:, 0, 6:] = 7, -4
    maps = (x[:, :1] > 0).astype(np.float32)
    (drop,) = ours.AverageDrop()(MeansOfChannels().eval(), x, Y[:1], maps)
    assert drop == pytest.approx(2 * (np.exp(-49 / 2) - np.exp(-65 / 2)), rel=1e-4, abs=0)
