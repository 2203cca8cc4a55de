"""A tail in the client: each row once over whatever happens to the stream, until it is closed, too slow, or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import START_US, FlightHere, trades, wait_until
from ports import free_port
from silent_relay import Relay

import tickflight
from tickflight import tail as tail_module
from tickflight.connection import Connection, Credentials
from tickflight.errors import LagError, NotFoundError, QueryError, ResourceExhaustedError, UnavailableError
from tickflight.tail import TOKEN, Skipped, Tail, make_request, since_to_us
from tickflight.wire.streams import ResumeToken

DAY_US = 86_400_000_000
QUERY = {"heartbeat_s": 0.1, "concurrent_max": 8, "streams_max": 5}


@pytest.fixture
def make_here(tmp_path: Path) -> Iterator[Callable[..., FlightHere]]:
    made: list[FlightHere] = []

    def make(name: str = "lake", **more: Any) -> FlightHere:
        made.append(FlightHere(tmp_path / name, port=free_port(), query=QUERY, **more))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not any(t.name.startswith("tickflight-") for t in threading.enumerate()))


@pytest.fixture
def server(make_here: Callable[..., FlightHere]) -> FlightHere:
    return make_here()


def add(server: FlightHere, rows: int, **more: Any) -> None:
    server.store.append("trades", trades(rows, **more)).result()


def take(tail: Tail, rows: int, column: str = "seq") -> list[Any]:
    """Return a column of the next batches that have so many rows together."""
    found: list[Any] = []
    while len(found) < rows:
        found += next(tail).column(column).to_pylist()
    return found


def none_is_open(server: FlightHere) -> None:
    counts = server.store.metrics.read
    wait_until(lambda: counts().get("tails", 0) == counts().get("tails_ended", 0) and not len(server.flight._streams))


# --- since

MIDNIGHT = datetime(2026, 9, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "since",
    [
        MIDNIGHT,
        MIDNIGHT.replace(tzinfo=None),
        MIDNIGHT.astimezone(timezone(timedelta(hours=5))),
        MIDNIGHT.date(),
        "2026-09-21",
        "2026-09-21 00:00",
        " 2026-09-21T02:00:00+02:00 ",
        "2026-09-20T23:59:59.000001Z",
        5,
    ],
    ids=str,
)
def test_since_is_a_time_in_any_form_or_a_seq(server: FlightHere, client: tickflight.Client, since: Any) -> None:
    add(server, 10, start_us=int(MIDNIGHT.timestamp()) * 1_000_000 - 5_000_000)
    with client.tail("trades", since=since) as tail:
        add(server, 10, start_us=int(MIDNIGHT.timestamp()) * 1_000_000)
        assert take(tail, 15) == list(range(6, 21))
        assert (tail.seq, tail.newest_seq, tail.lag) == (20, 20, 0)


@pytest.mark.parametrize("since", ["today", "Start of Today", timedelta(hours=1), timedelta(0)])
def test_since_may_be_told_from_now(server: FlightHere, client: tickflight.Client, since: Any) -> None:
    now_us = time.time_ns() // 1000
    add(server, 3, start_us=now_us - 2 * DAY_US)
    add(server, 3, start_us=now_us + 10_000_000)
    with client.tail("trades", since=since) as tail:
        assert take(tail, 3) == [4, 5, 6]


def test_without_since_it_begins_now_and_0_is_everything(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 10)
    with client.tail("trades") as new, client.tail("trades", since=0) as every:
        assert (new.seq, every.seq, every.lag) == (10, 0, 10)
        add(server, 5)
        assert take(new, 5) == [11, 12, 13, 14, 15]
        assert new.durable_us > START_US
        assert take(every, 15) == list(range(1, 16))


def test_rows_and_columns_are_chosen(server: FlightHere, client: tickflight.Client) -> None:
    for symbol in "ABC":
        add(server, 10, symbol=symbol)
    chosen = {"symbols": ["A", "C"], "exchanges": "BINANCE", "columns": ["price", "symbol"], "where": "price >= 8"}
    with client.tail("trades", since=0, **chosen) as tail:
        add(server, 10, symbol="C")
        assert tail.schema == pa.schema([("price", pa.float64()), ("symbol", pa.string())])
        table = pa.Table.from_batches([next(tail), next(tail)])
    assert table["price"].to_pylist() == [8.0, 9.0] * 3
    assert table["symbol"].to_pylist() == ["A", "A", "C", "C", "C", "C"]


@pytest.mark.parametrize("since", ["yesterday", "", True, 1.5, [], "2026-13-01", timedelta(days=999_999)], ids=repr)
def test_what_is_no_time_is_told(since: Any) -> None:
    with pytest.raises(QueryError, match="is no time"):
        make_request("trades", since=since)


@pytest.mark.parametrize("seq", [-1, 11, 2**63 - 1, 2**63, -(2**70)])
def test_a_seq_that_cannot_be_is_told(server: FlightHere, client: tickflight.Client, seq: int) -> None:
    add(server, 10)
    with pytest.raises(QueryError, match="seq"):
        client.tail("trades", since=seq)


def test_times_become_microseconds() -> None:
    assert since_to_us(datetime(1970, 1, 1, 0, 0, 1, 5)) == 1_000_005
    assert since_to_us(date(1969, 12, 31)) == -DAY_US
    assert since_to_us(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)) == 253_402_300_799_999_999


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"table": "nope"}, NotFoundError, "no stored table 'nope'"),
        ({"columns": ["pric"]}, QueryError, "no column 'pric'"),
        ({"where": "pric > 1"}, QueryError, "pric"),
        ({"where": "1=1) OR (1=1"}, QueryError, "LINE 1"),
        ({"since": 1, "resume": "AAAA"}, QueryError, "either since or resume"),
        ({"resume": "not a token!"}, QueryError, "resume is no token"),
        ({"resume": b"\xff"}, QueryError, "resume is no token"),
        ({"resume": 7}, QueryError, "resume is no token"),
        ({"resume": "AAAA"}, QueryError, "the resume token"),
        ({"on_lag": "wait"}, QueryError, "on_lag is 'wait'"),
        ({"lag_rows_max": -1}, QueryError, "lag_rows_max"),
    ],
)
def test_mistakes_are_raised_at_once(
    server: FlightHere, client: tickflight.Client, arguments: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.tail(**{"table": "trades", **arguments})
    none_is_open(server)
    assert not any(t.name == "tickflight-tail-guard" for t in threading.enumerate())


def test_more_than_the_server_takes_are_refused(server: FlightHere, client: tickflight.Client) -> None:
    tails = [client.tail("trades") for _ in range(5)]
    with pytest.raises(ResourceExhaustedError, match=r"query\.streams_max"):
        client.tail("trades")
    for tail in tails:
        tail.close()
    none_is_open(server)


def test_an_error_before_the_first_mark_is_translated(server: FlightHere, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        schema = pa.schema([])

        def read_chunk(self) -> Any:
            raise pa.ArrowInvalid("no.")

        def cancel(self) -> None: ...

    monkeypatch.setattr(Connection, "open", lambda *_, **__: Stream())
    with tickflight.connect(server.address) as client, pytest.raises(QueryError, match=r"no\."):
        client.tail("trades")


# --- tokens


def test_each_batch_has_its_token_in_its_schema(server: FlightHere, client: tickflight.Client) -> None:
    with client.tail("trades", since=0) as tail:
        batches = []
        for _ in range(3):
            add(server, 10)
            batches.append(next(tail))
            assert batches[-1].schema.metadata[TOKEN].decode() == tail.token
        assert tail.schema == batches[0].schema
        table = pa.Table.from_batches(batches)
    assert table.num_rows == 30
    for number, batch in enumerate(batches, 1):
        for token in (batch.schema.metadata[TOKEN], batch.schema.metadata[TOKEN].decode()):
            with client.tail("trades", resume=token) as again:
                rest = 30 - 10 * number
                assert again.seq == 10 * number
                assert (take(again, rest) if rest else []) == list(range(10 * number + 1, 31))


def test_a_token_of_another_server_or_table_is_refused(
    server: FlightHere, client: tickflight.Client, make_here: Callable[..., FlightHere]
) -> None:
    add(server, 10)
    with client.tail("trades", since=0) as tail:
        next(tail)
        token = tail.token
    with pytest.raises(QueryError, match="of table 'trades', and not of ticker"):
        client.tail("ticker", resume=token)
    other = make_here("other")
    with tickflight.connect(other.address) as elsewhere, pytest.raises(QueryError, match="another server's data"):
        elsewhere.tail("trades", resume=token)


# --- restarts


def test_it_goes_on_over_restarts_without_a_hole_or_a_repeat(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 10)
    with client.tail("trades", since=0) as every, client.tail("trades", symbols="B") as some:
        got, chosen, last = take(every, 10), [], 10
        for _ in range(3):
            add(server, 7)
            server.stop()
            server.start()
            add(server, 5)
            add(server, 2, symbol="B")
            last += 14
            got += take(every, last - len(got))
            chosen += take(some, 2)
        assert got == list(range(1, last + 1))
        assert chosen == [23, 24, 37, 38, 51, 52]
        assert every.reconnects >= 3
        assert every.skipped == some.skipped == []


def test_it_logs_in_again_after_a_restart(make_here: Callable[..., FlightHere]) -> None:
    server = make_here(auth={"users": {"ada": "lovelace"}})
    with (
        tickflight.connect(server.address, username="ada", password="lovelace") as client,
        client.tail("trades", since=0) as tail,
    ):
        for number in range(2):
            add(server, 5)
            assert take(tail, 5) == [5 * number + n for n in range(1, 6)]
            server.stop()
            server.start()


def test_a_server_that_stays_away_is_given_up_in_time(server: FlightHere, client: tickflight.Client) -> None:
    tail = client.tail("trades", reconnect_s=0)
    server.stop()
    with pytest.raises(UnavailableError):
        next(tail)
    assert next(tail, None) is None, "it is closed"


def test_rows_that_expired_meanwhile_are_told(
    server: FlightHere, client: tickflight.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server, 10)
    told: list[Skipped] = []
    with client.tail("trades", since=0) as tail:
        next(tail)
        token = ResumeToken.parse(tail._mark.resume)
    server.store.flush()
    while server.store.tables["trades"].release_oldest():
        pass
    add(server, 10, start_us=START_US + 400 * DAY_US)
    server.store.keeper._settings.retention_days["trades"] = 1e-6
    expired = server.store.keeper.retain()
    assert expired
    early = tail_module._text(ResumeToken(token.writer, "trades", 4).serialize())
    with client.tail("trades", resume=early, on_skip=told.append) as again:
        assert told == again.skipped == [Skipped(5, 10, "expired")]
        assert take(again, 10) == list(range(11, 21))


# --- closing


def test_close_ends_who_waits_and_frees_the_server(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 1)
    tail = client.tail("trades", since=0)
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(tail))
    reader.start()
    wait_until(lambda: seen)
    began = time.monotonic()
    tail.close()
    tail.close()
    reader.join(10)
    assert not reader.is_alive()
    assert time.monotonic() - began < 3
    none_is_open(server)
    wait_until(lambda: not any(t.name == "tickflight-tail-guard" for t in threading.enumerate()))
    assert next(tail, None) is None
    assert "trades, closed" in repr(tail)


def test_close_ends_who_waits_for_a_server_that_is_away(server: FlightHere, client: tickflight.Client) -> None:
    tail = client.tail("trades")
    reader = threading.Thread(target=lambda: list(tail))
    reader.start()
    server.stop()
    wait_until(lambda: tail.reconnects)
    tail.close()
    reader.join(10)
    assert not reader.is_alive()


def test_leaving_the_block_closes_it(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 1)
    with client.tail("trades", since=0) as tail:
        next(tail)
        assert repr(tail) == "<tickflight.Tail of trades, at seq 1, 0 behind>"
    none_is_open(server)


# --- lag


def test_a_reader_that_is_too_slow_is_told_and_goes_on_by_its_token(
    server: FlightHere, client: tickflight.Client
) -> None:
    add(server, 10)
    with client.tail("trades", since=0, lag_rows_max=50) as tail:
        assert take(tail, 10) == list(range(1, 11))
        add(server, 60)
        with pytest.raises(LagError, match="60 rows behind, 50 are allowed") as caught:
            next(tail)
        assert (caught.value.seq, caught.value.token) == (10, tail.token)
        assert tail.reconnects == 0
        assert next(tail, None) is None, "it has ended"
    none_is_open(server)
    with client.tail("trades", resume=caught.value.token, lag_rows_max=50) as again:
        assert take(again, 60) == list(range(11, 71))


def test_a_reader_that_may_skip_is_told_what(server: FlightHere, client: tickflight.Client) -> None:
    told: list[Skipped] = []
    with client.tail("trades", on_lag="skip", lag_rows_max=50, on_skip=told.append) as tail:
        add(server, 60)
        wait_until(lambda: server.store.metrics.read().get("tail_rows_skipped"))
        add(server, 5)
        assert take(tail, 5) == [61, 62, 63, 64, 65]
        assert told == tail.skipped == [Skipped(1, 60, "lag")]


@pytest.mark.parametrize("place", ["interruptible", "_text"])  # while it waits; with the batch in its hands
def test_a_batch_that_an_interrupt_took_comes_again(
    server: FlightHere, client: tickflight.Client, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    add(server, 3)
    with client.tail("trades", since=0) as tail:
        original = getattr(tail_module, place)

        def interrupt(*arguments: Any) -> Any:
            original(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tail_module, place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(tail)
        assert take(tail, 3) == [1, 2, 3]


# --- a network that swallows


def test_silence_is_taken_for_a_lost_stream(server: FlightHere) -> None:
    add(server, 3)
    relay = Relay(server.port)
    try:
        with (
            tickflight.connect(f"grpc://127.0.0.1:{relay.port}", timeout_s=2) as client,
            Tail(client._connection, make_request("trades", since=0), silence_s=0.5) as tail,
        ):
            assert take(tail, 3) == [1, 2, 3]
            relay.fall_silent()
            add(server, 2)
            began = time.monotonic()
            assert take(tail, 2) == [4, 5]
            assert 0.4 < time.monotonic() - began < 10
            assert tail.reconnects == 1
    finally:
        relay.close()


def test_who_takes_long_over_a_batch_is_not_cut_off(server: FlightHere, client: tickflight.Client) -> None:
    add(server, 3)
    with Tail(client._connection, make_request("trades", since=0), silence_s=0.3) as tail:
        for number in range(2):
            assert take(tail, 3) == [3 * number + n for n in (1, 2, 3)]
            add(server, 3)
            time.sleep(0.8)  # of work
        assert tail.reconnects == 0


def test_a_server_that_is_swallowed_before_it_answers_is_given_up(server: FlightHere) -> None:
    relay = Relay(server.port)
    try:
        connection = Connection(f"grpc://127.0.0.1:{relay.port}", Credentials(), timeout_s=2)
        Tail(connection, make_request("trades"), silence_s=0.5).close()
        relay.fall_silent()
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            Tail(connection, make_request("trades"), silence_s=0.5)
        assert time.monotonic() - began < 10
        connection.close()
    finally:
        relay.close()


def test_close_ends_who_waits_for_a_server_that_is_swallowed(server: FlightHere) -> None:
    relay = Relay(server.port)
    try:
        connection = Connection(f"grpc://127.0.0.1:{relay.port}", Credentials(), timeout_s=60)
        tail = Tail(connection, make_request("trades"), silence_s=60)
        reader = threading.Thread(target=lambda: list(tail))
        reader.start()
        relay.fall_silent()
        tail._drop()  # the stream is lost, and the next one is opened over the same network
        wait_until(lambda: any(t.name == "tickflight-call" for t in threading.enumerate()))
        tail.close()
        reader.join(10)
        assert not reader.is_alive()
        connection.close()
    finally:
        relay.close()
