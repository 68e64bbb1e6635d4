"""For the documentation site: docstrings are plain text, and Markdown must not read them as something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]+`)")
_RULE = re.compile(r"=+( +=+)+$")
_SHOWN = {
    name
    for page in (Path(__file__).parent / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
}
# A package is shown with all that its `__init__` lists: those in `__all__`, and the classes of a stub.
for _package in list(_SHOWN):
    for _file in (Path(__file__).parent.parent / _package.replace(".", "/")).glob("__init__.py*"):
        _SHOWN.discard(_package)  # which has no heading of its own
        _SHOWN |= {
            f"{_package}.{name}"
            for kind, name in re.findall(r'^(    "|class )(\w+)', _file.read_text(encoding="utf-8"), re.MULTILINE)
            if kind == "class " or not name.isupper()  # constants have no entry
        }


class PlainDocstrings(griffe.Extension):
    """Griffe extension: changes every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is None:
            return
        text = as_markdown(obj.docstring.value)
        if isinstance(obj, griffe.Function):
            # A type before the colon, as Google's style has it: without, a colon further on would seem to follow one.
            text = re.sub(r"(?m)^( *Returns:\n +)", lambda found: f"{found[1]}{obj.returns}: ", text)
        obj.docstring.value = text


def as_markdown(text: str) -> str:
    """Return Markdown that looks as the plain text does.

    Asterisks stay, examples are set as code, tables as tables, and names that the API pages show become links.
    """
    lines: list[str] = []
    in_example = in_table = False
    for line in text.splitlines():
        indent, content = line[: len(line) - len(line.lstrip())], line.strip()
        if not in_example and content.startswith(">>> "):
            lines.append(f"{indent}```pycon")
            in_example = True
        if in_example:
            if content:
                lines.append(line)
                continue
            lines.append("```")
            in_example = False
        if _RULE.match(content):
            lines += [] if in_table else [f"{indent}| | |", f"{indent}| --- | --- |"]
            in_table = not in_table
            continue
        pieces = _CODE.split(content)
        pieces[::2] = [piece.replace("*", r"\*") for piece in pieces[::2]]
        pieces[1::2] = [f"[{code}][{code[1:-1]}]" if code[1:-1] in _SHOWN else code for code in pieces[1::2]]
        content = "".join(pieces)
        if in_table:
            cells = re.split(" {2,}", content.replace("|", r"\|"), maxsplit=1)
            content = f"| {' | '.join(cells)} |"
        lines.append(indent + content)
    return "\n".join([*lines, "```"] if in_example else lines)
