from __future__ import annotations

import threading
import weakref
from typing import cast

import duckdb
import pytest
from flight_here import wait_until

from tickflight_server.query import stopping
from tickflight_server.query.stopping import Deadlines, Stops


class _Connection:
    """What deadlines know of an engine's connection."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()


def _within(deadlines: Deadlines, seconds: float) -> weakref.ref[_Connection]:
    connection = _Connection()
    with deadlines.within(seconds, cast(duckdb.DuckDBPyConnection, connection)):
        assert seconds or connection.interrupted.wait(5)
    return weakref.ref(connection)


def test_connection_is_let_go_with_its_deadline() -> None:
    deadlines = Deadlines()
    known = _within(deadlines, 0)  # the thread has looked at it at least once
    assert known() is None


def test_thread_of_deadlines_ends_when_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_QUIET_LOOKS", 1)
    deadlines = Deadlines()
    _within(deadlines, 60)
    wait_until(lambda: deadlines._thread is None)


def test_what_begins_after_a_stop_is_stopped_too() -> None:
    stopped: list[str] = []
    stops = Stops(lambda: stopped.append("first"))
    stops.add(lambda: stopped.append("second"))
    stops()
    stops.add(lambda: stopped.append("third"))
    assert stopped == ["first", "second", "third"]
