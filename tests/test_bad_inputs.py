"""A hundred bad inputs over the public API: each raises a ValueError or TypeError that says what is wrong."""

from __future__ import annotations

import re
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

import cam_extras
from cam_extras import captum, evaluate, maps, metrics
from cam_extras.cli import main
from cam_extras.evaluation import Evaluator, saturation_curves
from cam_extras.methods import METHODS, ExpectedGradCAM, GradCAM, MIGradCAM, OptiCAM, as_methods, mutual_information
from cam_extras.metrics import METRICS, Blur, Schedule, as_options
from cam_extras.models import Classifier, load_model
from cam_extras.probe import Probe
from cam_extras.quantus import Complexity, EnergyPointingGame, explain
from cam_extras.runs.sources import Labels, open_source
from cam_extras.utilities import Logit

H = torch.tensor([[[0.0, 0.5], [0.25, 1.0]]])
X = torch.rand(1, 3, 8, 8)
P = torch.tensor([0.5])
MASK = torch.tensor([[[True, False], [False, False]]])
BOX = [torch.tensor([[0, 0, 1, 1]])]
NAN = float("nan")
BIG = 10**20


@cache
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def probe(x=X, **options):
    return Probe(net(), net()[1], x, **options).activations


def run(data=X, **options):
    options = {"methods": ["GradCAM"], "metrics": ["complexity"], **options}
    return evaluate(options.pop("model", net()), options.pop("layer", "1"), [*data], "nowhere/at/all", **options)


def evaluator(x=X, target=None, **options):
    options = {"methods": {"GradCAM": GradCAM()}, "metrics": ["complexity"], **options}
    return Evaluator(options.pop("model", net()), net()[1], **options)(x, target)


def of_quantus(masks):
    x, y = X.numpy(), np.array([1])
    return EnergyPointingGame()(net(), x, y, s_batch=masks, explain_func=explain("GradCAM", layer="1"))


def of_captum(x=X, target=0, **options):
    return captum.LayerGradCam(net(), net()[1], **options).attribute(x, target)


def of_pytorch_grad_cam(x=X, targets=None, **options):
    return cam_extras.ShapleyCAM(net(), [net()[1]], **options)(x, targets)


def options(given):
    return as_options(given, METRICS)


