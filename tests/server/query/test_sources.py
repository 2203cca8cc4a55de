"""What a query is given of a table: what can match, in the table's types, and never a row beyond its cut."""

from __future__ import annotations

import gc
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import StorageError
from tickflight_server.query.engine import Engine
from tickflight_server.query.sources import parts_select, sql_type, up_to
from tickflight_server.schemas import MARKET, STORED
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
Ask = Callable[..., Any]
Make = Callable[..., Any]
TABLE = MARKET["trades"]


class Parts:
    """Open parts that count how often they are let go of."""

    def __init__(self, paths: list[str], *, evolved: bool) -> None:
        self.paths = paths
        self.evolved = evolved
        self.closed = 0

    def wait(self) -> None:
        assert not self.closed

    def cancel(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def given_parts(store: Store, make_trades: Make, monkeypatch: pytest.MonkeyPatch) -> list[Parts]:
    """Twenty rows in parts and none in the ring; what queries open of them is noted."""
    for symbol in ("BTC-USDT", "ETH-USDT"):
        store.append("trades", make_trades(10, symbol)).result()
    store.flush()
    table = store.tables["trades"]
    while table.release_oldest():
        pass
    made: list[Parts] = []

    def open_parts(snapshot: Any, parts: Any, columns: Any, **_: Any) -> Parts:
        made.append(Parts([f"trades/{p}" for p in parts.path], evolved=False))
        return made[-1]

    monkeypatch.setattr(store, "open_parts", open_parts)
    return made


def test_parts_are_held_until_the_execution_is_closed(engine: Engine, given_parts: list[Parts]) -> None:
    execution = engine.execute(engine.plan("FROM trades WHERE symbol = 'BTC-USDT'"))
    (opened,) = given_parts
    assert len(opened.paths) == 1
    assert execution.reader.read_all().num_rows == 10
    assert opened.closed == 0
    execution.close()
    execution.close()
    assert opened.closed == 1


def test_snapshots_are_held_until_the_execution_is_closed(
    engine: Engine, store: Store, given_parts: list[Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the store leaves alone what somebody holds
    taken: list[weakref.ref[Any]] = []

    def note(take: Any) -> Any:
        def run(*arguments: Any) -> Any:
            snapshot = take(*arguments)
            taken.append(weakref.ref(snapshot))
            return snapshot

        return run

    plan = engine.plan("SELECT count(*) FROM trades, trades t AT (VERSION => 0)")
    monkeypatch.setattr(store, "snapshot", note(store.snapshot))
    monkeypatch.setattr(store, "snapshot_at", note(store.snapshot_at))
    execution = engine.execute(plan, cuts={"trades": 15})
    gc.collect()
    assert [ref() is not None for ref in taken] == [True, True]
    execution.close()
    gc.collect()
    assert [ref() for ref in taken] == [None, None]


def test_each_reference_holds_its_own_parts(engine: Engine, given_parts: list[Parts]) -> None:
    plan = engine.plan("SELECT count(*) FROM trades, trades t AT (VERSION => 0)")
    with engine.execute(plan) as execution:
        assert execution.reader.read_all().to_pydict() == {"count_star()": [400]}
    assert [p.closed for p in given_parts] == [1, 1]


def test_no_parts_are_opened_where_none_can_match(engine: Engine, given_parts: list[Parts], ask: Ask) -> None:
    ask("FROM trades WHERE symbol = 'DOGE'")
    ask("SELECT 1")
    assert given_parts == []


def test_parts_are_let_go_of_when_the_query_fails(engine: Engine, given_parts: list[Parts]) -> None:
    plan = engine.plan("SELECT error(symbol) FROM trades")
    with pytest.raises(Exception, match="-USDT"):
        engine.execute(plan)
    assert [p.closed for p in given_parts] == [1]


def test_damaged_part_ends_the_query_before_its_first_row(
    engine: Engine, store: Store, given_parts: list[Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = engine.plan("SELECT count(*) FROM trades a, trades b AT (VERSION => 0)")

    def fail(snapshot: Any, parts: Any, columns: Any, **_: Any) -> Parts:
        if given_parts:
            raise StorageError("part x is damaged.")
        given_parts.append(Parts([f"trades/{p}" for p in parts.path], evolved=False))
        return given_parts[-1]

    monkeypatch.setattr(store, "open_parts", fail)
    free = engine.shared.places.free
    with pytest.raises(StorageError, match="part x is damaged"):
        engine.execute(plan)
    assert engine.shared.places.free == free
    assert [p.closed for p in given_parts] == [1]


def test_path_of_a_part_may_be_absolute(
    engine: Engine, store: Store, given_parts: list[Parts], monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    def open_parts(snapshot: Any, parts: Any, columns: Any, **_: Any) -> Parts:
        return Parts([f"{store.root}/trades/{p}" for p in parts.path], evolved=False)

    monkeypatch.setattr(store, "open_parts", open_parts)
    assert ask("FROM trades")[0].num_rows == 20


@pytest.fixture
def evolved(
    store: Store, given_parts: list[Parts], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[pa.Table], pa.Table]], None]:
    """Write the parts of ETH-USDT anew, as a table of former times would have."""

    def rewrite(change: Callable[[pa.Table], pa.Table]) -> None:
        index = store.tables["trades"].state.parts
        for path, symbol in zip(index.path, index.symbol, strict=True):
            if symbol == "ETH-USDT":
                place = store.root / "trades" / path
                pq.write_table(change(pq.read_table(place, partitioning=None)), place)

        def open_parts(snapshot: Any, parts: Any, columns: Any, **_: Any) -> Parts:
            given_parts.append(
                Parts([f"trades/{p}" for p in parts.path], evolved=any("ETH" in path for path in parts.path))
            )
            return given_parts[-1]

        monkeypatch.setattr(store, "open_parts", open_parts)

    return rewrite


def narrow(table: pa.Table) -> pa.Table:
    price = table.schema.get_field_index("price")
    return table.drop_columns(["id", "type"]).set_column(price, "price", table["price"].cast(pa.float32()))


def test_missing_columns_are_null_and_narrow_ones_widen(evolved: Callable[..., None], ask: Ask) -> None:
    before, _ = ask("FROM trades ORDER BY seq")
    evolved(narrow)
    after, _ = ask("FROM trades ORDER BY seq")
    assert after.schema == before.schema
    assert after == before
    assert ask("SELECT sum(price), count(id) FROM trades WHERE type IS NULL")[0].to_pydict() == {
        "sum(price)": [90.0],
        "count(id)": [0],
    }


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("symbol = 'ETH-USDT' AND seq > 15", 5),
        ("price >= 8", 4),
        ("id IS NULL AND price < 2", 4),
        ("id = 'x'", 0),
        (f"timestamp < make_timestamp({START_US + 3_000_000})", 6),
        ("seq BETWEEN 9 AND 12", 4),
    ],
)
def test_filters_hold_on_evolved_parts(evolved: Callable[..., None], ask: Ask, where: str, rows: int) -> None:
    evolved(narrow)
    assert ask(f"SELECT count(*) n FROM trades WHERE {where}")[0].to_pydict() == {"n": [rows]}


def test_only_evolved_parts_pay(
    evolved: Callable[..., None], engine: Engine, given_parts: list[Parts], ask: Ask
) -> None:
    evolved(narrow)
    ask("FROM trades WHERE symbol = 'BTC-USDT'")
    ask("FROM trades")
    assert [p.evolved for p in given_parts] == [False, True]


def test_filters_reach_evolved_files(tmp_path: Path) -> None:
    rows = 100_000
    columns = {
        "exchange": ["E"] * rows,
        "symbol": ["S"] * rows,
        "price": pa.array(range(rows), pa.float64()),
        "timestamp": pa.array(range(rows), pa.timestamp("us")),
        "seq": pa.array(range(rows), pa.int64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "old.parquet", row_group_size=10_000)
    with duckdb.connect() as connection:
        connection.execute("SET VARIABLE v = ?", [[str(tmp_path / "old.parquet")]])
        connection.register("v_none", TABLE.arrow().empty_table())
        for where in ("seq = 12345", "timestamp < make_timestamp(20)", "price > 99998"):
            select = parts_select(TABLE, "v", "float64", evolved=True)
            (plan,) = connection.execute(f"EXPLAIN ANALYZE SELECT count(*) FROM ({select}) WHERE {where}").fetchall()
            assert "Row Groups Scanned: 1 / 10" in plan[1], plan[1]


@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_types_are_those_of_every_table(numeric: Any) -> None:
    with duckdb.connect() as connection:
        for table in STORED.values():
            schema = table.arrow(numeric)
            columns = ", ".join(f'NULL::{sql_type(f.type)} AS "{f.name}"' for f in schema)
            assert connection.sql(f"SELECT {columns} LIMIT 0").to_arrow_table().schema.equals(schema)


def test_select_is_cut_only_where_it_has_to_be() -> None:
    assert up_to("SELECT 1", None) == "SELECT 1"
    assert up_to("SELECT 1", 0) == "SELECT 1 WHERE seq <= 0"


@pytest.mark.parametrize("upto", range(-1, 32))
def test_query_sees_no_row_beyond_its_cut(
    store: Store, engine: Engine, make_trades: Make, release: Callable[[], None], upto: int
) -> None:
    store.append("trades", make_trades(10)).result()
    release()
    for symbol in ("BTC-USDT", "ETH-USDT"):
        store.append("trades", make_trades(10, symbol)).result()
    plan = engine.plan("SELECT seq FROM trades ORDER BY seq")
    with engine.execute(plan, cuts={"trades": upto}) as execution:
        assert execution.reader.read_all()["seq"].to_pylist() == list(range(1, min(upto, 30) + 1))
        opened = execution.opened["trades"]
    assert len(opened.parts) == (upto > 0)
    assert len(opened.segments) == (upto > 10) + (upto > 20)


def test_table_that_is_not_in_the_cuts_is_empty(store: Store, engine: Engine, make_trades: Make) -> None:
    store.append("trades", make_trades(3)).result()
    with engine.execute(engine.plan("SELECT count(*) n FROM trades"), cuts={}) as execution:
        assert execution.reader.read_all().to_pydict() == {"n": [0]}


def test_system_tables_are_live_under_cuts(store: Store, engine: Engine, make_trades: Make) -> None:
    store.append("trades", make_trades(3)).result()
    plan = engine.plan(
        "SELECT t.last_seq, (SELECT count(*) FROM trades) n FROM system.tables t WHERE \"table\" = 'trades'"
    )
    with engine.execute(plan, cuts={"trades": 1}) as execution:
        assert execution.reader.read_all().to_pylist() == [{"last_seq": 3, "n": 1}]


SQL = (
    "FROM trades ORDER BY seq",
    "SELECT symbol, count(*), sum(price) FROM trades GROUP BY ALL ORDER BY ALL",
    "SELECT seq FROM trades WHERE symbol = 'A' AND timestamp > make_timestamp(1790000002000000) ORDER BY seq",
    "SELECT a.seq, b.seq FROM trades a JOIN trades b ON a.price = b.price WHERE a.symbol = 'B' ORDER BY ALL",
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from("ABC"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["flush", "release", "merge", "pin", "restart"])),
    ),
    min_size=4,
    max_size=14,
)


@settings(deadline=None, max_examples=14)
@given(steps)
def test_pinned_query_gives_the_same_rows_whatever_happens(make_trades: Make, taken: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = LakehouseSettings(storage_path=Path(folder) / "lake", wal_commit_interval_ms=0)
        store = Store(options)
        engine = Engine(store, QuerySettings())
        seen: dict[str, list[Any]] = {}

        def ask(pin: str) -> list[Any]:
            found = []
            for sql in SQL:
                plan = engine.plan(sql)
                cuts = store.pins.get(pin).cuts
                with engine.execute(plan, cuts=cuts) as execution:
                    found.append(execution.reader.read_all())
                with engine.execute(replace(plan, filters=dict.fromkeys(plan.filters)), cuts=cuts) as execution:
                    assert execution.reader.read_all() == found[-1]
            return found

        for step, *arguments in [*taken, ("pin",)]:
            if step == "append":
                symbol, rows = arguments
                store.append("trades", make_trades(rows, symbol)).result()
            elif step == "flush":
                store.flush()
            elif step == "release":
                store.tables["trades"].release_oldest()
            elif step == "merge":
                store.tables["trades"].merge_once()
            elif step == "restart":
                engine.close()
                store.close(flush=False)
                store = Store(options)
                engine = Engine(store, QuerySettings())
            elif step == "pin":
                pin = store.pins.create({"trades": store.tables["trades"].state.last_seq}, 3600)
                seen[pin.id] = ask(pin.id)
                assert seen[pin.id][0].num_rows == pin.cuts["trades"]
            for pin_id, rows in seen.items():
                assert ask(pin_id) == rows
        engine.close()
        store.close(flush=False)
