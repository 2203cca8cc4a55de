from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import trades

from tickflight_server.errors import CancelledError, StorageError
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import Execution
from tickflight_server.query.plain import PlainScan
from tickflight_server.store import Store

SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
ROWS = 90


@pytest.fixture
def everywhere(store: Store, release: Callable[[], None]) -> None:
    """Have rows in parts, and others in memory, some of them without a label."""
    for symbol in SYMBOLS:
        store.append("trades", trades(20, symbol)).result()
    release()
    for symbol in SYMBOLS:
        store.append("trades", trades(10, symbol)).result()


@pytest.fixture
def in_memory(store: Store) -> None:
    """Have rows in memory only."""
    for symbol in SYMBOLS:
        store.append("trades", trades(30, symbol)).result()


def is_plain(execution: Execution) -> bool:
    return isinstance(getattr(execution._stop, "__self__", None), PlainScan)


def run(engine: Engine, sql: str, *, dictionaries: bool = False, **more: Any) -> tuple[pa.Table, bool]:
    with engine.execute(engine.plan(sql, dictionaries=dictionaries), **more) as execution:
        return execution.reader.read_all(), is_plain(execution)


COLUMNS = (
    *("*", "seq", "symbol, price", "t.*", "t.price AS p, T.Symbol", '"Side" AS "Two Words", seq', "type, id"),
    *("seq AS price, price AS seq", "exchange, symbol, side, type, seq", "receipt_timestamp, price AS p, price AS P"),
)


@pytest.mark.usefixtures("in_memory")
def test_plain_scan_gives_what_the_engine_gives(engine: Engine) -> None:
    check_columns(engine, dictionaries=False)


@pytest.mark.usefixtures("everywhere")
def test_plain_scan_of_parts_gives_what_the_engine_gives(engine: Engine) -> None:
    for dictionaries in (False, True):
        check_columns(engine, dictionaries=dictionaries)


def check_columns(engine: Engine, *, dictionaries: bool) -> None:
    for columns in COLUMNS:
        found, plain = run(engine, f"SELECT {columns} FROM trades t", dictionaries=dictionaries)
        wanted, without = run(engine, f"SELECT {columns} FROM trades t WHERE seq > 0 OR seq <= 0 OR seq IS NULL")
        assert (plain, without) == (True, False), columns
        assert found.cast(wanted.schema).num_rows == ROWS
        assert dictionaries or found.schema == wanted.schema
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, wanted.to_pylist()))


MORE = (
    *("SELECT seq FROM trades LIMIT 3", "SELECT seq FROM trades ORDER BY seq", "SELECT DISTINCT side FROM trades"),
    *("SELECT seq + 1 FROM trades", "SELECT seq FROM trades WHERE seq > 3", "SELECT * EXCLUDE (id) FROM trades"),
    *("SELECT * REPLACE (1 AS id) FROM trades", "SELECT * RENAME (id AS x) FROM trades", "SELECT #1 FROM trades"),
    *("SELECT count(*) FROM trades", "SELECT a FROM trades t(a)", "SELECT seq, seq FROM trades", "FROM l2_book"),
    *("SELECT COLUMNS('.*e') FROM trades", "SELECT trades FROM trades", "SELECT 1 FROM trades", "EXPLAIN FROM trades"),
    *("SELECT seq FROM trades USING SAMPLE 2 ROWS", "SELECT seq FROM (FROM trades)", "SELECT name FROM system.metrics"),
    *("SELECT u.seq FROM trades, trades u", "SELECT seq FROM trades UNION ALL SELECT seq FROM trades"),
)


@pytest.mark.usefixtures("in_memory")
def test_whatever_is_more_than_columns_is_for_the_engine(engine: Engine) -> None:
    for sql in MORE:
        assert not run(engine, sql)[1], sql


def test_users_table_of_the_same_name_is_read(engine: Engine) -> None:
    with engine.connections.connect() as connection:
        connection.execute("CREATE TABLE workspace.trades AS SELECT 7 AS seq")
    found, plain = run(engine, "SELECT seq FROM trades")
    assert (found.to_pydict(), plain) == ({"seq": [7]}, False)


