"""Live queries over Flight: what any client sees of them, and that nothing is left of one whose caller went."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import FlightHere, trades, wait_until
from pyarrow import flight

from tickflight.client import parameters_to_ipc
from tickflight.wire.streams import Live, LiveMark

PAGE = Path(__file__).parents[3] / "proto-notes" / "live.md"
COUNT = "SELECT count(*) AS n FROM trades"
BY_MINUTE = "SELECT time_bucket(INTERVAL 1 MINUTE, timestamp) AS t, count(*) AS n FROM trades GROUP BY t"
SLOW = "SELECT count(*) FROM range(100000000000) a, trades"
Open = Callable[..., flight.FlightStreamReader]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FlightHere]:
    query = {"heartbeat_s": 0.1, "streams_max": 3, "live_every_min_ms": 1, "live_result_mb": 4, "batch_bytes": 65536}
    made = FlightHere(tmp_path / "lake", query=query)
    made.store.append("trades", trades(100)).result()
    yield made
    made.stop()


@pytest.fixture
def flight_client(server: FlightHere) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(server.address) as made:
        yield made


@pytest.fixture
def live(flight_client: flight.FlightClient) -> Open:
    def make(sql: str, params: Any = None, every_ms: int = 1, **headers: str) -> flight.FlightStreamReader:
        request = Live(sql, parameters_to_ipc(params) if params else b"", every_ms)
        options = flight.FlightCallOptions(
            headers=[(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        )
        return flight_client.do_get(flight.Ticket(request.serialize()), options)

    return make


def update_of(stream: flight.FlightStreamReader) -> tuple[pa.Table, list[LiveMark], int]:
    """Return the next update's rows and marks, and how many heartbeats came before it."""
    batches, marks, heartbeats = [], [], 0
    while True:
        chunk = stream.read_chunk()
        mark = LiveMark.parse(chunk.app_metadata.to_pybytes())
        if mark.update == 0:
            assert chunk.data.num_rows == 0
            heartbeats += 1
            continue
        batches.append(chunk.data)
        marks.append(mark)
        if mark.last:
            return pa.Table.from_batches(batches), marks, heartbeats


def to_its_end(stream: flight.FlightStreamReader) -> None:
    for _ in stream:
        pass


def test_any_client_follows_with_plain_doget(server: FlightHere, flight_client: flight.FlightClient) -> None:
    descriptor = flight.FlightDescriptor.for_command(Live(BY_MINUTE, b"", 1).serialize())
    info = flight_client.get_flight_info(descriptor)
    assert info.schema == flight_client.get_schema(descriptor).schema
    assert info.schema.names == ["t", "n"]
    stream = flight_client.do_get(info.endpoints[0].ticket)
    table, (mark,), _ = update_of(stream)
    assert sum(table["n"].to_pylist()) == 100
    assert (mark.update, mark.last, mark.mode, mark.reason) == (1, True, "incremental", "")
    assert abs(mark.asked_us / 1e6 - time.time()) < 60
    server.store.append("trades", trades(7)).result()
    table, (mark,), _ = update_of(stream)
    assert sum(table["n"].to_pylist()) == 107
    assert mark.update == 2
    stream.cancel()


def test_example_of_the_page_runs(server: FlightHere) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    exec(text.replace("grpc://127.0.0.1:8815", server.address), found)
    assert pa.Table.from_batches(found["batches"]).to_pylist() == [{"symbol": "BTC-USDT", "n": 100}]


def test_an_update_of_many_batches_has_one_last(live: Open, server: FlightHere) -> None:
    server.store.append("trades", trades(20_000)).result()
    stream = live("SELECT symbol, price FROM trades")
    table, marks, _ = update_of(stream)
    assert table.num_rows == 20_100
    assert len(marks) > 1
    assert [m.last for m in marks] == [False] * (len(marks) - 1) + [True]
    assert {m.update for m in marks} == {1}
    stream.cancel()


def test_an_empty_result_is_an_update_and_parameters_are_bound(live: Open, server: FlightHere) -> None:
    stream = live("SELECT price FROM trades WHERE price > ?", [500.0])
    table, (mark,), _ = update_of(stream)
    assert (table.num_rows, mark.mode, mark.reason) == (0, "asked again", "it has no GROUP BY over a time bucket")
    server.store.append("trades", trades(2, first=600)).result()
    assert update_of(stream)[0]["price"].to_pylist() == [600.0, 601.0]
    stream.cancel()


