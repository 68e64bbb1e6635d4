"""The report of a run: what is in it, whatever is in the run; and how it does in a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cam_extras.metrics import METRICS
from cam_extras.report import write_report
from cam_extras.report.figures import GRID, bars, best_of, curves, differences, mean_curves, printed, scatter
from cam_extras.report.html import results_of, summary_of
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.store import Failure, Run, Store
from cam_extras.runs.summary import summarise, write_summary

LONG = "OptiCAM:max_iterations=30,utility=softmax,learning_rate=0.5"
METHODS = ("GradCAM", LONG, '<b>"mine"</b> $x$')
CURVES = ("insertion_curve", "deletion_curve", "curve_fractions")
SCORED = ("average_drop", "average_gain", "saliency_metric", "insertion", "deletion")
CATEGORIES = ("""it's "quoted" & <i>odd</i>""", "two", "three")
PATHS = ["<script>alert(1)</script>.png", f"{'long' * 40}.png", *(f"images/{n}.png" for n in range(2, 8))]
CONFIGURATION = {
    "model": {"name": "resnet<18>", "sha256": "0" * 64},
    "layer": "layer4",
    "methods": {method: {} for method in METHODS},
    "pictures": {"count": 2, "metric": "average_drop"},
    "seed": 9,
}
# By method and image, chosen so that means and orders are plain.
DROPS = np.array([[0.5, 0.1, 0.3, 0.7, 0.2, 0.6, 0.4, 0.8], [0.2] * 8, [0.9] * 8])
LABELS = (0, 1, 2, 0, None, 2, 2, 9)
PREDICTED = (0, 2, 2, 0, 1, 2, 0, 9)


def picture(value):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows_of(images=range(8), methods=METHODS, **more):
    return [
        {
            "index": index,
            "path": PATHS[index],
            "method": method,
            "label": LABELS[index],
            "target": PREDICTED[index],
            "predicted": PREDICTED[index],
            "probability": 0.25,
            "map_mean": 0.5,
            "map_max": 1.0,
            "average_drop": DROPS[METHODS.index(method), index],
            "average_gain": 0.25,
            "saliency_metric": {METHODS[0]: -1.5, METHODS[1]: None, METHODS[2]: 0.25}[method],
            "insertion": 0.75,
            "deletion": 0.125,
            # Curves of two points, or of three with the one between in the middle or not.
            "insertion_curve": [0.0, middle, 1.0] if middle else [0.25, 1.0],
            "deletion_curve": [1.0, 1 - middle, 0.0] if middle else [1.0, 0.0],
            "curve_fractions": [0.0, middle, 1.0] if middle else [0.0, 1.0],
            **more,
        }
        for index, middle in ((index, (0, 0.5, 0, 0.25)[index % 4]) for index in images)
        for method in methods
    ]


def make_run(folder, rows, errors=(), configuration=CONFIGURATION, environment=None, metrics=SCORED, drawn=()):
    """Write a finished run as an evaluation does."""
    pictures = [
        {"index": index, "method": method, "picture": picture(10 * index)}
        for index in drawn
        for method in ("", *METHODS)
    ]
    environment = {"categories": list(CATEGORIES)} if environment is None else environment
    left_out = {*SCORED, *CURVES} - {*metrics, *(CURVES if "insertion" in metrics else ())}
    rows = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
    with Store.open(
        folder, configuration, "overwrite", metrics=metrics, curves="insertion" in metrics, environment=environment
    ) as store:
        store.write(0, rows, errors, pictures)
        store.finish()
        controls = environment.get("controls", ())
        write_summary(folder, summarise(store.results(), metrics, controls=controls))
    return Run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    errors = [Failure(8, "<img src=x onerror=alert(2)>.png", "read", "cannot identify <image> file")]
    run = make_run(folder, rows_of(), errors, drawn=range(8))
    (folder / "config.yaml").write_text("model: resnet18 # <script>alert(3)</script>\n")
    assert write_report(run) == folder / "report.html"
    return run


