"""Code named in text: FILE.py:NAME and MODULE:NAME, and what installed packages offer by name."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from cam_extras._names import check_name

# Modules of files that were run, by contents: running a file again would register its metrics again.
_of_files: dict[tuple[Path, str], ModuleType] = {}


def load_code(spec: str, kind: str = "function") -> Any:
    """Return what FILE.py:NAME or MODULE:NAME names, after running the file or module.

    Args:
        spec: the name. A file is run once per process, and again when its contents change.
        kind: what is expected there, for the message.

    Raises:
        ValueError: there is no such file or name, or running it failed.
    """
    check_file(spec)
    source, _, name = spec.rpartition(":")
    module = _import(source)
    if not hasattr(module, name):
        is_wanted = inspect.isroutine if kind == "function" else callable
        check_name(f"{kind} in {source}", name, [n for n, v in vars(module).items() if is_wanted(v) and n[0] != "_"])
    return getattr(module, name)


def check_file(spec: str) -> None:
    """Raise ValueError if the file of FILE.py:NAME does not exist."""
    source = spec.rpartition(":")[0]
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(f"there is no file {source}")


@functools.cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """Return the "methods" or "metrics" that installed packages offer, by name (entry points cam_extras.`kind`)."""
    return {entry.name: entry for entry in entry_points(group=f"cam_extras.{kind}")}


def load_installed(kind: str, name: str) -> Any:
    """Return what an installed package offers under a name, a key of `installed`.

    Raises:
        ValueError: loading it failed.
    """
    entry = installed(kind)[name]
    with failures_of(f"{name} ({entry.value})"):
        return entry.load()


@contextmanager
def failures_of(source: str) -> Iterator[None]:
    """Report in one line what went wrong in the user's code."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{source} failed with {type(error).__name__}: {error}") from error


def _import(source: str) -> ModuleType:
    if not source.endswith(".py"):
        with failures_of(f"importing {source}"):
            return importlib.import_module(source)
    path = Path(source)
    key = path.resolve(), hashlib.sha256(path.read_bytes()).hexdigest()
    if key not in _of_files:
        _of_files[key] = _run(path)
    return _of_files[key]


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with failures_of(str(path)), _listed(module):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _listed(module: ModuleType) -> Iterator[None]:
    """Keep a module in `sys.modules` while it runs, as dataclasses need, then restore what was there."""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before
