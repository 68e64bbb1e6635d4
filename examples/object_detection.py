"""Object detection: which pixels made torchvision's Faster R-CNN find a box, with pytorch-grad-cam's target for it.

    python examples/object_detection.py [--steps 80] [--output object_detection.png]

The script trains a small Faster R-CNN to find digits, with the backbone of the demo's classifier; nothing is
downloaded. For the large one use `fasterrcnn_resnet50_fpn(weights="DEFAULT")` and the layer
`model.backbone.body.layer4`; the backbone itself returns several maps, but a layer must return one.

The target looks for the box and its class in the detections, and is 0 if they are missing. That rules out methods that
also explain other inputs, such as ExpectedGradCAM, where nothing may be detected. ShapleyCAM needs second derivatives,
and torchvision's RoIAlign has none: use it on detectors without RoIAlign, such as RetinaNet, FCOS and SSD.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from pytorch_grad_cam import EigenCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from cam_extras import GradCAM, HiResCAM, MIGradCAM
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import SCALE, load_classifier

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=80)
parser.add_argument("--output", default="object_detection.png")
options = parser.parse_args()

torch.manual_seed(0)
backbone = load_classifier().features.requires_grad_(False)
backbone.out_channels = 64
model = FasterRCNN(
    backbone,
    min_size=64,
    max_size=256,
    image_mean=[0.0],
    image_std=[SCALE],
    rpn_anchor_generator=AnchorGenerator(sizes=((26,),), aspect_ratios=((1.0,),)),
    rpn_fg_iou_thresh=0.5,
    rpn_post_nms_top_n_train=50,
    rpn_post_nms_top_n_test=50,
    box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2),
    box_head=TwoMLPHead(64 * 3 * 3, 128),
    box_predictor=FastRCNNPredictor(128, num_classes=11),  # class 0 is the background
    box_batch_size_per_image=32,
    box_score_thresh=0.5,
    box_nms_thresh=0.3,
)
train = make_canvases(8 * options.steps, "train", seed=0)
truth = [{"boxes": b[None].float(), "labels": n[None] + 1} for b, n in zip(train.boxes, train.labels, strict=True)]
optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=options.steps)
model.train()
backbone.eval()  # it stays as it is
for start in range(0, len(truth), 8):
    loss = sum(model(list(train.images[start : start + 8]), truth[start : start + 8]).values())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()

model.eval()
image = torch.cat(list(make_canvases(9, "test", seed=2).images[6:]), dim=2)  # three digits side by side: (1, 64, 192)
with torch.no_grad():
    found = model(image[None])[0]
boxes, labels = found["boxes"], found["labels"]
batch = image.repeat(len(boxes), 1, 1, 1)
targets = [FasterRCNNBoxScoreTarget([label], [box]) for label, box in zip(labels, boxes, strict=True)]
layer = backbone.block4

inside = {}
method_types = (EigenCAM, GradCAM, HiResCAM, MIGradCAM)  # theirs looks at no target
figure, axes = plt.subplots(len(boxes), len(method_types), figsize=(13, 3.5), layout="constrained", squeeze=False)
for column, method_type in zip(axes.T, method_types, strict=True):
    maps = method_type(model, [layer])(batch, targets)
    shares = []
    for axis, values, box in zip(column, maps, boxes.tolist(), strict=True):
        left, top, right, bottom = map(round, box)
        shares.append(values[top:bottom, left:right].sum() / values.sum())
        axis.imshow(image[0].numpy(), cmap="gray")
        axis.imshow(values, alpha=0.8 * values)
        axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white"))
        axis.set(xticks=[], yticks=[])
    inside[method_type.__name__] = sum(shares) / len(shares)
    column[0].set_title(f"{method_type.__name__}: {inside[method_type.__name__]:.0%} inside", fontsize=10)
for axis, label, score in zip(axes[:, 0], labels.tolist(), found["scores"].tolist(), strict=True):
    axis.set_ylabel(f"digit {label - 1}\n{score:.0%}")
figure.savefig(options.output, dpi=80)
