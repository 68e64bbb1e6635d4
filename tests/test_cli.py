"""The command line: demo, list and explain."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hosts import ANYWHERE
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model, resnet18

import cam_extras
from cam_extras.cli import main
from cam_extras.demo.canvases import DIGIT_SIZES, SIZE, make_canvases
from cam_extras.demo.classifier import load_classifier, prepare
from cam_extras.demo.train import accuracy, train
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS, METRICS
from cam_extras.models import load_model
from cam_extras.probe import Probe

DEMO_METRICS = (*DEFAULT_METRICS, "pointing_game")


def read_results(folder):
    with (folder / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestDemo:
    def test_output(self, tmp_path, capsys):
        assert main(["demo", "--images", "6", "--output", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        for name in ANYWHERE:
            assert name in printed
        for name in DEMO_METRICS:
            assert f"{METRICS[name].short} {METRICS[name].arrow}" in printed
        assert str(tmp_path / "out" / "gallery.png").replace("\n", "") in printed.replace("\n", "")
        rows = read_results(tmp_path / "out")
        assert len(rows) == 6 * len(ANYWHERE)
        about = {"index", "path", "method", "label", "target", "predicted", "probability", "map_mean", "map_max"}
        assert set(rows[0]) == about | {*DEMO_METRICS}
        assert "<html" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        for row in rows:
            assert all(0 <= float(row[name]) <= 1 for name in DEMO_METRICS)
        with Image.open(tmp_path / "out" / "gallery.png") as picture:
            assert picture.width > 1000
            assert picture.height > 1000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000

    def test_weights_are_those_of_a_good_classifier(self):
        assert accuracy(load_classifier()) > 0.95

    def test_training_is_deterministic(self):
        first, second, other = (train(seed, epochs=2, canvases=128).state_dict() for seed in (3, 3, 4))
        for name in first:
            assert torch.equal(first[name], second[name])
        assert not torch.equal(first["classifier.weight"], other["classifier.weight"])

    def test_maps_find_the_digit(self):
        """With chance at the share of the canvas that the boxes cover, about an eighth."""
        from cam_extras import ShapleyCAM

        canvases = make_canvases(40, "test", seed=9)
        model = load_classifier()
        maps = ShapleyCAM(model, [model.features.block4])(prepare(canvases.images))
        hits = 0
        for heat, (left, top, right, bottom) in zip(maps, canvases.boxes.tolist(), strict=True):
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            hits += top <= row < bottom and left <= column < right
        assert hits >= 36


class TestCanvases:
    def test_are_deterministic_and_leave_the_random_state(self):
        state = torch.get_rng_state()
        first, second = (make_canvases(5, "train", seed=1) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first.images, second.images)
        assert not torch.equal(first.images, make_canvases(5, "train", seed=2).images)

    def test_boxes_hold_the_digit(self):
        canvases = make_canvases(50, "test", seed=1)
        assert canvases.images.shape == (50, 1, SIZE, SIZE)
        assert canvases.images.min() >= 0
        assert canvases.images.max() <= 1
        for image, (left, top, right, bottom) in zip(canvases.images, canvases.boxes.tolist(), strict=True):
            assert right - left == bottom - top in DIGIT_SIZES
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            assert image[:, top:bottom, left:right].max() > 0.5

    def test_unknown_split(self):
        with pytest.raises(ValueError, match="split must be one of 'train', 'test'"):
            make_canvases(1, "validation", seed=0)


def test_interrupted(monkeypatch, tmp_path, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("cam_extras.commands.load_classifier", interrupt)
    assert main(["demo", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "cam-extras: interrupted\n"


def test_interrupted_while_it_starts(tmp_path):
    """The import takes seconds: Ctrl-C in it is no traceback."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise KeyboardInterrupt")  # what the command imports first
    path = os.pathsep.join([str(tmp_path), str(Path(cam_extras.__file__).parent.parent)])
    command = [sys.executable, "-m", "cam_extras", "list"]
    found = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "cam-extras: interrupted\n")


