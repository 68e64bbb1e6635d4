"""What people look at: tables, files and galleries, made from scores known beforehand."""

from __future__ import annotations

import csv
import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, UnidentifiedImageError
from rich.console import Console

from cam_extras.report import Picture, pictures_of, save_csv, save_gallery, summary_table
from cam_extras.report.gallery import _decoded, _draw, overlay
from cam_extras.runs.store import Run, Store, pack_map

METHODS = ("A", "B[red]", "C")


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def colour(index, method):
    """A picture of one colour, another one for each image and method."""
    return np.full((6, 8, 3), (40 * index, 60 * (1 + METHODS.index(method)) if method else 0, 7), np.uint8)


@pytest.fixture
def run(tmp_path):
    drops = {"A": [0.25, 0.5], "B[red]": [0.5, 0.75], "C": [0.0, None]}
    environment = {"categories": ["zero", "one", "two", "three"]}
    with Store.open(tmp_path, {}, "new", metrics=["average_drop"], maps=True, environment=environment) as store:
        rows = [
            {
                "index": index,
                "path": ("one, or 1.png", "two.png")[index],
                "method": method,
                "label": (None, 2)[index],
                "target": (3, 1)[index],
                "predicted": (2, 1)[index],
                "probability": (0.75, 0.125)[index],
                "map_mean": 0.5,
                "map_max": 1.0,
                "average_drop": drops[method][index],
                **pack_map(torch.rand(6, 8)),
            }
            for index in range(2)
            for method in METHODS
        ]
        pictures = [
            {"index": index, "method": method, "picture": png(colour(index, method))}
            for index in (1, 0)
            for method in ("", *METHODS)
        ]
        store.write(0, rows, [], pictures)
        store.finish()
    return Run(tmp_path)


def test_summary_table():
    values = {
        "A": {"average_drop": 0.375, "average_gain": 0.5, "win_percentage": 0.5, "insertion_deletion": None},
        "B[red]": {"average_drop": 0.625, "average_gain": 0.5004, "win_percentage": 0.0, "insertion_deletion": None},
        "C": {"average_drop": None, "average_gain": 0.0, "win_percentage": 0.5, "insertion_deletion": None},
    }
    table = summary_table(values, "a [title]")
    cells = [list(column.cells) for column in table.columns]
    assert [str(column.header) for column in table.columns] == ["method", "AD ↓", "AG ↑", "Win ↑", "I-D ↑"]
    assert [str(cell) for cell in cells[0]] == ["A", "B[red]", "C"]
    assert cells[1] == ["[bold]37.5[/bold]", "62.5", ""]
    assert cells[2] == ["[bold]50.0[/bold]", "[bold]50.0[/bold]", "0.0"]
    assert cells[3] == ["[bold]50.0[/bold]", "0.0", "[bold]50.0[/bold]"]
    assert cells[4] == ["", "", ""]
    with (console := Console(width=60)).capture() as capture:
        console.print(table)
    assert "B[red]" in capture.get()
    assert "a [title]" in capture.get()


def test_summary_of_a_metric_without_a_greatest_value():
    table = summary_table({"A": {"saliency_metric": 1.5, "insertion_deletion": -0.125}}, "")
    assert [str(column.header) for column in table.columns] == ["method", "SM ↓", "I-D ↑"]
    assert [list(column.cells) for column in table.columns[1:]] == [["[bold]1.5[/bold]"], ["[bold]-12.5[/bold]"]]


def test_csv_has_every_score(run, tmp_path):
    save_csv(tmp_path / "results.csv", run)
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == set(run.results.column_names) - {"map", "map_shape"}
    for row, stored in zip(rows, run.results.to_pylist(), strict=True):
        for name, text in row.items():
            assert (type(stored[name])(text) if text else None) == stored[name]


