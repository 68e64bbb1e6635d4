"""Figures of the report: drawn by matplotlib, as SVG that stands in a page and takes its colour of text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cam_extras.metrics import METRICS, Metric, win_percentage

Row = Mapping[str, Any]
GRID = np.linspace(0, 1, 101)  # where curves are averaged

# What a summary has besides the metrics.
WIN = Metric(
    name="win_percentage",
    title="Win Percentage",
    short="Win",
    function=win_percentage,
    needs=("average_drop",),
    options=(),
    higher_is_better=True,
    meaning="share of images on which the method has the least average drop of all methods of the run, ties shared",
    paper=METRICS["average_drop"].paper,
)
ABSENT = "—"  # stands for a number that there is not
_INK = "#123456"  # stands for the page's colour of text until the SVG is there
# Okabe and Ito's colours but for yellow, which is not seen on white; the page's colour of text is their black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", _INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")  # as many as have no factor in common with colours
_LINES = ("-", "--", ":", "-.")
_WIDTH = 5.0  # inches: narrow, so that text is readable where the page is
_LETTERS = 22  # of a name in a figure
_AT_ONCE = 2**14
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 9.5,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}


def metric_of(name: str) -> Metric:
    """Return a metric of a summary, which may be its "win_percentage"."""
    return WIN if name == WIN.name else METRICS[name]


def printed(metric: Metric, value: float | None, sign: bool = False) -> str:
    """Write a score as reports do: in per cent with a decimal, or with three where there is no greatest value.

    >>> printed(METRICS["adcc"], 0.1234), printed(METRICS["adcc"], -0.0001, sign=True), printed(METRICS["adcc"], None)
    ('12.3', '0.0', '—')
    """
    if value is None:
        return ABSENT
    rounded = round(metric.scale * value, _digits(metric)) + 0.0  # no -0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{_digits(metric)}f}"


def _digits(metric: Metric) -> int:
    return 1 if metric.scale == 100 else 3


def best_of(metric: Metric, values: Sequence[float | None]) -> list[bool]:
    """Return which values are the best of all as they are printed: those printed alike are equally good.

    >>> best_of(METRICS["average_drop"], [0.12349, None, 0.12341, 0.5])
    [True, False, True, False]
    """
    cells = [None if value is None else float(printed(metric, value)) for value in values]
    best = (max if metric.higher_is_better else min)((cell for cell in cells if cell is not None), default=None)
    return [cell is not None and cell == best for cell in cells]


@dataclass(frozen=True)
class MeanCurve:
    """The mean over images of an insertion or deletion curve at the shares `GRID`.

    Attributes:
        mean: shape (101,).
        error: its standard error, shape (101,); 0 where there is one image.
        images: how many.
    """

    mean: np.ndarray
    error: np.ndarray
    images: int


def mean_curves(file: pq.ParquetFile, name: str) -> dict[str, MeanCurve]:
    """Return the mean of the curves in a column of a run's results by method, without holding all of them.

    Curves are interpolated linearly: the shares of pixels may differ from image to image.
    """
    count, sums, squares = {}, {}, {}  # type: ignore[var-annotated]
    for batch in file.iter_batches(_AT_ONCE, columns=["method", name, "curve_fractions"], use_threads=False):
        table = pa.table(batch).filter(pc.is_valid(batch.column(name)))
        lengths = pc.list_value_length(table[name])
        for length in pc.unique(lengths).to_pylist():
            alike = table.filter(pc.equal(lengths, length))
            scores, fractions = (
                pc.list_flatten(alike[column]).to_numpy().reshape(-1, length) for column in (name, "curve_fractions")
            )
            on_grid = _on_grid(fractions, scores)
            of_row = alike["method"].to_numpy()
            for method in alike["method"].unique().to_pylist():
                found = on_grid[of_row == method]
                count[method] = count.get(method, 0) + len(found)
                sums[method] = sums.get(method, 0) + found.sum(axis=0)
                squares[method] = squares.get(method, 0) + (found**2).sum(axis=0)
    curves = {}
    for method, images in count.items():
        mean = sums[method] / images
        variance = np.maximum(squares[method] / images - mean**2, 0)
        curves[method] = MeanCurve(mean, np.sqrt(variance / max(images - 1, 1)), images)
    return curves


def _on_grid(fractions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Interpolate curves (N, T) at `GRID`: those of the same fractions together, as a product with one matrix."""
    found = np.empty((len(scores), len(GRID)))
    left = np.arange(len(scores))
    while len(left):
        first = fractions[left[0]]
        same = (fractions[left] == first).all(axis=1)
        weights = np.stack([np.interp(GRID, first, one) for one in np.eye(len(first))])
        found[left[same]] = scores[left[same]] @ weights
        left = left[~same]
    return found


