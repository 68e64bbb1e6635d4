"""What metrics measure and how they are fooled, on the demo's digits: the figures of docs/choosing_metrics.md.

    python examples/choosing_metrics.py [--canvases 60] [--output DIR]

Prints the page's tables and writes `choosing_metrics.png`, `choosing_masks.png` and `choosing_curves.png`. Less than a
minute on one core.
"""

import argparse
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cam_extras.demo.canvases import Canvases, make_canvases
from cam_extras.demo.classifier import LAYER, SCALE, load_classifier, prepare
from cam_extras.evaluation import Evaluation, Evaluator
from cam_extras.maps import mask
from cam_extras.methods import METHODS, ChannelMethod, GradCAM, HiResCAM, Method, MIGradCAM, OptiCAM, ShapleyCAM
from cam_extras.metrics import METRICS, Schedule, average_drop, win_percentage
from cam_extras.probe import Probe
from cam_extras.runs.summary import summarise
from cam_extras.utilities import select_class

TEN = ["average_drop", "increase_in_confidence", "average_gain", "drop_in_deletion", "coherency", "complexity", "adcc"]
TEN += ["thresholded_drop", "thresholded_increase", "hci"]
CURVES = ["insertion", "deletion", "insertion_deletion"]
PLACES = ["pointing_game", "energy_pointing_game", "pixel_f1", "localisation_error"]
STEPS = Schedule(step=0.1, insert_into="zeros", delete_to="zeros")
COLOURS = ["#0072B2", "#009E73", "#D55E00", "#CC79A7", "#000000", "#E69F00", "#56B4E9"]  # Okabe and Ito's
MARKERS = ["o", "s", "^", "v", "X", "P", "D"]


