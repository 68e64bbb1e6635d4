"""What the commands demo, explain, evaluate and compare do once their arguments are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from cam_extras._code import load_code
from cam_extras._text import names_code, printable
from cam_extras.demo import FOLDER as DEMO_FOLDER
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.models import Classifier, load_model
from cam_extras.report import comparison_table, pictures_of, save_csv, save_gallery, summary_table, write_comparison
from cam_extras.report.compare import is_comparison
from cam_extras.report.gallery import gallery_pages
from cam_extras.report.html import layers_of
from cam_extras.run import run_config
from cam_extras.runs.batches import REFERENCES, TARGETS
from cam_extras.runs.config import RunConfig, is_by_label
from cam_extras.runs.store import RUN_FILES, Run, check_not_in_the_way, read_run

_ERRORS_SHOWN = 10
_RESULTS, _SCORES, _GALLERY = "results.parquet", "results.csv", "gallery.png"
_DEMO = "the demo's classifier"


# With their own numbers of samples these two would take three quarters of the demo's time.
_SHORTER: dict[str, dict[str, Any]] = {"SSCAM": {"n_samples": 4}, "ISCAM": {"n_samples": 3}}


def demo(images: int, output: Path, *, overwrite: bool) -> int:
    """Explain `images` digits with every method; return the exit status."""
    files = _files_of_images(output, images)
    mode = _mode(output, overwrite, files)
    canvases = make_canvases(images, "test", seed=2)
    of_canvases = zip(prepare(canvases.images), canvases.labels.tolist(), canvases.boxes, strict=True)
    run = run_config(
        RunConfig(
            model=load_classifier(),
            layer=LAYER,
            data=[
                {"image": image, "label": label, "boxes": box[None], "path": f"canvas {number}"}
                for number, (image, label, box) in enumerate(of_canvases)
            ],
            output=output,
            methods={
                name: method(**_SHORTER.get(name, {})) for name, method in METHODS.items() if not method.particular
            },
            metrics=[*DEFAULT_METRICS, "pointing_game"],
            categories=[str(digit) for digit in range(10)],
            name=_DEMO,
            mode=mode,
            files=files,
            pictures=images,
        )
    )
    boxes = dict(enumerate(canvases.boxes.tolist()))
    return _conclude(run, "digits on cluttered canvases", gallery=True, boxes=boxes)


def explain(config: RunConfig, *, overwrite: bool) -> int:
    """Explain the images that a configuration names; return the exit status."""
    if is_by_label(config.target):
        raise ValueError(
            f"--target {config.target} has a row for each image and label, and `explain` shows one class of each: "
            "give --target CLASS, or use `cam-extras evaluate`"
        )
    files = _files_of_images(Path(config.output), len(config.data))
    mode = _mode(Path(config.output), overwrite, files)
    run = run_config(_loaded(config).replaced(mode=mode, files=files))
    return _conclude(run, f"{config.model}, {_layer(config, run)}", gallery=True)


def evaluate(config: RunConfig) -> int:
    """Run a configuration as it was read; return the exit status."""
    check_not_in_the_way(config.output)  # before the model is loaded
    run = run_config(_loaded(config).replaced(settings=config.kept()))
    return _conclude(run, f"{config.model}, {_layer(config, run)}")


def compare(run_a: Path, run_b: Path, output: Path, *, overwrite: bool) -> None:
    """Print two runs side by side, and write them as HTML."""
    if output.exists() and not (overwrite and is_comparison(output)):
        what = "exists already" if is_comparison(output) else "exists, and is not a comparison of two runs"
        raise ValueError(
            f"{output} {what}: give another file with --output"
            f"{', or --overwrite to replace it' if is_comparison(output) else ''}"
        )
    console, first, second = Console(), Run(run_a), Run(run_b)
    _print_wide(console, comparison_table(first, second))
    output.parent.mkdir(parents=True, exist_ok=True)
    _say(console, "report: ", write_comparison(first, second, output))


def _loaded(config: RunConfig) -> RunConfig:
    """Load the model, the class and the device that a configuration names."""
    classifier = load_model(config.model, config.weights, config.transform)
    return config.replaced(
        model=classifier,
        transform=None,
        name=config.model,
        target=_class(config.target, TARGETS, classifier),
        against=None if config.against is None else _class(config.against, REFERENCES, classifier),
        model_output=_code(config.model_output),
        confidence=_code(config.confidence),
        device=_device(config.device),
    )


def _class(given: str | int, words: Sequence[str], classifier: Classifier) -> str | int:
    """Return the index of a class given by number or name; words for other classes stay."""
    return given if given in words or is_by_label(given) else classifier.class_index(str(given))


def _code(setting: str | int | None) -> Any:
    """Return the function that a setting names, or else the setting itself."""
    return load_code(setting) if isinstance(setting, str) and names_code(setting) else setting


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} is not available here: {str(error).splitlines()[0]}") from error


def _files_of_images(output: Path, images: int) -> list[str]:
    """Name the files that `_conclude` writes with a gallery, besides those of every run."""
    return [_SCORES, *(page.name for page in gallery_pages(output / _GALLERY, images))]


def _mode(output: Path, overwrite: bool, files: Sequence[str]) -> Literal["overwrite"]:
    """Return how to write to the output folder; raise before any work if it holds a run to keep.

    Replaced without `--overwrite`: a run in which no image was scored, and a demo in the demo's own folder, which is
    easily repeated.
    """
    check_not_in_the_way(output, [*RUN_FILES, *files])
    run = read_run(output)
    if run is None or overwrite:
        return "overwrite"
    model = run["configuration"].get("model")
    is_demo = output == DEMO_FOLDER and isinstance(model, Mapping) and model.get("name") == _DEMO
    if is_demo or ((output / _RESULTS).exists() and not len(Run(output).results)):
        return "overwrite"
    raise ValueError(f"{output} holds a run already: give another folder with --output, or --overwrite to replace it")


def _layer(config: RunConfig, run: Run) -> str:
    chosen = ", the last feature map before pooling" if config.layer == "auto" else ""
    return f"{layers_of(run)}{chosen}"


def _conclude(run: Run, title: str, *, gallery: bool = False, boxes: Mapping[int, Sequence[int]] | None = None) -> int:
    """Print the results and where they are; return the exit status."""
    console = Console()
    errors = run.errors.to_pylist()
    for error in errors[:_ERRORS_SHOWN]:
        sys.stderr.write(f"cam-extras: {printable(error['path'])}: {printable(error['message'])}\n")
    if len(errors) > _ERRORS_SHOWN:
        where = printable(run.folder / "errors.parquet")
        sys.stderr.write(f"cam-extras: and {len(errors) - _ERRORS_SHOWN} more, in {where}\n")
    rows = "pairs of image and label" if is_by_label(run.configuration.get("target")) else "images"
    if not len(run.results):
        raise ValueError(f"none of {len(errors)} {rows} could be scored")
    values: dict[str, dict[str, float | None]] = {}
    for row in run.summary:
        values.setdefault(row["method"], {})[row["metric"]] = row["value"]
    images = len(run.results.column("index").unique())
    without = f", {len(errors)} more have no scores" if errors else ""
    heading = f"{title}; {images} {rows}{without}; masked values are 0"
    _print_wide(console, summary_table(values, heading, run.controls))
    if gallery:
        with console.status("drawing the gallery"):
            pages = save_gallery(run.folder / _GALLERY, pictures_of(run, boxes=boxes))
        scores = run.folder / _SCORES
        save_csv(scores, run)
        _say(console, "scores: ", scores)
        for page in pages:
            _say(console, "gallery:", page)
    else:
        _say(console, "scores: ", run.folder / _RESULTS)
    _say(console, "report: ", run.folder / "report.html")
    return 3 if errors else 0


def _print_wide(console: Console, table: Table) -> None:
    """Print a table; in a narrow terminal its lines wrap rather than being cut off."""
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(needed, console.width)).print(table)


def _say(console: Console, what: str, path: Path) -> None:
    console.print(what, printable(path), highlight=False, markup=False, soft_wrap=True)
