"""The front end for Quantus: metrics that do not depend on the batch size, methods that follow the model."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import quantus
import torch
from hosts import ANYWHERE, SEVERAL_PASSES
from nets import CNN, TinyViT
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from quantus_calls import ALL_METRICS, LISTED_METRICS, QUICK, box_pixels, make, masks_for, score
from state import untouched

import cam_extras.pytorch_grad_cam as pgc
import cam_extras.quantus as ours
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS
from cam_extras.metrics import (
    METRICS,
    Schedule,
    box_accuracy,
    counterfactual,
    max_box_accuracy,
    options_of,
)
from cam_extras.probe import Probe, find_layer
from cam_extras.utilities import UTILITIES

pytestmark = pytest.mark.numerical

ALL_METHODS = pytest.mark.parametrize("name", ANYWHERE)


class TestMetrics:
    def test_every_metric_has_a_class(self):
        assert {cls.metric for cls in ours.METRIC_CLASSES} == {
            name for name, metric in METRICS.items() if not metric.of_methods
        }
        for cls in ours.METRIC_CLASSES:
            higher = cls.metric == "box_accuracy" or METRICS[cls.metric].higher_is_better
            assert (cls.score_direction.value == "higher") == higher

    @ALL_METRICS
    def test_batch_size_does_not_change_a_score(self, metric, double_digits):
        model, x, y = double_digits
        results = []
        for batch_size in (1, 3, len(x)):
            for a_batch in (None, ours.explain("ShapleyCAM", layer=LAYER)(model, x, y)):
                scores = score(
                    metric,
                    model,
                    x,
                    y,
                    a_batch,
                    explain_func=ours.explain("ShapleyCAM", layer=LAYER),
                    batch_size=batch_size,
                )
                assert len(scores) == len(x)
                results.append(scores)
        for scores in results[1:]:
            np.testing.assert_allclose(scores, results[0], rtol=0, atol=1e-5)

    @LISTED_METRICS
    def test_equals_our_own_evaluation(self, metric, digits):
        model, x, y = digits
        masks = torch.from_numpy(masks_for(x)[:, 0])
        evaluator = Evaluator(
            model,
            find_layer(model, LAYER),
            {"m": METHODS["GradCAM"]()},
            [metric.metric],
            QUICK,
        )
        evaluation = evaluator(torch.from_numpy(x), y, masks=masks)
        explain_func = ours.explain("GradCAM", layer=LAYER)
        scores = score(metric, model, x, y, explain_func=explain_func)
        np.testing.assert_allclose(scores, evaluation.scores["m"][metric.metric], rtol=0, atol=1e-5)
        (of_set,) = score(metric, model, x, y, explain_func=explain_func, init={"return_aggregate": True})
        assert of_set == pytest.approx(evaluation.of_set()["m"][metric.metric], abs=1e-5)

    def test_adcc_of_means_and_per_sample(self, digits):
        model, x, y = digits
        explain_func = ours.explain("GradCAM", layer=LAYER)
        per_sample = ours.ADCC()(model, x, y, explain_func=explain_func)
        (of_means,) = ours.ADCC(return_aggregate=True)(model, x, y, explain_func=explain_func, batch_size=2)
        (mean,) = ours.ADCC(return_aggregate=True, aggregate_func=np.mean)(model, x, y, explain_func=explain_func)
        assert mean == pytest.approx(np.mean(per_sample))
        assert abs(of_means - mean) > 1e-3

    @ALL_METRICS
    def test_forms_of_attributions(self, metric, digits):
        model, x, y = digits
        explain_func = ours.explain("GradCAM", layer=LAYER)
        maps = explain_func(model, x, y)
        expected = score(metric, model, x, y, maps, explain_func=explain_func)
        assert score(metric, model, x, y, maps[:, 0], explain_func=explain_func) == pytest.approx(expected)
        assert score(metric, model, x, y, 5 * maps - 1, explain_func=explain_func) == pytest.approx(expected, abs=1e-5)

    @ALL_METRICS
    def test_three_channels_and_attributions_for_each(self, metric):
        model = CNN().eval()
        x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
        y = np.array([0, 1, 2])
        explain_func = ours.explain("GradCAM", layer="layer")
        maps = explain_func(model, x, y)
        expected = score(metric, model, x, y, maps, explain_func=explain_func)
        broadcast = np.repeat(maps, 3, axis=1)
        assert score(metric, model, x, y, broadcast, explain_func=explain_func) == pytest.approx(expected, abs=1e-6)

    def test_one_dimensional_signals(self):
        model = CNN(dims=1).eval()
        x = np.random.default_rng(0).normal(size=(4, 3, 32)).astype(np.float32)
        explain_func = ours.explain("ShapleyCAM", layer="layer")
        scores = ours.ADCC()(model, x, np.array([0, 1, 2, 3]), explain_func=explain_func)
        assert len(scores) == 4
        assert all(0 <= score <= 1 for score in scores)

    @ALL_METRICS
    def test_model_that_returns_probabilities(self, metric, digits):
        model, x, y = digits
        explain_func = ours.explain("GradCAM", layer=LAYER)
        maps = explain_func(model, x, y)

        class Probabilities(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                return self.model(x).softmax(dim=1)

        def of_logits(model, inputs, targets, **kwargs):
            return explain_func(model.model, inputs, targets)

        of_logits.channel_weights = lambda model, **given: explain_func.channel_weights(model.model, **given)
        expected = score(metric, model, x, y, maps, explain_func=explain_func)
        found = score(metric, Probabilities().eval(), x, y, maps, explain_func=of_logits, softmax=False)
        assert found == pytest.approx(expected, abs=1e-5)

    def test_logits_taken_for_probabilities(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        with pytest.raises(ValueError, match=r"the confidence p must lie in \[0, 1\]"):
            ours.AverageDrop()(model, x, y, maps, softmax=False)

    def test_fill(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        scores = ours.AverageDrop(fill=2.0)(model, x, y, maps)
        expected = ours.AverageDrop(fill=np.full((1, 64, 64), 2.0))(model, x, y, maps)
        assert scores == pytest.approx(expected)
        assert np.abs(np.subtract(scores, ours.AverageDrop()(model, x, y, maps))).max() > 0.01

    def test_constant_maps_have_no_coherency(self, digits):
        model, x, y = digits

        def constant_but_for_the_first(model, inputs, targets):
            maps = np.zeros((len(inputs), 1, 64, 64), np.float32)
            maps[0, 0, :32] = 1
            return maps

        for batch_size in (3, 7):
            scores = ours.Coherency()(
                model,
                x,
                y,
                constant_but_for_the_first(None, x, y),
                explain_func=constant_but_for_the_first,
                batch_size=batch_size,
            )
            assert scores[0] == pytest.approx(1)
            assert scores[1:] == [0] * 6

    def test_in_evaluate_with_quantus_own_metrics(self, digits):
        model, x, y = digits
        metrics = {cls.name: make(cls) for cls in ours.METRIC_CLASSES if "weights" not in cls.sources()}
        metrics["Sparseness"] = quantus.Sparseness(disable_warnings=True)
        methods = {name: ours.explain(name, layer=LAYER, **SEVERAL_PASSES.get(name, {})) for name in ANYWHERE}
        results = quantus.evaluate(
            metrics, methods, model, x, y, s_batch=masks_for(x), explain_func_kwargs={}, agg_func=np.mean
        )
        assert set(results) == set(ANYWHERE)
        for row in results.values():
            assert set(row) == set(metrics)
            for cls in ours.METRIC_CLASSES:
                if cls.metric in METRICS and cls.name in row:
                    low, high = METRICS[cls.metric].range
                    assert low <= row[cls.name] <= high
        assert results["FakeCAM"]["Coherency"] == pytest.approx(1, abs=1e-5)  # sums over 4096 float32 pixels
        assert results["FakeCAM"]["ADCC"] < 0.01 < results["ShapleyCAM"]["ADCC"]

    def test_set_level_numbers(self, digits):
        """What quantus.evaluate gives per sample makes the numbers of the set that our own evaluation has."""
        model, x, y = digits
        names = ("average_drop", "thresholded_drop", "thresholded_increase", "hci", "coherency", "complexity", "adcc")
        metrics = {cls.metric: cls() for cls in ours.METRIC_CLASSES if cls.metric in names}
        methods = {name: ours.explain(name, layer=LAYER) for name in ("GradCAM", "ShapleyCAM", "HiResCAM")}
        results = quantus.evaluate(metrics, methods, model, x, y, explain_func_kwargs={})
        evaluation = Evaluator(model, find_layer(model, LAYER), {name: METHODS[name]() for name in methods})(
            torch.from_numpy(x), y
        )
        for method, expected in evaluation.of_set().items():
            for name in ("hci", "adcc"):
                assert METRICS[name].of_set(results[method]) == pytest.approx(expected[name], abs=1e-5)
                explain_func = methods[method]
                (value,) = score(
                    type(metrics[name]), model, x, y, explain_func=explain_func, init={"return_aggregate": True}
                )
                assert value == pytest.approx(expected[name], abs=1e-5)
        wins = ours.win_percentage({method: scores["average_drop"] for method, scores in results.items()})
        assert wins == pytest.approx(evaluation.win_percentage())
        assert sum(wins.values()) == pytest.approx(1)

    def test_win_percentage_of_other_samples(self):
        with pytest.raises(ValueError, match=r"of the same samples for every method; got \{'a': 2, 'b': 1\}"):
            ours.win_percentage({"a": [0.1, 0.2], "b": [0.1]})

    def test_curves_are_kept(self, digits):
        model, x, y = digits
        metric = ours.InsertionDeletion(schedule=Schedule(0.2, "zeros"))
        scores = metric(model, x, y, explain_func=ours.explain("GradCAM", layer=LAYER), batch_size=3)
        inserted, deleted = (metric.details[f"{name}_curve"] for name in ("insertion", "deletion"))
        assert inserted.scores.shape == deleted.scores.shape == (7, 6)
        areas = torch.trapezoid(inserted.scores, inserted.fractions) - torch.trapezoid(
            deleted.scores, deleted.fractions
        )
        assert scores == pytest.approx(areas.tolist(), abs=1e-6)
        torch.testing.assert_close(inserted.scores[:, -1], deleted.scores[:, 0])  # the image itself

    @pytest.mark.parametrize("name", ["GradCAM", "MIGradCAM", "OptiCAM", "RandomCAM"])
    def test_channel_weights_are_kept(self, name, double_digits):
        model, x, y = double_digits
        explain_func = ours.explain(name, layer=LAYER, **SEVERAL_PASSES.get(name, {}))
        metric = ours.CounterfactualSensitivity(delta=0.2, seed=5)
        scores = metric(model, x, y, explain_func=explain_func, batch_size=3)
        before, after = metric.details["weights"], metric.details["counterfactual_weights"]
        assert before.shape == after.shape
        change = (before - after).square().sum(dim=1).sqrt() / before.square().sum(dim=1).sqrt()
        assert scores == pytest.approx(change.tolist(), abs=1e-5)
        probe = Probe(model, find_layer(model, LAYER), torch.from_numpy(x), target=y)
        method = METHODS[name](**SEVERAL_PASSES.get(name, {}))
        torch.testing.assert_close(before, method.channel_weights(probe).float(), rtol=1e-5, atol=1e-7)
        changed = probe.at(counterfactual(probe.x, delta=0.2, seed=5))
        torch.testing.assert_close(after, method.channel_weights(changed).float(), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(
        ("explain_func", "match"),
        [
            (
                lambda model, inputs, targets, **kwargs: inputs,
                "which this explain_func does not have: give one made by",
            ),
            (ours.explain("HiResCAM", layer=LAYER), "HiResCAM does not weigh channels"),
            (ours.explain(upstream.FEM, layer=LAYER), "pytorch-grad-cam's FEM does not tell its channel weights"),
        ],
    )
    def test_explain_functions_without_channel_weights(self, explain_func, match, digits):
        with pytest.raises(TypeError, match=match):
            ours.CounterfactualSensitivity()(*digits, explain_func=explain_func)

    def test_attributions_alone_have_no_channel_weights(self, digits):
        model, x, y = digits
        with pytest.raises(ValueError, match="give an explain_func, not only an a_batch"):
            ours.CounterfactualSensitivity()(model, x, y, x)

    @pytest.mark.parametrize("metric", [ours.LocalisationError, ours.OfficialMetric, ours.BoxAccuracy, ours.PixelF1])
    def test_boxes(self, metric, digits):
        """The boxes of an image may overlap, which masks cannot tell."""
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        boxes = [np.array([[5, 5, 30, 30], [20, 20, 60, 50]][: 1 + n % 2]) for n in range(len(x))]
        scores = metric()(model, x, y, maps, custom_batch=boxes, batch_size=3)
        tensors = [torch.from_numpy(rows) for rows in boxes]
        if metric is ours.BoxAccuracy:
            expected = [max_box_accuracy(box_accuracy(torch.from_numpy(maps[:, 0]), tensors))]
            scores = [np.mean(scores)]
        else:
            evaluator = Evaluator(model, find_layer(model, LAYER), {"m": METHODS["GradCAM"]()}, [metric.metric])
            expected = evaluator(torch.from_numpy(x), y, boxes=tensors).scores["m"][metric.metric]
        assert scores == pytest.approx([float(value) for value in expected], abs=1e-5)
        masks = np.stack([box_pixels(rows, 64).any(axis=0) for rows in boxes])
        if metric is not ours.PixelF1:
            assert metric()(model, x, y, maps, masks) != pytest.approx(scores, abs=1e-3)

    def test_box_accuracy_of_the_set(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        boxes = [torch.tensor([[10, 10, 40, 40]])] * 7
        given = {"thresholds": [0.1, 0.3, 0.5], "overlaps": [0.2, 0.4]}
        metric = ours.BoxAccuracy(return_aggregate=True, **given)
        (of_set,) = metric(model, x, y, maps, custom_batch=[rows.numpy() for rows in boxes], batch_size=2)
        hits = box_accuracy(torch.from_numpy(maps[:, 0]), boxes, **given)
        assert torch.equal(metric.details["hits"], hits)
        assert of_set == pytest.approx(max_box_accuracy(hits).item())
        per_sample = ours.BoxAccuracy(**given)(model, x, y, maps, custom_batch=[rows.numpy() for rows in boxes])
        assert np.mean(per_sample) == pytest.approx(of_set)
        assert len(set(per_sample)) > 1

    @LISTED_METRICS
    def test_options(self, metric, digits):
        assert metric.option_names() == options_of(metric.metric)
        with pytest.raises(ValueError, match="Unexpected keyword arguments"):
            metric(**dict.fromkeys(set().union(*map(options_of, METRICS)) - set(metric.option_names()), 1))

    @pytest.mark.parametrize("metric", [ours.ThresholdedDrop, ours.HCI])
    def test_threshold(self, metric, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        low, high = (metric(threshold=threshold)(model, x, y, maps) for threshold in (0.3, 0.9))
        assert low != pytest.approx(high)
        with pytest.raises(ValueError, match=r"the threshold must lie in \[0, 1\]"):
            metric(threshold=1.5)

    @pytest.mark.parametrize("metric", [cls for cls in ours.METRIC_CLASSES if "object" in cls.sources()])
    def test_no_object(self, metric, digits):
        model, x, y = digits
        with pytest.raises(
            ValueError, match=r"give its masks as s_batch, of shape \(N, 1, H, W\), or its boxes as cust"
        ):
            metric()(model, x, y, x)
        with pytest.raises(ValueError, match=r"s_batch of shape \(7, 1, 64, 64\) .* got \(7, 1, 32, 32\)"):
            metric()(model, x, y, x, np.ones((7, 1, 32, 32), bool))
        masks = masks_for(x)
        masks[5] = False
        with pytest.raises(ValueError, match="in sample 5"):
            metric()(model, x, y, x, masks, batch_size=2)

    def test_are_listed(self):
        try:
            ours.unregister()
            without = {c: dict(m) for c, m in quantus.AVAILABLE_METRICS.items()}
            assert not any(issubclass(m, ours.MapMetric) for c in without.values() for m in c.values())
            ours.register()
            for cls in ours.METRIC_CLASSES:
                assert quantus.AVAILABLE_METRICS[cls.evaluation_category.value][cls.name] is cls
                assert cls.name in quantus.available_metrics()[cls.evaluation_category.value]
            ours.unregister()
            assert {c: dict(m) for c, m in quantus.AVAILABLE_METRICS.items()} == without
        finally:
            ours.register()

    @ALL_METRICS
    def test_look_like_quantus_metrics(self, metric, capsys):
        assert issubclass(metric, quantus.metrics.base.Metric)
        assert metric.__doc__
        made = metric(disable_warnings=True, display_progressbar=False)
        assert made.get_params["normalise"] is True
        made.interpret_scores()
        assert "score_direction" in capsys.readouterr().out
        with pytest.raises(ValueError, match="momentum"):
            metric(momentum=1)

    def test_aggregate_is_that_of_the_last_call(self, digits):
        model, x, y = digits
        explain_func = ours.explain("GradCAM", layer=LAYER)
        metric = ours.ADCC(return_aggregate=True)
        first = metric(model, x, y, explain_func=explain_func)
        assert metric(model, x[:3], y[:3], explain_func=explain_func) != pytest.approx(first, abs=1e-4)
        assert metric(model, x, y, explain_func=explain_func) == pytest.approx(first, abs=1e-6)
        assert copy.deepcopy(metric)(model, x, y, explain_func=explain_func) == pytest.approx(first, abs=1e-6)

    def test_normalisation(self, digits):
        """Complexity is the mean of what comes out of it."""
        model, x, y = digits
        signed = np.random.default_rng(0).normal(size=(7, 3, 64, 64)).astype(np.float32)

        def score(attributions, **options):
            return ours.Complexity(**options)(model, x.repeat(3, axis=1), y, attributions)

        def min_max(maps):
            low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
            return ((maps - low) / (high - low)).mean(axis=(1, 2))

        np.testing.assert_allclose(score(signed), min_max(signed.mean(axis=1)), rtol=1e-5)
        np.testing.assert_allclose(score(signed, abs=True), min_max(np.abs(signed).mean(axis=1)), rtol=1e-5)
        integers = (100 * signed).astype(np.int64)
        np.testing.assert_allclose(score(integers), min_max(integers.mean(axis=1)), rtol=1e-5)
        unit = np.abs(signed) / np.abs(signed).max()
        np.testing.assert_allclose(score(unit, normalise=False), unit.mean(axis=(1, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(
            score(unit - 1, normalise=False, abs=True), 1 - unit.mean(axis=(1, 2, 3)), rtol=0, atol=1e-6
        )
        halved = score(unit, normalise_func=lambda a, factor: factor * a, normalise_func_kwargs={"factor": 0.5})
        np.testing.assert_allclose(halved, unit.mean(axis=(1, 2, 3)) / 2, rtol=1e-5)

    @pytest.mark.parametrize("channel_first", [None, False])
    @ALL_METRICS
    def test_channels_last(self, metric, channel_first):
        model = CNN().eval()
        x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
        y = np.array([0, 1, 2])
        explain_func = ours.explain("GradCAM", layer="layer")
        maps = explain_func(model, x, y)
        expected = score(metric, model, x, y, maps, explain_func=explain_func)
        last, masks = np.moveaxis(x, 1, -1), masks_for(x)
        maps_last, masks_last = np.moveaxis(maps, 1, -1), np.moveaxis(masks, 1, -1)
        for attributions, s_batch in (
            (None, masks),
            (maps[:, 0], masks[:, 0]),
            (maps_last, masks_last),
            (maps_last.repeat(3, axis=-1), 2.5 * masks),
        ):
            scores = score(
                metric, model, last, y, attributions, s_batch, channel_first=channel_first, explain_func=explain_func
            )
            assert scores == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        "metric",
        [cls for cls in ours.METRIC_CLASSES if "weights" not in cls.sources()],  # 0.1 more is not 0.1 more of 2x
        ids=lambda cls: cls.__name__,
    )
    def test_arguments_for_model_and_explain_func_reach_them(self, metric):
        class Scaled(CNN):
            def __init__(self):
                super().__init__()
                self.softmax = torch.nn.Softmax(dim=1)  # one that Quantus adds would not take the argument

            def forward(self, x, *, factor):
                return self.softmax(super().forward(factor * x))

        def stripes(model, inputs, targets, *, width, **kwargs):
            assert kwargs in ({}, {"device": "cpu"})
            maps = np.zeros((len(inputs), *inputs.shape[2:]), np.float32)
            maps[:, :, : 2 * width : 2] = 1
            return maps

        model = Scaled().eval()
        x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
        y = np.array([0, 1, 2])
        plain = CNN().eval()
        plain.load_state_dict(model.state_dict())
        expected = score(
            metric, plain, 2 * x, y, stripes(None, x, y, width=3), explain_func=lambda **k: stripes(width=3, **k)
        )
        given = {"width": 3}
        scores = score(
            metric,
            model,
            x,
            y,
            explain_func=stripes,
            explain_func_kwargs=given,
            model_predict_kwargs={"factor": 2},
            device="cpu",
        )
        assert scores == pytest.approx(expected, abs=1e-6)
        assert given == {"width": 3}

    def test_batches_and_progress(self, digits, capsys):
        model, x, y = digits
        sizes = []
        handle = model.register_forward_hook(lambda m, a, out: sizes.append(len(out)))
        maps = ours.explain("GradCAM", layer=LAYER, batch_size=4)(model, x, y)
        assert sizes == [4, 3]
        sizes.clear()
        ours.AverageDrop(display_progressbar=True)(model, x, y, maps, batch_size=3)
        handle.remove()
        assert sizes == [3, 3, 3, 3, 1, 1]
        assert "7" in capsys.readouterr().err

    @ALL_METRICS
    def test_inputs_of_other_types_are_not_changed(self, metric):
        class InPlace(CNN):
            def forward(self, x):
                return super().forward(x.sub_(1))

        model = InPlace().eval()
        x = np.random.default_rng(0).integers(0, 9, size=(3, 3, 12, 16))
        y = np.array([0, 1, 2])
        explain_func = ours.explain("GradCAM", layer="layer")
        expected = score(metric, model, x.astype(np.float32), y, explain_func=explain_func)
        for same in (x, x.astype(np.uint8), x.astype(np.float64), x.astype(np.float32)[:, :, ::-1][:, :, ::-1]):
            before = same.copy()
            assert score(metric, model, same, y, explain_func=explain_func) == pytest.approx(expected, abs=1e-6)
            np.testing.assert_array_equal(same, before)

    @pytest.mark.parametrize("batch_size", [1, 3, 7])
    def test_bad_samples_are_named_by_their_place_in_the_data(self, digits, batch_size):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        maps[4] += 2
        with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got .* in sample 4$"):
            ours.AverageDrop(normalise=False)(model, x, y, maps, batch_size=batch_size)
        wrong = y.copy()
        wrong[5] = 10
        with pytest.raises(ValueError, match=r"class indices must lie in \[0, 10\); got 10 in sample 5$"):
            ours.AverageDrop()(model, x, wrong, maps, batch_size=batch_size)

    def test_model_that_ends_in_a_softmax_module(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        expected = ours.AverageDrop()(model, x, y, maps)
        ending = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
        assert ours.AverageDrop()(ending, x, y, maps) == pytest.approx(expected, abs=1e-6)

    def test_bad_input(self, digits):
        model, x, y = digits
        maps = ours.explain("GradCAM", layer=LAYER)(model, x, y)
        bad = maps.copy()
        bad[2, 0, 5, 5] = np.nan
        with pytest.raises(ValueError, match="the map is NaN or infinite in sample 2"):
            ours.Complexity()(model, x, y, bad)
        with pytest.raises(ValueError, match="fill must be the same for every sample"):
            ours.AverageDrop(fill=np.zeros((7, 1, 1, 1)))(model, x, y, maps)
        single = torch.nn.Sequential(model, torch.nn.Linear(10, 1)).eval()
        with pytest.raises(ValueError, match=r"scores \(N, C\) of two or more classes; got shape \(7, 1\)"):
            ours.AverageDrop()(single, x, np.zeros(7, int), maps)
        with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got"):
            ours.Complexity(normalise=False)(model, x, y, 2 * maps)
        with pytest.raises(ValueError, match=r"class indices must lie in \[0, 10\)"):
            ours.AverageDrop()(model, x, y + 5, maps)
        with pytest.raises(ValueError, match="give an explain_func, not only an a_batch"):
            ours.Coherency()(model, x, y, maps)


class TestExplain:
    @ALL_METHODS
    def test_equals_the_pytorch_grad_cam_host(self, name, digits):
        model, x, y = digits
        maps = ours.explain(name, layer=LAYER)(model, x, y)
        assert maps.shape == (7, 1, 64, 64)
        assert maps.dtype == np.float32
        method = METHODS[name]()
        utility = getattr(method, "utility", "logit")
        cam = getattr(pgc, name)(model, [find_layer(model, LAYER)])
        expected = cam(torch.from_numpy(x), [UTILITIES[utility](int(c)) for c in y])
        np.testing.assert_allclose(maps[:, 0], expected, rtol=0, atol=1e-5)

    @ALL_METHODS
    def test_leaves_the_model_as_found_and_can_be_pickled(self, name, double_digits):
        model, x, y = double_digits
        explainer = ours.explain(name, layer=LAYER, batch_size=3, **SEVERAL_PASSES.get(name, {}))
        with untouched(model):
            maps = explainer(model, x, y)
        at_once = ours.explain(name, layer=LAYER, **SEVERAL_PASSES.get(name, {}))(model, x, y)
        np.testing.assert_allclose(maps, at_once, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(explainer))(model, x, y), maps)

    def test_layer_is_found_on_the_model_of_the_call(self, digits):
        model, x, y = digits
        explainer = ours.explain("GradCAM", layer=LAYER)
        other = load_classifier()
        for parameter in other.features.block4.parameters():
            torch.nn.init.normal_(parameter)
        assert np.abs(explainer(model, x, y) - explainer(other, x, y)).max() > 0.1

    def test_arguments_meant_for_others_are_ignored(self, digits):
        model, x, y = digits
        explainer = ours.explain("GradCAM", layer=LAYER)
        np.testing.assert_array_equal(explainer(model, x, y, method="mine", xai_lib="captum"), explainer(model, x, y))

    def test_hyper_parameters(self, digits):
        model, x, y = digits
        logit, rest = (ours.explain("GradCAM", layer=LAYER, utility=score)(model, x, y) for score in ("logit", "rest"))
        assert np.abs(logit - rest).max() > 1e-3

    def test_transformer(self):
        model = TinyViT().eval()
        x = np.random.default_rng(0).normal(size=(2, 3, 12, 16))
        explainer = ours.explain("ShapleyCAM", layer="blocks.1.norm1", reshape_transform=TinyViT.reshape)
        assert explainer(model, x, np.array([0, 1])).shape == (2, 1, 12, 16)

    def test_bad_input(self, digits):
        model, x, y = digits
        with pytest.raises(ValueError, match="there is no method 'ShapelyCAM': did you mean ShapleyCAM"):
            ours.explain("ShapelyCAM", layer=LAYER)
        with pytest.raises(TypeError, match="ShapleyCAM has no hyper-parameter 'seed': it has utility"):
            ours.explain("ShapleyCAM", layer=LAYER, seed=1)
        with pytest.raises(ValueError, match=r"there is no layer 'features\.blokc4': did you mean features\.block4"):
            ours.explain("ShapleyCAM", layer="features.blokc4")(model, x, y)

    @pytest.mark.parametrize("name", ["FEM", "LayerCAM", "SegEigenCAM", "XGradCAM"])
    def test_pytorch_grad_cam_by_name(self, name, digits):
        model, x, y = digits
        with untouched(model):
            maps = ours.explain(name, layer=LAYER)(model, x, y)
        cam = getattr(upstream, name)(other := copy.deepcopy(model), [find_layer(other, LAYER)])
        expected = cam(torch.from_numpy(x), [ClassifierOutputTarget(int(c)) for c in y])
        np.testing.assert_allclose(maps[:, 0], expected, rtol=0, atol=1e-5)

    def test_ours_by_name_and_theirs_by_class(self, digits):
        model, x, y = digits
        assert ours.METHODS["GradCAM"] is METHODS["GradCAM"]
        assert ours.METHODS["FEM"] is upstream.FEM
        assert set(METHODS) < set(ours.METHODS)
        mine, theirs = (ours.explain(method, layer=LAYER)(model, x, y) for method in ("GradCAM", upstream.GradCAM))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
        rest = ours.explain(METHODS["GradCAM"], layer=LAYER, utility="rest")
        assert rest == ours.explain("GradCAM", layer=LAYER, utility="rest")
        assert np.abs(rest(model, x, y) - theirs).max() > 1e-3
        smooth = ours.explain(upstream.LayerCAM, layer=LAYER, eigen_smooth=True)
        assert np.abs(smooth(model, x, y) - ours.explain(upstream.LayerCAM, layer=LAYER)(model, x, y)).max() > 1e-3
        pickle.loads(pickle.dumps(smooth))
        with pytest.raises(TypeError, match="LayerCAM has no hyper-parameter 'seed'"):
            ours.explain(upstream.LayerCAM, layer=LAYER, seed=1)
        with pytest.raises(AttributeError, match="has no attribute 'METHOD'"):
            ours.METHOD  # noqa: B018

    def randomised(self, name):
        """MPRT from the top down on the demo's classifier: mean rank correlation with the trained model's maps."""
        canvases = make_canvases(24, "test", seed=4)
        model, x, y = load_classifier(), prepare(canvases.images).numpy(), canvases.labels.numpy()
        scores = quantus.MPRT(layer_order="top_down", disable_warnings=True)(
            model, x, y, explain_func=ours.explain(name, layer=LAYER), batch_size=24
        )
        assert list(scores)[1] == "classifier"
        return [np.nanmean(values) for values in scores.values()]  # nan: a map without variance

    @pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
    @pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "ShapleyCAM", "ShapleyCAMH"])
    def test_likeness_falls_as_layers_are_randomised(self, name):
        original, classifier, *others = self.randomised(name)
        assert original == pytest.approx(1)
        assert classifier < 0.5
        assert np.mean(others[-4:]) < 0.25

    def test_shapley_cam_e_loses_its_likeness_late(self):
        """It finds the foreground whatever the class is, as section 5 of its paper says."""
        original, classifier, *others = self.randomised("ShapleyCAME")
        assert original == pytest.approx(1)
        assert 0.7 < classifier < 0.95
        assert np.mean(others[-4:]) < 0.5

    def test_fake_cam_fails_the_sanity_check(self):
        assert self.randomised("FakeCAM") == pytest.approx([1] * 12)