@dataclass(frozen=True, kw_only=True)
class Picture(Method):
    """A control: the image itself as the map. It knows neither the model nor the class."""

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "none"

    def __call__(self, probe: Probe) -> Tensor:
        """Return the brightness, shape (N, 1, H, W)."""
        return probe.x.abs().sum(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Coarse(Method):
    """Grad-CAM's map in fewer cells."""

    paper: ClassVar[str] = "none"
    cells: int

    def __call__(self, probe: Probe) -> Tensor:
        """Return the means of contributions over squares, shape (N, C, cells, cells)."""
        return F.adaptive_avg_pool2d(GradCAM()(probe), self.cells)


@dataclass(frozen=True, kw_only=True)
class Noise(ChannelMethod):
    """A control: channel weights that are new for every image, however alike."""

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "none"

    def weights(self, probe: Probe) -> Tensor:
        """Return w, shape (N, C)."""
        draws = []
        for image in probe.x:
            generator = torch.Generator().manual_seed(zlib.crc32(image.numpy().tobytes()))
            draws.append(torch.rand(probe.activations.shape[1], generator=generator) - 0.5)
        return torch.stack(draws)


class Cheat(nn.Module):
    """A classifier that never looks at the digit: it reads a tag in the lowest rows, one column of pixels a class."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.AvgPool2d(4)  # (N, 1, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the ten digits."""
        return 4 * self.cells(x)[:, 0, -1, 3:13]


def tagged(canvases: Canvases) -> Tensor:
    """Canvases with a dark strip at the bottom and a bright tag in it, which tells the class."""
    images = canvases.images.clone()
    images[:, :, -4:] = 0
    for image, label in zip(images, canvases.labels.tolist(), strict=True):
        image[:, -4:, 4 * (3 + label) : 4 * (4 + label)] = 1
    return images


def table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def of_set(result: Evaluation, metrics: Sequence[str]) -> dict[str, list[str]]:
    """The values of the set in per cent."""
    values = result.of_set()
    return {name: [f"{100 * values[name][metric]:.1f}" for metric in metrics] for name in values}


def short(metrics: Sequence[str]) -> list[str]:
    """Names of columns with the direction."""
    return [f"{METRICS[name].short} {METRICS[name].arrow}" for name in metrics]


@torch.no_grad()
def confidence(model: nn.Module, x: Tensor, target: Tensor, factor: float = 1) -> Tensor:
    """Probability of the class, (N,), in float64, with the logits multiplied by a factor."""
    return select_class((factor * model(x)).double().softmax(dim=1), target)


def columns_of(result: Evaluation, metrics: Sequence[str]) -> dict[str, list]:
    """A result as the columns that `summarise` reads."""
    columns: dict[str, list] = {"index": [], "method": []} | {name: [] for name in metrics}
    for method, scores in result.scores.items():
        count = len(scores[metrics[0]])
        columns["index"] += range(count)
        columns["method"] += [method] * count
        for name in metrics:
            columns[name] += scores[name].tolist()
    return columns


def save(figure: plt.Figure, path: Path, colours: int, dpi: int = 100) -> None:
    """Save as a PNG of few colours, which is small."""
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}")


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--canvases", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("choosing_metrics-output"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = load_classifier()
    layer = model.get_submodule(LAYER)
    canvases = make_canvases(options.canvases, "test", seed=40)
    x, boxes = prepare(canvases.images), list(canvases.boxes[:, None])
    methods: dict[str, Method] = {
        "`GradCAM`": GradCAM(),
        "`ShapleyCAM`": ShapleyCAM(),
        "`OptiCAM`": OptiCAM(**OptiCAM.FAST),
        "`RandomCAM`": METHODS["RandomCAM"](),
        "`FakeCAM`": METHODS["FakeCAM"](),
        "the image itself": Picture(),
    }

    print("## All metrics, per cent")
    metrics = [*TEN, *CURVES, *PLACES]
    result = Evaluator(model, layer, methods, metrics, {"schedule": STEPS})(x, boxes=boxes)
    drops = torch.stack([scores["average_drop"] for scores in result.scores.values()])
    wins = dict(zip(methods, win_percentage(drops).mean(dim=1).tolist(), strict=True))  # controls compete here
    for group in (TEN, CURVES + PLACES):
        table(short(group), of_set(result, group))
    print("\nwins (least average drop), per cent:", {name: f"{100 * share:.0f}" for name, share in wins.items()})
    draw_metrics(result, metrics, options.output / "choosing_metrics.png")

    print("\n## What stands where the map is 0: average drop, per cent")
    fills = {"0, black": 0.0, "the mean grey": x.mean().item(), "white": 1 / SCALE}
    rows = {}
    for name, maps in result.maps.items():
        drops = [
            average_drop(result.confidence, confidence(model, mask(x, maps, fill), result.predicted))
            for fill in fills.values()
        ]
        rows[name] = [f"{100 * drop.mean():.1f}" for drop in drops]
    table(list(fills), rows)
    draw_masks(model, canvases, x, result, fills, options.output / "choosing_masks.png")

    print("\n## Average drop and average gain, by confidence in the whole image, per cent")
    sure = result.confidence > 0.99
    rows = {}
    for name, scores in result.scores.items():
        rows[name] = [
            f"{100 * scores[metric][group].mean():.1f}"
            for metric in ("average_drop", "average_gain")
            for group in (sure, ~sure)
        ]
    print(f"p > 0.99 on {int(sure.sum())} of {len(x)} canvases")
    table(["AD, p > 0.99", "AD, others", "AG, p > 0.99", "AG, others"], rows)

    print("\n## The same maps, the logits multiplied: average drop, per cent")
    rows = {name: [] for name in ("`GradCAM`", "`OptiCAM`", "`FakeCAM`", "the image itself")}
    factors = (0.3, 1.0, 3.0)
    for factor in factors:
        p = confidence(model, x, result.predicted, factor)
        for name, cells in rows.items():
            o = confidence(model, mask(x, result.maps[name]), result.predicted, factor)
            cells.append(f"{100 * average_drop(p, o).mean():.1f}")
    table([f"x {factor:g}" for factor in factors], rows)

    print("\n## Resolution of the map, per cent")
    rows, curves = {}, {}
    some, some_boxes = x[:30], boxes[:30]
    ways: dict[str, tuple[str, Method]] = {
        f"Grad-CAM of `block4` in {cells} x {cells} cells": (LAYER, Coarse(cells=cells)) for cells in (2, 4, 8)
    }
    ways |= {
        f"HiResCAM of `block{n}`, {64 // 2 ** (n - 1)} cells a side": (f"features.block{n}", HiResCAM())
        for n in (4, 3, 2, 1)
    }
    ways["the image itself, 64 x 64"] = (LAYER, Picture())
    ways["`FakeCAM`"] = (LAYER, METHODS["FakeCAM"]())
    for name, (of_layer, method) in ways.items():
        found = Evaluator(
            model, model.get_submodule(of_layer), {name: method},
            [*CURVES, "average_drop", "adcc", "energy_pointing_game"], {"schedule": STEPS},
        )(some, boxes=some_boxes)  # fmt: skip
        rows |= of_set(found, [*CURVES, "average_drop", "adcc", "energy_pointing_game"])
        curves[name] = found.curves[name]
    table(short([*CURVES, "average_drop", "adcc", "energy_pointing_game"]), rows)
    draw_curves(result, curves, options.output / "choosing_curves.png")

    print("\n## A classifier that reads a tag: where the object is, is not where the evidence is, per cent")
    cheat, with_tags = Cheat(), prepare(tagged(canvases))
    pair = {"`HiResCAM`, shows the tag": HiResCAM(), "`GradCAM`, shows what is bright": GradCAM()}
    chosen = ["average_drop", "drop_in_deletion", "insertion", "deletion", "pointing_game", "energy_pointing_game"]
    found = Evaluator(cheat, cheat.cells, pair, chosen, {"schedule": STEPS})(with_tags, boxes=boxes)
    right = (found.predicted == canvases.labels).double().mean()
    print(f"right on {right:.0%} of the canvases, mean confidence {found.confidence.mean():.2f}")
    table(short(chosen), of_set(found, chosen))

    print("\n## Counterfactual sensitivity")
    weighing = {"`GradCAM`": GradCAM(), "`MIGradCAM`": MIGradCAM(), "weights that are noise": Noise()}
    found = Evaluator(model, layer, weighing, ["counterfactual_sensitivity"])(x)
    table(["S"], {n: [f"{scores['counterfactual_sensitivity'].mean():.2f}"] for n, scores in found.scores.items()})

    print("\n## The value of a set, per cent: of the means of its parts, and the mean of the values")
    rows = {}
    for name, scores in result.scores.items():
        cells = []
        for metric in ("adcc", "hci"):
            cells += [f"{100 * METRICS[metric].of_set(scores):.1f}", f"{100 * scores[metric].mean():.1f}"]
        rows[name] = cells
    table(["ADCC of means", "mean ADCC", "HCI of means", "mean HCI"], rows)

    print("\n## Intervals")
    two = ["`GradCAM`", "`ShapleyCAM`"]
    for row in summarise(columns_of(result, TEN), ["average_drop", "adcc"]):
        if row["method"] in two and row["metric"] != "win_percentage":
            print(f"{row['method']} {row['metric']} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    a, b = (result.scores[name]["average_drop"].numpy() for name in two)
    drawn = np.random.default_rng(0).integers(0, len(a), (1000, len(a)))
    low, high = np.quantile((b - a)[drawn].mean(axis=1), [0.025, 0.975])
    print(f"average drop, {two[1]} - {two[0]}, paired: {np.mean(b - a):.3f} ({low:.3f} to {high:.3f})")


def draw_metrics(result: Evaluation, metrics: Sequence[str], path: Path) -> None:
    """Draw every metric so that right is better: which of them put a control in front?"""
    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    values = result.of_set()
    chosen = [name for name in metrics if METRICS[name].range[0] == 0]
    for number, (name, scores) in enumerate(values.items()):
        better = [scores[metric] if METRICS[metric].higher_is_better else 1 - scores[metric] for metric in chosen]
        control = name in result.controls
        axes.plot(
            better, range(len(chosen)), MARKERS[number], color=COLOURS[number], ms=7, alpha=0.85,
            mfc=COLOURS[number] if control else "none", mew=1.8, label=name.strip("`") + control * ", a control",
        )  # fmt: skip
    labels = [
        METRICS[name].title if METRICS[name].higher_is_better else f"1 - {METRICS[name].title}" for name in chosen
    ]
    axes.set_yticks(range(len(chosen)), labels)
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("value of the set (right is better)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.13), ncols=3, fontsize=9, frameon=False)
    save(figure, path, colours=256)


def draw_masks(
    model: nn.Module, canvases: Canvases, x: Tensor, result: Evaluation, fills: Mapping[str, float], path: Path
) -> None:
    """Draw what a metric of confidence hands to the model: the map, and the image masked with it, for three fills."""
    p = result.confidence
    case = int((p - p.median()).abs().argmin())
    target = result.predicted[case : case + 1]
    figure, grid = plt.subplots(4, len(result.maps), figsize=(1.45 * len(result.maps), 6.5), layout="constrained")
    for column, (name, maps) in enumerate(result.maps.items()):
        grid[0, column].imshow(canvases.images[case, 0].numpy(), cmap="gray")
        grid[0, column].imshow(maps[case].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.75)
        grid[0, column].set_title(name.strip("`"), fontsize=9)
        for row, (fill_name, fill) in enumerate(fills.items(), start=1):
            shown = mask(x[case : case + 1], maps[case : case + 1], fill)
            o = confidence(model, shown, target).item()
            grid[row, column].imshow((shown[0, 0] * SCALE).numpy(), cmap="gray", vmin=0, vmax=1)
            grid[row, column].set_xlabel(f"o = {o:.2f}", fontsize=9)
            grid[row, 0].set_ylabel(f"fill: {fill_name}", fontsize=9)
    grid[0, 0].set_ylabel(f"map; p = {p[case]:.2f}", fontsize=9)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    save(figure, path, colours=64)


def draw_curves(result: Evaluation, curves: Mapping[str, Mapping], path: Path) -> None:
    """Draw confidence before and after masking, and insertion curves of one method in several resolutions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for number, name in enumerate(("`GradCAM`", "`OptiCAM`", "`FakeCAM`")):
        o = result.confidence * (1 - result.scores[name]["average_drop"])
        gain = result.scores[name]["average_gain"] * (1 - result.confidence)
        left.plot(
            result.confidence, o + gain, MARKERS[number], color=COLOURS[2 * number], ms=5, alpha=0.7, mfc="none",
            label=name.strip("`"),
        )  # fmt: skip
    left.plot([0, 1], [0, 1], color="grey", lw=1)
    left.text(0.74, 0.45, "average drop counts\nthose below the line", fontsize=8, color="dimgrey")
    left.text(0.7, 0.88, "average gain counts\nthose above", fontsize=8, color="dimgrey")
    left.set_xlim(min(0.6, result.confidence.min().item()), 1.02)
    left.set_xlabel("p, confidence in the image")
    left.set_ylabel("o, confidence in what the map shows")
    left.legend(fontsize=8, loc="lower left")
    shown = [name for name in curves if "2 x 2" in name or "8 x 8" in name or "block2" in name or "image" in name]
    for number, name in enumerate([*shown, "`FakeCAM`"]):
        curve = curves[name]["insertion_curve"]
        right.plot(
            curve.fractions, curve.scores.mean(dim=0), marker=MARKERS[number], ms=4, color=COLOURS[number],
            label=name.replace("`", ""),
        )  # fmt: skip
    right.set_xlabel("share of the pixels inserted")
    right.set_ylabel("mean confidence")
    right.legend(fontsize=8, loc="lower right")
    save(figure, path, colours=256)


if __name__ == "__main__":
    main()
