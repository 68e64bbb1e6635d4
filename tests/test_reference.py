"""Every method and metric against its slow re-implementation, in float64."""

import pytest
import reference
import torch
from nets import CNN, LinearHead

from cam_extras import maps
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS, Quantities
from cam_extras.probe import Probe


def double_net(kind):
    torch.manual_seed(3)
    if kind == "linear head":
        model = LinearHead().double().eval()
        return model, lambda a: model.classifier(a.mean(dim=(2, 3)))
    model = CNN().double().eval()
    return model, lambda a: model.classifier(model.head(model.activation(a)).flatten(2).mean(dim=2))


def test_every_method_and_metric_has_a_reference():
    assert set(reference.METHODS) == set(METHODS)
    assert set(reference.METRICS) == set(METRICS)


@pytest.mark.parametrize("kind", ["smooth head", "linear head"])
@pytest.mark.parametrize("name", METHODS)
def test_method(name, kind):
    model, head = double_net(kind)
    x = torch.randn(3, 3, 10, 8, dtype=torch.float64)
    classes = [4, 0, 2]
    probe = Probe(model, model.layer, x, target=classes)
    contributions = METHODS[name]()(probe)
    assert contributions.dtype == torch.float64
    for n, c in enumerate(classes):
        expected = reference.METHODS[name](head, probe.activations[n], c, x[n], model)
        torch.testing.assert_close(contributions[n], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            maps.input_map(contributions, (10, 8))[n], reference.input_map(expected, 10, 8), rtol=0, atol=1e-9
        )


def test_hessian_matters_where_methods_are_compared():
    """If H A were zero in the nets above, the Shapley references could not tell a wrong factor of it."""
    model, _ = double_net("smooth head")
    probe = Probe(model, model.layer, torch.randn(2, 3, 10, 8, dtype=torch.float64), target=1).scored_by("rest")
    curvature = probe.hessian_vector_product(probe.activations)
    assert (curvature.abs().amax() > 0.02 * probe.gradients.abs().amax()).item()


@pytest.mark.parametrize("size", [(10, 8), (3, 7), (5, 4), (2, 2)])
def test_resize(size):
    planes = torch.rand(2, 5, 4, dtype=torch.float64)
    for plane, resized in zip(planes, maps.resize(planes, size), strict=True):
        torch.testing.assert_close(resized, reference.resize(plane, *size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_metric(name):
    generator = torch.Generator().manual_seed(5)
    samples = 40

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    known = {
        "p": random(samples).clamp(min=0.01),
        "o": random(samples),
        "d": random(samples),
        "maps": random(samples, 4, 5),
        "masked_maps": random(samples, 4, 5),
    }
    known["maps"][3] = 0.25  # constant
    known["masked_maps"][7] = 0.0
    known["o"][:4] = known["p"][:4]  # neither drop nor gain
    known["o"][9] = 0.0
    quantities = Quantities(known["maps"][:, None], known["maps"], None, None)
    quantities._known.update(known)
    scores = quantities.scores([name])[name]
    assert scores.shape == (samples,)
    for n in range(samples):
        sample = {key: values[n] if values.ndim > 1 else values[n].item() for key, values in known.items()}
        assert scores[n].item() == pytest.approx(reference.METRICS[name](sample), abs=1e-12)
