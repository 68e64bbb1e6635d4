"""Checks of plain values and names: without torch, so that a command line can be checked at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from types import MappingProxyType
from typing import Literal, TypeAlias

Fusion: TypeAlias = Literal["mean", "max", "refine"]
"""How the maps of several layers become one, see `cam_extras.fusion`."""


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r:.80}")


def check_seed(seed: object) -> None:
    """Raise TypeError unless `seed` is an integer."""
    if not hasattr(seed, "__index__") or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer; got {seed!r}")


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise TypeError or ValueError unless `value` is an integer, `least` or more and no more than `most`."""
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; got {value!r:.80}")
    if value.__index__() < least:
        raise ValueError(f"{name} must be {least} or more; got {value}")
    if most is not None and value.__index__() > most:
        raise ValueError(f"{name} must be {most} or less; got {value}")


def at_least(least: int) -> Callable[[str, object], None]:
    """Return a check that an integer is `least` or more, for use in `Annotated`."""

    def check(name: str, value: object) -> None:
        check_count(name, value, least)

    return check


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a real number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number; got {value!r:.80}")


def check_name(kind: str, name: object, known: Collection[str]) -> None:
    """Raise ValueError with the nearest names unless `name` is known."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"there is no {kind} {name!r:.80}: {_nearest(str(name)[:80], known)}")


def find_name(kind: str, given: str, names: Collection[str], shorts: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the name that is meant, ignoring case, hyphens, underscores and spaces.

    Args:
        kind: what it is a name of, for the message.
        given: what the user typed.
        names: the known names.
        shorts: short name -> name.

    Raises:
        ValueError: no name matches; the message has the nearest.

    >>> find_name("metric", "ad", ["average_drop", "adcc"], {"AD": "average_drop"})
    'average_drop'
    """
    if given in names:
        return given
    meant = {_plain(short): name for short, name in shorts.items()} | {_plain(name): name for name in names}
    if _plain(given) not in meant:
        raise ValueError(f"there is no {kind} {given!r:.80}: {_nearest(given[:80], names, shorts)}")
    return meant[_plain(given)]


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _nearest(given: str, names: Collection[str], shorts: Mapping[str, str] = MappingProxyType({})) -> str:
    """Name the nearest names, ignoring case, or else all names."""
    lower = {short.lower(): name for short, name in shorts.items()} | {name.lower(): name for name in names}
    close = dict.fromkeys(lower[name] for name in difflib.get_close_matches(given.lower(), lower, n=3, cutoff=0.5))
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
