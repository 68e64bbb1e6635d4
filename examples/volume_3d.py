"""Volumes: a 3-D convolutional network, explained in all three dimensions and shown in slices.

    python examples/volume_3d.py [--steps 100] [--output volume_3d.png]

The classes are shapes in noise (ball, cube, shell and cross), and the script trains the network. The calls are the same
as for images: volumes are (N, C, D, H, W) and their maps (N, D, H, W), of any size.
"""

import argparse

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from cam_extras import GradCAM, HiResCAM, ShapleyCAMH

CLASSES = ("ball", "cube", "shell", "cross")
SIZE = (16, 20, 24)  # depth, height, width
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--output", default="volume_3d.png")
options = parser.parse_args()


def draw(labels):
    """One shape each in volumes of noise, (N, 1, D, H, W), and where it is, (N, D, H, W)."""
    grid = torch.stack(torch.meshgrid(*map(torch.arange, SIZE), indexing="ij"))
    masks = []
    for label in labels.tolist():
        centre = torch.stack([torch.randint(6, size - 6, ()) for size in SIZE])
        offset = (grid - centre[:, None, None, None]).abs().float()
        distance, furthest = offset.norm(dim=0), offset.amax(dim=0)
        bars = ((offset <= 1).sum(dim=0) >= 2) & (furthest <= 6)
        masks.append([distance <= 5, furthest <= 4, (distance <= 6) & (distance >= 4), bars][label])
    masks = torch.stack(masks)
    return masks[:, None] + 0.4 * torch.randn(len(masks), 1, *SIZE), masks


def block(channels, width, stride=1):
    """Make a convolution with what follows it."""
    return nn.Sequential(nn.Conv3d(channels, width, 3, stride, padding=1), nn.BatchNorm3d(width), nn.ReLU())


torch.manual_seed(0)
head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, len(CLASSES)))
model = nn.Sequential(block(1, 16, stride=2), block(16, 32), block(32, 32), head)
layer = model[1]
optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=options.steps)
for _ in range(options.steps):
    labels = torch.randint(len(CLASSES), (8,))
    loss = F.cross_entropy(model(draw(labels)[0]), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

model.eval()
labels = torch.arange(len(CLASSES)).repeat(8)
volumes, masks = draw(labels)
with torch.no_grad():
    print(f"right on {(model(volumes).argmax(dim=1) == labels).float().mean():.0%} of {len(labels)} new volumes")
volumes, masks = volumes[: len(CLASSES)], masks[: len(CLASSES)].numpy()
maps = {cls.__name__: cls(model, [layer])(volumes) for cls in (GradCAM, HiResCAM, ShapleyCAMH)}  # (N, D, H, W)
inside = {name: (values * masks).sum() / values.sum() for name, values in maps.items()}
for name, share in inside.items():
    print(f"{name:11} has {share:.0%} on the shape, which is {masks.mean():.0%} of the volume")

shown = "HiResCAM"
slices = range(1, SIZE[0], 2)
figure, axes = plt.subplots(len(CLASSES), len(slices), figsize=(12, 5.4), layout="constrained")
for row, name, volume, values, mask in zip(axes, CLASSES, volumes, maps[shown], masks, strict=True):
    row[0].set_ylabel(name)
    for axis, depth in zip(row, slices, strict=True):
        axis.imshow(volume[0, depth].numpy(), cmap="gray", vmin=-1, vmax=2.5)
        axis.imshow(values[depth], alpha=0.8 * values[depth], vmin=0, vmax=1)
        if mask[depth].any():
            axis.contour(mask[depth], [0.5], colors="white", linewidths=1)
        axis.set(xticks=[], yticks=[])
for axis, depth in zip(axes[0], slices, strict=True):
    axis.set_title(f"slice {depth}", fontsize=9)
figure.suptitle(f"{shown}; the shape is outlined")
figure.savefig(options.output, dpi=80)
