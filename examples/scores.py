"""Before or after softmax, or both: table 5 and figure 6 of ShapleyCAM's paper.

    python examples/scores.py [--data FOLDER] [--images 16] [--method GradCAM] [--layer NAME] [--output DIR]

A method that uses gradients, Grad-CAM in the paper, explains four utilities: the logit y, the probability p, its
logarithm ln p, and ReST, y + ln p. The picture shows the images on which the maps of y and of p differ most, and last
the one that the model is most certain of. FOLDER is described in data.py; without it the images are the demo's digits.
"""

import argparse
from pathlib import Path

import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from cam_extras.evaluation import Evaluator
from cam_extras.maps import normalise
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS
from cam_extras.probe import find_layer
from cam_extras.report import overlay, summary_table

NAMES = ("average_drop", "coherency", "complexity", "adcc", "increase_in_confidence", "drop_in_deletion")
UTILITIES = {"logit": "y, pre-softmax", "softmax": "p, post-softmax", "log_softmax": "ln p", "rest": "ReST"}

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=16)
parser.add_argument(
    "--method", default="GradCAM", choices=[name for name in METHODS if hasattr(METHODS[name], "utility")]
)
parser.add_argument("--layer", metavar="NAME", help="dotted name; by default the last one, or the digits' last but one")
parser.add_argument("--output", type=Path, default=Path("scores-output"))
options = parser.parse_args()

model, layer, x, _, _ = load(options.data, options.images)
layer = find_layer(model, options.layer) if options.layer else layer
methods = {name: METHODS[options.method](utility=score) for score, name in UTILITIES.items()}
evaluator = Evaluator(model, layer, methods, NAMES)
parts = [evaluator(batch) for batch in track(x.split(8), "Explaining")]
scores = {
    name: {metric: torch.cat([part.scores[name][metric] for part in parts]) for metric in NAMES} for name in methods
}
values = {name: {metric: METRICS[metric].of_set(scores[name]) for metric in NAMES} for name in methods}
Console().print(summary_table(values, f"{options.method} on {len(x)} images"))

maps = {name: torch.cat([part.maps[name] for part in parts]) for name in methods}
confidence = torch.cat([part.confidence for part in parts])
pre, post, *_ = maps.values()
differing = (pre - post).abs().mean(dim=(1, 2)).argsort(descending=True)[:3].tolist()
shown = [*differing, confidence.argmax().item()]
figure = Figure(figsize=(8, 1.85 * len(shown)), layout="constrained")
for cells, number in zip(figure.subplots(len(shown), len(methods) + 1, squeeze=False), shown, strict=True):
    picture = normalise(x)[number]
    cells[0].imshow(picture.permute(1, 2, 0).numpy(), cmap="gray")
    cells[0].set_title(f"1 - p = {1 - confidence[number]:.0e}", fontsize=8)
    for axis, name in zip(cells[1:], methods, strict=True):
        axis.imshow(overlay(picture, maps[name][number]))
        axis.set_title(f"{name}: ADCC {100 * scores[name]['adcc'][number]:.0f}", fontsize=8)
    for axis in cells:
        axis.axis("off")
options.output.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output / "maps.png", dpi=80)
