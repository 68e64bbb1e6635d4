"""The layer that "auto" finds is the last feature map, or there is an error: never a patch embedding."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torchvision
from torch import nn

from cam_extras._axes import AxisTracker, Unclear
from cam_extras.layers import auto_layer
from cam_extras.methods import GradCAM
from cam_extras.probe import Probe

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """A model inside another, as a LightningModule has it: what it says of itself is out of sight."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class Transformer(nn.Module):
    """Patches, tokens, attention, mixing of tokens with or without a residual, and the mean of the tokens."""

    def __init__(self, attention=True, residual=True):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if attention else None
        self.mixing = nn.Linear(16, 16)
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)
        self.residual = residual

    def forward(self, x):
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        if self.attention is not None:
            tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        mixed = self.mixing(tokens.transpose(1, 2)).transpose(1, 2)
        tokens = self.last(tokens + mixed if self.residual else mixed)
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


def grid(tokens):
    return tokens.transpose(1, 2).reshape(len(tokens), -1, 4, 4) if tokens.ndim == 3 else tokens


@pytest.mark.parametrize("attention", [True, False], ids=["attention", "mixing of tokens"])
def test_tokens_are_arranged(attention):
    model = Wrapped(Transformer(attention).eval())
    name, layer, arrange = auto_layer(model, X)
    assert (name, layer) == ("model.last", model.model.last)
    tokens = torch.randn(3, 16, 8)
    assert torch.equal(arrange(tokens), grid(tokens))
    assert torch.equal(Probe(model, layer, X).gradients, Probe(model, layer, X, reshape_transform=grid).gradients)


def test_cells_that_cannot_be_followed_are_refused_with_what_to_do():
    """Without a residual a layer over the tokens may put them in any order."""
    model = Wrapped(Transformer(residual=False).eval())
    told = r"'model.norm' returns the last feature map of this Wrapped that can be followed, and 'model.\w+' goes on"
    with pytest.raises(ValueError, match=told) as caught:
        auto_layer(model, X)
    assert "and a reshape_transform that makes a feature map" in str(caught.value)
    assert auto_layer(model, X, grid).name == "model.last"
    with pytest.raises(
        ValueError, match=r"\(1, C, \*S\) as the output of layer 'model.last'; got \(1, 16, 8\), and its"
    ):
        _ = Probe(model, model.model.last, X).activations


def test_what_a_reshape_transform_makes_is_taken():
    assert auto_layer(Wrapped(Transformer().eval()), X, grid)[::2] == ("model.last", grid)


def test_channels_last():
    model = ChannelsLast().eval()
    name, layer, arrange = auto_layer(model, X)
    assert (name, layer) == ("norm", model.norm)
    values = torch.randn(2, 4, 4, 8)
    assert torch.equal(arrange(values), values.movedim(-1, 1))
    with pytest.raises(ValueError, match=r"'norm' .*\(2, 4, 4, 8\), and not as \(N, C, \*S\): give resh"):
        auto_layer(model, X, None)
    assert auto_layer(model, X, lambda t: t.movedim(-1, 1) if t.shape[-1] == 8 else t).name == "norm"


@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny", "mobilenet_v2", "maxvit_t", "swin_t"])
def test_torchvision(model):
    network = torchvision.models.get_model(model, weights=None).eval()
    expected = {"resnet18": "layer4", "maxvit_t": "blocks.3", "swin_t": "norm"}.get(model, "features")
    size = 224 if model in ("maxvit_t", "swin_t") else 64
    x = torch.randn(1, 3, size, size)
    found = auto_layer(Wrapped(network), x)
    assert found.name == f"model.{expected}"
    bare = auto_layer(network, x)
    assert bare == (expected, found.layer, found.reshape_transform)
    assert torch.equal(GradCAM()(Probe(network, bare.layer, x)), GradCAM()(Probe(Wrapped(network), found.layer, x)))


