"""Listing metrics and quantities: what is refused, and that what is listed works at every door."""

from __future__ import annotations

import dataclasses
import pickle
import re
from importlib import import_module
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from explained import Formulas
from torch import Tensor

from cam_extras.metrics import (
    METRICS,
    QUANTITIES,
    MetricOptions,
    Options,
    Quantities,
    Schedule,
    as_metrics,
    as_options,
    metric,
    options_of,
    quantity,
    sources_of,
    with_parts,
)
from cam_extras.metrics.options import Fill

KNOWN = {"title": "Mine", "short": "M", "higher_is_better": True, "meaning": "nothing", "paper": "none"}


@pytest.fixture(autouse=True)
def as_before():
    """Take out what a test listed, in the end; and see that what was there is not changed."""
    registries = METRICS, QUANTITIES
    before = [dict(registry) for registry in registries]
    yield
    for registry, was in zip(registries, before, strict=True):
        for name in set(registry) - set(was):
            registry.pop(name)
        assert registry == was


def refused(function, match, known=None):
    with pytest.raises(ValueError, match=match):
        metric(**(known or KNOWN))(function)
    assert function.__name__ not in METRICS or METRICS[function.__name__].function is not function


class TestRefused:
    def test_a_need_that_nobody_provides(self):
        def mine(map):
            return map

        match = r"'mine' needs 'map', and there is no quantity or metric of that name: did you mean maps"
        refused(mine, match)
        with pytest.raises(ValueError, match=match):
            quantity()(mine)

        def other(zzz):
            return zzz

        refused(other, "'other' needs 'zzz', .*: there are explained")

    def test_an_option_without_annotation_or_default(self):
        def no_annotation(maps, *, power=2.0):
            return maps

        def no_default(maps, *, power: float):
            return maps

        def neither(maps, *, power):
            return maps

        refused(no_annotation, "the option 'power' of 'no_annotation' has no annotation: write it as power: float")
        refused(no_default, "the option 'power' of 'no_default' has no default")
        refused(neither, "has no annotation and no default")

    def test_an_annotation_that_cannot_be_read(self):
        def mine(maps, *, power: Elsewhere = 1):  # noqa: F821
            return maps

        refused(mine, "an annotation of 'mine' cannot be read: name 'Elsewhere' is not defined")

    def test_a_default_that_does_not_fit(self):
        def mine(maps, *, power: int = 0.5):
            return maps

        refused(mine, "the default of an option of 'mine' does not fit .*: power must be an integer; got 0.5")

    @pytest.mark.parametrize("default", [1.0, torch.zeros(())])
    def test_another_default(self, default):
        def mine(maps, *, fill: Fill = default):
            return maps

        refused(mine, r"the option 'fill' of 'mine' is not that of 'masked', .* by default 0\.0: options of one name")

    def test_another_annotation(self):
        def mine(maps, *, threshold: float = 0.5):
            return maps

        refused(mine, "the option 'threshold' of 'mine' is not that of 'o_t', which is a number")

    def test_parameters_without_names(self):
        def several(*maps):
            return maps

        def options(maps, **options):
            return maps

        refused(several, r"'several' has the parameter \*maps: name each")
        refused(options, r"'options' has the parameter \*\*options: name each")

    @pytest.mark.parametrize(
        ("known", "match"),
        [
            ({"title": "ADCC"}, "the title 'ADCC' is taken by 'adcc'"),
            ({"title": "Average  drop"}, "the title 'AverageDrop' is taken by 'average_drop'"),
            ({"short": "ad"}, "the short name 'ad' is taken by 'average_drop'"),
            ({"short": "Pixel_F1"}, "the short name 'Pixel_F1' is taken by 'pixel_f1'"),
            ({"title": "1st"}, "the title '1st' must begin with a letter"),
            ({"category": "beauty"}, "category must be one of 'faithfulness'"),
            ({"of_means": True}, "'mine' is to be a function of means, and maps has no mean"),
        ],
    )
    def test_what_is_told(self, known, match):
        def mine(maps):
            return maps

        refused(mine, match, {**KNOWN, **known})

    def test_a_name_that_is_a_short_name(self):
        def coh(maps):
            return maps

        refused(coh, "the name 'coh' is taken by 'coherency'")


