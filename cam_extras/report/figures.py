"""Figures of the report: drawn by matplotlib, as inline SVG in the page's text colour."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cam_extras.metrics import Metric

Row = Mapping[str, Any]
GRID = np.linspace(0, 1, 101)  # where curves are averaged

ABSENT = "—"  # stands for a missing number
_INK = "#123456"  # stands for the page's text colour until the SVG is made
# Okabe and Ito's colours without yellow, which is hard to see on white; the page's text colour is their black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", _INK)
_CONTROL = "#7f7f7f"  # of controls; methods have the first two colours
# Eleven markers and seven colours: 77 methods look different.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_LINES = ("-", "--", ":", "-.")
_WIDTH = 4.4  # inches: narrow, so that text stays readable on narrow pages
_LETTERS = 20  # of a name in a figure
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
    "legend.columnspacing": 1,
    "legend.handletextpad": 0.5,
    "font.size": 10,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}


def printed(metric: Metric, value: float | None, sign: bool = False) -> str:
    """Format a score as in reports: in per cent with one decimal, or with three decimals if it has no upper bound.

    >>> from cam_extras.metrics import METRICS
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
    """Return which values are the best as printed: values printed alike are equally good.

    >>> from cam_extras.metrics import METRICS
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
        error: its standard error, shape (101,); 0 for a single image.
        images: the number of images.
    """

    mean: np.ndarray
    error: np.ndarray
    images: int


def mean_curves(file: pq.ParquetFile, name: str) -> dict[str, MeanCurve]:
    """Return the mean of the curves in a column of a run's results, by method, without loading all of them.

    Curves are interpolated linearly, as the shares of pixels may differ from image to image.
    """
    totals: dict[str, np.ndarray] = {}  # by method: the number of curves, their sum and sum of squares
    for batch in file.iter_batches(_AT_ONCE, columns=["method", name, "curve_fractions"], use_threads=False):
        batch = batch.filter(pc.is_valid(batch.column(name)))
        lengths = pc.list_value_length(batch.column(name))
        for length in pc.unique(lengths).to_pylist():
            alike = batch.filter(pc.equal(lengths, length))
            scores, fractions = (
                pc.list_flatten(alike.column(column)).to_numpy().reshape(-1, length)
                for column in (name, "curve_fractions")
            )
            values = _on_grid(fractions, scores)
            encoded = alike.column("method").dictionary_encode()
            methods = encoded.dictionary.to_pylist()
            members = (encoded.indices.to_numpy() == np.arange(len(methods))[:, None]).astype(float)
            columns = np.concatenate([np.ones((len(values), 1)), values, values**2], axis=1)
            for method, sums in zip(methods, members @ columns, strict=True):
                totals[method] = totals.get(method, 0) + sums
    curves = {}
    for method, sums in totals.items():
        count = int(sums[0])
        mean, squares = np.split(sums[1:] / count, 2)
        error = np.sqrt(np.maximum(squares - mean**2, 0) / max(count - 1, 1))
        curves[method] = MeanCurve(mean, error, count)
    return curves


