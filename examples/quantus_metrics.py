"""Methods x metrics in Quantus: our metrics next to its own, on our methods and one of pytorch-grad-cam's.

    python examples/quantus_metrics.py [--images 16] [--output quantus_metrics.png]

Prints the table and draws it. The images are digits on cluttered canvases, classified by the demo's model. FakeCAM
shows everything and explains nothing, but wins any metric that only requires the confidence to stay high: ADCC was made
to detect that.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import quantus

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.quantus import ADCC, AverageDrop, DropInDeletion, EnergyPointingGame, explain

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--images", type=int, default=16)
parser.add_argument("--output", default="quantus_metrics.png")
options = parser.parse_args()

canvases = make_canvases(options.images, "test", seed=3)
x, y = prepare(canvases.images).numpy(), canvases.labels.numpy()
s = np.zeros(x.shape, bool)  # where the digits are
for mask, (left, top, right, bottom) in zip(s, canvases.boxes.tolist(), strict=True):
    mask[:, top:bottom, left:right] = True

methods = ("GradCAM", "ScoreCAM", "ShapleyCAM", "MIGradCAM", "ExpectedGradCAM", "OptiCAM", "FakeCAM", "RandomCAM")
metrics = {
    "Average drop\nlower is better": AverageDrop(return_aggregate=True),
    "Drop in deletion\nhigher is better": DropInDeletion(return_aggregate=True),
    "ADCC\nhigher is better": ADCC(return_aggregate=True),
    "Energy pointing game\nhigher is better": EnergyPointingGame(return_aggregate=True),
    "Sparseness (Quantus)\nhigher: fewer pixels": quantus.Sparseness(return_aggregate=True, disable_warnings=True),
    "Rank accuracy (Quantus)\nhigher is better": quantus.RelevanceRankAccuracy(
        return_aggregate=True, disable_warnings=True
    ),
}
table = quantus.evaluate(
    metrics=metrics,
    xai_methods={name: explain(name, layer=LAYER) for name in methods},
    model=load_classifier(),
    x_batch=x,
    y_batch=y,
    s_batch=s,
    explain_func_kwargs={},
    agg_func=np.mean,  # out of the lists
    return_as_df=True,
).T
print(table.rename(columns=lambda name: name.split("\n")[0]).round(3).to_string())

figure, axes = plt.subplots(1, len(metrics), figsize=(14, 3), sharey=True, layout="constrained")
colours = ["#D55E00" if name in ("FakeCAM", "RandomCAM") else "#0072B2" for name in methods]  # orange: controls
for axis, name in zip(axes, metrics, strict=True):
    bars = axis.barh(methods, table[name], color=colours)
    axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axis.set(xlim=(0, 1.2), xticks=[0, 0.5, 1])
    axis.set_title(name, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].invert_yaxis()
figure.savefig(options.output, dpi=80)
