"""The table of docs/architectures.md: the layer that "auto" finds in the models of tests/architectures.py.

python tools/table_of_architectures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architectures.md"
BEGIN, END = "<!-- Written by tools/table_of_architectures.py. -->\n", "<!-- End of what is written. -->\n"
HEAD = "| library | model | input | layer | map | |\n| --- | --- | --- | --- | --- | --- |\n"
sys.path.insert(0, str(ROOT / "tests"))

from architectures import ARCHITECTURES, Architecture  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cam_extras.layers import auto_layer  # noqa: E402
from cam_extras.probe import Probe  # noqa: E402


def row(architecture: Architecture, model: nn.Module, x: Tensor) -> str:
    """Return the line of the table for an architecture, its model and an input."""
    start = f"| {architecture.library} | {architecture.name} | {_sizes(architecture.size[1:])} |"
    try:
        found = auto_layer(model, x)
    except ValueError as error:
        return f"{start} | | {str(error).splitlines()[0]} |\n"
    maps = Probe(model, found.layer, x, reshape_transform=found.reshape_transform).activations
    return f"{start} `{found.name}` | {_sizes(maps.shape[2:])} | map |\n"


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def rows_of_the_page() -> list[str]:
    """Return the lines of the table as they are in the page."""
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    return table.removeprefix(HEAD).splitlines(keepends=True)


def with_table(page: str) -> str:
    """Return the page with the table as it should be."""
    before, rest = page.split(BEGIN)
    rows = "".join(row(architecture, *architecture.model_and_input()) for architecture in ARCHITECTURES)
    return before + BEGIN + HEAD + rows + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
