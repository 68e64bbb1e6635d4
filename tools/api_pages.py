"""Write what the API pages list: between two comments, an entry for each method and its class in every host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cam_extras.captum import class_name
from cam_extras.methods import DEFAULT_METHODS, METHODS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "api"
BEGIN, END = "<!-- written by tools/generate.py -->\n", "<!-- end -->"


def entries(module: str, names: Iterable[str]) -> str:
    """Return the entries of names in a module."""
    return "".join(f"\n::: {module}.{name}\n" for name in names)


def methods() -> str:
    """Return the methods' entries: those of a run by default, others, controls."""
    controls = [name for name, method in METHODS.items() if method.control]
    others = [name for name in METHODS if name not in (*DEFAULT_METHODS, *controls)]
    groups = {
        "In a run by default": [name for name in DEFAULT_METHODS if name not in controls],
        "By name": others,
        "Controls": controls,
    }
    return "".join(f"\n## {title}\n{entries('cam_extras.methods', names)}" for title, names in groups.items())


def pages() -> dict[Path, str]:
    """Return what each page should hold."""
    written = {
        "methods.md": methods(),
        "pytorch_grad_cam.md": entries("cam_extras.pytorch_grad_cam", METHODS),
        "captum.md": entries("cam_extras.captum", map(class_name, METHODS)),
    }
    found = {}
    for name, text in written.items():
        before = (FOLDER / name).read_text(encoding="utf-8")
        between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
        found[FOLDER / name] = between.sub(lambda _, text=text: f"{text}\n", before)
    return found