def page_of(run):
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(run):
    return page_of(run)


class Page(HTMLParser):
    """What a page is made of: its elements with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words = [], []
        self._within = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, attributes=dict(attributes)))
        self._within.append(tag)

    def handle_data(self, data):
        if self._within[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    def handle_endtag(self, tag):
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def all(self, tag, **attributes):
        return [e for e in self.elements if e.tag == tag and attributes.items() <= e.attributes.items()]


class TestNumbers:
    def test_printed(self):
        drop, saliency = METRICS["average_drop"], METRICS["saliency_metric"]
        assert [printed(drop, value) for value in (0.12345, 0, 1, -0.0001, None)] == [
            "12.3",
            "0.0",
            "100.0",
            "0.0",
            "—",
        ]
        assert [printed(saliency, value) for value in (-1.23456, -0.0001)] == ["-1.235", "0.000"]
        assert [printed(drop, value, sign=True) for value in (0.5, -0.5, 0.0004)] == ["+50.0", "-50.0", "0.0"]

    def test_best_as_printed(self):
        assert best_of(METRICS["average_gain"], [0.1234, 0.1229, 0.12, None]) == [True, True, False, False]
        assert best_of(METRICS["average_drop"], [0.1234, 0.1229, 0.12, None]) == [False, False, True, False]
        assert best_of(METRICS["average_drop"], [None]) == [False]
        assert best_of(METRICS["win_percentage"], [0.2, 0.8]) == [False, True]

    def test_summary(self, run):
        table = summary_of(run.summary)
        assert [metric.name for metric in table.metrics] == [*SCORED, "win_percentage"]
        assert [method for method, _ in table.rows] == list(METHODS)
        column = {metric.name: [cells[n] for _, cells in table.rows] for n, metric in enumerate(table.metrics)}
        assert [(cell.text, cell.best) for cell in column["average_drop"]] == [
            ("45.0", False), ("20.0", True), ("90.0", False)
        ]  # fmt: skip
        assert all(cell.best and cell.interval == "25.0 to 25.0" for cell in column["average_gain"])
        assert [(cell.text, cell.interval, cell.images) for cell in column["saliency_metric"]] == [
            ("-1.500", "-1.500 to -1.500", None), ("—", "", 0), ("0.250", "0.250 to 0.250", None)
        ]  # fmt: skip
        assert [cell.best for cell in column["saliency_metric"]] == [True, False, False]
        assert [cell.text for cell in column["win_percentage"]] == ["18.8", "81.2", "0.0"]  # image 4 is a tie


class TestCurves:
    def test_mean_and_error(self, run):
        found = mean_curves(results_of(run), "insertion_curve")
        assert list(found) == list(METHODS)
        curve = found["GradCAM"]
        assert curve.images == 8
        # Half of the images have t, the others 0.25 + 0.75 t, which are 0.25 (1 - t) apart.
        np.testing.assert_allclose(curve.mean, 0.125 + 0.875 * GRID, atol=1e-12)
        np.testing.assert_allclose(curve.error, 0.125 * (1 - GRID) / np.sqrt(7), atol=1e-8)

    def test_one_image_and_none(self, tmp_path):
        rows = rows_of([1, 2], METHODS[:2])
        rows[2] |= dict.fromkeys(CURVES)
        rows[1] |= dict.fromkeys(CURVES)
        rows[3] |= dict.fromkeys(CURVES)
        found = mean_curves(results_of(make_run(tmp_path, rows)), "deletion_curve")
        assert list(found) == ["GradCAM"]
        np.testing.assert_allclose(found["GradCAM"].mean, 1 - GRID)
        assert not found["GradCAM"].error.any()
        assert found["GradCAM"].images == 1

    def test_over_batches(self, run, monkeypatch):
        expected = mean_curves(results_of(run), "deletion_curve")
        monkeypatch.setattr("cam_extras.report.figures._AT_ONCE", 5)
        for method, curve in mean_curves(results_of(run), "deletion_curve").items():
            np.testing.assert_allclose(curve.mean, expected[method].mean, atol=1e-12)
            np.testing.assert_allclose(curve.error, expected[method].error, atol=1e-8)


class TestFigures:
    ROWS = tuple(
        {"method": method, "metric": "average_drop", "value": value, "low": low, "high": high}
        for method, value, low, high in (
            ("A<&>$x$", 0.2, 0.1, 0.4), ("none", None, None, None), ("日本\x00\n" + "y" * 40 + "1", 0.5, 0.5, 0.5)
        )
    )  # fmt: skip

    def parse(self, svg):
        root = ElementTree.fromstring(svg)
        texts = [element.text for element in root.iter("text")]
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        used = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', svg))
        assert {a or b for a, b in used} == set(ids)
        assert "#123456" not in svg
        assert "currentColor" in svg
        assert "font-family" not in svg
        assert root.get("role") == "img"
        assert "metadata" not in svg
        return root, texts

    def test_bars(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            svg = bars(METRICS["average_drop"], self.ROWS)
        root, texts = self.parse(svg)
        assert {"A<&>$x$", "none", "日本��yyyyy…yyyyyyyy1", "20.0", "—", "50.0"} <= set(texts)
        label = root.get("aria-label")
        assert label.startswith("Average Drop, per cent, lower is better. A<&>$x$: 20.0 (10.0 to 40.0). none: —. 日本")
        # Bars are as long as their values: the ends of a bar of 0.5 and one of 0.2 from where both begin.
        spans = []
        for path in root.iter("path"):
            if "#0072b2" in path.get("style", "") or "#d55e00" in path.get("style", ""):
                x = [float(number) for number in re.findall(r"[ML] (\S+)", path.get("d"))]
                spans.append((max(x) - min(x), "#d55e00" in path.get("style")))
        (short, first_is_best), (long, last_is_best) = spans
        assert long / short == pytest.approx(2.5, rel=0.01)
        assert (first_is_best, last_is_best) == (True, False)

    def test_differences(self):
        rows = [
            {"method": "A", "difference": 0.1, "low": 0.05, "high": 0.2},
            {"method": "B", "difference": -0.1, "low": -0.2, "high": 0.05},
            {"method": "C", "difference": None, "low": None, "high": None},
        ]
        root, texts = self.parse(differences(METRICS["average_gain"], rows))
        assert {"+10.0", "-10.0", "—"} <= set(texts)
        assert root.get("aria-label") == (
            "Difference of Average Gain, per cent, higher is better. A: +10.0 (+5.0 to +20.0). B: -10.0 (-20.0 to "
            "+5.0). C: —."
        )
        marks = [
            (float(element.get("x")), "fill-opacity: 0" in element.get("style"))
            for element in root.iter("use")
            if "#0072b2" in element.get("style") or "#d55e00" in element.get("style")
        ]
        (low_b, _), (high_b, _), (low_a, _), (high_a, _), (b, b_is_hollow), (a, a_is_hollow) = marks
        assert (a_is_hollow, b_is_hollow) == (False, True)
        unit = a - b  # 0.2
        for end, value in ((low_b, -0.2), (high_b, 0.05), (low_a, 0.05), (high_a, 0.2)):
            assert end == pytest.approx(b + unit * (value + 0.1) / 0.2, abs=0.2)

    def test_many_methods_look_different(self):
        """What colours there are is not enough for twenty methods: with markers and lines no two are alike."""
        rows = [{"method": f"M{n}", "value": n / 20, "low": n / 20, "high": n / 20} for n in range(20)]
        root, texts = self.parse(scatter(METRICS["average_drop"], METRICS["average_gain"], rows, rows))
        assert [text for text in texts if text.startswith("M")] == [row["method"] for row in rows]
        marks = {
            (element.get("href"), re.search(r"fill: (\S+?);", element.get("style") + ";")[1])
            for element in root.iter("use")
            if "fill:" in element.get("style", "")
        }
        assert len({colour for _, colour in marks}) == 7
        assert len(marks) >= 20
        assert "↖ better" in texts

    def test_which_way_is_better(self):
        rows = [{"method": "A", "value": 0.5, "low": None, "high": None}]
        for x, y, arrow in (("deletion", "insertion", "↖"), ("average_gain", "insertion", "↗"),
                            ("average_drop", "deletion", "↙"), ("insertion", "deletion", "↘")):  # fmt: skip
            assert f"{arrow} better" in scatter(METRICS[x], METRICS[y], rows, rows)

    def test_curves(self, run):
        found = mean_curves(results_of(run), "insertion_curve")
        root, texts = self.parse(curves("insertion", found, METHODS))
        assert {"pixels inserted (%)", "mean confidence (%)", '<b>"mine"</b> $x$'} <= set(texts)
        assert "GradCAM: 34, 56, 78 %." in root.get("aria-label")


class TestPage:
    def test_what_it_says(self, html):
        page = Page(html)
        for words in (
            "resnet<18>, layer layer4", "8 of 9 images scored", "1 error", "3 methods", "6 metrics",
            "5 of 7 labelled images predicted right", "1 image has no scores: 1 at “read”.",
            "cannot identify <image> file", "cam-extras evaluate --config config.yaml",
            "model: resnet18 # <script>alert(3)</script>", '"sha256": "' + "0" * 64,
        ):  # fmt: skip
            assert words in page.text
        assert len(page.all("svg")) == 6 + 2 + 2  # bars, scatter plots and curves
        assert all(svg.attributes["aria-label"] for svg in page.all("svg"))

    @pytest.mark.parametrize("name", ["model", "transform"])
    def test_code_to_reproduce_with_is_pointed_out(self, tmp_path, name):
        run = make_run(tmp_path, rows_of(range(1)))
        text = {"resnet18": False, "<b>.py:f": True}
        for value, code in text.items():
            (tmp_path / "config.yaml").write_text(f"{name}: {value}\n")
            page = Page(write_report(run).read_text(encoding="utf-8"))
            assert (f"evaluate --config config.yaml{' --trust-code' if code else ''} --output" in page.text) is True
            assert (f"names code that is run: {name}: <b>.py:f . Code can do anything" in page.text) is code
            assert ("It names no code of anybody's" in page.text) is not code
        (tmp_path / "config.yaml").write_text("model: [")
        write_report(run)

    def test_is_valid(self, html):
        page = Page(html)
        assert html.startswith("<!DOCTYPE html>")
        assert page.elements[0].attributes["lang"] == "en"
        ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
        assert len(ids) == len(set(ids))
        for name in ("href", "aria-labelledby"):
            for element in page.elements:
                for reference in element.attributes.get(name, "").split():
                    assert reference.removeprefix("#") in ids
        assert all(image.attributes["alt"] for image in page.all("img"))
        levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
        assert levels[0] == 1
        assert all(below - above <= 1 for above, below in pairwise(levels))

    def test_nothing_from_elsewhere(self, html):
        page = Page(html)
        policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
        assert policy.startswith("default-src 'none'; img-src data:;")
        for element in page.elements:
            for name in ("src", "href"):
                assert re.match(r"#|data:image/|$", element.attributes.get(name, ""))

    def test_what_comes_from_users_is_text(self, html):
        page = Page(html)
        assert len(page.all("script")) == 1
        assert not page.all("i")
        assert not page.all("b")
        assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
        assert page.text.count("<script>alert(1)</script>.png") == 1  # the heading; other places are attributes
        assert f"Class {CATEGORIES[0]}" in page.text
        assert "<img src=x onerror=alert(2)>.png" in page.text

    def test_is_the_same_each_time(self, run, html):
        """Whatever the user's style of figures is; and without the maps, of which there may be too many to hold."""
        again = Run(run.folder)
        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
            assert page_of(again) == html
            assert matplotlib.rcParams["font.size"] == 30
        assert "results" not in vars(again)

    def test_few_metrics(self, tmp_path):
        page = Page(page_of(make_run(tmp_path, rows_of(), metrics=["average_drop"])))
        assert len(page.all("svg")) == 2  # bars of it and of wins
        assert "curves" not in [e.attributes.get("id") for e in page.elements]
        page = Page(page_of(make_run(tmp_path, rows_of(methods=METHODS[:1]), metrics=["average_drop", "average_gain"])))
        assert len(page.all("svg")) == 3
        assert "1 method " in page.text

    def test_nothing_scored(self, tmp_path):
        run = make_run(tmp_path, [], [Failure(n, f"{n}.png", "read", "broken") for n in range(3)])
        page = Page(page_of(run))
        assert "0 of 3 images scored" in page.text
        assert "No image could be scored" in page.text
        assert "no image was scored that can be drawn" in page.text
        assert not page.all("svg")

    def test_many_errors(self, tmp_path):
        errors = [Failure(n, f"{n}.png", "label" if n % 10 else "read", f"broken {n}.") for n in range(1500)]
        page = Page(page_of(make_run(tmp_path, rows_of(), errors)))
        assert "1,500 images have no scores: " in page.text
        assert "150 at “read”" in page.text
        assert "1,350 at “label”" in page.text
        assert "The first 100 are here, all are in errors.parquet" in page.text
        assert "broken 99." in page.text
        assert "broken 100." not in page.text

    def test_no_errors(self, tmp_path):
        page = Page(page_of(make_run(tmp_path, rows_of())))
        assert "8 of 8 images scored 0 errors" in page.text
        assert "There were none." in page.text

    def test_little_is_known(self, tmp_path):
        """Whatever a run does not tell is left out; names that are not UTF-8 are spelt out."""
        run = make_run(tmp_path, rows_of(label=None), configuration={}, environment={"odd": "caf\udce9"})
        page = Page(page_of(run))
        assert "model" in page.text
        assert "labelled" not in page.text
        assert "There are no pictures: none were asked for." in page.text
        assert "The run was started from Python" in page.text
        assert "caf\\udce9" in page.text

    def test_start(self, tmp_path):
        environment = {"started": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2.9"}, "git": None}
        page = Page(page_of(make_run(tmp_path, rows_of(), environment=environment)))
        assert "Evaluation of class activation maps, 2026-01-02" in page.text
        assert "Start 1 of 1: 2026-01-02T03:04:05+00:00" in page.text
        assert '"torch": "2.9"' in page.text

    def test_unfinished(self, tmp_path, run):
        with pytest.raises(ValueError, match=r"does not hold a finished run: summary.json cannot be read"):
            write_report(Run(tmp_path))
        shutil.copytree(run.folder, tmp_path / "broken")
        (tmp_path / "broken" / "results.parquet").write_bytes(b"PAR1")
        with pytest.raises(ValueError, match=r'results.parquet cannot be read .*mode="resume"'):
            write_report(Run(tmp_path / "broken"))


class TestGallery:
    def test_images_chosen(self, html):
        page = Page(html)
        cards = page.all("article")
        values = image_values(range(8), ["mean"] * 8, -(-DROPS).mean(axis=0), "average_drop")
        expected = choose_images(values, 2, 9)
        assert expected["best"] == [1, 4]
        assert expected["worst"] == [7, 3]
        assert expected["random"] == [0, 4]
        order = list(dict.fromkeys(index for group in expected.values() for index in group))
        groups = [" ".join(name for name, group in expected.items() if index in group) for index in order]
        assert [card.attributes["data-group"] for card in cards] == groups
        outcomes = [
            "unknown" if LABELS[n] is None else "right" if LABELS[n] == PREDICTED[n] else "wrong" for n in order
        ]
        assert [card.attributes["data-outcome"] for card in cards] == outcomes
        assert [card.attributes["data-kind"] for card in cards] == ["1", "1", "2", "0", "0"]  # of 0, 1 and 9
        assert len(page.all("img")) == len(order) * (1 + len(METHODS))
        assert {image.attributes["width"] for image in page.all("img")} == {"8"}
        assert page.all("img")[0].attributes["src"].startswith("data:image/png;base64,")

    def test_scores(self, html):
        text = Page(html).text
        # Image 1: drops of 0.1, 0.2 and 0.9, a mean of 0.4; labelled two, predicted three.
        card = text[text.index("longlong") :]
        card = card[: card.index("All scores")]
        for words in ("best prediction wrong", "Class two", "Predicted three", "Explained three, probability 25.0 %",
                      "AD, mean of methods 40.0", "GradCAM AD 10.0 AG 25.0 SM -1.500 Ins 75.0",
                      f"{LONG} AD 20.0 AG 25.0 SM — Ins 75.0"):  # fmt: skip
            assert words in card

    def test_class_without_name(self, tmp_path):
        page = Page(page_of(make_run(tmp_path, rows_of([7]), drawn=[7])))
        assert "Class class 9 Predicted class 9" in page.text
        assert "1 of 1 shown" in page.text
        assert page.all("article")[0].attributes["data-group"] == "best worst random"

    def test_not_all_could_be_drawn(self, tmp_path):
        page = Page(page_of(make_run(tmp_path, rows_of([1, 3]), drawn=[3])))
        assert "There is no picture of 1 of the 2 images chosen." in page.text
        assert len(page.all("article")) == 1
        page = Page(page_of(make_run(tmp_path, rows_of([1, 3]))))
        assert "There are no pictures: no image was scored that can be drawn." in page.text


def open_browser(width=1300):
    """Start Chromium, or skip the test."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with a chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", f"window-size={width},900"):  # fmt: skip
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))  # with a profile of its own, in a new folder


def emulate(browser, width=1300, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


LUMINANCE = """
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => channels(colour).slice(0, 3)
        .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] === 0 ? behind(element.parentElement) : colour;
    };
    const found = {};
    for (const selector of arguments[0]) {
        for (const element of document.querySelectorAll(selector)) {
            const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            found[selector] = Math.min(found[selector] ?? 99, contrast);
        }
    }
    return [found, getComputedStyle(document.body).backgroundColor];