def test_csv_has_no_formula(tmp_path):
    """For a spreadsheet; numbers stay numbers."""
    names = ["=1+1", "+1", "-1.png", "@SUM(A1)", "\t=1", "\r=1", "x=1", 'a","=1+1']
    about = {"label": None, "target": 1, "predicted": 1, "probability": 0.5, "map_mean": 0.5, "map_max": 1.0}
    rows = [{"index": n, "path": name, "method": name, "adcc": -0.5, **about} for n, name in enumerate(names)]
    with Store.open(tmp_path / "run", {}, "new", metrics=["adcc"]) as store:
        store.write(0, rows)
        store.finish()
    save_csv(tmp_path / "results.csv", Run(tmp_path / "run"))
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    for name in ("path", "method"):
        assert [row[name] for row in read] == [*(f"'{name}" for name in names[:6]), *names[6:]]
    assert {row["adcc"] for row in read} == {"-0.5"}


def test_pictures_of_a_run(run):
    first, second = pictures_of(run, ("average_drop", "adcc"), {0: (5, 1, 7, 4)})
    assert first.title == "three (75%), seen as two"
    assert second.title == "two, seen as one (12%)"
    assert (first.box, second.box) == ((5, 1, 7, 4), None)
    assert first.captions == {"A": "AD 25", "B[red]": "AD 50", "C": "AD 0"}
    assert second.captions == {"A": "AD 50", "B[red]": "AD 75", "C": ""}
    for index, picture in enumerate((first, second)):
        np.testing.assert_array_equal(picture.image, colour(index, ""))
        assert list(picture.overlays) == list(METHODS)
        for method in METHODS:
            np.testing.assert_array_equal(picture.overlays[method], colour(index, method))


def test_gallery(run):
    pictures = pictures_of(run, ("average_drop",), {0: (5, 1, 7, 4)})
    axes = np.array(_draw(pictures).axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", *METHODS]
    assert [axis.get_xlabel() for axis in axes[0]] == ["three (75%), seen as two", "AD 25", "AD 50", "AD 0"]
    (box,) = axes[0, 0].patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((4.5, 0.5), 2, 3)
    assert not axes[1, 0].patches
    for row in range(2):
        for column, method in enumerate(("", *METHODS)):
            np.testing.assert_array_equal(axes[row, column].images[0].get_array(), colour(row, method))


def test_overlay_shows_heat_where_the_map_is_high():
    heat = torch.zeros(6, 8)
    heat[1, 2] = 1
    shown = overlay(torch.full((3, 6, 8), 0.5), heat)
    cold, hot = (np.array(matplotlib.colormaps["inferno"](value)[:3]) for value in (0.0, 1.0))
    np.testing.assert_allclose(shown[1, 2], 0.2 + 0.6 * hot)
    np.testing.assert_allclose(shown[0, 0], 0.2 + 0.6 * cold)
    assert overlay(torch.full((3, 6, 8), 7.0), heat).max() <= 1


def test_long_galleries_come_in_pages(run, tmp_path):
    pages = save_gallery(tmp_path / "gallery.png", pictures_of(run) * 14)
    assert [page.name for page in pages] == ["gallery.png", "gallery-2.png"]
    heights = [Image.open(page).height for page in pages]
    assert heights[0] > 5 * heights[1]
    assert save_gallery(tmp_path / "none.png", []) == []


def test_names_of_methods_are_no_formulas():
    figure = _draw([Picture("a", colour(0, ""), {r"$\frac$": colour(0, "A")}, {r"$\frac$": ""})])
    FigureCanvasAgg(figure).draw()
    assert figure.axes[1].get_title() == r"$\frac$"


def test_pictures_of_other_formats_are_not_read():
    """A run may come from somebody else, and some formats are programs."""
    with pytest.raises(UnidentifiedImageError):
        _decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")


def test_long_titles_are_wrapped_and_are_no_formulas():
    title = "Appenzeller mountain dog, $a price$ (100%)"
    figure = _draw([Picture(title, colour(0, ""), {"A": colour(0, "A")}, {"A": ""})])
    FigureCanvasAgg(figure).draw()
    label = figure.axes[0].xaxis.label
    assert label.get_text() == "Appenzeller mountain dog,\n$a price$ (100%)"
    assert label.get_window_extent().x0 >= 0
    assert label.get_window_extent().y0 >= 0
