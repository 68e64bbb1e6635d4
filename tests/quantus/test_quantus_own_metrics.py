"""Quantus' own metrics on our methods; our metrics called as Quantus' own tests call metrics; what is broken there."""

from __future__ import annotations

import importlib.util
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from hosts import ANYWHERE, SEVERAL_PASSES
from nets import CNN
from quantus.functions.normalise_func import (
    normalise_by_average_second_moment_estimate,
    normalise_by_max,
    normalise_by_negative,
)
from quantus.helpers.model.models import LeNet

import cam_extras.quantus as ours
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare

pytestmark = pytest.mark.numerical

SLOW = ("Continuity", "EfficientMPRT", "AvgSensitivity", "RelativeOutputStability", "MonotonicityCorrelation")
CLASS_INDEPENDENT = ("FakeCAM", "RandomCAM")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "quantus.md"
QUANTUS = version("quantus")
NUMPY = tuple(int(part) for part in np.__version__.split(".")[:2])


@contextmanager
def quantus_random_numbers(seed=0):
    """Quantus draws from NumPy's global generator."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@dataclass
class Own:
    """One of Quantus' metrics, with options that suit class activation maps, and what to expect of it.

    `shape` is that of its result without the samples in front, None for a result for the whole set. `nan` names the
    methods for which it is not defined.
    """

    metric: Any
    low: float = 0
    high: float = np.inf
    shape: tuple[int, ...] | None = ()
    nan: tuple[str, ...] = ()
    keys: tuple[int, ...] = field(default=())


def own_metrics(size: int, channels: int, classes: int, representation: str) -> dict[str, Own]:
    """Metrics for inputs of size x size pixels; `representation` is the name of a module that is not a Sequential."""
    steps = 4 if channels == 1 else 2  # for each channel
    step, patch = size**2 // steps, size // 4  # pixels at a time, pixels along the side of a patch
    fake = ("FakeCAM",)  # its sums over pixels do not vary: no correlation
    steady = {"nr_samples": 1, "return_nan_when_prediction_changes": False}
    metrics = {
        "FaithfulnessCorrelation": Own(
            quantus.FaithfulnessCorrelation(nr_runs=8, subset_size=size**2 // 8, return_aggregate=False),
            -1,
            1,
            nan=fake,
        ),
        "FaithfulnessEstimate": Own(quantus.FaithfulnessEstimate(features_in_step=step), -1, 1),
        "PixelFlipping": Own(quantus.PixelFlipping(features_in_step=step), 0, 1, (steps * channels,)),
        "RegionPerturbation": Own(quantus.RegionPerturbation(patch_size=patch, regions_evaluation=3), -1, 1, (3,)),
        "Selectivity": Own(quantus.Selectivity(patch_size=2 * patch), 0, 1, (4,)),
        "SensitivityN": Own(
            quantus.SensitivityN(features_in_step=step, n_max_percentage=0.5, return_aggregate=False), -1, 1, None, fake
        ),
        "MonotonicityCorrelation": Own(quantus.MonotonicityCorrelation(features_in_step=step, nr_samples=1), -1, 1),
        "Monotonicity": Own(quantus.Monotonicity(features_in_step=step), 1, 1),
        "Infidelity": Own(quantus.Infidelity(perturb_patch_sizes=[2 * patch], n_perturb_samples=1)),
        "Sufficiency": Own(quantus.Sufficiency(), 0, 1),
        "Continuity": Own(quantus.Continuity(nr_steps=2)),
        "LocalLipschitzEstimate": Own(quantus.LocalLipschitzEstimate(nr_samples=1)),
        "MaxSensitivity": Own(quantus.MaxSensitivity(nr_samples=2)),
        "AvgSensitivity": Own(quantus.AvgSensitivity(nr_samples=1)),
        "Consistency": Own(quantus.Consistency(), 0, 1),
        "RelativeInputStability": Own(quantus.RelativeInputStability(**steady)),
        "RelativeOutputStability": Own(quantus.RelativeOutputStability(**steady)),
        "RelativeRepresentationStability": Own(
            quantus.RelativeRepresentationStability(layer_names=[representation], **steady)
        ),
        "PointingGame": Own(quantus.PointingGame(), 0, 1),
        "TopKIntersection": Own(quantus.TopKIntersection(k=size**2 // 16), 0, 1),
        "RelevanceMassAccuracy": Own(quantus.RelevanceMassAccuracy(), 0, 1),
        "RelevanceRankAccuracy": Own(quantus.RelevanceRankAccuracy(), 0, 1),
        "AttributionLocalisation": Own(quantus.AttributionLocalisation(), 0, 1),
        "AUC": Own(quantus.AUC(), 0, 1),
        "Sparseness": Own(quantus.Sparseness(), 0, 1),
        "Complexity": Own(quantus.Complexity(), 0, np.log(size**2)),
        "EffectiveComplexity": Own(quantus.EffectiveComplexity(), 0, size**2),
        "MPRT": Own(  # the last layer alone
            quantus.MPRT(layer_order="independent", skip_layers=True, return_last_correlation=True), -1, 1
        ),
        "EfficientMPRT": Own(quantus.EfficientMPRT(layer_order="independent"), -1),
        "RandomLogit": Own(quantus.RandomLogit(num_classes=classes), -1, 1),
        "Completeness": Own(quantus.Completeness(), 0, 0),
    }
    if channels == 1:
        metrics["ROAD"] = Own(quantus.ROAD(percentages=[10]), 0, 1, None, keys=(10,))
    return metrics


def evaluated(model, x, y, s, layer, metrics, methods):
    """One call of `quantus.evaluate` for everything, and the maps that it explains with."""
    explainers = {name: ours.explain(name, layer=layer, **SEVERAL_PASSES.get(name, {})) for name in methods}
    maps = {name: explainer(model, x, y)[:, 0].astype(np.float64) for name, explainer in explainers.items()}
    with quantus_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant sums, and of perturbations that change nothing
        results = quantus.evaluate(
            {name: own.metric for name, own in metrics.items()}, explainers, model, x, y, s, explain_func_kwargs={}
        )
    return SimpleNamespace(
        model=model, x=x, y=y, s=s[:, 0], layer=layer, metrics=metrics, maps=maps, results=results, methods=methods
    )


@pytest.fixture(scope="module")
def digits():
    canvases = make_canvases(4, "test", seed=3)
    x, y = prepare(canvases.images).numpy(), canvases.labels.numpy()
    s = np.zeros(x.shape, bool)
    for mask, (left, top, right, bottom) in zip(s, canvases.boxes.tolist(), strict=True):
        mask[:, top:bottom, left:right] = True
    return evaluated(load_classifier(), x, y, s, LAYER, own_metrics(64, 1, 10, f"{LAYER}.2"), ANYWHERE)


@pytest.fixture(scope="module")
def cifar(realdata):
    """ResNet-20 and three photographs that it knows."""
    spec = importlib.util.spec_from_file_location("realdata_models", realdata.folder / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    model = models.resnet_cifar(20, realdata.folder / "resnet20_cifar10.safetensors")
    data = np.load(realdata.folder / "cifar10_test500.npz")
    images = data["images"][:8].transpose(0, 3, 1, 2) / 255
    x = ((images - np.reshape(models.MEAN, (3, 1, 1))) / np.reshape(models.STD, (3, 1, 1))).astype(np.float32)
    y = data["labels"][:8]
    known = (model(torch.from_numpy(x)).argmax(dim=1).numpy() == y).nonzero()[0][:3]
    metrics = own_metrics(32, 3, 10, "layer3.2")
    for name in SLOW:
        del metrics[name]
    return evaluated(model, x[known], y[known], centre(3, 32), "layer3.2", metrics, ANYWHERE)


@pytest.fixture(scope="module")
def photographs(realdata):
    """MobileNet-V2, two photographs, and those metrics and methods that do not take long."""
    x = realdata.read(2)
    with torch.no_grad():
        y = realdata.model(x).argmax(dim=1).numpy()
    every = own_metrics(224, 3, 1000, "features.18.relu")
    every["MaxSensitivity"].metric.nr_samples = 1
    names = (
        "Selectivity",
        "MaxSensitivity",
        "PointingGame",
        "TopKIntersection",
        "RelevanceMassAccuracy",
        "RelevanceRankAccuracy",
        "AttributionLocalisation",
        "AUC",
        "Sparseness",
        "Complexity",
        "EffectiveComplexity",
        "RandomLogit",
    )
    methods = ("GradCAM", "ShapleyCAM", "FakeCAM", "RandomCAM")
    metrics = {name: every[name] for name in names}
    return evaluated(realdata.model, x.numpy(), y, centre(2, 224), "features.18", metrics, methods)


def centre(count, size):
    masks = np.zeros((count, 1, size, size), bool)
    masks[..., size // 4 : -size // 4, size // 4 : -size // 4] = True
    return masks


CIFAR = pytest.param("cifar", marks=[pytest.mark.realdata, pytest.mark.slow])


@pytest.fixture(
    params=[
        "digits",
        CIFAR,
        pytest.param("photographs", marks=[pytest.mark.realdata, pytest.mark.slow]),
    ]
)
def run(request):
    return request.getfixturevalue(request.param)


def rank_accuracy_bounds(a, s):
    """Share of the object among as many pixels as it has: the greatest; equal values may come in any order."""
    count = int(s.sum())
    last = np.sort(a, axis=None)[-count]
    sure, free = (s & (a > last)).sum(), count - (a > last).sum()
    inside, outside = (s & (a == last)).sum(), (~s & (a == last)).sum()
    return (sure + max(0, free - outside)) / count, (sure + min(free, inside)) / count


class TestOurMethods:
    def test_every_cell_is_a_number_in_its_range(self, run):
        assert list(run.results) == list(run.methods)
        for method, row in run.results.items():
            assert list(row) == list(run.metrics)
            for name, own in run.metrics.items():
                values = row[name]
                if own.keys:
                    assert tuple(values) == own.keys
                    values = list(values.values())
                values = np.asarray(values, dtype=float)
                if own.shape is not None:
                    assert values.shape == (len(run.x), *own.shape), (method, name)
                if method in own.nan:
                    values = values[~np.isnan(values)]
                assert np.isfinite(values).all(), (method, name, values)
                assert (values >= own.low - 1e-5).all(), (method, name, values)
                assert (values <= own.high + 1e-5).all(), (method, name, values)

    def test_localisation_by_hand(self, run):
        for method, maps in run.maps.items():
            row = run.results[method]
            hits = [s[a == a.max()].any() for a, s in zip(maps, run.s, strict=True)]
            assert list(row["PointingGame"]) == hits
            mass = [a[s].sum() / a.sum() for a, s in zip(maps, run.s, strict=True)]
            np.testing.assert_allclose(row["RelevanceMassAccuracy"], mass, rtol=1e-4)
            np.testing.assert_allclose(row["AttributionLocalisation"], mass, rtol=1e-4)
            for a, s, accuracy in zip(maps, run.s, row["RelevanceRankAccuracy"], strict=True):
                low, high = rank_accuracy_bounds(a, s)
                assert low - 1e-9 <= accuracy <= high + 1e-9
            for a, s, area in zip(maps, run.s, row["AUC"], strict=True):
                inside, outside = a[s], np.sort(a[~s])
                below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
                assert area == pytest.approx(below.mean() / 2 / len(outside), abs=1e-6)

    def test_complexity_by_hand(self, run):
        for method, maps in run.maps.items():
            row = run.results[method]
            flat = maps.reshape(len(maps), -1)
            shares = flat / flat.sum(axis=1, keepdims=True)
            entropy = -(shares * np.log(shares + 1e-12)).sum(axis=1)
            np.testing.assert_allclose(row["Complexity"], entropy, rtol=1e-4)
            assert list(row["EffectiveComplexity"]) == (flat.astype(np.float32) > 1e-5).sum(axis=1).tolist()
            ordered, n = np.sort(flat, axis=1), flat.shape[1]
            gini = ((2 * np.arange(1, n + 1) - n - 1) * ordered).sum(axis=1) / (n * ordered.sum(axis=1))
            np.testing.assert_allclose(row["Sparseness"], gini, atol=1e-4)

    def test_fake_cam_explains_nothing(self, run):
        row = run.results["FakeCAM"]
        pixels = run.s[0].size
        assert max(row["Sparseness"]) < 2 / pixels
        assert list(row["EffectiveComplexity"]) == [pixels - 1] * len(run.x)
        assert row["Complexity"] == pytest.approx([np.log(pixels - 1)] * len(run.x), abs=1e-4)
        np.testing.assert_allclose(row["AUC"], 0.5, atol=1 / pixels * 20)
        steady = {
            "Continuity",
            "LocalLipschitzEstimate",
            "MaxSensitivity",
            "AvgSensitivity",
            "RelativeInputStability",
            "RelativeOutputStability",
            "RelativeRepresentationStability",
        }
        for name in steady & set(run.metrics):
            assert not np.any(row[name]), name

    def test_controls_do_not_depend_on_the_class(self, run):
        for name in CLASS_INDEPENDENT:
            assert run.results[name]["RandomLogit"] == pytest.approx([1] * len(run.x), abs=1e-5)
        assert np.mean(run.results["GradCAM"]["RandomLogit"]) < 0.9

    @pytest.mark.parametrize("data", ["digits", CIFAR])
    def test_randomising_the_classifier(self, data, request):
        run = request.getfixturevalue(data)
        for name in CLASS_INDEPENDENT:
            assert run.results[name]["MPRT"] == pytest.approx([1] * len(run.x), abs=1e-5)
        assert np.mean(run.results["GradCAM"]["MPRT"]) < 0.9

    @pytest.mark.parametrize("data", ["digits", CIFAR])
    def test_flipping_of_all_pixels_ends_at_black(self, data, request):
        run = request.getfixturevalue(data)
        black = run.x.min(axis=(1, 2, 3), keepdims=True) * np.ones_like(run.x)
        with torch.no_grad():
            confidences = run.model(torch.from_numpy(black)).softmax(dim=1)[range(len(run.y)), run.y]
        for row in run.results.values():
            np.testing.assert_allclose(np.array(row["PixelFlipping"])[:, -1], confidences, rtol=0, atol=1e-5)
            np.testing.assert_allclose(np.array(row["Selectivity"])[:, -1], confidences, rtol=0, atol=1e-5)

    def test_grad_cam_finds_the_digit_and_random_cam_does_not(self, digits):
        grad_cam, random = digits.results["GradCAM"], digits.results["RandomCAM"]
        for name in ("FaithfulnessEstimate", "RelevanceRankAccuracy", "AUC", "TopKIntersection"):
            assert np.mean(grad_cam[name]) > np.mean(random[name]) + 0.05, name
        assert np.mean(grad_cam["PixelFlipping"]) < np.mean(random["PixelFlipping"])
        assert np.mean(grad_cam["MaxSensitivity"]) < np.mean(random["MaxSensitivity"])

    def test_focus_on_a_mosaic(self, digits):
        """It takes mosaics of four images and where the class explained is, as custom_batch; not through evaluate."""
        canvases = make_canvases(12, "test", seed=3)
        x, labels = prepare(canvases.images)[:, :, 16:48, 16:48], canvases.labels  # mosaics of 64 x 64
        tiles = x.reshape(3, 2, 2, 1, 32, 32).permute(0, 3, 1, 4, 2, 5).reshape(3, 1, 64, 64).numpy()
        y = labels[::4].numpy()
        place = (labels.reshape(3, 4) == labels[::4, None]).long().numpy()
        explainer = ours.explain("GradCAM", layer=LAYER)
        maps = explainer(digits.model, tiles, y)
        scores = quantus.Focus()(digits.model, tiles, y, maps, custom_batch=place, explain_func=explainer)
        quarters = np.stack([maps[:, 0, r : r + 32, c : c + 32].sum(axis=(1, 2)) for r in (0, 32) for c in (0, 32)], 1)
        np.testing.assert_allclose(scores, (quarters * place).sum(axis=1) / quarters.sum(axis=1), rtol=1e-4)

    def test_precomputed_maps_are_not_explained_again(self, digits):
        """Metrics that explain nothing themselves give the same for arrays as for functions."""
        names = ["Sparseness", "PixelFlipping", "RelevanceRankAccuracy", "AUC"]
        arrays = {name: maps[:, None].astype(np.float32) for name, maps in digits.maps.items()}
        metrics = {name: digits.metrics[name].metric for name in names}
        results = quantus.evaluate(metrics, arrays, digits.model, digits.x, digits.y, digits.s[:, None])
        for method, row in results.items():
            for name in names:
                np.testing.assert_array_equal(row[name], digits.results[method][name])

    def test_input_invariance_of_a_model_that_begins_with_a_convolution(self):
        model = LeNet().eval()
        x, y = random_inputs(1, 28, classes=10)
        explainer = ours.explain("FakeCAM", layer="conv_2")
        assert all(quantus.InputInvariance()(model, x, y, None, explain_func=explainer))

    def test_non_sensitivity_one_pixel_at_a_time(self):
        model = LeNet().eval()
        x, y = random_inputs(1, 28, classes=10)
        explainer = ours.explain("GradCAM", layer="conv_2")
        scores = quantus.NonSensitivity()(model, x, y, None, explain_func=explainer)
        assert all(0 <= score <= 28 * 28 for score in scores)


def random_inputs(channels, size, classes, count=3):
    x = np.random.default_rng(0).normal(size=(count, channels, size, size)).astype(np.float32)
    return x, np.arange(count) % classes


def call(metric, data, **options):
    """Call a metric as its author wants it, on GradCAM."""
    options = {"a_batch": data.maps.copy(), "explain_func": data.explainer, "s_batch": data.s} | options
    with warnings.catch_warnings(), quantus_random_numbers():
        warnings.simplefilter("ignore")
        return metric(model=data.model, x_batch=data.x, y_batch=data.y, explain_func_kwargs={}, **options)


def small(channels):
    """A model with GradCAM's maps for the classes that it predicts."""
    torch.manual_seed(0)
    model = CNN(channels=channels).eval()
    x, _ = random_inputs(channels, 16, classes=5, count=4)
    with torch.no_grad():
        y = model(torch.from_numpy(x)).argmax(dim=1).numpy()
    explainer = ours.explain("GradCAM", layer="stem")
    maps = explainer(model, x, y)
    return SimpleNamespace(model=model, x=x, y=y, s=np.ones((4, 1, 16, 16), bool), explainer=explainer, maps=maps)


