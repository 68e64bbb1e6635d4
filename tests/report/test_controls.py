"""Controls stand apart wherever methods are shown, and are never the best of anything."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from test_html_report import DROPS, LONG, METHODS, Page, emulate, make_run, open_browser, page_of, rows_of

from cam_extras import evaluate
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.methods import FakeCAM, GradCAM
from cam_extras.metrics import METRICS
from cam_extras.report import comparison_table, list_table, pictures_of, summary_table, write_comparison
from cam_extras.report.figures import bars, curves, differences, mean_curves, scatter
from cam_extras.report.gallery import _draw
from cam_extras.report.html import results_of, summary_of
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.summary import summarise

GRAD, CONTROL, MINE = METHODS  # what is made a control here has the least drop of all
ENVIRONMENT = {"categories": [], "controls": [CONTROL]}
GREY, ORANGE = "#7f7f7f", "#d55e00"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), rows_of(), environment=ENVIRONMENT, drawn=range(8))


@pytest.fixture(scope="module")
def page(run):
    return Page(page_of(run))


def console_text(table):
    console = Console(file=io.StringIO(), width=200, color_system="standard", force_terminal=True)
    console.print(table)
    return console.file.getvalue()


class Mine(GradCAM):
    """A control of somebody's own."""

    control = True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Grad-CAM and four controls: ours, pytorch-grad-cam's and one of the user's."""
    canvases = make_canvases(6, "test", seed=2)
    return evaluate(
        load_classifier(),
        LAYER,
        [{"image": image, "path": f"{n}"} for n, image in enumerate(prepare(canvases.images))],
        tmp_path_factory.mktemp("made"),
        methods={
            "fake": FakeCAM(),
            "theirs": {"method": "FEM"},
            "random": {"method": "RandomCAM"},
            "GradCAM": GradCAM(),
            "mine": Mine(),
        },
        metrics=["average_drop"],
        mode="overwrite",
        pictures=1,
    )


class TestRun:
    def test_keeps_which_methods_are_controls(self, made):
        assert made.controls == {"fake", "random", "mine"}
        assert json.loads((made.folder / "run.json").read_text())["starts"][0]["controls"] == ["fake", "random", "mine"]

    def test_wins_are_those_of_methods(self, made):
        wins = {row["method"]: row["value"] for row in made.summary if row["metric"] == "win_percentage"}
        assert set(wins) == {"theirs", "GradCAM"}
        assert sum(wins.values()) == pytest.approx(1)
        drops = {row["method"]: row["value"] for row in made.summary if row["metric"] == "average_drop"}
        assert drops["fake"] == min(drops.values())

    def test_of_an_older_version_knows_them_by_their_classes(self, tmp_path):
        methods = {
            "a": {"method": "FakeCAM"},
            "b": {"method": "RandomCAM", "seed": 3},
            "c": {"method": "Upstream", "cam": "RandomCAM", "utility": "logit", "hyper": {}},
            "d": {"method": "Upstream", "cam": "ScoreCAM", "utility": "logit", "hyper": {}},
            "FakeCAM": {"method": "GradCAM", "utility": "logit"},
        }
        old = make_run(tmp_path, rows_of(), configuration={"methods": methods}, environment={"categories": []})
        assert old.controls == {"a", "b", "c"}

    def test_without_any(self, tmp_path):
        assert make_run(tmp_path, rows_of(), environment=ENVIRONMENT | {"controls": []}).controls == frozenset()
        assert make_run(tmp_path, rows_of(), configuration={}).controls == frozenset()


class TestNumbers:
    def test_no_wins(self):
        columns = {"index": [0, 0, 0, 1, 1, 1], "method": [*"ABCABC"], "average_drop": [0.1, 0.0, 0.3, 0.5, 0.1, 0.2]}
        rows = [row for row in summarise(columns, ["average_drop"], controls=["B"]) if row["metric"] != "average_drop"]
        assert [(row["method"], row["metric"], row["value"]) for row in rows] == [
            ("A", "win_percentage", 0.5), ("C", "win_percentage", 0.5)
        ]  # fmt: skip
        assert len(summarise(columns, ["average_drop"], controls=["B", "C"])) == 3  # one method wins against nobody

    def test_gaps_of_a_control_cost_the_wins_of_methods_no_image(self):
        columns = {"index": [0, 0, 1, 1, 0], "method": [*"ABABC"], "average_drop": [0.1, 0.2, 0.1, 0.2, 0.0]}
        rows = summarise(columns, ["average_drop"], controls=["C"])
        assert [row["images"] for row in rows if row["metric"] == "win_percentage"] == [2, 2]

    def test_images_are_valued_by_methods(self):
        rows = ([0, 0, 1, 1], ["A", "B", "A", "B"], [0.25, 1.0, 0.75, 0.0])
        assert image_values(*rows, "average_drop") == {0: -0.625, 1: -0.375}
        assert image_values(*rows, "average_drop", {"B"}) == {0: -0.25, 1: -0.75}
        assert image_values(*rows, "average_gain", {"A", "B"}) == {0: 0.625, 1: 0.375}  # there are no others

    def test_best_of_a_summary(self, run):
        table = summary_of(run.summary, run.controls)
        assert [method for method, _ in table.rows] == [GRAD, MINE]
        ((control, cells),) = table.controls
        assert control == CONTROL
        assert not any(cell.best for cell in cells)
        names = [metric.name for metric in table.metrics]
        drop, wins = names.index("average_drop"), names.index("win_percentage")
        assert [cells[drop].best for _, cells in table.rows] == [True, False]
        assert [row[wins].text for _, row in [*table.rows, *table.controls]] == ["100.0", "0.0", "—"]

    def test_only_controls(self, tmp_path):
        """They are shown, images are chosen by them, and nothing is the best."""
        everything = ENVIRONMENT | {"controls": list(METHODS)}
        page = Page(page_of(make_run(tmp_path, rows_of(), environment=everything, drawn=range(8))))
        assert "0 methods 3 controls" in page.text
        assert not page.all("td", **{"class": "best"})
        assert len(page.all("article")) == 5
        assert "in the mean of all methods, and" in page.text


VALUES = {
    "fake": {"average_drop": 0.0},
    "A": {"average_drop": 0.3751, "win_percentage": 1.0},
    "B": {"average_drop": 0.5, "win_percentage": 0.0},
}


class TestTables:
    def test_terminal(self):
        table = summary_table(VALUES, "title", {"fake"})
        cells = [list(column.cells) for column in table.columns]
        assert [str(cell) for cell in cells[0]] == ["A", "B", "[italic]Controls[/italic]", "fake"]
        assert cells[1] == ["[bold]37.5[/bold]", "50.0", "", "0.0"]
        assert cells[2] == ["[bold]100.0[/bold]", "0.0", "", ""]
        assert [row.end_section for row in table.rows] == [False, True, False, False]
        plain = summary_table(VALUES, "title")
        assert "[bold]0.0[/bold]" in plain.columns[1].cells
        assert "Controls" not in console_text(plain)

    def test_list_of_methods(self):
        names = [str(cell) for cell in list_table()[0].columns[0].cells]
        assert names[-3:] == ["[italic]Controls[/italic]", "FakeCAM", "RandomCAM"]
        assert names[0] == "GradCAM"

    def test_comparison(self, tmp_path, run):
        """All drops are 0.1 lower in the second run: of methods that is bold."""
        rows = [row | {"average_drop": row["average_drop"] - 0.1} for row in rows_of()]
        other = make_run(tmp_path / "b", rows, environment=ENVIRONMENT)
        text = console_text(comparison_table(run, other))
        lines = [line for line in text.splitlines() if "AD ↓" in line or "Controls" in line]
        assert [("\x1b[1m-10.0" in line) for line in lines] == [True, True, False, False]
        assert "Controls" in lines[2]
        assert CONTROL in lines[3]
        page = Page(write_comparison(run, other, tmp_path / "page.html").read_text())
        assert "2 of 10 differences" in page.text
        assert "-10.0 to -10.0 differs 8" in page.text
        assert page.text.count("B better 8") == 2
        assert len(page.all("tr", **{"class": "group"})) == 3  # of the differences and of both summaries

    def test_comparison_knows_those_of_either_run(self, tmp_path, run):
        other = make_run(tmp_path, rows_of(), environment=ENVIRONMENT | {"controls": [MINE]})
        text = re.sub(r"\x1b\[[0-9;]*m", "", console_text(comparison_table(run, other)))
        order = [line.split()[1] for line in text.splitlines() if "AD ↓" in line or "Controls" in line]
        assert order == [GRAD, "Controls", CONTROL, MINE.split()[0]]
        page = Page(write_comparison(run, other, tmp_path / "page.html").read_text())
        assert "Environments" not in page.text  # the tables tell which methods are controls


class TestFigures:
    ROWS = tuple(
        {"method": method, "value": value, "low": value, "high": value, "difference": value}
        for method, value in (("A", 0.2), ("B", 0.4), ("fake", 0.1))
    )

    def test_bars(self):
        svg = bars(METRICS["average_drop"], self.ROWS, {"fake"})
        assert svg.count(GREY) == 1
        assert svg.count(ORANGE) == 1
        assert ">Controls<" in svg
        assert re.search(r"font-weight: 700[^>]*>20.0<|bold[^>]*>20.0<", svg)
        assert not re.search(r"(700|bold)[^>]*>10.0<", svg)
        assert "fake (control): 10.0" in svg
        assert ">Controls<" not in bars(METRICS["average_drop"], self.ROWS)

    def test_differences(self):
        svg = differences(METRICS["average_drop"], self.ROWS, {"fake"})
        assert GREY in svg
        assert ">Controls<" in svg
        assert not re.search(r"(700|bold)[^>]*>\+10.0<", svg)
        assert re.search(r"(700|bold)[^>]*>\+20.0<", svg)

    def test_scatter_and_curves(self, run):
        svg = scatter(METRICS["average_drop"], METRICS["average_gain"], self.ROWS, self.ROWS, {"fake"})
        assert ">fake (control)<" in svg
        assert "fake (control): 10.0, 10.0." in svg
        assert "fill-opacity: 0" in svg
        assert "fill-opacity: 0" not in scatter(METRICS["average_drop"], METRICS["average_gain"], self.ROWS, self.ROWS)
        found = mean_curves(results_of(run), "insertion_curve")
        svg = curves("insertion", found, METHODS, run.controls)
        assert f"{CONTROL} (control): 34" in svg
        assert svg.count("stroke-width: 0.8") > curves("insertion", found, METHODS).count("stroke-width: 0.8")

    def test_gallery(self, run):
        pictures = pictures_of(run, ("average_drop",))
        assert list(pictures[0].overlays) == [GRAD, MINE, CONTROL]
        axes = np.array(_draw(pictures).axes).reshape(8, 4)
        assert [axis.get_title() for axis in axes[0]] == ["image", GRAD, MINE, f"{CONTROL} (control)"]
        assert axes[0, 3].get_xlabel() == "AD 20"


class TestPage:
    def test_summary(self, page):
        assert "2 methods 1 control 6 metrics" in page.text
        rows = [e.attributes["data-value"] for e in page.elements if e.tag == "th" and "data-value" in e.attributes]
        assert rows == [GRAD, MINE, CONTROL]
        table = page.text[page.text.index("Values of the 8 images scored.") :]
        assert table.index(GRAD) < table.index("Controls") < table.index(LONG)
        assert "controls explain nothing, and are never marked" in page.text

    def test_gallery(self, page):
        values = image_values(range(8), ["mean"] * 8, DROPS[[0, 2]].mean(axis=0), "average_drop")
        with_all = image_values(range(8), ["mean"] * 8, DROPS.mean(axis=0), "average_drop")
        groups = choose_images(values, 2, 9)
        order = list(dict.fromkeys(index for group in groups.values() for index in group))
        cards = page.all("article")
        assert [card.attributes["data-group"] for card in cards] == [
            " ".join(name for name, group in groups.items() if index in group) for index in order
        ]
        assert values != with_all
        assert "AD, mean of methods 50.0" in page.text  # of image 1: 0.1 and 0.9
        assert "in the mean of all methods but controls" in page.text
        figures = page.text[page.text.index("longlong") :]
        assert figures.index(f"{MINE} AD 90.0") < figures.index(f"{LONG} (control) AD 20.0")

    def test_without_controls_nothing_is_said_of_them(self, tmp_path):
        page = Page(page_of(make_run(tmp_path, rows_of(), drawn=range(8))))
        assert "ontrol" not in page.text.replace("controls do not compete", "")

    def test_sorting_leaves_them_below(self, tmp_path):
        apart = ENVIRONMENT | {"controls": [CONTROL, MINE]}
        run = make_run(tmp_path, rows_of(), environment=apart)
        page_of(run)
        browser = open_browser()
        try:
            emulate(browser)
            browser.get((run.folder / "report.html").as_uri())
            names = "return [...document.querySelectorAll('table.sortable tbody th')].map((cell) => cell.textContent)"
            assert browser.execute_script(names) == [GRAD, "Controls", CONTROL, MINE]
            button = browser.find_element("xpath", "//table[contains(@class, 'sortable')]//button[contains(., 'Drop')]")
            for expected in ([CONTROL, MINE], [MINE, CONTROL]):
                button.click()
                assert browser.execute_script(names) == [GRAD, "Controls", *expected]
            assert browser.get_log("browser") == []
        finally:
            browser.quit()
