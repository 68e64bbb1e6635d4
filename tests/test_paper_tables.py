"""The papers' tables as data, and the example that shows them beside ours."""

from __future__ import annotations

import re
import runpy
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import kendalltau
from torchvision import transforms
from torchvision.models import list_models
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import to_pil_image

import cam_extras
from cam_extras.demo.canvases import make_canvases
from cam_extras.maps import black
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS
from cam_extras.pytorch_grad_cam import UPSTREAM
from cam_extras.runs.summary import summarise

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "paper_tables.py"
PAPERS = {path.stem: yaml.safe_load(path.read_text()) for path in (SCRIPT.parent / "papers").glob("*.yaml")}
TABLES = [(name, table) for name, paper in PAPERS.items() for table in paper["tables"]]
of_each_table = pytest.mark.parametrize(("name", "table"), TABLES, ids=[f"{n} {t['number']}" for n, t in TABLES])


class TestData:
    def test_five_papers(self):
        assert set(PAPERS) == {"mi_grad_cam", "expected_grad_cam", "opti_cam", "adcc", "shapley_cam"}
        for paper in PAPERS.values():
            assert set(paper["torchvision"].values()) <= set(list_models())
            numbers = [table["number"] for table in paper["tables"]]
            assert len(set(numbers)) == len(numbers)

    @of_each_table
    def test_tables_are_whole(self, name, table):
        assert {"number", "shows", "kind", "data", "models", "unit", "metrics", "rows"} <= set(table)
        assert table["kind"] in ("methods", "settings", "other")
        for about in table["metrics"].values():
            assert about["better"] in ("higher", "lower")
        for method, row in table["rows"].items():
            assert set(row) <= {"ours", "note", *table["models"]}, method
            for cells in (row[model] for model in table["models"] if model in row):
                assert set(cells) <= set(table["metrics"]), method
                assert all(isinstance(value, int | float) for value in cells.values()), method

    @of_each_table
    def test_names_of_ours_are_ours(self, name, table):
        for about in table["metrics"].values():
            ours = about.get("ours")
            assert ours is None or ours in {*METRICS, "win_percentage", "box_accuracy"}
            if ours in METRICS:
                assert METRICS[ours].higher_is_better == (about["better"] == "higher")
        for row in table["rows"].values():
            assert row.get("ours") is None or row["ours"] in {*METHODS, *UPSTREAM}

    def test_insertion_minus_deletion(self):
        (table,) = (t for t in PAPERS["expected_grad_cam"]["tables"] if t["number"] == "3")
        for row in table["rows"].values():
            for model in table["models"]:
                cells = row[model]
                assert cells["Ins-Del."] == pytest.approx(cells["Ins."] - cells["Del"], abs=0.0151)

    def test_adcc_of_its_parts(self):
        for name, number in (("adcc", "2"), ("shapley_cam", "1")):
            (table,) = (t for t in PAPERS[name]["tables"] if t["number"] == number)
            column = {about["ours"]: key for key, about in table["metrics"].items()}
            needs = [column[need] for need in METRICS["adcc"].needs]
            for method, row in table["rows"].items():
                for model in set(table["models"]) & set(row):
                    parts = torch.tensor([row[model][need] for need in needs], dtype=torch.float64) / 100
                    adcc = 100 * METRICS["adcc"].function(*parts)
                    if method != "Fake-CAM":
                        assert row[model]["ADCC"] == pytest.approx(float(adcc), abs=0.05), (method, model)


