"""A run over a data set: what it writes, and that it goes on whatever happens to images, process or disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from state import untouched
from test_images import BROKEN, ODD
from test_store import in_a_child
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

from cam_extras import run as module
from cam_extras.cli import main
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS, GradCAM, RandomCAM
from cam_extras.metrics import DEFAULT_METRICS, METRICS
from cam_extras.models import Classifier
from cam_extras.probe import find_layer
from cam_extras.run import evaluate
from cam_extras.runs.batches import Scorer
from cam_extras.runs.environment import git_state
from cam_extras.runs.store import NoSpaceError, Run, unpack_map
from cam_extras.runs.summary import summarise

HERE = [
    str(folder) for folder in Path(__file__).resolve().parents[:2]
]  # for other processes: tests and what they share
IMAGES = 20
CANVASES = make_canvases(IMAGES, "test", seed=3)
WHOLE = ("results.parquet", "errors.parquet", "summary.csv", "summary.json")
# A model and a transform as a user has them in a file.
USERS_FILE = """
from torchvision import transforms
from cam_extras.demo.classifier import load_classifier

def model():
    return load_classifier()

def transform():
    return transforms.Compose([transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.0], [0.26])])
"""
PREPARE = transforms.Compose([transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.0], [0.26])])
QUICK = {"methods": ["GradCAM", "RandomCAM"], "metrics": ["average_drop", "adcc"], "images_per_part": 4}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder for each class, with canvases as PNG."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (image, label) in enumerate(zip(CANVASES.images, CANVASES.labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        pixels = (image[0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number:02}.png")
    return folder


def classifier():
    return Classifier(load_classifier(), PREPARE, tuple(map(str, range(10))))


def everything(folder):
    """Return what is in every file of a folder, but for the list of starts with their dates, in run.json and report."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = json.loads(contents["run.json"])
    del run["starts"]
    contents["run.json"] = run
    starts = rb"\s*<details>\s*<summary>Start \d+ of .*?</details>|(?<=maps), \d{4}-\d\d-\d\d"
    contents["report.html"] = re.sub(starts, b"", contents["report.html"], flags=re.DOTALL)
    return contents


def same(first, second):
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in WHOLE)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    metrics = [*DEFAULT_METRICS, "insertion", "deletion"]
    folder = tmp_path_factory.mktemp("run") / "out"
    return evaluate(classifier(), LAYER, digits, folder, metrics=metrics, maps=True, target="label", pictures=2)