def listed():
    """A quantity and a metric with options of their own, one of them shared with the package."""

    @quantity()
    def brightest(x: Tensor, maps: Tensor, *, count: Annotated[int, "how many"] = 2, fill: Fill = 0.0) -> Tensor:
        """The brightest of what is shown."""
        return (x.mean(dim=1) * maps).flatten(1).topk(count, dim=1).values

    @metric(**KNOWN)
    def mine(brightest: Tensor, average_drop: Tensor, *, how: Literal["sum", "mean"] = "sum") -> Tensor:
        return getattr(brightest, how)(dim=1) - average_drop


def test_options_of_ones_own():
    listed()
    assert options_of("mine") == ["count", "fill", "how"]
    assert [field.name for field in dataclasses.fields(METRICS["mine"].Options)] == ["count", "fill", "how"]
    x = torch.rand(3, 3, 4, 5, dtype=torch.float64)
    maps = torch.rand(3, 4, 5, dtype=torch.float64)
    drops = Quantities(Formulas(x, maps=maps)).scores(["average_drop"])["average_drop"]
    for given in (
        {"count": 3, "how": "mean"},
        METRICS["mine"].Options(count=3, how="mean"),
        as_options({"count": 3, "how": "mean"}, ["mine", "hci"]),
    ):
        scores = Quantities(Formulas(x, maps=maps), given).scores(["mine"])
        assert list(scores) == ["mine", "average_drop"]
        expected = (x.mean(dim=1) * maps).flatten(1).topk(3, dim=1).values.mean(dim=1) - drops
        torch.testing.assert_close(scores["mine"], expected)
    with pytest.raises(ValueError, match="how must be one of 'sum', 'mean'; got 'max'"):
        METRICS["mine"].Options(how="max")
    with pytest.raises(TypeError, match=r"count must be an integer; got 1\.5: it is how many"):
        as_options({"count": 1.5}, ["hci"])


def test_a_need_that_was_taken_out():
    listed()
    QUANTITIES.pop("brightest")
    with pytest.raises(KeyError, match="brightest"):
        options_of("mine")
    METRICS.pop("mine")
    listed()
    assert sources_of("mine") == set()


def test_underscores_before_a_quantity():
    @quantity(source="weights")
    def _strongest(weights):
        """The strongest weight."""
        return weights.amax(dim=1)

    assert QUANTITIES["strongest"].meaning == "The strongest weight."
    assert QUANTITIES["strongest"].source == "weights"


