"""Speed and memory of the methods: ratios to one no-grad forward pass F of the same batch, and to pytorch-grad-cam.

    python benchmarks/speed.py [--rounds 7] [--batch 8] [--threads 1] [--device cpu] [--realdata DIR]

Everything compared runs in turn in one process, round after round, to the finished numpy map. One thread by default:
two threads on a busy machine are bimodal. Medians decide; minima show what a quiet machine would do. Memory is the peak
during a call, above what was held before it; what is held after three more calls is told where it has grown.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytorch_grad_cam
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import mutual_info_score
from torch import nn
from torchvision.models import resnet50

import cam_extras
from cam_extras.maps import input_map, normalise
from cam_extras.methods import METHODS, mutual_information
from cam_extras.methods._information import grey
from cam_extras.models import load_model
from cam_extras.probe import Probe
from cam_extras.utilities import ReST

ROOT = Path(__file__).resolve().parent.parent
GRADIENT_METHODS = ("GradCAM", "HiResCAM", "ShapleyCAM", "ShapleyCAMH", "ShapleyCAME")


def contenders(model: nn.Module, layer: nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed for a model."""
    targets = [ReST(1)] * len(x)
    ours = {name: getattr(cam_extras, name)(model, [layer]) for name in ("GradCAM", "ShapleyCAM", "MIGradCAM")}
    ours["OptiCAM"] = cam_extras.OptiCAM(model, [layer], max_iterations=5)
    references = torch.randn(4, *x.shape[1:], device=x.device)
    ours["ExpectedGradCAM"] = cam_extras.ExpectedGradCAM(model, [layer], n_samples=8, baselines=references)

    def forward() -> object:
        with torch.no_grad():
            return model(x).cpu()

    def five_on_one_probe() -> object:
        probe = Probe(model, layer, x, target=1)
        return [input_map(METHODS[name]()(probe), x.shape[2:]).cpu().numpy() for name in GRADIENT_METHODS]

    def upstream(name: str) -> Callable[[], object]:
        # Made for each call: while one is alive, its hooks run in every forward pass timed here.
        def call() -> object:
            with getattr(pytorch_grad_cam, name)(model, [layer]) as cam:
                return cam(x, targets)

        return call

    activations = Probe(model, layer, x).activations

    def information_by_sklearn() -> object:
        """Loop over channels, as the authors of MI-Grad-CAM do; over a few, for it takes minutes for all."""
        enlarged = F.interpolate(activations[:1, :32], x.shape[2:])[0].flatten(1).cpu().numpy()
        grey_levels = normalise(grey(x[:1])).mul(255).round().flatten().cpu().numpy()
        return [mutual_info_score(channel, grey_levels) for channel in enlarged]

    def five_obvious_iterations() -> object:
        """Opti-CAM as one writes it at first: all of the graph, and gradients of all parameters."""
        kept: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda module, args, output: kept.append(output.detach()))
        model(x)
        handle.remove()
        u = torch.zeros(kept[0].shape[:2], requires_grad=True, device=x.device)
        adam = torch.optim.Adam([u], 0.1)
        for _ in range(5):
            summed = (u.softmax(dim=1)[:, :, None, None] * kept[0]).sum(dim=1).relu()
            shown = normalise(F.interpolate(summed[:, None], x.shape[2:], mode="bilinear")[:, 0])
            (-model(x * shown[:, None])[:, 1].sum()).backward()
            adam.step()
            adam.zero_grad()
        model.zero_grad()
        return u

    return {
        "forward pass F": forward,
        "GradCAM": lambda: ours["GradCAM"](x, targets),
        "GradCAM of pytorch-grad-cam": upstream("GradCAM"),
        "ShapleyCAM": lambda: ours["ShapleyCAM"](x, targets),
        "ShapleyCAM of pytorch-grad-cam": upstream("ShapleyCAM"),
        "five methods on one probe": five_on_one_probe,
        "MIGradCAM": lambda: ours["MIGradCAM"](x, targets),
        "ExpectedGradCAM, 8 samples": lambda: ours["ExpectedGradCAM"](x, targets),
        "OptiCAM, 5 iterations": lambda: ours["OptiCAM"](x, targets),
        "the obvious loop, 5 iterations": five_obvious_iterations,
        f"mutual information, all {len(x) * activations.shape[1]} channels": lambda: mutual_information(activations, x),
        "mutual information, 32 channels, by sklearn": information_by_sklearn,
    }


