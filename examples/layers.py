"""Opti-CAM on one layer after another: table A13 of its paper, compared with Grad-CAM.

    python examples/layers.py [--data FOLDER] [--images 8] [--layers NAME ...] [--iterations 50]

By default the layers are those of the digit classifier from the last down to the second, or some of MobileNet-V2's. The
class is the label. The paper's AI is the increase in confidence, IC. FOLDER is described in data.py; without it the
images are the demo's digits.
"""

import argparse

import torch
from data import load
from rich.console import Console
from rich.progress import track

from cam_extras.evaluation import Evaluator
from cam_extras.methods import GradCAM, OptiCAM
from cam_extras.probe import find_layer
from cam_extras.report import summary_table

METRICS = ("average_drop", "average_gain", "increase_in_confidence")
DIGITS = [f"features.block{number}" for number in (5, 4, 3, 2)]
PHOTOGRAPHS = [f"features.{number}" for number in (18, 17, 14, 13, 7, 6)]

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--layers", nargs="+", metavar="NAME", help="dotted names")
parser.add_argument("--iterations", type=int, default=50)
options = parser.parse_args()

model, _, x, labels, _ = load(options.data, options.images)
methods = {"Opti-CAM": OptiCAM(max_iterations=options.iterations), "Grad-CAM": GradCAM()}
names = options.layers or (PHOTOGRAPHS if options.data else DIGITS)
values = {method: {} for method in methods}
for name in track(names, "Explaining"):
    evaluator = Evaluator(model, find_layer(model, name), methods, METRICS)
    parts = [evaluator(*batch) for batch in zip(x.split(8), labels.split(8), strict=True)]
    for method in methods:
        scores = {metric: torch.cat([part.scores[method][metric] for part in parts]) for metric in METRICS}
        values[method][name] = {metric: score.mean().item() for metric, score in scores.items()}
for method, rows in values.items():
    Console().print(summary_table(rows, f"{method}, {len(x)} images"))
