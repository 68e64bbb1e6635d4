"""Gallery: every image with one overlay a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cam_extras.evaluation import Evaluation
from cam_extras.metrics import METRICS

COLORMAP = "inferno"  # perceptually uniform, readable by colour-blind people
CELL = 1.6  # inches


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
) -> None:
    """Draw images as rows and methods as columns: the image with its box, overlays, and scores under each.

    Args:
        path: the PNG to write.
        pictures: one for each sample of the evaluation.
        evaluation: maps and scores.
        shown: the metrics under each overlay; those that were not evaluated are left out.
    """
    methods = list(evaluation.maps)
    rows, columns = len(pictures), len(methods) + 1
    figure = Figure(figsize=(columns * CELL, rows * (CELL + 0.35) + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, picture in enumerate(pictures):
        original = axes[row][0]
        _show(original, _rgb(picture.pixels))
        original.set_xlabel(picture.title, fontsize=8)
        if picture.box is not None:
            left, top, right, bottom = picture.box
            original.add_patch(
                Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="tab:cyan", lw=1.5)
            )
        for axis, method in zip(axes[row][1:], methods, strict=True):
            _show(axis, overlay(picture.pixels, evaluation.maps[method][row]))
            scores = evaluation.scores[method]
            text = [f"{METRICS[name].short} {scores[name][row]:.2f}" for name in shown if name in scores]
            axis.set_xlabel("  ".join(text), fontsize=8)
            if row == 0:
                axis.set_title(method, fontsize=9)
    axes[0][0].set_title("image", fontsize=9)
    figure.savefig(path, dpi=110)


def overlay(pixels: Tensor, heat: Tensor) -> np.ndarray:
    """Blend a map (H, W) over a grey version of an image (C, H, W): shape (H, W, 3), in [0, 1]."""
    grey = _rgb(pixels).mean(axis=2, keepdims=True)
    colours = matplotlib.colormaps[COLORMAP](heat.float().cpu().numpy())[..., :3]
    return 0.4 * grey + 0.6 * colours


def _rgb(pixels: Tensor) -> np.ndarray:
    image = pixels.float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _show(axis: matplotlib.axes.Axes, image: np.ndarray) -> None:
    axis.imshow(image)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