def bars(metric: Metric, rows: Sequence[Row]) -> Markup:
    """Draw a bar with its interval for each row of a summary, which are of one metric."""
    best = best_of(metric, [row["value"] for row in rows])

    def draw(axes: Axes) -> None:
        for place, (row, is_best) in enumerate(zip(rows, best, strict=True)):
            if row["value"] is not None:
                axes.barh(place, metric.scale * row["value"], 0.62, color=_COLOURS[1 if is_best else 0], alpha=0.85)
                _interval(axes, place, metric, row, row["value"], ecolor=_INK, elinewidth=1.2, capsize=2.5)
        _places(axes, rows, [printed(metric, row["value"]) for row in rows], best)
        axes.axvline(0, color=_INK, linewidth=0.8)

    return _svg(f"bars-{metric.name}", _height(rows), draw, _gist(metric, rows, "value"))


def differences(metric: Metric, rows: Sequence[Row]) -> Markup:
    """Draw the paired difference with its interval for each row of a comparison, which are of one metric."""
    apart = [excludes_0(row) for row in rows]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=_INK, linewidth=0.8)
        for place, (row, is_apart) in enumerate(zip(rows, apart, strict=True)):
            if row["difference"] is not None:
                colour = _COLOURS[1 if is_apart else 0]
                look = {"marker": "o", "color": colour, "markerfacecolor": colour if is_apart else "none"}
                _interval(axes, place, metric, row, row["difference"], capsize=2.5, **look)
        _places(axes, rows, [printed(metric, row["difference"], sign=True) for row in rows], apart)

    return _svg(f"differences-{metric.name}", _height(rows), draw, _gist(metric, rows, "difference"))


def excludes_0(row: Row) -> bool:
    """Whether the interval of a row of a comparison does."""
    return row["low"] is not None and not row["low"] <= 0 <= row["high"]


def scatter(x: Metric, y: Metric, rows_x: Sequence[Row], rows_y: Sequence[Row]) -> Markup:
    """Draw the values of one metric against those of another, with their intervals; rows are of a summary each."""

    def draw(axes: Axes) -> None:
        for number, (row_x, row_y) in enumerate(zip(rows_x, rows_y, strict=True)):
            if row_x["value"] is not None and row_y["value"] is not None:
                axes.errorbar(
                    x.scale * row_x["value"],
                    y.scale * row_y["value"],
                    xerr=_reach(x, row_x, row_x["value"]),
                    yerr=_reach(y, row_y, row_y["value"]),
                    label=_name(row_x["method"]),
                    elinewidth=0.8,
                    markersize=7,
                    markeredgecolor=_INK,
                    markeredgewidth=0.6,
                    **_look(number) | {"linestyle": "none"},
                )
        axes.set_xlabel(f"{x.title} {x.arrow}{_unit(x)}")
        axes.set_ylabel(f"{y.title} {y.arrow}{_unit(y)}")
        right, up = x.higher_is_better, y.higher_is_better
        axes.annotate(
            f"{'↙↖↘↗'[2 * right + up]} better",
            (0.98 if right else 0.02, 0.98 if up else 0.02),
            xycoords="axes fraction",
            ha="right" if right else "left",
            va="top" if up else "bottom",
            fontstyle="italic",
        )

    label = f"{x.title} against {y.title} of {len(rows_x)} methods. " + " ".join(
        f"{row_x['method']}: {printed(x, row_x['value'])}, {printed(y, row_y['value'])}."
        for row_x, row_y in zip(rows_x, rows_y, strict=True)
    )
    return _svg(f"scatter-{x.name}-{y.name}", 3.4, draw, label, legend=len(rows_x))


