"""The progress bar of a run, in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} images/s")


@contextmanager
def progress_bar(
    images: int | None, done: int, shown: bool | None, what: str = "explaining and scoring"
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on the standard error stream, and yield a function that advances it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    disable = not (sys.stderr.isatty() if shown is None else shown)
    with Progress(*columns, console=Console(stderr=True), disable=disable, speed_estimate_period=120) as progress:
        task = progress.add_task("", total=images, completed=0 if images is None else min(done, images))
        yield lambda count: progress.update(task, advance=count)