def measure(calls: dict[str, Callable[[], object]], rounds: int, what: str) -> dict[str, list[float]]:
    """Time all calls in turn, round after round, after one round that does not count; seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in track(range(rounds + 1), what, console=Console(stderr=True)):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return times


def held(device: str, at_most: bool = False) -> float:
    """Return the memory that is held, or the most that was held since `settle`, in MiB."""
    if device != "cpu":
        return (torch.cuda.max_memory_allocated() if at_most else torch.cuda.memory_allocated()) / 2**20
    (kib,) = re.findall(
        rf"^{'VmHWM' if at_most else 'VmRSS'}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    return int(kib) / 2**10


def settle(device: str) -> None:
    """Give back what is free, and let the peak of memory be what is held now."""
    gc.collect()
    if device == "cpu":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: tensors go back when freed, and leave no holes to be counted
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(call: Callable[[], object], device: str) -> float:
    """Return the peak during a call above what was held before, in MiB."""
    settle(device)
    before = held(device)
    call()
    return held(device, at_most=True) - before


def memory(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Return the peak during a call above what was held before, and what is held more after three more calls; MiB."""
    peak = peak_memory(call, device)
    settle(device)
    after = held(device)
    for _ in range(3):
        call()
    settle(device)
    return peak, held(device) - after


def laboratory(realdata: Path) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return the models and layers that are measured, by title."""
    resnet = resnet50().eval()
    models = {"resnet50, layer4": (resnet, resnet.layer4)}
    weights = realdata / "mobilenet_v2_imagenet.safetensors"
    if weights.exists():
        mobilenet = load_model(f"{realdata / 'models.py'}:mobilenet_v2", str(weights)).model
        models["MobileNet-V2, features[-1]"] = (mobilenet, mobilenet.get_submodule("features.18"))
    else:
        sys.stderr.write(f"MobileNet-V2 is left out: there is no {weights}\n")
    return models


def options_of_all(about: str | None, rounds: int, batch: int = 8) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks of the models have."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    return parser


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options, and make torch ready."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def main() -> None:
    """Measure and print one table a model."""
    options = read_options(options_of_all(__doc__, rounds=7))
    warnings.filterwarnings("ignore", "Clustering metrics expects discrete values")

    measured = {}
    for title, (model, layer) in laboratory(options.realdata).items():
        model.to(options.device)
        calls = contenders(model, layer, torch.randn(options.batch, 3, 224, 224, device=options.device))
        measured[title] = calls, measure(calls, options.rounds, title)

    console = Console()
    console.print(
        f"torch {torch.__version__}, {options.threads} thread(s), batch {options.batch}, {options.device}, "
        f"{platform.machine()}, medians and minima of {options.rounds} rounds"
    )
    for title, (calls, times) in measured.items():
        table = Table(title=title)
        for heading in ("", "median s", "median / F", "minimum / F", "peer / ours", "peak MiB", "held"):
            table.add_column(heading, justify="right" if heading else "left")
        base = times["forward pass F"]
        for name, seconds in times.items():
            peer = times.get(f"{name} of pytorch-grad-cam")
            peak, more = memory(calls[name], options.device)  # after all timing: it changes how memory is taken
            table.add_row(
                name,
                f"{median(seconds):.3f}",
                f"{median(seconds) / median(base):.2f}",
                f"{min(seconds) / min(base):.2f}",
                f"{median(peer) / median(seconds):.2f}" if peer else "",
                f"{peak:.0f}",
                f"{more:+.0f}" if abs(more) >= 1 else "",
            )
        console.print(table)


if __name__ == "__main__":
    main()
