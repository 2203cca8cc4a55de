"""The engine's database holds views over nothing and is locked against everything outside the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickflight_server.config import QuerySettings
from tickflight_server.query.database import find_place, make_database, relation, set_now
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.schemas import STORED
from tickflight_server.store import SeenStore, Store


@pytest.fixture
def database(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    with make_database(SeenStore(store), QuerySettings(), f"{store.root}/") as made:
        made.execute("SET search_path = 'tickflight.market,tickflight.system'")
        set_now(made, 1_790_000_000_123_456)
        yield made


def rows(database: duckdb.DuckDBPyConnection, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in relation(database, sql, parameters).to_arrow_table().to_pylist()]


def test_every_table_is_there_with_its_schema(database: duckdb.DuckDBPyConnection) -> None:
    for table in STORED.values():
        found = relation(
            database,
            f"FROM {table.schema}.{table.name}" if table.schema == "market" else f"FROM tickflight.system.{table.name}",
            (),
        ).to_arrow_table()
        assert found.schema == table.arrow()
        assert found.num_rows == 0
    for name, (schema, _, _) in SYSTEM_TABLES.items():
        assert relation(database, f"FROM tickflight.system.{name}", ()).to_arrow_table().schema.names == schema.names


@pytest.mark.parametrize(
    "name",
    [
        "now()",
        "current_timestamp",
        "get_current_timestamp()",
        "transaction_timestamp()",
        "current_localtimestamp()",
        "localtimestamp",
    ],
)
def test_now_is_utc_without_zone(database: duckdb.DuckDBPyConnection, name: str) -> None:
    expected = datetime(1970, 1, 1) + timedelta(microseconds=1_790_000_000_123_456)
    assert rows(database, f"SELECT {name}, typeof({name})") == [(expected, "TIMESTAMP")]


def test_day_and_hour_go_with_now(database: duckdb.DuckDBPyConnection) -> None:
    now = datetime(1970, 1, 1) + timedelta(microseconds=1_790_000_000_123_456)
    expected = (now.date(), now.date(), now.time(), now.time())
    assert rows(database, "SELECT today(), current_date, current_time, localtime") == [expected]


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_parquet('{outside}')",
        "FROM '{outside}'",
        "FROM read_text('/etc/hostname')",
        "FROM glob('{root}/_tickflight/*')",
        "FROM read_text('{root}/_tickflight/writer')",
        "ATTACH '{root}/x.db'",
        "COPY (SELECT 1) TO '{root}/x.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
    ],
)
def test_nothing_outside_the_tables_is_reached(
    database: duckdb.DuckDBPyConnection, store: Store, tmp_path: Path, sql: str
) -> None:
    outside = tmp_path / "outside.parquet"
    pq.write_table(pa.table({"x": [1]}), outside)
    with pytest.raises(duckdb.Error):
        database.execute(sql.format(outside=outside, root=store.root))


def test_variables_of_this_process_are_no_tables(database: duckdb.DuckDBPyConnection) -> None:
    secret = pa.table({"x": [1]})
    with pytest.raises(duckdb.CatalogException):
        relation(database, "FROM secret", ())
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT ?, ?", [1, "a"], (1, "a")),
        ("SELECT $2, $1", [1, "a"], ("a", 1)),
        ("SELECT $2, $1", {"1": "one", "2": "two"}, ("two", "one")),
        ("SELECT $3, $1", {"3": "three", "1": "one"}, ("three", "one")),
        ("SELECT $b, $a, $b + 1", {"a": 1, "b": 2}, (2, 1, 3)),
        ("SELECT ?", [datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))], (datetime(2026, 1, 1),)),
        ("SELECT ?", [datetime(2026, 1, 1, tzinfo=UTC)], (datetime(2026, 1, 1),)),
        ("SELECT typeof(?)", [datetime(2026, 1, 1, tzinfo=UTC)], ("TIMESTAMP",)),
        ("SELECT ?::TIMESTAMPTZ = TIMESTAMPTZ '2026-01-01 00:00:00Z'", [datetime(2026, 1, 1, tzinfo=UTC)], (True,)),
        ("SELECT ?", [None], (None,)),
        ("SELECT 1", [], (1,)),
        ("SELECT 1", {}, (1,)),
    ],
)
def test_parameters_are_bound(
    database: duckdb.DuckDBPyConnection, sql: str, parameters: Any, expected: tuple[Any, ...]
) -> None:
    assert rows(database, sql, parameters) == [expected]


def test_place_is_found_for_an_error_without_one(database: duckdb.DuckDBPyConnection) -> None:
    error = duckdb.BinderException("no place")
    assert "LINE 1: SELECT pricee FROM trades\n               ^^^^^^" in str(
        find_place(database, "SELECT pricee FROM trades", (), error)
    )


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT 1", duckdb.BinderException("runs after all")),
        ("SELECT pricee FROM trades", duckdb.CatalogException("another kind")),
        ("SELECT pricee FROM trades", duckdb.BinderException("has one\nLINE 1: x")),
        ("SELECT pricee FROM trades", ValueError("not the engine's")),
    ],
)
def test_error_stays_where_no_better_one_is_found(
    database: duckdb.DuckDBPyConnection, sql: str, error: Exception
) -> None:
    assert find_place(database, sql, (), error) is error
    assert rows(database, "SELECT 1") == [(1,)]  # and the connection works on


# Six million groups with their hashes need some hundreds of megabytes.
LARGE = "SELECT count(*) FROM (SELECT i, max(hash(i)) FROM range(6000000) t(i) GROUP BY i)"


def test_a_large_query_spills_into_the_data_folder_where_it_may(store: Store) -> None:
    left = store.root / "_tickflight" / "spill" / "left-by-a-crash"
    left.parent.mkdir(parents=True)
    left.touch()
    with (
        make_database(SeenStore(store), QuerySettings(memory_mb=96), f"{store.root}/") as poor,
        pytest.raises(duckdb.Error),
    ):
        rows(poor, LARGE)
    assert not left.exists()
    with make_database(SeenStore(store), QuerySettings(memory_mb=96, spill_mb=2000), f"{store.root}/") as rich:
        assert rows(rich, LARGE) == [(6_000_000,)]
