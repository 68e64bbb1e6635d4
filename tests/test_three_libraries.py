"""One set of real weights in timm, Hugging Face and torchvision: the same model, and so the same maps."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REALDATA
from hosts import SEVERAL_PASSES
from PIL import Image
from safetensors.torch import load_file, save_file
from three_libraries import patches_to_map, to_hugging_face, to_torchvision
from torchvision import transforms
from torchvision.models import VisionTransformer

import cam_extras as ours
from cam_extras.cli import main
from cam_extras.layers import auto_layer
from cam_extras.methods import METHODS
from cam_extras.models import load_model
from cam_extras.runs.store import unpack_map

pytestmark = pytest.mark.realdata

timm = pytest.importorskip("timm", reason="needs timm: pip install cam_extras[timm]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install cam_extras[hf]")

WEIGHTS = REALDATA / "vit_tiny_imagenet.safetensors"
LAYERS = {
    "timm": "blocks.11.norm1",
    "Hugging Face": "vit.layers.11.layernorm_before",
    "torchvision": "encoder.layers.encoder_layer_11.ln_1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model as transformers saves it."""
    folder = tmp_path_factory.mktemp("vit_tiny")
    config = transformers.ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        layer_norm_eps=1e-6,
        num_labels=1000,
        architectures=["ViTForImageClassification"],
    )
    config.save_pretrained(folder)
    save_file(to_hugging_face(load_file(WEIGHTS)), folder / "model.safetensors", {"format": "pt"})
    # As timm prepares images, whose short side becomes 248.
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 248}, crop_size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifiers(folder):
    model = VisionTransformer(224, 16, 12, 3, 192, 768)
    model.load_state_dict(to_torchvision(load_file(WEIGHTS)))
    return {
        "timm": load_model("timm/vit_tiny_patch16_224", str(WEIGHTS)).model,
        "Hugging Face": load_model(f"hf/{folder}").model,
        "torchvision": model.eval(),
    }


@pytest.fixture(scope="module")
def images():
    prepare = transforms.Compose([transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    paths = sorted((REALDATA / "imagenet").glob("*.JPEG"))
    return torch.stack([prepare(Image.open(path)) for path in paths[::67]])


def test_they_are_the_same_model(classifiers, images):
    with torch.no_grad():
        expected = classifiers["timm"](images)
        assert expected.argmax(dim=1).tolist() == [0, 335, 670]
        torch.testing.assert_close(classifiers["torchvision"](images), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(classifiers["Hugging Face"](images).logits, expected, rtol=0, atol=1e-4)


def test_the_layer_found_is_the_same(classifiers, images):
    assert {library: auto_layer(model, images).name for library, model in classifiers.items()} == LAYERS


# A ViT does not average its map; the others take hundreds of passes for an image, all of the same kind.
WITHOUT = ("CAM", "AblationCAM", "ScoreCAM", "SSCAM", "ISCAM")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT])
def test_maps_are_the_same(name, classifiers, images):
    options = SEVERAL_PASSES.get(name, {})
    expected = getattr(ours, name)(classifiers["timm"], LAYERS["timm"], patches_to_map, **options)(images)
    for library, model in classifiers.items():
        maps = getattr(ours, name)(model, "auto", **options)(images)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=0 if library == "timm" else 1e-4)
    if name != "FakeCAM":
        assert (expected.std(axis=(1, 2)) > 0.01).all()


@pytest.mark.slow
def test_maps_are_the_same_on_the_command_line(folder, tmp_path):
    """Of an image on whose preparation the two agree: its short side is already as they make it."""
    (tmp_path / "images").mkdir()
    path = sorted((REALDATA / "imagenet").glob("*.JPEG"))[67]
    with Image.open(path) as image:
        transforms.functional.center_crop(image, 248).save(tmp_path / "images" / "one.png")
    found = {}
    for source in (["timm/vit_tiny_patch16_224", "--weights", str(WEIGHTS)], [f"hf/{folder}"]):
        output = tmp_path / source[0].partition("/")[0]
        run = ["evaluate", "--data", str(tmp_path / "images"), "--output", str(output), "--maps", "--model", *source]
        assert main([*run, "--methods", "GradCAM", "ShapleyCAM", "ExpectedGradCAM", "--metric", "adcc"]) == 0
        table = pq.read_table(output / "results.parquet").to_pylist()
        found[output.name] = [(row["predicted"], row["probability"], unpack_map(row)) for row in table]
    assert len(found["timm"]) == 3
    for (predicted, probability, heat), (same, sure, other) in zip(found["timm"], found["hf"], strict=True):
        assert predicted == same == 335
        assert probability == pytest.approx(sure, abs=1e-4)
        np.testing.assert_allclose(heat, other, rtol=0, atol=1e-3)  # they are kept as float16
        assert heat.std() > 0.01
