"""Write all files made from the lists of methods and metrics: run it after changing these, and check the diff.

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
