"""The report of a run: one self-contained HTML file, which needs no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex
from PIL import Image

from cam_extras._text import code_in
from cam_extras.metrics import METRICS, Metric
from cam_extras.report.figures import bars, best_of, curves, mean_curves, printed, scatter
from cam_extras.report.gallery import COLORMAP, PICTURE_FORMATS, against
from cam_extras.runs.config import is_by_label
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.store import Run, atomic_write

ERRORS_SHOWN = 100
_SCORES_SHOWN = 4  # under an overlay; the others are in a table
_PAIRS = (("average_drop", "average_gain"), ("deletion", "insertion"))
_CURVES = ("insertion", "deletion")


@dataclass(frozen=True)
class Plot:
    """A figure, as SVG markup, with its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class _Cell:
    value: float | None
    text: str
    interval: str
    best: bool
    images: int | None  # only if some have no such score


@dataclass(frozen=True)
class Summary:
    """The table of a summary.

    Attributes:
        metrics: its columns.
        rows: a method, and a cell for each metric.
        controls: the same for controls.
    """

    metrics: list[Metric]
    rows: list[tuple[str, list[_Cell]]]
    controls: list[tuple[str, list[_Cell]]]


@dataclass(frozen=True)
class _Picture:
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class _Overlay:
    method: str
    is_control: bool
    picture: _Picture | None
    scores: list[tuple[Metric, str]]  # the first are shown under it, all of them in a table


@dataclass(frozen=True)
class _Card:
    """An image of the gallery. `kind` is the index of its class in the list to choose from."""

    path: str
    groups: list[str]
    outcome: str
    kind: int
    facts: list[tuple[str, str]]
    image: _Picture
    overlays: list[_Overlay]


@dataclass(frozen=True)
class _Gallery:
    cards: list[_Card]
    kinds: list[str]
    by: Metric
    main: int  # number of scores under an overlay
    note: str


def write_report(run: Run) -> Path:
    """Write `report.html` in the folder of a run: the same run gives the same file.

    Returns:
        The file.

    Raises:
        ValueError: the folder does not hold a finished run.
        NoSpaceError: the disk is full.
    """
    summary, errors, controls = run.summary, run.errors, run.controls
    summary = controls_last(summary, controls)
    metrics = list(dict.fromkeys(row["metric"] for row in summary))
    methods = list(dict.fromkeys(row["method"] for row in summary))
    with results_of(run) as file:
        images = _images(file)
        plots = _mean_curves(file, methods, controls)
        gallery = _gallery(run, file, metrics)
    by_label = is_by_label(run.configuration.get("target"))  # no single prediction is right or wrong then
    page = render(
        "report.html.j2",
        title=title_of(run),
        configuration=run.configuration,
        scored=len(images),
        failed=len(errors),
        rows="pairs of image and label" if by_label else "images",
        labelled=0 if by_label else len(images) - images["label"].null_count,
        right=pc.sum(pc.equal(images["label"], images["predicted"])).as_py() or 0,
        summary=summary_of(summary, controls),
        bars=[
            Plot(bars(METRICS[name], _of_metric(summary, name), controls), caption_of(METRICS[name]))
            for name in metrics
        ],
        scatters=_scatters(summary, metrics, controls),
        curves=plots,
        gallery=gallery,
        colours=[to_hex(colour) for colour in matplotlib.colormaps[COLORMAP](np.linspace(0, 1, 9))],
        errors=errors.slice(0, ERRORS_SHOWN).to_pylist(),
        stages=pc.value_counts(errors["stage"]).to_pylist(),
        settings=(settings := _settings(run)),
        code=_code(settings),
        starts=run.starts,
    )
    path = run.folder / "report.html"
    write_page(path, page)
    return path


