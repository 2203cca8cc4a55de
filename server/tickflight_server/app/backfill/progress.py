"""What an import or export says while it runs: a bar in a terminal, a line every few seconds elsewhere.

The rule of this file: it only shows; nothing waits for it and nothing is counted here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_S = 5.0  # seconds between two lines where there is no terminal


class Shown:
    """The progress of one file after the other; use it as a context manager.

    Args:
        say: takes a line.
        console: where the bar is drawn; standard error, so that standard output holds lines alone.
    """

    def __init__(self, say: Callable[[str], None], console: Console | None = None) -> None:
        self._say = say
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._size, self._last = "", 0, 0.0

    def __enter__(self) -> Shown:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TextColumn("{task.fields[rows]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str, size: int) -> None:
        """Say what is worked on now, and how many bytes it has."""
        self._name, self._size, self._last = name, size, time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=size or None, rows="")

    def move(self, position: int, rows: int) -> None:
        """Say how far it is."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=position, rows=f"{rows:,} rows" if rows else "checked")
        elif time.monotonic() - self._last >= PLAIN_S:
            self._last = time.monotonic()
            share = f"{100 * position / self._size:.0f} %, " if self._size else ""
            self._say(f"{self._name}: {share}{rows:,} rows" if rows else f"{self._name}: {share}checked")

    def line(self, text: str) -> None:
        """Say a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self._say(text)
