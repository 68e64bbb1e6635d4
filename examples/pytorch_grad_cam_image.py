"""Several methods on one image, in pytorch-grad-cam code: to change the method, change the class.

    python examples/pytorch_grad_cam_image.py [--output pytorch_grad_cam_image.png]
    python examples/pytorch_grad_cam_image.py --image dog.jpg --model resnet50

Every row explains one of the two classes with the highest scores. Without an image these are the two digits of a scene,
classified by the demo's model, and nothing is downloaded. With an image, a torchvision model is used with torchvision's
weights, which are downloaded if necessary.
"""

import argparse
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import torch
from pytorch_grad_cam import GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget

from cam_extras import HiResCAM, MIGradCAM, OptiCAM, ShapleyCAM
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.layers import auto_layer
from cam_extras.models import load_model, picture_of
from cam_extras.runs.images import read_image

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--image", type=Path)
parser.add_argument("--model", default="resnet50", help="for the image: a torchvision model")
parser.add_argument("--output", default="pytorch_grad_cam_image.png")
options = parser.parse_args()

if options.image:
    classifier = load_model(options.model)
    model, name_of = classifier.model, classifier.category
    x = classifier.transform(read_image(options.image))[None]
    picture = picture_of(classifier.transform)(x[0])
    layer = auto_layer(model, x).layer
else:
    model, name_of = load_classifier(), "digit {}".format
    layer = model.get_submodule(LAYER)
    picture = torch.cat(list(make_canvases(2, "test", seed=19).images), dim=2).expand(3, -1, -1)
    x = prepare(picture[None, :1])

with torch.no_grad():
    classes = model(x)[0].topk(2).indices.tolist()
batch = x.repeat(2, 1, 1, 1)
rgb = picture.permute(1, 2, 0).numpy()

columns = {
    GradCAMPlusPlus: ClassifierOutputTarget,
    LayerCAM: ClassifierOutputTarget,
    HiResCAM: ClassifierOutputTarget,
    MIGradCAM: ClassifierOutputTarget,
    OptiCAM: ClassifierOutputTarget,
    ShapleyCAM: ClassifierOutputReST,  # of the logit of a network of ReLUs it is GradCAM
}
figure, axes = plt.subplots(2, 1 + len(columns), figsize=(13, 2.6), layout="constrained")
for axis, index in zip(axes[:, 0], classes, strict=True):
    axis.imshow(rgb)
    axis.set_ylabel(name_of(index))
for column, (method_type, target_type) in zip(axes.T[1:], columns.items(), strict=True):
    with method_type(model, [layer]) as cam:
        maps = cam(batch, [target_type(index) for index in classes])  # (2, H, W) in [0, 1]
    for axis, grey in zip(column, maps, strict=True):
        axis.imshow(show_cam_on_image(rgb, grey, use_rgb=True, colormap=cv2.COLORMAP_VIRIDIS))
    column[0].set_title(f"{method_type.__name__}\n{method_type.__module__.split('.')[0]}", fontsize=10)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig(options.output, dpi=80)
