"""Progress, in the terminal or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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


class Reporter(Protocol):
    """Shows where a study is."""

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, done: int, total: int | None = None) -> None:
        """``done`` steps of the stage are finished, of ``total`` where that has changed."""


class Silent:
    """Shows nothing."""

    def stage(self, text: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int, total: int | None = None) -> None:
        """Nothing."""


class Bars:
    """Progress bars, one a stage, with the time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` steps begins."""
        self._task = self._bars.add_task(text, total=total)

    def advance(self, done: int, total: int | None = None) -> None:
        """``done`` steps of the stage are finished, of ``total`` where that has changed."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)


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
