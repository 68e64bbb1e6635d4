"""Inputs besides the image, by position and by name, at every door: the rows of a pass are those of its samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hosts import CAPTUM, METHODS, SEVERAL_PASSES
from nets import CNN

import cam_extras.pytorch_grad_cam as pgc_host
import cam_extras.quantus as quantus_host
from cam_extras._inputs import OtherInputs
from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.probe import Probe

X = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
SCALE = torch.tensor([0.5, 1.0, 3.0])
SHIFT = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


class Two(CNN):
    """Takes a number for each image, and class scores to add."""

    def forward(self, x, scale, shift=None, factor=1.0):
        scores = super().forward(x * scale.view(-1, 1, 1, 1)) * factor
        return scores if shift is None else scores.tanh() * 3 + shift


class Tokens(Two):
    """Takes the image second, as CLIP does."""

    def forward(self, scale, x=None, shift=None):
        return super().forward(x, scale, shift)


class Bound(CNN):
    """One image's other inputs inside: what the maps are compared with."""

    def __init__(self, model, n):
        super().__init__()
        self.model, self.layer, self.n = model, model.layer, n

    def forward(self, x):
        rows = len(x)
        return Two.forward(self.model, x, SCALE[self.n].expand(rows), SHIFT[self.n].expand(rows, -1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Two().eval()


GIVEN = {
    "by position": {"additional_forward_args": (SCALE, SHIFT)},
    "by name": {"additional_forward_kwargs": {"scale": SCALE, "shift": SHIFT}},
    "both": {"additional_forward_args": (SCALE,), "additional_forward_kwargs": {"shift": SHIFT}},
}
BY = pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)


@BY
def test_every_door(model, given):
    expected = np.concatenate([pgc_host.GradCAM(Bound(model, n), ["layer"])(X[n : n + 1], [2]) for n in range(3)])
    captum = CAPTUM["GradCAM"](model, model.layer).attribute(X, 2, **given)
    found = {
        "pytorch-grad-cam": pgc_host.GradCAM(model, [model.layer])(X, 2, **given),
        "Captum": input_map(captum.detach(), (20, 24)),
        "Quantus": quantus_host.explain("GradCAM", layer="layer", batch_size=2)(model, X, 2, **given)[:, 0],
        "Evaluator": Evaluator(model, "layer", "GradCAM", ["complexity"])(X, 2, **given).maps["GradCAM"],
        "Probe": METHODS["GradCAM"]().maps(Probe(model, model.layer, X, target=2, **given)),
    }
    for door, maps in found.items():
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5, err_msg=door)


@pytest.mark.parametrize("name", [*SEVERAL_PASSES, "ShapleyCAM"])
def test_methods_of_several_passes_use_each_samples_own(model, name):
    """In small passes, as many in a pass as they like."""
    hyper = {**SEVERAL_PASSES.get(name, {}), **({"noise": 0.0} if name == "ExpectedGradCAM" else {})}
    if name == "SmoothGradCAMPlusPlus":
        pytest.skip("its noise is that of the whole batch")
    small = {"internal_batch_size": 2} if name in SEVERAL_PASSES else {}
    together = METHODS[name](**hyper, **small).maps(Probe(model, model.layer, X, target=1, **GIVEN["both"]))
    for n in range(3):
        alone = METHODS[name](**hyper).maps(Probe(Bound(model, n), model.layer, X[n : n + 1], target=1))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=0, atol=1e-4)


@BY
def test_metrics_use_each_samples_own(model, given):
    names = ["average_drop", "insertion", "deletion", "hci", "adcc"]
    found = Evaluator(model, "layer", "GradCAM", names, {"internal_batch_size": 3})(X, 1, **given)
    for n in range(3):
        alone = Evaluator(Bound(model, n), "layer", "GradCAM", names)(X[n : n + 1], 1)
        for name in names:
            mine, expected = (scores["GradCAM"][name] for scores in (found.scores, alone.scores))
            torch.testing.assert_close(mine[n : n + 1], expected, rtol=0, atol=1e-5, msg=name)