TENSOR = "must be a torch.Tensor; got"
BAD = {
    # functions of maps
    "normalise a list": (lambda: maps.normalise([[1.0]]), TypeError, f"the map {TENSOR} list"),
    "normalise an array": (lambda: maps.normalise(np.ones((1, 2))), TypeError, f"the map {TENSOR} ndarray"),
    "normalise a number": (lambda: maps.normalise(1.0), TypeError, f"the map {TENSOR} float"),
    "normalise one map": (lambda: maps.normalise(torch.ones(3)), ValueError, "the map must have shape (N, *S) and"),
    "normalise nothing": (lambda: maps.normalise(torch.ones(2, 0)), ValueError, "the map must have shape (N, *S) and"),
    "normalise booleans": (lambda: maps.normalise(MASK), TypeError, "the map must hold numbers; got torch.bool"),
    "normalise NaN": (lambda: maps.normalise(H * NAN), ValueError, "the map is NaN or infinite in sample 0"),
    "resize a list": (lambda: maps.resize([[1.0]], (2,)), TypeError, f"the map {TENSOR} list"),
    "resize to a number": (lambda: maps.resize(H, 4), TypeError, "size must be a tuple, one number for each dim"),
    "resize to another dimension": (lambda: maps.resize(H, (4,)), ValueError, "cannot resize a map of size (2, 2)"),
    "layer map of an array": (lambda: maps.layer_map(np.ones((1, 2, 3))), TypeError, f"the contributions {TENSOR}"),
    "layer map of a map": (lambda: maps.layer_map(H[0]), ValueError, "the contributions must have shape (N, C, *S)"),
    "mask an array": (lambda: maps.mask(X.numpy(), H), TypeError, f"the input {TENSOR} ndarray"),
    "mask by a list": (lambda: maps.mask(X, [[1.0]]), TypeError, f"the map {TENSOR} list"),
    "mask integers": (lambda: maps.mask(X.int(), H), TypeError, "the input to mask must be of floating point"),
    "mask by another size": (lambda: maps.mask(X, H), ValueError, "expected maps of shape (1, 8, 8)"),
    "mask with a text": (lambda: maps.mask(X, X[:, 0], "a"), TypeError, "fill must be a number or a tensor; got 'a'"),
    "mask with NaN": (lambda: maps.mask(X, X[:, 0], NAN), ValueError, "fill is NaN or infinite"),
    "black of two lengths": (lambda: maps.black((0.5,), (1.0, 1.0)), ValueError, "expected a mean and a std other"),
    "black of no deviation": (lambda: maps.black((0.5,), (0.0,)), ValueError, "expected a mean and a std other"),
    # metrics
    "average drop of lists": (lambda: metrics.average_drop([0.5], [0.5]), TypeError, f"the confidence p {TENSOR} list"),
    "average drop of numbers": (lambda: metrics.average_drop(0.5, 0.5), TypeError, f"the confidence p {TENSOR} float"),
    "average drop of an array": (
        lambda: metrics.average_drop(P, P.numpy()),
        TypeError,
        f"the confidence o {TENSOR} ndarray",
    ),
    "average drop from 0": (lambda: metrics.average_drop(P * 0, P), ValueError, "the drop is undefined where the"),
    "average drop of logits": (
        lambda: metrics.average_drop(P + 2, P),
        ValueError,
        "the confidence p must lie in [0, 1]",
    ),
    "average drop of two lengths": (
        lambda: metrics.average_drop(P, torch.rand(2)),
        ValueError,
        "expected confidences of",
    ),
    "increase of NaN": (lambda: metrics.increase_in_confidence(P * NAN, P), ValueError, "the confidence p must lie in"),
    "gain of lists": (lambda: metrics.average_gain([0.5], [0.5]), TypeError, f"the confidence p {TENSOR}"),
    "drop in deletion of lists": (
        lambda: metrics.drop_in_deletion([0.5], [0.5]),
        TypeError,
        f"the confidence p {TENSOR}",
    ),
    "coherency of arrays": (lambda: metrics.coherency(H.numpy(), H.numpy()), TypeError, f"the map {TENSOR} ndarray"),
    "coherency with channels": (
        lambda: metrics.coherency(H[:, None], H[:, None]),
        ValueError,
        "the map must have shape (N, *S), without channels",
    ),
    "complexity of a list": (lambda: metrics.complexity([[0.5]]), TypeError, f"the map {TENSOR} list"),
    "complexity with channels": (
        lambda: metrics.complexity(H[:, None]),
        ValueError,
        "the map must have shape (N, *S), without channels; got (1, 1,",
    ),
    "complexity of one map": (lambda: metrics.complexity(P), ValueError, "the map must have shape (N, *S) and pixels"),
    "complexity of nothing": (
        lambda: metrics.complexity(H[:0]),
        ValueError,
        "the map must have shape (N, *S) and pixels",
    ),
    "complexity of integers": (lambda: metrics.complexity(H.int()), TypeError, "the map must be of floating point"),
    "adcc of numbers": (lambda: metrics.adcc(0.5, 0.5, 0.5), TypeError, f"the coherency {TENSOR} float"),
    "hci of lists": (lambda: metrics.hci([0.5], [0.5]), TypeError, f"the drop {TENSOR} list"),
    "thresholded increase of lists": (
        lambda: metrics.thresholded_increase([0.5], P),
        TypeError,
        f"the confidence o_t {TENSOR}",
    ),
    "threshold of a text": (lambda: metrics.threshold_mask(X, X[:, 0], "a"), TypeError, "threshold must be a number"),
    "threshold above 1": (
        lambda: metrics.threshold_mask(X, X[:, 0], 2),
        ValueError,
        "the threshold must lie in [0, 1]",
    ),
    "wins of lists": (lambda: metrics.win_percentage([[0.5], [0.5]]), TypeError, f"the drops {TENSOR} list"),
    "wins of one method": (
        lambda: metrics.win_percentage(P[None]),
        ValueError,
        "expected drops of two or more methods",
    ),
    "insertion of a list": (lambda: metrics.insertion([1.0]), TypeError, "expected a Curve, as insertion_curve"),
    "deletion of a tensor": (lambda: metrics.deletion(P), TypeError, "expected a Curve, as insertion_curve"),
    "insertion - deletion of lists": (
        lambda: metrics.insertion_deletion([1], [1]),
        TypeError,
        f"the insertion {TENSOR}",
    ),
    "curve of a list": (lambda: metrics.insertion_curve(len, X, [[1.0]]), TypeError, f"the map {TENSOR} list"),
    "curve of an array": (
        lambda: metrics.insertion_curve(len, X.numpy(), H),
        TypeError,
        "the input must be a torch.Tensor of shape (N, C",
    ),
    "curve of another confidence": (
        lambda: metrics.insertion_curve(lambda images, _: 1.0, X, X[:, 0], "mi"),
        ValueError,
        "confidence must return a tensor",
    ),
    "curve of a schedule that is none": (
        lambda: metrics.deletion_curve(len, X, X[:, 0], 3),
        ValueError,
        "there is no schedule 3",
    ),
    "pointing game of an array": (
        lambda: metrics.pointing_game(H.numpy(), MASK),
        TypeError,
        f"the map {TENSOR} ndarray",
    ),
    "pointing game with channels": (
        lambda: metrics.pointing_game(H[:, None], MASK),
        ValueError,
        "expected maps of shape (N, H, W); got (1, 1, 2, 2)",
    ),
    "pointing game at an array": (lambda: metrics.pointing_game(H, MASK.numpy()), TypeError, f"the masks {TENSOR}"),
    "pointing game at numbers": (lambda: metrics.pointing_game(H, H), ValueError, "expected boolean masks of shape"),
    "localisation by an array": (
        lambda: metrics.localisation_error(H, np.array([[[0, 0, 1, 1]]])),
        TypeError,
        "boxes must be a list with one",
    ),
    "localisation by a number": (lambda: metrics.localisation_error(H, 3), TypeError, "boxes must be a list with one"),
    "localisation by lists": (
        lambda: metrics.localisation_error(H, [[0, 0, 1, 1]]),
        ValueError,
        "boxes must be a tensor of shape (B, 4)",
    ),
    "official metric of a list": (lambda: metrics.official_metric(H, BOX, [True]), TypeError, f"correct {TENSOR} list"),
    "box mask of a number": (lambda: metrics.box_mask(3, (2, 2)), TypeError, "boxes must be a list with one entry"),
    "crop of arrays": (
        lambda: metrics.crop_boxes([np.zeros((1, 4))], (0, 0), (1, 1)),
        TypeError,
        f"the boxes of a sample {TENSOR} nd",
    ),
    "components of an array": (lambda: metrics.component_boxes(MASK.numpy()), TypeError, f"the masks {TENSOR} ndarray"),
    "hits of a list": (lambda: metrics.max_box_accuracy([[[1.0]]]), TypeError, f"the hits {TENSOR} list"),
    "saliency metric of an array": (
        lambda: metrics.saliency_metric(X.numpy(), X[:, 0], len),
        TypeError,
        f"the input {TENSOR} ndarray",
    ),
    "saliency metric of a number": (
        lambda: metrics.saliency_metric(X, X[:, 0], lambda crop: 0.5),
        TypeError,
        "the confidence in the crop must be",
    ),
    "selectivity of a text": (lambda: metrics.selectivity(H, "a"), TypeError, "exponent must be a number; got 'a'"),
    "counterfactual of a list": (
        lambda: metrics.counterfactual([1.0]),
        TypeError,
        "the input must be a torch.Tensor of shape (N, C",
    ),
    "counterfactual by a text": (lambda: metrics.counterfactual(X, "a"), TypeError, "delta must be a number; got 'a'"),
    "sensitivity of lists": (
        lambda: metrics.counterfactual_sensitivity([[1.0]], [[1.0]]),
        TypeError,
        f"the weights {TENSOR} list",
    ),
    "a set without parts": (lambda: METRICS["adcc"].of_set({}), ValueError, "adcc of a set needs the scores coherency"),
    # options
    "threshold option": (
        lambda: options({"threshold": "x"}),
        TypeError,
        "threshold must be a number; got 'x'",
    ),
    "fraction option": (
        lambda: options({"fraction": None}),
        TypeError,
        "fraction must be a number; got None",
    ),
    "schedule option": (lambda: options({"schedule": ["mi"]}), TypeError, "schedule must be 'rise'"),
    "baseline option": (
        lambda: options({"baseline": ["fill"]}),
        ValueError,
        "baseline must be one of 'fill'",
    ),
    "seed option": (lambda: options({"seed": True}), TypeError, "seed must be an integer; got True"),
    "option that is none": (lambda: as_options({1: 2}, ["hci"]), ValueError, "there is no option of metrics 1"),
    "substrate": (lambda: Schedule(1, None), TypeError, "a substrate must be a name, number, tensor or function"),
    "blur": (lambda: Blur(size="a"), TypeError, "size must be an integer; got 'a'"),
    "noise": (lambda: ExpectedGradCAM(noise="a"), TypeError, "noise must be a number; got 'a'"),
    "samples": (lambda: ExpectedGradCAM(n_samples=True), TypeError, "n_samples must be an integer; got True"),
    "learning rate": (lambda: OptiCAM(learning_rate="a"), TypeError, "learning_rate must be a number; got 'a'"),
    "tolerance": (lambda: OptiCAM(tolerance=None), TypeError, "tolerance must be a number; got None"),
    "score": (lambda: GradCAM(utility=["logit"]), ValueError, "utility must be one of 'logit'"),
    "bins": (lambda: MIGradCAM(bins=10**9), ValueError, "bins must be 4096 or less; got 1000000000"),
    "bins of a function": (lambda: mutual_information(X, X, bins=10**9), ValueError, "bins must be 4096 or less"),
    "information of arrays": (lambda: mutual_information(X.numpy(), X), TypeError, f"the feature map {TENSOR} ndarray"),
    "methods by number": (lambda: as_methods({1: GradCAM()}, 0), TypeError, "methods must map names to methods"),
    "hyper-parameters": (
        lambda: as_methods({"a": 3}, 0),
        TypeError,
        "methods must map names to methods, or to hyper",
    ),
    "a class of something else": (lambda: as_methods([dict], 0), TypeError, "the method must be a name, such as"),
    "an unhashable method": (
        lambda: as_methods({"a": {"method": []}}, 0),
        TypeError,
        "the method must be a name, such as",
    ),
    # models, probes and hosts
    "a model that is none": (lambda: load_model(""), ValueError, "there is no torchvision model ''"),
    "a class without names": (
        lambda: Classifier(net(), torch.tensor).class_index("foo"),
        ValueError,
        "the names of the model's classes are not",
    ),
    "a class by a strange digit": (
        lambda: Classifier(net(), torch.tensor, ("a",)).class_index("²"),
        ValueError,
        "there is no class '²'",
    ),
    "reshape_transform of None": (
        lambda: probe(reshape_transform=lambda t: None),
        ValueError,
        "expected a feature map of shape (1, C, *S) from the",
    ),
    "other channels": (
        lambda: probe(torch.rand(1, 1, 8, 8)),
        ValueError,
        "the model does not take an input of shape (1, 1, 8, 8) and",
    ),
    "another type": (
        lambda: probe(X.double()),
        ValueError,
        "the model does not take an input of shape (1, 3, 8, 8) and type torch.fl",
    ),
    "no batch": (lambda: probe(X[:0]), ValueError, "the input batch is empty: its shape is (0, 3, 8, 8)"),
    "a class of 20 digits": (
        lambda: Probe(net(), net()[1], X, target=BIG).gradients,
        ValueError,
        "class indices must lie in [0, 3); got 1000",
    ),
    "a class by name": (
        lambda: Probe(net(), net()[1], X, target="a").gradients,
        TypeError,
        "targets must be a class index, a list with a class index or a function for each sample, or None; got 'a'",
    ),
    "a score of a list": (lambda: Logit(0)([1.0]), TypeError, f"the model's output {TENSOR} list"),
    "Captum, an array": (lambda: of_captum(X.numpy()), TypeError, "the input must be a torch.Tensor of shape (N, C"),
    "Captum, an option": (lambda: of_captum(nothing=1), TypeError, "GradCAM has no hyper-parameter 'nothing'"),
    "pytorch-grad-cam, a target": (
        lambda: of_pytorch_grad_cam(targets="3"),
        TypeError,
        "targets must be a class index, a list",
    ),
    "pytorch-grad-cam, an index": (
        lambda: of_pytorch_grad_cam(targets=[3]),
        ValueError,
        "class indices must lie in [0, 3); got 3",
    ),
    "Quantus, a batch size": (
        lambda: explain("GradCAM", layer="1", batch_size=-1),
        ValueError,
        "batch_size must be 1 or more; got -1",
    ),
    "Quantus, a method": (lambda: explain(3, layer="1"), TypeError, "the method must be a name, such as"),
    "Quantus, no inputs": (
        lambda: explain("GradCAM", layer="1")(net(), X[:0].numpy(), np.zeros(0, int)),
        ValueError,
        "there are no inputs to",
    ),
    "Quantus, a layer": (
        lambda: explain("GradCAM", layer=1)(net(), X.numpy(), np.array([1])),
        TypeError,
        "the layer must be a module, its dotted name",
    ),
    "Quantus, a mask of NaN": (
        lambda: of_quantus(np.full((1, 1, 8, 8), NAN)),
        ValueError,
        "the mask of the object is NaN or infinite in sample 0",
    ),
    "saturation of a text": (
        lambda: saturation_curves(net(), net()[1], X, baseline="a"),
        TypeError,
        "the baseline must be a number or a tensor",
    ),
    # evaluations
    "an evaluation without metrics": (lambda: run(metrics=[]), ValueError, "there is no metric to evaluate: give one"),
    "an evaluation of a number": (
        lambda: run(metrics=3),
        TypeError,
        'metrics must be names, such as "adcc", in a list',
    ),
    "an evaluation without methods": (lambda: run(methods=[]), ValueError, "there is no method: give one"),
    "an evaluation of methods by number": (
        lambda: run(methods={1: {}}),
        TypeError,
        "methods must map names to methods",
    ),
    "an evaluation of no model": (lambda: run(model=None), TypeError, "the model must be a torch.nn.Module or a Class"),
    "an evaluation of a layer by number": (
        lambda: run(layer=1),
        TypeError,
        "the layer must be a module, its dotted name",
    ),
    "an evaluation of a text for a limit": (
        lambda: run(limit="a"),
        TypeError,
        "limit must be an integer or None; got 'a'",
    ),
    "an evaluation with a limit of True": (
        lambda: run(limit=True),
        TypeError,
        "limit must be an integer or None; got True",
    ),
    "an evaluation of half a class": (lambda: run(target=0.5), TypeError, "target must be 'predicted', 'label' or"),
    "an evaluation of a negative class": (lambda: run(target=-1), ValueError, "target must be 0 or more; got -1"),
    "an evaluation by a name": (lambda: run(target="cat"), ValueError, "target must be one of 'predicted', 'label'"),
    "an evaluation of nothing": (lambda: run([]), ValueError, "there are no images in the list: its length is 0"),
    "an evaluation into nowhere": (
        lambda: evaluate(net(), "1", [*X], "", methods=["GradCAM"]),
        ValueError,
        'the output folder is ""',
    ),
    "an evaluator of a text": (lambda: evaluator(metrics="adc"), ValueError, "there is no metric 'adc': did you mean"),
    "an evaluator of no model": (lambda: evaluator(model=None), TypeError, "the model must be a torch.nn.Module or"),
    "an evaluator of a class of 20 digits": (
        lambda: evaluator(target=BIG),
        ValueError,
        "class indices must lie in [0, 3)",
    ),
    "an evaluator of a list": (
        lambda: evaluator(X.tolist()),
        TypeError,
        "the input must be a torch.Tensor of shape (N, C",
    ),
    "a label of 20 digits": (
        lambda: Labels().read("1" * 20, "row 3"),
        ValueError,
        "row 3: a label must be a class number, 0 or more, or a",
    ),
    "a label of no class": (
        lambda: Labels(("cat", "dog")).read(2, "row 3"),
        ValueError,
        "row 3: the label 2 is not one of the 2 classes, which",
    ),
    "data of a number": (lambda: open_source(3), TypeError, "data must be a folder, a CSV or Parquet file, a glob"),
}


