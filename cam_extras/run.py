"""A run: methods x metrics over a data set, resumable, with a summary and a report."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn

from cam_extras._checks import check_choice, check_count
from cam_extras.configuration import describe, read_methods, read_options
from cam_extras.layers import auto_layer
from cam_extras.methods import Method
from cam_extras.methods.base import controls_of
from cam_extras.metrics import DEFAULT_METRICS, METRICS, Options, as_metrics, sources_of, with_parts
from cam_extras.models import Classifier, fingerprint, picture_of
from cam_extras.probe import find_layer
from cam_extras.report import overlay, write_report
from cam_extras.runs.batches import TARGETS, Drawing, Input, Reader, Scored
from cam_extras.runs.engines.local import Job, local_parts
from cam_extras.runs.identity import identify
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.sources import Indexed, Source, open_source
from cam_extras.runs.store import RUN_FILES, Run, Store, atomic_write, check_not_in_the_way
from cam_extras.runs.summary import summarise, write_summary

ENGINES = ("local", "ray")
# Those that take one forward pass, and the two controls.
DEFAULT_METHODS = (
    "GradCAM",
    "HiResCAM",
    "ShapleyCAM",
    "ShapleyCAMH",
    "ShapleyCAME",
    "MIGradCAM",
    "FakeCAM",
    "RandomCAM",
)
_UNREAD = 32  # so many images that cannot be read, one after the other, are no accident
_PACKAGES = (
    "cam_extras", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pyarrow", "ray"
)  # fmt: skip


def evaluate(
    model: nn.Module | Classifier,
    layer: str | nn.Module,
    data: Any,
    output: str | os.PathLike[str],
    *,
    methods: Sequence[str | Method] | Mapping[str, Method | Mapping[str, Any]] = DEFAULT_METHODS,
    metrics: Sequence[str] = DEFAULT_METRICS,
    options: Options | Mapping[str, Any] | None = None,
    target: str | int = "predicted",
    transform: Callable[[Any], Tensor] | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    categories: Sequence[str] = (),
    name: str | None = None,
    mode: str = "new",
    insist: bool = False,
    retry_errors: bool = False,
    limit: int | None = None,
    batch_size: int | str = "auto",
    images_per_part: int = 32,
    device: torch.device | str | None = None,
    engine: str = "local",
    workers: int = 1,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    seed: int = 0,
    maps: bool = False,
    pictures: int = 8,
    settings: Mapping[str, Any] | None = None,
    files: Sequence[str] = (),
    progress: bool | None = None,
) -> Run:
    """Explain the images of a data set with every method, score the maps with every metric, and write what came out.

    In the output folder: `results.parquet`, a row for each image and method; `errors.parquet`, a row for each image
    without scores and why; `summary.csv` and `summary.json`, the values of the set with bootstrap intervals;
    `report.html`, to look at; `run.json`, the configuration and the environment of every start. An image that cannot
    be read, or on which the model fails or a score is undefined, does not stop the run.

    An interrupted run goes on with `mode="resume"`, part by part, and ends with the very table of one that was not.

    Args:
        model: a classifier; the model is left as found.
        layer: the layer to explain, by dotted name or itself; "auto" for the last feature map before pooling.
        data: images, and labels where there are any: a folder, a CSV or Parquet file, a glob, a data set, a
            `DataLoader` that does not shuffle or any iterable, see `cam_extras.runs.sources.open_source`.
        output: the folder. Files that are there and belong to no run are never replaced.
        methods: see `cam_extras.configuration.read_methods`; by default those that take one forward pass.
        metrics: names of `METRICS`; capitals do not matter, and short names do.
        options: of the metrics, see `cam_extras.metrics.as_options`.
        target: the class to explain: "predicted", "label" or a number.
        transform: image -> input (C, *S); by default the classifier's own. None where the data has inputs.
        reshape_transform: see `cam_extras.probe.Probe`; by default the classifier's own.
        categories: names of the classes; by default the classifier's own.
        name: what to call the model.
        mode: "new", "resume" or "overwrite", see `Store.open`.
        insist: go on with a run though images, functions, transforms or the model differ from what they were at its
            start, or where that cannot be told, which `run.json` notes; and where many images in a row cannot be read.
        retry_errors: with "resume", do again the parts with images that have no scores, for what went wrong may have
            passed: files that were out of reach for a while, memory that others had.
        limit: take the first images only, so many.
        batch_size: most images at a time; "auto" for what the device does best. Where memory runs out it is halved.
        images_per_part: how many images are lost at most when a run is interrupted.
        device: where to work; by default where the model is.
        engine: "local", or "ray" for Ray Data (`pip install cam_extras[ray]`).
        workers: of Ray: how many copies of the model work side by side.
        gpus_per_worker: of Ray: a part of one will do; by default one where the device is a GPU.
        address: of a running Ray cluster; None to start Ray on this machine.
        seed: of methods and metrics given by name, of the bootstrap and of the images at random in the report.
        maps: keep the maps, as float16, in the results.
        pictures: how many of the best, the worst and random images the report shows.
        settings: kept as `config.yaml`, for `cam-extras evaluate --config`.
        files: names of files that the caller will write into the folder when the run is done. They are part of it:
            "overwrite" removes them, too.
        progress: whether to show a progress bar; None for: in a terminal.

    Raises:
        TypeError: a method or metric has no such option, or an argument has another type.
        ValueError: an argument is out of its range, there are no images, or the folder holds another run, or one that
            cannot be told to be the same, or a file that the run would replace.
        RuntimeError: the model fails on all of the first images; 32 images in a row cannot be read; or another process
            works on the folder.
        NoSpaceError: the disk is full; make room, and resume.
    """
    check_choice("engine", engine, ENGINES)
    check_count("images_per_part", images_per_part)
    check_count("pictures", pictures, least=0)
    check_count("seed", seed, least=0)
    if seed >= 2**63:
        raise ValueError(f"seed must be less than 2**63; got {seed}")
    if retry_errors and mode != "resume":
        raise ValueError(f"retry_errors goes with mode 'resume': there is nothing to retry with {mode!r}")
    if batch_size != "auto":
        check_count("batch_size", batch_size)
    if isinstance(target, str):
        check_choice("target", target, TARGETS)
    elif isinstance(target, bool) or not isinstance(target, Integral):
        raise TypeError(
            f"target must be 'predicted', 'label' or the number of a class; got {target!r}: for a class of its own for "
            "each image give the data labels, and 'label'"
        )
    else:
        check_count("target", target, least=0)
        target = int(target)
    if isinstance(model, Classifier):
        transform = transform or model.transform
        reshape_transform = reshape_transform or model.reshape_transform
        categories = categories or model.categories
        model = model.model
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module or a Classifier; got {type(model).__name__}")
    written = [*(name for name in RUN_FILES if settings is not None or name != "config.yaml"), *files]
    check_not_in_the_way(output, written)
    of_methods = read_methods(methods, seed)
    of_metrics = list(as_metrics(metrics))
    if not of_metrics:
        raise ValueError("there is no metric to evaluate: give one or more")
    options = read_options(options, of_metrics, seed)
    source = open_source(data, categories=categories, labels_needed=target == "label", limit=limit)
    object_needed = any("object" in sources_of(metric) for metric in of_metrics)
    reader = Reader(transform, target, object_needed)
    identity = identify(
        {
            "model": model,
            "transform": transform,
            "reshape_transform": reshape_transform,
            "methods": of_methods,
            "metrics": [METRICS[name] for name in dict.fromkeys([*of_metrics, *with_parts(of_metrics)])],
            "options": options,
            "data": source.contents(),
        }
    )
    with _on_device(model, device) as at:
        layer = _layer_name(model, layer, source, reader, reshape_transform, at)
        columns = with_parts(of_metrics)
        dims = {name: vector.dims for name in columns if (vector := METRICS[name].vector)}
        plain = [name for name in columns if name not in dims]
        best = "adcc" if "adcc" in plain else plain[0] if plain else None
        if best is None:  # no image is better than another by a number
            pictures = 0
        job = Job(
            reader=reader,
            model=model,
            layer=layer,
            methods=of_methods,
            metrics=tuple(of_metrics),
            options=options,
            reshape_transform=reshape_transform,
            target=target,
            batch_size=None if batch_size == "auto" else int(batch_size),
            maps=maps,
            drawing=Drawing(picture_of(transform), overlay, pictures, best, seed) if best and pictures else None,
            images_per_part=images_per_part,
        )
        job.scorer(at)  # what is wrong with methods and metrics is said before there is a folder
        configuration = {
            "model": {
                "name": name or type(model).__name__,
                "sha256": fingerprint(model),
                "transform": describe(transform),
                "reshape_transform": describe(reshape_transform),
            },
            "layer": layer,
            "data": source.describe(),
            "limit": limit,
            "methods": describe(of_methods),
            "metrics": of_metrics,
            "options": describe(options),
            "target": target,
            "batch_size": batch_size,
            "images_per_part": images_per_part,
            "device": at.type,
            "seed": seed,
            "maps": maps,
            "pictures": {"count": pictures, "metric": best},
        }
        controls = controls_of(of_methods)
        environment = {"categories": list(categories), "controls": controls, "engine": engine, **_environment(at)}
        curves = any(name in columns for name in ("insertion", "deletion"))
        with Store.open(
            output,
            configuration,
            mode,
            metrics=columns,
            curves=curves,
            maps=maps,
            dims=dims,
            environment=environment,
            identity=identity,
            insist=insist,
            files=written,
        ) as store:
            done, retried = store.done(), store.with_errors() if retry_errors else set()
            done -= retried
            check_reads = _Reads(insist)
            with _progress(source.size, len(done) * images_per_part, progress) as advance:
                if engine == "ray":
                    from cam_extras.runs.engines.ray import ray_parts

                    parts = ray_parts(
                        job,
                        source,
                        done,
                        at,
                        advance,
                        workers=workers,
                        gpus_per_worker=gpus_per_worker,
                        address=address,
                    )
                else:
                    parts = local_parts(job, source, done, at, advance)
                for part, scored in parts:
                    check_reads(scored)
                    store.write(part, scored.rows, scored.errors, scored.pictures, replace=part in retried)
            if best and pictures:
                values = store.results(["index", "method", best])
                index, method, score = (values[column].to_pylist() for column in ("index", "method", best))
                of_images = image_values(index, method, score, best, controls)
                groups = choose_images(of_images, pictures, seed)
                store.keep_pictures({index for group in groups.values() for index in group})
            store.finish()
            table = store.results(["index", "method", *columns])
            write_summary(store.folder, summarise(table, columns, controls=controls, seed=seed))
            if settings is not None:
                text = yaml.safe_dump({**settings, "layer": layer}, sort_keys=False, allow_unicode=True)
                atomic_write(store.folder / "config.yaml", lambda file: file.write(text.encode()))
            run = Run(store.folder)
            write_report(run)
    return run


class _Reads:
    """Raises RuntimeError where so many images in a row cannot be read that the data must be out of reach."""

    def __init__(self, insist: bool):
        self._insist, self._failed = insist, 0

    def __call__(self, scored: Scored) -> None:
        """Look at one more part."""
        errors = {error.index: error for error in scored.errors}
        for index in sorted({*errors, *(row["index"] for row in scored.rows)}):
            unread = index in errors and errors[index].stage == "read"
            self._failed = self._failed + 1 if unread else 0
            if self._failed == _UNREAD and not self._insist:
                raise RuntimeError(
                    f"{_UNREAD} images in a row cannot be read, the last {errors[index].path}: "
                    f"{errors[index].message}: see whether the data is out of reach. What is done is kept: go on with "
                    "--resume --retry-errors; or with --insist where these files are what they are to be"
                )


@contextmanager
def _on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Have the model on a device, and where it was after that."""
    tensor = next((tensor for group in (model.parameters(), model.buffers()) for tensor in group), torch.empty(0))
    if device is None:
        yield tensor.device
        return
    at = torch.empty(0, device=device).device  # raises where there is no such device
    if at.type == "meta":
        raise ValueError("device='meta' has no values, and a model that is moved there loses its own: give another")
    try:
        model.to(at)
        yield at
    finally:
        model.to(tensor.device)


