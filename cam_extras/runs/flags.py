"""Settings from text: flags of the command line, a file of YAML, or both, where flags win.

Nothing here imports torch, so that a command line is read and checked at once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cam_extras._catalogue import METHODS, METRICS, UPSTREAM
from cam_extras._code import check_file, installed
from cam_extras._names import check_choice, check_name, find_name
from cam_extras._options import check_annotated, choices_of
from cam_extras._text import code_in, names_code, read_settings, split_options
from cam_extras.runs.config import (
    PYTHON,
    RunConfig,
    default_values,
    known_settings,
    threshold_in,
    types_of,
    written_type,
)

_MAGIC = re.compile(r"[*?[]")
_CONFIDENCES = ("softmax", "sigmoid")
_WEIGHTS = (".pth", ".pt", ".safetensors")


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] = (), **defaults: Any) -> None:
    """Add a flag for every setting to a parser.

    Args:
        parser: its result goes to `read_config`.
        names: the settings that get a flag; by default all.
        defaults: defaults that differ from `RunConfig`'s, for the help.
    """
    for name, setting in known_settings().items():
        if setting == PYTHON or (names and name not in names):
            continue
        flag, annotation = f"--{name.replace('_', '-')}", written_type(name)
        default = defaults.get(name, default_values()[name])
        if setting.choices:
            group = parser.add_mutually_exclusive_group()
            for value, what in setting.choices:
                group.add_argument(
                    f"--{value}", dest=name, action="store_const", const=value, default=argparse.SUPPRESS, help=what
                )
        elif bool in types_of(annotation):
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=setting.help)
        else:
            only_one = setting.singular == name
            many = not only_one and not {Sequence, Mapping}.isdisjoint(types_of(annotation))
            shown = " ".join(default) if isinstance(default, tuple) else default
            parser.add_argument(
                flag,
                metavar=setting.metavar or "|".join(choices_of(annotation)),
                default=argparse.SUPPRESS,
                help=setting.help + (f"; default: {shown}" if shown not in (None, "") else ""),
                nargs="+" if many else None,
                action="append" if only_one else "extend" if many else "store",
            )
            if setting.singular and not only_one:
                parser.add_argument(
                    f"--{setting.singular}",
                    dest=name,
                    metavar=setting.metavar,
                    action="append",
                    default=argparse.SUPPRESS,
                    help="one of them; may be repeated",
                )


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--trust-code` to a parser."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with settings; flags win over it")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the code that the YAML names: FILE.py:NAME or MODULE:NAME, or an address of a Ray cluster",
    )


def read_config(given: argparse.Namespace, **defaults: Any) -> RunConfig:
    """Return the configuration from flags, or else the file, or else `defaults`, or else `RunConfig`'s defaults.

    Everything that needs no loading is checked: types and ranges, names, and whether files exist.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range; the file cannot be read, has an unknown setting, or names code that is
            not trusted; a required setting is missing; there is no such method, metric or file.
    """
    path = getattr(given, "config", None)
    of_file = {} if path is None else _read_file(path)
    flags = {name: _read_flag(name, value) for name, value in vars(given).items() if name in known_settings()}
    code = code_in({name: value for name, value in of_file.items() if name not in flags})
    if code and not given.trust_code:
        named = ", ".join(f"{name}: {value}" for name, value in code.items())
        raise ValueError(
            f"{path} names code, which could do anything that you can ({named}): check it, then add --trust-code to "
            "run it"
        )
    values = defaults | of_file | flags
    missing = [f"--{name}" for name in ("model", "data") if values.get(name) is None]
    if missing:
        raise ValueError(f"give {' and '.join(missing)}, or a --config FILE that has it")
    config = RunConfig(**values)
    _check_files(config)
    return config


def _read_file(path: Path) -> dict[str, Any]:
    import yaml  # only here: most command lines have no such file

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path} must hold settings, NAME: VALUE; it holds {type(settings).__name__}")
    keys = [name for name, setting in known_settings().items() if setting.of_run]
    for name in settings:
        check_name(f"setting in {path}", name, keys)
    return {name: _checked(f"{path}: {name}", name, value) for name, value in settings.items()}


def _read_flag(name: str, given: Any) -> Any:
    """Return what the text of a flag stands for: a number where one is expected, a mapping of NAME=VALUE."""
    value: Any = read_settings(given) if name == "options" else given
    if known_settings()[name].singular == name and len(given) == 1:
        value = given[0]
    for kind in (int, float):
        if isinstance(value, str) and kind in types_of(written_type(name)):
            with suppress(ValueError):  # the check below reports what is wrong
                value = kind(value)
    value = _checked(f"--{name.replace('_', '-')}", name, value)
    return list(dict.fromkeys(value)) if isinstance(value, list) else value


def _checked(said: str, name: str, value: Any) -> Any:
    """Check a setting, and replace names of methods and metrics by those in the registries."""
    if value is None and default_values()[name] is None:
        return None
    check_annotated(said, value, written_type(name))
    if name == "methods":
        return dict(map(_find_named, value.items())) if isinstance(value, Mapping) else [*map(find_method, value)]
    return [*map(find_metric, value)] if name == "metrics" else value


def find_method(text: str) -> str:
    """Return a method's name in the registries, given what the user typed; the user's own code stays as it is.

    Raises:
        ValueError: there is no such method, or its hyper-parameters are not NAME=VALUE.

    >>> find_method("opticam:max_iterations=30"), find_method("my_package.cams:MyCAM")
    ('OptiCAM:max_iterations=30', 'my_package.cams:MyCAM')
    """
    names = [*(method.name for method in METHODS), *UPSTREAM, *installed("methods")]
    name, options = split_options(text)
    head, _, tail = name.partition(":")
    if tail and head in names:
        options, name = tail, head
    if names_code(name):
        check_file(name)
        return text
    found = find_name("method", name, dict.fromkeys(names))
    read_settings(options.split(",") if options else [])
    return f"{found}:{options}" if options else found


def find_metric(text: str) -> str:
    """Return a metric's name, given what the user typed; the user's own code stays as it is.

    Raises:
        ValueError: there is no such metric.

    >>> find_metric("AD"), find_metric("Average Drop"), find_metric("my_package.metrics:mine")
    ('average_drop', 'average_drop', 'my_package.metrics:mine')
    """
    if names_code(text):
        check_file(text)
        return text
    names = [*(metric.name for metric in METRICS), *installed("metrics")]
    return find_name("metric", text, names, {metric.short: metric.name for metric in METRICS})


def _find_named(item: tuple[str, Mapping[str, Any] | None]) -> tuple[str, Mapping[str, Any] | None]:
    """Find the method of an entry of a mapping, whose key may be any name."""
    name, hyper = item
    if hyper and isinstance(hyper.get("method"), str):
        return name, {**hyper, "method": find_method(hyper["method"])}
    return find_method(name), hyper


def check_location(location: str) -> None:
    """Raise ValueError unless a path exists or is a glob."""
    place = os.path.expanduser(location)
    if not os.path.isdir(place) and not os.path.isfile(place) and not _MAGIC.search(place):
        raise ValueError(f"there is no {location!r}: give a folder, a .csv or .parquet file, or a glob")


def _check_files(config: RunConfig) -> None:
    """Raise ValueError if a named file does not exist or a word cannot be meant, before anything is loaded."""
    if not config.output:
        raise ValueError('the output folder is "": give the name of a folder, or "." for the working folder')
    for code in (config.model, config.transform, config.model_output, config.confidence):
        if isinstance(code, str) and names_code(code):
            check_file(code)
    threshold_in(config.target)
    if not names_code(config.confidence):
        check_choice("--confidence", config.confidence, _CONFIDENCES)
    if not names_code(config.model):  # a function may take anything as its weights
        file = config.model if config.model.endswith(_WEIGHTS) else config.weights
        if file is not None and not os.path.isfile(file):
            raise ValueError(f"there is no weights file {file}")
    if isinstance(config.data, str):
        check_location(config.data)


def in_flags(message: str) -> str:
    """Rewrite arguments of the library as flags of the command line.

    >>> in_flags("go on with mode='resume', or insist=True; give weights=, or engine='local'")
    'go on with --resume, or --insist; give --weights, or --engine local'
    """
    return _ARGUMENT.sub(_flag, message)


# Text from users, such as a path with "limit=3" in it, is not taken for an argument.
_ARGUMENT = re.compile(r"""(?<![\w./\\=-])(\w+)=("\w*"|'[^']*'|True|[\d.]*\d)?(?=[\s,;:)]|\.?$|\.\s)""")


def _flag(found: re.Match[str]) -> str:
    name, value = found[1], found[2] or ""
    setting = known_settings().get(name, PYTHON)
    if setting == PYTHON:
        return found[0]
    word = "" if value == "True" else value[1:-1] if re.fullmatch(r"([\"'])[\w./-]+\1", value) else value
    return f"--{word}" if setting.choices else f"--{name.replace('_', '-')} {word}".strip()
