"""Objectives and normalisations of Opti-CAM: tables 6 and A12 of its paper.

    python examples/opti_cam_objectives.py [--data FOLDER] [--images 8] [--iterations 50]

All objectives are tried with normalisation by range, the first two also with the other normalisations. The optimised
mask is scored, which is what the hosts show. As in the paper the class is the label; the paper's AI is the increase in
confidence, IC. FOLDER is described in data.py; without it the images are the demo's digits.
"""

import argparse

import torch
from data import load
from rich.console import Console
from rich.progress import track

from cam_extras.maps import mask
from cam_extras.methods import FakeCAM, GradCAM, OptiCAM
from cam_extras.metrics import METRICS
from cam_extras.probe import Probe
from cam_extras.report import summary_table
from cam_extras.utilities import Softmax

NAMES = ("average_drop", "average_gain", "increase_in_confidence")
CHOICES = [(objective, "range") for objective in ("mask", "diff", "iomask", "iodiff")]
CHOICES += [(objective, normalisation) for normalisation in ("max", "sigmoid") for objective in ("mask", "diff")]

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--iterations", type=int, default=50)
options = parser.parse_args()

model, layer, x, labels, _ = load(options.data, options.images)
methods = {"Fake-CAM": FakeCAM(), "Grad-CAM": GradCAM()}
for objective, normalisation in CHOICES:
    method = OptiCAM(objective=objective, normalisation=normalisation, max_iterations=options.iterations)
    methods[f"Opti-CAM, {objective}, {normalisation}"] = method
scores = {name: {metric: [] for metric in NAMES} for name in methods}
for batch, target in track([*zip(x.split(4), labels.split(4), strict=True)], "Optimising"):
    probe = Probe(model, layer, batch, target=target, second_order=False)  # one forward pass for all methods
    p = Softmax(target)(probe.outputs.detach().double())
    for name, method in methods.items():
        with torch.no_grad():
            o = Softmax(target)(model(mask(batch, method.maps(probe))).double())
        for metric in NAMES:
            scores[name][metric] += METRICS[metric].function(p, o).tolist()
values = {name: {metric: METRICS[metric].of_set(found) for metric in NAMES} for name, found in scores.items()}
Console().print(summary_table(values, f"{len(x)} images, {options.iterations} iterations", {"Fake-CAM"}))