def test_the_image_is_the_first_that_is_not_named(model):
    tokens = Tokens().eval()
    tokens.load_state_dict(model.state_dict())
    expected = Probe(model, model.layer, X, target=1, **GIVEN["by name"]).gradients
    found = Probe(tokens, tokens.layer, X, target=1, **GIVEN["by name"]).gradients
    torch.testing.assert_close(found, expected)
    options = {"additional_forward_args": (SHIFT,), "additional_forward_kwargs": {"scale": SCALE}}
    with pytest.raises(TypeError, match="'x', the image, comes after parameters given by name"):
        Probe(tokens, tokens.layer, X, target=1, **options).check_target()


def test_what_belongs_to_all(model):
    """A number, a tensor of one row, and a name are the same for every sample."""
    others = OtherInputs((2.0, torch.ones(1, 4)), {"names": "abc", "rows": {"a": SHIFT}, "none": None}, 3)
    some = others.of_samples(torch.tensor([2, 0, 0, 1]))
    assert others.divisible
    assert (some.args[0], some.kwargs["names"], some.args[1].shape) == (2.0, "abc", (1, 4))
    assert torch.equal(some.kwargs["rows"]["a"], SHIFT[[2, 0, 0, 1]])


@pytest.mark.parametrize("unclear", [["a", "b", "c"], np.zeros(3), [SCALE[0], SCALE[1], SCALE[2]]])
def test_what_is_unclear_goes_with_the_whole_batch(unclear):
    class Named(CNN):
        def forward(self, x, names):
            assert len(names) == len(x)
            return super().forward(x)

    model = Named().eval()
    probe = Probe(model, model.layer, X, target=1, additional_forward_kwargs={"names": unclear})
    assert not probe.divisible
    assert probe.at(X + 1).activations.shape[0] == 3
    with pytest.raises(ValueError, match="samples cannot be chosen"):
        probe.at(X[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match="are for 3 samples, and the model is to see 2"):
        probe.run(X[:2])
    evaluator = Evaluator(model, "layer", "GradCAM", ["average_drop", "insertion"])
    with pytest.raises(ValueError, match="not clear which additional forward arguments are theirs"):
        evaluator(X, 1, additional_forward_kwargs={"names": unclear})


def test_refusals(model):
    given = GIVEN["both"]
    cam = pgc_host.GradCAM(model, [model.layer])
    with pytest.raises(ValueError, match="aug_smooth flips the image, and not the additional"):
        cam(X, 1, aug_smooth=True, **given)
    with pytest.raises(TypeError, match="scale"):  # those of the call before are gone
        cam(X, 1)
    for run in (
        lambda: pgc_host.GradCAM(model, "auto")(X, 1, **given),
        lambda: CAPTUM["GradCAM"](model, "auto").attribute(X, 1, **given),
        lambda: quantus_host.explain("GradCAM", layer="auto")(model, X, 1, **given),
        lambda: Evaluator(model, "auto", "GradCAM", ["complexity"])(X, 1, **given),
    ):
        with pytest.raises(ValueError, match="name the layer"):
            run()
    with pytest.raises(ValueError, match="Quantus does not say which samples"):
        quantus_host.explain("GradCAM", layer="layer", **given)
    with pytest.raises(TypeError, match="give the model the image alone"):
        Evaluator(model, "layer", "ScoreCAM", ["complexity"])(X, 1, **given)
    with pytest.raises(TypeError, match="additional_forward_args must be a tuple"):
        Probe(model, model.layer, X, additional_forward_args=SCALE)
    with pytest.raises(TypeError, match="must be a mapping from names"):
        Probe(model, model.layer, X, additional_forward_kwargs=[SCALE])


def test_of_all_samples_in_quantus(model):
    function = quantus_host.explain("GradCAM", layer="layer", additional_forward_kwargs={"scale": torch.tensor([2.0])})
    expected = Probe(model, model.layer, X, target=1, additional_forward_args=(torch.full((3,), 2.0),))
    np.testing.assert_allclose(function(model, X, 1)[:, 0], METHODS["GradCAM"]().maps(expected), atol=1e-6)