def render(template: str, **values: Any) -> str:
    """Fill in a template of the package; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("cam_extras.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.globals |= {"METRICS": METRICS, "printed": printed}
    return environment.get_template(template).render(values)


def write_page(path: Path, page: str) -> None:
    """Write a page completely or not at all; names that are not UTF-8 are escaped."""
    data = page.encode("utf-8", "backslashreplace")
    atomic_write(path, lambda file: file.write(data))


def results_of(run: Run) -> pq.ParquetFile:
    """Open the results of a run, to read only some columns: the maps may not fit in memory.

    Raises:
        ValueError: they cannot be read.
    """
    path = run.folder / "results.parquet"
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read ({error}): finish the run with mode="resume"') from error


def title_of(run: Run) -> str:
    """Return the title of a run: the names of model and layer."""
    name = run.configuration.get("model", {}).get("name", "model")
    return f"{name}, {layers_of(run)}" if "layer" in run.configuration else name


def layers_of(run: Run) -> str:
    """Name the layer of a run, or its layers and how their maps became one."""
    layer = run.configuration["layer"]
    if isinstance(layer, str):
        return f"layer {layer}"
    return f"layers {', '.join(layer)}; fusion: {run.configuration['fusion']}"


def controls_last(rows: Iterable[Mapping[str, Any]], controls: Collection[str]) -> list[Any]:
    """Return rows in order, but with those of controls last."""
    return sorted(rows, key=lambda row: row["method"] in controls)


def summary_of(rows: Sequence[Mapping[str, Any]], controls: Collection[str] = ()) -> Summary:
    """Make a table from the rows of a summary; controls are never marked best."""
    metrics = [METRICS[name] for name in dict.fromkeys(row["metric"] for row in rows)]
    cells: dict[str, list[_Cell]] = {row["method"]: [] for row in rows}
    for metric in metrics:
        of_metric = {row["method"]: row for row in rows if row["metric"] == metric.name}
        column = [of_metric.get(method, {}) for method in cells]
        competing = [
            None if method in controls else row.get("value") for method, row in zip(cells, column, strict=True)
        ]
        best = best_of(metric, competing)
        for of_method, row, is_best in zip(cells.values(), column, best, strict=True):
            value, low, high = (row.get(key) for key in ("value", "low", "high"))
            interval = "" if low is None else f"{printed(metric, low)} to {printed(metric, high)}"
            images = row["images"] if row.get("missing") else None
            of_method.append(_Cell(value, printed(metric, value), interval, is_best, images))
    methods, apart = ([item for item in cells.items() if (item[0] in controls) == wanted] for wanted in (False, True))
    return Summary(metrics, methods, apart)


def _images(file: pq.ParquetFile) -> pa.Table:
    """Return a row for each image: index, label and predicted class."""
    table = file.read(["index", "label", "predicted"])
    first = np.unique(table["index"].to_numpy(), return_index=True)[1]
    return table.take(first)


def _of_metric(rows: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["metric"] == name]


def caption_of(metric: Metric) -> str:
    """Return the caption of a figure: what its numbers mean."""
    return f"{metric.title} {metric.arrow}{' in per cent' if metric.scale == 100 else ''}: {metric.meaning}"


def _scatters(summary: Sequence[Mapping[str, Any]], metrics: Sequence[str], controls: Collection[str]) -> list[Plot]:
    return [
        Plot(
            scatter(METRICS[x], METRICS[y], _of_metric(summary, x), _of_metric(summary, y), controls),
            f"{METRICS[x].title} against {METRICS[y].title}, with 95 % intervals",
        )
        for x, y in _PAIRS
        if x in metrics and y in metrics
    ]


def _mean_curves(file: pq.ParquetFile, methods: Sequence[str], controls: Collection[str]) -> list[Plot]:
    plots = []
    for what in _CURVES:
        column = f"{what}_curve"
        found = mean_curves(file, column) if column in file.schema_arrow.names else {}
        if found:
            caption = f"{METRICS[what].title} curves: mean over images, band of its standard error"
            plots.append(Plot(curves(what, found, methods, controls), caption))
    return plots


def _gallery(run: Run, file: pq.ParquetFile, metrics: Sequence[str]) -> _Gallery | None:
    """Choose images as the run did when it drew them, and collect what is shown of each."""
    asked = run.configuration.get("pictures") or {}
    by = asked.get("metric", "")
    if not asked.get("count") or by not in file.schema_arrow.names:
        return None
    scores = file.read(["index", "method", by])
    scores = scores.filter(scores[by].is_valid())
    indices, of_rows, values_of_rows = (scores[name].to_pylist() for name in ("index", "method", by))
    values = image_values(indices, of_rows, values_of_rows, by, run.controls)
    groups = choose_images(values, asked["count"], run.configuration.get("seed", 0))
    chosen = list(dict.fromkeys(index for group in groups.values() for index in group))
    drawn = run.pictures()
    of_image: dict[int, list[dict[str, Any]]] = {index: [] for index in chosen if "" in drawn.get(index, {})}
    plain = [name for name in file.schema_arrow.names if not pa.types.is_nested(file.schema_arrow.field(name).type)]
    shown = [name for name in dict.fromkeys([by, *metrics]) if name in plain]
    wanted = ["index", "path", "method", "label", "target", "predicted", "probability", *shown]
    for row in _rows_of(file, list(of_image), wanted):
        of_image[row["index"]].append(row)
    categories = run.starts[-1].get("categories") or [] if run.starts else []
    by_label = is_by_label(run.configuration.get("target"))
    numbers = sorted({_kind(rows[0]) for rows in of_image.values()})
    cards = []
    for index, rows in of_image.items():
        first, pictures = rows[0], drawn[index]
        told = first["label"] is not None and not by_label
        label, target, predicted = (_class(first[key], categories) for key in ("label", "target", "predicted"))
        explained = f"{target}{against(run, categories)}"
        sign = 1 if METRICS[by].higher_is_better else -1
        card = _Card(
            path=first["path"],
            groups=[name for name, group in groups.items() if index in group],
            outcome="unknown" if not told else "right" if first["label"] == first["predicted"] else "wrong",
            kind=numbers.index(_kind(first)),
            facts=[
                ("Class", label or "unknown"),
                ("Predicted", str(predicted)),
                ("Explained", f"{explained}, probability {100 * first['probability']:.1f} %"),
                (f"{METRICS[by].short}, mean of methods", printed(METRICS[by], sign * values[index])),
            ],
            image=_picture(pictures[""]),
            overlays=[
                _Overlay(
                    row["method"],
                    row["method"] in run.controls,
                    _picture(pictures[row["method"]]) if row["method"] in pictures else None,
                    [(METRICS[name], printed(METRICS[name], row[name])) for name in shown],
                )
                for row in controls_last(rows, run.controls)
            ],
        )
        cards.append(card)
    missing = len(chosen) - len(cards)
    note = f"There is no picture of {missing} of the {len(chosen)} images chosen." if missing else ""
    kinds = [str(_class(number, categories)) for number in numbers]
    return _Gallery(cards, kinds, METRICS[by], min(_SCORES_SHOWN, len(shown)), note)


def _rows_of(file: pq.ParquetFile, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of some images."""
    wanted = pa.array(indices, pa.int64())
    rows: list[dict[str, Any]] = []
    for batch in file.iter_batches(columns=columns):
        rows += batch.filter(pc.is_in(batch.column("index"), wanted)).to_pylist()
    return rows


def _kind(row: Mapping[str, Any]) -> int:
    """Return the class number that an image is listed under: its label, or else its prediction."""
    kind: int = row["predicted"] if row["label"] is None else row["label"]
    return kind


def _class(number: int | None, categories: Sequence[str]) -> str | None:
    if number is None:
        return None
    return categories[number] if 0 <= number < len(categories) else f"class {number}"


def _picture(data: bytes) -> _Picture:
    with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
        kind = Image.MIME[image.format or "JPEG"]
        return _Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", *image.size)


def _settings(run: Run) -> str | None:
    """Return the text of the file to repeat the run with, if there is one."""
    try:
        return (run.folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _code(settings: str | None) -> dict[str, str]:
    """Return the settings in a file that run code; nothing if it is no longer a settings file."""
    try:
        read = yaml.safe_load(settings or "")
    except (yaml.YAMLError, RecursionError):
        return {}
    return code_in(read) if isinstance(read, Mapping) else {}