def area_under(metric):
    def called(**kwargs):
        metric(**kwargs)
        return metric.get_auc_score

    return called


TRAPEZOID = (AttributeError, "has no attribute 'trapz'")
BROKEN = {
    # what is called, the number of channels, the first NumPy with which it fails, the exception and its message
    "IROF": (quantus.IROF(), 1, (2, 4), *TRAPEZOID),
    "IROF, RGB": (quantus.IROF(), 3, None, AssertionError, "shape of arr must be the same as the mask"),
    "ROAD, RGB": (quantus.ROAD(percentages=[50]), 3, None, IndexError, "out of bounds for axis 0 with size 256"),
    "PixelFlipping, area": (
        quantus.PixelFlipping(features_in_step=64, return_auc_per_sample=True),
        3,
        (2, 4),
        *TRAPEZOID,
    ),
    "PixelFlipping, mean area": (area_under(quantus.PixelFlipping(features_in_step=64)), 3, (2, 4), *TRAPEZOID),
    "RegionPerturbation, mean area": (area_under(quantus.RegionPerturbation(patch_size=8)), 3, (2, 4), *TRAPEZOID),
    "Selectivity, mean area": (area_under(quantus.Selectivity(patch_size=8)), 3, (2, 4), *TRAPEZOID),
    "Continuity, nan": (
        quantus.Continuity(nr_steps=2, return_nan_when_prediction_changes=True),
        3,
        (2, 0),
        AttributeError,
        "`np.NaN` was removed",
    ),
    "normalise_by_negative": (
        quantus.Sparseness(normalise_func=normalise_by_negative),
        1,
        (2, 4),
        UserWarning,
        "'where' used without 'out'",
    ),
    "PointingGame, weighted": (quantus.PointingGame(weighted=True), 3, None, TypeError, "0 or 1-dimensional input"),
    "NonSensitivity, several pixels": (
        quantus.NonSensitivity(features_in_step=64),
        1,
        None,
        ValueError,
        "could not be broadcast together",
    ),
    "InputInvariance": (quantus.InputInvariance(), 3, None, AttributeError, "no attribute 'out_channels'"),
    "Continuity, steps that divide 2 x 16 + 1": (
        quantus.Continuity(nr_steps=3),
        3,
        None,
        IndexError,
        "index -17 is out of bounds for axis 3 with size 16",
    ),
    "Infidelity, patches that leave a rest": (
        quantus.Infidelity(perturb_patch_sizes=[7], n_perturb_samples=1),
        3,
        None,
        IndexError,
        "out of bounds for axis 1 with size 768",
    ),
    "PixelFlipping, pixels that leave a rest": (
        quantus.PixelFlipping(features_in_step=100),
        3,
        None,
        AssertionError,
        "Set 'features_in_step' so that the modulo remainder",
    ),
    "RandomLogit, 1000 classes": (quantus.RandomLogit(), 3, None, ValueError, r"class indices must lie in \[0, 5\)"),
    "RelativeRepresentationStability of a Sequential": (
        quantus.RelativeRepresentationStability(nr_samples=1, layer_names=["stem"]),
        3,
        None,
        ValueError,
        "No hidden representations were selected",
    ),
    "Sufficiency, other distance": (quantus.Sufficiency(distance_func="cosine"), 3, None, TypeError, "cdist_cosine"),
    "Focus": (quantus.Focus(), 3, None, TypeError, "'NoneType' object is not iterable"),
}


