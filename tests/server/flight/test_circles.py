"""What a call leaves is freed when it has ended, without the collector: in a circle it would wait for minutes.

The rule of this file: the collector is off while calls are made, and shows afterwards what it would have had to find.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Event
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flight_here import FlightHere, trades, wait_until
from pyarrow import flight
from soak_hostile import KINDS, TOKEN, Hostile

from tickflight.wire.tickets import Query
from tickflight_server.flight.auth import Call
from tickflight_server.query.execution import Execution

ROWS = 1 << 20
NAMES = ("bad password", "stretching", "packed", "nesting", "runaway", "large", "reconnecting", "abandoned")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FlightHere]:
    running = FlightHere(
        tmp_path / "lake",
        auth={"tokens": {"mallory": TOKEN}},
        query={"statement_timeout_s": 0.5, "memory_mb": 256},
    )
    running.store.append("trades", trades(2000)).result()
    yield running
    running.stop()


@pytest.fixture
def circles() -> Iterator[Any]:
    """Return what the collector finds of the server's own objects and of what they hold, since it was turned off."""
    gc.collect()
    gc.disable()

    def found() -> list[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        named = [f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.garbage]
        frames = [o.f_code.co_qualname for o in gc.garbage if "tickflight_server" in _file(o)]
        return [name for name in named if name.startswith(("tickflight_server.", "pyarrow."))] + frames

    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def _file(one: object) -> str:
    return one.f_code.co_filename if isinstance(one, FrameType) else ""


def alive() -> list[str]:
    """Return the calls and executions that nobody has let go of."""
    return [type(o).__name__ for o in gc.get_objects() if type(o) in (Call, Execution)]


def makers() -> list[str]:
    """Return what would still make batches of a result."""
    found = (o for o in gc.get_objects() if type(o).__name__ == "generator")
    return [
        o.__qualname__ for o in found if o.__qualname__.startswith(("PlainScan.", "MatchingScan.", "Ahead.batches"))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_call_leaves_no_circle(server: FlightHere, circles: Any, name: str) -> None:
    one = Hostile(int(server.address.rpartition(":")[2]), Random(name), Event())
    one.stop.set()  # nobody waits
    for _ in range(2):
        try:
            KINDS[name][1](one)
        except (pa.ArrowException, OSError):
            continue
    wait_until(lambda: not alive())
    assert circles() == []


def test_refused_batch_is_freed_at_once(server: FlightHere, circles: Any) -> None:
    one = Hostile(int(server.address.rpartition(":")[2]), Random(1), Event())
    before = pa.total_allocated_bytes()
    for _ in range(3):
        one.put(pa.record_batch({"price": np.zeros(ROWS)}))  # without an exchange and a symbol
    wait_until(lambda: pa.total_allocated_bytes() < before + 8 * ROWS and not alive())
    assert circles() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM trades",
        "SELECT * FROM trades WHERE price > 0",
        "SELECT * FROM trades ORDER BY price",
        "SELECT price FROM tail('trades', after_seq => 0)",
    ],
)
def test_result_that_nobody_reads_to_its_end_is_freed_at_once(server: FlightHere, circles: Any, sql: str) -> None:
    for _ in range(2):
        server.store.append("trades", trades(200_000)).result()
    before = pa.total_allocated_bytes()
    one = Hostile(int(server.address.rpartition(":")[2]), Random(1), Event())
    for _ in range(3):
        with one.client() as client:
            client.do_get(flight.Ticket(Query(sql).serialize()), one.options()).read_chunk()
    wait_until(lambda: not alive() and not makers())
    assert pa.total_allocated_bytes() < before + (4 << 20)
    assert circles() == []
