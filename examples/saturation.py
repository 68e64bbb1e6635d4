"""Saturation along the path from a baseline to the image: figures 8 to 11 of Expected Grad-CAM's paper.

    python examples/saturation.py [--data FOLDER] [--images 8] [--layer NAME] [--steps 25] [--output DIR]

An image is faded in from 0, which is the mean colour of photographs and the black of digits. The plot shows how the
layer's embedding, the logit and the probability of the class approach their values at the image, with mean and two
standard deviations; the first table says how much of the path they need. The second table and the maps show what this
does to Grad-CAM and to the methods that average along the path: confidence while pixels are inserted into a blurred
image, highest map values first. FOLDER is described in data.py; without it the images are the demo's digits.
"""

import argparse
from pathlib import Path

import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cam_extras.evaluation import Evaluator, saturation_curves
from cam_extras.maps import normalise
from cam_extras.methods import ExpectedGradCAM, GradCAM, IntegratedGradCAM
from cam_extras.metrics import Schedule
from cam_extras.probe import find_layer
from cam_extras.report import overlay, summary_table

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--layer", metavar="NAME", help="dotted name; by default the last one, or the digits' last but one")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--output", type=Path, default=Path("saturation-output"))
options = parser.parse_args()

model, layer, x, _, _ = load(options.data, options.images)
layer = find_layer(model, options.layer) if options.layer else layer
methods = {"Grad-CAM": GradCAM(), "Integrated Grad-CAM": IntegratedGradCAM(), "Expected Grad-CAM": ExpectedGradCAM()}
evaluator = Evaluator(model, layer, methods, ["insertion"], {"schedule": Schedule(step=0.1)})
curves, scored = [], []
for batch in track(x.split(8), "Following"):
    curves.append(saturation_curves(model, layer, batch, steps=options.steps))
    scored.append(evaluator(batch))
a = curves[0].fractions

points = [round(share * options.steps) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
headings = ("", *(f"a = {a[point]:.2f}" for point in points), "90 % reached at a =")
table = Table(*headings, title=f"saturation of {len(x)} images: share of the final value, means")
figure = Figure(figsize=(11, 3.2), layout="constrained")
cells = figure.subplots(1, 3)
for name, what, axis in zip(
    ("similarity", "logit", "softmax"), ("cosine similarity of the layer", "logit", "probability"), cells, strict=True
):
    values = torch.cat([getattr(part, name) for part in curves])
    shares = values / values[:, -1:]
    reached = a[(shares >= 0.9).int().argmax(dim=1)]
    table.add_row(what, *(f"{shares[:, point].mean():.2f}" for point in points), f"{reached.mean():.2f}")
    mean, deviation = values.mean(dim=0), values.std(dim=0, unbiased=False)
    axis.plot(a, values.T, color="#56B4E9", linewidth=0.5)
    axis.fill_between(a, mean - 2 * deviation, mean + 2 * deviation, color="#0072B2", alpha=0.15)
    axis.plot(a, mean, color="#0072B2", marker="o", markersize=3)
    axis.set(xlabel="a, from the baseline to the image", ylabel=what)
cells[2].set_ylim(-0.05, 1.05)
options.output.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output / "curves.png", dpi=90)

insertion = {name: torch.cat([part.scores[name]["insertion"] for part in scored]) for name in methods}
figure = Figure(figsize=(6.5, 2.3 * min(3, len(x))), layout="constrained")
for number, cells in enumerate(figure.subplots(min(3, len(x)), len(methods), squeeze=False)):
    for axis, name in zip(cells, methods, strict=True):
        axis.imshow(overlay(normalise(x)[number], scored[0].maps[name][number]))
        axis.set_title(f"{name}: {100 * insertion[name][number]:.0f} %", fontsize=8)
        axis.axis("off")
figure.savefig(options.output / "maps.png", dpi=70)
Console().print(table)
Console().print(summary_table({name: {"insertion": v.mean().item()} for name, v in insertion.items()}, "insertion"))
