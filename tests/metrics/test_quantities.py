"""What metrics are functions of: each computed once, from what its options say, and compared with doing it by hand."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import signature

import pytest
import torch
from explained import Formulas

from cam_extras.maps import mask
from cam_extras.metrics import (
    DEFAULT_METRICS,
    METRICS,
    QUANTITIES,
    Quantities,
    Schedule,
    as_options,
    box_accuracy,
    box_mask,
    component_boxes,
    counterfactual,
    counterfactual_sensitivity,
    deletion_curve,
    insertion_curve,
    options_of,
    pointing_game,
    quantities_of,
    sources_of,
    threshold_mask,
)
from cam_extras.metrics.base import made_of

pytestmark = pytest.mark.numerical

OF_A_METHOD = [name for name, metric in METRICS.items() if not metric.of_methods]
BOXES = [torch.tensor([[0, 0, 2, 3]]), torch.tensor([[1, 1, 5, 4], [0, 0, 1, 1]])]


def make(options=None, maps=None, samples=2, **truth):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, 4, 5, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64) if maps is None else maps
    explained = Formulas(x, maps=maps)
    return x, maps, explained, Quantities(explained, options, **truth)


def confidence(images, samples=None):
    classes = torch.arange(2) if samples is None else samples
    return Formulas.outputs(images).gather(1, classes[:, None])[:, 0]


@pytest.mark.parametrize("fill", [0.0, 0.7, torch.tensor([1.0, -1.0, 2.0]).reshape(3, 1, 1)])
def test_by_hand(fill):
    options = {"fill": fill, "threshold": 0.3, "delta": 0.2, "fraction": 0.25, "seed": 4, "schedule": Schedule(3)}
    x, h, _, q = make(options)
    shown = mask(x, h, fill)
    expected = {
        "p": confidence(x),
        "o": confidence(shown),
        "d": confidence(mask(x, 1 - h, fill)),
        "o_t": confidence(threshold_mask(x, h, 0.3, fill)),
        "b": confidence(torch.as_tensor(fill, dtype=x.dtype).expand(x.shape)),
        "masked_maps": Formulas.map_of(shown),
        "weights": Formulas.weights_of(x),
        "counterfactual_weights": Formulas.weights_of(counterfactual(x, 0.2, 0.25, 4)),
        "insertion_curve": insertion_curve(confidence, x, h, Schedule(3)),
        "deletion_curve": deletion_curve(confidence, x, h, Schedule(3)),
        "correct": Formulas.outputs(x).argmax(dim=1) == torch.arange(2),
    }
    for name, value in expected.items():
        torch.testing.assert_close(q[name], value, rtol=0, atol=1e-15, msg=name)
    assert q.known("insertion_curve", "masks") == {"insertion_curve": q["insertion_curve"]}


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 0, 4)])
def test_inputs_without_pixels(shape):
    """Every map of a table would be constant, and its scores numbers that say nothing."""
    x = torch.randn(shape)
    with pytest.raises(ValueError, match=rf"must have pixels, shape \(N, C, \*S\); got {re.escape(str(shape))}"):
        Quantities(Formulas(x, maps=torch.zeros(shape[:1] + shape[2:])))


def test_complement():
    h = torch.rand(2, 4, 5, dtype=torch.float64)
    h[0, :2] = 0
    h[1, 0] = 1e-6
    fill = torch.tensor([1.0, -1.0, 2.0]).double().reshape(3, 1, 1)
    x, _, _, q = make({"baseline": "complement", "fill": fill}, h)
    images = fill.expand(x.shape).clone()
    images[0, :, :2] = x[0, :, :2]
    torch.testing.assert_close(q["b"], confidence(images))
    assert (q["b"] - make({"fill": fill}, h)[3]["b"]).abs().min() < 1e-12 < (q["b"] - q["p"]).abs().min()


def test_fill_that_differs_between_samples():
    fill = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    x, _, explained, q = make({"fill": fill})
    torch.testing.assert_close(q["b"], confidence(fill.expand(x.shape)))
    assert ("nothing", 2) in explained.asked


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (3, 4, 5), (1, 3, 1, 1)])
def test_an_image_of_one_fill_goes_through_the_model_once(shape):
    fill = torch.randn(shape, dtype=torch.float64)
    x, _, explained, q = make({"fill": fill})
    torch.testing.assert_close(q["b"], confidence(fill.expand(x.shape)))
    assert explained.asked == [("nothing", 1)]


def test_each_is_computed_once():
    _, _, explained, q = make({"schedule": Schedule(0.5)}, boxes=BOXES)
    assert set(q.scores(METRICS)) == set(OF_A_METHOD)
    passes = [("probabilities", 2)] * 2 + [("passes", 2)] * 2 + [("nothing", 1)]  # x and x*H; d and o_t
    curves, crops = [("passes", 6)] * 2, [("passes", 2)]
    imputed, groups = [("passes", 32), ("passes", 4), ("passes", 16)], [("passes", 20)]  # of ROAD and ARCC; of SaCo
    explanations = [("maps", 2)] + [("weights", 2)] * 2
    assert sorted(explained.asked) == sorted(passes + curves + crops + imputed + groups + explanations)


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["complexity"], []),
        (["average_gain"], [("probabilities", 2)] * 2),
        (["coherency"], [("maps", 2)]),
        (["hci"], [("probabilities", 2), ("passes", 2), ("nothing", 1)]),
        (["pointing_game"], []),
        (["official_metric"], [("probabilities", 2)]),
        (["counterfactual_sensitivity"], [("weights", 2)] * 2),
    ],
)
def test_only_what_is_needed_is_computed(names, asked):
    _, _, explained, q = make(boxes=BOXES)
    q.scores(names)
    assert sorted(explained.asked) == sorted(asked)


def test_parts_come_with_what_they_make():
    found = make()[3].scores(iter(["complexity", "hci"]))
    assert list(found) == ["complexity", "hci", "thresholded_drop", "thresholded_increase"]


class TestObject:
    def test_masks_of_boxes(self):
        assert torch.equal(make(boxes=BOXES)[3]["masks"], box_mask(BOXES, (4, 5)))

    def test_boxes_of_masks(self):
        masks = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.4
        found = make(masks=masks)[3]["boxes"]
        assert [rows.tolist() for rows in found] == [rows.tolist() for rows in component_boxes(masks)]
        assert max(map(len, found)) > 1

    def test_both(self):
        masks = torch.ones(2, 4, 5, dtype=torch.bool)
        q = make(boxes=BOXES, masks=masks)[3]
        assert q["masks"] is masks
        assert q["boxes"] is BOXES

    @pytest.mark.parametrize("name", [name for name in METRICS if "object" in sources_of(name)])
    def test_missing(self, name):
        with pytest.raises(ValueError, match="needs to know where the object is: give boxes or masks"):
            make()[3].scores([name])

    def test_of_signals(self):
        explained = Formulas(torch.rand(2, 3, 8), maps=torch.rand(2, 8))
        with pytest.raises(ValueError, match=r"boxes need maps of shape \(N, H, W\); got \(2, 8\)"):
            Quantities(explained, boxes=BOXES).scores(["pointing_game"])

    @pytest.mark.parametrize("name", [name for name in METRICS if "object" in sources_of(name)])
    @pytest.mark.parametrize(
        ("boxes", "match"),
        [
            ([BOXES[0], torch.zeros(0, 4).long()], "there is no box in sample 1"),
            ([BOXES[0], torch.tensor([[2, 2, 2, 3]])], "a box is empty in sample 1"),
            ([BOXES[0], torch.tensor([[0, 0, 6, 3]])], "outside the image of 5 x 4 pixels .* in sample 1"),
            ([torch.tensor([[-1, 0, 3, 3]]), BOXES[1]], "outside the image .* in sample 0"),
            (BOXES[:1], "for 2 samples, one tensor .* got 1"),
            ([*BOXES, BOXES[0]], "for 2 samples, one tensor .* got 3"),
        ],
    )
    def test_bad_boxes(self, name, boxes, match):
        with pytest.raises(ValueError, match=match):
            make(boxes=boxes)[3].scores([name])


class TestOptions:
    def test_of_metrics(self):
        assert options_of("adcc") == options_of("average_drop") == ["fill"]
        assert options_of("complexity") == []
        assert options_of("hci") == ["fill", "threshold", "baseline"]
        assert options_of("insertion_deletion") == ["schedule", "internal_batch_size"]
        assert options_of("counterfactual_sensitivity") == ["delta", "fraction", "seed", "most_important"]
        assert options_of("box_accuracy") == ["thresholds", "overlaps", "components"]
        for name in METRICS:
            assert [field.name for field in fields(METRICS[name].Options)] == options_of(name)

    @pytest.mark.parametrize("name", OF_A_METHOD)
    @pytest.mark.parametrize(
        "changed",
        [
            {"fill": torch.tensor([1.0, -1.0, 2.0]).reshape(3, 1, 1)},
            {"threshold": 0.8},
            {"baseline": "complement"},
            {"schedule": Schedule(7, "mean")},
            {"ties": "any"},
            {"delta": 0.5},
            {"fraction": 0.8},
            {"seed": 1},
            {"most_important": 1},
            {"thresholds": [0.3, 0.6]},
            {"overlaps": [0.05]},
            {"components": "all"},
        ],
    )
    def test_exactly_the_listed_ones_matter(self, name, changed):
        maps = (torch.rand(12, 4, 5, generator=torch.Generator().manual_seed(2)).double() * 4).round() / 4  # with ties
        maps[:, 3] = 1
        maps[:, 0] = 0
        options = {"schedule": Schedule(5, "zeros"), "threshold": 0.5}
        boxes = [torch.tensor([[4, 3, 5, 4], [0, 1, 1, 2]])] * 12
        scores = [make(given, maps, 12, boxes=boxes)[3].scores([name])[name] for given in (options, options | changed)]
        same = torch.equal(*scores)
        assert same == (next(iter(changed)) not in options_of(name))

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"threshold": 1.2}, r"in \[0, 1\], as maps do; got 1.2"),
            ({"threshold": float("nan")}, "got nan"),
            ({"baseline": "white"}, "baseline must be one of 'fill', 'complement'; got 'white'"),
            ({"schedule": "rice"}, "schedule must be 'rise' or 'mi' or a Schedule; got 'rice': it is how many pixels"),
            ({"internal_batch_size": 0}, "internal_batch_size must be 1 or more"),
            ({"ties": "last"}, "ties must be one of 'first', 'any'"),
            ({"delta": 0}, "delta must be a finite number other than 0; got 0"),
            ({"delta": float("inf")}, "delta must be"),
            ({"fraction": 0}, r"fraction of the pixels must lie in \(0, 1\]; got 0"),
            ({"fraction": 1.5}, r"fraction of the pixels must lie in \(0, 1\]; got 1\.5"),
            ({"most_important": 0}, "most_important must be 1 or more"),
            ({"thresholds": []}, r"thresholds must be one or more numbers in \[0, 1\]"),
            ({"overlaps": [0]}, r"overlaps must be one or more numbers in \(0, 1\]"),
        ],
    )
    def test_bad(self, given, match):
        with pytest.raises(ValueError, match=match):
            as_options(given, METRICS)

    @pytest.mark.parametrize(
        "given", [{"threshold": 0}, {"threshold": 1}, {"delta": -0.1}, {"fraction": 1}, {"fill": 1}]
    )
    def test_limits(self, given):
        as_options(given, METRICS)

    def test_defaults_are_those_of_the_functions(self):
        options = as_options(None, METRICS)
        assert (options.threshold, options.baseline) == (0.5, "fill")
        for function in (
            mask,
            counterfactual,
            counterfactual_sensitivity,
            insertion_curve,
            pointing_game,
            box_accuracy,
        ):
            for name, parameter in signature(function).parameters.items():
                if parameter.default is not parameter.empty and hasattr(options, name):
                    assert getattr(options, name) == parameter.default

    @pytest.mark.parametrize("fill", ["black", None])
    def test_no_fill(self, fill):
        with pytest.raises(
            TypeError, match=r"fill must be a number or a Tensor; got .*: it is .*, such as cam_extras\.maps\.black"
        ):
            as_options({"fill": fill}, ["hci"])

    @pytest.mark.parametrize("name", ["average_drop", "drop_in_deletion", "thresholded_drop", "thresholded_increase"])
    @pytest.mark.parametrize(
        ("fill", "match"),
        [
            (torch.zeros(2, 1, 1), r"broadcasts to the input, \([12], 3, 4, 5\); got \(2, 1, 1\)"),
            (torch.zeros(5, 1, 1, 1), r"broadcasts to the input, \(2, 3, 4, 5\); got \(5, 1, 1, 1\)"),
            (torch.tensor(float("nan")), "fill is NaN or infinite in sample"),
        ],
    )
    def test_bad_fill(self, fill, match, name):
        with pytest.raises(ValueError, match=match):
            make({"fill": fill})[3].scores([name])

    @pytest.mark.parametrize("name", ["internal_batch_size", "most_important", "seed"])
    def test_no_integers(self, name):
        with pytest.raises(TypeError, match=f"{name} must be an integer( or None)?; got 0.5"):
            as_options({name: 0.5}, METRICS)


def test_sources():
    localisation = {"pointing_game", "energy_pointing_game", "pixel_f1", "localisation_error", "official_metric"}
    localisation |= {"box_accuracy"}
    assert {name for name in METRICS if sources_of(name) == {"object"}} == localisation
    assert {name for name in METRICS if sources_of(name) == {"weights"}} == {"counterfactual_sensitivity"}
    assert not any(sources_of(name) for name in DEFAULT_METRICS)


def test_quantities_of_parts():
    assert quantities_of("hci") == ["p", "o_t", "b"]
    assert quantities_of("adcc") == ["maps", "masked_maps", "p", "o"]


def test_every_quantity_is_used_and_documented():
    assert {entry.name for metric in METRICS for entry in made_of(metric)} == {*QUANTITIES, *METRICS}
    assert all(quantity.meaning for quantity in QUANTITIES.values())


@pytest.mark.parametrize("name", OF_A_METHOD)
def test_maps_outside_the_unit_interval(name):
    maps = torch.rand(2, 4, 5)
    maps[1, 0, 0] = 1.5
    with pytest.raises(ValueError, match=r"the map must lie in \[0, 1\]; got 1\.5 in sample 1"):
        make(maps=maps, boxes=BOXES)[3].scores([name])


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 5, 4), (1, 4, 5), (2, 1, 4, 5)])
@pytest.mark.parametrize("name", OF_A_METHOD)
def test_maps_of_another_size(name, shape):
    with pytest.raises(
        ValueError, match=r"expected maps of shape \(2, 4, 5\) for an input of shape \(2, 3, 4, 5\); got"
    ):
        make(maps=torch.rand(shape), boxes=BOXES)[3].scores([name])


def test_unknown_metric():
    with pytest.raises(ValueError, match="there is no metric 'average_dorp': did you mean average_drop"):
        make()[3].scores(["average_dorp"])
