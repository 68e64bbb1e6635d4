"""Text from outside, such as settings and names of files and classes: reading it, running it and showing it safely."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Terminal control characters (C0, DEL, C1), and characters that reverse text or start a new line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_WITH_OPTIONS = re.compile(r"(?P<name>.*?)(:(?P<options>[^:=]*=.*))?", re.DOTALL)
_MAY_BE_CODE = ("model", "transform", "model_output", "confidence", "methods", "metrics", "address")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Escape characters that a terminal would obey instead of showing.

    Args:
        text: what to show.
        lines: keep line breaks and tabs, for messages; names have none.

    >>> printable("a\x1b[31mb\n.png")
    'a\\x1b[31mb\\n.png'
    """
    pattern = _CONTROLS_IN_LINES if lines else _CONTROLS
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def csv_cell(value: object) -> object:
    """Return a value for a table: text that a spreadsheet would take for a formula gets a leading '.

    >>> csv_cell("=1+1"), csv_cell("a=1"), csv_cell(-1)
    ("'=1+1", 'a=1', -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def split_options(text: str) -> tuple[str, str]:
    """Split options off the name of a method or of code.

    >>> split_options("OptiCAM:max_iterations=30,utility=softmax"), split_options("mine.py:MyCAM:n=3")
    (('OptiCAM', 'max_iterations=30,utility=softmax'), ('mine.py:MyCAM', 'n=3'))
    """
    found = _WITH_OPTIONS.fullmatch(text)
    return (text, "") if found is None else (found["name"], found["options"] or "")


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read settings "name=value": numbers, None, True and False as Python writes them, anything else as text.

    Raises:
        ValueError: a setting has no "=".

    >>> read_settings(["max_iterations=30", "utility=softmax"])
    {'max_iterations': 30, 'utility': 'softmax'}
    """
    read: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise ValueError(f"expected NAME=VALUE, such as max_iterations=30; got {setting!r}")
        try:
            read[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two come from a thousand brackets
            read[name] = text
    return read


def names_code(spec: str) -> bool:
    """Return whether a text is FILE.py:NAME or MODULE:NAME, whose code is run."""
    return ":" in spec


def code_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a run, by name, that run code: functions, and clusters that work is sent to.

    What Ray gets from a cluster may be code as much as what it sends there; "auto" and "local" are this machine's own.

    >>> code_in({"model": "mine.py:model", "weights": "w.pth", "transform": None, "address": "auto"})
    {'model': 'mine.py:model'}
    >>> code_in({"methods": ["GradCAM", "OptiCAM:max_iterations=3", "mine.py:MyCAM:n=3"]})
    {'methods': 'mine.py:MyCAM:n=3'}
    """
    found = {name: [text for text in _texts_of(settings.get(name)) if names_code(text)] for name in _MAY_BE_CODE}
    found["methods"] = [*_code_in_methods(settings.get("methods"))]
    found["address"] = [text for text in _texts_of(settings.get("address")) if text not in ("", "auto", "local")]
    return {name: ", ".join(texts) for name, texts in found.items() if texts}


def _texts_of(setting: Any) -> list[str]:
    items = setting if isinstance(setting, list | tuple) else [setting]
    return [item for item in items if isinstance(item, str)]


def _code_in_methods(methods: Any) -> Iterator[str]:
    """Yield the code that methods name, in a list or a mapping, without the options after a name."""
    hyper = methods if isinstance(methods, Mapping) else dict.fromkeys(_texts_of(methods))
    for name, options in hyper.items():
        text = options.get("method", name) if isinstance(options, Mapping) else name
        if isinstance(text, str) and names_code(text if isinstance(options, Mapping) else split_options(text)[0]):
            yield text
