"""Progress in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """Progress bars, one a stage, with the time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` steps begins."""
        self._task = self._bars.add_task(text, total=total)

    def advance(self, done: int) -> None:
        """``done`` steps of the stage are finished."""
        if self._task is not None:
            self._bars.update(self._task, completed=done)


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Bars shown on ``console`` while the block runs."""
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Bars(bars)