class TestNumbers:
    script = runpy.run_path(str(SCRIPT))

    def results(self):
        rng = np.random.default_rng(0)
        methods, images = ["a", "b", "c"], 12
        columns = {"index": list(range(images)) * 3, "method": [m for m in methods for _ in range(images)]}
        for name in ("average_drop", "coherency", "complexity", "adcc", "average_gain"):
            columns[name] = rng.random(3 * images)
        return pa.table(columns)

    def test_values_are_those_of_the_summary(self):
        names = ["average_drop", "adcc", "win_percentage"]
        columns = {name.upper(): {"ours": name, "times": 100} for name in names}
        values = self.script["values_of"](self.results(), dict.fromkeys("abc"), columns, samples=2000)
        for row in summarise(self.results(), ["average_drop", "adcc"], samples=2000):
            ours = values[row["method"]][row["metric"].upper()]
            assert ours[0] == pytest.approx(100 * row["value"], abs=1e-9)
            assert len(ours) == 2001
            assert np.quantile(ours[1:], [0.025, 0.975]) == pytest.approx([100 * row["low"], 100 * row["high"]])

    def test_the_mean_of_ones_is_one(self):
        """Fake-CAM's coherency, of which a mean above 1 would be refused; a sum of 1/49 is."""
        ones = pa.table({"index": range(49), "method": ["a"] * 49, "coherency": np.ones(49), "complexity": np.ones(49)})
        table = ones.append_column("average_drop", pa.array(np.zeros(49)))
        values = self.script["values_of"](table, ["a"], {"ADCC": {"ours": "adcc", "times": 100}}, samples=500)
        assert (values["a"]["ADCC"] == 0).all()

    def test_agreement(self):
        rng = np.random.default_rng(1)
        theirs = {name: float(place) for place, name in enumerate("abcde")}
        ours = {name: place + rng.normal(0, 2, 50) for place, name in enumerate("edcbaf")}
        tau, low, high = self.script["agreement"](theirs, ours)
        taus = [kendalltau([4, 3, 2, 1, 0], [ours[name][n] for name in "edcba"]).statistic for n in range(50)]
        assert tau == pytest.approx(taus[0])
        assert (low, high) == pytest.approx(np.quantile(taus[1:], [0.025, 0.975]))
        assert low < high
        assert self.script["agreement"]({"a": 1.0, "b": 2.0}, ours) is None
        assert self.script["agreement"](dict.fromkeys("abc", 1.0), ours) is None


@pytest.fixture
def digits_to_explain(tmp_path, monkeypatch):
    """A folder to be in, with a model and six digits."""
    Path(tmp_path, "mine.py").write_text(
        "from cam_extras.demo.classifier import load_classifier\n"
        "from cam_extras.models import Classifier\n"
        "from torchvision import transforms as T\n"
        "def model():\n"
        "    prepare = T.Compose([T.Grayscale(), T.ToTensor(), T.Normalize([0.3], [0.26])])\n"
        "    return Classifier(load_classifier(), prepare)\n"
    )
    canvases = make_canvases(6, "test", seed=5)
    (tmp_path / "digits").mkdir()
    for number, image in enumerate(canvases.images):
        to_pil_image(image).save(tmp_path / "digits" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")


def test_limit_spreads_over_the_table(digits_to_explain, monkeypatch, capsys):
    """Every other of six images, with labels and boxes, and not the first three, which may all be of one class."""
    rows = [f"digits/{number}.png,{number},1,2,{number + 5},9" for number in range(6)]
    Path("all.csv").write_text("file,label,xmin,ymin,xmax,ymax\n" + "\n".join(rows))
    spread = TestNumbers.script["Spread"](Path("all.csv"), (), 3)
    assert [spread[number]["label"] for number in range(len(spread))] == [0, 2, 4]
    assert spread[2]["path"] == "digits/4.png"
    assert spread[2]["boxes"].tolist() == [[1, 2, 9, 9]]
    with Image.open("digits/4.png") as image:
        assert spread[2]["image"].tobytes() == image.convert("RGB").tobytes()
    assert len(TestNumbers.script["Spread"](Path("all.csv"), (), 99)) == 6

    arguments = ["--paper", "shapley", "--table", "1", "--data", "all.csv", "--model", "mine.py:model", "--limit", "3"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--samples", "2", "--output", "out"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "mine.py:model, 3 images" in capsys.readouterr().out
    results = pq.read_table(Path("out", "shapley_1_mine.py_model", "results.parquet"))
    assert sorted(set(results["path"].to_pylist())) == ["digits/0.png", "digits/2.png", "digits/4.png"]


class TestBlack:
    black_of = staticmethod(TestNumbers.script["black_of"])

    @pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
    def test_is_what_the_transform_makes_of_it(self, mean):
        std = (0.229, 0.5, 0.225)
        steps = [transforms.Resize(40), transforms.CenterCrop(32), transforms.ToTensor()]
        fill = self.black_of(transforms.Compose([*steps, transforms.Normalize(mean, std)]))
        torch.testing.assert_close(fill, black(mean, std))
        presets = ImageClassification(crop_size=32, mean=mean, std=std)
        torch.testing.assert_close(self.black_of(presets), black(mean, std))
        assert torch.equal(self.black_of(transforms.Compose(steps)), torch.zeros(3, 1, 1))

    def test_of_a_transform_that_paints(self):
        frame = transforms.Compose([transforms.ToTensor(), lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1), value=1)])
        with pytest.raises(ValueError, match="does not make one colour of a black image"):
            self.black_of(frame)


