"""The benchmarks run, leave nothing out, and compare what computes the same. How long that takes is not tested."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REALDATA
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

from cam_extras.demo.classifier import LAYER
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
FILES = {path.stem for path in FOLDER.glob("*.py")}

OF_TRANSFORMERS = ("LeGrad", "AttentionRollout", "RawAttention")


def small_network():
    """As many channels as the benchmarks give to scikit-learn, and pixels as ImageNet's."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 32, 7, stride=8), nn.ReLU(), nn.Conv2d(32, 40, 3, stride=4), nn.ReLU())
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5)).eval()
    return {"a small network, last ReLU": (model, features[-1])}


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark, with a small network for the real ones and arguments for the command line."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("COLUMNS", "200")

    def of_name(name, *arguments):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        if name in ("speed", "metrics", "peers"):
            monkeypatch.setattr(module, "laboratory", lambda realdata: small_network())
        # It changes for good how this process takes memory.
        monkeypatch.setattr(importlib.import_module("speed"), "settle", lambda device: None)
        return module

    yield of_name
    torch.set_num_threads(threads)
    for name in FILES:
        sys.modules.pop(name, None)


def rows_of(printed):
    """Return the cells of each row of a table of rich's, by its first one."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    return {name: cells for name, *cells in rows}


def one_after_another(calls, rounds, what):
    """In the place of `measure`: the first call takes two seconds, the next three, and so on."""
    return {name: [float(seconds)] for seconds, name in enumerate(calls, start=2)}


def test_ratios(load, monkeypatch, capsys):
    for name in ("speed", "metrics"):
        module = load(name, "--batch=2")
        monkeypatch.setattr(module, "measure", one_after_another)
        module.main()
        for seconds, cells in enumerate(rows_of(capsys.readouterr().out).values(), start=2):
            assert cells[:3] == [f"{seconds}.000", f"{seconds / 2:.2f}", f"{seconds / 2:.2f}"]
            if name == "speed":
                assert cells[3] == {3: "1.33", 5: "1.20"}.get(seconds, "")  # the peer comes after ours


@pytest.mark.slow
def test_speed(load, capsys):
    load("speed", "--rounds=1", "--batch=2").main()
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 12
    for seconds, passes, least, peer, *_ in rows.values():
        assert float(seconds) >= 0
        assert passes == least  # of one round
        assert peer == "" or float(peer) > 0
    assert rows["forward pass F"][1] == "1.00"
    assert {name for name, cells in rows.items() if cells[3]} == {"GradCAM", "ShapleyCAM"}
    assert "mutual information, all 80 channels" in rows


def test_metrics_take_the_passes_that_are_told(load):
    ((model, layer),) = small_network().values()
    images = []
    model.register_forward_hook(lambda module, args, output: images.append(len(output)))
    calls = load("metrics").contenders(model, layer, torch.randn(2, 3, 64, 64))
    for name, (call, passes) in calls.items():
        images.clear()
        call()
        # What the model makes of an image that shows nothing is the same for all, and asked once.
        nothing = 1 if name == "the ten default metrics at once" else 0
        assert not passes or sum(images) == 2 * passes + nothing, name
    one_by_one, explained = (calls[f"one by one in Quantus{rest}"][0]() for rest in (", maps given", ""))
    assert len(one_by_one) == len(explained) == len(DEFAULT_METRICS)


def test_metrics(load, capsys):
    load("metrics", "--rounds=1", "--batch=2").main()
    rows = rows_of(capsys.readouterr().out)
    assert [cells[-1] for cells in rows.values()] == ["1", "1", "4", "", "", "23"]


class TestPeers:
    @pytest.fixture
    def peers(self, load):
        pytest.importorskip("torchcam", reason="torch-cam is not installed: pip install cam_extras[benchmark]")
        return load("peers", "--rounds=1", "--batch=2", "--slow")

    def test_grad_cam_is_that_of_all_peers(self, peers, digits):
        """Up to 1e-6; Captum adds up without a ReLU, which is left to its user."""
        model, inputs, _ = digits
        calls = peers.contenders(model, model.get_submodule(LAYER), None)
        x = torch.from_numpy(inputs[:3])

        def maps(name):
            found = torch.as_tensor(calls[name](x)).float()
            least, most = found.amin(dim=(1, 2), keepdim=True), found.amax(dim=(1, 2), keepdim=True)
            return (found - least) / (most - least)

        for method in ("GradCAM", "HiResCAM"):
            torch.testing.assert_close(maps(f"{method} | cam_extras, Captum"), maps(f"{method} | Captum"))
        for method, libraries in {
            "GradCAM": ("cam_extras", "pytorch-grad-cam", "torch-cam"),
            "HiResCAM": ("cam_extras", "pytorch-grad-cam"),
            "ShapleyCAM": ("cam_extras", "pytorch-grad-cam"),
            "XGradCAM": ("cam_extras", "pytorch-grad-cam", "torch-cam"),
            "LayerCAM": ("cam_extras", "pytorch-grad-cam", "torch-cam"),
            "GradCAMElementWise": ("cam_extras", "pytorch-grad-cam"),
        }.items():
            first, *others = (maps(f"{method} | {library}") for library in libraries)
            for other in others:
                torch.testing.assert_close(other, first, atol=1e-6, rtol=0)

    def test_passes_are_those_of_the_batch(self, peers, monkeypatch):
        monkeypatch.setattr(peers, "measure", one_after_another)
        ((model, layer),) = small_network().values()
        found = peers.compare(model, layer, None, torch.randn(2, 3, 64, 64), 1, False, "a small network")
        assert [row[:2] for row in found.values()] == [(n, n / 2) for n in range(2, len(found) + 2)]
        assert len(found) == 26 + len(METHODS) - len(OF_TRANSFORMERS) - 4  # which take an image at a time

    @pytest.mark.slow
    def test_all_are_measured(self, peers, monkeypatch, capsys):
        def small(*args, **options):
            return VisionTransformer(224, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)

        monkeypatch.setattr(peers, "VisionTransformer", small)
        peers.main()
        printed, told = capsys.readouterr()
        first, _, heading, _, *rows = printed.splitlines()
        assert "torch-cam" in first
        assert heading.count(": F") == heading.count(": MiB") == 2
        assert len(rows) == 30 + len(METHODS)
        left_out = {line.split(" is left out")[0] for line in told.splitlines() if "is left out" in line}
        small_net, vit = "a small network, last ReLU", "ViT-S/16, last ln_1"
        assert left_out == {
            *(f"{vit}: {name} | pytorch-grad-cam" for name in ("ShapleyCAM", "FullGrad")),
            *(f"{vit}: CAM | {library}" for library in ("cam_extras", "torch-cam")),
            *(f"{small_net}: {name} | cam_extras" for name in OF_TRANSFORMERS),
        }
        for row in rows:
            method, library, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            of_both = [f"{title}: {method} | {library}" not in left_out for title in (small_net, vit)]
            of_both[1] &= library not in ("Captum", "cam_extras, Captum")
            expected = [measured or "-" for measured in of_both for _ in range(2)]
            assert ["-" if cell == "-" else math.isfinite(float(cell)) for cell in cells] == expected


@pytest.mark.slow
def test_ray_workers(load, tmp_path):
    module = load("ray_workers")
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"{number:02}.png")
    module.time = SimpleNamespace(perf_counter=itertools.count().__next__)
    # It starts at 0, is done with 32 images at 1 and with 8 more at 2, and ends at 3.
    assert module.measure(module.make_job(), module.open_source(str(tmp_path)), workers=0) == (1, 3, 8)


@pytest.mark.realdata
def test_expected_grad_cam(load, capsys):
    arguments = "--data=cifar10", f"--realdata={REALDATA}", "--images=4", "--batch=4", "--only", "GradCAM", "zeros"
    load("expected_grad_cam", *arguments).main()
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("| 4 images | average_drop |")
    assert [row.split(" | ")[0] for row in rows] == ["| GradCAM", "| zeros"]
    assert all(float(cell) >= 0 for row in rows for cell in row.strip("| ").split(" | ")[1:-3])


def test_no_benchmark_is_forgotten():
    here = Path(__file__).read_text()
    assert all(f'load("{name}"' in here for name in FILES)
