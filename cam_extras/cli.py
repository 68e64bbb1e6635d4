"""The command line: cam-extras demo, list, explain, evaluate and compare."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cam_extras import __version__
from cam_extras._text import printable
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.models import load_model
from cam_extras.report import (
    comparison_table,
    list_table,
    pictures_of,
    save_csv,
    save_gallery,
    summary_table,
    write_comparison,
)
from cam_extras.report.compare import is_comparison
from cam_extras.report.gallery import gallery_pages
from cam_extras.run import evaluate
from cam_extras.runs.batches import TARGETS
from cam_extras.runs.store import RUN_FILES, Run, check_not_in_the_way, read_run
from cam_extras.settings import add_flags, read_all

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_ERRORS_SHOWN = 10
_RESULTS, _SCORES, _GALLERY = "results.parquet", "results.csv", "gallery.png"
_DEMO = "the demo's classifier"
_DEMO_FOLDER = Path("cam-extras-output/demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    It is 0; 2 with one line that says what is wrong; 3 where some images have no scores; 130 where it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without arrows
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return options.run(options, Console()) or 0
    except (ValueError, TypeError, OSError, RuntimeError, argparse.ArgumentTypeError) as error:
        sys.stderr.write(f"cam-extras: {printable(error, lines=True)}\n")
        return 2
    except KeyboardInterrupt:
        resumable = "; what is done is kept: go on with --resume" if options.run is _evaluate else ""
        sys.stderr.write(f"cam-extras: interrupted{resumable}\n")
        return 130


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    sys.stderr.write(f"cam-extras: {printable(message, lines=True)}\n")


class _Parser(argparse.ArgumentParser):
    """A parser that shows what it was given as text alone."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message, lines=True), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cam-extras", description="Class activation maps, explained and scored.")
    parser.add_argument("--version", action="version", version=f"cam-extras {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="explain a dozen digits with every method, score them with every metric")
    demo.add_argument("--images", type=_positive, default=12, metavar="N", help="how many digits; default: 12")
    demo.add_argument(
        "--output",
        type=_path,
        default=_DEMO_FOLDER,
        metavar="DIR",
        help=f"default: {_DEMO_FOLDER}, where a demo replaces the one before",
    )
    demo.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    demo.set_defaults(run=_demo)

    listing = commands.add_parser("list", help="name the methods and metrics, and their papers")
    listing.set_defaults(run=_list)

    explain = commands.add_parser("explain", help="explain images of your own")
    explain.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    explain.add_argument(
        "--model",
        required=True,
        metavar="NAME|FILE",
        help="torchvision model; its weights file (NAME-HASH.pth); or FILE.py:FUNCTION or MODULE:FUNCTION, which "
        "returns a model for images of 224 x 224 normalised as ImageNet's",
    )
    explain.add_argument("--weights", metavar="FILE", help="local weights, instead of those torchvision downloads")
    explain.add_argument(
        "--layer",
        default="auto",
        metavar="NAME",
        help="dotted name, such as layer4; default: auto, the last feature map before pooling",
    )
    explain.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="of `cam-extras list`, also pytorch-grad-cam's, such as ScoreCAM; repeatable; default: all of ours",
    )
    explain.add_argument("--target", metavar="CLASS", help="class by number or name; default: the predicted class")
    explain.add_argument("--device", type=_device, default=_DEVICE)
    explain.add_argument("--output", type=_path, default=Path("cam-extras-output/explain"), metavar="DIR")
    explain.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    explain.set_defaults(run=_explain)

    evaluation = commands.add_parser(
        "evaluate",
        help="explain a data set with many methods and score them with many metrics",
        description="Explain the images of a data set with every method, score the maps with every metric, and write "
        "tables and a report. Exit status: 0; 2 where nothing could be done; 3 where some images have no scores.",
    )
    add_flags(evaluation)
    modes = evaluation.add_mutually_exclusive_group()
    for mode, what in (("resume", "go on with the run in the output folder"), ("overwrite", "start anew there")):
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, default="new", help=what)
    evaluation.add_argument(
        "--retry-errors", action="store_true", help="with --resume: do again what has images without scores"
    )
    evaluation.add_argument(
        "--insist",
        action="store_true",
        help="resume though images, functions or the model differ, or where it cannot be told whether they do; go on "
        "where 32 images in a row cannot be read",
    )
    evaluation.set_defaults(run=_evaluate)

    comparison = commands.add_parser("compare", help="show two runs of evaluate side by side")
    comparison.add_argument("run_a", type=Path, metavar="RUN_A", help="output folder of a run")
    comparison.add_argument("run_b", type=Path, metavar="RUN_B", help="output folder of another")
    comparison.add_argument(
        "--output", type=_path, default=Path("cam-extras-output/comparison.html"), metavar="FILE", help="HTML to write"
    )
    comparison.add_argument("--overwrite", action="store_true", help="replace the comparison in that file")
    comparison.set_defaults(run=_compare)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {number}")
    return number


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError('"" is no name')
    return Path(text)


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not to be had here: {str(error).splitlines()[0]}") from error


