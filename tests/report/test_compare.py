"""Two runs compared: paired differences known beforehand, and what one run alone has."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from test_html_report import CONFIGURATION, LONG, METHODS, Page, emulate, make_run, open_browser, rows_of

from cam_extras.cli import main
from cam_extras.report import compare, comparison_table, write_comparison, write_report
from cam_extras.runs.store import Run

GRAD, _, MINE = METHODS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A has images 0 to 5, B 2 to 7: drops of GradCAM are 0.1 lower in B, gains 0.25 or not as a coin falls."""
    folder = tmp_path_factory.mktemp("runs")
    start = {"versions": {"torch": "2.8", "numpy": "2"}, "started": "2026-01-01", "categories": ["cat"]}
    metrics = ["average_drop", "average_gain", "deletion"]
    a = make_run(folder / "a", rows_of(range(6), (GRAD, LONG)), environment=start, metrics=metrics)
    rows = rows_of(range(2, 8), (GRAD, MINE))
    for row in rows:
        row["average_drop"] -= 0.1
        row["average_gain"] += 0.25 if row["index"] % 2 else -0.25
    configuration = CONFIGURATION | {"layer": "<layer3>", "seed": 4, "device": "cuda"}
    start = {"versions": {"torch": "2.9", "numpy": "2"}, "started": "2026-01-02"}
    metrics = ["average_drop", "average_gain", "insertion"]
    return a, make_run(folder / "b", rows, configuration=configuration, environment=start, metrics=metrics)


class TestCompare:
    def test_values(self, runs):
        rows = {(row["method"], row["metric"]): row for row in compare(*runs)}
        drop = rows[GRAD, "average_drop"]
        assert drop["a"] == pytest.approx((0.3 + 0.7 + 0.2 + 0.6) / 4)  # images 2 to 5
        assert drop["b"] == pytest.approx(drop["a"] - 0.1)
        assert [drop[key] for key in ("difference", "low", "high")] == pytest.approx([-0.1] * 3)
        assert (drop["pairs"], drop["only"]) == (4, None)
        gain = rows[GRAD, "average_gain"]
        assert (gain["a"], gain["b"], gain["difference"]) == (0.25, 0.25, 0)
        assert gain["low"] == -gain["high"] == -0.25

    def test_of_one_run_alone(self, runs):
        rows = compare(*runs)
        alone = {(row["method"], row["metric"]): row for row in rows if row["only"] is not None}
        assert [(row["method"], row["metric"]) for row in rows] == [
            (GRAD, "average_drop"), (GRAD, "average_gain"), (GRAD, "deletion"), (GRAD, "insertion"),
            (LONG, "average_drop"), (LONG, "average_gain"), (LONG, "deletion"),
            (MINE, "average_drop"), (MINE, "average_gain"), (MINE, "insertion"),
        ]  # fmt: skip
        assert set(alone) == {(row["method"], row["metric"]) for row in rows[2:]}
        nothing = dict.fromkeys(("difference", "low", "high"))
        assert alone[LONG, "average_drop"] == {
            "method": LONG, "metric": "average_drop", "a": pytest.approx(0.2), "b": None, **nothing, "pairs": 0,
            "only": "a",
        }  # fmt: skip
        assert alone[GRAD, "insertion"] == {
            "method": GRAD, "metric": "insertion", "a": None, "b": 0.75, **nothing, "pairs": 0, "only": "b",
        }  # fmt: skip

    def test_the_other_way_round(self, runs):
        there = {(row["method"], row["metric"]): row for row in compare(*runs)}
        for row in compare(*reversed(runs)):
            twin = there[row["method"], row["metric"]]
            assert (row["a"], row["b"]) == (twin["b"], twin["a"])
            assert row["only"] == {None: None, "a": "b", "b": "a"}[twin["only"]]
            if row["only"] is None:
                assert row["difference"] == pytest.approx(-twin["difference"])

    def test_no_image_in_common(self, tmp_path, runs):
        other = make_run(tmp_path / "other", [row | {"path": f"other/{row['path']}"} for row in rows_of()])
        message = r"no image in common: .*a has '<script>alert\(1\)</script>.png', .*other has 'other/<script>alert.*"
        with pytest.raises(ValueError, match=message):
            compare(runs[0], other)
        with pytest.raises(ValueError, match=r"no image in common: .*other has '.*, .*nothing has none; give two"):
            compare(other, make_run(tmp_path / "nothing", []))

    def test_unfinished(self, tmp_path, runs):
        with pytest.raises(ValueError, match="does not hold a finished run"):
            compare(runs[0], Run(tmp_path))


