"""Layers and models of which no map can be made: each an error that says what is wrong."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from cam_extras import GradCAM
from cam_extras.captum import LayerGradCam
from cam_extras.layers import auto_layer
from cam_extras.probe import Probe

X = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """Patches as tokens, which a function rearranges."""

    def __init__(self, rearrange=lambda tokens: tokens):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 16, 16)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)
        self.rearrange = rearrange

    def forward(self, x):
        tokens = self.block(self.rearrange(self.stem(x).flatten(2).transpose(1, 2)))
        return self.head(self.norm(self.pool(tokens.transpose(1, 2)).flatten(1)))


class TwoHeads(nn.Module):
    """Two tasks, of equal standing."""

    def __init__(self, names):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=4)
        self.species, self.age = nn.Linear(8, 5), nn.Linear(8, 4)
        self.names = names

    def forward(self, x):
        pooled = self.body(x).mean(dim=(2, 3))
        scores = self.species(pooled), self.age(pooled)
        return dict(zip(self.names, scores, strict=True)) if self.names else scores


def by_importance(tokens):
    order = tokens.norm(dim=2).argsort(dim=1)
    return tokens.gather(1, order[:, :, None].expand_as(tokens))


def every_second_masked(tokens):
    return tokens[:, torch.randperm(tokens.shape[1])[::2]]


def of_random_mixing(tokens):
    return torch.randn(tokens.shape[1], tokens.shape[1]).softmax(dim=1) @ tokens


NO_GRID = pytest.mark.parametrize("rearrange", [by_importance, every_second_masked, of_random_mixing])


@NO_GRID
def test_a_stem_is_not_taken_for_the_last_feature_map(rearrange):
    model = Tokens(rearrange).eval()
    assert auto_layer(Tokens().eval(), X).name == "block"
    with pytest.raises(ValueError, match=r"(?s)'stem' returns the last .* that can be followed, and 'block.*wrong"):
        auto_layer(model, X)


@NO_GRID
def test_tokens_that_are_no_grid(rearrange):
    model = Tokens(rearrange).eval()
    for explain in (
        lambda: GradCAM(model, [model.block])(X),
        lambda: LayerGradCam(model, model.block).attribute(X, target=1),
    ):
        with pytest.raises(ValueError, match=r"as the output of layer 'block'; got .*: choose a layer with spatial"):
            explain()


@pytest.mark.parametrize("layer", ["norm", "pool", "head"])
def test_a_layer_after_pooling(layer):
    model = Tokens().eval()
    with pytest.raises(ValueError, match=rf"as the output of layer '{layer}'; got .*: choose a layer with spatial"):
        GradCAM(model, [model.get_submodule(layer)])(X)


def test_a_pooled_map_of_one_cell():
    model = torchvision.models.resnet18().eval()
    with pytest.warns(UserWarning, match="single cell.* the map of one cell is 0"):
        assert not GradCAM(model, [model.avgpool])(X).any()


@pytest.mark.parametrize("names", [("species", "age"), None], ids=["dict", "tuple"])
def test_two_class_heads(names):
    model = TwoHeads(names).eval()
    for explain in (
        lambda: auto_layer(model, X),
        lambda: GradCAM(model, [model.body])(X),
        lambda: Probe(model, model.body, X).gradients,
    ):
        with pytest.raises((TypeError, ValueError), match=r"species.*age|tuple"):
            explain()
