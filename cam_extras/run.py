"""A run: methods x metrics over a data set, resumable, with a summary and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from cam_extras._checks import check_choice, check_count
from cam_extras._names import Fusion
from cam_extras._outputs import Output, check_output
from cam_extras.layers import AnyLayer, as_layers, name_of, settle
from cam_extras.methods import DEFAULT_METHODS, as_methods
from cam_extras.methods.base import controls_of
from cam_extras.methods.named import AnyMethods
from cam_extras.metrics import DEFAULT_METRICS, METRICS, Options, as_metrics, as_options, sources_of, with_parts
from cam_extras.metrics.probabilities import AnyConfidence, check_confidence
from cam_extras.models import Classifier, fingerprint, picture_of
from cam_extras.probe import ReshapeTransform
from cam_extras.report import overlay, write_report
from cam_extras.runs.batches import REFERENCES, TARGETS, Drawing, Input, Reader, Scored
from cam_extras.runs.by_label import by_label
from cam_extras.runs.config import ALL_LABELS, RunConfig, is_by_label, threshold_in
from cam_extras.runs.engines.local import Job, local_parts
from cam_extras.runs.environment import environment
from cam_extras.runs.identity import describe, identify
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.progress import progress_bar
from cam_extras.runs.sources import Indexed, Source, open_source
from cam_extras.runs.store import RUN_FILES, Run, Store, atomic_write, check_not_in_the_way
from cam_extras.runs.summary import summarise, write_summary
from cam_extras.utilities import OutputTarget, as_classes

_UNREAD = 32  # this many unreadable images in a row are no accident


def evaluate(
    model: nn.Module | Classifier,
    layer: AnyLayer,
    data: Any,
    output: str | os.PathLike[str],
    *,
    fusion: Fusion = "mean",
    methods: AnyMethods = DEFAULT_METHODS,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    options: Options | Mapping[str, Any] | None = None,
    target: Any = "predicted",
    against: Any = None,
    model_output: Output = None,
    confidence: AnyConfidence = "softmax",
    transform: Callable[[Any], Tensor] | None = None,
    reshape_transform: ReshapeTransform = "auto",
    categories: Sequence[str] = (),
    name: str | None = None,
    mode: Literal["new", "resume", "overwrite"] = "new",
    insist: bool = False,
    retry_errors: bool = False,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    images_per_part: int = 32,
    device: torch.device | str | None = None,
    engine: Literal["local", "ray"] = "local",
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
    """Explain the images of a data set with every method, score the maps with every metric, and write the results.

    The output folder gets `results.parquet`, one row per image and method; `errors.parquet`, one row per image
    without scores, with the reason; `summary.csv` and `summary.json`, the values over the set with bootstrap intervals;
    `report.html`, to look at; `run.json`, the configuration and the environment of every start. An image that cannot
    be read, or on which the model fails or a score is undefined, does not stop the run.

    An interrupted run continues with `mode="resume"`, part by part, and ends with the same table as one that was not.

    Args:
        model: a classifier; it is left as it was found.
        layer: the layer to explain: its dotted name, or the module; "auto" for the last feature map before pooling; or
            a list of layers, which share all passes and whose maps become one.
        data: images, and labels if there are any: a folder, a CSV or Parquet file, a glob, a data set, a
            `DataLoader` that does not shuffle, or any iterable; see `cam_extras.runs.sources.open_source`.
        output: the folder to write to. Files in it that belong to no run are never replaced.
        fusion: how the maps of several layers become one: "mean", "max", or "refine", their product; see
            `cam_extras.fusion`.
        methods: see `cam_extras.methods.as_methods`; by default those that take one forward pass.
        metrics: full or short names from `METRICS`, or your own as "FILE.py:NAME"; see `cam_extras.metrics.as_metrics`.
        options: options of the metrics, see `cam_extras.metrics.as_options`.
        target: the class to explain: "predicted" or None, "label", a class number, or a target object for one class,
            such as pytorch-grad-cam's `ClassifierOutputTarget(3)`. Or one row for each image and label, of data that
            can be read in any order: "all-labels", for all labels that an image has in the data (see `several_labels`
            of `cam_extras.runs.sources.open_source`), or "above=0.5", for the classes with a probability above that,
            which costs one forward pass of each image before the run.
        against: explain why the class and not this one, see `cam_extras.targets.Contrast`: "second", the class with the
            highest score besides it, "label", or a class number. An image where both are the same gets no scores.
        model_output: where the class scores are in the model's output: a key or attribute, an index, or a function of
            the output; by default they are looked for, see `output` of `cam_extras.probe.Probe`.
        confidence: how class scores become probabilities: "softmax", "sigmoid" for labels of which any number may be
            true, or a function, (N, C) -> (N, C); see `cam_extras.metrics.probabilities`.
        transform: image -> input (C, *S); by default the classifier's own. None if the data are inputs already.
        reshape_transform: see `cam_extras.probe.Probe`.
        categories: class names; by default the classifier's own.
        name: what to call the model.
        mode: "new", "resume" or "overwrite", see `Store.open`.
        insist: resume even if images, functions, transforms or the model have changed since the run started, or if
            that cannot be checked (`run.json` notes it); and go on even if many images in a row cannot be read.
        retry_errors: with "resume", redo the parts with images that have no scores: the cause may have been
            temporary, such as files out of reach or too little free memory.
        limit: take only the first `limit` images.
        batch_size: largest number of images per batch; "auto" suits it to the device. Halved if memory runs out.
        images_per_part: the most images whose results an interruption can lose.
        device: where to compute; by default where the model is.
        engine: "local", or "ray" for Ray Data (`pip install cam_extras[ray]`).
        workers: for Ray: how many copies of the model work in parallel.
        gpus_per_worker: for Ray: may be a fraction; by default 1 if the device is a GPU.
        address: of a running Ray cluster; None to start Ray on this machine.
        seed: for methods and metrics given by name, the bootstrap, and the random images in the report.
        maps: keep the maps, as float16, in the results.
        pictures: how many best, worst and random images the report shows, of each.
        settings: saved as `config.yaml`, for `cam-extras evaluate --config`.
        files: names of files that the caller will write into the folder after the run. They count as part of it:
            "overwrite" removes them too.
        progress: whether to show a progress bar; None shows it in a terminal only.

    Raises:
        TypeError: a method or metric has no such option, or an argument has the wrong type.
        ValueError: an argument is out of range, there are no images, or the folder holds another run, a run that
            may not be the same, or a file that the run would replace.
        RuntimeError: the model fails on all of the first images; 32 images in a row cannot be read; or another process
            is working on the folder.
        NoSpaceError: the disk is full; make room, then resume.
    """
    return run_config(RunConfig(**locals()))


def run_config(config: RunConfig) -> Run:
    """Run a configuration whose model is loaded; see `evaluate`."""
    config = _without_classifier(config)
    check_not_in_the_way(config.output, _files(config))
    config = _resolved(config)
    source = open_source(
        config.data,
        categories=config.categories,
        labels_needed=config.target == ALL_LABELS or "label" in (config.target, config.against),
        several_labels=is_by_label(config.target),
        limit=config.limit,
    )
    identity = _identity(config, source)
    with _on_device(config.model, config.device) as device:
        if is_by_label(config.target):
            source = by_label(source, config, device)
        job = _job(config, source, device)
        job.scorer(device)  # errors in methods and metrics are raised before a folder is made
        with _open_store(job, source, device, identity) as store:
            _work(job, source, store, device)
            return _conclude(job, store)


def _without_classifier(config: RunConfig) -> RunConfig:
    """Move what a classifier brings into the settings, or raise TypeError if there is no model."""
    given = config.model
    if isinstance(given, Classifier):
        config = config.replaced(
            model=given.model,
            transform=config.transform or given.transform,
            categories=config.categories or given.categories,
        )
    if not isinstance(config.model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module or a Classifier; got {type(given).__name__}")
    return config


def _files(config: RunConfig) -> list[str]:
    """Name the files beside the parts that the run will write."""
    return [*(name for name in RUN_FILES if config.settings is not None or name != "config.yaml"), *config.files]


def _resolved(config: RunConfig) -> RunConfig:
    """Return the configuration with methods, metrics, options and the target resolved."""
    check_output(config.model_output)
    check_confidence(config.confidence)
    metrics = as_metrics(config.metrics)
    if not metrics:
        raise ValueError("there is no metric to evaluate: give one or more")
    target, against = _target(config.target), _against(config.against)
    if is_by_label(target):
        _check_by_label(target, against, metrics)
    return config.replaced(
        target=target,
        against=against,
        methods=as_methods(config.methods, config.seed),
        metrics=metrics,
        options=as_options(config.options, metrics, seed=config.seed),
    )


def _target(target: Any) -> str | int:
    if isinstance(target, str):
        threshold = threshold_in(target)
        if threshold is not None:
            return f"above={threshold}"
        check_choice("target", target, [*TARGETS, "above=0.5"])
        return target
    if target is None:
        return "predicted"
    if isinstance(target, OutputTarget):
        raise TypeError(
            f"a run explains a class of every image; got {target!r:.80}: compare it with another by against=, and give "
            "other targets to an Evaluator"
        )
    index = target if isinstance(target, bool | float) else as_classes(target)
    if isinstance(index, Tensor) and index.numel() == 1:
        index = index.item()
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(
            f"target must be 'predicted', 'label' or the number of a class; got {target!r:.80}: to explain a "
            "different class of each image, give the data labels and target='label'"
        )
    check_count("target", index, least=0)
    return int(index)


def _check_by_label(target: Any, against: Any, metrics: Sequence[str]) -> None:
    """Raise ValueError for what a row for each image and label cannot have."""
    if against == "label":
        raise ValueError(
            f"against='label' is for images with one label, and with target={target!r} they may have several: give "
            "'second' or a class"
        )
    asking = [name for name in metrics if "object" in sources_of(name)]
    if asking:
        raise ValueError(
            f"{', '.join(asking)} asks where the object is, and with target={target!r} boxes and masks do not say of "
            "which label they are: leave it out, or give one item for each image and label, with target='label'"
        )


def _against(against: Any) -> str | int | None:
    if against is None:
        return None
    if isinstance(against, str):
        check_choice("against", against, REFERENCES)
        return against
    check_count("against", against, least=0)
    return int(against)


def _best_by(config: RunConfig) -> str | None:
    """Name the metric that ranks the images; None if no metric has one number per image."""
    plain = [name for name in with_parts(config.metrics) if METRICS[name].vector is None]
    return "adcc" if "adcc" in plain else next(iter(plain), None)


def _identity(config: RunConfig, source: Source) -> dict[str, Any]:
    """Return fingerprints of everything that results depend on."""
    names = ("model", "transform", "reshape_transform", "methods", "options")
    functions = [name for name in ("model_output", "confidence") if callable(getattr(config, name))]
    return identify(
        {
            **{name: getattr(config, name) for name in (*names, *functions)},
            "metrics": [METRICS[name] for name in dict.fromkeys([*config.metrics, *with_parts(config.metrics)])],
            "data": source.contents(),
        }
    )


def _job(config: RunConfig, source: Source, device: torch.device) -> Job:
    """Return what to do with every image, including the layer."""
    object_needed = any("object" in sources_of(metric) for metric in config.metrics)
    reader = Reader(config.transform, config.target, object_needed, config.against)
    layer = _layer_names(config, source, reader, device)
    best, drawing = _best_by(config), None
    if config.pictures and best is not None:
        drawing = Drawing(picture_of(config.transform), overlay, config.pictures, best, config.seed)
    metrics = {name: METRICS[name] for name in dict.fromkeys([*config.metrics, *with_parts(config.metrics)])}
    return Job(config.replaced(layer=layer, data=None), reader, drawing, metrics)


def _open_store(job: Job, source: Source, device: torch.device, identity: Mapping[str, Any]) -> Store:
    config, columns = job.config, with_parts(job.config.metrics)
    configuration = config.compared(
        model={
            "name": config.name or type(config.model).__name__,
            "sha256": fingerprint(config.model),
            "transform": describe(config.transform),
            "reshape_transform": describe(config.reshape_transform),
        },
        data=source.describe(),
        methods=describe(config.methods),
        options=describe(config.options),
        model_output=describe(config.model_output),
        confidence=describe(config.confidence),
        device=device.type,
        pictures={"count": 0 if job.drawing is None else config.pictures, "metric": _best_by(config)},
    )
    if isinstance(config.layer, str):
        del configuration["fusion"]  # there is nothing to fuse
    return Store.open(
        config.output,
        configuration,
        config.mode,
        metrics=columns,
        curves=any(name in columns for name in ("insertion", "deletion")),
        maps=config.maps,
        dims={name: vector.dims for name in columns if (vector := METRICS[name].vector)},
        environment={
            "categories": list(config.categories),
            "controls": controls_of(config.methods),
            "engine": config.engine,
            **environment(device),
        },
        identity=identity,
        insist=config.insist,
        files=_files(config),
    )


def _work(job: Job, source: Source, store: Store, device: torch.device) -> None:
    """Write the parts that are not done."""
    config = job.config
    retried = store.with_errors() if config.retry_errors else set()
    done = store.done() - retried
    check_reads = _Reads(config.insist)
    with progress_bar(source.size, len(done) * config.images_per_part, config.progress) as advance:
        for part, scored in _engine(config.engine)(job, source, done, device, advance):
            check_reads(scored)
            store.write(part, scored.rows, scored.errors, scored.pictures, replace=part in retried)


def _engine(name: str) -> Callable[..., Iterator[tuple[int, Scored]]]:
    if name == "local":
        return local_parts
    from cam_extras.runs.engines.ray import ray_parts  # imported only if asked for: Ray is optional

    return ray_parts


def _conclude(job: Job, store: Store) -> Run:
    """Write the files that are made from the parts."""
    config, columns, controls = job.config, with_parts(job.config.metrics), controls_of(job.config.methods)
    if job.drawing is not None:
        best = job.drawing.metric
        values = store.results(["index", "method", best])
        index, method, score = (values[name].to_pylist() for name in ("index", "method", best))
        groups = choose_images(image_values(index, method, score, best, controls), config.pictures, config.seed)
        store.keep_pictures({index for group in groups.values() for index in group})
    store.finish()
    table = store.results(["index", "method", *columns])
    write_summary(store.folder, summarise(table, columns, controls=controls, seed=config.seed))
    if config.settings is not None:
        text = yaml.safe_dump({**config.settings, "layer": config.layer}, sort_keys=False, allow_unicode=True)
        atomic_write(store.folder / "config.yaml", lambda file: file.write(text.encode()))
    run = Run(store.folder)
    write_report(run)
    return run


class _Reads:
    """Raises RuntimeError if so many images in a row cannot be read that the data must be out of reach."""

    def __init__(self, insist: bool):
        self._insist, self._failed, self._last = insist, 0, ""

    def __call__(self, scored: Scored) -> None:
        """Check one more part."""
        errors = {error.index: error for error in scored.errors}
        for index in sorted({*errors, *(row["index"] for row in scored.rows)}):
            unread = index in errors and errors[index].stage == "read"
            again = unread and errors[index].path == self._last  # an image may have several rows
            self._failed = (self._failed + (not again)) if unread else 0
            self._last = errors[index].path if unread else ""
            if self._failed == _UNREAD and not self._insist:
                raise RuntimeError(
                    f"{_UNREAD} images in a row cannot be read, the last {errors[index].path}: "
                    f"{errors[index].message}: check that the data can be reached. What is done is kept: go on with "
                    'mode="resume", retry_errors=True; or with insist=True if these files are meant to be like this'
                )


@contextmanager
def _on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Move the model to a device, and back afterwards."""
    tensor = next((tensor for group in (model.parameters(), model.buffers()) for tensor in group), torch.empty(0))
    if device is None:
        yield tensor.device
        return
    at = torch.empty(0, device=device).device  # raises where there is no such device
    if at.type == "meta":
        raise ValueError("device='meta' holds no values, and a model moved there would lose its own: give another")
    try:
        model.to(at)
        yield at
    finally:
        model.to(tensor.device)


def _layer_names(config: RunConfig, source: Source, reader: Reader, device: torch.device) -> str | list[str]:
    """Name the layer, or the layers if there are several."""
    layers = as_layers(config.model, config.layer)
    if "auto" in layers:
        x = _first_input(source, reader).to(device)
        layers = [*settle(config.model, layers, x, config.reshape_transform, config.model_output)]
    names = [name_of(config.model, layer) for layer in layers]
    return names[0] if len(names) == 1 else names


def _first_input(source: Source, reader: Reader) -> Tensor:
    """Return the first input that can be read, as a batch of one."""
    if not isinstance(source, Indexed):
        raise ValueError(
            'layer="auto" needs an image before the run, but this data can only be read once, in order: name the layer'
        )
    failure = None
    for index in range(len(source)):
        found = reader.read(source, index)
        if isinstance(found, Input):
            return found.x[None]
        failure = failure or found
    raise ValueError(f"no image can be explained; the first, {failure.path}: {failure.message}")  # type: ignore[union-attr]
