"""The command line: cam-extras demo, list and explain."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from cam_extras import __version__
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluation, Evaluator
from cam_extras.images import read_image
from cam_extras.methods import METHODS
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.models import auto_layer, load_model
from cam_extras.probe import find_layer
from cam_extras.report import Picture, list_table, save_csv, save_gallery, summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 with one line that says what is wrong, or 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without arrows
    options = _parser().parse_args(arguments)
    try:
        options.run(options, Console())
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.stderr.write(f"cam-extras: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("cam-extras: interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cam-extras", description="Class activation maps, explained and scored.")
    parser.add_argument("--version", action="version", version=f"cam-extras {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="explain a dozen digits with every method, score them with every metric")
    demo.add_argument("--images", type=_positive, default=12, metavar="N", help="how many digits; default: 12")
    demo.add_argument("--output", type=Path, default=Path("cam-extras-output/demo"), metavar="DIR")
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
    explain.add_argument("--method", action="append", choices=list(METHODS), help="repeatable; default: all")
    explain.add_argument("--target", metavar="CLASS", help="class by number or name; default: the predicted class")
    explain.add_argument("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu")
    explain.add_argument("--output", type=Path, default=Path("cam-extras-output/explain"), metavar="DIR")
    explain.set_defaults(run=_explain)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {number}")
    return number


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not to be had here: {str(error).splitlines()[0]}") from error


def _demo(options: argparse.Namespace, console: Console) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    canvases = make_canvases(options.images, "test", seed=2)
    model = load_classifier()
    metrics = [*DEFAULT_METRICS, "pointing_game"]
    boxes = list(canvases.boxes[:, None])
    evaluation = _evaluate(console, model, LAYER, prepare(canvases.images), list(METHODS), metrics, boxes=boxes)
    pictures = [
        Picture(
            name=f"canvas {number}",
            pixels=canvases.images[number],
            title=f"{canvases.labels[number]}, seen as {evaluation.predicted[number]} "
            f"({evaluation.confidence[number]:.0%})",
            box=tuple(canvases.boxes[number].tolist()),
        )
        for number in range(options.images)
    ]
    _report(console, options.output, pictures, evaluation, f"{options.images} digits on cluttered canvases")


def _list(options: argparse.Namespace, console: Console) -> None:
    for table in list_table():
        console.print(table)


def _explain(options: argparse.Namespace, console: Console) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    images = [read_image(path) for path in options.images]
    classifier = load_model(options.model, options.weights)
    x = torch.stack([classifier.transform(image) for image in images])
    target = None if options.target is None else classifier.class_index(options.target)
    model = classifier.model.to(options.device)
    layer, chosen = options.layer, ""
    if layer == "auto":
        layer, _ = auto_layer(model, x[:1].to(options.device), classifier.reshape_transform)
        chosen = ", the last feature map before pooling"
    methods = options.method or list(METHODS)
    evaluation = _evaluate(
        console,
        model,
        layer,
        x.to(options.device),
        methods,
        target=target,
        reshape_transform=classifier.reshape_transform,
    )
    mean, std = (
        torch.tensor(getattr(classifier.transform, name, default))[:, None, None]
        for name, default in (("mean", [0.0]), ("std", [1.0]))
    )
    pictures = [
        Picture(
            name=str(path),
            pixels=image * std + mean,
            title=f"{classifier.category(int(explained))} ({confidence:.0%})",
        )
        for path, image, explained, confidence in zip(
            options.images, x, evaluation.target, evaluation.confidence, strict=True
        )
    ]
    _report(console, options.output, pictures, evaluation, f"{options.model}, layer {layer}{chosen}")


def _evaluate(
    console: Console,
    model: nn.Module,
    layer: str,
    x: Tensor,
    methods: list[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Evaluation:
    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("explaining and scoring", total=len(methods))

        def advance(method: str) -> None:
            progress.update(task, advance=1, description=method)

        evaluator = Evaluator(
            model,
            find_layer(model, layer),
            {name: METHODS[name]() for name in methods},
            metrics,
            reshape_transform=reshape_transform,
        )
        return evaluator(x, on_progress=advance, **options)


def _report(console: Console, output: Path, pictures: list[Picture], evaluation: Evaluation, title: str) -> None:
    scores = output / "results.csv"
    save_csv(scores, [picture.name for picture in pictures], evaluation)
    table = summary_table(evaluation, f"{title}; masked values are 0")
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(needed, console.width)).print(table)  # in a narrow terminal rather broken than cut off
    with console.status("drawing the gallery"):
        galleries = save_gallery(output / "gallery.png", pictures, evaluation)
    for what, path in [("scores: ", scores), *(("gallery:", gallery) for gallery in galleries)]:
        console.print(what, path, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