@pytest.mark.usefixtures("everywhere")
def test_no_row_is_beyond_the_cut(engine: Engine) -> None:
    for upto in (0, 1, 19, 20, 33, 59, 60, 61, 75, 89, 90, 100):
        for column in ("seq", "price, seq AS s, seq"):
            found, plain = run(engine, f"SELECT {column} FROM trades", dictionaries=True, cuts={"trades": upto})
            assert plain
            assert sorted(found["seq"].to_pylist()) == list(range(1, min(upto, ROWS) + 1))


@pytest.mark.usefixtures("everywhere")
def test_batches_are_as_long_as_asked(engine: Engine) -> None:
    with engine.execute(engine.plan("FROM trades", dictionaries=True), batch_rows=7) as execution:
        sizes = [batch.num_rows for batch in execution.batches()]
    assert sum(sizes) == ROWS
    assert 0 < max(sizes) <= 7


@pytest.mark.usefixtures("everywhere")
def test_scan_that_is_stopped_ends_with_an_error(engine: Engine) -> None:
    stops: list[Callable[[], None]] = []
    with engine.execute(engine.plan("FROM trades", dictionaries=True), batch_rows=7, started=stops.append) as execution:
        batches = execution.batches()
        next(batches)
        stops[0]()
        with pytest.raises(CancelledError):
            list(batches)


@pytest.mark.usefixtures("everywhere")
def test_scan_that_is_closed_gives_its_place_back(engine: Engine) -> None:
    plan = engine.plan("FROM trades", dictionaries=True)
    for _ in range(20):  # there are four places
        execution = engine.execute(plan, batch_rows=7)
        batches = execution.batches()
        next(batches)
        execution.close()
        with pytest.raises(CancelledError):
            list(batches)


def test_table_without_rows_has_its_columns(engine: Engine) -> None:
    found, plain = run(engine, "SELECT symbol, seq FROM trades")
    assert plain
    assert (found.num_rows, found.schema) == (0, pa.schema([("symbol", pa.string()), ("seq", pa.int64())]))


@pytest.mark.usefixtures("everywhere")
def test_damaged_part_is_named(engine: Engine, store: Store) -> None:
    (path, *_) = sorted(Path(store.root / "trades").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(StorageError, match=path.name):
        run(engine, "FROM trades", dictionaries=True)


@pytest.mark.usefixtures("everywhere")
def test_rows_are_counted_as_read(engine: Engine, store: Store) -> None:
    before = store.metrics.read()
    run(engine, "FROM trades", dictionaries=True)
    after = store.metrics.read()
    assert after["parts_opened"] - before.get("parts_opened", 0) == len(SYMBOLS)
    assert after["segments_read"] - before.get("segments_read", 0) == len(store.tables["trades"].state.segments)


@pytest.mark.usefixtures("everywhere")
def test_names_come_as_dictionaries_to_who_asks(engine: Engine) -> None:
    for columns in ("*", "symbol AS s, price, side", "id, seq"):
        plan = engine.plan(f"SELECT {columns} FROM trades", dictionaries=True)
        with engine.execute(plan) as execution:
            found = execution.reader.read_all()
        assert found.schema == plan.schema
        texts, _ = run(engine, f"SELECT {columns} FROM trades")
        assert found.cast(texts.schema).schema == texts.schema
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, texts.to_pylist()))
    kinds = engine.plan("SELECT symbol, id, price FROM trades", dictionaries=True).schema.types
    assert kinds == [pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.float64()]
    assert engine.plan("SELECT symbol FROM trades LIMIT 1", dictionaries=True).schema.types == [pa.string()]


@pytest.mark.usefixtures("everywhere")
def test_dictionaries_come_from_the_engine_where_it_has_to_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = engine.plan("SELECT symbol, seq FROM trades", dictionaries=True)
    monkeypatch.setattr(PlainScan, "evolved", property(lambda _: True, lambda *_: None), raising=False)
    with engine.execute(plan) as execution:
        assert not is_plain(execution)
        assert execution.reader.schema == plan.schema
        assert execution.reader.read_all().num_rows == ROWS
