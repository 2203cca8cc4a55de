"""What connections, queue and events of a backend tell ends in table gaps, by the road of all rows."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tickflight_server.errors import ConfigError
from tickflight_server.feed import gaps as module
from tickflight_server.feed.backends import BalancesTickflight, BookTickflight, TradeTickflight
from tickflight_server.feed.gaps import Carried, Drop, GapWatch, note_drop
from tickflight_server.schemas import STORED
from tickflight_server.store import Store

NOW = 0.0
WHAT = Carried("BINANCE.ws.1", "trades", "BINANCE", frozenset({"BTC-USDT"}))


@pytest.fixture(autouse=True)
def _take_the_time() -> None:
    """Begin each test now: a silence is told by the clock, and the module was imported minutes ago."""
    global NOW
    NOW = time.time()


async def send(backend: Any, trade: Any, *seconds: float, **changed: Any) -> None:
    for second in seconds:
        await backend(trade(timestamp=None, **changed), NOW + second)


async def test_rows_of_gaps_have_the_tables_schema_and_the_producer(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink, stall_seconds=10)
    backend.connection_opened(WHAT, NOW - 100)
    await send(backend, trade, -90, -50)
    assert await asyncio.to_thread(backend.drain) == 0
    assert backend.get_gaps()[0] == 1
    assert [silence["symbol"] for silence in backend.get_gaps()[1]] == ["BTC-USDT"]
    await asyncio.to_thread(backend.close)
    assert {batch.schema for batch in sink.batches["gaps"]} == {STORED["gaps"].arrow_input(memory=True)}
    first, last = sink.rows("gaps")
    assert (first["exchange"], first["symbol"], first["channel"]) == ("BINANCE", "BTC-USDT", "trades")
    assert (first["cause"], first["detail"]) == ("stalled", "no event for 40.0 s")
    assert (first["end"] - first["start"]).total_seconds() == 40
    assert first["timestamp"] == first["start"] == sink.rows("trades")[0]["receipt_timestamp"]
    assert last["start"] == first["end"] == sink.rows("trades")[1]["receipt_timestamp"]
    assert last["detail"].endswith("when the feed stopped")
    assert ":" in first["producer"]
    assert backend.get_metrics()["received"] == 2, "holes are no events"
    assert backend.get_gaps() == (2, []), "nobody is silent once the feed has stopped"


async def test_lost_connection_is_told_to_the_backend_and_by_it(sink: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=sink)
    backend.connection_opened(WHAT, NOW - 100)
    await send(backend, trade, -90)
    backend.connection_lost(WHAT, NOW - 89, "MissingSequenceNumber")
    backend.connection_opened(WHAT, NOW - 85)
    await send(backend, trade, -80)
    await asyncio.to_thread(backend.close)
    (gap,) = sink.rows("gaps")
    assert gap["cause"] == "reconnect"
    assert gap["detail"].startswith("MissingSequenceNumber; lost 20")
    assert [gap["start"], gap["end"]] == [row["receipt_timestamp"] for row in sink.rows("trades")]


@pytest.mark.parametrize("options", [{"gaps": False}, {"stall_seconds": 0}, {"stall_channels": ["ticker"]}])
async def test_silence_is_not_told_where_it_is_not_wanted(sink: Any, trade: Any, options: dict[str, Any]) -> None:
    backend = TradeTickflight(embedded=sink, **options)
    backend.connection_opened(WHAT, NOW - 10_000)
    await send(backend, trade, -9_000, -10)
    await asyncio.to_thread(backend.close)
    assert sink.rows("gaps") == []
    assert backend.get_gaps() == (0, [])


def test_settings_that_make_no_sense_are_refused(sink: Any) -> None:
    with pytest.raises(ConfigError, match="stall_seconds"):
        TradeTickflight(embedded=sink, stall_seconds=-1)
    with pytest.raises(ConfigError, match="trade"):
        TradeTickflight(embedded=sink, stall_channels=["trade"])


async def test_dropped_rows_are_a_hole_of_their_symbol_with_their_number(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink, queue_rows_max=10, overflow="drop_oldest", batch_rows_max=1)
    await send(backend, trade, *range(-200, -100))
    await send(backend, trade, *range(-99, 0), symbol="ETH-USDT")
    sink.open_gate()
    await asyncio.to_thread(backend.close)
    metrics = backend.get_metrics()
    assert metrics["dropped"] > 0
    told = [row for row in sink.rows("gaps") if row["cause"] == "dropped"]
    assert sum(row["received"] for row in told) == metrics["dropped"]
    assert all(f"{row['received']} events dropped" in row["detail"] for row in told)
    kept = {(row["symbol"], row["receipt_timestamp"]) for row in sink.rows("trades")}
    assert len(kept) + metrics["dropped"] == 199
    for row in told:
        assert row["start"] <= row["end"]
        assert (row["symbol"], row["start"]) not in kept
        assert (row["symbol"], row["end"]) not in kept


async def test_numbers_that_the_queue_dropped_are_no_hole_of_the_exchange(sink: Any, make_book: Any) -> None:
    sink.gate.clear()
    backend = BookTickflight(embedded=sink, queue_rows_max=5, overflow="drop_oldest", batch_rows_max=1)
    book = make_book()
    for number in range(100):
        event = SimpleNamespace(
            exchange="KRAKEN_FUTURES",
            symbol="BTC-USD-PERP",
            timestamp=None,
            sequence_number=number,
            checksum=None,
            delta={"bid": [(1, 1)], "ask": []},
            book=book.book,
        )
        await backend(event, NOW + number)
    sink.open_gate()
    await asyncio.to_thread(backend.close)
    assert {row["cause"] for row in sink.rows("gaps")} == {"dropped"}
    assert {row["channel"] for row in sink.rows("gaps")} == {"l2_book"}


async def test_rejected_delta_is_no_hole_of_the_exchange(sink: Any) -> None:
    backend = BookTickflight(embedded=sink, channel="l2_book")
    for number, price in enumerate([1, 2, float("nan"), 4]):
        delta = {"exchange": "KRAKEN_FUTURES", "symbol": "A", "sequence_number": number, "receipt_timestamp": NOW}
        await backend.write(delta | {"delta": {"bid": [(price, 1)], "ask": []}})
    await asyncio.to_thread(backend.close)
    assert len(sink.rows("rejected")) == 1
    assert sink.rows("gaps") == []


async def test_jump_in_dense_numbers_is_told_once_across_batches(sink: Any) -> None:
    backend = BookTickflight(embedded=sink)
    for number in (1, 2, 5, 6):
        delta = {"exchange": "KRAKEN_FUTURES", "symbol": "A", "sequence_number": number, "receipt_timestamp": NOW}
        await backend.write(delta | {"delta": {"bid": [(1, 1)], "ask": []}})
        await asyncio.to_thread(backend.drain)
    await asyncio.to_thread(backend.close)
    (gap,) = sink.rows("gaps")
    assert (gap["cause"], gap["expected"], gap["received"]) == ("sequence", 3, 5)


async def test_fault_in_the_search_keeps_no_row(sink: Any, trade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    for name in ("begin", "see", "take"):
        monkeypatch.setattr(GapWatch, name, fail)
    backend = TradeTickflight(embedded=sink)
    await send(backend, trade, -3, -2, -1)
    await asyncio.to_thread(backend.close)
    assert sink.count("trades") == backend.get_metrics()["acknowledged"] == 3


async def test_closing_without_a_server_gives_holes_up_and_does_not_wait_again(sink: Any, trade: Any) -> None:
    sink.gate.clear()
    backend = TradeTickflight(embedded=sink, drain_timeout_s=0.5)
    backend.connection_opened(WHAT, NOW - 10_000)
    await send(backend, trade, -9_000, -10)
    started = time.monotonic()
    await asyncio.to_thread(backend.close)
    assert time.monotonic() - started < 5
    sink.open_gate()


async def test_holes_go_into_a_store_of_the_same_process(tmp_path: Any, trade: Any) -> None:
    backend = TradeTickflight(embedded=tmp_path / "store", stall_seconds=10)
    backend.connection_opened(WHAT, NOW - 100)
    await send(backend, trade, -90, -50)
    table = await backend.query('SELECT 1 AS "one"')
    assert table.num_rows == 1
    await asyncio.to_thread(backend.close)
    from tickflight_server.config import LakehouseSettings

    store = Store(LakehouseSettings.model_validate({"storage_path": tmp_path / "store"}))
    try:
        assert store.snapshot("gaps").last_seq == 2
    finally:
        store.close()


def test_drops_of_a_second_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    watch = GapWatch(lambda items: [("trades", items)])

    def dropping(*seconds: float) -> dict[Any, Drop]:
        drops: dict[Any, Drop] = {}
        for second in seconds:
            note_drop(drops, (SimpleNamespace(exchange="X", symbol="A"), second))
        return drops

    watch.begin(dropping(1.0, 2.0))
    assert watch.take() == []
    watch.begin(dropping(4.0))
    clock[0] += 1
    (gap,) = watch.take()
    assert (gap.cause, gap.start, gap.end, gap.received) == ("dropped", 1.0, 4.0, 3)
    assert watch.take() == []
    watch.begin(dropping(7.0))
    (gap,) = watch.take(stopped=True)
    assert (gap.start, gap.received) == (7.0, 1)


def test_dropped_currency_is_its_symbol_and_what_has_no_name_is_left_out() -> None:
    drops: dict[Any, Drop] = {}
    note_drop(drops, (SimpleNamespace(exchange="X", currency="BTC"), "1.5"))
    note_drop(drops, (SimpleNamespace(exchange="X", symbol=None), 2.5))
    note_drop(drops, (SimpleNamespace(exchange="X", symbol="A"), None))
    watch = BalancesTickflight("grpc://nowhere:1")._watch
    assert watch is not None
    watch.begin(drops)
    told = watch.take(stopped=True)
    assert [(gap.symbol, gap.channel, gap.start > 0) for gap in told] == [
        ("BTC", "balances", True),
        ("A", "balances", True),
    ]
