"""Schemas that change: new nullable columns and wider types need no migration, everything else is refused."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tickflight_server.errors import StorageError
from tickflight_server.schemas import STORED, Column, TableSchema
from tickflight_server.store import Store
from tickflight_server.store.evolution import adapt, evolve, widens

TRADES = STORED["trades"]


def with_columns(*added: Column, without: str = "") -> dict[str, TableSchema]:
    """Return all tables, ``trades`` with other columns."""
    kept = tuple(c for c in TRADES.columns if c.name != without and c.name not in {a.name for a in added})
    changed = TableSchema("trades", "market", (*kept[:-3], *added, *kept[-3:]), TRADES.comment)
    return {**STORED, "trades": changed}


VENUE = with_columns(Column("venue", "label"))
COUNT = with_columns(Column("count", "int"))
NUMBER = with_columns(Column("count", "number"))


def add(batch: pa.RecordBatch, name: str, values: list[Any]) -> pa.RecordBatch:
    return batch.append_column(name, pa.array(values))


def values(store: Store, column: str, *, memory: bool | None = None) -> list[Any]:
    """Return a column in order of ``seq``; a part that lacks it has nulls, as the engine reads it."""
    snapshot = store.snapshot("trades")
    found: list[tuple[int, Any]] = []
    for segment in snapshot.segments:
        found += zip(segment.batch["seq"].to_pylist(), segment.batch[column].to_pylist(), strict=True)
    for path in snapshot.parts.path:
        part = pq.ParquetFile(store.root / "trades" / path).read()
        read = part[column].to_pylist() if column in part.column_names else [None] * part.num_rows
        found += zip(part["seq"].to_pylist(), read, strict=True)
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.int32(), pa.float64(), True),
        (pa.int64(), pa.float64(), False),  # 2⁵³ + 1 has no float64
        (pa.int64(), pa.decimal128(38, 18), True),
        (pa.int64(), pa.decimal128(30, 18), False),
        (pa.float32(), pa.float64(), True),
        (pa.float64(), pa.float32(), False),
        (pa.float64(), pa.decimal128(38, 18), False),
        (pa.decimal128(38, 18), pa.float64(), False),
        (pa.decimal128(20, 8), pa.decimal128(38, 18), True),
        (pa.decimal128(38, 18), pa.decimal128(38, 19), False),
        (pa.string(), pa.string(), True),
        (pa.string(), pa.int64(), False),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), True),
        (pa.list_(pa.int64()), pa.int64(), False),
        (pa.timestamp("ms"), pa.timestamp("us"), False),
    ],
)
def test_a_type_is_wider_if_it_has_every_value(old: pa.DataType, new: pa.DataType, wider: bool) -> None:
    assert widens(old, new) is wider


def test_a_stored_schema_becomes_the_union_or_stays() -> None:
    stored, wanted = pa.schema({"a": pa.int32(), "b": pa.string()}), pa.schema({"a": pa.int64(), "c": pa.string()})
    assert evolve("t", stored, wanted, ()) == pa.schema({"a": pa.int64(), "b": pa.string(), "c": pa.string()})
    assert evolve("t", wanted, stored.remove(1), ()) is None, "what a newer server made wider stays"
    assert evolve("t", stored, stored, ("a", "b")) is None
    with pytest.raises(StorageError, match="column 'c' is new and may not be null"):
        evolve("t", stored, wanted, ("c",))


def test_rows_are_adapted_by_name() -> None:
    schema = pa.schema({"c": pa.string(), "a": pa.int64(), "l": pa.dictionary(pa.int32(), pa.string())})
    for kind in (pa.table, pa.record_batch):
        rows = kind({"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"], "l": ["p", None]})
        assert adapt(rows, schema).to_pydict() == {"c": [None, None], "a": [1, 2], "l": ["p", None]}
    with pytest.raises(pa.ArrowInvalid, match="column 'a'"):
        adapt(pa.table({"a": ["1"]}), schema)


@pytest.mark.parametrize("flushed", [False, True])
def test_rows_from_before_a_new_column_have_null_in_it(open_store: Any, trades: Any, flushed: bool) -> None:
    store = open_store()
    store.append("trades", trades(3)).result(20)
    store.close(flush=flushed)
    store = open_store(tables=VENUE)
    assert store.tables["trades"].catalog.evolved_seq == (3 if flushed else -1)
    assert values(store, "venue") == [None] * 3
    store.append("trades", add(trades(2, 3), "venue", ["v", None])).result(20)
    store.append("trades", trades(1, 5)).result(20)
    assert values(store, "venue") == [None] * 3 + ["v", None, None]
    store.flush()
    while store.tables["trades"].release_oldest():
        pass
    assert values(store, "venue") == [None] * 3 + ["v", None, None]
    assert values(store, "price") == [float(i) for i in range(6)]
    store.close()
    again = open_store(tables=VENUE)
    assert values(again, "venue") == [None] * 3 + ["v", None, None]
    assert again.tables["trades"].catalog.evolved_seq == (3 if flushed else -1)
    rows = pa.table(DeltaTable(str(store.root / "trades")).to_pyarrow_dataset().to_table())
    assert sorted(rows["venue"].to_pylist(), key=str) == [None] * 5 + ["v"]


def test_which_parts_may_have_another_schema_is_told(open_store: Any, trades: Any, put_parts: Any) -> None:
    store = open_store()
    put_parts(store, 2)
    snapshot = store.snapshot("trades")
    assert not store.open_parts(snapshot, snapshot.parts).evolved
    store.close()
    store = open_store(tables=VENUE)
    put_parts(store, 1)
    snapshot = store.snapshot("trades")
    old = snapshot.parts.chosen(snapshot.parts.last <= 20)
    new = snapshot.parts.chosen(snapshot.parts.last > 20)
    assert (len(old), len(new)) == (2, 1)
    assert store.open_parts(snapshot, old).evolved
    assert not store.open_parts(snapshot, new).evolved


def test_a_change_of_schema_is_one_version_and_is_made_with_the_next_flush(
    open_store: Any, trades: Any, put_parts: Any
) -> None:
    store = open_store()
    put_parts(store, 1)
    store.close()
    store = open_store(tables=VENUE)
    assert store.tables["trades"].state.version == 0
    put_parts(store, 1)
    assert store.tables["trades"].state.version == 2
    assert [len(store.snapshot_at("trades", v).parts) for v in range(3)] == [1, 1, 2]
    store.close()
    put_parts(store := open_store(tables=VENUE), 1)
    assert store.tables["trades"].state.version == 3


@pytest.mark.parametrize("flushed", [False, True])
def test_a_widened_column_keeps_every_value(open_store: Any, trades: Any, flushed: bool) -> None:
    big = 2**63 - 1
    store = open_store(tables=COUNT, numeric_type="decimal")
    store.append("trades", add(trades(2), "count", [big, None])).result(20)
    store.close(flush=flushed)
    store = open_store(tables=NUMBER, numeric_type="decimal")
    store.append("trades", add(trades(1, 2), "count", [Decimal("0.5")])).result(20)
    assert values(store, "count") == [big, None, Decimal("0.5")]
    store.close()
    store = open_store(tables=NUMBER, numeric_type="decimal", compact_parts_min=2)
    assert values(store, "count") == [big, None, Decimal("0.5")]
    store.keeper.compact(all_of_it=True)
    assert values(store, "count") == [big, None, Decimal("0.5")]
    (path,) = set(store.tables["trades"].state.parts.path) if not flushed else store.tables["trades"].state.parts.path
    assert pq.read_schema(store.root / "trades" / path).field("count").type == pa.decimal128(38, 18)


def test_a_new_table_is_there_at_once(open_store: Any, trades: Any) -> None:
    store = open_store()
    store.append("trades", trades(1)).result(20)
    store.close()
    quotes = replace(TRADES, name="quotes")
    store = open_store(tables={**STORED, "quotes": quotes})
    store.append("quotes", trades(2)).result(20)
    assert store.flush()["quotes"] == 2
    assert store.snapshot("trades").last_seq == 1


def test_a_narrower_or_other_type_is_refused_with_both_schemas(open_store: Any, trades: Any) -> None:
    store = open_store(tables=COUNT)
    store.append("trades", add(trades(1), "count", [1])).result(20)
    store.close()
    message = (
        r"table trades: column 'count' is stored as int64 and cannot become {0}\. Stored: .*count int64.* Wanted: "
    )
    message += r".*count {0}"
    with pytest.raises(StorageError, match=message.format("string")) as caught:
        open_store(tables=with_columns(Column("count", "text")))
    assert "year int32" in str(caught.value)
    with pytest.raises(StorageError, match=message.format("double")):
        open_store(tables=NUMBER)
    assert values(open_store(tables=COUNT), "count") == [1], "and nothing was changed"


def test_a_new_column_that_may_not_be_null_is_refused(open_store: Any, trades: Any) -> None:
    store = open_store()
    store.append("trades", trades(1)).result(20)
    store.close()
    with pytest.raises(StorageError, match="column 'venue' is new and may not be null"):
        open_store(tables=with_columns(Column("venue", "label", required=True)))


@pytest.mark.parametrize("kind", ["text", "number"])
def test_records_of_the_log_that_do_not_fit_any_more_are_refused(open_store: Any, trades: Any, kind: Any) -> None:
    store = open_store(tables=COUNT)
    store.append("trades", add(trades(1), "count", [2**53 + 1])).result(20)
    store.close(flush=False)
    with pytest.raises(StorageError, match=r"the log holds rows of table trades that do not fit it now: .*'count'"):
        open_store(tables=with_columns(Column("count", kind)))
    assert values(open_store(tables=COUNT), "count") == [2**53 + 1]


def test_an_older_server_neither_drops_nor_hides_what_a_newer_one_added(
    open_store: Any, trades: Any, put_parts: Any
) -> None:
    newer = open_store(tables=VENUE)
    for i in range(2):
        newer.append("trades", add(trades(2, 2 * i), "venue", ["v", "w"])).result(20)
        newer.flush()
    newer.close()
    older = open_store(compact_parts_min=2)
    put_parts(older, 1, rows=2)
    assert older.keeper.compact(all_of_it=True)["parts_in"] == 3
    assert values(older, "price") == [float(i) for i in range(6)]
    older.close()
    again = open_store(tables=VENUE)
    assert values(again, "venue") == ["v", "w", "v", "w", None, None]
    assert again.tables["trades"].state.version == older.tables["trades"].state.version


def test_rows_in_the_log_of_a_newer_server_can_be_read_by_it_again(open_store: Any, trades: Any) -> None:
    newer = open_store(tables=VENUE)
    newer.append("trades", add(trades(2), "venue", ["v", "w"])).result(20)
    newer.close(flush=False)
    older = open_store()
    assert values(older, "price") == [0.0, 1.0]
    older.close(flush=False)
    assert values(open_store(tables=VENUE), "venue") == ["v", "w"]
