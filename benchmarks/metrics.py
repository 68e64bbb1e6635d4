"""Cost of the metrics: ratios to one no-grad forward pass F of the same batch, and to Quantus' way of calling them.

    python benchmarks/metrics.py [--rounds 5] [--batch 8] [--threads 1] [--device cpu] [--realdata DIR]

The default metrics of Grad-CAM's maps, all at once and as Quantus classes one by one, with the maps given and with maps
explained by each; and insertion and deletion, whose steps are forward passes. All is timed in turn in one process.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from speed import laboratory, measure, options_of_all, read_options
from torch import Tensor, nn

from cam_extras.evaluation import Evaluator
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS, Schedule
from cam_extras.quantus import METRIC_CLASSES, Explainer

STEPS = Schedule(step=0.1)  # 11 points a curve


def contenders(model: nn.Module, layer: nn.Module, x: Tensor) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed for a model, and the forward passes that it must take."""
    method = METHODS["GradCAM"]()
    name = next(name for name, module in model.named_modules() if module is layer)
    explain_func = Explainer(method, name, batch_size=len(x))
    inputs, classes = x.cpu().numpy(), model(x).argmax(dim=1).cpu().numpy()
    maps = explain_func(model, inputs, classes)
    classes_of = [cls for cls in METRIC_CLASSES if cls.metric in DEFAULT_METRICS]

    def forward() -> object:
        with torch.no_grad():
            return model(x).cpu()

    def evaluate(metrics: tuple[str, ...]) -> Callable[[], object]:
        options = {"schedule": STEPS, "internal_batch_size": len(x)}
        evaluator = Evaluator(model, layer, {"it": method}, metrics, options)
        return lambda: evaluator(x).of_set()

    def one_by_one(a_batch: object) -> Callable[[], object]:
        return lambda: [
            metric()(model, inputs, classes, a_batch, explain_func=explain_func, device=x.device.type)
            for metric in classes_of
        ]

    return {
        "forward pass F": (forward, 1),
        "Grad-CAM's maps": (evaluate(("complexity",)), 1),
        "the ten default metrics at once": (evaluate(DEFAULT_METRICS), 4),
        "one by one in Quantus, maps given": (one_by_one(maps), 0),
        "one by one in Quantus": (one_by_one(None), 0),
        "insertion and deletion": (evaluate(("insertion_deletion",)), 1 + 22),
    }


def main() -> None:
    """Measure and print one table a model."""
    options = read_options(options_of_all(__doc__, rounds=5))
    console = Console()
    for title, (model, layer) in laboratory(options.realdata).items():
        model.to(options.device)
        known = contenders(model, layer, torch.randn(options.batch, 3, 224, 224, device=options.device))
        times = measure({name: call for name, (call, _) in known.items()}, options.rounds, title)
        table = Table(title=f"{title}, batch {options.batch}, {options.threads} thread(s), {platform.machine()}")
        for heading in ("", "median s", "median / F", "minimum / F", "passes"):
            table.add_column(heading, justify="right" if heading else "left")
        base = times["forward pass F"]
        for name, seconds in times.items():
            table.add_row(
                name,
                f"{median(seconds):.3f}",
                f"{median(seconds) / median(base):.2f}",
                f"{min(seconds) / min(base):.2f}",
                str(known[name][1] or ""),
            )
        console.print(table)


if __name__ == "__main__":
    main()
