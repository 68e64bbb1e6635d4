"""Loading classifiers: whose weights are in a file, what to do to images, what the classes are called."""

from __future__ import annotations

import re

import pytest
import torch
from nets import CNN, SETTINGS, TinySwin, TinyViT, make_setting
from PIL import Image
from safetensors.torch import save_file
from state import assert_untouched
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
