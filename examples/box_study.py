"""Does the object's box explain the decision? Table 5 of Opti-CAM's paper.

    python examples/box_study.py [--data FOLDER] [--images 15] [--iterations 50]

S is a map, B the box and I the image. The script scores the map, its parts inside and outside the box, the box itself,
and everything else. The class is the label. The paper's AI is the increase in confidence. FOLDER, with
`imagenet_boxes`, is described in data.py; without it the images are the demo's digits.
"""

import argparse

import torch
from data import load
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cam_extras.evaluation import Evaluator
from cam_extras.maps import mask
from cam_extras.methods import FakeCAM, GradCAM, MIGradCAM, OptiCAM, ShapleyCAM
from cam_extras.metrics import METRICS, box_mask, box_study
from cam_extras.utilities import Softmax

NAMES = ("average_drop", "average_gain", "increase_in_confidence")
PARTS = {"map": "S", "inside": "B ∩ S", "outside": "S \\ B"}

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=15)
parser.add_argument("--iterations", type=int, default=50, help="of Opti-CAM")
options = parser.parse_args()

model, layer, x, labels, boxes = load(options.data, options.images, boxed=True)
inside = box_mask(boxes, x.shape[2:])
opti_cam = OptiCAM(max_iterations=options.iterations)
methods = {"Grad-CAM": GradCAM(), "MI-Grad-CAM": MIGradCAM(), "ShapleyCAM": ShapleyCAM(), "Opti-CAM": opti_cam}
evaluator = Evaluator(model, layer, methods | {"Fake-CAM": FakeCAM()}, metrics=[])
values = {}
for batch, target, box in track([*zip(x.split(4), labels.split(4), inside.split(4), strict=True)], "Explaining"):
    explained = evaluator(batch, target)
    studies = {method: box_study(maps, box) for method, maps in explained.maps.items()}
    whole = studies["Fake-CAM"]  # the box itself is the same for all
    shown = {("S := B", "map"): whole["box"], ("S := I \\ B", "map"): whole["complement"]}
    shown |= {(method, part): study[part] for method, study in studies.items() for part in PARTS}
    for (row, part), maps in shown.items():
        with torch.no_grad():
            o = Softmax(target)(model(mask(batch, maps)).double())
        for metric in NAMES:
            scores = METRICS[metric].function(explained.confidence, o)
            values.setdefault(row, {}).setdefault((metric, part), []).extend(scores.tolist())

share = inside.double().mean()
columns = [(metric, part) for metric in NAMES for part in PARTS]
headings = [f"{METRICS[metric].short} {METRICS[metric].arrow}\n{PARTS[part]}" for metric, part in columns]
table = Table("", *headings, title=f"{len(x)} images, per cent; the boxes cover {share:.0%} of them on average")
for row, parts in values.items():
    if row == "Fake-CAM":  # a control
        table.add_section()
    lists = [parts.get(column) for column in columns]
    table.add_row(row, *("" if scores is None else f"{100 * sum(scores) / len(scores):.1f}" for scores in lists))
Console().print(table)