class TestDocumentedBreakage:
    """docs/quantus.md lists these: when one of them fails here, the page wants a change."""

    pytestmark = pytest.mark.skipif(QUANTUS != "0.6.0", reason=f"written for Quantus 0.6.0, this is {QUANTUS}")

    @pytest.mark.parametrize("name", BROKEN)
    def test_still_fails(self, name):
        metric, channels, since, exception, message = BROKEN[name]
        if since is not None and since > NUMPY:
            pytest.skip(f"works with NumPy {np.__version__}, before {since[0]}.{since[1]}")
        with pytest.raises(exception, match=message):
            call(metric, small(channels))

    def test_evaluate_prints_an_error_and_loses_the_results(self, capsys):
        data = small(3)
        metrics = {"Sparseness": quantus.Sparseness(), "ROAD": quantus.ROAD(percentages=[50])}
        arguments = (metrics, {"GradCAM": data.explainer}, data.model, data.x, data.y)
        with pytest.raises(KeyError, match="call_kwargs_empty"):
            quantus.evaluate(*arguments, explain_func_kwargs={})
        assert "Failed to evaluate GradCAM explanations on ROAD" in capsys.readouterr().out
        with pytest.raises(AssertionError, match="Pass explain_func_kwargs"):
            quantus.evaluate(*arguments)

    def test_smooth_mprt_has_its_own_explain_function(self):
        data = small(3)
        metric = quantus.SmoothMPRT(nr_samples=2, skip_layers=True)
        maps = data.maps.copy()
        with pytest.raises(KeyError, match="The selected GradCAM XAI method is not in the list"):
            metric(
                data.model, data.x, data.y, maps, explain_func=data.explainer, explain_func_kwargs={"method": "GradCAM"}
            )
        calls = []

        def counted(*args, **kwargs):
            calls.append(args)
            return data.explainer(*args, **kwargs)

        call(quantus.SmoothMPRT(nr_samples=2, skip_layers=True), data, explain_func=counted)
        assert not calls

    @pytest.mark.parametrize(
        "metric",
        [
            quantus.SmoothMPRT(nr_samples=2, skip_layers=True),
            quantus.Sparseness(normalise=False),
            quantus.Complexity(normalise=False),
            quantus.Sparseness(normalise_func=normalise_by_average_second_moment_estimate),
        ],
        ids=["SmoothMPRT", "Sparseness", "Complexity", "second moment"],
    )
    def test_changes_the_attributions_in_place(self, metric):
        data = small(3)
        metric.abs = False
        maps = data.maps.copy()
        call(metric, data, a_batch=maps)
        assert np.abs(maps - data.maps).max() > 1e-8

    @pytest.mark.parametrize(
        "metric",
        [quantus.ROAD(percentages=[30], noise=0), quantus.SensitivityN(features_in_step=32)],
        ids=["ROAD", "N"],
    )
    def test_only_the_first_batch_counts(self, metric):
        data = small(1)
        first = SimpleNamespace(**vars(data))
        first.x, first.y, first.s, first.maps = data.x[:2], data.y[:2], data.s[:2], data.maps[:2]
        np.testing.assert_equal(call(metric, data, batch_size=2), call(metric, first))

    def test_sensitivity_n_needs_two_samples(self):
        with pytest.raises(ValueError, match="length at least 2"):
            call(quantus.SensitivityN(features_in_step=64), small(3), batch_size=1)

    def test_weighted_attribution_localisation_depends_on_the_number_of_samples(self):
        data = small(3)
        metric = quantus.AttributionLocalisation(weighted=True)
        first = SimpleNamespace(**vars(data))
        first.x, first.y, first.s, first.maps = data.x[:3], data.y[:3], data.s[:3], data.maps[:3]
        assert call(metric, data)[0] == pytest.approx(call(metric, first)[0] / 2)

    def test_consistency_looks_at_the_first_five_values(self):
        data = small(3)
        others = data.maps.copy().reshape(4, -1)
        others[:, 5:] = np.random.default_rng(0).normal(size=others[:, 5:].shape)
        others = others.reshape(data.maps.shape)
        assert call(quantus.Consistency(), data, a_batch=others) == call(quantus.Consistency(), data)

    def test_monotonicity_is_true_of_any_map(self):
        data = small(3)
        for maps in (data.maps, 1 - data.maps):
            assert all(call(quantus.Monotonicity(features_in_step=32), data, a_batch=maps))

    def test_monotonicity_correlation_of_small_and_large_confidences(self):
        data = small(3)
        data.model.classifier.weight.data *= 1000
        data.y = data.model(torch.from_numpy(data.x)).argmax(dim=1).numpy()
        data.y[0] = (data.y[0] + 1) % 5
        with pytest.raises(ValueError, match="boolean array indexing assignment cannot assign 4 input values"):
            call(quantus.MonotonicityCorrelation(features_in_step=64, nr_samples=1), data)

    def test_mprt_refuses_maps_of_zeros(self):
        data = small(3)

        def zero_but_for_the_trained_model(model, inputs, targets, **kwargs):
            return data.maps.copy() if model is data.model else np.zeros_like(data.maps)

        with pytest.raises(AssertionError, match="all equal to zero"):
            call(quantus.MPRT(), data, explain_func=zero_but_for_the_trained_model)


