"""A live query in the client: the newest whole update, over restarts and silences, until it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flight_here import FlightHere, trades, wait_until
from silent_relay import Relay

import tickflight
from tickflight.errors import NotFoundError, QueryError, TickflightError, UnavailableError, UnsupportedError

COUNT = "SELECT count(*) AS n FROM trades"
VWAP = """SELECT symbol, time_bucket(INTERVAL 1 SECOND, timestamp) AS t, sum(price * amount) / sum(amount) AS vwap
FROM trades GROUP BY ALL ORDER BY t"""


def add(server: FlightHere, rows: int, first: int = 0) -> None:
    server.store.append("trades", trades(rows, first=first)).result()


def count(live: tickflight.Live) -> int:
    return int(live.latest["n"][0].as_py())


def test_updates_come_as_tables_that_say_how_they_were_made(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 5)
    with client.live(VWAP, every=0.01) as live:
        assert next(live).num_rows == 5
        assert (live.mode, live.reason, live.update) == ("incremental", "", 1)
        first = live.asked
        add(server, 3, first=5)
        table = next(live)
        assert table["vwap"].to_pylist() == [float(n) for n in range(8)]
        assert table is live.latest
        assert table.schema == live.schema
        assert live.update == 2
        assert live.asked > first
        assert "incremental: 8 rows" in repr(live)
    with client.live("SELECT count(*) AS n FROM trades WHERE price > ?", [5.0], every=0.01) as live:
        assert count(live) == 2
        assert (live.mode, live.reason) == ("asked again", "it has no GROUP BY over a time bucket")


def test_latest_is_a_frame_too(server: FlightHere, client: tickflight.Client) -> None:
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    add(server, 4)
    with client.live(COUNT) as live:
        assert isinstance(live.polars(), polars.DataFrame)
        assert isinstance(live.pandas(), pandas.DataFrame)
        assert live.polars()["n"].to_list() == live.pandas()["n"].to_list() == [4]


def test_a_slow_reader_gets_the_newest_and_nothing_in_between(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 1)
    with client.live(COUNT, every=0.001) as live:
        next(live)
        for number in range(2, 8):
            add(server, 1)
            wait_until(lambda number=number: count(live) == number)
        assert next(live)["n"].to_pylist() == [7]
        assert live.next(0.05) is None


def test_close_ends_who_waits_and_frees_the_server(server: FlightHere, client: tickflight.Client) -> None:
    live = client.live(COUNT, every=0.01)
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(live))
    reader.start()
    wait_until(lambda: seen)
    assert len(server.flight._streams) == 1
    live.close()
    live.close()
    reader.join(10)
    assert not reader.is_alive()
    wait_until(lambda: len(server.flight._streams) == 0)
    assert not any(t.name == "tickflight-live" for t in threading.enumerate())
    assert next(live, None) is None
    assert "closed" in repr(live)


def test_one_that_nobody_has_any_more_ends(server: FlightHere, client: tickflight.Client) -> None:
    live = client.live(COUNT, every=0.01)
    assert count(live) == 0
    del live
    wait_until(lambda: len(server.flight._streams) == 0)


def test_mistakes_are_raised_at_once(client: tickflight.Client) -> None:
    with pytest.raises(QueryError, match="nope"):
        client.live("SELECT nope FROM trades")
    with pytest.raises(UnsupportedError, match="only a query"):
        client.live("DROP TABLE x")
    with pytest.raises(QueryError, match="one row of 1 values"):
        client.live("SELECT ?")


def test_it_goes_on_when_the_server_is_back(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 3)
    with client.live(COUNT, every=0.01) as live:
        for rows in (3, 5):
            assert next(live)["n"].to_pylist() == [rows]
            server.stop()
            wait_until(lambda: live._reader.stream is None)
            server.start()
            add(server, 2)
            wait_until(lambda rows=rows: count(live) == rows + 2)
        assert live.reconnects == 2
        assert live.update >= 3


def test_a_query_that_the_server_does_not_take_any_more_ends_it(server: FlightHere, client: tickflight.Client) -> None:
    client.sql("CREATE TABLE mine AS SELECT 1 AS x").arrow()
    with client.live("SELECT x FROM mine", every=0.01) as live:
        assert live.latest["x"].to_pylist() == [1]
        next(live)
        client.sql("DROP TABLE mine").arrow()
        with pytest.raises(QueryError, match="mine"):
            next(live)
        with pytest.raises(QueryError, match="mine"):
            live.next(5)
        assert live.latest["x"].to_pylist() == [1]


def test_silence_is_taken_for_a_lost_stream(server: FlightHere) -> None:
    add(server, 3)
    relay = Relay(server.port)
    try:
        with tickflight.connect(f"grpc://127.0.0.1:{relay.port}") as client, client.live(COUNT, silence_s=0.3) as live:
            assert next(live)["n"].to_pylist() == [3]
            relay.fall_silent()
            add(server, 1)
            table = live.next(10)
            assert table is not None
            assert table["n"].to_pylist() == [4]
            assert live.reconnects == 1
    finally:
        relay.close()


def test_failures_of_a_stream_are_told_apart() -> None:
    class Stream:
        schema = None

        def __init__(self, error: Exception) -> None:
            self.error = error

        def read_chunk(self) -> Any:
            raise self.error

        def cancel(self) -> None: ...

    def opener(*errors: Exception) -> Callable[[bytes, bool], Any]:
        left = list(errors)
        return lambda *_: Stream(left.pop(0) if len(left) > 1 else left[0])

    request = tickflight.live.LiveRequest("SELECT 1", b"", 10)
    live = tickflight.Live(opener(UnavailableError("away"), UnavailableError("away"), NotFoundError("gone")), request)
    with pytest.raises(NotFoundError, match="gone"):
        next(live)
    assert live.reconnects == 2
    live.close()
    closed = tickflight.Live(opener(UnavailableError("away")), request)
    closed.close()
    with pytest.raises(TickflightError, match="closed before"):
        _ = closed.latest
