"""The command line: cam-extras demo, list, explain, evaluate and compare.

Arguments are read and checked before any slow import: what the commands do is in `cam_extras.commands`.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cam_extras import __version__
from cam_extras import demo as the_demo
from cam_extras._catalogue import METHODS, METRICS, UPSTREAM
from cam_extras._listing import describe_entry, list_tables
from cam_extras._text import printable
from cam_extras.runs.flags import add_config_flags, add_flags, find_method, find_metric, in_flags, read_config

_OUTPUT = "cam-extras-output/explain"
_OF_EXPLAIN = (
    "model",
    "weights",
    "layer",
    "fusion",
    "methods",
    "target",
    "against",
    "model_output",
    "confidence",
    "device",
    "output",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    It is 0; 2 after an error, told in one line; 3 if some images have no scores; 130 if interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without arrows
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return options.run(options) or 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        _tell(error)
        return 2
    except KeyboardInterrupt:
        _tell(f"interrupted{'; what is done is kept: go on with --resume' if options.run is _evaluate else ''}")
        return 130


def _tell(message: object) -> None:
    """Print a message of the library in the words of the command line."""
    sys.stderr.write(f"cam-extras: {printable(in_flags(str(message)), lines=True)}\n")


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    _tell(message)


class _Parser(argparse.ArgumentParser):
    """A parser that prints what users typed as plain text."""

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
        default=the_demo.FOLDER,
        metavar="DIR",
        help=f"default: {the_demo.FOLDER}, where a demo replaces the last one",
    )
    demo.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    demo.set_defaults(run=_demo)

    listing = commands.add_parser("list", help="name the methods and metrics, and their papers")
    listing.add_argument("names", nargs="*", metavar="NAME", help="show all details of these, with their options")
    listing.set_defaults(run=_list)

    explain = commands.add_parser("explain", help="explain your own images")
    explain.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    add_flags(explain, _OF_EXPLAIN, methods="all of ours", output=_OUTPUT)
    explain.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    explain.set_defaults(run=_explain)

    evaluation = commands.add_parser(
        "evaluate",
        help="explain a data set with many methods and score them with many metrics",
        description="Explain the images of a data set with every method, score the maps with every metric, and write "
        "tables and a report. Exit status: 0; 2 after an error; 3 if some images have no scores.",
    )
    add_config_flags(evaluation)
    add_flags(evaluation)
    evaluation.set_defaults(run=_evaluate)

    comparison = commands.add_parser("compare", help="show two runs of evaluate side by side")
    comparison.add_argument("run_a", type=Path, metavar="RUN_A", help="output folder of a run")
    comparison.add_argument("run_b", type=Path, metavar="RUN_B", help="output folder of another run")
    comparison.add_argument(
        "--output",
        type=_path,
        default=Path("cam-extras-output/comparison.html"),
        metavar="FILE",
        help="HTML to write",
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
        raise argparse.ArgumentTypeError('"" is not a name')
    return Path(text)


def _list(options: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console()
    if options.names:
        console.print("\n".join(map(_entry, options.names)), markup=False, highlight=False)
        return
    for table in list_tables(METHODS, METRICS):
        console.print(table)
    theirs = sorted(set(UPSTREAM) - {method.name for method in METHODS})
    console.print("Methods of pytorch-grad-cam by name:", ", ".join(theirs))


def _entry(name: str) -> str:
    """Describe the method or metric of this name."""
    entries = {entry.name: describe_entry(entry) for entry in (*METRICS, *METHODS)}
    try:
        found = find_metric(name)
    except ValueError:
        found = find_method(name)
    if found not in entries:
        raise ValueError(f"{found} is not part of cam_extras: see the documentation of its package")
    return entries[found]


# These imports take seconds, so they come after all checks that do not need them.


def _demo(options: argparse.Namespace) -> int:
    from cam_extras import commands

    return commands.demo(options.images, options.output, overwrite=options.overwrite)


def _explain(options: argparse.Namespace) -> int:
    images = [str(path) for path in options.images]
    ours = [method.name for method in METHODS]
    config = read_config(options, data=images, methods=ours, output=_OUTPUT, pictures=len(images))
    if not any(path.exists() for path in options.images):
        raise ValueError(f"there is no image {', '.join(images)}")
    from cam_extras import commands

    return commands.explain(config, overwrite=options.overwrite)


def _evaluate(options: argparse.Namespace) -> int:
    config = read_config(options)
    from cam_extras import commands

    return commands.evaluate(config)


def _compare(options: argparse.Namespace) -> None:
    for folder in (options.run_a, options.run_b):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: give the output folder of an evaluation")
    from cam_extras import commands

    commands.compare(options.run_a, options.run_b, options.output, overwrite=options.overwrite)


if __name__ == "__main__":
    sys.exit(main())