def test_number_of_images_must_be_positive(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--images", "0"])
    assert "--images: must be 1 or more; got 0" in capsys.readouterr().err


def test_narrow_and_plain_terminals_lose_no_number(tmp_path):
    command = [sys.executable, "-m", "cam_extras.cli", "demo", "--images", "1", "--output", str(tmp_path / "out")]
    environment = os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    row = next(line for line in printed.splitlines() if "FakeCAM" in line)
    assert len(re.findall(r"\d+\.\d", row)) == len(DEMO_METRICS)
    assert str(tmp_path / "out" / "results.csv") in printed


def test_list(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        assert name in printed
    for metric in METRICS.values():
        assert metric.short in printed
    assert "Shapley" in printed
    assert "Poppi" in printed


def test_list_of_one(capsys):
    assert main(["list", "opticam", "AD"]) == 0
    printed = capsys.readouterr().out
    assert "    max_iterations=100\n" in printed
    assert "average_drop, Average Drop, AD ↓\n" in printed
    assert "    fill=0.0\n" in printed
    assert main(["list", "opticamm"]) == 2
    assert "there is no method 'opticamm': did you mean OptiCAM" in capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files as a user has them: torchvision's own name and format, a checkpoint, and safetensors for three classes."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = resnet18()
    torch.save(model.state_dict(), folder / "resnet18-f37072fd.pth")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "checkpoint.pt")
    save_file(resnet18(num_classes=3).state_dict(), folder / "mine.safetensors")
    torch.save(model, folder / "pickled.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    for name in ("garbage.pth", "garbage.safetensors"):
        (folder / name).write_bytes(b"these are no weights")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "wrong.py").write_text("def make(:")
    (folder / "nets.py").write_text(
        "from collections import OrderedDict\n"
        "from torch import nn\n"
        "def needs_a_file(path): return nn.Identity()\n"
        "def small(channels, classes):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, classes)\n"
        "    return nn.Sequential(OrderedDict(layer4=nn.Conv2d(channels, 4, 3, 8), head=nn.Sequential(*head)))\n"
        "def one_channel(): return small(1, 5)\n"
        "def one_output(): return small(3, 1)\n"
    )
    image = np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(image[..., 0]).save(folder / "grey.png")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestFilesOfTheUser:
    """What stands in an output folder and belongs to no run stays as it is, whatever the command."""

    THEIRS = {  # noqa: RUF012
        "config.yaml": b"mine: 1\n",
        "run.json": b"{}",
        "report.html": b"<p>mine</p>",
        "summary.csv": b"a,b\n",
        "gallery.png": b"mine",
        "results.csv": b"1\n",
    }

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    @pytest.mark.parametrize("command", ["explain", "demo", "evaluate"])
    def test_are_not_replaced(self, weights, tmp_path, monkeypatch, capsys, command, overwrite):
        image, model = str(weights / "image.png"), ["--model", str(weights / "resnet18-f37072fd.pth")]
        arguments = {"explain": [image, *model], "demo": [], "evaluate": [*model, "--data", image]}[command]
        names = list(self.THEIRS)[: 4 if command == "evaluate" else None]
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / name).write_bytes(self.THEIRS[name])
            monkeypatch.chdir(tmp_path / name)
            assert main([command, *arguments, "--output", ".", *overwrite]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"cam-extras: . holds {name}, which no run.json")
            assert "give another output folder, or move it away" in error
            assert contents(tmp_path / name) == {name: self.THEIRS[name]}

    @pytest.mark.parametrize("command", ["demo", "compare"])
    def test_an_empty_name_is_no_folder(self, tmp_path, monkeypatch, capsys, command):
        monkeypatch.chdir(tmp_path)
        arguments = {"demo": [], "compare": ["a", "b"]}[command]
        with pytest.raises(SystemExit, match="2"):
            main([command, *arguments, "--output", ""])
        assert '--output: "" is not a name' in capsys.readouterr().err
        assert contents(tmp_path) == {}

    @pytest.mark.parametrize("command", [["evaluate", "--data", "x"], ["explain", "x.png"]])
    def test_an_empty_name_of_an_evaluation(self, tmp_path, monkeypatch, capsys, command):
        monkeypatch.chdir(tmp_path)
        assert main([*command, "--model", "resnet18", "--output="]) == 2
        assert 'the output folder is "": give' in capsys.readouterr().err
        assert contents(tmp_path) == {}


class TestTrust:
    def test_a_configuration_runs_no_command(self, tmp_path, capsys):
        (tmp_path / "image.png").touch()
        text = f"model: os:system\nweights: touch {tmp_path / 'harm'}\ndata: {tmp_path / 'image.png'}\n"
        (tmp_path / "run.yaml").write_text(text)
        command = ["evaluate", "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out")]
        assert main(command) == 2
        assert "run.yaml names code, which could do anything that you can (model: os:system)" in capsys.readouterr().err
        assert contents(tmp_path).keys() == {"image.png", "run.yaml"}
        assert main([*command, "--trust-code"]) == 2  # it is run, and returns no model
        assert "os:system must return a torch.nn.Module" in capsys.readouterr().err
        assert (tmp_path / "harm").exists()


