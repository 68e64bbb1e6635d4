"""Sanity check by cascading randomisation: figure 7 of MI-Grad-CAM's paper, figures A6 and A7 of Opti-CAM's.

    python examples/cascading_randomisation.py [--data FOLDER] [--images 8] [--methods NAME ...] [--bottom-up]
        [--output DIR]

The weights of a copy of the model are randomised block by block, from the classifier down. A map that explains the
model changes; one that shows edges or nothing does not. The script prints and draws the mean similarity to the maps of
the trained model for the same class, as SSIM and as rank correlation; the latter leaves out constant maps. FOLDER is
described in data.py; without it the images are the demo's digits.
"""

import argparse
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from cam_extras.evaluation import Evaluator
from cam_extras.maps import normalise
from cam_extras.methods import METHODS
from cam_extras.probe import find_layer
from cam_extras.report import overlay

COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "os^DvP"

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--methods", nargs="+", default=["GradCAM", "MIGradCAM", "ShapleyCAM", "ShapleyCAME", "FakeCAM"])
parser.add_argument("--bottom-up", action="store_true", help="start with the block next to the image")
parser.add_argument("--output", type=Path, default=Path("cascading_randomisation-output"))
options = parser.parse_args()

trained, layer, x, _, _ = load(options.data, options.images)
layer_name = next(name for name, module in trained.named_modules() if module is layer)
blocks = [f"features.{name}" for name, block in trained.features.named_children() if [*block.parameters()]]
blocks = [*blocks, "classifier"][:: 1 if options.bottom_up else -1]
methods = {name: METHODS[name]() for name in options.methods}
model, maps = deepcopy(trained), {}
batches = x.split(8)
targets = [None] * len(batches)  # the classes predicted by the trained model, once it has been explained
with torch.random.fork_rng():
    torch.manual_seed(0)
    for step in track(["trained", *blocks], "Randomising"):
        for module in model.get_submodule(step).modules() if maps else ():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):  # by PyTorch's default a deep model fades out
                torch.nn.init.kaiming_normal_(module.weight)
        evaluator = Evaluator(model, find_layer(model, layer_name), methods, metrics=[])
        parts = [evaluator(batch, target) for batch, target in zip(batches, targets, strict=True)]
        targets = [part.target for part in parts]
        maps[step] = {name: torch.cat([part.maps[name] for part in parts]).numpy() for name in methods}

likeness = {"SSIM": {}, "rank correlation": {}}  # of every method, step by step
for name in methods:
    pairs = [[*zip(maps["trained"][name], found[name], strict=True)] for found in maps.values()]
    likeness["SSIM"][name] = [np.mean([structural_similarity(a, b, data_range=1) for a, b in step]) for step in pairs]
    varied = [[(a, b) for a, b in step if np.ptp(a) and np.ptp(b)] for step in pairs]
    ranks = [[spearmanr(a.ravel(), b.ravel()).statistic for a, b in step] for step in varied]
    likeness["rank correlation"][name] = [np.mean(step) if step else np.nan for step in ranks]

options.output.mkdir(parents=True, exist_ok=True)
figure = Figure(figsize=(11, 5), layout="constrained")
for axis, (what, lines) in zip(figure.subplots(1, 2), likeness.items(), strict=True):
    table = Table("randomised", *methods, title=f"{what} with the maps of the trained model, {len(x)} images")
    for step, row in zip(maps, zip(*lines.values(), strict=True), strict=True):
        table.add_row(step, *(f"{value:.2f}" for value in row))
    Console().print(table)
    for number, (name, line) in enumerate(lines.items()):
        axis.plot(line, color=COLOURS[number % 6], marker=MARKERS[number % 6], markersize=4, label=name)
    axis.set(title=f"{what} with the trained model's maps", xlabel="drawn anew: this block and those to its left")
    axis.set_xticks(range(len(maps)), maps, rotation=60, ha="right", fontsize=7)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods), fontsize=8)
figure.savefig(options.output / "likeness.png", dpi=90)

shown = [[*maps][round(place)] for place in np.linspace(0, len(blocks), 7)]
figure = Figure(figsize=(1.5 * len(shown), 1.6 * len(methods)), layout="constrained")
for cells, name in zip(figure.subplots(len(methods), len(shown), squeeze=False), methods, strict=True):
    for axis, step in zip(cells, shown, strict=True):
        axis.imshow(overlay(normalise(x)[0], torch.from_numpy(maps[step][name][0])))
        axis.set(xticks=[], yticks=[])
        axis.set_title(step, fontsize=8)
    cells[0].set_ylabel(name, fontsize=8)
figure.savefig(options.output / "maps.png", dpi=70)
