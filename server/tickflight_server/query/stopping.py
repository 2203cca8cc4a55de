"""Stopping what the engine does, from another thread.

The rule of this file: what is stopped is one block on one connection, never what comes after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import duckdb

from tickflight_server.errors import CancelledError


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
        with self._lock:
            self._ended = True

    def __call__(self) -> None:
        """Stop what the connection is doing, if the block has not ended."""
        with self._lock:
            if not self._ended:
                self.used = True
                interrupt(self._connection)


class Stops:
    """Stops all that is done for one query, on several connections and between what they do.

    Args:
        stop: what stops the first.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stops = [stop]
        self._stopped = False

    def add(self, stop: Callable[[], None]) -> None:
        """Call ``stop``, too, from now on."""
        self._stops.append(stop)

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