class TestPage:
    def test_blocks_run(self):
        blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        assert len(blocks) >= 5
        names = {}
        for block in blocks:
            exec(block, names)
        assert list(names["results"].columns) == ["GradCAM", "ShapleyCAM", "FakeCAM"]

    def test_names_every_metric_of_quantus(self):
        rows = PAGE.read_text().partition("## Quantus' own metrics")[2].partition("\n## ")[0]
        own = {cls for family in quantus.AVAILABLE_METRICS.values() for cls in family.values()} - set(
            ours.METRIC_CLASSES
        )
        assert len(own) >= 35
        named = {
            name for row in rows.splitlines() if row.startswith("| ") for name in row.split("|")[1].strip().split(", ")
        }
        assert {cls.__name__ for cls in own} <= named


# How Quantus' own tests make metrics, and the two models: one channel, three channels.
INIT_PARAMETERS = [
    {"disable_warnings": True, "display_progressbar": False},
    {"abs": True, "normalise": True, "normalise_func": normalise_by_max, "disable_warnings": True},
    {"abs": True, "return_aggregate": True, "disable_warnings": True, "display_progressbar": False},
]
EXPLAIN_FUNCTIONS = {
    "Saliency": (quantus.explain, {"method": "Saliency"}),
    "IntegratedGradients": (quantus.explain, {"method": "IntegratedGradients"}),
    "GradCAM": (None, {}),
}


