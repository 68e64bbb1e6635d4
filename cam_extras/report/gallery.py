"""Gallery: every image with one overlay per method."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from cam_extras.metrics import METRICS
from cam_extras.runs.store import Run

COLORMAP = "inferno"  # perceptually uniform, readable by colour-blind people
CELL, CAPTION, HEADING = 1.6, 0.36, 0.3  # inches
ROWS = 25  # per page
PICTURE_FORMATS = ("JPEG", "PNG")  # of pictures in a run, which may come from an untrusted source


@dataclass(frozen=True)
class Picture:
    """An image as shown, with its explanations.

    Attributes:
        title: what is explained.
        image: shape (H, W, 3).
        overlays: by method, shape (H, W, 3).
        captions: by method.
        box: xmin, ymin, xmax, ymax in pixels.
        controls: which methods are controls.
    """

    title: str
    image: np.ndarray
    overlays: Mapping[str, np.ndarray]
    captions: Mapping[str, str]
    box: Sequence[int] | None = None
    controls: Collection[str] = ()


def pictures_of(
    run: Run, shown: Sequence[str] = ("average_drop", "adcc"), boxes: Mapping[int, Sequence[int]] | None = None
) -> list[Picture]:
    """Return the pictures that a run drew.

    Args:
        run: the run.
        shown: the metrics under each overlay, in per cent if they have an upper bound; without those not evaluated.
        boxes: where the object is, by image index.
    """
    drawn = run.pictures()
    shown = [name for name in shown if name in run.results.column_names and METRICS[name].vector is None]
    rows = run.results.select(["index", "method", "label", "target", "predicted", "probability", *shown]).to_pylist()
    of_image: dict[int, list[dict[str, Any]]] = {index: [] for index in sorted(drawn)}
    for row in rows:
        if row["index"] in drawn:
            of_image[row["index"]].append(row)
    for found in of_image.values():
        found.sort(key=lambda row: row["method"] in run.controls)
    categories = run.starts[-1].get("categories", [])
    compared = against(run, categories)
    return [
        Picture(
            title=_title(found[0], categories, compared),
            image=_decoded(drawn[index][""]),
            overlays={row["method"]: _decoded(drawn[index][row["method"]]) for row in found},
            captions={
                row["method"]: "  ".join(
                    f"{METRICS[name].short} {METRICS[name].scale * row[name]:.0f}"
                    for name in shown
                    if row[name] is not None
                )
                for row in found
            },
            box=(boxes or {}).get(index),
            controls=run.controls,
        )
        for index, found in of_image.items()
    ]


def against(run: Run, categories: Sequence[str]) -> str:
    """Say what the explained class was compared with, if with anything."""
    given = run.configuration.get("against")
    if given is None:
        return ""
    if isinstance(given, int):
        return f" against {categories[given] if given < len(categories) else f'class {given}'}"
    return f" against the {'second best' if given == 'second' else given}"


def _title(row: Mapping[str, Any], categories: Sequence[str], compared: str = "") -> str:
    label, target, predicted = (
        None if number is None else categories[number] if number < len(categories) else f"class {number}"
        for number in (row["label"], row["target"], row["predicted"])
    )
    explained = f"{target}{compared} ({row['probability']:.0%})"
    if target != predicted:
        return f"{explained}, seen as {predicted}"
    return explained if label in (None, target) else f"{label}, seen as {explained}"


def _decoded(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture), formats=PICTURE_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def gallery_pages(path: Path, count: int) -> list[Path]:
    """Return the files that `save_gallery` writes for `count` pictures."""
    return [path if not page else path.with_stem(f"{path.stem}-{page + 1}") for page in range(-(-count // ROWS))]


def save_gallery(path: Path, pictures: Sequence[Picture]) -> list[Path]:
    """Draw images as rows and methods as columns: the image with its box, then the overlays, with captions below.

    Controls are the last columns, and are labelled.

    Args:
        path: the PNG to write. Each file holds 25 images; further files end in -2, -3, ...
        pictures: all with the same methods.

    Returns:
        The files written.
    """
    pages = gallery_pages(path, len(pictures))
    for number, page in enumerate(pages):
        _draw(pictures[number * ROWS : (number + 1) * ROWS]).savefig(page, dpi=110)
    return pages


def _draw(pictures: Sequence[Picture]) -> Figure:
    methods = list(pictures[0].overlays)
    width, height = (len(methods) + 1) * CELL, len(pictures) * (CELL + CAPTION) + HEADING
    figure = Figure(figsize=(width, height))
    # Placed by hand: a constrained layout takes seconds for a hundred pictures.
    grid = figure.add_gridspec(
        len(pictures),
        len(methods) + 1,
        left=0.05 / width,
        right=1 - 0.05 / width,
        top=1 - HEADING / height,
        bottom=CAPTION / height,
        wspace=0.06,
        hspace=CAPTION / CELL + 0.02,
    )
    axes = grid.subplots(squeeze=False)
    for cells, picture in zip(axes, pictures, strict=True):
        _show(cells[0], picture.image, "\n".join(wrap(picture.title, 26, max_lines=2, placeholder=" …")))
        if picture.box is not None:
            left, top, right, bottom = picture.box
            cells[0].add_patch(
                Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="tab:cyan", lw=1.5)
            )
        for axis, method in zip(cells[1:], methods, strict=True):
            _show(axis, picture.overlays[method], picture.captions[method])
    headings = [f"{method} (control)" if method in pictures[0].controls else method for method in methods]
    for axis, heading in zip(axes[0], ("image", *headings), strict=True):
        axis.set_title(heading, fontsize=9, parse_math=False)
    return figure


def overlay(pixels: Tensor, heat: Tensor) -> np.ndarray:
    """Blend a map (H, W) over a grey version of an image (C, H, W): shape (H, W, 3), in [0, 1]."""
    grey = _rgb(pixels).mean(axis=2, keepdims=True)
    colours = matplotlib.colormaps[COLORMAP](heat.float().cpu().numpy())[..., :3]
    blended: np.ndarray = 0.4 * grey + 0.6 * colours
    return blended


def _rgb(pixels: Tensor) -> np.ndarray:
    image = pixels.float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _show(axis: Axes, image: np.ndarray, caption: str) -> None:
    axis.imshow(image)
    axis.set_xlabel(caption, fontsize=8, parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
