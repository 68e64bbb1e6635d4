"""Iterations and learning rates of Opti-CAM: figure A5 of its paper.

    python examples/opti_cam_iterations.py [--data FOLDER] [--images 8] [--iterations 5 10 20 50 100] [--output DIR]

Besides learning rates of Adam (the paper's is 0.1) it tries the package's own recipe, `OptiCAM.FAST`. The class is the
label. The paper's AI is the increase in confidence. FOLDER is described in data.py; without it the images are the
demo's digits.
"""

import argparse
from pathlib import Path

import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from cam_extras.evaluation import Evaluator
from cam_extras.methods import OptiCAM
from cam_extras.metrics import METRICS
from cam_extras.report import summary_table

NAMES = ("average_drop", "average_gain", "increase_in_confidence")
RECIPES = {f"learning rate {rate}": {"learning_rate": rate} for rate in (0.05, 0.1, 0.5)} | {"fast": OptiCAM.FAST}

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--iterations", type=int, nargs="+", default=[5, 10, 20, 50, 100])
parser.add_argument("--output", type=Path, default=Path("opti_cam_iterations-output"))
options = parser.parse_args()

model, layer, x, labels, _ = load(options.data, options.images)
methods = {
    f"{name}, {iterations} iterations": OptiCAM(**{**recipe, "max_iterations": iterations})
    for name, recipe in RECIPES.items()
    for iterations in options.iterations
}
evaluator = Evaluator(model, layer, methods, NAMES)
batches = [*zip(x.split(4), labels.split(4), strict=True)]
parts = [evaluator(batch, target) for batch, target in track(batches, "Optimising")]
values = {
    name: {metric: torch.cat([part.scores[name][metric] for part in parts]).mean().item() for metric in NAMES}
    for name in methods
}
Console().print(summary_table(values, f"Opti-CAM on {len(x)} images"))

figure = Figure(figsize=(11, 3.7), layout="constrained")
for axis, metric in zip(figure.subplots(1, len(NAMES)), NAMES, strict=True):
    for name, colour, marker in zip(RECIPES, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D", strict=True):
        points = [100 * values[f"{name}, {iterations} iterations"][metric] for iterations in options.iterations]
        axis.plot(options.iterations, points, color=colour, marker=marker, label=name)
    axis.set(xlabel="iterations", ylabel=f"{METRICS[metric].title}, % {METRICS[metric].arrow}")
    axis.grid(alpha=0.2)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
options.output.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output / "iterations.png", dpi=90)
