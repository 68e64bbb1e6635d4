"""Every method and metric against its slow re-implementation, in float64."""

import pytest
import reference
import torch
from explained import Formulas
from nets import CNN, LinearHead, TinyViT

from cam_extras import maps
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS, Curve, Quantities, box_mask, saco
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical


def double_net(kind):
    torch.manual_seed(3)
    if kind == "linear head":
        model = LinearHead().double().eval()
        return model, lambda a: model.classifier(a.mean(dim=(2, 3)))
    if kind == "transformer":
        return TinyViT().double().eval(), None
    model = CNN().double().eval()
    return model, lambda a: model.classifier(model.head(model.activation(a)).flatten(2).mean(dim=2))


def test_every_method_and_metric_has_a_reference():
    assert set(reference.METHODS) == set(METHODS)
    assert set(reference.METRICS) == set(METRICS)


KINDS = {"CAM": ["linear head"]} | {name: ["transformer"] for name in ("LeGrad", "AttentionRollout", "RawAttention")}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in METHODS for kind in KINDS.get(name, ["smooth head", "linear head"])]
)
def test_method(name, kind):
    model, head = double_net(kind)
    size = (12, 16) if kind == "transformer" else (10, 8)
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    classes = [4, 0, 2]
    reshape = {"reshape_transform": TinyViT.reshape} if kind == "transformer" else {}
    probe = Probe(model, model.layer, x, target=classes, **reshape)
    contributions = METHODS[name]()(probe)
    assert contributions.dtype == torch.float64
    for n, c in enumerate(classes):
        expected = reference.METHODS[name](head, probe.activations[n], c, x[n], model)
        torch.testing.assert_close(contributions[n], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            maps.input_map(contributions, size)[n], reference.input_map(expected, *size), rtol=0, atol=1e-9
        )


def test_hessian_matters_where_methods_are_compared():
    """If H A were zero in the nets above, the Shapley references could not tell a wrong factor of it."""
    model, _ = double_net("smooth head")
    probe = Probe(model, model.layer, torch.randn(2, 3, 10, 8, dtype=torch.float64), target=1).under("rest")
    curvature = probe.hessian_vector_product(probe.activations)
    assert (curvature.abs().amax() > 0.02 * probe.gradients.abs().amax()).item()


@pytest.mark.parametrize("size", [(10, 8), (3, 7), (5, 4), (2, 2)])
def test_resize(size):
    planes = torch.rand(2, 5, 4, dtype=torch.float64)
    for plane, resized in zip(planes, maps.resize(planes, size), strict=True):
        torch.testing.assert_close(resized, reference.resize(plane, *size), rtol=0, atol=1e-12)


def confidence(images, samples=None):
    return images.mean(dim=(1, 2, 3)).sigmoid()


def known_quantities(samples):
    """What metrics are functions of, at random."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def boxes():
        low = torch.stack([torch.randint(limit, (2,), generator=generator) for limit in (4, 3)], dim=1)
        return torch.cat([low, low + 1 + torch.tensor([0, 1])], dim=1)

    known = {name: random(samples) for name in ("o", "d", "o_t", "b")}
    known["p"] = random(samples).clamp(min=0.01)
    known["o"][:4] = known["p"][:4]  # neither drop nor gain
    known["o"][9] = 0.0
    known["maps"], known["masked_maps"] = random(2, samples, 4, 5)
    known["maps"][3] = 0.25  # constant
    known["masked_maps"][7] = 0.0
    for name in ("insertion_curve", "deletion_curve"):
        known[name] = Curve(torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0]).double(), random(samples, 5))
    known["boxes"] = [boxes() for _ in range(samples)]
    known["masks"] = box_mask(known["boxes"], (4, 5))
    known["correct"] = random(samples) < 0.7
    known["x"] = random(samples, 3, 4, 5) - 0.5
    known["confidence"] = confidence
    known["weights"], known["counterfactual_weights"] = random(2, samples, 6) - 0.5
    return known


def of_sample(known, n):
    def read(value):
        if callable(value):
            return value
        if isinstance(value, Curve):
            return value.fractions.tolist(), value.scores[n].tolist()
        return value[n].item() if isinstance(value, torch.Tensor) and value.ndim == 1 else value[n]

    return {name: read(value) for name, value in known.items()}


OF_A_METHOD = [name for name, metric in METRICS.items() if not metric.of_methods]


def scores_from(known, name, options=None):
    quantities = Quantities(Formulas(known["x"], maps=known["maps"]), options)
    quantities._known.update(known)
    return quantities.scores([name])[name]


@pytest.mark.parametrize("name", [name for name in OF_A_METHOD if METRICS[name].vector is None])
def test_metric(name):
    samples = 40
    known = known_quantities(samples)
    if name == "saliency_metric":
        known["maps"][3, 0, 0] = 0.75  # it is undefined for constant maps
    scores = scores_from(known, name)
    assert scores.shape == (samples,)
    expected = [reference.METRICS[name](of_sample(known, n)) for n in range(samples)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1
    low, high = METRICS[name].range
    assert low <= min(expected) <= max(expected) <= high


def test_box_accuracy():
    known, options = known_quantities(20), {"thresholds": [0.0, 0.2, 0.6, 0.9], "overlaps": [0.2, 0.5]}
    hits = scores_from(known, "box_accuracy", options)
    expected = [reference.METRICS["box_accuracy"](of_sample(known, n), **options) for n in range(20)]
    assert hits.tolist() == expected
    means = [[sum(hit[t][d] for hit in expected) / 20 for t in range(4)] for d in range(2)]
    assert METRICS["box_accuracy"].of_set({"box_accuracy": hits}) == pytest.approx(sum(map(max, means)) / 2, abs=1e-12)
    assert 0 < hits.mean() < 1


def test_saco_of_groups_of_unequal_size():
    """Twenty pixels in three groups: means, not sums, are compared."""
    known = known_quantities(20)
    scores = saco(known["x"], known["maps"], lambda images, samples: known["confidence"](images), groups=3)
    expected = [reference.METRICS["saco"](of_sample(known, n), groups=3) for n in range(20)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_win_percentage():
    drops = torch.rand(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drops[0, :9], drops[2, 4:6] = drops[1, :9], drops[1, 4:6]
    expected = [reference.METRICS["win_percentage"](sample) for sample in drops.T.tolist()]
    found = METRICS["win_percentage"].function(drops).T
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("name", OF_A_METHOD)
def test_metric_on_the_gpu(name):
    known = known_quantities(8)
    known["maps"][3, 0, 0] = 0.75

    def to(value, device):
        if isinstance(value, Curve):
            return Curve(*(part.to(device) for part in value))
        if isinstance(value, list):
            return [part.to(device) for part in value]
        return value if callable(value) else value.to(device)

    scores = [
        scores_from({key: to(value, device) for key, value in known.items()}, name).cpu() for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*scores)