class Stopped(Exception):
    """Raised in place of a run."""


@pytest.mark.parametrize(
    ("paper", "table", "target", "options"),
    [
        ("mi", "1 (0.7)", "predicted", {"threshold": 0.7}),
        ("mi", "2", "predicted", {"schedule": "mi"}),
        ("expected", "3", "predicted", {}),
        ("opti", "1", "label", {"fill": [-0.3 / 0.26]}),  # black is what the model's own transform makes of it
        ("opti", "3", "predicted", {"fill": [-0.3 / 0.26]}),
        ("opti", "4", "label", {}),
        ("adcc", "2", "predicted", {}),
        ("shapley", "1", "predicted", {}),
    ],
)
def test_measured_as_the_papers_do(paper, table, target, options, digits_to_explain, monkeypatch):
    known = {}

    def stop(*arguments, **settings):
        known.update(settings)
        raise Stopped

    monkeypatch.setattr(cam_extras, "evaluate", stop, raising=False)
    arguments = ["--paper", paper, "--table", table, "--data", "digits", "--model", "mine.py:model"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--without", "ScoreCAM"])
    with pytest.raises(Stopped):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert known["target"] == target
    found = {name: value.flatten().tolist() if name == "fill" else value for name, value in known["options"].items()}
    assert found == {name: pytest.approx(value) if name == "fill" else value for name, value in options.items()}
    assert "ScoreCAM" not in {method["method"] for method in known["methods"].values()}
    explained = {name: method.get("utility") for name, method in known["methods"].items()}
    masked = {name: method["fill"] for name, method in known["methods"].items() if "fill" in method}
    assert list(masked) == ["Opti-CAM"] * (paper == "opti")  # it is optimised for what the metrics show
    assert all(fill is known["options"].get("fill", fill) for fill in masked.values())
    assert "fill" in options or all(fill == 0 for fill in masked.values())
    if paper == "shapley":
        assert explained.pop("RandomCAM") is None
        assert {"GradCAM", "GradCAM++", "ShapleyCAM"} <= set(explained)
        assert set(explained.values()) == {"rest"}
    else:
        assert set(explained.values()) == {None}


def test_script(digits_to_explain, monkeypatch, capsys):
    """On digits: the paper's figures stand beside ours, and a second start repeats them without work."""
    arguments = ["--paper", "shapley", "--data", "digits", "--model", "mine.py:model", "--output", "out"]
    arguments += ["--samples", "20", "--table"]

    def run(*tables):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, *tables])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    first = run("1")
    written = Path("out", "shapley.md").read_text()
    row = next(line for line in written.splitlines() if line.startswith("| GradCAM++ |"))
    assert re.match(r"\| GradCAM\+\+ \| 19\.9 / \d+\.\d \([+-]\d+\.\d\) \| 98\.[56] / ", row)  # ResNet-18, the first
    for theirs, mine, difference in re.findall(r"(\d+\.\d) / (\d+\.\d) \(([+-]\d+\.\d)\)", row):
        assert float(difference) == pytest.approx(float(mine) - float(theirs), abs=0.101)  # all three are rounded
    (table,) = (t for t in PAPERS["shapley_cam"]["tables"] if t["number"] == "1")
    columns = [{m: r[name]["AD"] for m, r in table["rows"].items() if name in r} for name in table["models"]]
    among = [
        kendalltau(*zip(*((a[m], b[m]) for m in a if m in b), strict=True)).statistic
        for a, b in combinations(columns, 2)
    ]
    (order,) = (line for line in written.splitlines() if line.startswith("| AD |") and "[" in line)
    assert order.split(" | ")[-1] == f"{np.mean(among):.2f} |"
    assert "Table 1, ResNet-18 / ours, mine.py:model, 6 images" in first
    names = re.findall(r"^\| ([^|]+?) \|", written.split("\n\n")[1], re.MULTILINE)
    assert names[-2:] == ["Controls", "RandomCAM"]  # apart, though the paper has it first
    assert next(iter(table["rows"])) == "RandomCAM"
    parts = Path("out", "shapley_1_mine.py_model", "parts")
    before = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert run("1") == first
    assert {path.name: path.stat().st_mtime_ns for path in parts.iterdir()} == before
    with pytest.raises(SystemExit):
        run("99")
    assert "no table 99: of this paper there are 1, 2" in capsys.readouterr().err
