"""Sinks: what `embedded=` may be, and what the Flight sink asks of the client."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import ConfigError
from tickflight_server.feed.backends import TradeTickflight
from tickflight_server.feed.sinks import EmbeddedSink, FlightSink, embedded_sink, open_embedded_store
from tickflight_server.store import Ack, Store

BATCH = pa.record_batch({"a": [1]})


class Client:
    """The part of the client distribution that the sink uses."""

    numeric_type = "decimal"

    def __init__(self) -> None:
        self.done: list[Any] = []

    def writer(self, table: str, **options: Any) -> Any:
        self.done.append((table, options))
        future: Future[Any] = Future()
        future.set_result(Ack(1, 1))
        return SimpleNamespace(
            write=lambda batch: future,
            flush=lambda timeout=None: self.done.append("flush"),
            close=lambda: self.done.append("close writer"),
        )

    def sql(self, query: str, params: Any) -> Any:
        return SimpleNamespace(arrow=lambda: pa.table({"q": [query]}))

    def close(self) -> None:
        self.done.append("close client")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()

    def connect(address: str, **credentials: Any) -> Client:
        made.done.append((address, credentials))
        return made

    monkeypatch.setitem(sys.modules, "tickflight", SimpleNamespace(connect=connect))
    return made


def test_flight_sink_has_a_writer_a_table_under_its_full_name(client: Client) -> None:
    sink = FlightSink("grpc://a:1", username="u", password="p")
    assert sink.numeric == "decimal"
    for table in ("trades", "rejected", "trades"):
        assert sink.append(table, BATCH).result().rows == 1
    assert sink.query("select 1").to_pylist() == [{"q": "select 1"}]
    sink.close()
    patient = {"retry_timeout_s": None}
    assert client.done == [
        ("grpc://a:1", {"username": "u", "password": "p", "token": None}),
        ("market.trades", patient),
        ("system.rejected", patient),
        *("flush", "close writer", "flush", "close writer", "close client"),
    ]


def test_connection_that_does_not_answer_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Client) -> str:
        raise ConnectionError("refused")

    monkeypatch.setattr(Client, "numeric_type", property(refuse))
    with pytest.raises(ConnectionError):
        FlightSink("grpc://a:1")
    assert client.done[-1] == "close client"


def test_store_that_was_passed_in_stays_open(sink: Any) -> None:
    embedded = embedded_sink(sink)
    assert embedded.append("trades", BATCH).result().rows == 1
    embedded.close()
    assert not sink.closed


def test_path_or_settings_are_opened_and_closed(sink: Any, tmp_path: Path) -> None:
    opened: list[Any] = []

    def open_store(place: Any) -> Any:
        opened.append(place)
        return sink, sink.close

    embedded = embedded_sink(tmp_path, open_store)
    assert isinstance(embedded, EmbeddedSink)
    embedded.flush()
    embedded.close()
    assert (opened, sink.flushed, sink.closed) == ([tmp_path], 1, True)


def test_what_is_no_store_is_told() -> None:
    with pytest.raises(ConfigError, match="neither a path"):
        open_embedded_store(42)


async def test_backend_writes_into_the_store_at_a_path_and_asks_it(tmp_path: Path, trade: Any) -> None:
    backend = TradeTickflight(embedded=tmp_path / "lake")
    for number in range(10):
        await backend(trade(id=str(number)), 1_700_000_001.0)
    await backend(trade(price="x"), 1_700_000_001.0)
    assert await backend.flush_buffer() == 0
    answer = await backend.query("SELECT count(*) AS n FROM trades WHERE id < ?", ["5"])
    assert answer.to_pylist() == [{"n": 5}]
    await backend.stop()
    assert (backend.get_metrics()["acknowledged"], backend.get_metrics()["rejected"]) == (10, 1)
    with Store(LakehouseSettings(storage_path=tmp_path / "lake")) as store:
        assert store.snapshot("trades").last_seq == 10
        assert store.snapshot("rejected").last_seq == 1