class TestResults:
    def test_rows_are_those_of_the_evaluator(self, run, digits):
        paths = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
        x = torch.stack([PREPARE(Image.open(digits / path).convert("RGB")) for path in paths])
        labels = torch.tensor([int(path.split("/")[0]) for path in paths])
        methods = {name: METHODS[name]() for name in module.DEFAULT_METHODS}
        model = load_classifier()
        metrics = [*DEFAULT_METRICS, "insertion", "deletion"]
        expected = Evaluator(model, find_layer(model, LAYER), methods, metrics)(x, labels)
        rows = run.results.to_pylist()
        assert [(row["path"], row["method"]) for row in rows] == [(path, name) for path in paths for name in methods]
        for row in rows:
            method, index = row["method"], row["index"]
            assert row["label"] == row["target"] == labels[index]
            assert row["predicted"] == expected.predicted[index]
            assert row["probability"] == pytest.approx(expected.confidence[index].item(), abs=1e-6)
            np.testing.assert_allclose(unpack_map(row), expected.maps[method][index].numpy(), atol=2e-3)
            for name in metrics:
                close = 1e-3 if name in ("insertion", "deletion") else 1e-5
                assert row[name] == pytest.approx(expected.scores[method][name][index].item(), abs=close)
        for method, values in expected.of_set().items():
            found = {row["metric"]: row["value"] for row in run.summary if row["method"] == method}
            for name, value in values.items():
                assert found[name] == pytest.approx(value, abs=1e-3)

    def test_summary(self, run):
        metrics = [*DEFAULT_METRICS, "insertion", "deletion"]
        assert run.summary == summarise(run.results, metrics, controls=run.controls, seed=0)
        assert {row["images"] for row in run.summary} == {IMAGES}

    def test_what_is_told_of_it(self, run):
        configuration, start = run.configuration, run.starts[-1]
        assert configuration["model"]["name"] == "Classifier"
        assert "Normalize" in configuration["model"]["transform"]
        assert configuration["layer"] == LAYER
        assert configuration["data"]["images"] == IMAGES
        assert configuration["methods"]["RandomCAM"] == {"method": "RandomCAM", "seed": 0}
        assert configuration["options"]["threshold"] == 0.5
        assert start["versions"]["torch"] == torch.__version__.split("+")[0]
        assert start["versions"]["cam_extras"]
        assert start["categories"] == list(map(str, range(10)))
        assert set(start["git"]) == {"commit", "changed"} if start["git"] else True

    def test_git_state(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert git_state() is None
        commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a", "--allow-empty"]
        for command in (["git", "init", "-q"], commit):
            subprocess.run(command, check=True, capture_output=True)
        assert git_state()["changed"] is False
        assert len(git_state()["commit"]) == 40
        (tmp_path / "new").touch()
        assert git_state()["changed"] is True
        monkeypatch.setenv("PATH", "")
        assert git_state() is None

    def test_pictures(self, run):
        drawn = run.pictures()
        assert 2 <= len(drawn) <= IMAGES
        assert all(set(pictures) == {"", *module.DEFAULT_METHODS} for pictures in drawn.values())

    def test_report(self, run):
        assert "<html" in (run.folder / "report.html").read_text(encoding="utf-8")

    def test_no_pictures(self, digits, tmp_path):
        run = evaluate(classifier(), LAYER, digits, tmp_path, pictures=0, limit=3, **QUICK)
        assert run.pictures() == {}
        assert (tmp_path / "report.html").exists()
        assert len(run.results) == 6


class TestArguments:
    def test_the_model_is_left_as_found(self, digits, tmp_path):
        model = load_classifier().train()
        with untouched(model):
            evaluate(model, LAYER, digits, tmp_path, transform=PREPARE, limit=5, device="cpu", **QUICK)

    def test_a_device_without_values_is_refused_before_the_model_is_moved(self, digits, tmp_path):
        model = load_classifier()
        with untouched(model), pytest.raises(ValueError, match="device='meta' holds no values"):
            evaluate(model, LAYER, digits, tmp_path / "out", transform=PREPARE, device="meta", **QUICK)
        assert all(parameter.device.type == "cpu" for parameter in model.parameters())
        assert not (tmp_path / "out").exists()

    def test_the_largest_seed(self, digits, tmp_path):
        run = evaluate(classifier(), LAYER, digits, tmp_path, seed=2**63 - 1, limit=2, **QUICK)
        assert len(run.results) == 4
        assert len(run.summary) > 0

    def test_layers(self, digits, tmp_path):
        model = load_classifier()
        by_name = evaluate(model, "features.block5.2", digits, tmp_path / "a", transform=PREPARE, limit=3, **QUICK)
        itself = evaluate(model, model.features.block5[2], digits, tmp_path / "b", transform=PREPARE, limit=3, **QUICK)
        auto = evaluate(model, "auto", digits, tmp_path / "c", transform=PREPARE, limit=3, **QUICK)
        assert itself.configuration["layer"] == "features.block5.2"
        assert auto.configuration["layer"] == "features"
        assert by_name.results.equals(itself.results)
        assert by_name.results.equals(auto.results)  # the container ends with it

    def test_target(self, digits, tmp_path):
        run = evaluate(classifier(), LAYER, digits, tmp_path, target=np.int64(3), limit=3, **QUICK)
        assert run.configuration["target"] == 3
        assert set(run.results["target"].to_pylist()) == {3}

    def test_seed(self, digits, tmp_path):
        first, second = (
            evaluate(classifier(), LAYER, digits, tmp_path / str(seed), seed=seed, limit=3, **QUICK) for seed in (0, 1)
        )
        assert second.configuration["methods"]["RandomCAM"]["seed"] == 1

        def drops(run, method):
            return [row["average_drop"] for row in run.results.to_pylist() if row["method"] == method]

        assert drops(first, "GradCAM") == drops(second, "GradCAM")
        assert drops(first, "RandomCAM") != drops(second, "RandomCAM")

    @pytest.mark.parametrize("kind", ["list", "data set", "loader", "generator"])
    def test_data_of_python(self, tmp_path, kind):
        x, labels = prepare(CANVASES.images), CANVASES.labels
        data = {
            "list": [{"image": image, "label": int(label)} for image, label in zip(x, labels, strict=True)],
            "data set": TensorDataset(x, labels),
            "loader": DataLoader(TensorDataset(x, labels), batch_size=7),
            "generator": ((image, int(label)) for image, label in zip(x, labels, strict=True)),
        }[kind]
        model = load_classifier()
        run = evaluate(model, LAYER, data, tmp_path, target="label", **QUICK)
        expected = Evaluator(
            model, find_layer(model, LAYER), {"GradCAM": GradCAM(), "RandomCAM": RandomCAM()}, QUICK["metrics"]
        )(x, labels)
        rows = run.results.to_pylist()
        assert [row["index"] for row in rows] == [index for index in range(IMAGES) for _ in range(2)]
        for row in rows:
            score = expected.scores[row["method"]]["adcc"][row["index"]].item()
            assert row["adcc"] == pytest.approx(score, abs=1e-5)
            assert row["label"] == labels[row["index"]]

    def test_boxes(self, tmp_path):
        data = [
            {"image": image, "boxes": box[None]}
            for image, box in zip(prepare(CANVASES.images), CANVASES.boxes, strict=True)
        ]
        model, quick = load_classifier(), QUICK | {"metrics": ["pointing_game", "energy_pointing_game"]}
        run = evaluate(model, LAYER, data, tmp_path, **quick)
        methods = {"GradCAM": GradCAM(), "RandomCAM": RandomCAM()}
        expected = Evaluator(model, find_layer(model, LAYER), methods, quick["metrics"])(
            prepare(CANVASES.images), boxes=list(CANVASES.boxes[:, None])
        )
        for row in run.results.to_pylist():
            for name in quick["metrics"]:
                score = expected.scores[row["method"]][name][row["index"]].item()
                assert row[name] == pytest.approx(score, abs=1e-5)

    def test_metrics_with_values_of_a_set_of_their_own(self, tmp_path):
        """Box accuracy has many numbers an image, and wins are those of methods that are no controls."""
        data = [
            {"image": image, "boxes": box[None]}
            for image, box in zip(prepare(CANVASES.images), CANVASES.boxes, strict=True)
        ]
        model, options = load_classifier(), {"overlaps": [0.3, 0.5]}
        names = ("GradCAM", "HiResCAM", "FakeCAM")
        arguments = {"methods": names, "metrics": ["BoxAcc", "Win"], "options": options, "images_per_part": 8}
        run = evaluate(model, LAYER, data, tmp_path / "run", **arguments)
        assert run.configuration["metrics"] == ["box_accuracy", "win_percentage"]
        assert run.configuration["pictures"]["metric"] == "average_drop"
        evaluator = Evaluator(
            model, find_layer(model, LAYER), {name: METHODS[name]() for name in names}, ["BoxAcc", "Win"], options
        )
        expected = evaluator(prepare(CANVASES.images), boxes=list(CANVASES.boxes[:, None]))
        for row in run.results.to_pylist():
            assert row["box_accuracy"] == expected.scores[row["method"]]["box_accuracy"][row["index"]].tolist()
        found = {(row["method"], row["metric"]): row["value"] for row in run.summary}
        assert found == {
            (name, metric): pytest.approx(value, abs=1e-5)
            for name, of_set in expected.of_set().items()
            for metric, value in of_set.items()
        }
        assert {name for name, metric in found if metric == "win_percentage"} == {"GradCAM", "HiResCAM"}
        report = (tmp_path / "run" / "report.html").read_text()
        assert "Box Accuracy" in report
        alone = evaluate(model, LAYER, data, tmp_path / "alone", methods=["GradCAM"], metrics="box_accuracy")
        assert alone.configuration["pictures"] == {"count": 0, "metric": None}  # nothing tells a best image
        with pytest.raises(ValueError, match="two or more methods that are no controls; got GradCAM"):
            evaluate(model, LAYER, data, tmp_path / "no", methods=["GradCAM", "FakeCAM"], metrics="win_percentage")
        assert not (tmp_path / "no").exists()

    @pytest.mark.parametrize(
        ("changes", "error", "match"),
        [
            ({"engine": "spark"}, ValueError, "engine must be one of 'local', 'ray'"),
            ({"target": "best"}, ValueError, "target must be one of 'predicted', 'label'"),
            ({"metrics": ["adc"]}, ValueError, "there is no metric 'adc': did you mean adcc"),
            ({"methods": ["Grad"]}, ValueError, "there is no method 'Grad'"),
            ({"options": {"tresh": 1}}, ValueError, "there is no option of metrics"),
            ({"batch_size": 0}, ValueError, "batch_size must be 1 or more; got 0"),
            ({"images_per_part": 0}, ValueError, "images_per_part must be 1 or more"),
            ({"pictures": -1}, ValueError, "pictures must be 0 or more"),
            ({"seed": 0.5}, TypeError, "seed must be an integer"),
            ({"seed": -1}, ValueError, "seed must be 0 or more; got -1"),
            ({"seed": 2**63}, ValueError, r"seed must be less than 2\*\*63; got 9223372036854775808"),
            (
                {"target": [1, 2]},
                TypeError,
                r"target must be 'predicted', 'label' or the number of a class; got \[1, 2\]",
            ),
            ({"target": 0.5}, TypeError, "got 0.5: to explain a different class of each image, give the data"),
            ({"target": True}, TypeError, "got True"),
            ({"target": 1.0}, TypeError, "got 1.0"),
            ({"target": torch.tensor([1, 2])}, TypeError, "got tensor"),
            ({"target": -1}, ValueError, "target must be 0 or more; got -1"),
            ({"limit": 0}, ValueError, "limit must be 1 or more"),
            ({"layer": "features.block9"}, ValueError, "there is no layer 'features.block9'"),
            ({"layer": nn.Conv2d(1, 1, 1)}, ValueError, "the layer Conv2d is not a module of this Classifier"),
            ({"data": "nowhere"}, ValueError, "there is no 'nowhere'"),
            ({"data": iter([1]), "layer": "auto"}, ValueError, "name the layer"),
            ({"mode": "append"}, ValueError, "mode must be one of"),
            ({"metrics": ["counterfactual_sensitivity"], "methods": ["FakeCAM"]}, TypeError, "does not weigh channels"),
        ],
    )
    def test_mistakes_leave_no_folder(self, digits, tmp_path, changes, error, match):
        arguments = {"layer": LAYER, "data": digits} | QUICK | changes
        with pytest.raises(error, match=match):
            evaluate(classifier(), output=tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()


class TestTrouble:
    def test_odd_and_broken_images(self, tmp_path):
        """Every kind in one folder: those that can be seen have rows, the others say why not."""
        folder = tmp_path / "images"
        folder.mkdir()
        for name, (content, _) in (ODD | BROKEN).items():
            (folder / name).write_bytes(content)
        sizes = transforms.Compose([transforms.Resize((64, 64)), PREPARE])
        run = evaluate(load_classifier(), LAYER, folder, tmp_path / "out", transform=sizes, **QUICK)
        errors = {error["path"]: error for error in run.errors.to_pylist()}
        scored = set(run.results["path"].to_pylist())
        assert scored | set(errors) == set(ODD) | set(BROKEN)
        assert not scored & set(errors)
        assert set(BROKEN) <= set(errors)
        assert len(set(BROKEN)) >= 12
        for name in BROKEN:
            assert errors[name]["stage"] == "read"
            assert BROKEN[name][1] in errors[name]["message"]
        for name in set(errors) - set(BROKEN):  # a picture of one colour may be seen as nothing at all
            assert errors[name]["stage"] == "score"

    def test_a_model_that_raises_on_one_image(self, digits, tmp_path):
        class Picky(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = load_classifier()

            def forward(self, x):
                if any(torch.equal(image, picked) for image in x):
                    raise RuntimeError("not this one")
                return self.net(x)

        paths = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
        picked = PREPARE(Image.open(digits / paths[6]).convert("RGB"))
        run = evaluate(Picky(), f"net.{LAYER}", digits, tmp_path, transform=PREPARE, **QUICK)
        assert run.errors.to_pylist() == [
            {"index": 6, "path": paths[6], "stage": "model", "message": "RuntimeError: not this one"}
        ]
        assert set(run.results["index"].to_pylist()) == set(range(IMAGES)) - {6}
        assert {row["images"] for row in run.summary} == {IMAGES - 1}

    def test_a_model_that_takes_no_image_stops_the_run(self, digits, tmp_path):
        colour = transforms.Compose([transforms.ToTensor()])
        with pytest.raises(RuntimeError, match=r"all of the first 16 images failed in the same way: .*3 channels"):
            evaluate(load_classifier(), LAYER, digits, tmp_path, transform=colour, **QUICK | {"images_per_part": 32})

    def test_no_image_at_all(self, tmp_path):
        for name in ("empty.jpg", "text.jpg"):
            (tmp_path / name).write_bytes(BROKEN[name][0])
        run = evaluate(load_classifier(), LAYER, tmp_path, tmp_path / "out", transform=PREPARE, **QUICK)
        assert len(run.results) == 0
        assert len(run.errors) == 2
        assert run.summary == []
        assert (tmp_path / "out" / "report.html").exists()
        with pytest.raises(ValueError, match=r"no image can be explained; the first, empty.jpg: cannot read"):
            evaluate(load_classifier(), "auto", tmp_path, tmp_path / "auto", transform=PREPARE, **QUICK)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"transform": None}, r"expected a tensor \(C, \*S\) for the model; got Image: give a transform"),
            ({"metrics": ["pointing_game"]}, "this image has neither boxes nor a mask"),
            ({"target": "label"}, "the class to explain is the label, and this image has none"),
        ],
    )
    def test_what_is_said_of_images_that_can_be_read(self, options, match, tmp_path):
        images = [Image.new("RGB", (28, 28)) for _ in range(3)]
        given = QUICK | {"transform": PREPARE} | options
        with pytest.raises(ValueError, match=f"no image can be explained; the first, item 0: .*{match}") as raised:
            evaluate(load_classifier(), "auto", images, tmp_path / "auto", **given)
        assert "read" not in str(raised.value)

    def test_a_layer_is_not_looked_for_in_data_that_comes_in_order(self, tmp_path):
        """A loader may be read as often as one likes: that is not why."""
        loader = DataLoader([(torch.zeros(1, 64, 64), 0)] * 3, batch_size=2)
        with pytest.raises(ValueError, match=r"this data can only be read once, in order: name the layer"):
            evaluate(load_classifier(), "auto", loader, tmp_path / "auto", **QUICK)