def curves(what: str, found: Mapping[str, MeanCurve], methods: Sequence[str]) -> Markup:
    """Draw the mean insertion or deletion curve of each method, with a band of its standard error.

    Args:
        what: "insertion" or "deletion".
        found: by method.
        methods: of the run, which have the same look in all figures.
    """

    def draw(axes: Axes) -> None:
        for number, method in enumerate(methods):
            if method in found:
                mean, error = 100 * found[method].mean, 100 * found[method].error
                look = _look(number)
                axes.fill_between(100 * GRID, mean - error, mean + error, color=look["color"], alpha=0.15, linewidth=0)
                every = ((3 * number) % 20, 20)  # side by side where lines lie on each other
                axes.plot(100 * GRID, mean, label=_name(method), markersize=4.5, markevery=every, **look)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"pixels {what.replace('ion', 'ed')} (%)")
        axes.set_ylabel("mean confidence (%)")

    label = f"Mean confidence while pixels are {what.replace('ion', 'ed')}, at a quarter, half and three quarters. "
    label += " ".join(
        f"{method}: {', '.join(f'{100 * found[method].mean[at]:.0f}' for at in (25, 50, 75))} %."
        for method in methods
        if method in found
    )
    return _svg(f"curves-{what}", 3.2, draw, label, legend=len(found))


def _look(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number // len(_COLOURS) % len(_LINES)],
    }


def _reach(metric: Metric, row: Row, value: float) -> list[list[float]] | None:
    """Return how far an interval reaches below and above a value, as matplotlib takes it."""
    if row["low"] is None:
        return None
    return [[metric.scale * max(0.0, reach)] for reach in (value - row["low"], row["high"] - value)]


def _interval(axes: Axes, place: int, metric: Metric, row: Row, value: float, **look: Any) -> None:
    look.setdefault("fmt", "none" if "marker" not in look else "")
    axes.errorbar(metric.scale * value, place, xerr=_reach(metric, row, value), **look)


def _places(axes: Axes, rows: Sequence[Row], values: Sequence[str], bold: Sequence[bool]) -> None:
    """Name the rows to the left of the axes, from the top down, and write their values to the right."""
    axes.set_yticks(range(len(rows)), [_name(row["method"]) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    for place, (text, is_bold) in enumerate(zip(values, bold, strict=True)):
        weight = "bold" if is_bold else "normal"
        axes.annotate(text, (1.03, place), xycoords=("axes fraction", "data"), va="center", fontweight=weight)


def _height(rows: Sequence[Row]) -> float:
    return 0.45 + 0.24 * len(rows)


def _unit(metric: Metric) -> str:
    return " (%)" if metric.scale == 100 else ""


def _name(method: str) -> str:
    """Shorten a name in its middle: names differ by what they begin or end with."""
    plain = re.sub(r"[\x00-\x1f\x7f\ufffe\uffff]", "�", method)  # XML has no place for these
    half = (_LETTERS - 1) // 2
    return plain if len(plain) <= _LETTERS else f"{plain[:half]}…{plain[-half:]}"


def _gist(metric: Metric, rows: Sequence[Row], key: str) -> str:
    """Say in words what a figure shows."""
    better = "higher" if metric.higher_is_better else "lower"
    sign = key == "difference"
    cells = []
    for row in rows:
        text = f"{row['method']}: {printed(metric, row[key], sign)}"
        if row["low"] is not None:
            text += f" ({printed(metric, row['low'], sign)} to {printed(metric, row['high'], sign)})"
        cells.append(f"{text}.")
    what = "Difference of " if sign else ""
    return f"{what}{metric.title}{', per cent' if metric.scale == 100 else ''}, {better} is better. {' '.join(cells)}"


def _svg(name: str, height: float, draw: Callable[[Axes], None], label: str, legend: int = 0) -> Markup:
    """Return a figure as SVG to stand in a page: its ids its own, its black and its font the page's."""
    file = io.BytesIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has it
        lines = -(-legend // 2)
        figure = Figure(figsize=(_WIDTH, height + 0.2 * lines), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if lines:
            figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", file.getvalue().decode()))
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]  # HTML knows what is inside of <svg>
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            if key == "id" and value not in used:
                continue
            if key == "id":
                value = f"{name}-{value}"
            elif key.endswith("href"):
                key, value = "href", f"#{name}-{value[1:]}"
            elif key in ("d", "x", "y", "transform"):
                value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)
            value = value.replace("url(#", f"url(#{name}-").replace(_INK, "currentColor")
            element.set(key, re.sub(r"font-family:[^;]*;?\s*", "", value) if key == "style" else value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "stroke-linejoin": "round"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))
