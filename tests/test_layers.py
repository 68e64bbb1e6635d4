"""The layer that "auto" finds is the last feature map, or there is an error: never a patch embedding."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from cam_extras.layers import auto_layer

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """A model inside another, as a LightningModule has it: what it says of itself is out of sight."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class Transformer(nn.Module):
    """Patches, tokens, a block of attention, and the mean of the tokens."""

    def __init__(self, attention=True):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if attention else None
        self.mixing = nn.Linear(16, 16)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        if self.attention is not None:
            tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        tokens = tokens + self.mixing(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(tokens.mean(dim=1))


class ChannelsLast(nn.Module):
    """A feature map (N, H, W, C), as Swin has it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).movedim(1, -1)).mean(dim=(1, 2)))


@pytest.mark.parametrize("attention", [True, False], ids=["attention", "mixing of tokens"])
def test_a_patch_embedding_is_refused_with_what_to_do(attention):
    told = r"'model.patches' returns the last feature map .* of this Wrapped, and 'model.norm' goes on with its cells"
    with pytest.raises(ValueError, match=told) as caught:
        auto_layer(Wrapped(Transformer(attention).eval()), X)
    assert ("such as 'model.norm'" in str(caught.value)) == attention
    assert "and a reshape_transform that makes a feature map" in str(caught.value)


def test_what_a_reshape_transform_makes_is_taken():
    def grid(tokens):
        return tokens.transpose(1, 2).reshape(len(tokens), -1, 4, 4) if tokens.ndim == 3 else tokens

    assert auto_layer(Wrapped(Transformer().eval()), X, grid)[0] == "model.norm"


def test_channels_last_are_refused_with_what_to_do():
    model = ChannelsLast().eval()
    with pytest.raises(ValueError, match=r"'norm' .*\(1, 4, 4, 8\), with its channels last, .*movedim\(-1, 1\)"):
        auto_layer(model, X)
    name, layer = auto_layer(model, X, lambda t: t.movedim(-1, 1) if t.shape[-1] == 8 else t)
    assert (name, layer) == ("norm", model.norm)


@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny", "mobilenet_v2", "maxvit_t", "swin_t"])
def test_torchvision_is_what_it_was(model):
    network = torchvision.models.get_model(model, weights=None).eval()
    expected = {"resnet18": "layer4", "maxvit_t": "blocks.3", "swin_t": "permute"}.get(model, "features")
    size = 224 if model in ("maxvit_t", "swin_t") else 64
    assert auto_layer(Wrapped(network), torch.randn(1, 3, size, size))[0] == f"model.{expected}"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("vit_tiny_patch16_224", "'model.patch_embed.proj' returns the last"),
        ("deit3_small_patch16_224", "'model.patch_embed.proj' returns the last"),
        ("beit_base_patch16_224", "'model.patch_embed.proj' returns the last"),
        ("levit_128s", "'model.stem' returns the last"),
        ("crossvit_tiny_240", "'model.patch_embed.1.proj' returns the last"),
        ("coat_tiny", "'model.patch_embed4.proj' returns the last"),
        ("mvitv2_tiny", "'model.stages.3.blocks.1.attn.norm_v' returns the last"),
        ("cait_xxs24_224", "goes on with its cells"),
        ("xcit_nano_12_p16_224", "goes on with its cells"),
        ("volo_d1_224", "goes on with its cells"),
        ("swin_tiny_patch4_window7_224", "with its channels last"),
    ],
)
@pytest.mark.slow
def test_timm_inside_another_module(model, told):
    timm = pytest.importorskip("timm")
    network = timm.create_model(model, num_classes=10).eval()
    size = network.pretrained_cfg["input_size"][-1]
    with pytest.raises(ValueError, match=told):
        auto_layer(Wrapped(network), torch.randn(1, 3, size, size))
