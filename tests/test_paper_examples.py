"""The studies of examples/ run from the package alone, and what must hold for them does."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import runpy
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluator
from cam_extras.methods import MIGradCAM
from cam_extras.metrics import crop_boxes

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Imported once, by the process that those of the scripts are forked from: it takes longer than most of the scripts.
SHARED_IMPORTS = ["sklearn.datasets", "skimage.metrics", "cam_extras.evaluation", "cam_extras.report"]


def run_script(name: str, arguments: tuple[str, ...], folder: Path, log: Path) -> None:
    """Run a script as Python does, in this process."""
    script = str(EXAMPLES / f"{name}.py")
    os.chdir(folder)
    os.environ["COLUMNS"] = "200"
    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(EXAMPLES))
    with open(log, "w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            runpy.run_path(script, run_name="__main__")
        except Exception:
            traceback.print_exc()  # into the log, where the process itself would not
            raise


@pytest.fixture
def study(tmp_path):
    """Run a script on the digits in an empty folder: the rows of each of its tables, by first cell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SHARED_IMPORTS)
    folder, log = tmp_path / "empty", tmp_path / "log.txt"
    folder.mkdir()

    def run(name: str, *arguments: str) -> list[dict[str, list[float]]]:
        process = context.Process(target=run_script, args=(name, arguments, folder, log))
        process.start()
        process.join()
        text = log.read_text()
        assert process.exitcode == 0, text
        assert "Warning" not in text
        assert {path.name for path in folder.iterdir()} <= {f"{name}-output"}
        for picture in folder.glob("*/*.png"):
            assert np.asarray(Image.open(picture)).std() > 5, f"{picture} is empty"
        tables: list[dict[str, list[float]]] = []
        for line in text.splitlines():
            if line.startswith("┏"):
                tables.append({})
            if line.startswith("│"):
                first, *rest = (cell.strip() for cell in line.strip("│").split("│"))
                tables[-1][first] = [float(cell.split()[0]) for cell in rest if cell]
        return tables

    return run


@pytest.fixture
def pictures(tmp_path):
    return lambda: sorted(path.name for path in tmp_path.glob("empty/*-output/*"))


def test_without_mutual_information_the_weights_of_a_linear_head_do_not_change(study, pictures):
    (table,) = study("counterfactual_sensitivity", "--images", "3", "--layer", "features.block5")
    assert table["without: Grad-CAM"] == [0, 0]
    assert min(table["with: MI-Grad-CAM"]) > 0.02
    assert pictures() == ["weights.png"]


def test_mutual_information_changes_the_weights(study, pictures):
    (table,) = study("mutual_information_weights", "--images", "3", "--bins", "16")
    change, counting, likeness = zip(*table.values(), strict=True)
    assert min(change) > 0
    assert all(0 < share <= 100 for share in counting)
    assert likeness[0] == 1 > max(likeness[1:])
    assert pictures() == ["weights.png"]


def test_random_weights_change_the_maps_of_methods_that_look_at_the_model(study, pictures):
    tables = study("cascading_randomisation", "--images", "2", "--methods", "GradCAM", "FakeCAM")
    assert len(tables) == 2
    for table in tables:
        assert len(table) == 1 + 6
        assert table["trained"] == [1, 1]
        assert table["classifier"][0] < 0.9
        assert {fake for _, fake in table.values()} == {1}
    assert pictures() == ["likeness.png", "maps.png"]


def test_saturation_ends_where_the_image_is(study, pictures):
    saturation, insertion = study("saturation", "--images", "2", "--steps", "5")
    for *shares, last, reached in saturation.values():
        assert last == 1
        assert shares[0] < 1
        assert 0 < reached <= 1
    assert len(insertion) == 3
    assert pictures() == ["curves.png", "maps.png"]


def test_the_objective_that_shows_the_class_best_is_the_paper_s(study):
    (table,) = study("opti_cam_objectives", "--images", "4", "--iterations", "10")
    assert len(table) == 1 + 8 + 2  # Fake-CAM under a heading of its own
    gain = {name: row[1] for name, row in table.items() if row}
    assert gain["Opti-CAM, mask, range"] > max(gain["Opti-CAM, diff, range"], gain["Fake-CAM"])


