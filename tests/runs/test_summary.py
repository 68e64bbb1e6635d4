"""What a run says: against scipy, a slow loop, and cases with known answers."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import torch

from cam_extras.metrics import METRICS, adcc, max_box_accuracy
from cam_extras.runs import summary
from cam_extras.runs.summary import FIELDS, paired_differences, summarise, write_summary

USED = ["average_drop", "coherency", "complexity", "adcc"]


def columns_of(methods, images=30, seed=0):
    """Columns of a run, in no order."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation([(n, method) for n in range(images) for method in methods]).tolist()
    columns = {"index": [int(n) for n, _ in rows], "method": [method for _, method in rows]}
    columns["path"] = [f"{n:03}.png" for n in columns["index"]]
    for name in USED:
        columns[name] = rng.random(len(rows)).tolist()
    return columns


def only(columns, keep):
    rows = [row for row in zip(*columns.values(), strict=True) if keep(dict(zip(columns, row, strict=True)))]
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def by_key(rows):
    return {(row["method"], row["metric"]): row for row in rows}


def scores_of(columns, method, name, key="index"):
    of_method = only(columns, lambda row: row["method"] == method)
    return np.array([score for _, score in sorted(zip(of_method[key], of_method[name], strict=True))])


def test_equals_scipy():
    columns = columns_of(["GradCAM", "OptiCAM"])
    rows = by_key(summarise(columns, USED, samples=200, seed=3, confidence=0.9))
    assert list(rows) == [(m, name) for m in dict.fromkeys(columns["method"]) for name in [*USED, "win_percentage"]]
    options = {"n_resamples": 200, "confidence_level": 0.9, "method": "percentile", "vectorized": True}
    for method in ("GradCAM", "OptiCAM"):
        for name in USED:
            row = rows[method, name]
            assert (row["images"], row["missing"]) == (30, 0)
            parts = [scores_of(columns, method, need) for need in (METRICS[name].needs if name == "adcc" else [name])]
            assert row["value"] == METRICS[name].of_set({need: scores_of(columns, method, need) for need in USED})

            def statistic(*parts, axis, name=name):
                means = [torch.from_numpy(np.mean(part, axis=axis)) for part in parts]
                return (adcc(*means) if name == "adcc" else means[0]).numpy()

            expected = scipy.stats.bootstrap(
                parts, statistic, paired=True, rng=np.random.default_rng(3), **options
            ).confidence_interval
            assert (row["low"], row["high"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("drawn_at_once", [1, 100, 2**22])
def test_equals_a_slow_loop(monkeypatch, drawn_at_once):
    """Where images failed for one method, and some have no score; in pieces of any size."""
    monkeypatch.setattr(summary, "_DRAWN_AT_ONCE", drawn_at_once)
    columns = only(columns_of("ABC", images=12), lambda row: (row["method"], row["index"]) not in {("A", 3), ("B", 7)})
    for row in (0, 5, 6):
        columns["coherency"][row] = None
    rows = by_key(summarise(columns, USED, samples=50, seed=1))
    drawn = np.random.default_rng(1).integers(0, 12, (50, 12))
    scores = {method: {name: dict.fromkeys(range(12)) for name in USED} for method in "ABC"}
    for n, index in enumerate(columns["index"]):
        for name in USED:
            scores[columns["method"][n]][name][index] = columns[name][n]
    common = [n for n in range(12) if n not in (3, 7)]

    def pick(method, name, images):
        return np.array([scores[method][name][n] for n in images])

    def win(method, n):
        drops = [scores[other]["average_drop"][n] for other in "ABC"]
        return float(scores[method]["average_drop"][n] == min(drops))

    for method in "ABC":
        for name in USED:
            needs = METRICS[name].needs if name == "adcc" else [name]
            has = [n for n in range(12) if all(scores[method][need][n] is not None for need in needs)]
            found = rows[method, name]
            assert (found["images"], found["missing"]) == (len(has), 12 - len(has))
            values = []
            for resample in drawn:
                kept = [n for n in resample if n in has]
                values.append(METRICS[name].of_set({need: pick(method, need, kept) for need in needs}))
            assert [found["low"], found["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-12)
            assert found["value"] == METRICS[name].of_set({need: pick(method, need, has) for need in needs})
        found = rows[method, "win_percentage"]
        assert (found["images"], found["missing"]) == (10, 2)
        assert found["value"] == pytest.approx(np.mean([win(method, n) for n in common]))
        values = [np.mean([win(method, n) for n in resample if n in common]) for resample in drawn]
        assert [found["low"], found["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-12)


def test_of_a_table_and_of_numpy():
    columns = columns_of("AB")
    columns["coherency"][4] = None
    expected = summarise(columns, USED, samples=20)
    assert summarise(pa.table(columns), USED, samples=20) == expected
    numpy = {
        name: np.array(values, dtype=None if name in ("method", "path", "index") else float)
        for name, values in columns.items()
    }
    assert summarise(numpy, USED, samples=20) == expected


def test_resamples_are_the_same_for_all_methods():
    """A method that is another's double differs from it by nothing, and the seed is all that they depend on."""
    columns = columns_of("A")
    double = {name: values + (["B"] * 30 if name == "method" else values) for name, values in columns.items()}
    rows = by_key(summarise(double, USED, samples=40))
    for name in USED:
        assert rows["A", name] == rows["B", name] | {"method": "A"}
    assert summarise(columns, USED, samples=40) == summarise(columns, USED, samples=40)
    assert summarise(columns, USED, samples=40) != summarise(columns, USED, samples=40, seed=1)
    wide, narrow = (summarise(columns, ["complexity"], confidence=share)[0] for share in (0.99, 0.5))
    assert wide["low"] < narrow["low"] < narrow["value"] < narrow["high"] < wide["high"]


def box_columns(methods="AB", images=12, seed=0):
    rng = np.random.default_rng(seed)
    columns = {"index": [n for n in range(images) for _ in methods], "method": [*methods] * images}
    columns["path"] = [f"{n:03}.png" for n in columns["index"]]
    columns["box_accuracy"] = (rng.random((len(columns["index"]), 4, 3)) < 0.5).astype(float).tolist()
    return columns


def test_scores_of_several_numbers():
    """The best thresholds are those of each resample, and an image without scores is left out."""
    columns = box_columns()
    columns["box_accuracy"][5] = None
    expected = summarise(columns, ["box_accuracy"], samples=50, seed=1)
    assert summarise(pa.table(columns), ["box_accuracy"], samples=50, seed=1) == expected
    drawn = np.random.default_rng(1).integers(0, 12, (50, 12))
    for row in expected:
        hits = {
            index: torch.tensor(score)
            for index, method, score in zip(*map(columns.get, ("index", "method", "box_accuracy")), strict=True)
            if method == row["method"] and score is not None
        }
        assert (row["images"], row["missing"]) == (len(hits), 12 - len(hits))
        assert row["value"] == pytest.approx(max_box_accuracy(torch.stack([*hits.values()])).item())
        values = [max_box_accuracy(torch.stack([hits[n] for n in some if n in hits])).item() for some in drawn]
        assert [row["low"], row["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-12)
    nothing = columns | {"box_accuracy": [None] * 24}
    assert [row["value"] for row in summarise(nothing, ["box_accuracy"])] == [None, None]


def test_pairs_of_scores_of_several_numbers():
    a, b = box_columns(seed=0), box_columns(seed=1)
    for row in paired_differences(a, b, ["box_accuracy"], samples=20):
        values = [
            max_box_accuracy(torch.from_numpy(np.stack(scores_of(run, row["method"], "box_accuracy")))).item()
            for run in (a, b)
        ]
        assert [row["a"], row["b"]] == pytest.approx(values)
        assert row["difference"] == pytest.approx(values[1] - values[0])
        assert row["low"] <= row["difference"] <= row["high"]


def test_wins_by_name():
    columns = {"index": [0, 0], "method": ["A", "B"], "average_drop": [0.1, 0.2], "path": ["a", "a"]}
    rows = summarise(columns, ["average_drop", "win_percentage"], samples=5)
    assert rows == summarise(columns, ["average_drop"], samples=5)
    assert summarise(columns, ["win_percentage"], samples=5) == rows[1::2]
    with pytest.raises(ValueError, match="the table has no column average_drop"):
        summarise({name: columns[name] for name in ("index", "method")}, ["win_percentage"])
    with pytest.raises(ValueError, match="win_percentage compares the methods of one run, so it has no pairs"):
        paired_differences(columns, columns, ["win_percentage"])


def test_ties_share_the_win():
    columns = {"index": [0, 0, 0, 1, 1, 1], "method": [*"ABCABC"], "average_drop": [0.1, 0.1, 0.3, 0.5, 0.2, 0.2]}
    rows = by_key(summarise(columns, ["average_drop"], samples=10))
    assert [rows[method, "win_percentage"]["value"] for method in "ABC"] == [0.25, 0.5, 0.25]


def test_wins_where_no_image_has_all_methods():
    columns = {"index": [0, 1], "method": ["A", "B"], "average_drop": [0.1, 0.2]}
    for row in summarise(columns, ["average_drop"])[1::2]:
        assert row == {"method": row["method"], "metric": "win_percentage", "images": 0, "missing": 2} | dict.fromkeys(
            ("value", "low", "high")
        )
    columns = {"index": [0], "method": ["A"], "average_drop": [0.1]}
    assert [row["metric"] for row in summarise(columns, ["average_drop"])] == ["average_drop"]
    columns = {"index": [0, 0], "method": ["A", "B"], "complexity": [0.1, 0.2]}
    assert [row["metric"] for row in summarise(columns, ["complexity"])] == ["complexity"] * 2


def test_one_image():
    row = summarise({"index": [7], "method": ["A"], "complexity": [0.3]}, ["complexity"])
    expected = {"method": "A", "metric": "complexity", "value": 0.3, "low": 0.3, "high": 0.3, "images": 1, "missing": 0}
    assert row == [expected]


def test_one_image_of_many():
    """The interval is over the resamples that have it."""
    columns = {"index": [*range(50), 0], "method": ["A"] * 50 + ["B"], "complexity": [0.1] * 50 + [0.3]}
    row = by_key(summarise(columns, ["complexity"]))["B", "complexity"]
    assert [row[name] for name in ("value", "low", "high", "images", "missing")] == [0.3, 0.3, 0.3, 1, 49]


def test_nothing():
    assert summarise({"index": [], "method": [], "complexity": []}, ["complexity"]) == []
    columns = {"index": [0, 1], "method": ["A", "A"], "complexity": [None, None]}
    (row,) = summarise(columns, ["complexity"])
    assert row == {"method": "A", "metric": "complexity", "value": None, "low": None, "high": None} | {
        "images": 0,
        "missing": 2,
    }
    assert paired_differences(*[{"path": [], "method": [], "complexity": []}] * 2, ["complexity"]) == []


class TestPairs:
    def test_equals_scipy(self):
        a, b = columns_of("AB", seed=0), columns_of("AB", seed=1)
        rows = by_key(paired_differences(a, b, USED, samples=100, seed=2))
        for method in "AB":
            first, second = ({name: scores_of(run, method, name) for name in USED} for run in (a, b))
            for name in USED:
                row = rows[method, name]
                assert row["a"] == METRICS[name].of_set(first)
                assert row["b"] == METRICS[name].of_set(second)
                assert row["difference"] == row["b"] - row["a"]
                assert row["pairs"] == 30
            gap = second["complexity"] - first["complexity"]
            expected = scipy.stats.bootstrap(
                [gap], np.mean, n_resamples=100, method="percentile", rng=np.random.default_rng(2)
            ).confidence_interval
            found = rows[method, "complexity"]
            assert (found["low"], found["high"]) == pytest.approx(expected, rel=1e-10)
            values = []
            for drawn in np.random.default_rng(2).integers(0, 30, (100, 30)):
                sides = [METRICS["adcc"].of_set({name: side[name][drawn] for name in USED}) for side in (first, second)]
                values.append(sides[1] - sides[0])
            found = rows[method, "adcc"]
            assert [found["low"], found["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-10)

    def test_by_path(self):
        """Whatever the index; images of one run alone count for nothing."""
        a = {"path": ["x", "y", "z"], "method": ["A"] * 3, "complexity": [0.1, 0.2, 0.9]}
        b = {"path": ["w", "y", "x", "x"], "method": [*"AAAB"], "complexity": [0.8, 0.5, 0.4, 0.1]}
        row, alone = paired_differences(a, b, ["complexity"])
        assert [row[name] for name in ("a", "b", "difference", "low", "high")] == pytest.approx(
            [0.15, 0.45, 0.3, 0.3, 0.3]
        )
        assert row["pairs"] == 2
        assert alone == {"method": "B", "metric": "complexity", "pairs": 0} | dict.fromkeys(
            ("a", "b", "difference", "low", "high")
        )
        same = paired_differences(a, a, ["complexity"])[0]
        assert (same["difference"], same["low"], same["high"], same["pairs"]) == (0, 0, 0, 3)
        a["complexity"][0] = None
        assert paired_differences(a, b, ["complexity"])[0]["pairs"] == 1
        apart = paired_differences(a, {"path": ["q"], "method": ["A"], "complexity": [0.1]}, ["complexity"])[0]
        assert (apart["pairs"], apart["difference"]) == (0, None)


def test_many_images():
    """A data set of 50,000 takes seconds, and no memory for all of its resamples."""
    n = 20_000
    columns = {
        "index": np.tile(np.arange(n), 2),
        "method": np.repeat(["A", "B"], n),
        "complexity": np.random.default_rng(0).random(2 * n),
    }
    rows = summarise(columns, ["complexity"], samples=300)
    for row in rows:
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * (1 / 12) ** 0.5 / n**0.5, rel=0.2)


@pytest.mark.parametrize("rows", [summarise(columns_of("AB"), USED, samples=5), []])
def test_files(tmp_path, rows):
    write_summary(tmp_path, rows)
    assert json.loads((tmp_path / "summary.json").read_text()) == rows
    with open(tmp_path / "summary.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == FIELDS
        assert [row["value"] for row in reader] == [str(row["value"]) for row in rows]
    assert len(list(tmp_path.iterdir())) == 2


def test_texts_are_no_formulas_to_a_spreadsheet(tmp_path):
    row = dict.fromkeys(FIELDS, -0.5) | {"metric": "adcc"}
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "GradCAM=1", " =1"]
    write_summary(tmp_path, [row | {"method": name} for name in names])
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [*(f"'{name}" for name in names[:6]), *names[6:]]
    assert {row["value"] for row in rows} == {"-0.5"}
    assert [row["method"] for row in json.loads((tmp_path / "summary.json").read_text())] == names


def test_bad_input():
    columns = {"index": [0, 1], "path": ["a", "b"], "method": ["A", "A"], "adcc": [0.5, 0.5]}
    with pytest.raises(ValueError, match="there is no metric 'adc': did you mean adcc"):
        summarise(columns, ["adc"])
    with pytest.raises(
        ValueError, match="the table has no column average_drop, coherency, complexity; it has index, path"
    ):
        summarise(columns, ["adcc"])
    with pytest.raises(ValueError, match="the table has no column index; it has method"):
        summarise({"method": [], "complexity": []}, ["complexity"])
    columns = {"index": [0, 1], "path": ["a", "b"], "method": ["A", "A"], "complexity": [0.5, 0.5]}
    with pytest.raises(ValueError, match="there are two rows of index 1 and method 'A'"):
        summarise(columns | {"index": [1, 1]}, ["complexity"])
    with pytest.raises(ValueError, match="there are two rows of path 'b' and method 'A'"):
        paired_differences(columns, columns | {"path": ["b", "b"]}, ["complexity"])
    with pytest.raises(ValueError, match="the complexity is infinite"):
        summarise(columns | {"complexity": [0, float("inf")]}, ["complexity"])
    with pytest.raises(ValueError, match="samples must be 1 or more; got 0"):
        summarise(columns, ["complexity"], samples=0)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1; got 95"):
        summarise(columns, ["complexity"], confidence=95)
    with pytest.raises(TypeError, match="seed must be an integer; got None"):
        summarise(columns, ["complexity"], seed=None)
