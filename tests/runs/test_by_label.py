"""One row for each image and label: of all labels in the data, or of all classes above a probability."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from cam_extras.cli import main
from cam_extras.evaluation import Evaluator
from cam_extras.report import compare
from cam_extras.run import evaluate
from cam_extras.runs.batches import Scorer
from cam_extras.runs.by_label import by_label
from cam_extras.runs.config import RunConfig
from cam_extras.runs.sources import open_source

WHOLE = ("results.parquet", "errors.parquet", "summary.csv", "summary.json")
# A model of halves: the scores are 10 * (brightness - 0.5) of the left half, of the right one, and of their darker one.
FILE = """
import torch
from torch import nn
from torchvision import transforms


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.features.weight)

    def forward(self, x):
        left, right = (half.mean(dim=(1, 2, 3)) for half in self.features(x).chunk(2, dim=3))
        return 10 * (torch.stack([left, right, torch.minimum(left, right)], dim=1) - 0.5)


def model():
    return Halves()


def transform():
    return transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
"""
_names: dict = {}
exec(FILE, _names)
HALVES = ((0.9, 0.2), (0.1, 0.8), (0.7, 0.9), (0.3, 0.2), (0.6, 0.4), (0.2, 0.6))  # brightness left and right
LABELS = ((0,), (1,), (0, 1, 2), (), (0, 2), (1,))
PAIRS = [(image, label) for image, labels in enumerate(LABELS) for label in labels]
QUICK = {"methods": ["HiResCAM", "RandomCAM"], "metrics": ["average_drop", "adcc"], "images_per_part": 3}


def image(left, right):
    shades = 0.05 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    for half, brightness in zip(shades.chunk(2, dim=2), (left, right), strict=True):
        half += brightness - half.mean()
    return shades


X = torch.stack([image(*halves) for halves in HALVES])
HOT = torch.tensor([[label in labels for label in range(3)] for labels in LABELS])


def model():
    return _names["Halves"]().eval()


def run(folder, data=None, **options):
    data = TensorDataset(X, HOT) if data is None else data
    options = {"target": "all-labels", "confidence": "sigmoid", "progress": False, **QUICK, **options}
    return evaluate(model(), "features", data, folder, **options)


@pytest.fixture(scope="module")
def of_labels(tmp_path_factory):
    return run(tmp_path_factory.mktemp("labels") / "out")


def test_rows_are_those_of_repeated_images(of_labels):
    assert of_labels.configuration["target"] == "all-labels"
    images, labels = map(list, zip(*PAIRS, strict=True))
    expected = Evaluator(model(), "features", ["HiResCAM"], QUICK["metrics"], confidence="sigmoid")(X[images], labels)
    rows = [row for row in of_labels.results.to_pylist() if row["method"] == "HiResCAM"]
    assert [(row["path"], row["target"]) for row in rows] == [(f"item {image}", label) for image, label in PAIRS]
    for number, row in enumerate(rows):
        assert row["label"] == row["target"]
        assert row["probability"] == pytest.approx(expected.confidence[number].item(), abs=1e-6)
        for name in QUICK["metrics"]:
            assert row[name] == pytest.approx(expected.scores["HiResCAM"][name][number].item(), abs=1e-6)
    (missing,) = of_labels.errors.to_pylist()
    assert (missing["path"], missing["stage"]) == ("item 3", "label")
    assert "this image has none" in missing["message"]
    assert {row["images"] for row in of_labels.summary} == {len(PAIRS)}
    report = (of_labels.folder / "report.html").read_text()
    assert "pairs of image and label scored" in report
    assert "predicted right" not in report


def test_classes_above_a_probability(tmp_path):
    """Whatever the labels are: a class has a row if the brightness of its half is above that of the probability."""
    scores = 10 * (np.array([(left, right, min(left, right)) for left, right in HALVES]) - 0.5)
    sigmoid = 1 / (1 + np.exp(-scores))
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for confidence, target, p, threshold in (
        ("sigmoid", "above=0.5", sigmoid, 0.5),
        ("sigmoid", "above=.95", sigmoid, 0.95),
        ("softmax", "above=0.3", softmax, 0.3),
    ):
        assert np.abs(p - threshold).min() > 1e-3  # so that rounding decides nothing
        found = run(tmp_path / confidence / target, target=target, confidence=confidence, pictures=1)
        rows = [row for row in found.results.to_pylist() if row["method"] == "HiResCAM"]
        expected = [(f"item {image}", label) for image, label in np.argwhere(p > threshold).tolist()]
        assert [(row["path"], row["target"]) for row in rows] == expected
        assert {row["label"] for row in rows} == {None}
        assert all(row["probability"] > threshold for row in rows)
        without = [f"item {number}" for number in np.flatnonzero((p <= threshold).all(axis=1))]
        assert found.errors["path"].to_pylist() == without
        assert {*found.errors["message"].to_pylist()} <= {f"no class has a probability above {threshold}"}
    with pytest.raises(ValueError, match=r"nothing to explain in 6 images; the first: no class .* above 0.9999"):
        run(tmp_path / "none", target="above=0.9999")


def test_images_that_fail_do_not_stop_the_search(tmp_path):
    bad = X.clone()
    bad[1] = torch.nan
    found = run(tmp_path, [*bad[:2], "no image", *X[2:]], target="above=0.5")
    assert [(error["path"], error["stage"]) for error in found.errors.to_pylist()] == [
        ("item 1", "label"),
        ("item 2", "read"),
        ("item 4", "label"),
    ]
    assert found.errors["message"][0].as_py().startswith("the probabilities is NaN or infinite")
    assert [row["target"] for row in found.results.to_pylist()][::2] == [0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("target", ["all-labels", "above=0.5"])
@pytest.mark.parametrize("moment", [0, 2])
def test_goes_on_after_an_interruption(tmp_path, monkeypatch, target, moment):
    whole = run(tmp_path / "whole", target=target)
    evaluate_batch, calls = Scorer._evaluate, iter(range(moment))

    def interrupted(self, batch):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return evaluate_batch(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "_evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", target=target)
    assert len(list((tmp_path / "cut" / "parts").glob("*[0-9].parquet"))) == moment
    resumed = run(tmp_path / "cut", target=target, mode="resume")
    for name in WHOLE:
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_other_labels_are_another_run(of_labels, tmp_path):
    run(tmp_path)
    others = HOT.clone()
    others[0, 2] = True
    with pytest.raises(ValueError, match="sha256_of_rows"):
        run(tmp_path, TensorDataset(X, others), mode="resume", insist=True)


class TestForms:
    """The same labels, in every form they may have."""

    @staticmethod
    def rows(data, categories=("left", "right", "both")):
        source = open_source(data, categories=categories, labels_needed=True, several_labels=True)
        config = RunConfig(model=None, data=None, target="all-labels")
        found = by_label(source, config, torch.device("cpu")).rows
        return [(image, label) for image, label in found if isinstance(label, int)]

    @pytest.mark.parametrize(
        "labels",
        [
            HOT.numpy(),
            HOT.float(),
            [[1.0 if yes else float("nan") for yes in hot] for hot in HOT.tolist()],
            [[1.0, 0, None], [0.0, 1, None], [1.0, 1, 1], [0.0, 0, 0], [1.0, None, 1], [None, 1.0, None]],
            [torch.tensor(labels) if len(labels) != 3 else "0;1;2" for labels in LABELS],
            ["left", " right", "left; both;right", "", "0; both", "Right"],
        ],
        ids=["booleans", "numbers", "unknown", "missing", "classes", "texts"],
    )
    def test_of_items(self, labels):
        assert self.rows([{"image": x, "label": label} for x, label in zip(X, labels, strict=True)]) == PAIRS

    @pytest.mark.parametrize("form", ["rows", "cells", "columns"])
    def test_of_csv(self, tmp_path, form):
        lines = {
            "rows": "path,label 0.png,0 1.png,1 2.png,2 3.png, 2.png,1 2.png,0 4.png,0 4.png,2 5.png,1 4.png,0",
            "cells": "path,label 0.png,0 1.png,1 2.png,2;0;1 3.png, 4.png,0;2 5.png,1",
            "columns": "Both,path,patient,Left,right 0,0.png,1,1,0 ,1.png,1,,1 1.0,2.png,1,1.0,1.0 0,3.png,1,0,0 "
            "1,4.png,1,1, 0,5.png,1,0,1",
        }[form]
        (tmp_path / "a.csv").write_text(lines.replace(" ", "\n"))
        assert self.rows(tmp_path / "a.csv") == PAIRS

    @pytest.mark.parametrize("form", ["cells", "hot", "columns"])
    def test_of_parquet(self, tmp_path, form):
        columns = {
            "cells": {"label": [[*labels] if len(labels) != 3 else [2, 1, 0] for labels in LABELS]},
            "hot": {"label": HOT.tolist()},
            "columns": {name: HOT[:, number].tolist() for number, name in enumerate(("left", "right", "both"))},
        }[form]
        pq.write_table(pa.table({"path": [f"{image}.png" for image in range(6)], **columns}), tmp_path / "a.parquet")
        assert self.rows(tmp_path / "a.parquet") == PAIRS

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            ([1, 0, 1], r"item 0: \[1, 0, 1\] may be class numbers, or a yes or no for each class"),
            (torch.tensor([0, 1]), "may be class numbers, or a yes or no"),
            ([True, False], "a yes or no for each of 3 classes; got 2"),
            ([1.0, 0.0, -1.0], "the yes or no of class 2 must be 1 or 0, or missing where it is not known; got -1.0"),
            ("left;middle", "'middle' is the name of none of the 3 classes"),
            ([2, 3], "the label 3 is not one of the 3 classes"),
            ([[0.0, 1.0]], "a label must be a class number"),
        ],
    )
    def test_what_is_no_label(self, label, message):
        with pytest.raises(ValueError, match=message):
            self.rows([{"image": X[0], "label": label}])

    def test_two_columns_of_a_class(self, tmp_path):
        (tmp_path / "a.csv").write_text("path,left,0\na.png,1,0\n")
        with pytest.raises(ValueError, match="two columns of class 0: 'left' and '0'"):
            self.rows(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "above=1"}, "takes a probability, 0 <= P < 1, such as above=0.5; got 'above=1'"),
        ({"target": "above=half"}, "got 'above=half'"),
        ({"target": "above"}, "target must be one of 'predicted', 'label', 'all-labels', 'above=0.5'"),
        ({"against": "label"}, "against='label' is for images with one label"),
        ({"metrics": "pointing_game"}, "pointing_game asks where the object is, and with target='all-labels' boxes"),
        ({"data": DataLoader(TensorDataset(X, HOT))}, "this data can only be read once, in order"),
        ({"data": iter(X), "target": "above=0.5"}, "needs the labels of all images before the run"),
        ({"data": [*X]}, "there is nothing to explain in 6 images; the first: .* this image has none"),
    ],
)
def test_what_cannot_be_served_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_compared_by_image_and_label(of_labels, tmp_path):
    """Labels of the second run that the first lacks, and the other way round, have no pair."""
    second = run(tmp_path, target="above=0.5")
    drops = []
    for one in (of_labels, second):
        rows = [row for row in one.results.to_pylist() if row["method"] == "HiResCAM"]
        drops.append({(row["path"], row["target"]): row["average_drop"] for row in rows})
    common = sorted({*drops[0]} & {*drops[1]})
    assert 0 < len(common) < len(drops[0])
    rows = {(row["method"], row["metric"]): row for row in compare(of_labels, second)}
    found = rows["HiResCAM", "average_drop"]
    assert found["pairs"] == len(common)
    assert found["a"] == pytest.approx(np.mean([drops[0][pair] for pair in common]))
    assert found["b"] == pytest.approx(found["a"], abs=1e-6)
    predicted = run(
        tmp_path / "predicted", [*X], target="predicted"
    )  # one row for each image: of classes that are labels
    pairs = {(row["path"], row["target"]) for row in predicted.results.to_pylist()} & {*drops[0]}
    of_both = {(row["method"], row["metric"]): row for row in compare(of_labels, predicted)}
    assert of_both["HiResCAM", "adcc"]["pairs"] == len(pairs)


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    for number, x in enumerate(X):
        Image.fromarray((x[0].numpy() * 255).round().astype(np.uint8)).save(f"{number}.png")
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{image}.png,{label}\n" for image, label in PAIRS))
    of_model = ["--model=mine.py:model", "--transform=mine.py:transform", "--layer=features", "--confidence=sigmoid"]
    command = ["evaluate", *of_model, "--data=a.csv", "--methods", "HiResCAM", "--metrics", "adcc"]
    assert main([*command, "--target=all-labels", "--output=labels"]) == 0
    assert f"{len(PAIRS)} pairs of image and label" in " ".join(capsys.readouterr().out.split())
    assert pq.read_table("labels/results.parquet")["target"].to_pylist() == [label for _, label in PAIRS]
    assert main(["evaluate", "--config=labels/config.yaml", "--trust-code", "--output=again"]) == 0
    assert pq.read_table("again/results.parquet").equals(pq.read_table("labels/results.parquet"))
    assert main([*command, "--target=above=0.5", "--output=above"]) == 0
    assert main([*command, "--target=above=2", "--output=no"]) == 2
    assert "takes a probability, 0 <= P < 1" in capsys.readouterr().err
    assert main(["explain", "0.png", *of_model[:1], *of_model[2:], "--target=above=0.5", "--output=no"]) == 2
    assert "`explain` shows one class of each" in capsys.readouterr().err
