"""A progress bar for a stream: items per second and time left, on stderr, only where someone is watching."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")
PATIENCE = 2.0  # seconds before a bar is worth showing


def progress(
    iterable: Iterable[Item], *, total: int | None = None, unit: str = "frames", description: str = ""
) -> Iterator[Item]:
    """Yields the items; shows a bar once two seconds have passed, if stderr is a terminal.

    total: how many are expected; `None` takes `len(iterable)` where there is one, else there is no time
    left."""
    if not sys.stderr.isatty():
        yield from iterable
        return
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # pyright: ignore[reportArgumentType]
    began, bar, done = time.monotonic(), None, 0
    try:
        for item in iterable:
            yield item
            done += 1
            if bar is None and time.monotonic() - began >= PATIENCE:
                bar = _bar(unit, began)
                bar.start()
                bar.add_task(description or unit, total=total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
    finally:
        if bar is not None:
            bar.stop()


def _bar(unit: str, began: float) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit, began),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Rate(ProgressColumn):
    """Items per second since the beginning (not since the bar appeared)."""

    def __init__(self, unit: str, began: float) -> None:
        super().__init__()
        self._unit, self._began = unit, began

    def render(self, task: Task) -> Text:
        seconds = max(time.monotonic() - self._began, 1e-9)
        return Text(f"{task.completed / seconds:.1f} {self._unit}/s")
