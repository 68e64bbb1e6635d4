"""docs/model_sources.md: its files for models of other libraries, whose blocks are not run with the page."""

from __future__ import annotations

import csv

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_documentation import read

from cam_extras.cli import main
from cam_extras.models import load_model

PAGE = "docs/model_sources.md"


def file_of(name, folder):
    """Write a file that the page shows to a folder."""
    (code,) = [block.code for block in read(PAGE)[0] if block.code.startswith(f"# {name}\n")]
    (folder / name).write_text(code)
    return f"{folder / name}:model"


@pytest.mark.models
@pytest.mark.parametrize(
    ("library", "name", "target", "shape"),
    [
        ("lightning", "lightning_model.py", "1", (3, 224, 224)),
        ("monai", "monai_model.py", "CXR", (1, 64, 64)),
        ("torchxrayvision", "chest_model.py", "Pneumonia", (1, 224, 224)),
    ],
)
def test_files_of_the_page(library, name, target, shape, tmp_path):
    pytest.importorskip(library, reason=f"needs {library}: pip install cam_extras[models]")
    spec = file_of(name, tmp_path)
    torch.manual_seed(0)
    model = load_model(spec).model
    weights = tmp_path / ("weights.safetensors" if library == "torchxrayvision" else "weights.pth")
    if library == "torchxrayvision":
        save_file(model.state_dict() | {"op_threshs": torch.zeros(18)}, weights)
    else:
        torch.save({"state_dict": model.state_dict()} if library == "lightning" else model.state_dict(), weights)
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    loaded = load_model(spec, str(weights))
    x = loaded.transform(Image.open(tmp_path / "photo.png"))
    assert x.shape == shape
    with torch.no_grad():
        assert torch.equal(loaded.model(x[None]), model(x[None]))
    run = ["explain", str(tmp_path / "photo.png"), "--model", spec, "--weights", str(weights), "--target", target]
    assert main([*run, "--method", "GradCAM", "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert int(row["target"]) == loaded.class_index(target)