class TestOptions:
    def test_classes_are_frozen_and_documented(self):
        kind = METRICS["hci"].Options
        assert kind is METRICS["hci"].Options
        assert (kind.__name__, METRICS["insertion_deletion"].Options.__name__) == (
            "HCIOptions",
            "InsertionDeletionOptions",
        )
        assert re.search(r"threshold: pixels are shown where the map reaches .* By default 0\.5\.", kind.__doc__)
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind().threshold = 0.3
        with pytest.raises(TypeError, match=r"HCIOptions.*unexpected keyword argument 'tresh'"):
            kind(tresh=1)
        with pytest.raises(TypeError, match="positional"):
            kind(0.0)
        assert repr(kind(threshold=0.25)) == "HCIOptions(fill=0.0, threshold=0.25, baseline='fill')"

    @pytest.mark.parametrize("name", METRICS)
    def test_pickle(self, name):
        for options in (METRICS[name].Options(), as_options(None, ["hci", name])):
            again = pickle.loads(pickle.dumps(options))
            assert type(again) is type(options)
            assert repr(again) == repr(options)

    def test_filled_up(self):
        options = as_options({"threshold": 0.25}, ["hci", "insertion"], seed=3)
        assert isinstance(options, Options)
        names = ["fill", "threshold", "baseline", "schedule", "internal_batch_size"]
        assert [field.name for field in dataclasses.fields(options)] == names
        assert (options.threshold, options.schedule) == (0.25, "rise")
        assert dataclasses.fields(as_options(None, ["complexity"])) == ()

    def test_seeds(self):
        assert as_options(None, ["counterfactual_sensitivity"], seed=3).seed == 3
        assert as_options({"seed": 1}, ["counterfactual_sensitivity"], seed=3).seed == 1

    def test_of_other_metrics(self):
        given = METRICS["counterfactual_sensitivity"].Options(delta=0.5)
        assert [field.name for field in dataclasses.fields(as_options(given, ["average_drop"]))] == ["fill"]
        assert dataclasses.fields(as_options({"delta": 0.5}, ["complexity"])) == ()
        with pytest.raises(ValueError, match="delta must be a finite number other than 0; got 0"):
            as_options({"delta": 0}, ["complexity"])

    def test_mappings_and_arrays(self):
        assert as_options({"schedule": {"step": 0.05}}, ["insertion"]).schedule == Schedule(0.05)
        with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
            as_options({"schedule": {"steps": 0.05}}, ["insertion"])
        assert as_options({"overlaps": np.array([0.5])}, ["box_accuracy"]).overlaps == [0.5]

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("treshold", r"did you mean threshold \(of thresholded_drop, thresholded_increase, hci\) or "),
            ("qqq", "there are fill, threshold"),
        ],
    )
    def test_unknown(self, name, match):
        with pytest.raises(ValueError, match=f"there is no option of metrics '{name}': {match}"):
            as_options({name: 1}, ["hci"])

    @pytest.mark.parametrize("given", [0.5, "threshold=0.5", [("threshold", 0.5)], Schedule])
    def test_of_no_kind(self, given):
        with pytest.raises(TypeError, match=r"options must be a mapping, .*, or a dataclass"):
            as_options(given, ["hci"])

    def test_the_old_name_of_a_baseline(self):
        for make in (METRICS["hci"].Options, lambda **given: as_options(given, ["hci"])):
            with pytest.warns(DeprecationWarning, match="baseline='black' is called 'fill' now") as caught:
                assert make(baseline="black").baseline == "fill"
            assert [warning.filename for warning in caught] == [__file__]

    def test_the_old_class(self):
        with pytest.warns(DeprecationWarning, match="MetricOptions will go with the next release") as caught:
            options = MetricOptions(threshold=0.25, schedule="mi")
        assert [warning.filename for warning in caught] == [__file__]
        assert (options.threshold, options.schedule, options.delta) == (0.25, "mi", 0.1)
        assert as_options(options, ["hci"]).threshold == 0.25
        with (
            pytest.warns(DeprecationWarning, match="MetricOptions"),
            pytest.raises(TypeError, match="unexpected keyword argument 'tresh'"),
        ):
            MetricOptions(tresh=1)


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("adcc", ("adcc",)),
            ("AD", ("average_drop",)),
            (["Average_Drop", "ad", "HCI", "win"], ("average_drop", "hci", "win_percentage")),
            ((), ()),
            (METRICS, tuple(METRICS)),
        ],
    )
    def test_known(self, given, expected):
        assert as_metrics(given) == expected

    def test_unknown(self):
        with pytest.raises(ValueError, match="there is no metric 'average_dorp': did you mean average_drop"):
            as_metrics(["adcc", "average_dorp"])
        for given in (5, None):
            with pytest.raises(TypeError, match="metrics must be names"):
                as_metrics(given)
        with pytest.raises(ValueError, match="there is no metric 5"):
            as_metrics([5])

    def test_short_names_are_found(self):
        for name, entry in METRICS.items():
            assert as_metrics([entry.short.upper()]) == (name,)


def test_parts():
    assert with_parts(["hci", "win_percentage"]) == ["hci", "thresholded_drop", "thresholded_increase", "average_drop"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("insertion_and_deletion", "spatial_mean"),
        ("quantities", "MetricOptions"),
        ("quantities", "options_of"),
        ("quantities", "quantities_of"),
        ("quantities", "sources_of"),
    ],
)
def test_names_of_earlier_releases(module, name):
    module = import_module(f"cam_extras.metrics.{module}")
    with pytest.warns(DeprecationWarning, match=f"{name} is called cam_extras.metrics.* now"):
        assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


class TestSets:
    def test_of_vectors(self):
        hits = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]], [[0.0], [1.0]]])
        box_accuracy = METRICS["box_accuracy"]
        assert box_accuracy.of_set({"box_accuracy": hits}) == pytest.approx(2 / 3)
        assert box_accuracy.of_set({"box_accuracy": hits.tolist()}) == pytest.approx(2 / 3)
        assert box_accuracy.vector.of_samples(hits).tolist() == [0, 1, 1]
        batch = torch.rand(4, 5, 2, 3)
        assert box_accuracy.of_averages(batch).shape == (4, 5)

    def test_of_comparisons(self):
        assert METRICS["win_percentage"].of_set({"win_percentage": [1.0, 0.5]}) == 0.75
