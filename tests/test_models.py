"""Loading classifiers: whose weights are in a file, what to do to images, what the classes are called."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import sys

import pytest
import torch
from nets import CNN, SETTINGS, TinySwin, TinyViT, make_setting
from PIL import Image
from safetensors.torch import save_file
from state import untouched
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet50_Weights, densenet121, get_model, googlenet, resnet18
from torchvision.transforms import v2

from cam_extras.layers import auto_layer
from cam_extras.methods import GradCAM
from cam_extras.models import Classifier, fingerprint, load_model, picture_of
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
    with pytest.raises(ValueError, match="the names of the model's classes are not known: give 'cat'"):
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


def test_function_that_returns_a_classifier(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nfrom cam_extras.models import Classifier\n"
        "def transform(image): return image\n"
        "def make(path=None): return Classifier(nn.Dropout(), transform, ('cat', 'dog'))\n"
    )
    classifier = load_model(f"{tmp_path / 'nets.py'}:make")
    assert not classifier.model.training
    assert classifier.transform("image") == "image"
    assert classifier.categories == ("cat", "dog")
    with pytest.raises(ValueError, match=r"must return a torch.nn.Module or a Classifier; it returned str"):
        load_model(f"{tmp_path / 'nets.py'}:transform", "weights.pth")


def test_timm_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm/resnet18 needs timm .*: pip install cam_extras\[timm\]"):
        load_model("timm/resnet18")


def test_files_in_a_folder_named_timm(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "nets.py").write_text("from torch.nn import Identity as make\n")
    assert isinstance(load_model("timm/nets.py:make").model, nn.Identity)
    torch.save(resnet18().state_dict(), "timm/resnet18-mine.pth")
    assert type(load_model("timm/resnet18-mine.pth").model).__name__ == "ResNet"


class TestGivenTransform:
    @pytest.fixture
    def weights(self, tmp_path):
        torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
        return str(tmp_path / "resnet18.pth")

    def test_callable(self, weights):
        given = transforms.ToTensor()
        classifier = load_model("resnet18", weights, given)
        assert classifier.transform is given
        assert classifier.category(282) == "tiger cat"

    def test_by_name(self, weights, tmp_path):
        (tmp_path / "nets.py").write_text(
            "from torchvision.transforms import Resize\ndef small(): return Resize(7)\n"
            "def text(): return 'Resize'\ndef fails(): raise KeyError('size')\n"
        )
        assert load_model("resnet18", weights, f"{tmp_path / 'nets.py'}:small").transform.size == 7
        given = "torchvision.transforms:PILToTensor"
        assert isinstance(load_model("resnet18", weights, given).transform, transforms.PILToTensor)
        with pytest.raises(TypeError, match="a transform is called with an image; got str"):
            load_model("resnet18", weights, f"{tmp_path / 'nets.py'}:text")
        with pytest.raises(ValueError, match=r"nets.py:fails failed with KeyError: 'size'"):
            load_model("resnet18", weights, f"{tmp_path / 'nets.py'}:fails")
        with pytest.raises(ValueError, match=r"there is no function in .*nets.py 'smal': did you mean small"):
            load_model("resnet18", weights, f"{tmp_path / 'nets.py'}:smal")

    @pytest.mark.parametrize(
        ("given", "error", "match"),
        [
            ("resize", ValueError, "expected FILE.py:FUNCTION or MODULE:FUNCTION for the transform; got 'resize'"),
            ("", ValueError, "expected FILE.py:FUNCTION"),
            (224, TypeError, "a transform is called with an image; got int"),
        ],
    )
    def test_wrong(self, weights, given, error, match):
        with pytest.raises(error, match=match):
            load_model("resnet18", weights, given)


class TestPictureOf:
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)

    @pytest.mark.parametrize(
        "transform",
        [
            transforms.Normalize(mean, std),
            transforms.Compose([transforms.CenterCrop((5, 7)), transforms.Compose([transforms.Normalize(mean, std)])]),
            v2.Compose([v2.Identity(), v2.Normalize(list(mean), list(std))]),
            nn.Sequential(v2.Identity(), nn.Sequential(v2.Normalize(list(mean), list(std)))),
            transforms.Compose([nn.Sequential(v2.Normalize(list(mean), list(std))), v2.Normalize([0.5], [4.0])]),
        ],
    )
    def test_undoes_every_normalisation(self, transform):
        image = torch.rand(3, 5, 7)
        x = transform(image)
        picture = pickle.loads(pickle.dumps(picture_of(transform)))
        torch.testing.assert_close(picture(x), image)
        torch.testing.assert_close(picture(x.double()), image.double(), rtol=0, atol=1e-6)
        assert picture(x.bfloat16()).dtype == torch.bfloat16
        assert picture(x + 100).max() == 1
        assert picture(x - 100).min() == 0

    def test_presets(self):
        transform = ResNet50_Weights.DEFAULT.transforms()
        x = transform(Image.new("RGB", (300, 400), (255, 51, 102)))
        expected = torch.tensor([1.0, 0.2, 0.4]).reshape(3, 1, 1).expand(3, 224, 224)
        torch.testing.assert_close(picture_of(transform)(x), expected)

    def test_of_one_channel_and_one_dimension(self):
        picture = picture_of(transforms.Normalize(torch.tensor([0.5]), torch.tensor([0.25])))
        assert picture(torch.tensor([[-2.0, 0.0, 1.0, 3.0]])).tolist() == [[0.0, 0.5, 0.75, 1.0]]

    @pytest.mark.parametrize("transform", [None, transforms.ToTensor(), lambda image: image, v2.GaussianNoise()])
    def test_without_a_normalisation(self, transform):
        picture = picture_of(transform)
        x = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
        assert torch.equal(picture(x), x)
        assert torch.equal(picture(x * 0.5 + 0.25), x * 0.5 + 0.25)
        assert torch.equal(picture(x * 4 - 3), x)
        assert torch.equal(picture(x * 2), x)
        assert torch.equal(picture(x - 0.5), x)
        assert picture(torch.full((1, 2, 2), 7.0)).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


class Holder(nn.Module):
    """A model whose state dict has what is asked for."""

    def __init__(self, extra=None, **tensors):
        super().__init__()
        self.extra = extra
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class ExtraHolder(Holder):
    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class TestFingerprint:
    def test_is_that_of_names_types_shapes_and_bytes(self):
        weight = torch.tensor([[1.0, 2.0, 3.0]])
        model = nn.Linear(3, 1)
        model.load_state_dict({"weight": weight, "bias": torch.tensor([4.0])})
        content = b"weight torch.float32 (1, 3)\n" + weight.numpy().tobytes()
        content += b"bias torch.float32 (1,)\n" + torch.tensor([4.0]).numpy().tobytes()
        assert fingerprint(model) == hashlib.sha256(content).hexdigest()

    def test_is_the_same_for_the_same_weights(self):
        model = CNN()
        with untouched(model):
            first = fingerprint(model)
        assert fingerprint(copy.deepcopy(model)) == first
        assert fingerprint(model.eval().requires_grad_(False)) == first
        values = torch.randn(3, 4)
        assert fingerprint(Holder(a=values.T)) == fingerprint(Holder(a=values.T.contiguous()))
        assert fingerprint(Holder(a=values[:, 1])) == fingerprint(Holder(a=values[:, 1].clone()))
        assert fingerprint(Holder(a=values, b=values)) == fingerprint(Holder(a=values, b=values.clone()))
        complex_values = torch.randn(3, dtype=torch.complex64)
        assert fingerprint(Holder(a=complex_values.conj())) == fingerprint(
            Holder(a=complex_values.conj().resolve_conj())
        )

    def test_differs_where_anything_does(self):
        zeros = torch.zeros(2, 3)
        last = torch.zeros(2, 3)
        last[1, 2] = torch.finfo(torch.float32).tiny
        models = [
            Holder(),
            Holder(a=zeros),
            Holder(b=zeros),
            Holder(a=last),
            Holder(a=-zeros),
            Holder(a=zeros.reshape(3, 2)),
            Holder(a=zeros.int()),
            Holder(a=zeros.bfloat16()),
            Holder(a=zeros.half()),
            Holder(a=zeros.bool()),
            Holder(a=zeros[:0]),
            Holder(a=zeros[0, 0]),
            Holder(a=zeros, b=last),
            Holder(b=last, a=zeros),
            Holder(a=last, b=zeros),
            Holder(a=zeros.to_sparse()),
            Holder(a=last.to_sparse()),
            ExtraHolder({"scale": 1}),
            ExtraHolder({"scale": 2}),
        ]
        assert len({fingerprint(model) for model in models}) == len(models)

    def test_says_what_cannot_be_read(self):
        with pytest.raises(ValueError, match="cannot read weight of Linear: Cannot copy out of meta tensor"):
            fingerprint(nn.Linear(2, 2, device="meta"))
        with pytest.raises(ValueError, match="cannot read _extra_state of ExtraHolder: "):
            fingerprint(ExtraHolder(lambda: None))

    @pytest.mark.gpu
    def test_is_the_same_on_the_gpu(self):
        model = CNN()
        assert fingerprint(copy.deepcopy(model).cuda()) == fingerprint(model)


@pytest.mark.filterwarnings("ignore:.*Classifier.reshape_transform:DeprecationWarning")
class TestReshapeTransform:
    """What a classifier still tells for one release; "auto" tells it for any layer."""

    def test_tokens(self):
        reshape_transform = Classifier(get_model("vit_b_16", image_size=48), None).reshape_transform
        patches = torch.arange(18.0).reshape(1, 9, 2)
        expected = torch.tensor([[[[0.0, 2, 4], [6, 8, 10], [12, 14, 16]], [[1.0, 3, 5], [7, 9, 11], [13, 15, 17]]]])
        for tokens in (patches, torch.cat([patches[:, :1] + 50, patches], dim=1)):  # the class token comes first
            assert torch.equal(reshape_transform(tokens), expected)

    @pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
    def test_is_what_auto_finds(self, name):
        model = get_model(name).eval()
        if name == "vit_b_32":
            nn.init.normal_(model.heads.head.weight)  # torchvision leaves it 0
        x = torch.randn(2, 3, 224, 224)
        layer = auto_layer(model, x).layer
        maps = [
            Probe(model, layer, x, reshape_transform=given).activations
            for given in ("auto", Classifier(model, None).reshape_transform)
        ]
        assert torch.equal(*maps)


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
        x = torch.randn(2, 3, 96, 96)
        found = auto_layer(model, x)
        assert found[:2] == (layer, model.get_submodule(layer))
        probe = Probe(model, found.layer, x)
        maps = GradCAM()(probe)
        assert maps.shape == (2, probe.activations.shape[1], cells, cells)
        assert (maps.flatten(1) != 0).any(dim=1).all()

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_networks_of_all_kinds(self, setting):
        name = {"vit": "blocks.1.norm1", "swin": "layer"}.get(setting, "head")
        setting = make_setting(setting)
        with untouched(setting.model, setting.x):
            found = auto_layer(setting.model, setting.x, **setting.options)
        assert found[:2] == (name, setting.model.get_submodule(name))
        assert auto_layer(setting.model, setting.x).name == ("mlp" if name == "layer" else name)
        probe = Probe(setting.model, found.layer, setting.x, **setting.options)
        assert GradCAM()(probe).shape == probe.activations.shape
        assert probe.activations.ndim == setting.x.ndim

    def test_series(self):
        model = CNN(dims=1)
        assert auto_layer(model, torch.randn(2, 3, 40)) == ("head", model.head, None)

    def test_maps_of_one_cell_show_nothing(self):
        assert auto_layer(resnet18(), torch.randn(1, 3, 32, 32))[0] == "layer3"

    def test_is_picked_before_pooling(self):
        """Though pooling may leave a map, and dropout or an identity follow."""
        convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        for pooling in (nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(3)):
            model = nn.Sequential(convolutions, nn.Dropout2d(), pooling, nn.Identity(), nn.Flatten(), nn.LazyLinear(5))
            model(torch.randn(2, 3, 8, 8))
            assert auto_layer(model, torch.randn(1, 3, 8, 8)) == ("0", convolutions, None)

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
        name, _, arrange = auto_layer(Fused().eval(), torch.randn(1, 3, 12, 16))
        tokens = torch.randn(1, 12, 8)
        assert name == "encoder"
        assert torch.equal(arrange(tokens), reshape(tokens))

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
        with pytest.raises(ValueError, match="the utility does not depend on layer '0'"):
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