@pytest.fixture(scope="module", params=["LeNet", "RGB"])
def quantus_test_data(request):
    torch.manual_seed(0)
    if request.param == "LeNet":
        model, layer, (x, y) = LeNet().eval(), "conv_2", random_inputs(1, 28, classes=10)
    else:
        model, layer, (x, y) = CNN().eval(), "layer", random_inputs(3, 32, classes=5)
    return SimpleNamespace(model=model, layer=layer, x=x, y=y, s=centre(len(x), x.shape[-1]))


class TestOurMetricsCalledAsQuantusTestsDo:
    @pytest.mark.parametrize("explainer", EXPLAIN_FUNCTIONS)
    @pytest.mark.parametrize("metric", ours.METRIC_CLASSES, ids=lambda cls: cls.__name__)
    def test_scores(self, metric, explainer, quantus_test_data):
        data = quantus_test_data
        explain_func, explain_func_kwargs = EXPLAIN_FUNCTIONS[explainer]
        if explain_func is None:
            explain_func = ours.explain(explainer, layer=data.layer)
        elif "weights" in metric.sources():
            pytest.skip("Quantus' explain function has no channel weights")
        for init_parameters in INIT_PARAMETERS:
            a_batch = explain_func(data.model, data.x, data.y, **explain_func_kwargs)
            results = []
            for given in (None, a_batch):
                before = None if given is None else given.copy()
                scores = metric(**init_parameters)(
                    model=data.model,
                    x_batch=data.x,
                    y_batch=data.y,
                    a_batch=given,
                    s_batch=data.s,
                    explain_func=explain_func,
                    explain_func_kwargs=explain_func_kwargs,
                    device="cpu",
                )
                assert isinstance(scores, list)
                assert len(scores) == (1 if init_parameters.get("return_aggregate") else len(data.x))
                assert all(isinstance(score, float) and np.isfinite(score) for score in scores), scores
                np.testing.assert_array_equal(given, before)
                results.append(scores)
            assert results[0] == pytest.approx(results[1], abs=1e-5)

    @pytest.mark.parametrize("metric", ours.METRIC_CLASSES, ids=lambda cls: cls.__name__)
    def test_normalisations_that_leave_the_unit_range_raise(self, metric, quantus_test_data):
        """Signed maps divided by their maximum, and division by the second moment."""
        data = quantus_test_data
        signed = np.random.default_rng(1).normal(size=(3, 1, *data.x.shape[2:])).astype(np.float32)

        def explain_func(model, inputs, targets, **kwargs):
            return signed[: len(inputs)].copy()

        explain_func.channel_weights = lambda model, inputs, targets, **kwargs: np.ones((len(inputs), 2), np.float32)

        for init_parameters in (
            {"normalise_func": normalise_by_max},
            {"normalise_func": normalise_by_average_second_moment_estimate},
            {"normalise_func": normalise_by_average_second_moment_estimate, "abs": True},
            {"normalise": False},
        ):
            with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got"):
                metric(**init_parameters)(data.model, data.x, data.y, signed.copy(), data.s, explain_func=explain_func)