def printed(table):
    console = Console(file=io.StringIO(), width=200, color_system="standard", force_terminal=True)
    console.print(table)
    return console.file.getvalue()


class TestTable:
    def test_rows(self, runs):
        text = printed(comparison_table(*runs))
        plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│┃]", " ", text).split())
        assert "GradCAM AD ↓ 45.0 35.0 -10.0 -10.0 to -10.0 4" in plain
        assert "GradCAM AG ↑ 25.0 25.0 0.0 -25.0 to +25.0 4" in plain
        assert f"A alone has the method {LONG}." in plain
        assert "A alone has the metric deletion." in plain
        assert f"B alone has the method {MINE}." in plain
        assert "B alone has the metric insertion." in plain
        assert "not corrected for multiple comparisons" in plain
        assert "\x1b[1m-10.0\x1b[0m" in text
        assert "\x1b[1m0.0\x1b[0m" not in text

    def test_names_are_no_markup(self, tmp_path):
        rows = [row | {"method": "B[red]"} for row in rows_of(methods=METHODS[:1])]
        run = make_run(tmp_path, rows)
        assert "B[red]" in printed(comparison_table(run, run))


class TestPage:
    def test_what_it_says(self, runs, tmp_path):
        assert write_comparison(*runs, tmp_path / "comparison.html") == tmp_path / "comparison.html"
        html = (tmp_path / "comparison.html").read_text(encoding="utf-8")
        page = Page(html)
        for words in (
            "A: resnet<18>, layer layer4", "B: resnet<18>, layer <layer3>", "4 images of both runs",
            "1 of 2 differences with an interval that excludes 0", "not corrected for multiple comparisons",
            "AD ↓ , Average Drop, lower is better 45.0 35.0 -10.0 -10.0 to -10.0 B better 4",
            "AG ↑ , Average Gain, higher is better 25.0 25.0 0.0 -25.0 to +25.0 not told apart 4",
            f"B alone has the method {MINE}.", 'layer "layer4" "<layer3>"', 'device — "cuda"', "seed 9 4",
            'versions.torch "2.8" "2.9"', "A: resnet<18>, layer layer4 ★ marks the best",
        ):  # fmt: skip
            assert words in page.text
        for words in ("started", "categories", "numpy", "average_drop"):
            assert words not in page.text
        assert len(page.all("svg")) == 2
        ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
        assert len(ids) == len(set(ids))
        write_comparison(*runs, tmp_path / "again.html")
        assert (tmp_path / "again.html").read_text(encoding="utf-8") == html

    @pytest.mark.parametrize(("change", "verdict"), [(0.05, "B worse"), (-0.05, "B better"), (0, "equal")])
    def test_verdict(self, tmp_path, change, verdict):
        """Average drops are better where they are lower."""
        first = make_run(tmp_path / "a", rows_of(methods=[GRAD]), metrics=["average_drop"])
        rows = [row | {"average_drop": row["average_drop"] + change} for row in rows_of(methods=[GRAD])]
        write_comparison(first, make_run(tmp_path / "b", rows, metrics=["average_drop"]), tmp_path / "page.html")
        page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert f" {verdict} 8" in page.text
        assert "The configurations are the same." in page.text

    def test_no_pairs(self, tmp_path):
        """Images in common, but none with the score in both runs."""
        first = make_run(tmp_path / "a", rows_of([0, 1], [GRAD], saliency_metric=None))
        write_comparison(first, make_run(tmp_path / "b", rows_of([0, 1], [GRAD])), tmp_path / "page.html")
        page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert "SM ↓ , Saliency Metric, lower is better — — — — no pairs 0" in page.text

    def test_nothing_in_common_but_images(self, tmp_path):
        first = make_run(tmp_path / "a", rows_of(methods=[GRAD]))
        second = make_run(tmp_path / "b", rows_of(methods=[MINE]))
        assert {row["only"] for row in compare(first, second)} == {"a", "b"}
        write_comparison(first, second, tmp_path / "page.html")
        page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert "The runs have no method with a metric in common." in page.text
        assert not page.all("svg")
        assert "alone" in printed(comparison_table(first, second))


