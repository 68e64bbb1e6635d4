"""Channel weights with and without mutual information: figure 10 of MI-Grad-CAM's paper.

    python examples/mutual_information_weights.py [--data FOLDER] [--images 8] [--layer NAME]
        [--estimator histogram] [--bins 64] [--noise 0.1] [--output DIR]

The picture shows the weights for three images: Grad-CAM's, the mutual information m with the image, and their product,
MI-Grad-CAM's. The table measures "noisy" and "stable": the change of the weights when normal noise is added to the
image, the share of the channels that count, (sum |w|)^2 / (K sum w^2), and the similarity to Grad-CAM's weights. FOLDER
is described in data.py; without it the images are the demo's digits.
"""

import argparse
from pathlib import Path

import torch
from data import load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cam_extras.methods import GradCAM, MIGradCAM
from cam_extras.metrics import counterfactual_sensitivity
from cam_extras.probe import Probe, find_layer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", metavar="FOLDER")
parser.add_argument("--images", type=int, default=8)
parser.add_argument("--layer", metavar="NAME", help="dotted name; by default the last one, or the digits' last but one")
parser.add_argument("--estimator", default="histogram", help="of the mutual information")
parser.add_argument("--bins", type=int, default=64, help="of the histogram")
parser.add_argument("--noise", type=float, default=0.1, help="standard deviation, in the values that the model sees")
parser.add_argument("--output", type=Path, default=Path("mutual_information_weights-output"))
options = parser.parse_args()

model, layer, x, _, _ = load(options.data, options.images)
layer = find_layer(model, options.layer) if options.layer else layer
method = MIGradCAM(estimator=options.estimator, bins=options.bins)
kinds = {
    "without: Grad-CAM": GradCAM().channel_weights,
    "mutual information m": method.channel_information,
    "with: MI-Grad-CAM": method.channel_weights,
}
noise = options.noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
found = {name: [] for name in kinds}
for batch, noisy in track([*zip(x.split(8), (x + noise).split(8), strict=True)], "Explaining"):
    probe = Probe(model, layer, batch, second_order=False)
    noisy_probe = probe.at(noisy)
    for name, weights in kinds.items():
        found[name].append((weights(probe), weights(noisy_probe)))

headings = ("weights", f"change by noise {options.noise}", "channels that count, %", "cosine with Grad-CAM's")
table = Table(*headings, title=f"weights of {len(x)} images, means")
figure = Figure(figsize=(12, 6.5), layout="constrained")
cells = figure.subplots(min(3, len(x)), len(kinds), squeeze=False, sharex=True)
together = {name: [torch.cat(parts) for parts in zip(*pairs, strict=True)] for name, pairs in found.items()}
for (name, (w, noisy)), column in zip(together.items(), cells.T, strict=True):
    change = counterfactual_sensitivity(w, noisy)
    effective = w.abs().sum(dim=1) ** 2 / (w.shape[1] * w.square().sum(dim=1))
    likeness = torch.cosine_similarity(w, together["without: Grad-CAM"][0])
    table.add_row(name, f"{change.mean():.3f}", f"{100 * effective.mean():.1f}", f"{likeness.mean():.3f}")
    for number, axis in enumerate(column):
        axis.plot(w[number] / w[number].abs().max(), color="#0072B2", linewidth=0.8)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_title(f"{name}, image {number + 1}", fontsize=9)
    column[-1].set_xlabel("channel")
for axis in cells[:, 0]:
    axis.set_ylabel("value / greatest", fontsize=8)
options.output.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output / "weights.png", dpi=100)
Console().print(table)
