"""Speed of the Ray engine: two workers against one, of one thread each, and against the local engine.

    python benchmarks/ray_workers.py [--images 1024] [--rounds 3] [--workers 2]

Digits from files, with the methods and metrics that `evaluate` takes by default. The engines take turns, round after
round; medians decide. What is compared are images per second from the first part that is done to the last; what comes
before is told by itself: Ray starts, and a Python with torch for every worker and reader. With fewer free cores than
workers there is nothing to be gained, so the load is told too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision import transforms

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, SCALE, load_classifier
from cam_extras.methods import DEFAULT_METHODS, METHODS
from cam_extras.metrics import DEFAULT_METRICS, as_options
from cam_extras.runs.batches import Reader, Scored
from cam_extras.runs.config import RunConfig
from cam_extras.runs.engines.local import Job, local_parts
from cam_extras.runs.engines.ray import ray_parts
from cam_extras.runs.sources import Source, open_source

CPU = torch.device("cpu")


def make_job() -> Job:
    prepare = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.0], [SCALE])]
    config = RunConfig(
        model=load_classifier(),
        data=None,
        layer=LAYER,
        methods={name: METHODS[name]() for name in DEFAULT_METHODS},
        options=as_options(None, DEFAULT_METRICS),
    )
    return Job(config, Reader(transforms.Compose(prepare), "predicted", object_needed=False))


def parts_of(job: Job, source: Source, workers: int) -> Iterator[tuple[int, Scored]]:
    """Return the parts of the Ray engine, or of the local engine where there are no workers."""
    if not workers:
        return local_parts(job, source, set(), CPU, lambda images: None)
    job = replace(job, config=job.config.replaced(workers=workers))
    return ray_parts(job, source, set(), CPU, lambda images: None)


def measure(job: Job, source: Source, workers: int) -> tuple[float, float, float]:
    """Return seconds until the first part is done, seconds in all, and images per second from the first on."""
    start = time.perf_counter()
    done, first, images = 0.0, 0.0, 0
    for _, scored in parts_of(job, source, workers):
        done = time.perf_counter() - start
        if not first:
            first = done
        else:
            images += len({row["index"] for row in scored.rows})
    return first, time.perf_counter() - start, images / (done - first)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)

    engines = {"local": 0, "Ray, 1 worker": 1, f"Ray, {options.workers} workers": options.workers}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(make_canvases(options.images, "test", seed=0).images):
            pixels = (image[0].numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(Path(folder, f"{number:05}.png"))
        job, source = make_job(), open_source(folder)
        for _ in track(range(options.rounds), "measuring"):
            for name, workers in engines.items():
                loads.append(os.getloadavg()[0])
                measured[name].append(measure(job, source, workers))

    table = Table(
        title=f"{options.images} digits, {os.cpu_count()} CPUs, medians of {options.rounds} rounds, "
        f"load before a run {min(loads):.1f} to {max(loads):.1f}"
    )
    for heading in ("", "first part s", "all s", "images / s", "to 1 worker"):
        table.add_column(heading, justify="right" if heading else "left")
    speed = {name: median(rate for _, _, rate in runs) for name, runs in measured.items()}
    for name, runs in measured.items():
        first, whole = (median(run[column] for run in runs) for column in (0, 1))
        ratio = speed[name] / speed["Ray, 1 worker"]
        table.add_row(name, f"{first:.1f}", f"{whole:.1f}", f"{speed[name]:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
