"""How far a long pull is: rows, bytes and rate, on a terminal's standard error or in a notebook's cell.

The rule of this file: nothing is shown where nobody looks, nothing for what is over within a second, and what cannot be
shown for want of a package is no error.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import Any, Protocol

import pyarrow as pa

SWITCH = "TICKFLIGHT_PROGRESS"
SHOWN_AFTER_S = 1.0
REDRAWN_EVERY_S = 0.25


class Display(Protocol):
    """Where a line is shown that changes."""

    def show(self, text: str) -> None:
        """Show ``text`` in place of what was shown."""

    def close(self, text: str) -> None:
        """Show nothing more; ``text`` says how it went."""


class Progress:
    """Counts what arrives, and shows it while there is something to wait for.

    Args:
        display: where; nothing is asked of it before ``SHOWN_AFTER_S``.
        clock: seconds since any moment.
    """

    def __init__(self, display: Display, clock: Any = time.monotonic) -> None:
        self._display = display
        self._clock = clock
        self._began: float = clock()
        self._next = self._began + SHOWN_AFTER_S
        self._shown = False
        self._rows = 0
        self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch that arrived."""
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        now = self._clock()
        if now >= self._next:
            self._next = now + REDRAWN_EVERY_S
            self._shown = True
            self._display.show(self._line(now))

    def close(self) -> None:
        """Say how much it was, if anything was shown."""
        if self._shown:
            self._shown = False
            self._next = float("inf")
            self._display.close(self._line(self._clock()))

    def _line(self, now: float) -> str:
        seconds = now - self._began
        return f"{self._rows:,} rows, {size(self._bytes)}, {seconds:.1f} s, {self._rows / seconds:,.0f} rows/s"


def size(count: float) -> str:
    """Return a number of bytes with its unit: "1.5 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def watch(asked: bool | None) -> Progress | None:
    """Return what counts a pull, None where nothing is to be shown.

    ``asked``: True for always, False for never, None for where somebody looks: a notebook, or a terminal as standard
    error. ``TICKFLIGHT_PROGRESS=0`` in the environment stands for False.
    """
    if asked is None and os.environ.get(SWITCH, "") != "0":
        asked = in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    if not asked:
        return None
    if in_notebook():
        return Progress(_Cell())
    return Progress(_Terminal()) if find_spec("rich") else None


def in_notebook() -> bool:
    """Return whether output goes to a notebook, as far as IPython knows."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


class _Terminal:
    """A line of standard error, which goes away in the end."""

    def __init__(self) -> None:
        self._live: Any = None

    def show(self, text: str) -> None:
        """Show ``text``; rich is imported when there is something to show."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(text), refresh=True)

    def close(self, text: str) -> None:
        """Take the line away."""
        if self._live is not None:
            self._live.stop()


class _Cell:
    """A line below a notebook's cell, which stays: what is shown there is kept with the notebook."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show ``text``."""
        from IPython.display import display

        shown = {"text/plain": text}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(shown, raw=True)

    def close(self, text: str) -> None:
        """Leave ``text`` there."""
        self.show(text)
