"""The Quantus classes are made from METRICS: what people, editors and type checkers see of them."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import quantus
import torch
from nets import CNN
from quantus_calls import ALL_METRICS

import cam_extras.quantus as ours
from cam_extras._options import bare
from cam_extras.metrics import METRICS, Schedule, metric, options_of
from cam_extras.metrics.base import declared_options

ROOT = Path(__file__).parents[2]

# Names that scripts have.
NAMES = """
    AverageDrop IncreaseInConfidence AverageGain DropInDeletion Coherency Complexity ADCC ThresholdedDrop
    ThresholdedIncrease HCI Insertion Deletion InsertionDeletion PointingGame EnergyPointingGame PixelF1
    LocalisationError OfficialMetric BoxAccuracy SaliencyMetric CounterfactualSensitivity
"""


def test_names():
    assert set(NAMES.split()) <= {cls.__name__ for cls in ours.METRIC_CLASSES}
    for cls in ours.METRIC_CLASSES:
        assert getattr(ours, cls.__name__) is cls
        assert cls.__module__ == "cam_extras.quantus"


def test_categories():
    of_category = {}
    for cls in ours.METRIC_CLASSES:
        of_category.setdefault(cls.evaluation_category.value, set()).add(cls.__name__)
    assert {"Coherency", "CounterfactualSensitivity"} <= of_category["Robustness"]
    assert {"Complexity"} <= of_category["Complexity"]
    assert {"PointingGame", "PixelF1", "BoxAccuracy", "SaliencyMetric"} <= of_category["Localisation"]
    assert {"AverageDrop", "ADCC", "HCI", "Insertion"} <= of_category["Faithfulness"]
    for cls in ours.METRIC_CLASSES:
        images_alone = {kind.value for kind in cls.data_applicability} == {"image"}
        assert images_alone == (cls.evaluation_category.value == "Localisation")


@ALL_METRICS
def test_signatures_show_every_option(metric):
    parameters = inspect.signature(metric).parameters
    of_quantus = [name for name in inspect.signature(ours.MapMetric).parameters if name != "options"]
    assert list(parameters) == [*of_quantus, *options_of(metric.metric)]
    for name, option in declared_options([metric.metric]).items():
        assert parameters[name].default is option.default
        assert parameters[name].annotation == bare(option.annotation)
        assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
        assert f"{name}: " in metric.__doc__


def test_literals():
    parameters = inspect.signature(ours.HCI).parameters
    assert parameters["baseline"].annotation == Literal["fill", "complement"]
    assert parameters["threshold"].annotation is float


@ALL_METRICS
def test_pickle_and_repr(metric):
    option = {"schedule": Schedule(7), "threshold": 0.25, "ties": "any", "most_important": 3, "overlaps": [0.5]}
    given = {name: value for name, value in option.items() if name in options_of(metric.metric)}
    made = pickle.loads(pickle.dumps(metric(**given)))
    assert type(made) is metric
    for name, value in given.items():
        assert getattr(made.options, name) == value
        assert f"{name}={value!r}" in repr(made)
    assert repr(made).startswith(f"{metric.__name__}(")


def test_a_metric_of_your_own_has_its_class():
    @metric(title="Reach of a Map", short="Reach", higher_is_better=True, meaning="its maximum", paper="none")
    def reach(maps, *, factor: float = 1.0):
        return factor * maps.flatten(1).amax(dim=1)

    try:
        cls = ours.ReachOfAMap
        assert cls is ours.ReachOfAMap
        assert inspect.signature(cls).parameters["factor"].default == 1.0
        x = np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)
        maps = np.random.default_rng(1).random((3, 1, 12, 16))
        assert cls(factor=2.0)(CNN().eval(), x, np.array([0, 1, 2]), maps) == [2, 2, 2]
        assert repr(pickle.loads(pickle.dumps(cls(factor=2.0)))) == "ReachOfAMap(factor=2.0)"
        with pytest.raises(TypeError, match="factor must be a number; got 'a'"):
            cls(factor="a")
    finally:
        METRICS.pop("reach")
    with pytest.raises(AttributeError, match="no attribute 'ReachOfAMap'"):
        ours.ReachOfAMap  # noqa: B018


def test_a_class_of_your_own():
    class Drop(ours.MapMetric):
        """With a name of its own."""

        metric = "average_drop"
        name = "Drop"

    assert Drop.name == "Drop"
    assert Drop.evaluation_category is ours.AverageDrop.evaluation_category
    assert repr(Drop(fill=torch.zeros(1))) == "Drop(fill=tensor([0.]))"
    assert "Drop" not in quantus.AVAILABLE_METRICS["Faithfulness"]


def test_the_base_of_earlier_releases():
    with pytest.warns(DeprecationWarning, match=r"ImageMetric will go with the next release") as caught:
        base = ours.ImageMetric
    assert [warning.filename for warning in caught] == [__file__]

    class Energy(base):
        metric = "energy_pointing_game"

    assert Energy.evaluation_category is ours.EnergyPointingGame.evaluation_category


def test_the_stub_has_every_public_name():
    text = Path(ours.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    for name, value in vars(ours).items():
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("cam_extras.quantus"):
            assert name in ("all_methods", "class_named") or name in text, name


@pytest.mark.parametrize(
    ("begun", "name"),
    [("HCI(thr", "threshold="), ("BoxAccuracy(over", "overlaps="), ("Insertion(sched", "schedule="), ("AD", "ADCC")],
)
def test_editors_complete(begun, name):
    jedi = pytest.importorskip("jedi")
    source = f"import cam_extras.quantus as q\nq.{begun}"
    script = jedi.Script(source, project=jedi.Project(ROOT))
    found = script.complete(2, len(f"q.{begun}"))
    assert name in {completion.name for completion in found}


def test_api_pages_show_the_options():
    griffe = pytest.importorskip("griffe")
    package = griffe.load("cam_extras", search_paths=[str(ROOT)], submodules=True)
    parameters = package["quantus.HCI"].members["__init__"].parameters
    assert str(parameters["threshold"].annotation) == "float"
    assert parameters["threshold"].default == "0.5"
    assert "where the map reaches this value" in package["quantus.HCI"].docstring.value
