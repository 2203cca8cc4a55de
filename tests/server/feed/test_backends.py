"""Backends: the callback keeps, both lifecycles drain, a full queue loses nothing uncounted."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import ConfigError
from tickflight_server.feed import backend as module
from tickflight_server.feed import collector
from tickflight_server.feed.backends import BACKENDS, BookTickflight, TickerTickflight, TradeTickflight, backend_for
from tickflight_server.schemas import MARKET

AT = 1_700_000_001.0


def sums_up(metrics: dict[str, Any]) -> bool:
    parts = ("queue_rows", "in_flight_rows", "acknowledged", "rejected", "failed", "dropped")
    return bool(metrics["received"] == sum(metrics[part] for part in parts))


def wait_until(said: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not said():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.002)


def test_every_table_has_a_backend_named_as_cryptofeed_names_its_own() -> None:
    assert set(BACKENDS) == set(MARKET)
    names = {cls.__name__.removesuffix("Tickflight") for cls in BACKENDS.values()}
    assert {"Trade", "Ticker", "Book", "Funding", "OpenInterest", "Liquidations", "Candles", "Index"} <= names
    assert {"OrderInfo", "Fills", "Balances", "Positions", "Transactions", "L1Book"} <= names
    for channel, cls in BACKENDS.items():
        assert inspect.iscoroutinefunction(cls.__call__), "cryptofeed 3.x refuses callbacks that are not"
        assert isinstance(backend_for(channel, "grpc://nowhere:1"), cls)


async def test_backend_that_is_never_started_starts_with_its_first_row(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    assert await backend.flush_buffer() == 0
    await backend(trade(), AT)
    assert await backend.stop() is True
    assert sink.count("trades") == 1
    assert backend.get_metrics()["acknowledged"] == 1


async def test_row_is_sent_without_anyone_asking(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink, batch_interval_ms=1)
    for number in range(5):
        await backend(trade(), AT)
        await asyncio.to_thread(wait_until, lambda n=number: sink.count("trades") == n + 1)
    await backend.stop()


async def test_lifecycle_of_2_4_1_stops_with_the_last_stop(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    loop = asyncio.get_running_loop()
    backend.start(loop, multiprocess=False)
    backend.start(loop, multiprocess=True)
    await backend(trade(), AT)
    assert await backend.stop() is False
    assert sink.count("trades") == 1, "every stop drains"
    await backend(trade(), AT)
    assert await backend.stop() is True
    assert sink.count("trades") == 2
    assert await backend.stop() is True, "a stop too many is nothing"


async def test_lifecycle_of_3_stops_with_the_last_stop(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    async with asyncio.TaskGroup() as group:
        assert backend.start_writer(group, name="w", owner=object()) is None
        assert backend.start_writer(group, "w", owner=object()) is None
    await backend(trade(), AT)
    backend.begin_shutdown()
    assert await backend.stop() is False
    assert await backend.stop() is True
    assert sink.count("trades") == 1


async def test_row_after_the_last_stop_is_not_lost(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    await backend(trade(), AT)
    await backend.stop()
    await backend(trade(), AT)
    await backend.stop()
    assert sink.count("trades") == 2


def test_script_that_never_stops_is_drained_at_its_end(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink, batch_interval_ms=10_000)
    asyncio.run(backend(trade(), AT))
    collector.close_all()
    assert sink.count("trades") == 1


async def test_one_backend_in_many_event_loops_and_threads(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink, batch_interval_ms=1)

    def feed() -> None:
        async def calls() -> None:
            for _ in range(500):
                await backend(trade(), AT)

        asyncio.run(calls())

    await asyncio.gather(*(asyncio.to_thread(feed) for _ in range(4)))
    await backend.stop()
    assert sink.count("trades") == 2000
    assert sums_up(backend.get_metrics())


async def test_backends_of_one_server_share_a_collector(sink: Any, make_sink: Any, trade: Any) -> None:
    trades, ticker, other = TradeTickflight(embedded=sink), TickerTickflight(embedded=sink), make_sink()
    elsewhere = TradeTickflight(embedded=other)
    for backend in (trades, ticker, elsewhere):
        backend.start()
    assert trades._collector is ticker._collector
    assert trades._collector is not elsewhere._collector
    threads = [t for t in threading.enumerate() if t.name == "tickflight-collector"]
    assert len(threads) == 2
    await trades.stop()
    assert ticker._collector is not None
    await ticker(trade(bid=Decimal(1), ask=Decimal(2)), AT)
    await ticker.stop()
    await elsewhere.stop()
    assert sink.count("ticker") == 1
    assert not any(thread.is_alive() for thread in threads)


def test_same_server_with_other_credentials_is_another_collector() -> None:
    keys = {
        TradeTickflight("grpc://a:1")._key,
        TradeTickflight("grpc://a:1", username="u", password="p")._key,
        TradeTickflight("grpc://a:1", token="t")._key,
        TradeTickflight("grpc://b:1")._key,
    }
    assert len(keys) == 4
    assert TradeTickflight("grpc://a:1")._key in keys


async def test_full_queue_blocks_until_there_is_room_and_loses_nothing(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink, queue_rows_max=10, batch_rows_max=1, batch_interval_ms=0.1)
    sent = 0

    async def calls() -> None:
        nonlocal sent
        for number in range(100):
            await backend(trade(id=str(number)), AT)
            sent += 1

    with capture_logs() as logs:
        task = asyncio.create_task(calls())
        await asyncio.sleep(0.3)
        assert not task.done()
        assert sent < 100
        metrics = backend.get_metrics()
        assert metrics["queue_rows"] <= 11, "one row more than fit, the one whose callback waits"
        assert metrics["in_flight_rows"] == collector.IN_FLIGHT_BATCHES
        assert metrics["lag"] > 0
        assert sums_up(metrics)
        sink.open_gate()
        await task
        await backend.stop()
    assert [row["id"] for row in sink.rows("trades")] == [str(n) for n in range(100)]
    assert backend.get_metrics()["dropped"] == 0
    assert any("waits for the server" in log["event"] for log in logs)


async def test_full_queue_drops_the_oldest_counted_and_logged(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(
        embedded=sink, queue_rows_max=10, batch_rows_max=1, batch_interval_ms=0.1, overflow="drop_oldest"
    )
    with capture_logs() as logs:
        for number in range(1000):
            await backend(trade(id=str(number)), AT)
        metrics = backend.get_metrics()
        assert metrics["dropped"] > 900
        assert sums_up(metrics)
        sink.open_gate()
        await backend.stop()
    metrics = backend.get_metrics()
    assert metrics["acknowledged"] + metrics["dropped"] == metrics["received"] == 1000
    assert sink.rows("trades")[-1]["id"] == "999"
    dropped = [log for log in logs if "dropped" in log["event"]]
    assert 1 <= len(dropped) <= 2, "at most once a second, with the running count"
    assert dropped[0]["dropped"] >= 1


async def test_callback_that_waits_for_room_goes_on_when_the_feed_shuts_down(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink, queue_rows_max=1, batch_rows_max=1, batch_interval_ms=0.1)

    async def calls() -> None:
        for _ in range(30):
            await backend(trade(), AT)

    task = asyncio.create_task(calls())
    await asyncio.sleep(0.1)
    assert not task.done()
    backend.begin_shutdown()
    await asyncio.wait_for(task, 5)
    sink.open_gate()
    await backend.stop()
    assert sink.count("trades") == 30


async def test_feed_that_ends_alone_leaves_the_other_feeds_queue_bounded(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink, queue_rows_max=1, batch_rows_max=1, batch_interval_ms=0.1)
    backend.start_writer(None, "a")
    backend.start_writer(None, "b")
    backend.begin_shutdown()

    async def calls() -> None:
        for _ in range(30):
            await backend(trade(), AT)

    task = asyncio.create_task(calls())
    await asyncio.sleep(0.1)
    assert not task.done(), "one of two feeds ends: the other one still waits for room"
    backend.begin_shutdown()
    await asyncio.wait_for(task, 5)
    sink.open_gate()
    await backend.stop()
    await backend.stop()


def test_embedded_stores_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    settings = LakehouseSettings.model_validate({"storage_path": tmp_path})
    same = {
        TradeTickflight(embedded=place)._key
        for place in (tmp_path, str(tmp_path), settings, settings.model_copy(), SimpleNamespace(lakehouse=settings))
    }
    assert len(same) == 1
    assert TradeTickflight(embedded=tmp_path / "other")._key not in same


async def test_stop_waits_for_the_acknowledgement_without_blocking_the_loop(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink)
    await backend(trade(), AT)
    stopping = asyncio.create_task(backend.stop())
    await asyncio.sleep(0.1)
    assert sink.count("trades") == 1
    assert not stopping.done()
    sink.open_gate()
    await asyncio.wait_for(stopping, 5)
    assert backend.get_metrics()["acknowledged"] == 1


async def test_rows_without_answer_in_time_are_failed_counted_and_logged(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(
        embedded=sink, drain_timeout_s=0.2, batch_rows_max=1, batch_interval_ms=0.1, queue_rows_max=100
    )
    for _ in range(20):
        await backend(trade(), AT)
    with capture_logs() as logs:
        await backend.stop()
    metrics = backend.get_metrics()
    assert (metrics["acknowledged"], metrics["failed"], metrics["received"]) == (0, 20, 20)
    assert any(log["event"] == "rows not acknowledged in time" and log["log_level"] == "error" for log in logs)
    sink.open_gate()
    assert backend.get_metrics()["acknowledged"] == 0, "a late answer does not count twice"


async def test_rejected_rows_go_to_their_table_and_are_counted(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    with capture_logs() as logs:
        await backend(trade(), AT)
        await backend(trade(price=Decimal("NaN")), AT)
        await backend(object(), AT)
        await backend.stop()
    metrics = backend.get_metrics()
    assert (metrics["acknowledged"], metrics["rejected"], metrics["converted"]) == (1, 2, 1)
    assert [row["table"] for row in sink.rows("rejected")] == ["trades", "trades"]
    assert sink.rows("rejected")[0]["reason"].startswith("price: Decimal('NaN')")
    assert ":" in sink.rows("rejected")[0]["producer"]
    assert any(log["event"] == "rows rejected" for log in logs)


async def test_store_that_refuses_is_counted_logged_and_told(sink: Any, trade: Any) -> None:
    sink.fail = OSError("disk gone")
    backend = TradeTickflight(embedded=sink)
    with capture_logs() as logs:
        await backend(trade(), AT)
        await backend.stop()
    metrics = backend.get_metrics()
    assert (metrics["failed"], metrics["last_error"]) == (1, "OSError: disk gone")
    assert any(log["event"] == "rows not stored" for log in logs)
    assert sums_up(metrics)


async def test_full_buffer_of_the_store_is_waited_out(sink: Any, trade: Any) -> None:
    sink.busy = 2
    backend = TradeTickflight(embedded=sink)
    await backend(trade(), AT)
    await backend.stop()
    assert backend.get_metrics()["acknowledged"] == 1


async def test_server_that_comes_late_gets_every_row(sink: Any, trade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    def connect(*args: Any, **options: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise ConnectionError("refused")
        return sink

    monkeypatch.setattr(module, "FlightSink", connect)
    backend = TradeTickflight("grpc://late:1")
    with capture_logs() as logs:
        for _ in range(10):
            await backend(trade(), AT)
        await backend.stop()
    assert sink.count("trades") == 10
    assert sink.closed
    assert any(log["event"] == "cannot reach the server" for log in logs)


async def test_server_that_never_comes_is_given_up(trade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any, **options: Any) -> Any:
        raise ConnectionError("refused")

    monkeypatch.setattr(module, "FlightSink", connect)
    backend = TradeTickflight("grpc://never:1", drain_timeout_s=0.3)
    await backend(trade(), AT)
    await backend.stop()
    metrics = backend.get_metrics()
    assert (metrics["failed"], metrics["last_error"]) == (1, "ConnectionError: refused")
    with pytest.raises(ConnectionError):
        backend.connect(timeout_s=0.2)
    backend.close()


async def test_conversion_that_breaks_altogether_keeps_the_rows_as_json(
    sink: Any, trade: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(collector, "convert_each", broken)
    backend = TradeTickflight(embedded=sink)
    with capture_logs():
        await backend(trade(), AT)
        await backend.stop()
    assert backend.get_metrics()["rejected"] == 1
    assert "a defect" in sink.rows("rejected")[0]["reason"]


async def test_numeric_is_the_servers_or_the_arguments(make_sink: Any, trade: Any) -> None:
    for server, argument, stored in (
        ("decimal", None, Decimal("0.1")),
        ("float64", None, 0.1),
        ("float64", "decimal", Decimal("0.1")),
    ):
        sink = make_sink(server)
        backend = TradeTickflight(embedded=sink, numeric=argument)
        await backend(trade(), AT)
        await backend.stop()
        assert sink.rows("trades")[0]["amount"] == stored


async def test_adapter_methods_of_the_specification(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    backend.start()
    await backend.write(
        {"exchange": "X", "symbol": "S", "amount": 1.5, "price": 2.0, "timestamp": None, "receipt_timestamp": AT}
    )
    assert await backend.flush_buffer() == 0
    assert sink.rows("trades")[0]["amount"] == 1.5
    answer = await backend.query("select ?", [1])
    assert answer.to_pylist() == [{"sql": "select ?", "params": "[1]"}]
    assert {"received", "converted", "sent", "acknowledged", "rejected", "dropped", "queue_rows", "batches"} <= set(
        backend.get_metrics()
    )
    assert {"last_error", "lag"} <= set(backend.get_metrics())
    await backend.stop()


def book_of(make_book: Any, levels: int = 3) -> Any:
    return make_book({Decimal(100 - n): Decimal(1) for n in range(levels)}, {})


async def test_book_backend_tells_level_2_from_level_3(sink: Any, make_book: Any) -> None:
    backend = BookTickflight(embedded=sink)
    level_2, level_3 = book_of(make_book), make_book({Decimal(1): {"a": Decimal(2)}}, {})
    for book in (level_2, level_3):
        await backend(book, AT)
    level_3.delta = {"bid": [("a", Decimal(1), 0)], "ask": []}
    level_2.delta = {"bid": [(Decimal(1), 0)], "ask": []}
    for book in (level_2, level_3):
        await backend(book, AT)
    await backend.stop()
    assert [row["is_snapshot"] for row in sink.rows("l2_book")] == [True, False]
    assert [row["bid_ids"] for row in sink.rows("l3_book")] == [["a"], ["a"]]
    assert sums_up(backend.get_metrics())


async def test_book_channel_overrides_what_is_seen(sink: Any, make_book: Any) -> None:
    backend = BookTickflight(embedded=sink, channel="l3_book")
    book = make_book({}, {})
    await backend(book, AT)
    await backend.stop()
    assert sink.count("l3_book") == 1


async def test_snapshots_only_stores_full_books(sink: Any, make_book: Any) -> None:
    backend = BookTickflight(embedded=sink, snapshots_only=True)
    book = book_of(make_book)
    book.delta = {"bid": [(Decimal(100), Decimal(7))], "ask": []}
    await backend(book, AT)
    await backend.stop()
    assert [(row["is_snapshot"], len(row["bid_prices"])) for row in sink.rows("l2_book")] == [(True, 3)]


async def test_snapshot_interval_adds_a_full_book_after_n_deltas_of_a_symbol(sink: Any, make_book: Any) -> None:
    backend = BookTickflight(embedded=sink, snapshot_interval=2)
    book = book_of(make_book)
    await backend(book, AT)
    book.delta = {"bid": [(Decimal(100), Decimal(7))], "ask": []}
    for _ in range(5):
        await backend(book, AT)
    await backend.stop()
    assert [row["is_snapshot"] for row in sink.rows("l2_book")] == [True, False, False, True, False, False, True, False]


async def test_book_written_as_a_dict_is_a_snapshot_or_a_delta(sink: Any) -> None:
    backend = BookTickflight(embedded=sink)
    head = {"exchange": "X", "symbol": "S", "timestamp": AT, "receipt_timestamp": AT}
    await backend.write(head | {"book": {"bid": {2.0: 1.0}, "ask": {}}})
    await backend.write(head | {"delta": {"bid": [], "ask": [(3.0, 0.0)]}})
    await backend.stop()
    rows = sink.rows("l2_book")
    assert [(r["is_snapshot"], r["bid_prices"], r["ask_prices"]) for r in rows] == [
        (True, [2.0], []),
        (False, [], [3.0]),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "either an address or embedded"),
        ({"address": "grpc://a:1", "embedded": "/tmp"}, "either an address or embedded"),
        ({"address": "grpc://a:1", "overflow": "drop_new"}, "'drop_new' is not known"),
        ({"address": "grpc://a:1", "queue_rows_max": 0}, "leaves no room"),
        ({"address": "grpc://a:1", "batch_rows_max": 0}, "leaves no room"),
        ({"address": "grpc://a:1", "batch_interval_ms": -1}, "negative"),
        ({"address": "grpc://a:1", "channel": "l4_book"}, "is not a book"),
        ({"address": "grpc://a:1", "snapshot_interval": -1}, "negative"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        BookTickflight(**arguments)
    assert caught.value.hint


async def test_rows_that_the_store_keeps_aside_count_as_rejected(sink: Any, trade: Any) -> None:
    sink.refuse = 1
    backend = TradeTickflight(embedded=sink)
    for number in range(5):
        await backend(trade(id=str(number)), 1_700_000_001.0)
    await backend.stop()
    metrics = backend.get_metrics()
    assert (metrics["received"], metrics["acknowledged"], metrics["rejected"]) == (5, 4, 1)
