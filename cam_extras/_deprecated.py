"""Old names, which keep working for one release: each warns with the new name."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, TypeVar

# Files skipped to find the line that uses the old name.
_NOT_THE_CALLER = ("cam_extras", "contextlib", "dataclasses", "functools", "importlib")

MOVED_MODULES: dict[str, tuple[str, ...]] = {
    "cam_extras.batches": ("cam_extras._batching",),
    "cam_extras.evaluation.batch": ("cam_extras.evaluation.evaluator",),
    "cam_extras.evaluation.engine": ("cam_extras.runs.engines.local",),
    "cam_extras.evaluation.pictures": ("cam_extras.runs.pictures",),
    "cam_extras.evaluation.ray_engine": ("cam_extras.runs.engines.ray",),
    "cam_extras.evaluation.scoring": ("cam_extras.runs.batches",),
    "cam_extras.evaluation.sources": ("cam_extras.runs.sources",),
    "cam_extras.evaluation.store": ("cam_extras.runs.store",),
    "cam_extras.evaluation.summary": ("cam_extras.runs.summary",),
    "cam_extras.fingerprints": ("cam_extras.runs.identity",),
    "cam_extras.images": ("cam_extras.runs.images",),
    "cam_extras.methods.baselines": ("cam_extras.methods._baselines",),
    "cam_extras.methods.information": ("cam_extras.methods._information",),
    "cam_extras.methods.sampling": ("cam_extras.methods._sampling",),
    "cam_extras.configuration": (
        "cam_extras.methods",
        "cam_extras.metrics",
        "cam_extras.runs.identity",
        "cam_extras._text",
    ),
    "cam_extras.scores": ("cam_extras.utilities",),
    "cam_extras.settings": ("cam_extras.runs.flags", "cam_extras.runs.config", "cam_extras._text"),
}
"""Old module -> where its names are now."""

RENAMED: dict[str, str] = {
    "SCORES": "UTILITIES",
    "ClassScore": "ClassUtility",
    "CustomScorer": "CustomUtility",
    "PerSampleScorer": "PerSampleUtility",
    "Score": "AnyUtility",
    "Scorer": "Utility",
    "TargetScorer": "TargetUtility",
    "check_scores": "check_utilities",
    "read_all": "read_config",
    "read_methods": "as_methods",
    "read_options": "as_options",
}
"""Old name -> new name, for what is in those modules."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def warn(old: str, new: str) -> None:
    """Warn that an old name is used, at the line outside this package that uses it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_NOT_THE_CALLER):
        frame = frame.f_back
    warnings.warn_explicit(
        f"{old} is called {new} now; the old name goes with the next release",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def renamed(old_to_new: Mapping[str, str]) -> Callable[[_Function], _Function]:
    """Let a function also take keyword arguments by their old names.

    Raises:
        TypeError: (when called) an argument is given by both names.
    """

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **with_new_names(kwargs, old_to_new))

        return call  # type: ignore[return-value]

    return decorate


def with_new_names(arguments: Mapping[str, Any], old_to_new: Mapping[str, str]) -> dict[str, Any]:
    """Return keyword arguments by their new names; warn about old ones."""
    if old_to_new.keys().isdisjoint(arguments):
        return dict(arguments)
    found = {name: value for name, value in arguments.items() if name not in old_to_new}
    for old, new in old_to_new.items():
        if old not in arguments:
            continue
        if new in arguments:
            raise TypeError(f"{new} is given twice: by its old name, {old}, too")
        warn(f"the argument {old!r}", repr(new))
        found[new] = arguments[old]
    return found


def names_of(module: str, old_to_new: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that finds old names: "old" -> "module.new"."""

    def look_up(name: str) -> Any:
        if name not in old_to_new:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", old_to_new[name])
        home, _, new = old_to_new[name].rpartition(".")
        return getattr(importlib.import_module(home), new)

    return look_up


class _OldModule(Loader):
    """Loads an old module, whose names are now elsewhere."""

    def __init__(self, homes: Sequence[str]):
        self._homes = homes

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        warn(f"the module {module.__name__}", " and ".join(self._homes))
        homes = self._homes

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            for home in map(importlib.import_module, homes):
                for known in (name, RENAMED.get(name, name)):
                    if hasattr(home, known):
                        return getattr(home, known)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


class OldModules(MetaPathFinder):
    """Finds modules by their old names."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the spec of an old module."""
        homes = MOVED_MODULES.get(fullname)
        return None if homes is None else spec_from_loader(fullname, _OldModule(homes))
