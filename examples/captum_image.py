"""Several methods on one image, in Captum code: signed attributions at the layer, enlarged and drawn by Captum.

    python examples/captum_image.py [--output captum_image.png]
    python examples/captum_image.py --image dog.jpg --model resnet50

Every row explains one of the two classes with the highest scores. Without an image these are the two digits of a scene,
classified by the demo's model, and nothing is downloaded. With an image, a torchvision model is used with torchvision's
weights, which are downloaded if necessary. Purple supports the class, orange opposes it.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from captum.attr import LayerAttribution, LayerGradCam
from captum.attr import visualization as viz

from cam_extras.captum import LayerExpectedGradCam, LayerHiResCam, LayerMIGradCam, LayerShapleyCam
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.layers import auto_layer
from cam_extras.models import load_model, picture_of
from cam_extras.runs.images import read_image

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--image", type=Path)
parser.add_argument("--model", default="resnet50", help="for the image: a torchvision model")
parser.add_argument("--output", default="captum_image.png")
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
    picture = torch.cat(list(make_canvases(2, "test", seed=19).images), dim=2)
    x = prepare(picture[None])

with torch.no_grad():
    classes = model(x)[0].topk(2).indices.tolist()
batch = x.repeat(2, 1, 1, 1)
hwc = picture.permute(1, 2, 0).numpy()

method_types = [LayerGradCam, LayerHiResCam, LayerShapleyCam, LayerMIGradCam, LayerExpectedGradCam]
figure, axes = plt.subplots(2, 1 + len(method_types), figsize=(13, 2.9), layout="constrained")
for axis, index in zip(axes[:, 0], classes, strict=True):
    axis.imshow(hwc, cmap="gray")
    axis.set(ylabel=name_of(index), xticks=[], yticks=[])
for column, method_type in zip(axes.T[1:], method_types, strict=True):
    attribution = method_type(model, layer).attribute(batch, target=classes)  # (2, 1, h, w), signed
    enlarged = LayerAttribution.interpolate(attribution, tuple(x.shape[2:]), "bilinear")
    for axis, values in zip(column, enlarged.detach().permute(0, 2, 3, 1).numpy(), strict=True):
        viz.visualize_image_attr(
            values,
            hwc,
            method="blended_heat_map",
            sign="all",
            cmap="PuOr",
            alpha_overlay=0.6,
            plt_fig_axis=(figure, axis),
            use_pyplot=False,
        )
    column[0].set_title(f"{method_type.__name__}\n{method_type.__module__.split('.')[0]}", fontsize=10)
figure.savefig(options.output, dpi=80)
