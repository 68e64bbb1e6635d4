"""The catalogue: the list of methods and metrics that the command line reads without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytorch_grad_cam

from cam_extras.methods import DEFAULT_METHODS
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.pytorch_grad_cam import UPSTREAM
from cam_extras.report.tables import method_entries, metric_entries

FILE = Path(__file__).resolve().parent.parent / "cam_extras" / "_catalogue.py"
HEAD = '''"""What there is, by name. Written by tools/generate.py from the registries: edit those, and run it again."""

from cam_extras._listing import MethodEntry, MetricEntry
'''


def public_names(module: ModuleType) -> tuple[str, ...]:
    """Return the names of the classes and functions that a package defines and exports."""
    own = f"{module.__name__}."
    return tuple(
        sorted(
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "").startswith(own)
        )
    )


def catalogue() -> str:
    """Return what the file should hold."""
    contents = {
        "METHODS": tuple(method_entries()),
        "METRICS": tuple(metric_entries()),
        "UPSTREAM": tuple(sorted(UPSTREAM)),
        "PYTORCH_GRAD_CAM": public_names(pytorch_grad_cam),
        "DEFAULT_METHODS": tuple(DEFAULT_METHODS),
        "DEFAULT_METRICS": tuple(DEFAULT_METRICS),
    }
    text = HEAD + "".join(f"\n{name} = {value!r}\n" for name, value in contents.items())
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FILE), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
