"""The examples run as they are, and their pictures show what they promise.

Another example is tested by being listed in `EXAMPLES`; what is known of its outcome goes into `CHECKS`.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [
    ("pytorch_grad_cam_image.py", []),
    ("captum_image.py", []),
    ("quantus_metrics.py", ["--images", "4"]),
    ("vision_transformer.py", []),
    ("volume_3d.py", []),
    ("object_detection.py", []),
    ("segmentation.py", []),
    ("yolo.py", []),
    ("choosing_a_method.py", ["--canvases", "4"]),
    ("choosing_metrics.py", ["--canvases", "4"]),
]
SLOW = EXAMPLES[3:]
IN_THE_DOCUMENTATION = ("choosing_a_method.py", "choosing_metrics.py")  # the pictures are there


def run(script, arguments, folder, monkeypatch):
    """Run a script in a folder as `python SCRIPT ARGUMENTS` does; return its variables.

    In this process: to import torch and the hosts anew for each would take longer than the scripts.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    matplotlib.use("agg")
    try:
        return runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    finally:
        matplotlib.pyplot.close("all")


def check_scene(found):
    """The 7 is on the left, the 0 on the right, for the last of the methods."""
    assert found["classes"] == [7, 0]
    maps = found["maps"] if "maps" in found else found["enlarged"].detach()[:, 0]
    seven, nought = maps.clip(min=0)
    assert seven[:, :64].sum() > 2 * seven[:, 64:].sum()
    assert nought[:, 64:].sum() > 1.5 * nought[:, :64].sum()


def check_quantus(found):
    """FakeCAM loses no confidence and has no ADCC; maps of the model lie on the digits, random ones less."""
    table = found["table"]
    drop, adcc, inside = (next(name for name in table if name.startswith(start)) for start in ("Av", "ADCC", "Energy"))
    assert table.index.tolist() == list(found["methods"])
    assert table.loc["FakeCAM", drop] < 0.01
    assert table.loc["FakeCAM", adcc] < 0.01
    area = found["s"].mean()
    assert table.loc["FakeCAM", inside] == pytest.approx(area, abs=1e-3)
    assert (table.loc[["GradCAM", "ScoreCAM", "ShapleyCAM", "MIGradCAM", "ExpectedGradCAM"], inside] > 2.5 * area).all()


def check_transformer(found):
    assert found["right"].float().mean() > 0.8
    (left, top, right, bottom) = np.array(found["boxes"]).T
    area = ((right - left) * (bottom - top)).mean() / 64**2
    assert found["inside"]["HiResCAM"] > 1.5 * area  # 0.41 where it was written, of an area of 0.17
    assert found["inside"]["ShapleyCAME"] > 1.3 * area


def check_volume(found):
    assert all(values.shape == (4, *found["SIZE"]) for values in found["maps"].values())
    assert min(found["inside"].values()) > 3 * found["masks"].mean()


def check_detection(found):
    """What is found are digits of the scene, each in its third of it."""
    places = {1: 0, 3: 1, 4: 2}
    assert len(found["boxes"]) >= 2
    for label, box in zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True):
        assert int((box[0] + box[2]) / 2 / 64) == places[label - 1]
    assert found["inside"]["HiResCAM"] > 0.5  # the boxes have a sixteenth of the image


def check_yolo(found):
    """It finds most of the digits that it was trained on, and maps lie on what it found."""
    assert sum(target.label == label for target, label in zip(found["targets"], found["labels"], strict=True)) >= 3
    assert found["inside"]["HiResCAM"] > 0.4
    assert (found["result"].scores["HiResCAM"]["insertion"] > found["result"].scores["HiResCAM"]["deletion"]).sum() >= 3


def check_segmentation(found):
    assert len(found["masks"]) >= 2
    area = torch.stack(list(found["masks"].values())).float().mean()
    assert min(found["inside"].values()) > 3 * area
    assert found["inside"]["HiResCAM"] > 6 * area


CHECKS = {
    "pytorch_grad_cam_image.py": check_scene,
    "captum_image.py": check_scene,
    "quantus_metrics.py": check_quantus,
    "vision_transformer.py": check_transformer,
    "volume_3d.py": check_volume,
    "object_detection.py": check_detection,
    "segmentation.py": check_segmentation,
    "yolo.py": check_yolo,
}


def check_picture(path):
    colours = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(colours) > 50_000
    assert (colours != 255).any(axis=1).mean() > 0.02  # not the white of an empty figure


@pytest.mark.parametrize(
    ("script", "arguments"),
    [pytest.param(*example, marks=[pytest.mark.slow] * (example in SLOW)) for example in EXAMPLES],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_example(script, arguments, tmp_path, monkeypatch):
    if script == "yolo.py":
        pytest.importorskip("ultralytics", reason="ultralytics, which is AGPL, is not installed")
    found = run(script, arguments, tmp_path, monkeypatch)
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures
    for picture in pictures:
        check_picture(picture)
    if script in CHECKS:
        CHECKS[script](found)


def test_example_on_an_image_of_the_user(tmp_path, monkeypatch):
    """A photograph, and a function instead of torchvision's weights, which would be downloaded."""
    noise = np.random.default_rng(0).integers(256, size=(240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    (tmp_path / "small.py").write_text(
        "from torchvision.models import mobilenet_v3_small as net\n\ndef model():\n    return net(weights=None)\n"
    )
    arguments = ["--image", "image.png", "--model", "small.py:model", "--output", "explained.png"]
    found = run("captum_image.py", arguments, tmp_path, monkeypatch)
    check_picture(tmp_path / "explained.png")
    assert found["enlarged"].shape == (2, 1, 224, 224)


def test_every_example_is_listed_with_its_picture():
    text = (ROOT / "examples" / "README.md").read_text()
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    for script, _ in EXAMPLES:
        assert f"[{script}]({script})" in text
        assert (ROOT / "examples" / script).is_file()
        assert script in IN_THE_DOCUMENTATION or any(Path(p).stem == Path(script).stem for p in pictures)
    for picture in pictures:
        path = ROOT / "examples" / picture
        assert path.is_file()
        assert os.path.getsize(path) <= 100_000
