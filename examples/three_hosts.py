"""One method in pytorch-grad-cam, in Captum and in Quantus, on the demo's digits: python examples/three_hosts.py."""

import quantus
import torch
from captum.attr import LayerAttribution
from pytorch_grad_cam import RefineCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cam_extras import ShapleyCAM
from cam_extras.captum import LayerShapleyCam
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.quantus import ADCC, AverageDrop, explain

model = load_classifier()
layer = model.get_submodule(LAYER)
canvases = make_canvases(8, "test", seed=0)
x, labels = prepare(canvases.images), canvases.labels

# pytorch-grad-cam: numpy maps (N, H, W) in [0, 1]
targets = [ClassifierOutputTarget(int(label)) for label in labels]
maps = ShapleyCAM(model, [layer])(x, targets)
print("pytorch-grad-cam", maps.shape, f"from {maps.min():.0f} to {maps.max():.0f}")
refined = RefineCAM(model, [model.features.block3, layer], base_method=ShapleyCAM)(x, targets)
print("  as base method of RefineCAM", refined.shape)

# Captum: signed contributions (N, 1, h, w) at the layer's size
attribution = LayerShapleyCam(model, layer).attribute(x, target=labels)
enlarged = LayerAttribution.interpolate(attribution, (64, 64), "bilinear")
print("Captum", tuple(attribution.shape), "enlarged to", tuple(enlarged.shape))

# Quantus: our metrics next to its own, our methods by name
with torch.no_grad():
    print(f"the model is right on {(model(x).argmax(1) == labels).sum()} of {len(x)} digits")
results = quantus.evaluate(
    metrics={
        "Average Drop": AverageDrop(return_aggregate=True),
        "ADCC": ADCC(return_aggregate=True),
        "Sparseness": quantus.Sparseness(return_aggregate=True, disable_warnings=True),
    },
    xai_methods={name: explain(name, layer=LAYER) for name in ("GradCAM", "ShapleyCAM", "FakeCAM")},
    model=model,
    x_batch=x.numpy(),
    y_batch=labels.numpy(),
    explain_func_kwargs={},
)
for method, scores in results.items():
    print(f"Quantus {method:10}", {name: round(float(value[0]), 3) for name, value in scores.items()})
