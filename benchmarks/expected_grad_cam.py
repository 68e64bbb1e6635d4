"""Which baselines, difference, noise and number of samples serve Expected Grad-CAM best without reference data.

    python benchmarks/expected_grad_cam.py [--images 100] [--layer NAME] [--samples N] [--only NAME ...]

MobileNet-V2, predicted class, photographs of ImageNet, masked with 0. Prints one row a setting as soon as it is done;
takes about five minutes a setting. At `features.18` the logit is linear in the layer, so that neither noise nor
positions matter; at `features.17.depthwise`, the default, they do.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import quantus
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from cam_extras.evaluation import evaluate_batch
from cam_extras.methods import METHODS, Method
from cam_extras.methods.baselines import blur
from cam_extras.methods.sampling import SampledMethod
from cam_extras.models import load_model
from cam_extras.probe import Probe
from cam_extras.quantus import Explainer
from cam_extras.scores import Softmax

ROOT = Path(__file__).resolve().parent.parent
STEPS = 10  # of insertion and deletion
Expected = METHODS["ExpectedGradCAM"]

SETTINGS: dict[str, Method] = {
    "GradCAM": METHODS["GradCAM"](),
    "blur, noise 0.1": Expected(noise=0.1),
    "blur": Expected(noise=0.0),
    "zeros": Expected(baselines="zeros", noise=0.0),
    "noise": Expected(baselines="noise", noise=0.0),
    "batch": Expected(baselines="batch", noise=0.0),
    "blur, noise 0.3": Expected(noise=0.3),
    "blur, difference none": Expected(noise=0.0, difference="none"),
    "blur, difference input": Expected(noise=0.0, difference="input"),
    "blur, n = 8": Expected(noise=0.0, n_samples=8),
    "blur, n = 32": Expected(noise=0.0, n_samples=32),
    "SmoothGradCAMPlusPlus": METHODS["SmoothGradCAMPlusPlus"](),
    "IntegratedGradCAM": METHODS["IntegratedGradCAM"](),
}


def insertion_and_deletion(confidence: Callable[[Tensor], Tensor], x: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Areas under the confidence as pixels are shown in the blurred image, and as they are taken to 0."""
    rank = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).reshape(len(x), 1, *x.shape[2:])
    pixels, blurred = rank[0].numel(), blur(x)
    inserted, deleted = [], []
    for step in range(STEPS + 1):
        first = rank < step * pixels // STEPS
        inserted.append(confidence(torch.where(first, x, blurred)))
        deleted.append(confidence(torch.where(first, 0, x)))
    return torch.trapezoid(torch.stack(inserted), dim=0) / STEPS, torch.trapezoid(torch.stack(deleted), dim=0) / STEPS


def scores(method: Method, model: torch.nn.Module, name: str, batches: list[Tensor]) -> dict[str, float]:
    """Return the means over all images."""
    layer = model.get_submodule(name)
    found: dict[str, list[Tensor]] = {}
    for x in batches:
        metrics = ("average_drop", "average_gain", "drop_in_deletion", "coherency")
        evaluation = evaluate_batch(model, layer, x, {"it": method}, metrics)
        maps, probe = evaluation.maps["it"], Probe(model, layer, x)

        def confidence(y: Tensor, probe: Probe = probe) -> Tensor:
            with torch.no_grad():
                return Softmax(probe.target)(probe._recording.run(y).double())

        inserted, deleted = insertion_and_deletion(confidence, x, maps)
        arguments = {
            "model": model,
            "x_batch": x.numpy(),
            "y_batch": probe.target.numpy(),
            "a_batch": maps[:, None].numpy(),
            "explain_func": Explainer(method, name),
            "batch_size": len(x),
            "softmax": True,
        }
        np.random.seed(0)  # noqa: NPY002  (Quantus draws from it)
        infidelity = quantus.Infidelity(perturb_patch_sizes=[56], n_perturb_samples=1, disable_warnings=True)
        sensitivity = quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)
        row = dict(evaluation.scores["it"])
        row |= {"insertion": inserted, "deletion": deleted, "insertion - deletion": inserted - deleted}
        row["infidelity / 1e6"] = torch.tensor(infidelity(**arguments)) / 1e6
        row["max-sensitivity"] = torch.tensor(np.array(sensitivity(**arguments)))
        for metric, values in row.items():
            found.setdefault(metric, []).append(values)
    return {metric: torch.cat(values).double().mean().item() for metric, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--layer", default="features.17.depthwise")
    parser.add_argument("--samples", type=int, help="instead of 16")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="quantus")

    paths = sorted((options.realdata / "imagenet").glob("*.JPEG"))
    paths = paths[:: len(paths) // options.images][: options.images]
    prepare = transforms.Compose(
        [
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    batches = list(torch.stack([prepare(Image.open(path)) for path in paths]).split(options.batch))
    weights = options.realdata / "mobilenet_v2_imagenet.safetensors"
    model = load_model(f"{options.realdata / 'models.py'}:mobilenet_v2", str(weights)).model
    for name in options.only:
        start = time.perf_counter()
        method = SETTINGS[name]
        if options.samples and isinstance(method, SampledMethod):
            method = replace(method, n_samples=options.samples)
        row = scores(method, model, options.layer, batches)
        if name == options.only[0]:
            sys.stdout.write(f"| {len(paths)} photographs | {' | '.join(row)} |\n|{' --- |' * (len(row) + 1)}\n")
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:.4f}" for value in row.values()) + " |\n")
        sys.stdout.flush()
        sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
