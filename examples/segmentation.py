"""Semantic segmentation: why a network marks pixels as a class, with pytorch-grad-cam's target and a custom one.

    python examples/segmentation.py [--steps 80] [--output segmentation.png]

The script trains a small network to segment digits: a head on the frozen blocks of the demo's classifier. Nothing is
downloaded. For a large one use `deeplabv3_resnet50(weights="DEFAULT")`, whose output "out" is found automatically, and
the layer `model.backbone.layer4`. The utility is that of the pixels marked as the class; the Shapley family needs one
that is not linear in the features, such as the logit plus the log probability.
"""

import argparse

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import nn

from cam_extras import GradCAM, HiResCAM, MIGradCAM, ShapleyCAM
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import load_classifier, prepare

BACKGROUND = 10
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=80)
parser.add_argument("--output", default="segmentation.png")
options = parser.parse_args()


class Segmenter(nn.Module):
    """Logits (N, 11, H, W) of ten digits and the background, from coarse features and from details."""

    def __init__(self):
        super().__init__()
        self.features = load_classifier().features.requires_grad_(False)
        self.head = nn.Sequential(nn.Conv2d(32 + 64, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 11, 1))

    def forward(self, x):
        """Segment images (N, 1, H, W)."""
        details = self.features[:3](x)
        coarse = F.interpolate(self.features[3:](details), details.shape[2:], mode="bilinear")
        return F.interpolate(self.head(torch.cat([details, coarse], dim=1)), x.shape[2:], mode="bilinear")


def truth(canvases):
    """Say what each pixel is, (N, H, W): the digit where it has strokes, else background."""
    classes = torch.full_like(canvases.images[:, 0], BACKGROUND, dtype=torch.long)
    for found, image, label, box in zip(classes, canvases.images, canvases.labels, canvases.boxes, strict=True):
        left, top, right, bottom = box.tolist()
        found[top:bottom, left:right][image[0, top:bottom, left:right] > 0.4] = label
    return classes


torch.manual_seed(0)
model = Segmenter()
weight = torch.ones(11).index_fill(0, torch.tensor(BACKGROUND), 0.3)  # most pixels are background
train = make_canvases(8 * options.steps, "train", seed=0)
optimiser = torch.optim.AdamW(model.head.parameters(), 5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=options.steps)
model.eval()  # the frozen blocks normalise as they did
for images, classes in zip(train.images.split(8), truth(train).split(8), strict=True):
    loss = F.cross_entropy(model(prepare(images)), classes, weight)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

test = make_canvases(3, "test", seed=5)
image = torch.cat(list(test.images), dim=2)  # three digits side by side, (1, 64, 192)
x = prepare(image[None])
with torch.no_grad():
    painted = model(x)[0].argmax(dim=0)
masks = {label: painted == label for label in test.labels.tolist() if (painted == label).sum() > 20}


def rest_over(label, mask):
    """A target is any function of one sample's output, here (11, H, W): the mean of y + ln p over the mask."""
    return lambda output: (output + output.log_softmax(dim=0))[label][mask].mean()


logits = [SemanticSegmentationTarget(label, mask.float().numpy()) for label, mask in masks.items()]
rest = [rest_over(label, mask) for label, mask in masks.items()]
columns = {GradCAM: logits, HiResCAM: logits, MIGradCAM: logits, ShapleyCAM: rest}
inside = {}
layer = model.features.block4
figure, axes = plt.subplots(len(masks), 1 + len(columns), figsize=(14, 3.4), layout="constrained", squeeze=False)
for axis, (label, mask) in zip(axes[:, 0], masks.items(), strict=True):
    axis.imshow(image[0].numpy(), cmap="gray")
    axis.imshow(mask.numpy(), alpha=0.8 * mask.float().numpy(), cmap="cividis")
    axis.set_ylabel(f"digit {label}")
axes[0, 0].set_title("painted")
for column, (method_type, targets) in zip(axes.T[1:], columns.items(), strict=True):
    maps = method_type(model, [layer])(x.repeat(len(masks), 1, 1, 1), targets)
    inside[method_type.__name__] = (
        sum(values[mask].sum() for values, mask in zip(maps, masks.values(), strict=True)) / maps.sum()
    )
    column[0].set_title(f"{method_type.__name__}: {inside[method_type.__name__]:.0%} on the digit", fontsize=10)
    for axis, values in zip(column, maps, strict=True):
        axis.imshow(image[0].numpy(), cmap="gray")
        axis.imshow(values, alpha=0.8 * values)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig(options.output, dpi=80)