def _on_grid(fractions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Interpolate curves (N, T) at `GRID`: those with the same fractions together, by one matrix product."""
    found = np.empty((len(scores), len(GRID)))
    left = np.arange(len(scores))
    while len(left):
        first = fractions[left[0]]
        same = (fractions[left] == first).all(axis=1)
        weights = np.stack([np.interp(GRID, first, one) for one in np.eye(len(first))])
        found[left[same]] = scores[left[same]] @ weights
        left = left[~same]
    return found


def bars(metric: Metric, rows: Sequence[Row], controls: Collection[str] = ()) -> str:
    """Draw a bar with its interval for each row of a summary, all of one metric; controls come last."""
    best = best_of(metric, [None if row["method"] in controls else row["value"] for row in rows])

    def draw(axes: Axes) -> None:
        places, values, reach = _intervals(metric, rows, "value")
        colours = [
            _CONTROL if rows[place]["method"] in controls else _COLOURS[1 if best[place] else 0] for place in places
        ]
        lines = _lines(rows, controls)
        axes.barh(lines[places], values, 0.62, color=colours, alpha=0.85)
        axes.errorbar(values, lines[places], xerr=reach, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=2.5)
        _name_places(axes, rows, lines, [printed(metric, row["value"]) for row in rows], best)
        axes.axvline(0, color=_INK, linewidth=0.8)

    return _svg(
        f"bars-{metric.name}",
        _height(rows, controls),
        draw,
        _gist(metric, rows, "value", controls),
        left=_left(rows),
    )


def differences(metric: Metric, rows: Sequence[Row], controls: Collection[str] = ()) -> str:
    """Draw each paired difference of a comparison with its interval, all of one metric; controls come last."""
    apart = [None if row["method"] in controls else excludes_0(row) for row in rows]
    lines = _lines(rows, controls)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=_INK, linewidth=0.8)
        places, values, reach = _intervals(metric, rows, "difference")
        for wanted, colour, fill in (
            (False, _COLOURS[0], "none"),
            (True, _COLOURS[1], _COLOURS[1]),
            (None, _CONTROL, "none"),
        ):
            some = np.array([apart[place] is wanted for place in places], dtype=bool)
            look: dict[str, Any] = {
                "linestyle": "none",
                "marker": "o",
                "color": colour,
                "markerfacecolor": fill,
                "capsize": 2.5,
            }
            axes.errorbar(values[some], lines[places[some]], xerr=reach[:, some], **look)
        _name_places(axes, rows, lines, [printed(metric, row["difference"], sign=True) for row in rows], apart)

    return _svg(
        f"differences-{metric.name}",
        _height(rows, controls),
        draw,
        _gist(metric, rows, "difference", controls),
        left=_left(rows),
    )


def excludes_0(row: Row) -> bool:
    """Whether the interval of a row of a comparison excludes 0."""
    return row["low"] is not None and not row["low"] <= 0 <= row["high"]


def scatter(x: Metric, y: Metric, rows_x: Sequence[Row], rows_y: Sequence[Row], controls: Collection[str] = ()) -> str:
    """Draw the values of one metric against those of another, with intervals, from rows of a summary.

    Controls have hollow markers.
    """

    def draw(axes: Axes) -> None:
        for number, (row_x, row_y) in enumerate(zip(rows_x, rows_y, strict=True)):
            if row_x["value"] is not None and row_y["value"] is not None:
                _, at_x, reach_x = _intervals(x, [row_x], "value")
                _, at_y, reach_y = _intervals(y, [row_y], "value")
                look = _look(number) | {"linestyle": "none", "elinewidth": 0.8, "markersize": 7}
                look |= {
                    "markeredgecolor": _INK,
                    "markeredgewidth": 0.6,
                    "label": _told(row_x["method"], controls, _name),
                }
                if row_x["method"] in controls:
                    look |= {"markerfacecolor": "none", "markeredgecolor": look["color"], "markeredgewidth": 1.2}
                axes.errorbar(at_x, at_y, xerr=reach_x, yerr=reach_y, **look)
        axes.set_xlabel(f"{x.title} {x.arrow}{_unit(x)}")
        axes.set_ylabel(f"{y.title} {y.arrow}{_unit(y)}")
        right, up = x.higher_is_better, y.higher_is_better
        axes.text(
            0.98 if right else 0.02,
            0.98 if up else 0.02,
            f"{'↙↖↘↗'[2 * right + up]} better",
            transform=axes.transAxes,
            ha="right" if right else "left",
            va="top" if up else "bottom",
            fontstyle="italic",
        )

    label = f"{x.title} against {y.title} of {len(rows_x)} methods. " + " ".join(
        f"{_told(row_x['method'], controls)}: {printed(x, row_x['value'])}, {printed(y, row_y['value'])}."
        for row_x, row_y in zip(rows_x, rows_y, strict=True)
    )
    return _svg(f"scatter-{x.name}-{y.name}", 2.9, draw, label, legend=len(rows_x))


def curves(what: str, found: Mapping[str, MeanCurve], methods: Sequence[str], controls: Collection[str] = ()) -> str:
    """Draw the mean insertion or deletion curve of each method, with a band of its standard error.

    Controls have thin lines and hollow markers.

    Args:
        what: "insertion" or "deletion".
        found: mean curves by method.
        methods: all methods of the run, so that each looks the same in all figures.
        controls: which of them are controls.
    """

    def draw(axes: Axes) -> None:
        for number, method in enumerate(methods):
            if method in found:
                mean, error = 100 * found[method].mean, 100 * found[method].error
                look = _look(number)
                axes.fill_between(100 * GRID, mean - error, mean + error, color=look["color"], alpha=0.15, linewidth=0)
                every = ((3 * number) % 20, 20)  # markers stay apart where lines overlap
                if method in controls:
                    look |= {"linewidth": 0.8, "markerfacecolor": "none"}
                label = _told(method, controls, _name)
                axes.plot(100 * GRID, mean, label=label, markersize=4.5, markevery=every, **look)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"pixels {what.replace('ion', 'ed')} (%)")
        axes.set_ylabel("mean confidence (%)")

    label = f"Mean confidence while pixels are {what.replace('ion', 'ed')}, at a quarter, half and three quarters. "
    label += " ".join(
        f"{_told(method, controls)}: {', '.join(f'{100 * found[method].mean[at]:.0f}' for at in (25, 50, 75))} %."
        for method in methods
        if method in found
    )
    return _svg(f"curves-{what}", 2.8, draw, label, legend=len(found))


def _look(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number // len(_COLOURS) % len(_LINES)],
    }


def _intervals(metric: Metric, rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of the rows with a number, the numbers, and how far the intervals reach below and above."""
    places = [place for place, row in enumerate(rows) if row[key] is not None]
    known = [(rows[place][key], rows[place]["low"], rows[place]["high"]) for place in places]
    values, low, high = metric.scale * np.array(known, dtype=float).reshape(-1, 3).T
    return np.array(places, dtype=int), values, np.stack([values - low, high - values]).clip(min=0)


def _lines(rows: Sequence[Row], controls: Collection[str]) -> np.ndarray:
    """Return the line of each row: between methods and controls, one is left for a heading."""
    return np.array([place + (row["method"] in controls) for place, row in enumerate(rows)], dtype=int)


def _name_places(
    axes: Axes, rows: Sequence[Row], lines: np.ndarray, values: Sequence[str], bold: Sequence[bool | None]
) -> None:
    """Write the rows' names left of the axes, from the top down, and their values to the right."""
    axes.set_yticks(lines, [_name(row["method"]) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(max(lines, default=-1) + 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    for line in set(range(len(rows))) - {*lines.tolist()}:
        axes.axhline(line - 0.4, color=_INK, linewidth=0.8)
        axes.text(-0.02, line, "Controls", fontstyle="italic", **at)
    for line, text, is_bold in zip(lines, values, bold, strict=True):
        axes.text(1.215, line, text, fontweight="bold" if is_bold else "normal", **at)


def _left(rows: Sequence[Row]) -> float:
    """Return the width of the longest method name, in inches."""
    return 0.2 + 0.082 * max(len(_name(row["method"])) for row in rows)


def _height(rows: Sequence[Row], controls: Collection[str]) -> float:
    return 0.25 * (len(rows) + any(row["method"] in controls for row in rows))


def _unit(metric: Metric) -> str:
    return " (%)" if metric.scale == 100 else ""


def _name(method: str) -> str:
    """Shorten a name in the middle: names differ at their start or end."""
    plain = _plain(method)
    half = (_LETTERS - 1) // 2
    return plain if len(plain) <= _LETTERS else f"{plain[:half]}…{plain[-half:]}"


def _told(method: str, controls: Collection[str], name: Callable[[str], str] = str) -> str:
    """Name a method, and say if it is a control."""
    return f"{name(method)} (control)" if method in controls else name(method)


def _plain(text: str) -> str:
    """Replace characters that XML does not allow."""
    return re.sub(r"[\x00-\x1f\x7f\ufffe\uffff]", "�", text)


def _gist(metric: Metric, rows: Sequence[Row], key: str, controls: Collection[str]) -> str:
    """Say in words what a figure shows."""
    better = "higher" if metric.higher_is_better else "lower"
    sign = key == "difference"
    cells = []
    for row in rows:
        text = f"{_told(row['method'], controls)}: {printed(metric, row[key], sign)}"
        if row["low"] is not None:
            text += f" ({printed(metric, row['low'], sign)} to {printed(metric, row['high'], sign)})"
        cells.append(f"{text}.")
    what = "Difference of " if sign else ""
    return f"{what}{metric.title}{', per cent' if metric.scale == 100 else ''}, {better} is better. {' '.join(cells)}"


def _svg(
    name: str, height: float, draw: Callable[[Axes], None], label: str, left: float = 0.6, legend: int | None = None
) -> str:
    """Return a figure as inline SVG, with unique ids, and the text colour and font of the page.

    Args:
        name: unique among the figures of the page.
        height: of the axes, in inches.
        draw: draws in the axes.
        label: says what the figure shows.
        left: left edge of the axes, in inches.
        legend: number of entries in the legend; None for values to the right instead.
    """
    file = io.BytesIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has it
        bottom = 0.3 if legend is None else 0.55 + 0.19 * -(-legend // 2)
        whole = bottom + height + 0.1
        figure = Figure(figsize=(_WIDTH, whole))
        # Placed by hand: automatic layout takes most of the time.
        right = 0.15 if legend is not None else 0.18 * (_WIDTH - left)
        axes = figure.add_axes((left / _WIDTH, bottom / whole, 1 - (left + right) / _WIDTH, height / whole))
        draw(axes)
        if legend:
            figure.legend(loc="lower center", ncols=2)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", file.getvalue().decode()))
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]  # HTML needs no namespace inside <svg>
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            if key == "id" and value not in used:
                continue
            if key == "id":
                value = f"{name}-{value}"
            elif key.endswith("href"):
                key, value = "href", f"#{name}-{value[1:]}"
            elif key in ("d", "x", "y", "transform"):
                value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.1f}", value)
            value = value.replace("url(#", f"url(#{name}-").replace(_INK, "currentColor")
            element.set(key, re.sub(r"font-family:[^;]*;?\s*", "", value) if key == "style" else value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": _plain(label), "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")
