"""A replay gives the stored events of several tables in one order, the same each time, and at the pace asked for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flight_here import FlightHere, wait_until

import tickflight
from tickflight.errors import NotFoundError, QueryError, TickflightError
from tickflight.replay import PIN_S, Replay, make_requests

START_US = 1_790_000_000_000_000
TABLES = ("trades", "ticker", "l2_book")
SECOND = 1_000_000


def times(us: Any) -> pa.Array:
    return pa.array(us, pa.int64()).cast(pa.timestamp("us"))


def some(table: str, rng: random.Random, rows: int, spread_us: int = 40) -> pa.RecordBatch:
    """Return rows of a table, in any order, many at one time."""
    at = [START_US + rng.randrange(spread_us) for _ in range(rows)]
    numbers = pa.array([rng.random() for _ in range(rows)])
    lists = pa.array([[rng.random() for _ in range(rng.randrange(3))] for _ in range(rows)], pa.list_(pa.float64()))
    own = {
        "trades": {"price": numbers, "amount": numbers, "side": [rng.choice(["buy", None]) for _ in range(rows)]},
        "ticker": {"bid": numbers, "ask": numbers},
        "l2_book": {"bid_prices": lists, "bid_sizes": lists, "is_snapshot": [False] * rows},
    }[table]
    return pa.RecordBatch.from_pydict(
        {
            "exchange": [rng.choice(["BINANCE", "OKX"]) for _ in range(rows)],
            "symbol": [rng.choice(["A-B", "C-D"]) for _ in range(rows)],
            **own,
            "timestamp": times(at),
            "receipt_timestamp": times([t + rng.randrange(2) for t in at]),
        }
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlightHere]:
    """A server with three tables, whose rows are in parts and in memory, and small windows."""
    made = FlightHere(tmp_path_factory.mktemp("served"), query={"ordered_window_rows": 200, "batch_bytes": 65_536})
    rng = random.Random(5)
    for _ in range(3):
        for table in TABLES:
            made.store.append(table, some(table, rng, 300)).result()
        made.store.flush()
    for table in TABLES:
        made.store.append(table, some(table, rng, 300)).result()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def client(served: FlightHere) -> Iterator[tickflight.Client]:
    with tickflight.connect(served.address) as made:
        yield made


def wanted(client: tickflight.Client, tables: Any, where: str = "true") -> list[tuple[str, int]]:
    """Return table and seq of every event in order, as SQL has it."""
    union = " UNION ALL ".join(
        f"SELECT {i} AS place, timestamp, receipt_timestamp, seq FROM {table} WHERE {where}"
        for i, table in enumerate(tables)
    )
    rows = client.sql(f"SELECT place, seq FROM ({union}) ORDER BY timestamp, receipt_timestamp, seq, place").arrow()
    return [(tables[row["place"]], row["seq"]) for row in rows.to_pylist()]


def seen(replay: Replay) -> list[tuple[str, int]]:
    return [(table, seq) for table, rows in replay.batches() for seq in rows["seq"].to_pylist()]


@pytest.mark.parametrize("tables", [TABLES, TABLES[::-1], ("trades",), ("ticker", "trades")])
def test_events_of_all_tables_are_in_one_order(client: tickflight.Client, tables: tuple[str, ...]) -> None:
    assert seen(client.replay(tables)) == wanted(client, tables)


def test_range_and_filters_choose_events(client: tickflight.Client) -> None:
    found = client.replay(
        ["trades", "market.ticker"],
        START_US + 5,
        START_US + 30,
        symbols="A-B",
        exchanges=["OKX", "BINANCE"],
        columns={"market.ticker": ["seq", "ask"]},
        where={"trades": "side = 'buy' -- only these"},
    )
    assert found.schemas["market.ticker"].names == ["seq", "ask"]
    assert found.schemas["trades"].names[-1] == "seq"
    bounds = f"epoch_us(timestamp) >= {START_US + 5} AND epoch_us(timestamp) < {START_US + 30} AND symbol = 'A-B'"
    both = wanted(client, ("trades", "market.ticker"), bounds)
    buys = client.sql("SELECT seq FROM trades WHERE side = 'buy'").arrow()["seq"].to_pylist()
    assert seen(found) == [(table, seq) for table, seq in both if table != "trades" or seq in buys]


def test_keys_need_not_be_among_the_columns(client: tickflight.Client) -> None:
    prices = [p for _, rows in client.replay("trades", columns=["price"]).batches() for p in rows["price"].to_pylist()]
    order = "ORDER BY timestamp, receipt_timestamp, seq"
    assert prices == client.sql(f"SELECT price FROM trades {order}").arrow()["price"].to_pylist()


def test_chunks_have_the_rows_of_each_table_and_their_order(client: tickflight.Client) -> None:
    with client.replay(TABLES) as replay:
        for chunk in replay:
            assert list(chunk.batches) == list(TABLES)
            sizes = [rows.num_rows for rows in chunk.batches.values()]
            assert np.bincount(chunk.order, minlength=3).tolist() == sizes
            assert (np.diff(chunk.times) >= 0).all()
    assert replay.rows == 3 * 1200


def test_events_are_instances_of_their_tables_class(client: tickflight.Client) -> None:
    replay = client.replay(["trades", "l2_book"])
    trade, book = replay.types["trades"], replay.types["l2_book"]
    events = list(replay.events())
    names = {trade: "trades", book: "l2_book"}
    assert [(names[type(e)], e.seq) for e in events] == wanted(client, ("trades", "l2_book"))
    first = next(e for e in events if type(e) is book)
    assert isinstance(first.timestamp, datetime)
    assert isinstance(first.bid_prices, list)


def test_nothing_is_replayed_where_nothing_is(client: tickflight.Client) -> None:
    replay = client.replay(TABLES, date(2000, 1, 1), "2000-01-02")
    assert list(replay) == []
    assert client.replay(TABLES, 5, 5).hash() == client.replay(TABLES, 7, 3).hash()


def test_replay_is_read_once(client: tickflight.Client) -> None:
    replay = client.replay("trades")
    list(replay)
    with pytest.raises(TickflightError, match="read already"):
        list(replay.events())


# --- one snapshot


def test_rows_that_come_meanwhile_are_not_seen(server: Any, client: tickflight.Client) -> None:
    rng = random.Random(1)
    server.store.append("trades", some("trades", rng, 50)).result()
    server.store.append("ticker", some("ticker", rng, 50)).result()
    with tickflight.connect(server.address) as own:
        replay = own.replay(["trades", "ticker"])
        server.store.append("trades", some("trades", rng, 50)).result()
        server.store.append("ticker", some("ticker", rng, 50)).result()
        assert len(seen(replay)) == 100
        assert len(seen(own.replay(["trades", "ticker"]))) == 200


def test_own_snapshot_is_let_go_of(served: FlightHere, client: tickflight.Client) -> None:
    pins = served.store.pins
    replay = client.replay("trades")
    (pin,) = pins.active()
    assert replay.snapshot.id == pin.id
    list(replay)
    assert not pins.active()
    with client.replay("trades") as replay:
        chunks = iter(replay)
        next(chunks)
        assert pins.active()
    assert not pins.active()
    with pytest.raises(QueryError, match="no column 'nothing'"):
        client.replay(["ticker", "trades"], columns={"trades": ["nothing"]})
    assert not pins.active()
    wait_until(lambda: served.free_places == served.settings.query.concurrent_max)


def test_given_snapshot_stays(served: FlightHere, client: tickflight.Client) -> None:
    with client.snapshot(60) as snapshot:
        assert client.replay("trades", snapshot=snapshot).hash() == client.replay("trades", snapshot=snapshot.id).hash()
        assert len(served.store.pins.active()) == 1
    with pytest.raises(NotFoundError, match="no snapshot"):
        client.replay("trades", snapshot=snapshot)


def test_two_replays_of_a_snapshot_are_the_same_while_rows_come_late_and_move(make_server: Any) -> None:
    server = make_server(compact_share=0, ring_mb=1)
    rng = random.Random(9)
    stop = threading.Event()
    rounds: list[int] = []

    def write() -> None:
        """Add rows before, among and after those that are there, and let them move to parts and merge."""
        writing = random.Random(10)
        while not stop.is_set():
            for table in TABLES:
                server.store.append(table, some(table, writing, 200, 20_000)).result()
            server.store.flush()
            for held in server.store.tables.values():
                held.release_oldest()
            rounds.append(server.store.keeper.compact(all_of_it=True)["parts_in"])

    for _ in range(5):
        for table in TABLES:
            server.store.append(table, some(table, rng, 500, 20_000)).result()
    with tickflight.connect(server.address) as client, client.snapshot() as snapshot:
        first = client.replay(TABLES, snapshot=snapshot, digest=True)
        rows = [(table, seq) for table, seq in seen(first)]
        writer = threading.Thread(target=write)
        writer.start()
        try:
            while len(rounds) < 4 and writer.is_alive():
                assert client.replay(TABLES, snapshot=snapshot).hash() == first.digest
        finally:
            stop.set()
            writer.join()
        assert len(rows) == 7500
        assert len(rounds) >= 4
        assert sum(rounds) > 0  # parts were merged, too
        again = client.replay(TABLES, snapshot=snapshot)
        assert seen(again) == rows
        assert client.replay(TABLES).hash() != first.digest


def test_digest_is_told_at_the_end_and_only_if_asked_for(client: tickflight.Client) -> None:
    replay = client.replay("trades", digest=True)
    with pytest.raises(TickflightError, match="digest=True"):
        _ = replay.digest
    list(replay.batches())
    assert replay.digest == client.replay("trades").hash()
    assert replay.digest != client.replay("trades", columns=["price"]).hash()
    plain = client.replay("trades")
    list(plain)
    with pytest.raises(TickflightError, match="digest=True"):
        _ = plain.digest


# --- the market's clock


class Clock:
    """A clock that goes on when somebody sleeps, or a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def paced(server: Any, make_trades: Callable[..., Any]) -> Iterator[Callable[..., tuple[Replay, Clock]]]:
    """Replays of ten trades and ten tickers, a trade each second and a ticker half a second after it."""
    server.store.append("trades", make_trades(10)).result()
    ticker = {"exchange": ["X"] * 10, "symbol": ["A-B"] * 10, "bid": [1.0] * 10}
    at = times([START_US + n * SECOND + SECOND // 2 for n in range(10)])
    server.store.append("ticker", pa.RecordBatch.from_pydict({**ticker, "timestamp": at})).result()
    with tickflight.connect(server.address) as client:

        def make(speed: float) -> tuple[Replay, Clock]:
            clock = Clock()
            asked = make_requests(["trades", "ticker"], None, None)
            return Replay(client._connection, asked, speed=speed, clock=clock, sleep=clock.sleep), clock

        yield make


@pytest.mark.parametrize("speed", [1.0, 10.0, 0.5])
def test_no_event_comes_early(paced: Callable[..., tuple[Replay, Clock]], speed: float) -> None:
    replay, clock = paced(speed)
    for number, chunk in enumerate(replay):
        assert len(chunk) == 1
        assert clock.now - 100 == pytest.approx(number * 0.5 / speed, abs=1e-5)
        assert chunk.late_s == pytest.approx(0, abs=1e-5)
    assert replay.rows == 20
    assert sum(clock.slept) == pytest.approx(9.5 / speed, abs=1e-3)


def test_slow_reader_gets_what_became_due_and_is_told_how_late_it_is(
    paced: Callable[..., tuple[Replay, Clock]],
) -> None:
    replay, clock = paced(1.0)
    chunks = iter(replay)
    assert len(next(chunks)) == 1
    clock.now += 3.2
    chunk = next(chunks)
    assert [t - START_US for t in chunk.times.tolist()] == [n * SECOND // 2 for n in range(1, 7)]
    assert chunk.late_s == replay.late_s == replay.late_max_s == pytest.approx(2.7)
    chunk = next(chunks)
    assert (len(chunk), chunk.late_s, replay.late_max_s) == (1, pytest.approx(0, abs=1e-5), pytest.approx(2.7))
    replay.close()


def test_own_snapshot_is_renewed_while_it_waits(
    server: Any, paced: Callable[..., tuple[Replay, Clock]], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, clock = paced(0.001)
    renewed: list[float] = []
    monkeypatch.setattr(tickflight.Snapshot, "renew", lambda self: renewed.append(clock.now))
    list(replay)
    assert clock.now - 100 == pytest.approx(9500, abs=1)
    assert len(renewed) >= 9500 // PIN_S * 4 - 1
    assert max(np.diff([100.0, *renewed])) < PIN_S / 2


# --- what cannot be


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_speed_that_is_none_is_refused(client: tickflight.Client, speed: float) -> None:
    with pytest.raises(QueryError, match="speed is"):
        client.replay("trades", speed=speed)


@pytest.mark.parametrize(
    ("tables", "more", "words"),
    [
        ([], {}, "tables are"),
        (["trades", "trades"], {}, "each once"),
        (["trades"], {"columns": {"ticker": ["bid"]}}, "'ticker' is not among"),
        (["trades"], {"where": {"ticker": "true"}}, "'ticker' is not among"),
        (["trades"], {"start": "soon"}, "'soon' is no time"),
        (["trades"], {"start": 1.5}, "not float"),
        (["trades"], {"end": True}, "not bool"),
    ],
)
def test_request_that_cannot_be_is_refused(tables: list[str], more: dict[str, Any], words: str) -> None:
    with pytest.raises(QueryError, match=words):
        make_requests(tables, more.pop("start", None), more.pop("end", None), **more)


@pytest.mark.parametrize(
    "when",
    [
        START_US,
        datetime.fromtimestamp(START_US / 1e6, UTC),
        datetime.fromtimestamp(START_US / 1e6, UTC).replace(tzinfo=None),
        datetime.fromtimestamp(START_US / 1e6, timezone(timedelta(hours=5))),
        "2026-09-21T14:13:20",
        "2026-09-21 14:13:20Z",
        "2026-09-21T16:13:20+02:00",
    ],
)
def test_times_are_utc_unless_they_say_otherwise(when: Any) -> None:
    assert make_requests("trades", when, None)["trades"].request.start_us == START_US


def test_server_says_what_is_wrong(client: tickflight.Client) -> None:
    with pytest.raises(NotFoundError, match=r"no stored table 'nothing'.* market\.trades"):
        client.replay(["trades", "nothing"])
    with pytest.raises(QueryError, match='"pric" not found'):
        client.replay("trades", where="pric > 1")
