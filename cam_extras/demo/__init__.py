"""The demo: a small classifier of digits on cluttered canvases, its data and its training script."""

from pathlib import Path

FOLDER = Path("cam-extras-output/demo")  # where a demo replaces the last one
