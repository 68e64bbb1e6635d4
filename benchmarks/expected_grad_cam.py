"""Which baselines, noise and number of samples serve Expected Grad-CAM best without reference data.

    python benchmarks/expected_grad_cam.py [--data imagenet] [--images 100] [--score logit] [--only NAME ...]

Predicted class, masked with 0. Data is `imagenet` (MobileNet-V2, `features[-1]`, where the logit is linear in the
layer, so that neither noise nor positions matter to it) or `cifar10` (ResNet-20, `layer2[-1]`, where they do). Prints
one row a setting as soon as it is done; MobileNet-V2 takes about five minutes a setting.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import quantus
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS, GradientMethod
from cam_extras.methods._sampling import SampledMethod
from cam_extras.metrics import Schedule
from cam_extras.quantus import Explainer

ROOT = Path(__file__).resolve().parent.parent
SCHEDULE = Schedule(step=0.1)  # of insertion into a blurred image, and deletion to 0
Expected = METHODS["ExpectedGradCAM"]

SETTINGS: dict[str, GradientMethod] = {
    "GradCAM": METHODS["GradCAM"](),
    "zeros": Expected(baselines="zeros", noise=0.0),
    "blur": Expected(baselines="blur", noise=0.0),
    "noise": Expected(baselines="noise", noise=0.0),
    "batch": Expected(baselines="batch", noise=0.0),
    "zeros, noise 0.1": Expected(baselines="zeros", noise=0.1),
    "blur, noise 0.1": Expected(baselines="blur", noise=0.1),
    "zeros, noise 0.3": Expected(baselines="zeros", noise=0.3),
    "zeros, normal noise 0.1": Expected(baselines="zeros", noise=0.1, distribution="normal"),
    "zeros, noise 0.1, difference none": Expected(baselines="zeros", noise=0.1, difference="none"),
    "blur, difference input": Expected(baselines="blur", noise=0.0, difference="input"),
    "zeros, noise 0.1, n = 4": Expected(baselines="zeros", n_samples=4, noise=0.1),
    "zeros, noise 0.1, n = 32": Expected(baselines="zeros", n_samples=32, noise=0.1),
    "SmoothGradCAMPlusPlus": METHODS["SmoothGradCAMPlusPlus"](),
    "IntegratedGradCAM": METHODS["IntegratedGradCAM"](),
}


def laboratory(data: str, realdata: Path, count: int) -> tuple[nn.Module, str, Tensor]:
    """Return model, name of the layer and images."""
    lab = runpy.run_path(str(realdata / "models.py"))
    steps = [transforms.ToTensor(), transforms.Normalize(lab["MEAN"], lab["STD"])]
    if data == "cifar10":
        prepare = transforms.Compose(steps)
        images = list(np.load(realdata / "cifar10_test500.npz")["images"][:count])
        model = lab["resnet_cifar"](20, str(realdata / "resnet20_cifar10.safetensors"))
        return model, f"layer2.{len(model.layer2) - 1}", torch.stack([prepare(image) for image in images])
    prepare = transforms.Compose([transforms.CenterCrop(224), *steps])
    paths = sorted((realdata / "imagenet").glob("*.JPEG"))
    paths = paths[:: len(paths) // count][:count]
    model = lab["mobilenet_v2"](str(realdata / "mobilenet_v2_imagenet.safetensors"))
    return model, "features.18", torch.stack([prepare(Image.open(path)) for path in paths])


def scores(method: GradientMethod, model: nn.Module, layer: str, x: Tensor) -> dict[str, Tensor]:
    """Score one batch: (N,) for each metric."""
    metrics = ("average_drop", "average_gain", "drop_in_deletion", "coherency", "insertion", "deletion")
    metrics += ("insertion_deletion",)
    options = {"schedule": SCHEDULE}
    evaluation = Evaluator(model, model.get_submodule(layer), {"it": method}, metrics, options)(x)
    maps, classes = evaluation.maps["it"], evaluation.target
    arguments = {
        "model": model,
        "x_batch": x.numpy(),
        "y_batch": classes.numpy(),
        "a_batch": maps[:, None].numpy(),
        "explain_func": Explainer(method, layer),
        "batch_size": len(x),
        "softmax": True,
    }
    np.random.seed(0)  # noqa: NPY002  (Quantus draws from it)
    infidelity = quantus.Infidelity(perturb_patch_sizes=[x.shape[-1] // 4], n_perturb_samples=1, disable_warnings=True)
    sensitivity = quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)
    # Per pixel of the map: it grows with the square of their number.
    unfaithful = torch.tensor(infidelity(**arguments)) / maps[0].numel() ** 2
    return dict(evaluation.scores["it"]) | {
        "infidelity": unfaithful,
        "max-sensitivity": torch.tensor(np.array(sensitivity(**arguments))),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--data", choices=("imagenet", "cifar10"), default="imagenet")
    parser.add_argument("--score", default="logit")
    parser.add_argument("--samples", type=int, help="instead of 16")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="quantus")

    model, layer, x = laboratory(options.data, options.realdata, options.images)
    for name in options.only:
        start = time.perf_counter()
        method = replace(SETTINGS[name], utility=options.score)
        if options.samples and isinstance(method, SampledMethod):
            method = replace(method, n_samples=options.samples)
        found = [scores(method, model, layer, batch) for batch in x.split(options.batch)]
        row = {metric: torch.cat([part[metric] for part in found]).double().mean().item() for metric in found[0]}
        if name == options.only[0]:
            sys.stdout.write(f"| {len(x)} images | {' | '.join(row)} |\n|{' --- |' * (len(row) + 1)}\n")
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:.4f}" for value in row.values()) + " |\n")
        sys.stdout.flush()
        sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
