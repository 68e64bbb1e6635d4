"""Maps and masks."""

import warnings

import pytest
import torch
import torchvision.transforms.functional as tf

from cam_extras.maps import black, input_map, layer_map, mask, normalise, resize
from cam_extras.methods import METHODS
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical


def test_normalise_reaches_zero_and_one_at_any_scale():
    maps = torch.rand(4, 5, 6) * torch.tensor([1e-30, 1e-9, 1.0, 1e30])[:, None, None]
    normalised = normalise(maps)
    assert (normalised.flatten(1).amin(1) == 0).all()
    assert (normalised.flatten(1).amax(1) == 1).all()
    torch.testing.assert_close(normalised[1], normalise(maps[1:2] * 1e9)[0])


def test_normalising_twice_changes_nothing():
    maps = normalise(torch.randn(3, 4, 5))
    assert torch.equal(normalise(maps), maps)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_normalise_names_samples_that_are_not_finite(value):
    maps = torch.rand(5, 3, 3)
    maps[2, 1, 1] = maps[4, 0, 0] = value
    with pytest.raises(ValueError, match="the map is NaN or infinite in samples 2, 4"):
        normalise(maps)


def test_negative_contributions_give_an_empty_map():
    assert (input_map(-torch.rand(2, 3, 4, 4), (8, 8)) == 0).all()


def test_layer_map_sums_before_it_rectifies():
    contributions = torch.tensor([[[[3.0, 1.0]], [[-1.0, -4.0]]]])
    assert layer_map(contributions).tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize(("small", "large"), [((5,), (9,)), ((3, 4), (7, 9)), ((2, 3, 2), (4, 5, 6))])
def test_resize_in_any_dimension(small, large):
    maps = torch.rand(2, *small)
    resized = resize(maps, large)
    assert resized.shape == (2, *large)
    rounding = 8 * torch.finfo(maps.dtype).eps  # of the weights of up to eight values, which add up to 1
    assert resized.min() >= maps.min() - rounding
    assert resized.max() <= maps.max() + rounding
    assert resize(maps, small) is maps
    constant = resize(torch.full((1, *small), 0.3), large)
    torch.testing.assert_close(constant, torch.full((1, *large), 0.3))


@pytest.mark.parametrize(("maps", "size"), [((2, 5), (8, 8)), ((2, 5, 5), (8,)), ((2, 2, 2, 2, 2), (4, 4, 4, 4))])
def test_resize_to_other_dimensions(maps, size):
    with pytest.raises(ValueError, match="cannot resize a map of size"):
        resize(torch.rand(maps), size)


def test_mask_keeps_what_the_map_shows():
    x, maps = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    torch.testing.assert_close(mask(x, maps), x * maps[:, None])
    torch.testing.assert_close(mask(x, maps, 0.5), x * maps[:, None] + 0.5 * (1 - maps[:, None]))
    assert torch.equal(mask(x, torch.ones(2, 4, 5), 7.0), x)
    assert torch.equal(mask(x, torch.zeros(2, 4, 5), 7.0), torch.full_like(x, 7.0))
    with pytest.raises(ValueError, match=r"expected maps of shape \(2, 4, 5\)"):
        mask(x, maps[:, :3])
    with pytest.raises(TypeError, match=r"of floating point; got torch\.uint8"):
        mask(x.byte(), maps)
    with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got -?[0-9.]+ in sample 1"):
        mask(x, torch.stack([maps[0], 255 * maps[1]]))


def test_black_is_masking_before_normalising():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels, maps = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 4, 5, dtype=torch.float64)
    masked = mask(tf.normalize(pixels, mean, std), maps, black(mean, std))
    # black() is float32.
    torch.testing.assert_close(masked, tf.normalize(pixels * maps[:, None], mean, std), rtol=0, atol=1e-6)


class ReadThroughALayerNorm(torch.nn.Module):
    """The logit does not change with the size of what the norm reads, nor with its mean: both sums are 0."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.LayerNorm(8, eps=1e-9)
        self.classifier = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.classifier(self.norm(self.layer(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize("name", ["HiResCAM", "ShapleyCAMH"])
def test_contributions_that_cancel_are_told_of(name):
    model = ReadThroughALayerNorm().eval()
    x = torch.randn(2, 3, 6, 6)
    probe = Probe(model, model.layer, x, target=1)
    method = METHODS[name](utility="logit")
    with pytest.warns(UserWarning, match="cancel, so that the map is rounding, in samples 0, 1: a layer"):
        method.maps(probe)
    in_double = Probe(model.double(), model.layer, x.double(), target=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        METHODS["GradCAM"]().maps(probe)
        method.maps(in_double)  # a hundred millionth is left, which is no rounding there
        method.maps(Probe(model, model.norm, x.double(), target=1, reshape_transform=lambda y: y.permute(0, 3, 1, 2)))
