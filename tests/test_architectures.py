"""The layer that "auto" finds in the models that people have: the table of docs/architectures.md, row by row."""

from __future__ import annotations

import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from architectures import ARCHITECTURES, Architecture, InADict, Inside, available
from places import OFFSETS, effect_of_order, effect_of_the_rest, scores_of, share_at_its_place, with_noise

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import table_of_architectures as table

from cam_extras.layers import FoundLayer, auto_layer
from cam_extras.methods import GradCAM
from cam_extras.probe import Probe

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
# The way of each to a map: what runs in all tests; the others take a minute or two.
QUICK = {
    "ViTForImageClassification",
    "Dinov2WithRegistersForImageClassification",
    "BeitForImageClassification",
    "SiglipForImageClassification",
    "SwinForImageClassification",
    "HieraForImageClassification",
    "ConvNextForImageClassification",
    "deit_tiny_distilled_patch16_224",
    "naflexvit_base_patch16_gap",
    "swinv2_cr_tiny_ns_224",
    "hiera_tiny_224",
    "cait_xxs24_224",
    "tnt_s_patch16_224",
    "VisionTransformer",
    "ViT, 3D",
}
# What follows the last feature map looks at places itself: see the page.
LOOKS_AT_PLACES = {"vgg11", "alexnet", "RN50", "CvtForImageClassification"}


def built(name):
    architecture = BY_NAME[name]
    if not available(architecture):
        pytest.skip(f"needs {architecture.library}")
    return architecture.model_and_input()


def same(features):
    return features


def gradcam(model, x, layer):
    return GradCAM()(Probe(model, layer, x))


def along(direction, output):
    return (scores_of(output) * direction).sum(dim=1)


class Case(NamedTuple):
    """An architecture with its model, and what "auto" finds."""

    architecture: Architecture
    model: torch.nn.Module
    x: torch.Tensor
    found: FoundLayer


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(item, id=str(item), marks=() if item.name in QUICK else pytest.mark.slow) for item in ARCHITECTURES
    ],
)
def case(request):
    architecture = request.param
    if not available(architecture):
        pytest.skip(f"needs {architecture.library}")
    model, x = architecture.model_and_input()
    return Case(architecture, model, x, auto_layer(model, x))


def test_the_map_is_of_the_image(case):
    """Noise changes the map where it is; what follows the layer pools; there is no way around but prefix tokens."""
    layer, to_map = case.found.layer, case.found.reshape_transform or same
    assert share_at_its_place(case.model, layer, to_map, case.x) > 0.6
    if case.architecture.name not in LOOKS_AT_PLACES:
        assert effect_of_order(case.model, layer, to_map, case.x) < 1e-4
    if not getattr(to_map, "cuts", ()):
        assert effect_of_the_rest(case.model, layer, to_map, case.x) < 1e-4


def test_wrapped_is_bare(case):
    expected = gradcam(case.model, case.x, case.found.layer)
    assert expected.any()
    for wrapper in (Inside, InADict):
        wrapped = wrapper(case.model)
        found = auto_layer(wrapped, case.x)
        assert found.name == f"net.{case.found.name}"
        assert torch.equal(gradcam(wrapped, case.x, found.layer), expected)


def test_the_page_shows_it(case):
    assert table.row(case.architecture, case.model, case.x) in table.rows_of_the_page()


@pytest.mark.parametrize("architecture", [item for item in ARCHITECTURES if item.name in QUICK], ids=str)
def test_what_decides_the_score_is_where_the_map_has_its_maximum(architecture):
    """The score is what noise at a place adds to the model's; what the noise adds to Grad-CAM is there."""
    if not available(architecture):
        pytest.skip(f"needs {architecture.library}")
    model, x = architecture.model_and_input()
    layer = auto_layer(model, x).layer
    quiet = 0.5 * x
    before = Probe(model, layer, quiet)
    grid = before.activations.shape[2:]
    cells = list(product(*map(range, grid)))[1::5]  # in an order without symmetries
    best = 0
    for offset in OFFSETS:
        right = 0
        for cell in cells:
            noisy = with_noise(quiet, cell, grid, offset)
            with torch.no_grad():
                added = scores_of(model(noisy)) - scores_of(model(quiet))
            probe = Probe(model, layer, noisy, utility=partial(along, added))
            weights = probe.gradients.flatten(2).mean(2)
            cam = torch.einsum("nc,nc...->n...", weights, probe.activations - before.activations)[0]
            right += bool(cam[cell] == cam.max())
        best = max(best, right / len(cells))
    assert best >= 0.8


def test_the_page_has_a_row_for_each():
    assert len(table.rows_of_the_page()) == len(ARCHITECTURES)


class TestTheChecks:
    """They can fail: wrong maps, earlier layers and branches do."""

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "SwinForImageClassification", "coatnet_nano_rw_224"])
    @pytest.mark.parametrize(
        "wrong",
        [
            lambda maps: maps.transpose(2, 3),
            lambda maps: maps.reshape(*maps.shape[:2], maps.shape[3], maps.shape[2]),
            lambda maps: maps.flatten(2).roll(1, 2).reshape(maps.shape),
            lambda maps: maps.flip(3),
            lambda maps: maps.flip(2),
        ],
        ids=["transposed", "columns for rows", "one token off", "left for right", "upside down"],
    )
    def test_wrong_places(self, name, wrong):
        model, x = built(name)
        _, layer, to_map = auto_layer(model, x)
        assert share_at_its_place(model, layer, lambda out: wrong((to_map or same)(out)), x) < 0.5

    def test_a_class_token_taken_for_a_patch(self):
        model, x = built("vit_tiny_patch16_224")

        def to_map(tokens):
            return tokens[:, :-1].transpose(1, 2).unflatten(2, (6, 4))

        assert share_at_its_place(model, model.blocks[1].norm1, to_map, x) < 0.5

    @pytest.mark.parametrize(
        ("name", "layer"),
        [("vit_tiny_patch16_224", "patch_embed.proj"), ("resnetv2_50", "stages.2"), ("mixer_s32_224", "stem.proj")],
    )
    def test_an_earlier_layer(self, name, layer):
        model, x = built(name)
        assert effect_of_order(model, model.get_submodule(layer), same, x) > 1e-3

    def test_a_branch_beside_the_residual(self):
        model, x = built("ConvNextForImageClassification")
        branch = model.get_submodule("convnext.encoder.stages.3.layers.0.drop_path")
        assert effect_of_the_rest(model, branch, same, x) > 0.1