def attend(tokens):
    return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


class TestAxes:
    """Operations on an input, whose places are known from its values: each says where it comes from."""

    OPERATIONS: ClassVar = {
        "channels last": lambda x: x.permute(0, 2, 3, 1),
        "tokens": lambda x: x.flatten(2).transpose(1, 2),
        "channels and tokens": lambda x: x.flatten(2),
        "class token": lambda x: torch.cat([x.new_zeros(len(x), 1, 3), x.flatten(2).mT], dim=1),
        "padded tokens": lambda x: torch.nn.functional.pad(x.flatten(2).mT, (0, 0, 1, 2)),
        "token at the end": lambda x: torch.cat([x.flatten(2).mT, x.new_zeros(len(x), 2, 3)], dim=1),
        "a token off": lambda x: torch.cat([x.new_zeros(len(x), 3, 3), x.flatten(2).mT], dim=1)[:, 2:],
        "windows": lambda x: x.view(-1, 3, 2, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, 3),
        "windows and back": lambda x: (
            x.view(-1, 3, 2, 2, 6).permute(0, 2, 3, 4, 1).reshape(-1, 2, 6, 3).view(-1, 4, 6, 3)
        ),
        "heads": lambda x: x.flatten(2).view(-1, 1, 3, 24).transpose(2, 3),
        "rolled and back": lambda x: x.roll((1, 2), (2, 3)).roll((-1, -2), (2, 3)).permute(0, 2, 3, 1),
        "columns first": lambda x: x.transpose(2, 3).flatten(2).mT,
        "sequence first": lambda x: x.flatten(2).permute(2, 0, 1),
        "patches": lambda x: torch.nn.functional.pixel_unshuffle(x, 2).permute(0, 2, 3, 1),
        "linear": lambda x: torch.nn.functional.linear(x.permute(0, 2, 3, 1), torch.eye(3)),
        "attention": lambda x: attend(x.flatten(2).mT) + x.flatten(2).mT,
    }

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("samples", [1, 2])
    def test_cells_are_where_they_were(self, operation, samples):
        """The value of a cell is its place, in every channel: so must the feature map be."""
        places = torch.arange(24.0).reshape(1, 1, 4, 6).expand(2, 3, 4, 6)[:samples].contiguous()
        function = self.OPERATIONS[operation]
        with AxisTracker(places) as tracker:
            result = function(places)
            arrange = tracker.arrangement(result)
        made = result if arrange is None else arrange(result)
        if operation == "patches":  # the first place of each
            assert torch.equal(made[:, ::4], places[:, :, ::2, ::2])
        elif operation == "attention":
            assert made.shape == places.shape
        else:
            assert torch.equal(made, places)

    @pytest.mark.parametrize(
        "operation",
        [
            lambda x: x.roll(1, 2),
            lambda x: x.flip(2),
            lambda x: torch.nn.functional.grid_sample(x, x.new_zeros(2, 4, 6, 2), align_corners=False),
            lambda x: x.flatten(2).sort().values,
            lambda x: x.flatten(2)[:, :, torch.arange(23, -1, -1)].mT,
            lambda x: torch.nn.functional.linear(x.flatten(2), torch.eye(24)),
            lambda x: x.flatten(2).mT[:, 1:],
            lambda x: x.mean(dim=2),
            lambda x: x.flatten(2).mT @ x.flatten(2),
            lambda x: x.transpose(2, 3) * x.new_ones(6, 4) + x.new_zeros(6, 4).view(4, 6).t(),
        ],
    )
    def test_what_is_unclear_is_no_map(self, operation):
        x = torch.randn(2, 3, 4, 6)
        with AxisTracker(x) as tracker:
            result = operation(x)
            try:
                arrange = tracker.arrangement(result)
            except Unclear:
                return
        assert arrange is not None  # transposed, and known to be
        assert arrange(result).shape[2:] == (4, 6)
