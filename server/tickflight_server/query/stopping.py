"""Stopping what the engine does, from another thread.

The rule of this file: what is stopped is one block on one connection, never what comes after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import duckdb

from tickflight_server.errors import CancelledError

_LOOK_S = 0.02  # how often times are looked at
_QUIET_LOOKS = 100


def interrupt(connection: duckdb.DuckDBPyConnection | None) -> None:
    """Stop what a connection is doing, if anything."""
    if connection is None:
        return
    with suppress(duckdb.Error):  # it is closed already
        connection.interrupt()


class Stopper:
    """Stops the block that it is entered for, on one connection, and nothing that the connection does after it.

    A call stops the step that the engine is in. It may be between two, so a caller that means it calls again.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._ended = False
        self.used = False

    def __enter__(self) -> Stopper:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop nothing from now on."""
        with self._lock:
            self._ended = True

    def __call__(self) -> None:
        """Stop what the connection is doing, if the block has not ended."""
        with self._lock:
            if not self._ended:
                self.used = True
                interrupt(self._connection)


class Deadlines:
    """Interrupts connections whose time is over, from one thread for all of them, which ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[object, tuple[float, duckdb.DuckDBPyConnection]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, seconds: float, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt ``connection`` if the block takes longer than ``seconds``, and never once the block has ended."""
        key = object()
        with self._lock:
            self._open[key] = (time.monotonic() + seconds, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._open[key]

    def _run(self) -> None:
        quiet = 0
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                self._look()
                quiet = 0 if self._open else quiet + 1
                if quiet > _QUIET_LOOKS:
                    self._thread = None
                    return

    def _look(self) -> None:
        # in a method of its own: no connection is held here while the thread waits
        now = time.monotonic()
        for until, connection in self._open.values():
            if until <= now:
                interrupt(connection)  # again and again: it may be between two steps


DEADLINES = Deadlines()


class Stops:
    """Stops all that is done for one query, on several connections and between what they do.

    Args:
        stop: what stops the first.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stops = [stop]
        self._stopped = False

    def add(self, stop: Callable[[], None]) -> None:
        """Call ``stop``, too, from now on, and at once if all was stopped before."""
        self._stops.append(stop)
        if self._stopped:
            stop()

    def __call__(self) -> None:
        """Stop what is being done."""
        self._stopped = True
        for stop in tuple(self._stops):
            stop()

    def check(self) -> None:
        """Go on.

        Raises:
            CancelledError: it was stopped.
        """
        if self._stopped:
            raise CancelledError("the query was cancelled.")