class TestCommand:
    def test_what_is_no_finished_run(self, runs, tmp_path, capsys):
        assert main(["compare", str(runs[0].folder), str(tmp_path / "nowhere")]) == 2
        assert f"there is no folder {tmp_path / 'nowhere'}: give the output folder" in capsys.readouterr().err
        (tmp_path / "cut").mkdir()
        assert main(["compare", str(runs[0].folder), str(tmp_path / "cut"), "--output", str(tmp_path / "c.html")]) == 2
        error = capsys.readouterr().err
        assert "does not hold a finished run" in error
        assert "and finish one that was interrupted with --resume" in error

    def test_nothing_but_a_comparison_is_replaced_and_only_when_told(self, runs, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        command = ["compare", *(str(run.folder) for run in runs)]
        assert main(command) == 0
        page = tmp_path / "cam-extras-output" / "comparison.html"
        page.write_text(page.read_text("utf-8") + "<!-- kept -->", "utf-8")
        capsys.readouterr()
        assert main(command) == 2
        assert "comparison.html exists already: give another file with --output, or --over" in capsys.readouterr().err
        assert page.read_text("utf-8").endswith("<!-- kept -->")
        assert main([*command, "--overwrite"]) == 0
        assert not page.read_text("utf-8").endswith("<!-- kept -->")
        report = write_report(runs[0])
        for theirs in (tmp_path / "thesis.html", report):
            if theirs != report:
                theirs.write_text("<html>mine</html>")
            before = theirs.read_bytes()
            assert main([*command, "--output", str(theirs), "--overwrite"]) == 2
            assert "exists, and is not a comparison of two runs: give another file" in capsys.readouterr().err
            assert theirs.read_bytes() == before


class TestBrowser:
    def test_page(self, runs, tmp_path):
        from selenium.webdriver.support.ui import WebDriverWait

        browser = open_browser()
        try:
            path = write_comparison(*runs, tmp_path / "comparison.html")
            emulate(browser, 375, "dark")
            browser.get(path.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
            self.filter_and_sort(browser)
            assert browser.get_log("browser") == []
            # A page that breaks its own policy has an error: the log does see them.
            path.write_text(
                path.read_text("utf-8").replace("</main>", "<img src='missing.png' alt=''></main>"), "utf-8"
            )
            browser.get(path.as_uri())
            log = WebDriverWait(browser, 30).until(lambda _: browser.get_log("browser"))  # it comes when it comes
            assert "Content Security Policy" in log[0]["message"]
        finally:
            browser.quit()

    def filter_and_sort(self, browser):
        from selenium.webdriver.support.ui import Select

        def rows():
            found = browser.find_elements("css selector", "#pairs > tr")
            return [row.get_attribute("data-metric") for row in found if row.is_displayed()]

        assert rows() == ["average_drop", "average_gain"]
        button = browser.find_elements("css selector", "section:first-of-type th button")[4]  # of the difference
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
        button.click()
        assert rows() == ["average_gain", "average_drop"]
        metric = Select(browser.find_element("name", "metric"))
        metric.select_by_visible_text("Average Drop")
        assert rows() == ["average_drop"]
        assert browser.find_element("css selector", "output").text == "1 of 2 shown"
