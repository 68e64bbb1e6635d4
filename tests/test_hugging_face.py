"""Image classifiers of transformers, from a folder: weights, transforms, names, and what is refused. No download."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cam_extras.cli import main
from cam_extras.models import load_model, picture_of
from cam_extras.runs.identity import describe, identify

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install cam_extras[hf]")

NAMES = {0: "tabby cat", 1: "fox", 2: "goose"}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "bos_token_id": None,
    "eos_token_id": None,
}
SIDE = {"height": 32, "width": 32}


def vit(**changes):
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, **{"id2label": NAMES, **changes}))


def convnext():
    config = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], id2label=NAMES)
    return transformers.ConvNextForImageClassification(config)


def mobilevit():
    sizes = {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8] * 7, "num_attention_heads": 2}
    return transformers.MobileViTForImageClassification(
        transformers.MobileViTConfig(image_size=64, id2label=NAMES, **sizes)
    )


def clip():
    config = transformers.CLIPConfig(vision_config=VIT, text_config=TEXT, id2label=NAMES)
    return transformers.CLIPForImageClassification(config)


def processors():
    """By name, processors that normalise in their own ways."""
    return {
        "vit": transformers.ViTImageProcessor(size=SIDE),
        "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, image_mean=[0.4, 0.5, 0.6]),
        "mobilevit": transformers.MobileViTImageProcessor(
            size={"shortest_edge": 72}, crop_size=dict.fromkeys(SIDE, 64)
        ),
        "clip": transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIDE),
        "efficientnet": transformers.EfficientNetImageProcessor(
            size=SIDE, rescale_offset=True, rescale_factor=1 / 127.5
        ),
        "plain": transformers.ViTImageProcessor(size=SIDE, do_normalize=False),
    }


MODELS = {"vit": vit, "convnext": convnext, "mobilevit": mobilevit, "clip": clip}


def save(folder, model=None, processor=None):
    for part in (model, processor):
        if part is not None:
            part.save_pretrained(folder)
    return f"hf/{folder}"


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 100), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", MODELS)
def test_model_transform_and_names_are_those_saved(name, photo, tmp_path):
    model, processor = MODELS[name]().eval(), processors()[name]
    classifier = load_model(save(tmp_path, model, processor))
    assert type(classifier.model) is type(model)
    assert not any(module.training for module in classifier.model.modules())
    assert classifier.categories == tuple(NAMES.values())
    assert classifier.class_index("Fox") == 1
    expected = processor(images=photo, return_tensors="pt")["pixel_values"]
    x = classifier.transform(photo)
    assert torch.equal(x[None], expected)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x[None]).logits, model(expected).logits)


@pytest.mark.parametrize("name", ["vit", "convnext", "mobilevit", "clip", "efficientnet", "plain"])
def test_the_picture_is_what_the_processor_made_before_it_normalised(name, photo, tmp_path):
    processor = processors()[name]
    transform = load_model(save(tmp_path, vit(), processor)).transform
    plain = {"do_normalize": False, "do_rescale": False, "return_tensors": "pt"}
    if name == "mobilevit":
        plain["do_flip_channel_order"] = False
    if name == "efficientnet":
        plain["include_top"] = False
    expected = processor(images=photo, **plain)["pixel_values"][0] / 255
    picture = picture_of(transform)(transform(photo))
    assert picture.std() > 0.1
    torch.testing.assert_close(picture, expected.float(), rtol=0, atol=1e-5)


def test_a_model_of_timm_saved_by_transformers(photo, tmp_path):
    timm = pytest.importorskip("timm", reason="needs timm: pip install cam_extras[timm]")
    about = timm.get_pretrained_cfg("resnet10t").to_dict()
    config = transformers.TimmWrapperConfig(architecture="resnet10t", id2label=NAMES, pretrained_cfg=about)
    model = transformers.TimmWrapperForImageClassification(config).eval()
    classifier = load_model(save(tmp_path, model))
    x = classifier.transform(photo)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x[None]).logits, model(x[None]).logits)
    assert classifier.categories == tuple(NAMES.values())


def test_half_precision_is_loaded_as_float32(tmp_path):
    model = load_model(save(tmp_path, vit().half(), processors()["vit"])).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("names", [{0: "LABEL_0", 1: "LABEL_1"}, {1: "cat", 2: "dog"}])
def test_names_that_are_made_up_or_of_other_numbers_are_none(names, tmp_path):
    classifier = load_model(save(tmp_path, vit(id2label=names), processors()["vit"]))
    assert classifier.categories == ()
    assert classifier.model.config.num_labels == 2


def test_another_transform_needs_no_processor(tmp_path):
    spec = save(tmp_path, vit())
    with pytest.raises(ValueError, match=r"its image processor could not be loaded \(.*\): save one in the folder, or"):
        load_model(spec)
    assert load_model(spec, transform=torch.tensor).transform is torch.tensor


def test_can_be_identified_described_and_sent_to_other_processes(tmp_path):
    spec = save(tmp_path, vit(), processors()["vit"])
    first, second = load_model(spec), load_model(spec)
    found = identify(vars(first))
    assert found["unknown"] == []
    assert found == identify(vars(second))
    assert (
        describe(first.transform) == describe(second.transform) == describe(pickle.loads(pickle.dumps(first.transform)))
    )
    other = load_model(save(tmp_path / "other", vit(), processors()["plain"]))
    assert found["sha256"]["transform"] != identify(vars(other))["sha256"]["transform"]


def headless():
    return transformers.ViTModel(transformers.ViTConfig(**VIT))


def detector():
    return transformers.YolosForObjectDetection(transformers.YolosConfig(**{**VIT, "image_size": [32, 32]}))


def segmenter():
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "decoder_hidden_size": 8}
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes))


def embedding():
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=VIT, text_config=TEXT))


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            (headless, "ViTModel"),
            (detector, "YolosForObjectDetection"),
            (segmenter, "SegformerForSemanticSegmentation"),
            (embedding, "CLIPModel"),
        ],
    )
    def test_other_models(self, make, kind, tmp_path):
        with pytest.raises(
            ValueError, match=f"is not an image classifier but a {kind}: for a detector, .*FILE.py:FUNC"
        ):
            load_model(save(tmp_path, make(), processors()["vit"]))

    def test_no_labels(self, tmp_path):
        with pytest.raises(ValueError, match="returns features, no scores of classes"):
            load_model(save(tmp_path, vit(id2label={}, num_labels=0), processors()["vit"]))

    def test_a_head_that_would_be_random(self, tmp_path, capfd):
        """The configuration promises a head that is not in the file."""
        model = vit()
        model.config.architectures = ["ViTForImageClassification"]
        model.save_pretrained(tmp_path, state_dict=headless().state_dict())
        with pytest.raises(
            ValueError, match=r"lack classifier.bias, classifier.weight.*, which would be random: give a ViTForI"
        ):
            load_model(save(tmp_path, None, processors()["vit"]))
        assert "MISSING" not in capfd.readouterr().err

    def test_a_head_of_another_size(self, tmp_path):
        vit().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["id2label"]["3"] = "swan"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"its weights could not be loaded \(.*mismatched"):
            load_model(save(tmp_path, None, processors()["vit"]))

    def test_pickles(self, tmp_path):
        spec, opened = save(tmp_path, vit(), processors()["vit"]), tmp_path / "opened"
        (tmp_path / "model.safetensors").unlink()

        class Opens:
            def __reduce__(self):
                return open, (str(opened), "w")

        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Opens()))
        with pytest.raises(ValueError, match=r"has no model.safetensors, and weights are not read from pickles"):
            load_model(spec)
        assert not opened.exists()

    def test_code_of_its_own(self, tmp_path):
        spec, opened = save(tmp_path, vit(), processors()["vit"]), tmp_path / "opened"
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "mine.py").write_text(f"open({str(opened)!r}, 'w')\nclass Config: pass\n")
        with pytest.raises(ValueError, match=r"\(it needs code of its own, which is not run\): give a function"):
            load_model(spec)
        assert not opened.exists()

    def test_attention_kernels_to_download_are_not_used(self, tmp_path):
        spec = save(tmp_path, vit(), processors()["vit"])
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "_attn_implementation": "someone/kernel"}))
        assert load_model(spec).model.config._attn_implementation == "sdpa"

    def test_a_processor_that_makes_no_picture(self, tmp_path):
        processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        with pytest.raises(ValueError, match=r"must turn .* of shape \(1, C, H, W\); got torch.float32 \(1, 16, 192\)"):
            load_model(save(tmp_path, vit(), processor))

    def test_a_processor_without_white(self, tmp_path):
        processor = transformers.ViTImageProcessor(size=SIDE, rescale_factor=-1 / 255)
        with pytest.raises(ValueError, match="makes inputs in which white is not brighter than black"):
            load_model(save(tmp_path, vit(), processor))

    def test_weights_from_elsewhere(self, tmp_path):
        spec = save(tmp_path, vit(), processors()["vit"])
        with pytest.raises(ValueError, match=r"brings its own weights, and takes none from w\.pth"):
            load_model(spec, "w.pth")

    @pytest.mark.parametrize("place", ["./nothing", "/no/where", "a/b/c", "", "setup.cfg"])
    def test_folders_that_do_not_exist(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "setup.cfg").touch()
        with pytest.raises(ValueError, match=f"there is no folder {place}: hf/DIR is a folder written by"):
            load_model(f"hf/{place}")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"its configuration could not be loaded .*model_type"):
            load_model(f"hf/{tmp_path}")

    def test_downloads_that_fail(self, monkeypatch):
        def fail(place, **options):
            assert not options["local_files_only"]
            raise OSError("We couldn't connect to 'https://huggingface.co'")

        monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
        with pytest.raises(ValueError, match=r"hf/google/vit: .*\(We couldn't connect.*\): give a folder, hf/DIR"):
            load_model("hf/google/vit")

    def test_transformers_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ValueError, match=r"hf/google/vit needs transformers .*: pip install cam_extras\[hf\]"):
            load_model("hf/google/vit")


def test_on_the_command_line(photo, tmp_path, capsys):
    torch.manual_seed(0)
    spec = save(tmp_path / "model", convnext(), processors()["convnext"])
    (tmp_path / "images").mkdir()
    for number in range(2):
        photo.rotate(90 * number).save(tmp_path / "images" / f"{number}.png")
    run = ["evaluate", "--model", spec, "--data", str(tmp_path / "images"), "--output", str(tmp_path / "run")]
    run += ["--method", "GradCAM", "--target", "goose"]
    assert main(run) == 0
    told = capsys.readouterr()
    assert "cam-extras:" not in told.err
    results = pq.read_table(tmp_path / "run" / "results.parquet")
    assert results.column("target").to_pylist() == [2, 2]
    assert main([*run, "--resume"]) == 0


def test_help_names_every_source(capsys):
    for command in ("explain", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = "".join(capsys.readouterr().out.split())
        for source in ("torchvision", "NAME-HASH.pth", "timm/NAME", "hf/NAME", "hf/DIR", "FILE.py:FUNCTION"):
            assert source in told
