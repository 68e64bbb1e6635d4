"""Models of timm: weights, what belongs to them, and feature maps of transformers."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from state import untouched
from torch import nn

from cam_extras.layers import auto_layer
from cam_extras.methods import GradCAM
from cam_extras.models import load_model, picture_of
from cam_extras.probe import Probe

timm = pytest.importorskip("timm", reason="needs timm: pip install cam_extras[timm]")


def random_heads(model):
    """Some heads start with weights so small, or 0, that the score would be flat."""
    for name in ("head", "head_dist"):
        if isinstance(getattr(model, name, None), nn.Linear):
            nn.init.normal_(getattr(model, name).weight)
    return model.eval()


class TestAutoLayer:
    @pytest.mark.parametrize(
        ("name", "options", "layer", "cells"),
        [
            ("resnet18", {}, "layer4", (3, 2)),
            ("mobilenetv3_small_050", {}, "blocks", (3, 2)),
            ("convnext_atto", {}, "stages", (3, 2)),
            ("efficientnet_b0", {}, "bn2", (3, 2)),
            ("vit_tiny_patch16_224", {"img_size": (96, 64)}, "blocks.11.norm1", (6, 4)),
            ("vit_tiny_patch16_224", {"img_size": 96, "dynamic_img_size": True}, "blocks.11.norm1", (4, 4)),
            ("deit_tiny_distilled_patch16_224", {"img_size": (96, 64)}, "blocks.11.norm1", (6, 4)),
            ("vit_wee_patch16_reg1_gap_256", {"img_size": (96, 64)}, "blocks", (6, 4)),
            ("vit_medium_patch16_gap_240", {"img_size": (96, 64)}, "norm", (6, 4)),
            ("swin_tiny_patch4_window7_224", {"img_size": (96, 64)}, "norm", (3, 2)),
            ("swinv2_cr_tiny_ns_224", {"img_size": (96, 64)}, "stages", (3, 2)),
        ],
    )
    def test_of_known_models(self, name, options, layer, cells):
        model = random_heads(timm.create_model(name, num_classes=10, **options))
        x = torch.randn(2, 3, 64, 64) if "dynamic_img_size" in options else torch.randn(2, 3, 96, 64)
        with untouched(model, x):
            found = auto_layer(model, x)
        assert found[:2] == (layer, model.get_submodule(layer))
        probe = Probe(model, found.layer, x)
        maps = GradCAM()(probe)
        assert maps.shape == (2, probe.activations.shape[1], *cells)
        assert (maps.flatten(1) != 0).any(dim=1).all()

    def test_queries_and_keys_have_their_heads_as_channels(self):
        """They have four dimensions, and norms of their own; "auto" passes over what is inside an attention."""
        model = timm.models.VisionTransformer(
            img_size=(96, 64), num_classes=4, embed_dim=12, depth=2, num_heads=2, qk_norm=True
        )
        random_heads(model)
        x = torch.randn(1, 3, 96, 64)
        assert auto_layer(model, x).name == "blocks.1.norm1"
        keys = {}
        layer = model.blocks[1].attn.k_norm
        with torch.no_grad(), layer.register_forward_hook(lambda module, args, output: keys.update(all=output)):
            model(x)
        activations = Probe(model, layer, x).activations
        assert activations.shape == (1, 12, 6, 4)
        assert torch.equal(activations, keys["all"][:, :, 1:].permute(0, 1, 3, 2).reshape(1, 12, 6, 4))


class TestPlaces:
    @pytest.mark.parametrize(
        ("name", "norm", "size"),
        [
            ("vit_tiny_patch16_224", "blocks.0.norm1", 16),
            ("deit_tiny_distilled_patch16_224", "blocks.0.norm1", 16),
            ("vit_wee_patch16_reg1_gap_256", "blocks.0.norm1", 16),
            ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.norm1", 4),
        ],
    )
    def test_cells_are_where_their_patches_are(self, name, norm, size):
        """A change within one patch of the image moves one cell of the maps before any attention."""
        model = timm.create_model(name, img_size=(96, 64), num_classes=4).eval()
        x = torch.randn(1, 3, 96, 64).repeat(2, 1, 1, 1)
        x[1, :, 3 * size : 4 * size, 2 * size : 3 * size] += 1
        for layer in ("patch_embed.proj", "patch_embed", norm):
            probe = Probe(model, model.get_submodule(layer), x)
            maps = probe.activations
            assert maps.shape[1:] == (model.patch_embed.proj.out_channels, 96 // size, 64 // size)
            assert (maps[0] != maps[1]).any(dim=0).nonzero().tolist() == [[3, 2]]


class TestLocalWeights:
    @pytest.mark.parametrize(
        "name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "deit_tiny_distilled_patch16_224"]
    )
    def test_of_other_classes(self, tmp_path, name):
        state = timm.create_model(name, num_classes=3).state_dict()
        save_file(state, tmp_path / "mine.safetensors")
        classifier = load_model(f"timm/{name}", str(tmp_path / "mine.safetensors"))
        loaded = classifier.model.state_dict()
        assert list(loaded) == list(state)
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
        assert classifier.categories == ()
        assert not classifier.model.training
        with torch.no_grad():
            assert classifier.model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)

    @pytest.mark.parametrize(("name", "size"), [("resnet18.a1_in1k", 235), ("resnet18.tv_in1k", 256)])
    def test_bring_the_transform_of_their_tag(self, tmp_path, name, size):
        torch.save({"state_dict": timm.create_model("resnet18").state_dict()}, tmp_path / "last.pth.tar")
        classifier = load_model(f"timm/{name}", str(tmp_path / "last.pth.tar"))
        assert classifier.transform.transforms[0].size == size
        assert classifier.class_index("tiger cat") == 282
        image = Image.new("RGB", (300, 400), (255, 51, 102))
        x = pickle.loads(pickle.dumps(classifier.transform))(image)
        assert x.shape == (3, 224, 224)
        picture = pickle.loads(pickle.dumps(picture_of(classifier.transform)))(x)
        torch.testing.assert_close(picture, torch.tensor([1.0, 0.2, 0.4]).reshape(3, 1, 1).expand(3, 224, 224))

    def test_of_all_of_imagenet(self, tmp_path):
        torch.save(timm.create_model("mobilenetv3_small_050", num_classes=21843).state_dict(), tmp_path / "mine.pth")
        categories = load_model("timm/mobilenetv3_small_050", str(tmp_path / "mine.pth")).categories
        assert len(categories) == 21843
        assert categories[:2] == ("organism, being", "benthos")

    def test_that_do_not_fit(self, tmp_path):
        state = timm.create_model("resnet18").state_dict()
        torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "more.pth")
        torch.save({key: value for key, value in state.items() if key != "fc.bias"}, tmp_path / "less.pth")
        for name in ("more", "less"):
            with pytest.raises(
                ValueError, match=rf"{name}.pth does not hold the weights of timm/resnet18: .*(?s:.*)key"
            ):
                load_model("timm/resnet18", str(tmp_path / f"{name}.pth"))
        with pytest.raises(ValueError, match=r"there is no weights file missing\.pth"):
            load_model("timm/resnet18", "missing.pth")

    def test_of_features_alone(self, tmp_path):
        name = "vit_small_patch14_dinov2.lvd142m"
        with pytest.raises(
            ValueError, match=f"timm/{name} returns features, no scores of classes: give .* by weights="
        ):
            load_model(f"timm/{name}")
        save_file(timm.create_model(name, num_classes=5).state_dict(), tmp_path / "mine.safetensors")
        classifier = load_model(f"timm/{name}", str(tmp_path / "mine.safetensors"))
        assert classifier.model.head.out_features == 5
        assert classifier.transform.transforms[1].size == (518, 518)


class TestDownloads:
    def test_that_succeed(self, monkeypatch):
        state = timm.create_model("resnet18").state_dict()
        asked = []

        def load(name, **options):
            asked.append(name)
            return dict(state)

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
        classifier = load_model("timm/resnet18.a1_in1k")
        assert asked == ["timm/resnet18.a1_in1k"]
        assert torch.equal(classifier.model.fc.weight, state["fc.weight"])
        assert not classifier.model.training
        assert classifier.category(282) == "tiger cat"

    def test_offline(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(
            ValueError, match=r"weights of timm/resnet18 could not be loaded \(.*local file by weights="
        ):
            load_model("timm/resnet18")

    def test_failures_of_whatever_loads_them(self, monkeypatch):
        class Unreachable(Exception):
            """Errors of HTTP libraries are no OSErrors in all of them."""

        def fail(*args, **options):
            raise Unreachable("no such host")

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
        with pytest.raises(ValueError, match=r"loaded \(no such host\): give a local file by weights="):
            load_model("timm/resnet18")

    def test_of_models_never_trained(self):
        with pytest.raises(ValueError, match=r"No pretrained weights exist.*give a local file by weights="):
            load_model("timm/coatnet_0_224.untrained")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet18.a1_in1", r"no timm model 'resnet18.a1_in1': did you mean .*resnet18.a1_in1k"),
        ("rsnet18", "no timm model 'rsnet18': did you mean .*resnet18"),
        ("#", r"no timm model '#': see timm.list_models\(\)"),
    ],
)
def test_names_that_do_not_exist(name, match):
    with pytest.raises(ValueError, match=match):
        load_model(f"timm/{name}")
