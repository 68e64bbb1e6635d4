"""Selectivity, maps raised to an exponent: figure A4 of Opti-CAM's paper.

    python examples/selectivity.py [--data FOLDER] [--images 8] [--iterations 50] [--output DIR]

A small exponent spreads a map over the image, a large one leaves only its peaks. The class is the label. The paper's AI
is the increase in confidence. FOLDER is described in data.py; without it the images are the demo's digits.
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
from cam_extras.maps import mask
from cam_extras.methods import GradCAM, MIGradCAM, OptiCAM, ShapleyCAM
from cam_extras.metrics import METRICS, selectivity
from cam_extras.utilities import Softmax

NAMES = ("average_drop", "average_gain", "increase_in_confidence")
EXPONENTS = (0.01, 0.05, 0.1, 0.5, 1, 1.5, 2, 3, 5, 10)

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--iterations", type=int, default=50, help="of Opti-CAM")
parser.add_argument("--output", type=Path, default=Path("selectivity-output"))
options = parser.parse_args()

model, layer, x, labels, _ = load(options.data, options.images)
opti_cam = OptiCAM(max_iterations=options.iterations)
methods = {"Grad-CAM": GradCAM(), "MI-Grad-CAM": MIGradCAM(), "ShapleyCAM": ShapleyCAM(), "Opti-CAM": opti_cam}
evaluator = Evaluator(model, layer, methods, metrics=[])
values = {(method, metric): [[] for _ in EXPONENTS] for method in methods for metric in NAMES}
for batch, target in track([*zip(x.split(8), labels.split(8), strict=True)], "Explaining"):
    explained = evaluator(batch, target)
    for method, maps in explained.maps.items():
        for number, exponent in enumerate(EXPONENTS):
            with torch.no_grad():
                o = Softmax(target)(model(mask(batch, selectivity(maps, exponent))).double())
            for metric in NAMES:
                values[method, metric][number] += METRICS[metric].function(explained.confidence, o).tolist()

options.output.mkdir(parents=True, exist_ok=True)
figure = Figure(figsize=(11, 3.7), layout="constrained")
for axis, metric in zip(figure.subplots(1, len(NAMES)), NAMES, strict=True):
    title = f"{METRICS[metric].title}, % {METRICS[metric].arrow}"
    table = Table("method", *map(str, EXPONENTS), title=f"{title}, by exponent, {len(x)} images")
    for method, colour, marker in zip(methods, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D", strict=True):
        means = [100 * sum(scores) / len(scores) for scores in values[method, metric]]
        table.add_row(method, *(f"{mean:.1f}" for mean in means))
        axis.plot(EXPONENTS, means, color=colour, marker=marker, label=method)
    Console().print(table)
    axis.set(xscale="log", xlabel="exponent a of the map", ylabel=title)
    axis.grid(alpha=0.2)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
figure.savefig(options.output / "selectivity.png", dpi=90)