class TestResume:
    @pytest.mark.parametrize("moment", [0, 1, 6, 19])
    def test_interrupted(self, digits, tmp_path, monkeypatch, moment):
        def run(folder, mode):
            return evaluate(classifier(), LAYER, digits, folder, mode=mode, batch_size=2, pictures=1, **QUICK)

        run(tmp_path / "whole", "new")
        calls, evaluate_batch = iter(range(moment // 2)), Scorer._evaluate

        def interrupted(self, batch):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return evaluate_batch(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "_evaluate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "cut", "new")
        assert not (tmp_path / "cut" / "results.parquet").exists()
        done = len(list((tmp_path / "cut" / "parts").glob("*[0-9].parquet")))
        assert done == moment // 4
        again = []
        with monkeypatch.context() as patch:
            patch.setattr(
                Scorer,
                "_evaluate",
                lambda self, batch: again.extend(item.index for item in batch) or evaluate_batch(self, batch),
            )
            resumed = run(tmp_path / "cut", "resume")
        assert again == list(range(4 * done, IMAGES))
        assert everything(tmp_path / "whole") == everything(tmp_path / "cut")
        assert len(resumed.starts) == 2

    def test_of_a_stream(self, tmp_path):
        def run(folder, mode, images=IMAGES):
            items = ({"image": image} for image in prepare(CANVASES.images[:images]))
            return evaluate(load_classifier(), LAYER, items, folder, mode=mode, insist=mode == "resume", **QUICK)

        run(tmp_path / "whole", "new")
        run(tmp_path / "cut", "new")
        for part in ("00000001", "00000004"):
            (tmp_path / "cut" / "parts" / f"{part}.parquet").unlink()
        run(tmp_path / "cut", "resume")
        assert same(tmp_path / "whole", tmp_path / "cut")

    def test_another_configuration_is_refused(self, digits, tmp_path):
        def run(**changes):
            return evaluate(classifier(), LAYER, digits, tmp_path, **QUICK | {"limit": 4} | changes)

        first = run()
        with pytest.raises(ValueError, match="holds a run already"):
            run()
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        for changes, difference in (
            ({"methods": ["GradCAM"]}, "methods.RandomCAM: "),
            ({"seed": 4}, "seed: 0 -> 4"),
            ({"target": 3}, 'target: "predicted" -> 3'),
            ({"batch_size": 3}, 'batch_size: "auto" -> 3'),
            ({"options": {"fill": 0.3}}, "options.fill: 0.0 -> 0.3"),
            ({"limit": 5}, "limit: 4 -> 5"),
            ({"maps": True}, "maps: false -> true"),
        ):
            with pytest.raises(ValueError, match="another configuration") as caught:
                run(mode="resume", **changes)
            assert difference in str(caught.value)
        model = load_classifier()
        with torch.no_grad():
            model.classifier.bias[0] += 1e-3
        with pytest.raises(ValueError, match=r"model.sha256: "):
            evaluate(Classifier(model, PREPARE), LAYER, digits, tmp_path, mode="resume", **QUICK | {"limit": 4})
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        assert run(mode="resume").results.equals(first.results)
        assert run(mode="overwrite", seed=4).configuration["seed"] == 4

    def test_changed_data_is_refused(self, tmp_path):
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(3):
            Image.fromarray(np.full((64, 64), 60 * number, np.uint8)).save(folder / f"{number}.png")

        def run(mode):
            return evaluate(classifier(), LAYER, folder, tmp_path / "out", mode=mode, **QUICK)

        run("new")
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "3.png")
        with pytest.raises(ValueError, match=r"data.images: 3 -> 4"):
            run("resume")


class TestPassingErrors:
    """Data that is out of reach for a while."""

    @pytest.fixture
    def images(self, digits, tmp_path):
        return Path(shutil.copytree(digits, tmp_path / "images"))

    def run(self, images, folder, mode="new", **options):
        options = {
            "methods": ["GradCAM", "RandomCAM"],
            "metrics": ["adcc"],
            "pictures": 2,
            "images_per_part": 4,
        } | options
        return evaluate(classifier(), LAYER, images, folder, mode=mode, **options)

    def away(self, images, monkeypatch, after):
        """Have the data moved away when some images have been scored, and back when the run is done."""
        calls, score = iter(range(after)), Scorer._evaluate
        gone = images.with_name("gone")

        def moved(self, batch):
            if next(calls, None) is None and images.exists():
                images.rename(gone)
            return score(self, batch)

        @contextlib.contextmanager
        def while_running():
            with monkeypatch.context() as patch:
                patch.setattr(Scorer, "_evaluate", moved)
                patch.setattr("cam_extras.runs.engines.local._READ_AHEAD", 1)
                yield
            gone.rename(images)

        return while_running()

    def test_retry_errors(self, images, tmp_path, monkeypatch):
        self.run(images, tmp_path / "whole")
        with self.away(images, monkeypatch, after=1):
            cut = self.run(images, tmp_path / "cut", batch_size="auto")
        failed = cut.errors.to_pylist()
        assert len(failed) >= 8
        assert {error["stage"] for error in failed} == {"read"}
        assert len(self.run(images, tmp_path / "cut", "resume").errors) == len(failed)
        again, score = [], Scorer._evaluate
        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "_evaluate", lambda self, batch: again.extend(batch) or score(self, batch))
            healed = self.run(images, tmp_path / "cut", "resume", retry_errors=True)
        assert len(healed.errors) == 0
        assert {item.index // 4 for item in again} == {error["index"] // 4 for error in failed}
        assert everything(tmp_path / "whole") == everything(tmp_path / "cut")

    def test_errors_that_stay(self, images, tmp_path):
        next(images.rglob("*.png")).write_bytes(b"no")
        first = self.run(images, tmp_path / "out")
        again = self.run(images, tmp_path / "out", "resume", retry_errors=True)
        assert len(first.errors) == 1
        assert again.errors.equals(first.errors)
        assert again.results.equals(first.results)

    @pytest.mark.parametrize("mode", ["new", "overwrite"])
    def test_nothing_to_retry(self, images, tmp_path, mode):
        with pytest.raises(ValueError, match='retry_errors=True goes with mode="resume": there is nothing'):
            self.run(images, tmp_path / "out", mode, retry_errors=True)
        assert not (tmp_path / "out").exists()

    def test_many_in_a_row_stop_the_run(self, images, tmp_path, monkeypatch):
        """And the run goes on as if nothing had been."""
        for number in range(40):
            shutil.copy(next(images.rglob("*.png")), images / "9" / f"z{number:02}.png")
        self.run(images, tmp_path / "whole")
        with (
            self.away(images, monkeypatch, after=1),
            pytest.raises(
                RuntimeError,
                match=r"32 images in a row cannot be read, the last .*: there is no image .*"
                r'go on with mode="resume", retry_errors=True; or with insist=True if',
            ),
        ):
            self.run(images, tmp_path / "cut")
        assert not (tmp_path / "cut" / "results.parquet").exists()
        healed = self.run(images, tmp_path / "cut", "resume", retry_errors=True)
        assert len(healed.errors) == 0
        assert everything(tmp_path / "whole") == everything(tmp_path / "cut")

    @pytest.mark.parametrize("read", [None, 31])
    def test_how_many(self, tmp_path, digits, read):
        """In a row: one that can be read among them, and the run goes on; and it does where somebody insists."""
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(40):
            (folder / f"{number:02}.png").write_bytes(b"no")
        if read is not None:
            shutil.copy(next(digits.rglob("*.png")), folder / f"{read:02}.png")
            assert len(self.run(folder, tmp_path / "out").errors) == 39
            return
        with pytest.raises(RuntimeError, match=r"the last 31.png: cannot read .*or with insist=True"):
            self.run(folder, tmp_path / "out")
        assert len(self.run(folder, tmp_path / "out", "resume", insist=True).errors) == 40

    def test_many_in_a_row_by_command(self, command, tmp_path, capsys):
        (tmp_path / "broken").mkdir()
        for number in range(33):
            (tmp_path / "broken" / f"{number:02}.png").write_bytes(b"no")
        assert main([*command, f"--data={tmp_path / 'broken'}", f"--output={tmp_path / 'out'}"]) == 2
        error = capsys.readouterr().err
        assert "go on with --resume, --retry-errors; or with --insist if these files" in error

    def test_by_command(self, command, images, tmp_path, capsys):
        command = [f"--data={images}" if part.startswith("--data") else part for part in command]
        image = next(images.rglob("*.png"))
        command += [f"--output={tmp_path / 'out'}", "--methods", "GradCAM", "--metrics", "adcc"]
        content = image.read_bytes()
        read = module.Reader.read

        def failing(self, source, index):
            if source.path(index).endswith(image.name):
                image.unlink(missing_ok=True)
            return read(self, source, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Reader, "read", failing)
            assert main(command) == 3
        image.write_bytes(content)
        assert main([*command, "--resume"]) == 3
        capsys.readouterr()
        assert main([*command, "--resume", "--retry-errors"]) == 0
        assert len(Run(tmp_path / "out").errors) == 0
        assert main([*command, "--overwrite", "--retry-errors"]) == 2
        assert "--retry-errors goes with --resume: there is nothing to retry without it" in capsys.readouterr().err


@pytest.fixture
def command(digits, tmp_path):
    """The command line of a run on digits, slow enough to be killed in the middle."""
    (tmp_path / "mine.py").write_text(USERS_FILE)
    return [
        "evaluate",
        f"--model={tmp_path / 'mine.py'}:model",
        f"--transform={tmp_path / 'mine.py'}:transform",
        f"--layer={LAYER}",
        f"--data={digits}",
        "--images-per-part=1",
        "--batch-size=1",
        "--pictures=2",
        "--methods",
        "GradCAM",
        "RandomCAM",
        "OptiCAM:max_iterations=5",
        "--metrics",
        "adcc",
        "average_drop",
        "hci",
    ]


def interrupt_run(command, whole, killed):
    """Run in a fresh interpreter: one run is left alone, another killed at 10 random moments and resumed each time."""
    moments = random.Random(0)
    status = [in_a_child(main, [*command, f"--output={killed}"])]
    killed.rename(whole)  # so that both have the same settings

    def done():
        return len(list(killed.glob("parts/*[0-9].parquet")))

    def wait(parts, seconds):
        until = time.monotonic() + seconds
        while done() < parts and time.monotonic() < until:
            time.sleep(0.001)

    def kill(child):
        # Some parts before the last one, so that a machine that is slow to kill does not see the end of the run.
        wait(min(done() + moments.randint(0, 2), IMAGES - 5), seconds=60)
        wait(IMAGES - 4, seconds=moments.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)

    for _ in range(10):
        status.append(in_a_child(main, [*command, f"--output={killed}", "--resume"], then=kill))
    before = done()
    status.append(in_a_child(main, [*command, f"--output={killed}", "--resume"]))
    os.write(1, json.dumps({"status": status, "done": before}).encode())


@pytest.mark.slow
def test_killed_at_random_moments(command, tmp_path, capsys):
    """kill -9, ten times, each time resumed: all files are those of a run that was left alone, to the bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code = (
        f"import sys; sys.path[:0] = {HERE!r}; from pathlib import Path, PosixPath; import test_run; "
        f"test_run.interrupt_run({command!r}, {whole!r}, {killed!r})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    found = json.loads(printed.stdout.splitlines()[-1])
    assert found["status"] == [0] + [-9] * 10 + [0]
    assert 0 < found["done"] < IMAGES
    expected, contents = everything(whole), everything(killed)
    assert sorted(contents) == sorted(expected)
    assert [name for name in expected if contents[name] != expected[name]] == []
    assert len(expected) > 2 * IMAGES
    assert any(name.endswith(".pictures.parquet") for name in expected)
    with capsys.disabled():
        print(f"\nkill -9 ten times: {len(expected)} files compared, {len(Run(killed).starts)} starts")
    # The first starts may have been killed before there was anything to be known of them.
    assert 2 <= len(Run(killed).starts) <= 11


class TestNoRoom:
    @pytest.fixture
    def disk(self, tmp_path):
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
        if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no small disk can be mounted")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_full_disk(self, digits, disk, tmp_path):
        def run(folder, mode):
            return evaluate(classifier(), LAYER, digits, folder, mode=mode, maps=True, pictures=0, **QUICK)

        run(tmp_path / "whole", "new")
        with pytest.raises(
            NoSpaceError,
            match=r'there was no room to write .* what is done is kept; make room, then go on with mode="resume"',
        ):
            run(disk, "new")
        parts = list((disk / "parts").glob("*[0-9].parquet"))
        assert 0 < len(parts) < IMAGES // 4
        for part in parts:
            assert pq.ParquetFile(part).read().num_rows == 2 * 4
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        run(disk, "resume")
        assert same(tmp_path / "whole", disk)

    def test_told_by_the_command(self, digits, disk, tmp_path, capsys, command):
        assert main([*command, "--methods", "GradCAM", "--maps", f"--output={disk}", "--pictures=0"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cam-extras: there was no room to write ")
        assert "go on with --resume" in error


class Noise(torch.utils.data.Dataset):
    """Many small images, made when they are read."""

    def __len__(self):
        return 5000

    def __getitem__(self, index):
        return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)), index % 3


def measure_memory(folder):
    """Run in a fresh interpreter: print the memory in use, in MB, as parts are written."""
    from cam_extras.runs.store import Store

    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    used, write = [], Store.write

    def measured(self, *args, **options):
        write(self, *args, **options)
        with open("/proc/self/statm") as file:
            used.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    Store.write = measured
    run = evaluate(net, "1", Noise(), folder, methods=["GradCAM", "FakeCAM"], metrics=["average_drop", "insertion"])
    print(json.dumps({"used": used, "rows": len(run.results)}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_5000_images(tmp_path):
    code = f"import sys; sys.path[:0] = {HERE!r}; import test_run; test_run.measure_memory({str(tmp_path)!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(printed.stdout.splitlines()[-1])
    assert found["rows"] == 2 * 5000
    used = found["used"]
    assert len(used) == 157
    assert max(used[-20:]) - max(used[20:40]) < 10


class TestCommand:
    def test_methods_and_metrics_of_ones_own_and_short_names(self, command, tmp_path, capsys):
        file = tmp_path / "mine.py"
        file.write_text(
            f"{USERS_FILE}\nfrom cam_extras.methods import GradCAM\nfrom cam_extras.metrics.base import metric\n"
            "class MyCAM(GradCAM):\n    paper = 'mine'\n"
            "@metric(title='M', short='M', higher_is_better=True, meaning='m', paper='none')\n"
            "def of_a_command(maps):\n    return maps.flatten(1).mean(dim=1)\n"
        )
        chosen = ["--method", f"{file}:MyCAM", "--method=gradcam", "--metric=AD", f"--metric={file}:of_a_command"]
        command = [*command[: command.index("--methods")], *chosen, "--limit=3", f"--output={tmp_path / 'out'}"]
        try:
            assert main(command) == 0
            run = Run(tmp_path / "out")
            assert list(run.configuration["methods"]) == ["MyCAM", "GradCAM"]
            assert run.configuration["metrics"] == ["average_drop", "of_a_command"]
            assert {row["metric"] for row in run.summary} >= {"average_drop", "of_a_command"}
            again = ["evaluate", f"--config={tmp_path / 'out' / 'config.yaml'}", "--resume"]
            capsys.readouterr()
            assert main(again) == 2
            assert f"methods: {file}:MyCAM; metrics: {file}:of_a_command" in capsys.readouterr().err.replace(
                ", metrics", "; metrics"
            )
            assert main([*again, "--trust-code"]) == 0
        finally:
            METRICS.pop("of_a_command", None)

    def test_run_and_configuration_that_reproduces_it(self, command, tmp_path, capsys):
        first, second = tmp_path / "first", tmp_path / "second"
        assert main([*command, f"--output={first}", "--limit=5"]) == 0
        printed = capsys.readouterr()
        assert "AD ↓" in printed.out
        assert "OptiCAM:max_iterations=5" in printed.out
        assert str(first / "report.html") in printed.out
        assert "5 images" in " ".join(printed.out.split())
        assert printed.err == ""
        settings = yaml.safe_load((first / "config.yaml").read_text())
        assert settings["limit"] == 5
        assert settings["layer"] == LAYER
        repeat = ["evaluate", f"--config={first / 'config.yaml'}"]
        assert main([*repeat, f"--output={second}"]) == 2
        assert "config.yaml names code, which could do anything" in capsys.readouterr().err
        assert not second.exists()
        repeat.append("--trust-code")
        assert main([*repeat, f"--output={second}"]) == 0
        assert same(first, second)
        capsys.readouterr()
        assert main(repeat) == 2
        assert "holds a run already (run.json): give --resume to go on with it, or --overw" in capsys.readouterr().err
        assert main([*repeat, "--resume"]) == 0
        assert main([*repeat, "--resume", "--seed=4"]) == 2
        error = capsys.readouterr().err
        assert "seed: 0 -> 4" in error
        assert "or --overwrite to start anew" in error
        assert main([*repeat, "--overwrite", "--seed=4"]) == 0

    def test_layer_picked(self, command, tmp_path, capsys):
        command[3] = "--layer=auto"
        assert main([*command, f"--output={tmp_path / 'out'}", "--limit=2"]) == 0
        assert "layer features, the last feature map before pooling" in " ".join(capsys.readouterr().out.split())
        assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["layer"] == "features"

    def test_errors_have_a_status_of_their_own(self, command, digits, tmp_path, capsys):
        folder = tmp_path / "some"
        folder.mkdir()
        for number, path in enumerate(sorted(digits.rglob("*.png"))[:3]):
            (folder / f"{number}.png").write_bytes(path.read_bytes())
        for number in range(12):
            (folder / f"broken {number:02}.png").write_bytes(b"no")
        assert main([*command, f"--output={tmp_path / 'out'}", f"--data={folder}"]) == 3
        printed = capsys.readouterr()
        assert "3 images, 12 more have no scores" in " ".join(printed.out.split())
        assert printed.err.count("cannot identify") == 10
        assert "and 2 more, in" in printed.err
        for path in folder.glob("[0-9].png"):
            path.unlink()
        assert main([*command, f"--output={tmp_path / 'none'}", f"--data={folder}"]) == 2
        assert "none of 12 images could be scored" in capsys.readouterr().err

    def test_interrupted(self, command, tmp_path, capsys, monkeypatch):
        def interrupt(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(Scorer, "__call__", interrupt)
        assert main([*command, f"--output={tmp_path / 'out'}"]) == 130
        assert "interrupted; what is done is kept: go on with --resume" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["--model=resnet19"], "there is no torchvision model 'resnet19'"),
            (["--methods", "GradCamm"], "there is no method 'GradCamm': did you mean GradCAM"),
            (["--metrics", "adc"], "there is no metric 'adc'"),
            (["--options", "threshold"], "expected NAME=VALUE"),
            (["--target=cat"], "the names of the model's classes are not known: give 'cat'"),
            (["--batch-size=many"], "--batch-size must be 'auto' or an integer; got 'many'"),
            (["--data=nowhere"], "there is no 'nowhere'"),
            (["--target=label", "--data=SOME"], "has no labels"),
            (["--metrics", "pointing_game"], "a metric asks where the object is"),
            (["--device=abacus"], "'abacus' is not available here"),
        ],
    )
    def test_mistakes_are_told_in_one_line(self, command, digits, tmp_path, capsys, arguments, match):
        (tmp_path / "some").mkdir()
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "some" / "0.png")
        arguments = [argument.replace("SOME", str(tmp_path / "some")) for argument in arguments]
        with contextlib.suppress(SystemExit):
            assert main([*command, f"--output={tmp_path / 'out'}", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cam-extras: ")
        assert match in error

    def test_progress_is_shown_in_terminals_alone(self, digits, tmp_path, capsys):
        evaluate(classifier(), LAYER, digits, tmp_path / "quiet", limit=4, **QUICK)
        assert capsys.readouterr() == ("", "")
        evaluate(classifier(), LAYER, digits, tmp_path / "shown", limit=4, batch_size=1, progress=True, **QUICK)
        shown = capsys.readouterr().err
        assert "4/4" in shown
        assert "images/s" in shown
