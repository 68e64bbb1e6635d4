"""What people look at: tables, files and galleries, made from scores known beforehand."""

from __future__ import annotations

import csv

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from cam_extras.evaluation import Evaluation
from cam_extras.report import Picture, save_csv, save_gallery, summary_table
from cam_extras.report.gallery import _draw, overlay


@pytest.fixture
def evaluation():
    def scores(drop, gain):
        return {"average_drop": torch.tensor(drop), "average_gain": torch.tensor(gain)}

    return Evaluation(
        target=torch.tensor([3, 1]),
        predicted=torch.tensor([3, 2]),
        confidence=torch.tensor([0.75, 0.125], dtype=torch.float64),
        maps={"A": torch.rand(2, 6, 8), "B[red]": torch.rand(2, 6, 8), "C": torch.rand(2, 6, 8)},
        scores={
            "A": scores([0.25, 0.5], [0.0, 1.0]),
            "B[red]": scores([0.5, 0.75], [0.5, 0.5004]),  # 50.02 % prints as 50.0 % does
            "C": scores([0.0, 1.0], [0.0, 0.0]),
        },
    )


@pytest.fixture
def pictures():
    pixels = torch.zeros(3, 6, 8)
    pixels[0, :2] = 1  # the upper third is red
    return [Picture("one.png", pixels, "digit 3", (5, 1, 7, 4)), Picture("two.png", torch.rand(1, 6, 8), "digit 1")]


def test_summary_table(evaluation):
    table = summary_table(evaluation, "a [title]")
    cells = [list(column.cells) for column in table.columns]
    assert [str(column.header) for column in table.columns] == ["method", "AD ↓", "AG ↑", "Win ↑"]
    assert [str(cell) for cell in cells[0]] == ["A", "B[red]", "C"]
    assert cells[1] == ["[bold]37.5[/bold]", "62.5", "50.0"]
    assert cells[2] == ["[bold]50.0[/bold]", "[bold]50.0[/bold]", "0.0"]
    assert cells[3] == ["[bold]50.0[/bold]", "0.0", "[bold]50.0[/bold]"]
    with (console := Console(width=60)).capture() as capture:
        console.print(table)
    assert "B[red]" in capture.get()
    assert "a [title]" in capture.get()


def test_summary_of_one_method_and_of_a_metric_without_a_greatest_value(evaluation):
    alone = Evaluation(
        target=evaluation.target,
        predicted=evaluation.predicted,
        confidence=evaluation.confidence,
        maps={},
        scores={"A": {"saliency_metric": torch.tensor([1.0, 2.0]), "insertion_deletion": torch.tensor([0.25, -0.5])}},
    )
    table = summary_table(alone, "")
    assert [str(column.header) for column in table.columns] == ["method", "SM ↓", "I-D ↑"]
    assert [list(column.cells) for column in table.columns[1:]] == [["[bold]1.5[/bold]"], ["[bold]-12.5[/bold]"]]


@pytest.mark.parametrize(("methods", "metric"), [(["A"], "average_drop"), (["A", "C"], "average_gain")])
def test_no_wins_without_another_method_or_average_drop(evaluation, methods, metric):
    chosen = {name: {metric: evaluation.scores[name][metric]} for name in methods}
    table = summary_table(Evaluation(evaluation.target, evaluation.predicted, evaluation.confidence, {}, chosen), "")
    assert len(table.columns) == 2


def test_csv_has_every_score(evaluation, tmp_path):
    save_csv(tmp_path / "results.csv", ["one, or 1.png", "two.png"], evaluation)
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in ("one, or 1.png", "two.png") for method in evaluation.scores
    ]
    assert [row["target"] for row in rows] == ["3"] * 3 + ["1"] * 3
    assert [row["predicted"] for row in rows] == ["3"] * 3 + ["2"] * 3
    assert [float(row["confidence"]) for row in rows] == [0.75] * 3 + [0.125] * 3
    for number, row in enumerate(rows):
        scores = evaluation.scores[row["method"]]
        for name in scores:
            assert float(row[name]) == scores[name][number // 3].item()


def test_gallery(evaluation, pictures):
    figure = _draw(range(2), pictures, evaluation, ("average_drop", "adcc"))
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", "A", "B[red]", "C"]
    assert [axis.get_xlabel() for axis in axes[0]] == ["digit 3", "AD 25", "AD 50", "AD 0"]
    assert [axis.get_xlabel() for axis in axes[1]] == ["digit 1", "AD 50", "AD 75", "AD 100"]
    (box,) = axes[0, 0].patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((4.5, 0.5), 2, 3)
    assert not axes[1, 0].patches
    np.testing.assert_array_equal(axes[0, 0].images[0].get_array()[:2], np.broadcast_to([1, 0, 0], (2, 8, 3)))
    for row in range(2):
        for column, maps in enumerate(evaluation.maps.values(), start=1):
            np.testing.assert_array_equal(
                axes[row, column].images[0].get_array(), overlay(pictures[row].pixels, maps[row])
            )


def test_overlay_shows_heat_where_the_map_is_high():
    heat = torch.zeros(6, 8)
    heat[1, 2] = 1
    shown = overlay(torch.full((3, 6, 8), 0.5), heat)
    cold, hot = (np.array(matplotlib.colormaps["inferno"](value)[:3]) for value in (0.0, 1.0))
    np.testing.assert_allclose(shown[1, 2], 0.2 + 0.6 * hot)
    np.testing.assert_allclose(shown[0, 0], 0.2 + 0.6 * cold)
    assert overlay(torch.full((3, 6, 8), 7.0), heat).max() <= 1


def test_long_galleries_come_in_pages(evaluation, pictures, tmp_path):
    many = Evaluation(
        evaluation.target.repeat(14),
        evaluation.predicted.repeat(14),
        evaluation.confidence.repeat(14),
        {name: maps.repeat(14, 1, 1) for name, maps in evaluation.maps.items()},
        {name: {m: s.repeat(14) for m, s in scores.items()} for name, scores in evaluation.scores.items()},
    )
    pages = save_gallery(tmp_path / "gallery.png", pictures * 14, many)
    assert [page.name for page in pages] == ["gallery.png", "gallery-2.png"]
    heights = [Image.open(page).height for page in pages]
    assert heights[0] > 5 * heights[1]


def test_long_titles_are_wrapped_and_are_no_formulas(evaluation, pictures):
    title = "Appenzeller mountain dog, $a price$ (100%)"
    figure = _draw(range(1), [Picture("x", pictures[0].pixels, title)], evaluation, ())
    FigureCanvasAgg(figure).draw()
    label = figure.axes[0].xaxis.label
    assert label.get_text() == "Appenzeller mountain dog,\n$a price$ (100%)"
    assert label.get_window_extent().x0 >= 0
    assert label.get_window_extent().y0 >= 0
