"""Queries on parts with a damaged column: those that read it fail and name the file, the others answer as ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickflight_server.errors import CancelledError, StorageError
from tickflight_server.query import engine as running
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store, access

# a query, and the columns that it needs to be right
QUERIES = {
    "SELECT sum(price) FROM trades": {"price"},
    "SELECT count(*) FROM trades WHERE side = 'buy'": {"side"},
    "SELECT sum(amount) FROM trades WHERE symbol IN ('BTC-USDT', 'ETH-USDT')": {"amount", "symbol"},
    "SELECT sum(price) FROM trades WHERE id LIKE '%3' AND seq > 2": {"price", "id", "seq"},
    "SELECT max(a.price) FROM trades AS a JOIN trades AS b ON a.id = b.id WHERE b.amount > 0": {
        *("price", "id", "amount")
    },
    "WITH t AS (SELECT * FROM trades) SELECT max(timestamp) FROM t WHERE price < 1e9 OR side = 'x'": {
        *("timestamp", "price", "side")
    },
    "SELECT id, price FROM trades ORDER BY seq LIMIT 3": {"id", "price", "seq"},
    "SELECT price, id FROM trades": {"price", "id"},
}


@pytest.fixture
def part(store: Store, make_trades: Callable[..., pa.RecordBatch]) -> Path:
    store.append("trades", make_trades(10, "BTC-USDT")).result()
    store.flush()
    table = store.tables["trades"]
    while table.release_oldest():
        pass
    (path,) = table.state.parts.path
    return store.root / "trades" / path


def damaged(whole: bytes, path: Path, column: str) -> bytes:
    group = pq.read_metadata(path).row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column]
    place = chunk.data_page_offset + 3
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


@pytest.mark.parametrize("sql", QUERIES)
def test_a_damaged_column_is_never_believed(engine: Engine, part: Path, sql: str) -> None:
    whole = part.read_bytes()
    answer = ask(engine, sql)
    columns = pq.read_schema(part).names
    failed = set()
    for column in columns:
        part.write_bytes(whole)
        part.write_bytes(damaged(whole, part, column))
        try:
            assert ask(engine, sql) == answer
        except StorageError as error:
            failed.add(column if part.name in error.message else error.message)
    # a scan that needs no column takes the first while filters are looked for
    assert QUERIES[sql] <= failed <= QUERIES[sql] | {"exchange"}
    part.write_bytes(whole)
    assert ask(engine, sql) == answer


def test_a_cut_reads_seq_whatever_the_query_reads(engine: Engine, part: Path) -> None:
    whole = part.read_bytes()
    plan = engine.plan("SELECT sum(amount) FROM trades")
    part.write_bytes(damaged(whole, part, "seq"))
    with engine.execute(plan) as execution:
        assert sum(b.num_rows for b in execution.batches()) == 1
    with pytest.raises(StorageError, match=part.name):
        engine.execute(plan, cuts={"trades": 4})


@pytest.mark.parametrize("says", ["fails", "answers"])
def test_damage_is_told_whatever_the_engine_makes_of_it(
    engine: Engine, part: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    """The engine may have read the column before it is compared: neither its rows nor its error are given out."""
    ran, compare = threading.Event(), access.chunks_are_whole

    def compare_late(*arguments: Any) -> bool:
        return ran.wait(20) and compare(*arguments)

    def stream(*arguments: Any) -> Any:
        try:
            if says == "fails":
                raise duckdb.InvalidInputException("out of buffer")
            return run(*arguments)
        finally:
            ran.set()

    run = running._stream
    monkeypatch.setattr(access, "chunks_are_whole", compare_late)
    monkeypatch.setattr(running, "_stream", stream)
    part.write_bytes(damaged(part.read_bytes(), part, "id"))
    with pytest.raises(StorageError, match=part.name):
        ask(engine, "SELECT max(length(id)) FROM trades")
    assert ran.is_set()


def test_a_query_is_cancelled_though_its_parts_are_still_being_compared(
    engine: Engine, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Callable[[], None]] = []

    def compare(*_: Any) -> bool:
        stops[0]()
        return True

    monkeypatch.setattr(access, "chunks_are_whole", compare)
    with pytest.raises(CancelledError):
        engine.execute(engine.plan("SELECT max(length(id)) FROM trades"), started=stops.append)


def test_what_was_compared_is_not_compared_again(engine: Engine, store: Store, part: Path) -> None:
    for sql, count in (
        ("SELECT sum(price) FROM trades", 1),
        ("SELECT max(price) FROM trades", 1),
        ("SELECT sum(price + amount) FROM trades", 2),
        ("SELECT sum(amount) FROM trades", 2),
    ):
        ask(engine, sql)
        assert store.metrics.read()["parts_checked"] == count, sql


def ask(engine: Engine, sql: str) -> list[dict[str, object]]:
    with engine.execute(engine.plan(sql)) as execution:
        return [row for batch in execution.batches() for row in batch.to_pylist()]
