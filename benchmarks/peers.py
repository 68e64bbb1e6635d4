"""Every method beside the classes of pytorch-grad-cam, Captum and torch-cam: forward passes and peak memory.

    pip install "cam-extras[benchmark]"
    python benchmarks/peers.py [--rounds 3] [--batch 2] [--threads 1] [--device cpu] [--realdata DIR] [--slow]

Prints one table, as Markdown. Time is that of the finished map, at the input's size on the CPU, in forward passes of
the same batch with gradients switched off; with a GPU in milliseconds, too. All that is compared runs in turn in one
process, round after round; medians. Memory is the peak during a call above what was held before it. `--slow` runs those
that mask channel by channel, too, and SESS: once, on one image, and in passes of one image. Left out are torch-cam's
ISCAM and SSCAM, which take 10 and 35 passes for each channel.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from statistics import median

import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution, LayerGradCam, LayerGradientXActivation
from pytorch_grad_cam.ablation_layer import AblationLayerVit
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from rich.console import Console
from rich.progress import track
from speed import laboratory, measure, options_of_all, peak_memory, read_options
from torch import Tensor, nn
from torchcam import methods as torchcam
from torchvision.models import VisionTransformer

import cam_extras
from cam_extras import captum as ours_in_captum
from cam_extras.methods import METHODS
from cam_extras.pytorch_grad_cam import UPSTREAM

CLASS = 1
SLOW = (
    "ScoreCAM",
    "SSCAM",
    "ISCAM",
    "AblationCAM",
    "SESS",
)  # a forward pass for each channel; for each of a hundred windows
# Fewer of what costs the same each, of 100, 35 and 10.
FEWER = {"OptiCAM": {"max_iterations": 10}, "SSCAM": {"n_samples": 1}, "ISCAM": {"n_samples": 1}}
# What is the same has one name here: Captum's gradient times activation is HiResCAM but for its ReLU.
NAMES = {"GradCAMPlusPlus": "GradCAM++", "GradCAMpp": "GradCAM++"}
NAMES |= {"SmoothGradCAMPlusPlus": "SmoothGradCAM++, 10 samples", "SmoothGradCAMpp": "SmoothGradCAM++, 4 samples"}
NAMES |= {"SSCAM": "SSCAM, 1 sample", "ISCAM": "ISCAM, 1 sample"}
NAMES |= {"OptiCAM": "OptiCAM, 10 iterations", "LayerGradientXActivation": "HiResCAM", "LayerGradCam": "GradCAM"}


def contenders(
    model: nn.Module, layer: nn.Module, to_map: Callable[[Tensor], Tensor] | None
) -> dict[str, Callable[[Tensor], object]]:
    """Return what makes maps (N, H, W) of a batch, by method and library."""

    def forward(x: Tensor) -> object:
        with torch.no_grad():
            return model(x).cpu()

    def in_pytorch_grad_cam(cam_type: Callable, x: Tensor) -> object:
        # Made for each call: while one is alive, its hooks run in every forward pass timed here.
        layers = [] if cam_type is UPSTREAM["FullGrad"] else [layer]  # it takes all layers with a bias
        more = {"ablation_layer": AblationLayerVit()} if to_map and cam_type is UPSTREAM["AblationCAM"] else {}
        with cam_type(model, layers, reshape_transform=to_map, **more) as cam:
            return cam(x, [ClassifierOutputTarget(CLASS)] * len(x))

    def in_captum(cam_type: Callable, x: Tensor) -> object:
        maps = cam_type(model, layer).attribute(x, CLASS).sum(dim=1, keepdim=True)
        return LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")[:, 0].detach().cpu()

    def in_torchcam(cam_type: Callable, x: Tensor) -> object:
        with cam_type(model, layer, reshape_transform=to_map) as cam:
            (maps,) = cam(CLASS, model(x))
        return F.interpolate(maps[:, None], x.shape[2:], mode="bilinear")[:, 0].cpu()

    found = {"forward pass | ": forward}

    def add(library: str, how: Callable, kind: Callable, name: str) -> None:
        found[f"{NAMES.get(name, name)} | {library}"] = partial(how, kind)

    for name in METHODS:
        kind = partial(getattr(cam_extras, name), **FEWER.get(name, {}))
        add("cam_extras", in_pytorch_grad_cam, kind, name)
    for name, kind in UPSTREAM.items():
        add("pytorch-grad-cam", in_pytorch_grad_cam, kind, name)
    if to_map is None:  # Captum knows of none
        add("cam_extras, Captum", in_captum, ours_in_captum.LayerGradCam, "GradCAM")
        add("cam_extras, Captum", in_captum, ours_in_captum.LayerHiResCam, "HiResCAM")
        for kind in (LayerGradCam, LayerGradientXActivation):
            add("Captum", in_captum, kind, kind.__name__)
    for name in ("CAM", "GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "ScoreCAM"):
        add("torch-cam", in_torchcam, getattr(torchcam, name), name)
    return found


def compare(
    model: nn.Module,
    layer: nn.Module,
    to_map: Callable[[Tensor], Tensor] | None,
    x: Tensor,
    rounds: int,
    slow: bool,
    what: str,
) -> dict[str, tuple[float, float, float]]:
    """Return seconds, forward passes and peak memory in MiB of each contender; say on stderr what cannot be run."""
    device = x.device.type
    calls = contenders(model, layer, to_map)
    late = {name: calls.pop(name) for name in list(calls) if name.startswith(SLOW)}
    able = {}
    for name, call in calls.items():
        try:
            result = call(x)
        except Exception as error:  # the peers raise what they like
            sys.stderr.write(f"{what}: {name} is left out: {type(error).__name__}: {str(error)[:200]}\n")
            continue
        if "forward" not in name and tuple(result.shape) != (len(x), *x.shape[2:]):
            raise RuntimeError(f"{name} made {tuple(result.shape)}")
        able[name] = partial(call, x)
    times = {name: median(seconds) for name, seconds in measure(able, rounds, what).items()}
    base = times["forward pass | "]
    found = {}
    for name, call in able.items():
        model.zero_grad()  # what a peer left there is its own memory, not what was there before
        found[name] = times[name], times[name] / base, peak_memory(call, device)
    if slow:
        forward = partial(calls["forward pass | "], x[:1])
        base = median(measure({"": forward}, 5, f"{what}, one image")[""])
        for name, call in track(late.items(), f"{what}, channel by channel", console=Console(stderr=True)):
            model.zero_grad()
            start = time.perf_counter()
            peak = peak_memory(partial(call, x[:1]), device)
            seconds = time.perf_counter() - start
            found[name] = seconds, seconds / base, peak
    return found


def main() -> None:
    """Measure and print one table."""
    parser = options_of_all(__doc__, rounds=3, batch=2)
    parser.add_argument("--slow", action="store_true", help="also what masks channel by channel: minutes a model")
    options = read_options(parser)
    warnings.filterwarnings("ignore")

    models = {title: (*place, None) for title, place in laboratory(options.realdata).items()}
    vit = VisionTransformer(224, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536).eval()
    nn.init.normal_(vit.heads.head.weight, std=0.1)  # torchvision starts with 0, which explains nothing
    models["ViT-S/16, last ln_1"] = (vit, vit.encoder.layers[-1].ln_1, vit_reshape_transform)

    measured = {}
    for title, (model, layer, to_map) in models.items():
        model.to(options.device)
        x = torch.randn(options.batch, 3, 224, 224, device=options.device)
        measured[title] = compare(model, layer, to_map, x, options.rounds, options.slow, title)

    absolute = options.device != "cpu"
    columns = [f"{title.split(',')[0]}: {unit}" for title in measured for unit in ("F", *["ms"] * absolute, "MiB")]
    lines = [
        f"torch {torch.__version__}, pytorch-grad-cam {version('grad-cam')}, Captum {version('captum')}, torch-cam "
        f"{version('torchcam')}; {options.device}, {options.threads} thread(s), batch {options.batch}, medians of "
        f"{options.rounds} rounds; F is "
        + ", ".join(f"{found['forward pass | '][0] * 1000:.0f} ms for {title}" for title, found in measured.items()),
        "",
        f"| method | library | {' | '.join(columns)} |",
        f"| --- | --- |{' ---: |' * len(columns)}",
    ]
    names = list(dict.fromkeys(name for found in measured.values() for name in found))
    methods = list(dict.fromkeys(name.split(" | ")[0] for name in names))
    for name in sorted(names, key=lambda name: methods.index(name.split(" | ")[0])):
        cells = []
        for found in measured.values():
            seconds, passes, peak = found.get(name, (None, None, None))
            if seconds is None:
                cells += ["-"] * (2 + absolute)
                continue
            cells += [f"{passes:.0f}" if passes >= 100 else f"{passes:.2f}"]
            cells += [f"{1000 * seconds:.1f}"] * absolute + [f"{peak:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
