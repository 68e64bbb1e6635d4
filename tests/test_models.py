"""Loading classifiers: whose weights are in a file, what to do to images, what the classes are called."""

from __future__ import annotations

import re

import pytest
import torch
from nets import CNN, SETTINGS, TinySwin, TinyViT, make_setting
from PIL import Image
from safetensors.torch import save_file
from state import untouched
from torch import nn
from torchvision.models import ResNet50_Weights, densenet121, get_model, googlenet, resnet18

from cam_extras.methods import GradCAM
from cam_extras.models import Classifier, auto_layer, load_model
from cam_extras.probe import Probe


def test_published_files_bring_their_own_transforms(tmp_path):
    torch.save(get_model("resnet50").state_dict(), tmp_path / "resnet50-0676ba61.pth")
    torch.save(get_model("resnet50").state_dict(), tmp_path / "resnet50-mine.pth")
    for name, weights in (("0676ba61", ResNet50_Weights.IMAGENET1K_V1), ("mine", ResNet50_Weights.DEFAULT)):
        classifier = load_model(str(tmp_path / f"resnet50-{name}.pth"))
        assert classifier.transform.resize_size == weights.transforms().resize_size
        assert load_model("resnet50", str(tmp_path / f"resnet50-{name}.pth")).transform.resize_size == (
            classifier.transform.resize_size
        )
    assert ResNet50_Weights.IMAGENET1K_V1.transforms().resize_size != ResNet50_Weights.DEFAULT.transforms().resize_size


def test_published_file_whose_name_is_not_the_models(tmp_path):
    file = tmp_path / "efficientnet_b0_rwightman-7f5810bc.pth"
    torch.save(get_model("efficientnet_b0").state_dict(), file)
    assert type(load_model(str(file)).model).__name__ == "EfficientNet"


def test_files_of_densenet_have_older_names(tmp_path):
    model = densenet121()
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in model.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet121-a639ec97.pth")
    loaded = load_model(str(tmp_path / "densenet121-a639ec97.pth")).model
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
)
def test_checkpoints_of_training_scripts(tmp_path, wrap):
    state = resnet18().state_dict()
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    loaded = load_model("resnet18", str(tmp_path / "checkpoint.pth")).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_other_classes_have_no_names(tmp_path):
    save_file(resnet18(num_classes=3).state_dict(), tmp_path / "mine.safetensors")
    classifier = load_model("resnet18", str(tmp_path / "mine.safetensors"))
    assert classifier.categories == ()
    assert classifier.category(2) == "class 2"
    assert not classifier.model.training
    with pytest.raises(ValueError, match="there is no class 'cat'"):
        classifier.class_index("cat")


def test_googlenet_converts_its_input(tmp_path):
    torch.save(googlenet(init_weights=False).state_dict(), tmp_path / "googlenet.pth")
    assert load_model(str(tmp_path / "googlenet.pth")).model.transform_input


def test_function(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torchvision.models import resnet18\ndef make(path=None): return resnet18()\n"
    )
    classifier = load_model(f"{tmp_path / 'nets.py'}:make")
    assert not classifier.model.training
    assert classifier.category(282) == "tiger cat"
    assert classifier.transform(Image.new("RGB", (300, 400))).shape == (3, 224, 224)


