"""Counterfactual plots, with and without mutual information: figures 6 and 11 of MI-Grad-CAM's paper.

    python examples/counterfactual_sensitivity.py [--data FOLDER] [--images 8] [--layer NAME] [--output DIR]

The script adds 0.1 to half of the pixels. The picture shows the channel weights of three images before and after; the
table has the relative change S = ||w - w'|| / ||w|| over all channels and over the ten most important. Grad-CAM's
weights are MI-Grad-CAM's without mutual information. FOLDER is described in data.py; without it the images are the
demo's digits.
"""

import argparse
from pathlib import Path

import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cam_extras.evaluation import Evaluator
from cam_extras.methods import GradCAM, MIGradCAM
from cam_extras.metrics import counterfactual_sensitivity
from cam_extras.probe import find_layer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--layer", metavar="NAME", help="dotted name; by default the last one, or the digits' last but one")
parser.add_argument("--output", type=Path, default=Path("counterfactual_sensitivity-output"))
options = parser.parse_args()

model, layer, x, _, _ = load(options.data, options.images)
layer = find_layer(model, options.layer) if options.layer else layer
methods = {"without: Grad-CAM": GradCAM(), "with: MI-Grad-CAM": MIGradCAM()}
evaluator = Evaluator(model, layer, methods, ["counterfactual_sensitivity"])
parts = [evaluator(batch) for batch in track(x.split(8), "Explaining")]

headings = ("mutual information", "all channels", "the ten most important")
table = Table(*headings, title=f"counterfactual sensitivity of {len(x)} images, mean (standard deviation)")
figure = Figure(figsize=(11, 6.5), layout="constrained")
cells = figure.subplots(min(3, len(x)), len(methods), squeeze=False)
for name, column in zip(methods, cells.T, strict=True):
    before, after = (
        torch.cat([part.weights[name][key] for part in parts]) for key in ("weights", "counterfactual_weights")
    )
    every = counterfactual_sensitivity(before, after)
    ten = counterfactual_sensitivity(before, after, most_important=10)
    table.add_row(name, *(f"{s.mean():.3f} ({s.std(unbiased=False):.3f})" for s in (every, ten)))
    for number, axis in enumerate(column):
        greatest = before[number].abs().max()
        axis.plot(before[number] / greatest, color="#0072B2", linewidth=0.9, label="image")
        axis.plot(after[number] / greatest, color="#D55E00", linewidth=0.9, linestyle="--", label="counterfactual")
        axis.set_title(f"{name}, image {number + 1}: S = {every[number]:.2f}", fontsize=9)
        axis.set_ylabel("weight / greatest", fontsize=8)
    column[-1].set_xlabel("channel")
cells[0, 0].legend(fontsize=8)
options.output.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output / "weights.png", dpi=100)
Console().print(table)