"""
TEXTS = ("h1", "section p", "caption", "a:not(.skip)", "td", "td.best small", "small", "th button", "figcaption", "dt",
         ".badges span", "summary", "pre", ".filter select", ".scores", "svg text")  # fmt: skip


@pytest.fixture(scope="module")
def shared_browser():
    browser = open_browser()
    yield browser
    browser.quit()


@pytest.fixture
def browser(shared_browser, run):
    shared_browser.get_log("browser")
    shared_browser.get_log("performance")
    emulate(shared_browser)
    shared_browser.get((run.folder / "report.html").as_uri())
    yield shared_browser
    assert shared_browser.get_log("browser") == []


def names_in(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('table.sortable tbody th')].map((cell) => cell.textContent)"
    )


def button_of(browser, heading):
    return browser.find_element("xpath", f"//table[contains(@class, 'sortable')]//button[contains(., '{heading}')]")


class TestBrowser:
    def test_sort_by_click(self, browser):
        assert names_in(browser) == list(METHODS)
        button = button_of(browser, "Average Drop")
        header = button.find_element("xpath", "..")
        assert header.get_attribute("aria-sort") == "none"
        button.click()
        assert header.get_attribute("aria-sort") == "ascending"  # the best first
        assert names_in(browser) == [METHODS[1], METHODS[0], METHODS[2]]
        button.click()
        assert header.get_attribute("aria-sort") == "descending"
        assert names_in(browser) == [METHODS[2], METHODS[0], METHODS[1]]
        button_of(browser, "Win Percentage").click()
        assert header.get_attribute("aria-sort") == "none"
        assert names_in(browser) == [METHODS[1], METHODS[0], METHODS[2]]

    def test_sort_by_keyboard_and_nothing_last(self, browser):
        from selenium.webdriver.common.keys import Keys

        button = button_of(browser, "Saliency Metric")
        header = button.find_element("xpath", "..")
        button.send_keys(Keys.ENTER)
        assert browser.switch_to.active_element == button
        assert header.get_attribute("aria-sort") == "ascending"
        assert names_in(browser) == [METHODS[0], METHODS[2], METHODS[1]]
        button.send_keys(Keys.SPACE)
        assert header.get_attribute("aria-sort") == "descending"
        assert names_in(browser) == [METHODS[2], METHODS[0], METHODS[1]]

    def test_sort_by_name(self, browser):
        button_of(browser, "Method").click()
        assert names_in(browser) == [METHODS[2], METHODS[0], METHODS[1]]

    def test_filter(self, browser):
        from selenium.webdriver.support.ui import Select, WebDriverWait

        def shown():
            return [card for card in browser.find_elements("css selector", "article") if card.is_displayed()]

        def choose(name, value):
            Select(browser.find_element("name", name)).select_by_visible_text(value)

        WebDriverWait(browser, 30).until(lambda _: shown())  # a busy machine lays the page out late
        whole = len(shown())
        output = browser.find_element("css selector", "form.filter output")
        assert output.get_attribute("aria-live") == "polite"
        assert output.text == f"{whole} of {whole} shown"
        choose("group", "best")
        assert len(shown()) == 2
        assert output.text == f"2 of {whole} shown"
        choose("outcome", "wrong")
        assert [card.get_attribute("data-outcome") for card in shown()] == ["wrong"]
        assert output.text == f"1 of {whole} shown"
        choose("kind", CATEGORIES[0])
        assert shown() == []
        assert output.text == f"0 of {whole} shown"
        choose("group", "worst")
        choose("outcome", "right")
        assert all("worst" in card.get_attribute("data-group") for card in shown())
        assert len(shown()) == 1
        browser.find_element("css selector", "form.filter button[type=reset]").click()
        browser.execute_async_script("setTimeout(arguments[0])")
        assert output.text == f"{whole} of {whole} shown"
        assert len(shown()) == whole

    @pytest.mark.parametrize("width", [320, 375, 768])
    def test_narrow(self, browser, width):
        emulate(browser, width)
        browser.execute_script("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(
            "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
        )
        left = browser.execute_script(
            "const box = document.querySelector('.scroll'); box.scrollLeft = 300;"
            "return document.querySelector('tbody th').getBoundingClientRect().left - box.getBoundingClientRect().left"
        )
        assert left == pytest.approx(0, abs=1)  # methods stay where they are

    def test_dark(self, browser):
        light, page = browser.execute_script(LUMINANCE, TEXTS)
        emulate(browser, scheme="dark")
        dark, dark_page = browser.execute_script(LUMINANCE, TEXTS)
        assert set(light) == set(dark) == set(TEXTS)
        assert min(light.values()) >= 4.5, light
        assert min(dark.values()) >= 4.5, dark
        assert page == "rgb(244, 246, 248)"
        assert dark_page == "rgb(17, 21, 26)"

    def test_skip_link_and_focus(self, browser):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(browser).send_keys(Keys.TAB).perform()
        link = browser.switch_to.active_element
        assert link.text == "Skip to the content"
        assert link.rect["y"] >= 0
        assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", link) == "solid"
        link.send_keys(Keys.ENTER)
        assert browser.switch_to.active_element.tag_name == "main"

    def test_nothing_is_fetched(self, browser, run):
        browser.execute_script("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
        broken = "return [...document.images].filter((image) => image.complete && !image.naturalWidth).length"
        assert browser.execute_script(broken) == 0
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        assert (run.folder / "report.html").as_uri() in urls
        assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