def _demo(options: argparse.Namespace, console: Console) -> int:
    files = _files_of_images(options.output, options.images)
    mode = _mode(options, files)
    canvases = make_canvases(options.images, "test", seed=2)
    images = zip(prepare(canvases.images), canvases.labels.tolist(), canvases.boxes, strict=True)
    run = evaluate(
        load_classifier(),
        LAYER,
        [
            {"image": image, "label": label, "boxes": box[None], "path": f"canvas {number}"}
            for number, (image, label, box) in enumerate(images)
        ],
        options.output,
        methods=list(METHODS),
        metrics=[*DEFAULT_METRICS, "pointing_game"],
        categories=[str(digit) for digit in range(10)],
        name=_DEMO,
        mode=mode,
        files=files,
        pictures=options.images,
    )
    boxes = dict(enumerate(canvases.boxes.tolist()))
    return _conclude(console, run, "digits on cluttered canvases", gallery=True, boxes=boxes)


def _files_of_images(output: Path, images: int) -> list[str]:
    """Name what `_conclude` writes with a gallery, beside what every run does."""
    return [_SCORES, *(page.name for page in gallery_pages(output / _GALLERY, images))]


def _list(options: argparse.Namespace, console: Console) -> None:
    from cam_extras.pytorch_grad_cam import UPSTREAM  # only here: importing the host takes a second

    for table in list_table():
        console.print(table)
    console.print("Methods of pytorch-grad-cam by name:", ", ".join(sorted(set(UPSTREAM) - set(METHODS))))


def _explain(options: argparse.Namespace, console: Console) -> int:
    files = _files_of_images(options.output, len(options.images))
    mode = _mode(options, files)
    classifier = load_model(options.model, options.weights)
    run = evaluate(
        classifier,
        options.layer,
        [str(path) for path in options.images],
        options.output,
        methods=options.method or list(METHODS),
        target="predicted" if options.target is None else classifier.class_index(options.target),
        name=options.model,
        mode=mode,
        files=files,
        device=options.device,
        pictures=len(options.images),
    )
    return _conclude(console, run, f"{options.model}, layer {_layer(options.layer, run)}", gallery=True)


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    settings = read_all(options)
    check_not_in_the_way(settings["output"])  # before the model is loaded
    classifier = load_model(*(settings[name] for name in ("model", "weights", "transform")))
    target = settings["target"]
    of_run = {name: value for name, value in settings.items() if name not in ("model", "weights", "transform")}
    of_run["target"] = target if target in TARGETS else classifier.class_index(str(target))
    of_run["device"] = _DEVICE if settings["device"] is None else _device(settings["device"])
    run = evaluate(
        classifier,
        **of_run,
        name=settings["model"],
        mode=options.mode,
        insist=options.insist,
        retry_errors=options.retry_errors,
        settings=settings,
    )
    return _conclude(console, run, f"{settings['model']}, layer {_layer(settings['layer'], run)}")


def _compare(options: argparse.Namespace, console: Console) -> None:
    if options.output.exists() and not (options.overwrite and is_comparison(options.output)):
        what = "is there already" if is_comparison(options.output) else "is there, and no comparison of two runs"
        raise ValueError(
            f"{options.output} {what}: give another file by --output"
            f"{', or --overwrite to replace it' if is_comparison(options.output) else ''}"
        )
    run_a, run_b = Run(options.run_a), Run(options.run_b)
    _print_wide(console, comparison_table(run_a, run_b))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    _say(console, "report: ", write_comparison(run_a, run_b, options.output))


def _mode(options: argparse.Namespace, files: Sequence[str]) -> str:
    """Return how to write to the output folder; raise before any work where a run there is to stay.

    What goes without being told to: a run in which no image was scored, and in the demo's own folder one of the demo,
    which anybody can repeat.
    """
    check_not_in_the_way(options.output, [*RUN_FILES, *files])
    run = read_run(options.output)
    if run is None or options.overwrite:
        return "overwrite"
    model = run["configuration"].get("model")
    is_demo = options.output == _DEMO_FOLDER and isinstance(model, Mapping) and model.get("name") == _DEMO
    if is_demo or ((options.output / _RESULTS).exists() and not len(Run(options.output).results)):
        return "overwrite"
    raise ValueError(
        f"{options.output} holds a run already: give another folder by --output, or --overwrite to replace it"
    )


def _layer(asked: str, run: Run) -> str:
    chosen = ", the last feature map before pooling" if asked == "auto" else ""
    return f"{run.configuration['layer']}{chosen}"


def _conclude(
    console: Console, run: Run, title: str, *, gallery: bool = False, boxes: Mapping[int, Sequence[int]] | None = None
) -> int:
    """Print what came out and where it is; return the exit status."""
    errors = run.errors.to_pylist()
    for error in errors[:_ERRORS_SHOWN]:
        sys.stderr.write(f"cam-extras: {printable(error['path'])}: {printable(error['message'])}\n")
    if len(errors) > _ERRORS_SHOWN:
        where = printable(run.folder / "errors.parquet")
        sys.stderr.write(f"cam-extras: and {len(errors) - _ERRORS_SHOWN} more, in {where}\n")
    if not len(run.results):
        raise ValueError(f"not one of {len(errors)} images could be scored")
    values: dict[str, dict[str, float | None]] = {}
    for row in run.summary:
        values.setdefault(row["method"], {})[row["metric"]] = row["value"]
    images = len(run.results.column("index").unique())
    without = f", {len(errors)} more have no scores" if errors else ""
    heading = f"{title}; {images} images{without}; masked values are 0"
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
    """Print a table, in a narrow terminal rather broken than cut off."""
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(needed, console.width)).print(table)


def _say(console: Console, what: str, path: Path) -> None:
    console.print(what, printable(path), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
