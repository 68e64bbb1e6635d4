"""Boxes of an ultralytics YOLO: which pixels made it find a digit, with the last layers of its three strides together.

    python examples/yolo.py [--steps 250] [--output yolo.png]

Needs ultralytics (AGPL), which the package itself never imports. The script builds YOLO11n from its yaml, with nothing
downloaded, and trains it on a few images that it then explains. For real use take `YOLO("yolo11n.pt").model.eval()`
and images as it takes them, RGB in [0, 1].
"""

import argparse
from types import SimpleNamespace

import matplotlib.pyplot as plt
import torch
from ultralytics.nn.tasks import DetectionModel

from cam_extras import GradCAM, HiResCAM, ShapleyCAM
from cam_extras.demo.canvases import make_canvases
from cam_extras.evaluation import Evaluator
from cam_extras.targets import Box

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=250)
parser.add_argument("--output", default="yolo.png")
options = parser.parse_args()

torch.manual_seed(0)
canvases = make_canvases(8, "train", seed=0)
images = canvases.images.expand(-1, 3, -1, -1).contiguous()  # (8, 3, 64, 64)
size = images.shape[-1]
corners = canvases.boxes.float() / size
batch = {
    "img": images,
    "batch_idx": torch.arange(len(images)),
    "cls": canvases.labels[:, None].float(),
    "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
}
model = DetectionModel("yolo11n.yaml", nc=10, verbose=False)
model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # the weights of its loss
optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=options.steps)
model.train()
for _ in range(options.steps):
    loss, _ = model.loss(batch)
    optimiser.zero_grad()
    loss.sum().backward()
    optimiser.step()
    schedule.step()
with torch.no_grad():  # the statistics of the trained features, which lag behind
    for _ in range(100):
        model(images)

model.eval()
layers = [model.model[index] for index in model.model[-1].f]  # of strides 8, 16 and 32
with torch.no_grad():
    outputs = model(images)[0]  # (8, 4 + 10, anchors): centre and size of boxes, then scores
found = (outputs[:, 4:].amax(dim=(1, 2)) > 0.5).nonzero()[:4, 0]  # four images in which it finds something
images, outputs, truth, labels = images[found], outputs[found], canvases.boxes[found], canvases.labels[found].tolist()
targets, scores = [], []
for output in outputs:
    best = output[4:].amax(dim=0).argmax()
    centre, sides = output[:2, best], output[2:4, best]
    targets.append(Box(torch.cat([centre - sides / 2, centre + sides / 2]), int(output[4:, best].argmax())))
    scores.append(float(output[4:, best].max()))

inside = {}
method_types = (GradCAM, HiResCAM, ShapleyCAM)
figure, axes = plt.subplots(len(method_types), len(images), figsize=(9, 7), layout="constrained")
for row, method_type in zip(axes, method_types, strict=True):
    maps = method_type(model, layers)(images, targets)
    shares = []
    for axis, image, values, target in zip(row, images, maps, targets, strict=True):
        left, top, right, bottom = (max(0, min(size, round(side))) for side in target.box.tolist())
        shares.append(values[top:bottom, left:right].sum() / values.sum())
        axis.imshow(image.permute(1, 2, 0))
        axis.imshow(values, alpha=0.8 * values)
        axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white"))
        axis.set(xticks=[], yticks=[])
    inside[method_type.__name__] = sum(shares) / len(shares)
    row[0].set_ylabel(f"{method_type.__name__}: {inside[method_type.__name__]:.0%} inside", fontsize=9)
for axis, target, score in zip(axes[0], targets, scores, strict=True):
    axis.set_title(f"digit {target.label}, {score:.0%}", fontsize=9)
figure.savefig(options.output, dpi=80)

# How fast does the score of each box rise with the pixels of its map, and fall without them?
metrics = ["insertion", "deletion", "pointing_game"]
result = Evaluator(model, layers[0], ["GradCAM", "HiResCAM"], metrics)(images, targets, boxes=[b[None] for b in truth])
print(result.of_set())
