"""Gallery: every image with one overlay a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cam_extras.evaluation import Evaluation
from cam_extras.metrics import METRICS

COLORMAP = "inferno"  # perceptually uniform, readable by colour-blind people
CELL, CAPTION, HEADING = 1.6, 0.36, 0.3  # inches
ROWS = 25  # of a page


@dataclass(frozen=True)
class Picture:
    """An image as a person sees it.

    Attributes:
        name: what to call it.
        pixels: shape (C, H, W) with one or three channels, in [0, 1].
        title: what is explained.
        box: xmin, ymin, xmax, ymax in pixels.
    """

    name: str
    pixels: Tensor
    title: str
    box: tuple[int, int, int, int] | None = None


def save_gallery(
    path: Path, pictures: Sequence[Picture], evaluation: Evaluation, shown: Sequence[str] = ("average_drop", "adcc")
) -> list[Path]:
    """Draw images as rows and methods as columns: the image with its box, overlays, and scores under each.

    Args:
        path: the PNG to write. Every 25 images fill one; the next ones have -2, -3, ... at the end of their names.
        pictures: one for each sample of the evaluation.
        evaluation: maps and scores.
        shown: the metrics under each overlay, in per cent where they have a greatest value; those that were not
            evaluated are left out.

    Returns:
        What was written.
    """
    pages: list[Path] = []
    for first in range(0, len(pictures), ROWS):
        page = path if not pages else path.with_stem(f"{path.stem}-{len(pages) + 1}")
        _draw(range(first, min(first + ROWS, len(pictures))), pictures, evaluation, shown).savefig(page, dpi=110)
        pages.append(page)
    return pages


def _draw(rows: range, pictures: Sequence[Picture], evaluation: Evaluation, shown: Sequence[str]) -> Figure:
    methods = list(evaluation.maps)
    width, height = (len(methods) + 1) * CELL, len(rows) * (CELL + CAPTION) + HEADING
    figure = Figure(figsize=(width, height))
    # Placed by hand: a constrained layout takes seconds for a hundred pictures.
    grid = figure.add_gridspec(
        len(rows),
        len(methods) + 1,
        left=0.05 / width,
        right=1 - 0.05 / width,
        top=1 - HEADING / height,
        bottom=CAPTION / height,
        wspace=0.06,
        hspace=CAPTION / CELL + 0.02,
    )
    axes = grid.subplots(squeeze=False)
    for cells, row in zip(axes, rows, strict=True):
        picture = pictures[row]
        _show(cells[0], _rgb(picture.pixels), "\n".join(wrap(picture.title, 26, max_lines=2, placeholder=" …")))
        if picture.box is not None:
            left, top, right, bottom = picture.box
            cells[0].add_patch(
                Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="tab:cyan", lw=1.5)
            )
        for axis, method in zip(cells[1:], methods, strict=True):
            scores = evaluation.scores[method]
            text = [
                f"{METRICS[name].short} {METRICS[name].scale * scores[name][row]:.0f}"
                for name in shown
                if name in scores
            ]
            _show(axis, overlay(picture.pixels, evaluation.maps[method][row]), "  ".join(text))
    for axis, heading in zip(axes[0], ("image", *methods), strict=True):
        axis.set_title(heading, fontsize=9)
    return figure


def overlay(pixels: Tensor, heat: Tensor) -> np.ndarray:
    """Blend a map (H, W) over a grey version of an image (C, H, W): shape (H, W, 3), in [0, 1]."""
    grey = _rgb(pixels).mean(axis=2, keepdims=True)
    colours = matplotlib.colormaps[COLORMAP](heat.float().cpu().numpy())[..., :3]
    return 0.4 * grey + 0.6 * colours


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
