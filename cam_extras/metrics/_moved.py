"""Names that modules of this folder once had, which work with a DeprecationWarning for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from cam_extras._checks import stacklevel_of_the_caller


def moved(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` for names that are elsewhere now: old name -> "module:name"."""

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, now = names[name].partition(":")
        warnings.warn(
            f"{module}.{name} is {place}.{now} now: the old name will go with the next release",
            DeprecationWarning,
            stacklevel=stacklevel_of_the_caller(),
        )
        return getattr(import_module(place), now)

    return get