class TestAutoLayer:
    @pytest.mark.parametrize(
        ("name", "layer", "cells"),
        [
            ("resnet18", "layer4", 3),
            ("vgg11", "features", 3),
            ("alexnet", "features", 2),
            ("densenet121", "features", 3),
            ("mobilenet_v2", "features", 3),
            ("efficientnet_b0", "features", 3),
            ("convnext_tiny", "features", 3),
            ("shufflenet_v2_x0_5", "conv5", 3),
            ("squeezenet1_1", "classifier.2", 5),  # its head pools the maps of the classes
            ("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", 6),
            ("swin_t", "norm", 3),
        ],
    )
    def test_torchvision(self, name, layer, cells):
        model = get_model(name, **({"image_size": 96} if name == "vit_b_16" else {})).eval()
        if name == "vit_b_16":
            nn.init.normal_(model.heads.head.weight)  # torchvision leaves it 0
        reshape_transform = Classifier(model, None).reshape_transform
        x = torch.randn(2, 3, 96, 96)
        found = auto_layer(model, x, reshape_transform)
        assert found == (layer, model.get_submodule(layer))
        probe = Probe(model, found[1], x, reshape_transform=reshape_transform)
        maps = GradCAM()(probe)
        assert maps.shape == (2, probe.activations.shape[1], cells, cells)
        assert (maps.flatten(1) != 0).any(dim=1).all()

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_networks_of_all_kinds(self, setting):
        name = {"vit": "blocks.1.norm1", "swin": "layer"}.get(setting, "head")
        setting = make_setting(setting)
        with untouched(setting.model, setting.x):
            found = auto_layer(setting.model, setting.x, **setting.options)
        assert found == (name, setting.model.get_submodule(name))
        probe = Probe(setting.model, found[1], setting.x, **setting.options)
        assert GradCAM()(probe).shape == probe.activations.shape
        assert probe.activations.ndim == setting.x.ndim

    def test_series(self):
        model = CNN(dims=1)
        assert auto_layer(model, torch.randn(2, 3, 40)) == ("head", model.head)

    def test_maps_of_one_cell_show_nothing(self):
        assert auto_layer(resnet18(), torch.randn(1, 3, 32, 32))[0] == "layer3"

    def test_is_picked_before_pooling(self):
        """Though pooling may leave a map, and dropout or an identity follow."""
        convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        for pooling in (nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(3)):
            model = nn.Sequential(convolutions, nn.Dropout2d(), pooling, nn.Identity(), nn.Flatten(), nn.LazyLinear(5))
            model(torch.randn(2, 3, 8, 8))
            assert auto_layer(model, torch.randn(1, 3, 8, 8)) == ("0", convolutions)

    def test_modules_that_run_twice_are_passed_over(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.shared, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 4)

            def forward(self, x):
                return self.head(self.shared(self.shared(self.first(x))).mean(dim=(2, 3)))

        assert auto_layer(Twice(), torch.randn(1, 3, 9, 9))[0] == "first"

    def test_maps_off_the_way_to_the_score_are_passed_over(self):
        class Side(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head, self.side = nn.Conv2d(3, 3, 3), nn.Linear(3, 4), nn.Conv2d(3, 3, 3)

            def forward(self, x):
                features = self.body(x)
                logits = self.head(features.mean(dim=(2, 3)))
                self.side(features)
                return logits

        assert auto_layer(Side(), torch.randn(1, 3, 9, 9))[0] == "body"

    def test_layers_that_pytorch_fuses_are_seen(self):
        class Fused(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
                self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

            def forward(self, x):
                return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))

        def reshape(tokens):
            return tokens.transpose(1, 2).unflatten(2, (3, 4))

        assert auto_layer(Fused().eval(), torch.randn(1, 3, 12, 16), reshape)[0] == "encoder.norm2"

    @pytest.mark.parametrize(
        "model", [nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten())]
    )
    def test_models_without_a_map(self, model):
        x = torch.randn(2, 3, 6, 6)
        with untouched(model), pytest.raises(ValueError, match=r"no feature map .*more than one cell.* layer by name"):
            auto_layer(model, x)

    def test_models_with_a_flat_score(self):
        model = CNN()
        nn.init.zeros_(model.classifier.weight)
        with pytest.raises(ValueError, match=r"CNN has no feature map .* gradients are 0 in all of them: is the model"):
            auto_layer(model, torch.randn(1, 3, 12, 16))
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 4))
        model[1].register_forward_hook(lambda module, args, output: output.detach())
        with pytest.raises(ValueError, match="the score does not depend on layer '0'"):
            auto_layer(model, torch.randn(1, 3, 6, 6))

    def test_failures_leave_the_model_as_it_was(self):
        for model in (CNN(), TinyViT(), TinySwin()):
            model.fail = True
            x = torch.randn(2, 3, 12, 16)
            with untouched(model), pytest.raises(RuntimeError, match="on purpose"):
                auto_layer(model, x)

    @pytest.mark.parametrize(
        ("x", "error", "match"),
        [
            (torch.zeros(0, 3, 8, 8), ValueError, "the input batch is empty"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "expected floating point"),
            (torch.full((1, 3, 8, 8), torch.nan), ValueError, "NaN or infinite"),
        ],
    )
    def test_wrong_input(self, x, error, match):
        with pytest.raises(error, match=match):
            auto_layer(CNN(), x)
