"""Every method and metric on a real MobileNet-V2 and real photographs."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import quantus
import torch
from conftest import REALDATA
from hosts import ANYWHERE, SEVERAL_PASSES
from PIL import Image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget

import cam_extras as ours
from cam_extras.captum import LayerGradCam
from cam_extras.cli import main
from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS, Schedule, box_mask, crop_boxes, sources_of
from cam_extras.models import load_model
from cam_extras.quantus import METRIC_CLASSES, explain

pytestmark = pytest.mark.realdata

LAYERS = ["features.18", "features.17", "features.13"]


@pytest.fixture(scope="module")
def images(realdata):
    return realdata.read(6)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_every_method_and_metric(realdata, images, layer):
    module = realdata.model.get_submodule(layer)
    too_slow = ("ScoreCAM", "SSCAM", "ISCAM")  # which need a forward pass and more for every channel
    names = [name for name in METHODS if name in ANYWHERE and name not in too_slow]
    methods = {name: METHODS[name](**SEVERAL_PASSES.get(name, {})) for name in names}
    evaluation = Evaluator(realdata.model, module, methods)(images)
    for name in methods:
        maps = evaluation.maps[name]
        assert maps.shape == (6, 224, 224)
        assert maps.min() >= 0
        assert maps.max() == 1
        for scores in evaluation.scores[name].values():
            assert ((scores >= 0) & (scores <= 1)).all()
    summary = evaluation.of_set()
    if layer != "features.13":  # two thirds of the way up, no method does much better than chance
        for name in ("GradCAM", "HiResCAM", "ShapleyCAM", "ShapleyCAMH", "ShapleyCAME"):
            assert summary[name]["adcc"] > summary["RandomCAM"]["adcc"] + 0.1
            assert summary[name]["coherency"] > 0.9
    assert summary["FakeCAM"]["average_drop"] < 0.01
    assert summary["FakeCAM"]["adcc"] < 0.01


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "ShapleyCAM"])
def test_equals_pytorch_grad_cam(realdata, images, name, layer):
    module = realdata.model.get_submodule(layer)
    classes = realdata.model(images[:4]).argmax(dim=1).tolist()
    for kind in (ClassifierOutputTarget, ClassifierOutputReST):
        targets = [kind(c) for c in classes]
        with getattr(upstream, name)(realdata.model, [module]) as cam:
            theirs = cam(images[:4], targets)
        mine = getattr(ours, name)(realdata.model, [module])(images[:4], targets)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def test_equals_captum(realdata, images):
    from captum.attr import LayerGradCam as CaptumLayerGradCam

    layer = realdata.model.get_submodule("features.17")
    classes = realdata.model(images).argmax(dim=1)
    theirs = CaptumLayerGradCam(realdata.model, layer).attribute(images, classes)
    assert torch.equal(LayerGradCam(realdata.model, layer).attribute(images, classes), theirs)


def test_class_activation_map_weights(realdata, images):
    """After global average pooling and one linear layer, Grad-CAM's weights are the classifier's, over 49 cells."""
    from cam_extras.probe import Probe

    probe = Probe(realdata.model, realdata.model.get_submodule("features.18"), images[:3])
    weights = METHODS["GradCAM"]().channel_weights(probe)
    torch.testing.assert_close(weights, realdata.model.classifier.weight[probe.target] / 49, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_opti_cam_shows_what_the_class_is_seen_in(realdata, images):
    methods = {"OptiCAM": METHODS["OptiCAM"](**METHODS["OptiCAM"].FAST), "GradCAM": METHODS["GradCAM"]()}
    names = ["average_drop", "average_gain"]
    evaluation = Evaluator(realdata.model, realdata.model.get_submodule("features.18"), methods, names)(images)
    summary = evaluation.of_set()
    assert summary["OptiCAM"]["average_drop"] < 0.02
    assert summary["OptiCAM"]["average_gain"] > 0.65
    assert summary["OptiCAM"]["average_gain"] > summary["GradCAM"]["average_gain"] + 0.2


@pytest.fixture(scope="module")
def boxed(realdata):
    """The 15 validation images, their classes, and their boxes in the crop that the model sees."""
    with (realdata.folder / "imagenet_boxes" / "boxes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = sorted({row["file"] for row in rows})
    images, classes, boxes = [], [], []
    for name in files:
        image = Image.open(realdata.folder / "imagenet_boxes" / name)
        of_file = [row for row in rows if row["file"] == name]
        corners = torch.tensor([[int(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")] for row in of_file])
        corner = (round((image.width - 224) / 2), round((image.height - 224) / 2))
        images.append(realdata.prepare(image))
        classes.append(int(of_file[0]["class_index"]))
        boxes += crop_boxes([corners], corner, (224, 224))
    return torch.stack(images), classes, boxes


def test_localisation(realdata, boxed):
    """What localises is better than a map of nothing but ones, but where a metric rewards covering everything."""
    x, classes, boxes = boxed
    assert max(map(len, boxes)) > 1
    names = [name for name in METRICS if "object" in sources_of(name)]
    methods = {name: METHODS[name]() for name in ("GradCAM", "ShapleyCAM", "FakeCAM")}
    evaluator = Evaluator(realdata.model, realdata.model.get_submodule("features.18"), methods, names)
    evaluation = evaluator(x, classes, boxes=boxes)
    summary = evaluation.of_set()
    covered = box_mask(boxes, (224, 224)).double().mean(dim=(1, 2))
    assert summary["FakeCAM"]["energy_pointing_game"] == pytest.approx(covered.mean().item(), abs=1e-4)
    for name in ("GradCAM", "ShapleyCAM"):
        assert summary[name]["energy_pointing_game"] > summary["FakeCAM"]["energy_pointing_game"] + 0.05
        assert summary[name]["pointing_game"] > 0.7 > summary["FakeCAM"]["pointing_game"]
    wrong = evaluation.predicted != torch.tensor(classes)
    assert 0 < wrong.sum() < 10
    for scores in evaluation.scores.values():
        assert (scores["official_metric"][wrong] == 1).all()
        assert torch.equal(scores["official_metric"][~wrong], scores["localisation_error"][~wrong])


@pytest.mark.slow
def test_quantus(realdata, boxed):
    x, classes, boxes = boxed[0][:4], np.array(boxed[1][:4]), boxed[2][:4]
    metrics = {
        cls.name: cls(schedule=Schedule(0.5)) if "schedule" in cls.option_names() else cls()
        for cls in METRIC_CLASSES
        if "weights" not in cls.sources()
    }
    methods = {name: explain(name, layer="features.17") for name in ("GradCAM", "ShapleyCAM", "FakeCAM")}
    results = quantus.evaluate(
        metrics,
        methods,
        realdata.model,
        x.numpy(),
        classes,
        s_batch=box_mask(boxes, (224, 224))[:, None].numpy(),
        explain_func_kwargs={},
        agg_func=np.mean,
    )
    for row in results.values():
        assert set(row) == set(metrics)
        assert np.isfinite(list(row.values())).all()
    assert results["ShapleyCAM"]["ADCC"] > results["FakeCAM"]["ADCC"]
    assert results["ShapleyCAM"]["Insertion - Deletion"] > results["FakeCAM"]["Insertion - Deletion"]


@pytest.mark.slow
def test_explain_command(realdata, tmp_path):
    image = next(path for path in realdata.paths if "flamingo" in path.name)
    arguments = ["--model", f"{realdata.folder / 'models.py'}:mobilenet_v2", "--weights", str(realdata.weights)]
    names = ["GradCAM", "OptiCAM", "FEM"]  # the last is pytorch-grad-cam's
    arguments += [f"--method={name}" for name in names]
    assert main(["explain", str(image), *arguments, "--layer", "features.17", "--output", str(tmp_path)]) == 0
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == names
    assert {row["predicted"] for row in rows} == {"130"}  # flamingo
    assert float(rows[0]["probability"]) > 0.9


@pytest.mark.slow
def test_auto_on_a_transformer_shows_more_than_random_weights():
    """Grad-CAM of the real ViT-Tiny at the layer that is found: less drop, more insertion, outside 95 % intervals."""
    pytest.importorskip("timm", reason="needs timm: pip install cam_extras[timm]")
    classifier = load_model("timm/vit_tiny_patch16_224", str(REALDATA / "vit_tiny_imagenet.safetensors"))
    options = {"schedule": Schedule(step=0.2, insert_into="blur")}
    evaluator = Evaluator(classifier.model, "auto", ["GradCAM", "RandomCAM"], ["average_drop", "insertion"], options)
    paths = sorted((REALDATA / "imagenet").glob("*.JPEG"))
    drops, insertions = [], []
    for first in range(0, len(paths), 8):
        part = [classifier.transform(Image.open(path).convert("RGB")) for path in paths[first : first + 8]]
        scores = evaluator(torch.stack(part)).scores
        drops.append(scores["RandomCAM"]["average_drop"] - scores["GradCAM"]["average_drop"])
        insertions.append(scores["GradCAM"]["insertion"] - scores["RandomCAM"]["insertion"])
    for gain in (torch.cat(drops), torch.cat(insertions)):
        assert len(gain) == 200
        assert gain.mean() > 1.96 * gain.std() / len(gain) ** 0.5
