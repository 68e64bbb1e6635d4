"""The settings of `cam-extras evaluate`: from flags, from a YAML file, or from both, where flags win."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cam_extras._checks import check_name
from cam_extras._text import code_in, read_settings
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.run import DEFAULT_METHODS, ENGINES

DEFAULTS: dict[str, Any] = {
    "model": None,
    "weights": None,
    "transform": None,
    "layer": "auto",
    "data": None,
    "methods": list(DEFAULT_METHODS),
    "metrics": list(DEFAULT_METRICS),
    "options": {},
    "target": "predicted",
    "output": "cam-extras-output/evaluate",
    "limit": None,
    "batch_size": "auto",
    "images_per_part": 32,
    "device": None,
    "engine": "local",
    "workers": 1,
    "gpus_per_worker": None,
    "address": None,
    "seed": 0,
    "maps": False,
    "pictures": 8,
}
_NEEDED = ("model", "data")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_methods(value: Any) -> bool:
    named = _is_mapping(value) and all(hyper is None or _is_mapping(hyper) for hyper in value.values())
    return named or _are_names(value)


_TEXT = (_is_text, "text")
_COUNT = (_is_count, "a whole number")
# What a value in a file must be, and how that is said; "null" stands for the default where the default is None.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": _TEXT,
    "weights": _TEXT,
    "transform": _TEXT,
    "layer": _TEXT,
    "data": _TEXT,
    "methods": (_are_methods, "a list of names, or a mapping of names to hyper-parameters NAME: VALUE"),
    "metrics": (_are_names, "a list of names"),
    "options": (_is_mapping, "a mapping, NAME: VALUE"),
    "target": (lambda value: _is_text(value) or _is_count(value), "predicted, label, or a class by number or name"),
    "output": _TEXT,
    "limit": _COUNT,
    "batch_size": (lambda value: value == "auto" or _is_count(value), "auto or a whole number"),
    "images_per_part": _COUNT,
    "device": _TEXT,
    "engine": _TEXT,
    "workers": _COUNT,
    "gpus_per_worker": (_is_number, "a number"),
    "address": _TEXT,
    "seed": _COUNT,
    "maps": (lambda value: isinstance(value, bool), "true or false, without quotes"),
    "pictures": _COUNT,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser a flag for every setting, and `--config`."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **options)

    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with settings; flags win over it")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the code that the YAML names: FILE.py:FUNCTION or MODULE:FUNCTION, or an address of a Ray cluster",
    )
    add(
        "model",
        metavar="NAME|FILE",
        help="torchvision model; timm/NAME; its weights file (NAME-HASH.pth); or FILE.py:FUNCTION or MODULE:FUNCTION, "
        "which returns a model",
    )
    add("weights", metavar="FILE", help="local weights, instead of those that are downloaded")
    add("transform", metavar="SOURCE:FUNCTION", help="returns what makes an input of an image; default: the weights'")
    add("layer", metavar="NAME", help="dotted name; default: auto, the last feature map before pooling")
    add("data", metavar="PATH|GLOB", help="folder (of folders, one a class), CSV or Parquet with paths, or glob")
    add(
        "methods",
        nargs="+",
        metavar="METHOD",
        help="names, with hyper-parameters as OptiCAM:max_iterations=30,utility=softmax; "
        f"default: {' '.join(DEFAULT_METHODS)}",
    )
    add("metrics", nargs="+", metavar="METRIC", help=f"names; default: {' '.join(DEFAULT_METRICS)}")
    add("options", nargs="+", metavar="NAME=VALUE", help="of metrics, such as threshold=0.3 schedule=mi")
    add("target", metavar="predicted|label|CLASS", help="the class to explain; default: predicted")
    add("output", metavar="DIR", help=f"default: {DEFAULTS['output']}")
    add("limit", type=int, metavar="N", help="the first N images only")
    add("batch_size", metavar="auto|N", help="images at a time; halved where memory runs out; default: auto")
    add("images_per_part", type=int, metavar="N", help="most images that an interruption costs; default: 32")
    add("device", metavar="DEVICE", help="default: cuda where there is one")
    add("engine", choices=ENGINES, help="default: local")
    add("workers", type=int, metavar="N", help="of Ray: copies of the model; default: 1")
    add("gpus_per_worker", type=float, metavar="N", help="of Ray: a part of one will do; default: 1 on a GPU")
    add("address", metavar="ADDRESS", help="of a running Ray cluster; default: Ray is started on this machine")
    add("seed", type=int, metavar="N", help="of methods, metrics, bootstrap and random pictures; default: 0")
    add("maps", action="store_true", help="keep the maps, as float16")
    add("pictures", type=int, metavar="N", help="best, worst and random images in the report, of each; default: 8")


def read_all(given: argparse.Namespace) -> dict[str, Any]:
    """Return all settings: from flags, else from the file, else the default.

    Raises:
        TypeError: a setting in the file is of another type.
        ValueError: the file cannot be read, has a setting that there is not, or names code that is not trusted; a
            setting that is needed is missing.
    """
    of_file = _read_file(given.config) if given.config is not None else {}
    settings = DEFAULTS | of_file
    flags = {name: value for name, value in vars(given).items() if name in DEFAULTS}
    if "options" in flags:
        flags["options"] = read_settings(flags["options"])
    settings |= flags
    code = code_in({name: value for name, value in of_file.items() if name not in flags})
    if code and not given.trust_code:
        named = ", ".join(f"{name}: {value}" for name, value in code.items())
        raise ValueError(
            f"{given.config} names code, which could do anything that you can ({named}): look at it, and add "
            "--trust-code to run it"
        )
    missing = [f"--{name}" for name in _NEEDED if settings[name] is None]
    if missing:
        raise ValueError(f"give {' and '.join(missing)}, or a --config FILE that has it")
    settings["batch_size"] = _batch_size(settings["batch_size"])
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path} must hold settings, NAME: VALUE; it holds {type(settings).__name__}")
    for name in settings:
        check_name(f"setting in {path}", name, DEFAULTS)
        fits, expected = _TYPES[name]
        if not fits(settings[name]) and not (settings[name] is None and DEFAULTS[name] is None):
            raise TypeError(f"{path}: {name} must be {expected}; got {settings[name]!r:.80}")
    return dict(settings)


def _batch_size(given: Any) -> str | int:
    if given == "auto":
        return "auto"
    try:
        return int(given)
    except (TypeError, ValueError):
        raise ValueError(f"batch size must be auto or a number; got {given!r}") from None