def _layer_name(
    model: nn.Module,
    layer: str | nn.Module,
    source: Source,
    reader: Reader,
    reshape_transform: Callable[[Tensor], Tensor] | None,
    device: torch.device,
) -> str:
    if layer == "auto":
        return auto_layer(model, _first_input(source, reader).to(device), reshape_transform)[0]
    if isinstance(layer, str):
        find_layer(model, layer)
        return layer
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise ValueError(f"the layer {type(layer).__name__} is not a module of this {type(model).__name__}")


def _first_input(source: Source, reader: Reader) -> Tensor:
    """Return the first input there is, as a batch of one."""
    if not isinstance(source, Indexed):
        raise ValueError(
            'layer="auto" looks at an image before the run, and of this data none can be asked for, they come in '
            "order: name the layer"
        )
    failure = None
    for index in range(len(source)):
        found = reader.read(source, index)
        if isinstance(found, Input):
            return found.x[None]
        failure = failure or found
    raise ValueError(f"not one image can be explained; of the first, {failure.path}: {failure.message}")  # type: ignore[union-attr]


def _environment(device: torch.device) -> dict[str, Any]:
    """Return what may differ from one start of a run to the next."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether files differ from it; None where there is no repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} images/s")


@contextmanager
def _progress(images: int | None, done: int, shown: bool | None) -> Iterator[Callable[[int], None]]:
    """Show how far a run is, on the terminal's error stream, and yield what moves it on."""
    columns = (TextColumn("explaining and scoring"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    disable = not (sys.stderr.isatty() if shown is None else shown)
    with Progress(*columns, console=Console(stderr=True), disable=disable, speed_estimate_period=120) as progress:
        task = progress.add_task("", total=images, completed=0 if images is None else min(done, images))
        yield lambda count: progress.update(task, advance=count)
