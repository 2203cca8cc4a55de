"""The tables as literals: what every one of them promises."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tickflight_server.schemas import DECIMAL, LABEL, MARKET, STORED, TIMESTAMP, Column, TableSchema

TABLES = list(STORED.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_every_table_has_the_columns_that_the_store_relies_on(table: TableSchema) -> None:
    names = [c.name for c in table.columns]
    assert len(set(names)) == len(names)
    assert names[:2] == ["exchange", "symbol"]
    assert names[-3:] == ["timestamp", "receipt_timestamp", "seq"]
    assert {"exchange", "symbol", "timestamp", "receipt_timestamp"} <= set(table.required)
    assert "seq" not in table.required
    assert not {"year", "month", "day"} & set(names)
    assert table.comment


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
@pytest.mark.parametrize("memory", [False, True])
def test_an_input_schema_is_the_schema_without_seq(table: TableSchema, memory: bool) -> None:
    for numeric in ("float64", "decimal"):
        whole = table.arrow(numeric, memory=memory)  # type: ignore[arg-type]
        assert table.arrow_input(numeric, memory=memory).names == whole.names[:-1]  # type: ignore[arg-type]
        assert whole.field("seq").type == pa.int64()
        assert whole.field("timestamp").type == TIMESTAMP
        assert whole.field("symbol").type == (LABEL if memory else pa.string())


def test_numbers_are_floats_or_decimals() -> None:
    assert Column("price", "number").arrow_type("float64") == pa.float64()
    assert Column("price", "number").arrow_type("decimal") == DECIMAL
    assert Column("prices", "numbers").arrow_type("decimal") == pa.list_(DECIMAL)


def test_times_have_no_zone() -> None:
    assert TIMESTAMP.tz is None
    assert TIMESTAMP.unit == "us"


def test_names_fit_the_log_and_the_folders() -> None:
    assert all(name == table.name for name, table in STORED.items())
    assert all(name.isidentifier() and len(name.encode()) <= 255 for name in STORED)
    assert not any(name.startswith("_") for name in STORED)


def test_the_market_tables_are_all_but_the_systems() -> None:
    assert set(STORED) - set(MARKET) == {"rejected", "gaps"}
    assert all(t.schema == "market" for t in MARKET.values())
