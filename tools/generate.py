"""Write all that is made of the lists of methods and metrics: run it after a change to these, and look what changed.

python tools/generate.py
"""

from __future__ import annotations

from pathlib import Path

import api_pages
import catalogue
import stub_quantus
import stubs


def files() -> dict[Path, str]:
    """Return what each file should hold."""
    return {
        catalogue.FILE: catalogue.catalogue(),
        **stubs.stubs(),
        stub_quantus.STUB: stubs.formatted(stub_quantus.text_of_stub()),
        **api_pages.pages(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