@pytest.mark.parametrize("name", BAD)
def test_says_what_is_wrong(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, words = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as found:
            call()
    assert re.sub(r"\s+", " ", str(found.value)).startswith(words)
    assert not list(tmp_path.iterdir())


def test_ranges_beyond_the_type():
    """The greatest minus the least value overflows; the map is the same as of halves of them, to the last bit."""
    values = torch.tensor([[-3e38, 0.0, 3e38], [1.0, 2.0, 3.0]])
    assert maps.normalise(values).tolist() == [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]
    assert maps.normalise(torch.tensor([[-65504.0, 65504.0]]).half()).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("method", ["GradCAM", "ShapleyCAM", "OptiCAM", "ExpectedGradCAM"])
def test_inference_mode(method):
    """Targets made in it are kept by no backward pass."""
    x, y = torch.rand(2, 3, 8, 8), [2, 1]
    hyper = {"OptiCAM": {"max_iterations": 2}, "ExpectedGradCAM": {"n_samples": 2}}.get(method, {})

    def everything():
        function = explain(method, layer="1", **hyper)
        arrays = x.numpy(), np.array(y)
        evaluation = Evaluator(net(), net()[1], {method: METHODS[method](**hyper)}, ["average_drop", "complexity"])
        return [
            function(net(), *arrays).tolist(),
            Complexity()(net(), *arrays, explain_func=function),
            evaluation(x.clone(), torch.tensor(y)).of_set()[method],
        ]

    expected = everything()
    with torch.inference_mode():
        assert everything() == expected


def test_labels_that_the_model_does_not_have_are_errors(tmp_path):
    """They were wrong predictions once, although nothing could have been right."""
    data = [(x, label) for x, label in zip(torch.rand(4, 3, 8, 8), (0, 3, None, 3), strict=True)]
    result = evaluate(net(), "1", data, tmp_path, methods=["FakeCAM"], metrics=["complexity"])
    assert result.results["label"].to_pylist() == [0, None]
    errors = result.errors.to_pylist()
    assert [(error["index"], error["stage"]) for error in errors] == [(1, "score"), (3, "score")]
    assert {error["message"] for error in errors} == {
        "the label 3 is not one of the model's 3 classes, which count from 0"
    }


def test_a_folder_of_20_digits_is_no_class(tmp_path):
    """It is an error of its images, not of the run."""
    for name in ("1", "1" * 20):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / name / "a.png")
    options = {"methods": ["FakeCAM"], "metrics": ["complexity"], "transform": to_tensor}
    result = evaluate(net(), "1", tmp_path / "data", tmp_path / "out", **options)
    assert [error["path"] for error in result.errors.to_pylist()] == [f"{'1' * 20}/a.png"]
    assert f"the label {'1' * 20} is not one of the model's 3 classes" in result.errors["message"][0].as_py()


def test_a_class_by_name_where_there_are_no_names(tmp_path, capsys):
    (tmp_path / "nets.py").write_text("from torch import nn\ndef make(): return nn.Conv2d(1, 4, 3)\n")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ["--model", f"{tmp_path / 'nets.py'}:make", "--output", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "a.png"), *arguments, "--target", "foo"]) == 2
    assert capsys.readouterr().err == (
        "cam-extras: the names of the model's classes are not known: give 'foo' by its number\n"
    )
