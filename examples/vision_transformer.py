"""A vision transformer: a `reshape_transform` turns tokens into a feature map, as in pytorch-grad-cam.

    python examples/vision_transformer.py [--steps 150] [--output vision_transformer.png]

The script trains a small torchvision VisionTransformer, so that the maps mean something and nothing is downloaded; the
first blocks of the demo's classifier are its patch embedding and stay frozen. For the large one use
`vit_b_16(weights="DEFAULT")`, the layer `model.encoder.layers[-1].ln_1`, and 14 for height and width.

Explain a layer norm before an attention: after the last attention only the class token reaches the output, and all
other gradients are 0. Methods that weight every token separately (HiResCAM, ShapleyCAMH, ShapleyCAME) match the digit
better; the mean over tokens that GradCAM and others use says little if tokens differ.
"""

import argparse
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from torch import nn
from torchvision.models import VisionTransformer

from cam_extras import GradCAM, HiResCAM, MIGradCAM, ShapleyCAM, ShapleyCAME, ShapleyCAMH
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import load_classifier, prepare

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=150)
parser.add_argument("--output", default="vision_transformer.png")
options = parser.parse_args()

torch.manual_seed(0)
model = VisionTransformer(64, 8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10)
stem = load_classifier().features[:7].requires_grad_(False)
model.conv_proj = nn.Sequential(stem, nn.Conv2d(48, 64, 1))
optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=options.steps)
train = make_canvases(16 * options.steps, "train", seed=0)
for images, labels in zip(train.images.split(16), train.labels.split(16), strict=True):
    loss = F.cross_entropy(model(prepare(images)), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

model.eval()
test = make_canvases(64, "test", seed=0)
with torch.no_grad():
    right = model(prepare(test.images)).argmax(dim=1) == test.labels
print(f"right on {right.float().mean():.0%} of {len(right)} test images")
images, labels, boxes = test.images[right], test.labels[right], test.boxes[right].tolist()

layer = model.encoder.layers[-1].ln_1
to_map = partial(vit_reshape_transform, height=8, width=8)
method_types = (GradCAM, MIGradCAM, ShapleyCAM, HiResCAM, ShapleyCAMH, ShapleyCAME)
inside = {}
figure, axes = plt.subplots(4, 1 + len(method_types), figsize=(10, 6.2), layout="constrained")
for column, method_type in zip(axes.T[1:], method_types, strict=True):
    name = method_type.__name__
    maps = method_type(model, [layer], reshape_transform=to_map)(prepare(images))  # of the predicted classes
    for axis, image, values in zip(column, images, maps, strict=False):  # the first four
        axis.imshow(image[0].numpy(), cmap="gray")
        axis.imshow(values, alpha=0.7 * values)
    on_digit = sum(h[top:bottom, left:right].sum() for h, (left, top, right, bottom) in zip(maps, boxes, strict=True))
    inside[name] = on_digit / maps.sum()
    column[0].set_title(f"{name}\n{inside[name]:.0%} on the digit", fontsize=10)
for axis, image, label in zip(axes[:, 0], images, labels, strict=False):
    axis.imshow(image[0].numpy(), cmap="gray")
    axis.set_ylabel(f"digit {label}")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig(options.output, dpi=80)
