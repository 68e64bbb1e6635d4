"""Text that comes from elsewhere, such as names of files and classes, made safe for what shows it."""

from __future__ import annotations

import re

# What a terminal obeys (C0, DEL, C1), and what turns the order of letters round or starts another line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Spell out what a terminal would obey instead of showing it.

    Args:
        text: what to show.
        lines: keep ends of lines and tabs, as in messages; names have none.

    >>> printable("a\x1b[31mb\n.png")
    'a\\x1b[31mb\\n.png'
    """
    pattern = _CONTROLS_IN_LINES if lines else _CONTROLS
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def csv_cell(value: object) -> object:
    """Return a value as it stands in a table: a text that a spreadsheet would take for a formula begins with '.

    >>> csv_cell("=1+1"), csv_cell("a=1"), csv_cell(-1)
    ("'=1+1", 'a=1', -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