def test_a_stream_is_not_silent_while_nothing_changes_or_an_update_takes_long(live: Open, server: FlightHere) -> None:
    stream = live(COUNT)
    update_of(stream)
    later = threading.Timer(0.5, lambda: server.store.append("trades", trades(1)).result())
    later.start()
    _, _, heartbeats = update_of(stream)
    later.join()
    assert heartbeats >= 2
    stream.cancel()
    stream = live(SLOW)
    for _ in range(3):
        assert LiveMark.parse(stream.read_chunk().app_metadata.to_pybytes()).update == 0
    stream.cancel()


def test_now_is_asked_at_every_interval(live: Open) -> None:
    stream = live("SELECT now() AS t")
    times = [update_of(stream)[0]["t"][0].as_py() for _ in range(3)]
    assert times == sorted(set(times))
    stream.cancel()


def test_updates_are_an_interval_apart(live: Open, server: FlightHere) -> None:
    stream = live("SELECT now() AS t", every_ms=150)
    marks = [update_of(stream)[1][0] for _ in range(5)]
    assert marks[-1].asked_us - marks[0].asked_us > 4 * 150_000 - 100_000  # the first may have been late
    stream.cancel()


def test_more_streams_than_may_be_are_refused_and_an_ended_one_makes_room(live: Open, server: FlightHere) -> None:
    open_ones = [live(COUNT) for _ in range(3)]
    for stream in open_ones:
        update_of(stream)
    with pytest.raises(flight.FlightUnavailableError, match=r"query\.streams_max"):
        live(COUNT).read_chunk()
    told = server.store.metrics.read()
    assert (told["live_updates"], told["streams_refused"]) == (3, 1)
    open_ones[0].cancel()
    wait_until(lambda: len(server.flight._streams) == 2)
    update_of(live(COUNT))


@pytest.mark.parametrize("sql", [COUNT, SLOW, BY_MINUTE])
def test_nothing_is_left_of_a_caller_that_went(live: Open, server: FlightHere, sql: str) -> None:
    places = server.free_places
    stream = live(sql)
    stream.read_chunk()
    stream.cancel()
    wait_until(lambda: len(server.flight._streams) == 0 and server.free_places == places)
    wait_until(lambda: not any(t.name.startswith("live-query") for t in threading.enumerate()))


def test_a_shutdown_ends_live_queries_as_unavailable(live: Open, server: FlightHere) -> None:
    waiting, working = live(COUNT), live(SLOW)
    update_of(waiting)
    working.read_chunk()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    for stream in (waiting, working):
        with pytest.raises(flight.FlightUnavailableError):
            to_its_end(stream)
    stopping.join(10)
    assert not stopping.is_alive()


def test_the_time_limit_is_of_an_update_and_not_of_the_stream(tmp_path: Path) -> None:
    server = FlightHere(tmp_path / "lake", query={"statement_timeout_s": 1, "heartbeat_s": 0.2})
    try:
        server.store.append("trades", trades(10)).result()
        with flight.FlightClient(server.address) as client:
            stream = client.do_get(flight.Ticket(Live(COUNT, b"", 50).serialize()))
            for _ in range(8):  # of 0.2 s each
                stream.read_chunk()
            stream.cancel()
            slow = client.do_get(flight.Ticket(Live(SLOW, b"", 50).serialize()))
            with pytest.raises(flight.FlightTimedOutError, match="time limit"):
                to_its_end(slow)
    finally:
        server.stop()


def test_what_cannot_be_kept_fresh_is_refused(live: Open, server: FlightHere) -> None:
    pin = server.store.pins.create({"trades": 100}, 60)
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"sql": "SELECT nope FROM trades"}, pa.ArrowInvalid, "nope"),
        ({"sql": "CREATE TABLE x (a INT)"}, pa.ArrowNotImplementedError, "only a query"),
        ({"sql": "EXPLAIN SELECT 1"}, pa.ArrowNotImplementedError, "only a query"),
        ({"sql": "SELECT ?"}, pa.ArrowInvalid, "one row of 1 values"),
        ({"sql": COUNT, "every_ms": -1}, pa.ArrowInvalid, "every_ms"),
        ({"sql": COUNT, "x_tickflight_snapshot": pin.id}, pa.ArrowInvalid, "nothing changes"),
    ]
    for arguments, kind, words in refused:
        with pytest.raises(kind, match=words):
            live(**arguments).read_chunk()
    wait_until(lambda: len(server.flight._streams) == 0)


def test_a_result_that_grows_too_large_ends_the_stream(live: Open, server: FlightHere) -> None:
    stream = live("SELECT * FROM trades")
    update_of(stream)
    server.store.append("trades", trades(60_000)).result()
    with pytest.raises(pa.ArrowInvalid, match=r"query\.live_result_mb"):
        to_its_end(stream)
