"""Defaults and alternatives: MI-Grad-CAM's bins, Expected Grad-CAM's paths and points, Opti-CAM's optimiser.

    python examples/defaults.py --method mi|expected|opti [--data DIR [--model NAME] [--layer NAME]] [--images 100]

Prints the default's means, and how much the others differ from it on the same images, with the 95 % bootstrap interval
of the mean difference, in per cent. Settings of equal cost are listed under the same number of points or iterations.
DIR and --model are those of paper_tables.py; without them the images are the demo's digits. An interrupted run
continues where it stopped.
"""

import argparse
import re
from pathlib import Path

from paper_tables import classifier_and_data
from rich.console import Console
from rich.table import Table

from cam_extras import OptiCAM, evaluate
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.metrics import METRICS
from cam_extras.metrics.insertion_and_deletion import Schedule
from cam_extras.runs.summary import paired_differences

SETTINGS = {
    "mi": {
        "64 bins": {},
        **{f"{bins} bins": {"bins": bins} for bins in (8, 16, 32, 128, 256)},
        "discrete": {"estimator": "discrete"},
    },
    "expected": {
        "zeros, 16 points": {},
        "blur, 16 points": {"baselines": "blur"},
        "noise, 16 points": {"baselines": "noise"},
        "zeros, no noise, 16 points": {"noise": 0},
        "zeros, noise 0.2, 16 points": {"noise": 0.2},
        "zeros, gradient alone, 16 points": {"difference": "none"},
        "zeros, 4 points": {"n_samples": 4},
        "zeros, 8 points": {"n_samples": 8},
        "zeros, 32 points": {"n_samples": 32},
    },
    "opti": {
        "Adam 0.1, 100 iterations": {},
        "Adam 0.2, 100 iterations": {"learning_rate": 0.2},
        "Adam 0.5, 100 iterations": {"learning_rate": 0.5},
        "NAdam 0.1, 100 iterations": {"optimiser": "nadam"},
        "NAdam 0.1, log p, 100 iterations": {"optimiser": "nadam", "utility": "log_softmax"},
        "fast (NAdam 0.35), 30 iterations": OptiCAM.FAST,
        "NAdam 0.2, 30 iterations": {**OptiCAM.FAST, "learning_rate": 0.2},
        "NAdam 0.5, 30 iterations": {**OptiCAM.FAST, "learning_rate": 0.5},
        "NAdam 0.5, log p, 30 iterations": {**OptiCAM.FAST, "learning_rate": 0.5, "utility": "log_softmax"},
    },
}
METHOD = {"mi": "MIGradCAM", "expected": "ExpectedGradCAM", "opti": "OptiCAM"}
NAMES = {
    "mi": ["thresholded_drop", "thresholded_increase", "average_drop", "average_gain", "insertion_deletion"],
    "expected": ["average_drop", "average_gain", "drop_in_deletion", "coherency", "insertion_deletion"],
    "opti": ["average_drop", "average_gain", "increase_in_confidence", "insertion_deletion"],
}

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--method", required=True, choices=SETTINGS)
parser.add_argument("--data", type=Path)
parser.add_argument("--model", default="mobilenet_v2")
parser.add_argument("--weights", help="local weights of the model")
parser.add_argument("--layer", default="auto", help="default: the last feature map before pooling")
parser.add_argument("--images", type=int, default=100)
parser.add_argument("--output", type=Path, default=Path("defaults-output"))
options = parser.parse_args()

if options.data is None:
    canvases = make_canvases(options.images, "test", seed=0)
    what, classifier, layer = "digits", load_classifier(), options.layer if options.layer != "auto" else LAYER
    data = list(zip(prepare(canvases.images), canvases.labels.tolist(), strict=True))
else:
    what = f"{options.model} {options.layer}"
    place = options.data, options.model, options.weights, options.layer, False, options.images
    classifier, layer, data = classifier_and_data(*place)
names = NAMES[options.method]
run = evaluate(
    classifier,
    layer,
    data,
    options.output / re.sub(r"[^\w.]+", "_", f"{options.method} {what}"),
    methods={name: {"method": METHOD[options.method], **given} for name, given in SETTINGS[options.method].items()},
    metrics=names,
    options={"schedule": Schedule(step=0.1, insert_into="blur", delete_to="zeros")},
    target="predicted",
    mode="resume",
)
rows = {name: part.assign(method="").to_dict("list") for name, part in run.results.to_pandas().groupby("method")}
default, *others = SETTINGS[options.method]
compared = {other: paired_differences(rows[default], rows[other], names, samples=2000) for other in others}
table = Table(title=f"{METHOD[options.method]} on {what}, {len(rows[default]['index'])} images")
for heading in ("setting", *(f"{METRICS[name].title} {METRICS[name].arrow}" for name in names)):
    table.add_column(heading, justify="right" if table.columns else "left")
table.add_row(f"{default} (default)", *(f"{100 * change['a']:.1f}" for change in compared[others[0]]))
for other, changes in compared.items():
    parts = ([100 * change[key] for key in ("difference", "low", "high")] for change in changes)
    table.add_row(other, *(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in parts))
Console().print(table)