def test_more_iterations_are_better(study, pictures):
    (table,) = study("opti_cam_iterations", "--images", "4", "--iterations", "1", "20")
    for recipe in ("learning rate 0.1", "learning rate 0.5", "fast"):
        (drop, gain, _), (later_drop, later_gain, _) = (table[f"{recipe}, {n} iterations"] for n in (1, 20))
        assert later_drop <= drop
        assert later_gain > gain
    assert pictures() == ["iterations.png"]


def test_layers_are_compared(study):
    opti_cam, grad_cam = study("layers", "--images", "2", "--iterations", "10")
    assert list(opti_cam) == list(grad_cam) == [f"features.block{number}" for number in (5, 4, 3, 2)]
    assert all(opti_cam[layer][1] > grad_cam[layer][1] for layer in ("features.block5", "features.block4"))


def test_maps_that_show_nearly_everything_lose_nearly_nothing(study, pictures):
    drop, gain, increase = study("selectivity", "--images", "2", "--iterations", "3")
    assert list(drop) == list(gain) == list(increase)
    for row in drop.values():
        assert len(row) == 10
        assert row[0] < 5 < row[-1]
    assert pictures() == ["selectivity.png"]


def test_what_fake_cam_shows_inside_the_box_is_the_box(study):
    (table,) = study("box_study", "--images", "4", "--iterations", "3")
    assert len(table) == 2 + 5
    assert table["Fake-CAM"][1::3] == pytest.approx(table["S := B"], abs=0.5)
    assert table["Fake-CAM"][2::3] == pytest.approx(table["S := I \\ B"], abs=0.5)
    assert table["Grad-CAM"] != table["Opti-CAM"]


def test_a_probability_and_its_logarithm_give_the_same_maps(study, pictures):
    (table,) = study("scores", "--images", "4")
    assert table["p, post-softmax"] == table["ln p"]
    assert len({tuple(row) for row in table.values()}) == 3
    assert pictures() == ["maps.png"]


def test_settings_are_compared_with_the_default(study):
    (table,) = study("defaults", "--method", "mi", "--images", "6")
    default = table.pop("64 bins (default)")
    assert all(0 < value < 100 for value in default)
    assert list(table) == [*(f"{bins} bins" for bins in (8, 16, 32, 128, 256)), "discrete"]
    assert len({tuple(row) for row in table.values()}) == len(table)  # each is another method
    canvases = make_canvases(6, "test", seed=0)
    model = load_classifier()
    methods = {"default": MIGradCAM(), "8 bins": MIGradCAM(bins=8)}
    names = ["thresholded_drop", "thresholded_increase", "average_drop", "average_gain"]
    scores = Evaluator(model, model.get_submodule(LAYER), methods, names)(prepare(canvases.images)).scores
    for place, name in enumerate(names):
        of_default, of_other = (100 * scores[method][name].mean().item() for method in methods)
        assert default[place] == pytest.approx(of_default, abs=0.0501)
        assert table["8 bins"][place] == pytest.approx(of_other - of_default, abs=0.0501)


@pytest.mark.realdata
def test_photographs_are_loaded_with_their_boxes(realdata):
    spec = importlib.util.spec_from_file_location("example_data", EXAMPLES / "data.py")
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    model, layer, x, labels, boxes = data.load(str(realdata.folder), 3, boxed=True)
    assert x.shape == (3, 3, 224, 224)
    assert model(x).shape == (3, 1000)
    assert layer in model.modules()
    with open(realdata.folder / "imagenet_boxes" / "boxes.csv") as file:
        rows = list(csv.DictReader(file))
    files = list(dict.fromkeys(row["file"] for row in rows))[::5]
    for file, label, found in zip(files, labels, boxes, strict=True):
        of_file = [row for row in rows if row["file"] == file]
        corners = torch.tensor([[int(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")] for row in of_file])
        with Image.open(realdata.folder / "imagenet_boxes" / file) as image:
            corner = tuple(round((side - 224) / 2) for side in image.size)
        assert label == int(of_file[0]["class_index"])
        assert torch.equal(found, crop_boxes([corners], corner, (224, 224))[0])