class TestNamesFromElsewhere:
    """Names of files, folders, methods and classes are shown, and obeyed by nothing."""

    ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.[red]x[nothing]"

    def test_in_a_terminal(self, weights, tmp_path, capsys):
        folder = tmp_path / self.ESCAPES
        folder.mkdir()
        broken = folder / f"a\ncam-extras: {self.ESCAPES}.png"
        broken.write_bytes(b"no image")
        model = folder / "resnet18-f37072fd.pth"
        model.write_bytes((weights / model.name).read_bytes())
        arguments = ["--model", str(model), "--layer", "layer4", "--method", "FakeCAM", "--output", str(folder / "out")]
        assert main(["explain", str(broken), str(weights / "image.png"), *arguments]) == 3
        printed = capsys.readouterr()
        for text in printed:
            assert not set("\x1b\x07\x9b\u202e") & set(text)
            assert "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202egnp.[red]x[nothing]" in text.replace("\n", "")
        assert printed.err.count("\n") == 1

    @pytest.mark.parametrize("arguments", [["explain", "x.png", "--model=resnet18", "--nonsense\x1b[2J"], ["\x1b[2J"]])
    def test_in_errors_of_the_command_line(self, capsys, arguments):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "\\x1b[2J" in (error := capsys.readouterr().err)
        assert "\x1b" not in error

    def test_in_warnings_and_errors(self, weights, tmp_path, capsys):
        image = str(weights / "image.png")
        text = f"def make():\n    import warnings\n    warnings.warn({self.ESCAPES!r})\n"
        (tmp_path / "nets.py").write_text(f"{text}    raise ValueError({self.ESCAPES!r})\n")
        assert main(["explain", image, f"--model={tmp_path / 'nets.py'}:make", f"--output={tmp_path / 'o'}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\\x1b[2J") == 2
        assert "\x1b" not in error


class TestOverwrite:
    def test_of_a_demo(self, tmp_path, monkeypatch, capsys):
        """Again and again in its own folder; elsewhere a run stays."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("cam_extras.report.gallery.ROWS", 1)
        for images in ("2", "1"):
            assert main(["demo", "--images", images]) == 0
            assert (tmp_path / "cam-extras-output" / "demo" / "gallery-2.png").exists() == (images == "2")
        (tmp_path / "cam-extras-output" / "demo").rename(tmp_path / "out")
        before = contents(tmp_path / "out")
        capsys.readouterr()
        assert main(["demo", "--images", "1", "--output", "out"]) == 2
        assert capsys.readouterr().err == (
            "cam-extras: out holds a run already: give another folder with --output, or --overwrite to replace it\n"
        )
        assert contents(tmp_path / "out") == before
        assert main(["demo", "--images", "2", "--output", "out", "--overwrite"]) == 0
        assert len(read_results(tmp_path / "out")) == 2 * len(ANYWHERE)

    def test_the_demos_folder_with_another_run(self, weights, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4", "--method", "FakeCAM"]
        assert main(["explain", str(weights / "image.png"), "--output", "cam-extras-output/demo", *arguments]) == 0
        assert main(["demo", "--images", "1"]) == 2
        assert "holds a run already" in capsys.readouterr().err

    def test_explain(self, weights, tmp_path, capsys):
        """A run stays, but for one without a score, as of a mistyped name."""
        model = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4", "--method", "FakeCAM"]
        command = ["--output", str(tmp_path / "out"), *model]
        assert main(["explain", str(weights / "imagee.png"), *command]) == 2
        assert main(["explain", str(weights / "image.png"), *command]) == 0
        before = contents(tmp_path / "out")
        assert main(["explain", str(weights / "grey.png"), *command]) == 2
        assert "out holds a run already: give another folder with --output, or --overwrite" in capsys.readouterr().err
        assert contents(tmp_path / "out") == before
        assert main(["explain", str(weights / "grey.png"), *command, "--overwrite"]) == 0
        assert [row["path"] for row in read_results(tmp_path / "out")] == [str(weights / "grey.png")]


class TestExplain:
    def explain(self, weights, tmp_path, *arguments, images=("image.png",)):
        return main(["explain", *(str(weights / name) for name in images), "--output", str(tmp_path), *arguments])

    def test_weights_file_with_torchvisions_name(self, weights, tmp_path, capsys):
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4"]
        arguments += ["--method", "GradCAM", "--method", "ShapleyCAM"]
        assert self.explain(weights, tmp_path, *arguments) == 0
        assert (tmp_path / "gallery.png").stat().st_size > 10_000
        rows = read_results(tmp_path)
        assert [row["method"] for row in rows] == ["GradCAM", "ShapleyCAM"]
        assert rows[0]["path"] == str(weights / "image.png")
        assert rows[0]["target"] == rows[0]["predicted"]
        assert "ShapleyCAM" in capsys.readouterr().out

    @pytest.mark.parametrize("target", ["282", "tiger cat"])
    def test_target_by_number_and_by_name(self, weights, tmp_path, target):
        arguments = ["--model", "resnet18", "--weights", str(weights / "checkpoint.pt"), "--layer", "layer4"]
        assert self.explain(weights, tmp_path, *arguments, "--method", "GradCAM", "--target", target) == 0
        assert read_results(tmp_path)[0]["target"] == "282"

    def test_classes_of_ones_own(self, weights, tmp_path):
        arguments = ["--model", "resnet18", "--weights", str(weights / "mine.safetensors"), "--layer", "layer3"]
        assert self.explain(weights, tmp_path, *arguments, "--method", "FakeCAM") == 0
        assert int(read_results(tmp_path)[0]["target"]) < 3

    def test_several_images_and_grey_ones(self, weights, tmp_path):
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4", "--method", "HiResCAM"]
        assert self.explain(weights, tmp_path, *arguments, images=("image.png", "grey.png")) == 0
        assert [row["path"] for row in read_results(tmp_path)] == [
            str(weights / "image.png"),
            str(weights / "grey.png"),
        ]

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["--model", "resnet19"], "there is no torchvision model 'resnet19': did you mean resnet18"),
            (["--model", "resnet18", "--weights", "nowhere.pth"], "there is no weights file nowhere.pth"),
            (["--model", "FOLDER/checkpoint.pt"], "give such a name, and --weights FOLDER/checkpoint.pt"),
            (["--model", "resnet50", "--weights", "FOLDER/checkpoint.pt"], "does not hold the weights of resnet50"),
            (["--model", "resnet18", "--weights", "FOLDER/garbage.pth"], "garbage.pth does not hold a state dict"),
            (["--model", "resnet18", "--weights", "FOLDER/garbage.safetensors"], "does not hold a state dict"),
            (["--model", "resnet18", "--weights", "FOLDER/empty.pth"], "empty.pth does not hold a state dict"),
            (["--model", "resnet18", "--weights", "FOLDER/pickled.pth"], "pickled.pth does not hold a state dict"),
            (["--model", "resnet18", "--weights", "FOLDER/tensor.pth"], "must hold a state dict, names with tensors"),
            (["--model", "nowhere:resnet"], "importing nowhere failed with ModuleNotFoundError: No module named"),
            (["--model", "FOLDER/wrong.py:make"], "wrong.py failed with SyntaxError"),
            (["--model", "FOLDER/nets.py:needs_a_file"], "nets.py:needs_a_file failed with TypeError"),
            (["--model", "FOLDER/nets.py:one_channel"], "to have 1 channels, but got 3 channels"),
            (["--model", "FOLDER/nets.py:one_output"], "scores (N, C) of two or more classes; got shape (1, 1)"),
            (["--model", "nowhere.py:resnet"], "there is no file nowhere.py"),
            (["--model", "torchvision.models:resnet17"], "did you mean resnet"),
            (["--model", "os.path:expanduser"], "must return a torch.nn.Module"),
            (["--model", "FOLDER/resnet18-f37072fd.pth", "--layer", "layer5"], "there is no layer 'layer5': did you"),
            (["--model", "FOLDER/resnet18-f37072fd.pth", "--target", "1000"], r"must lie in [0, 1000)"),
            (["--model", "FOLDER/resnet18-f37072fd.pth", "--target", "tiger caat"], "did you mean tiger cat"),
        ],
    )
    def test_mistakes_are_told_in_one_line(self, weights, tmp_path, capsys, arguments, match):
        arguments = [argument.replace("FOLDER", str(weights)) for argument in arguments]
        if "expanduser" in arguments[1]:
            arguments += ["--weights", "anything"]
        if "--layer" not in arguments:
            arguments += ["--layer", "layer4"]
        assert self.explain(weights, tmp_path, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("cam-extras: ")
        assert match.replace("FOLDER", str(weights)) in error

    def test_weights_that_cannot_be_downloaded(self, weights, tmp_path, monkeypatch, capsys):
        def fail(*arguments, **options):
            raise URLError("no such host")

        monkeypatch.setattr("cam_extras.models.torchvision_models.get_model", fail)
        told = "the weights of resnet18 could not be downloaded (<urlopen error no such host>): give a local file by"
        with pytest.raises(ValueError, match=rf"^{re.escape(told)} weights=$"):
            load_model("resnet18")
        assert self.explain(weights, tmp_path, "--model", "resnet18") == 2
        assert capsys.readouterr().err == f"cam-extras: {told} --weights\n"

    def test_one_method_a_flag_or_several(self, weights, tmp_path):
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4"]
        assert self.explain(weights, tmp_path, *arguments, "--methods", "gradcam", "FakeCAM", "--method=randomcam") == 0
        assert [row["method"] for row in read_results(tmp_path)] == ["GradCAM", "FakeCAM", "RandomCAM"]

    def test_missing_and_broken_images(self, weights, tmp_path, capsys):
        """The others are explained all the same; where there is none at all, that is said at once."""
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4", "--method", "FakeCAM"]
        assert self.explain(weights, tmp_path, *arguments, images=("nowhere.jpg", "image.png")) == 3
        assert "there is no image" in capsys.readouterr().err
        assert len(read_results(tmp_path)) == 1
        assert self.explain(weights, tmp_path / "none", "--model", "resnet18", images=("a.jpg", "b.jpg")) == 2
        assert capsys.readouterr().err == f"cam-extras: there is no image {weights / 'a.jpg'}, {weights / 'b.jpg'}\n"
        assert not (tmp_path / "none").exists()
        assert self.explain(weights, tmp_path / "none", *arguments, images=("checkpoint.pt",)) == 2
        assert "cannot identify image file" in capsys.readouterr().err

    def test_unusable_device(self, weights, tmp_path, capsys):
        model = str(weights / "resnet18-f37072fd.pth")
        assert self.explain(weights, tmp_path, "--model", model, "--layer", "layer4", "--device", "abacus") == 2
        assert "the device 'abacus' is not available here" in capsys.readouterr().err

    def test_output_folder_that_is_a_file_is_noticed_before_any_work(self, weights, monkeypatch, capsys):
        monkeypatch.setattr("cam_extras.commands.load_model", None)
        assert self.explain(weights, weights / "image.png", "--model", "resnet18", "--layer", "layer4") == 2
        assert "image.png is a file: give a folder" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "layer", "cells"), [("swin_t", "features.7", 7), ("swin_t", "features.0.0", 56), ("vit_b_32", "", 7)]
    )
    def test_transformers(self, weights, tmp_path, name, layer, cells):
        """Their layers do not return feature maps (N, C, H, W)."""
        layer = layer or "encoder.layers.encoder_layer_11.ln_1"
        torch.manual_seed(0)
        model = get_model(name).eval()
        torch.save(model.state_dict(), tmp_path / f"{name}.pth")
        arguments = ["--model", str(tmp_path / f"{name}.pth"), "--layer", layer, "--method", "GradCAM"]
        assert self.explain(weights, tmp_path, *arguments) == 0
        assert read_results(tmp_path)
        probe = Probe(model, model.get_submodule(layer), torch.randn(2, 3, 224, 224))
        assert probe.activations.shape[2:] == (cells, cells)
        assert probe.activations.shape[1] in (96, 768)

    @pytest.mark.parametrize("layer", [[], ["--layer", "auto"]])
    def test_layer_picked(self, weights, tmp_path, capsys, layer):
        method = ["--method", "GradCAM"]
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), *method]
        assert self.explain(weights, tmp_path / "auto", *arguments, *layer) == 0
        assert "layer layer4, the last feature map before pooling" in " ".join(capsys.readouterr().out.split())
        assert self.explain(weights, tmp_path / "named", *arguments, "--layer", "layer4") == 0
        assert "the last feature map" not in capsys.readouterr().out
        assert read_results(tmp_path / "auto") == read_results(tmp_path / "named")

    def test_no_layer_to_pick(self, weights, tmp_path, capsys):
        (tmp_path / "flat.py").write_text(
            "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))\n"
        )
        assert self.explain(weights, tmp_path, "--model", f"{tmp_path / 'flat.py'}:make") == 2
        assert "Sequential has no feature map" in capsys.readouterr().err

    def test_names_are_not_markup(self, weights, tmp_path, capsys):
        folder = tmp_path / "[bold]out[/red]"
        arguments = ["--model", str(weights / "resnet18-f37072fd.pth"), "--layer", "layer4", "--method", "FakeCAM"]
        assert self.explain(weights, folder, *arguments) == 0
        assert str(folder / "gallery.png") in capsys.readouterr().out
