"""CommandStatementIngest: four modes, schema, catalog, temporary and transaction; all rows or none."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from by_hand import ByHand, refused
from flight_here import trades

from tickflight.wire.commands import CommandStatementIngest, TableDefinitionOptions
from tickflight.wire.enums import TableExistsOption as There
from tickflight.wire.enums import TableNotExistOption as Missing

CREATE = TableDefinitionOptions(Missing.TABLE_NOT_EXIST_OPTION_CREATE, There.TABLE_EXISTS_OPTION_FAIL)
APPEND = TableDefinitionOptions(Missing.TABLE_NOT_EXIST_OPTION_FAIL, There.TABLE_EXISTS_OPTION_APPEND)
CREATE_APPEND = TableDefinitionOptions(Missing.TABLE_NOT_EXIST_OPTION_CREATE, There.TABLE_EXISTS_OPTION_APPEND)
REPLACE = TableDefinitionOptions(Missing.TABLE_NOT_EXIST_OPTION_CREATE, There.TABLE_EXISTS_OPTION_REPLACE)
ROWS = pa.record_batch({"a": [1, 2], "b": ["x", None]})


@pytest.fixture(autouse=True)
def nothing(ada: ByHand) -> None:
    ada.run("DROP TABLE IF EXISTS taken", "DROP SCHEMA IF EXISTS own CASCADE", "CREATE SCHEMA own")


def command(how: TableDefinitionOptions | None = CREATE, table: str = "taken", **more: Any) -> CommandStatementIngest:
    return CommandStatementIngest(how, table, **more)


def count(client: ByHand, table: str = "taken") -> int:
    return int(client.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


@pytest.mark.parametrize(
    ("options", "first", "again", "rows"),
    [
        (CREATE, None, "INVALID_ARGUMENT", 4),
        (APPEND, "NOT_FOUND", "NOT_FOUND", 0),
        (CREATE_APPEND, None, None, 8),
        (REPLACE, None, None, 4),
    ],
    ids=["create", "append", "create_append", "replace"],
)
def test_modes(ada: ByHand, options: TableDefinitionOptions, first: str | None, again: str | None, rows: int) -> None:
    for status in (first, again):
        if status is None:
            assert ada.put_rows(command(options), ROWS, ROWS) == 4
        else:
            with refused(status, "taken"):
                ada.put(command(options), ROWS, ROWS)
    ada.run("CREATE TABLE IF NOT EXISTS taken (a BIGINT, b VARCHAR)")
    assert count(ada) == rows


@pytest.mark.parametrize(
    "sent",
    [
        command(None),
        command(TableDefinitionOptions()),
        command(TableDefinitionOptions(Missing.TABLE_NOT_EXIST_OPTION_CREATE)),
        command(TableDefinitionOptions(if_exists=There.TABLE_EXISTS_OPTION_APPEND)),
        command(table=""),
    ],
    ids=["none", "unspecified", "only if missing", "only if there", "no table"],
)
def test_ingest_that_leaves_something_open_is_refused(ada: ByHand, sent: CommandStatementIngest) -> None:
    with refused("INVALID_ARGUMENT", "does not name a table, and what to do"):
        ada.put(sent, ROWS)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"schema": "nix"}, "NOT_FOUND"),
        ({"catalog": "nix"}, "NOT_FOUND"),
        ({"catalog": "temp"}, "NOT_FOUND"),
        ({"schema": "system"}, "PERMISSION_DENIED"),
        ({"schema": "market"}, "NOT_FOUND"),
        ({"schema": "market", "table": "trades"}, "PERMISSION_DENIED"),
        ({"temporary": True, "schema": "workspace"}, "INVALID_ARGUMENT"),
        ({"temporary": True, "catalog": "tickflight"}, "INVALID_ARGUMENT"),
        ({"transaction_id": b"x"}, "NOT_FOUND"),
    ],
    ids=str,
)
def test_place_that_is_none_is_refused(ada: ByHand, more: dict[str, Any], status: str) -> None:
    with refused(status, "Hint: "):
        ada.put(command(**more), ROWS)
    assert ada.rows("SELECT table_name FROM duckdb_tables() WHERE table_name = 'taken'") == []


def test_place_is_a_schema_of_the_callers(ada: ByHand) -> None:
    assert ada.put_rows(command(schema="own", catalog="tickflight"), ROWS) == 2
    assert (count(ada, "own.taken"), count(ada, "tickflight.own.taken")) == (2, 2)
    ada.run("USE own")
    assert ada.put_rows(command(REPLACE), ROWS, ROWS) == 4, "the session's schema is the default"
    assert count(ada, "own.taken") == 4


def test_temporary_table_is_the_sessions_until_it_ends(ada: ByHand, bob: ByHand) -> None:
    assert ada.put_rows(command(temporary=True), ROWS) == 2
    assert count(ada) == 2
    assert ada.put_rows(command(APPEND, temporary=True), ROWS) == 2
    assert count(ada) == 4
    with refused("INVALID_ARGUMENT", "taken does not exist"):
        count(bob)
    ada.act("CloseSession")
    with refused("INVALID_ARGUMENT", "taken does not exist"):
        count(ada)


@pytest.mark.parametrize("commit", [True, False])
def test_transaction_keeps_or_drops_all_of_it(ada: ByHand, bob: ByHand, commit: bool) -> None:
    transaction = ada.begin()
    assert ada.put_rows(command(transaction_id=transaction), ROWS) == 2
    assert ada.put_rows(command(APPEND, transaction_id=transaction), ROWS) == 2
    with refused("INVALID_ARGUMENT", "taken does not exist"):
        count(bob)
    with refused("NOT_FOUND", "there is no such transaction"):
        bob.put(command(CREATE_APPEND, transaction_id=transaction), ROWS)
    ada.end(transaction, commit=commit)
    there = ada.rows("SELECT count(*) AS n FROM duckdb_tables() WHERE table_name = 'taken'")[0]["n"]
    assert there == commit
    with refused("NOT_FOUND", "there is no such transaction"):
        ada.put(command(CREATE_APPEND, transaction_id=transaction), ROWS)


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        (APPEND, pa.record_batch({"a": ["no number"]})),
        (APPEND, pa.record_batch({"nix": [1]})),
        (APPEND, pa.record_batch({"a": [1], "b": ["x"], "c": [1]})),
        (APPEND, pa.record_batch([], names=[])),
        (REPLACE, pa.record_batch([], names=[])),
    ],
    ids=["type", "name", "too many", "nothing", "nothing to replace by"],
)
def test_rows_that_do_not_fit_change_nothing(
    ada: ByHand, options: TableDefinitionOptions, batch: pa.RecordBatch
) -> None:
    ada.put(command(), ROWS)
    with refused("INVALID_ARGUMENT"):
        ada.put(command(options), batch)
    assert count(ada) == 2


def test_batch_that_lies_about_its_bytes_is_refused_in_a_few_words(ada: ByHand) -> None:
    lie = pa.DictionaryArray.from_arrays(pa.array([5]), pa.array(["a"]), safe=False)
    with refused("INVALID_ARGUMENT", "^the batch is not valid Arrow"):
        ada.put(command(), pa.record_batch([lie], names=["a"]))
    assert ada.rows("SELECT table_name FROM duckdb_tables() WHERE table_name = 'taken'") == []


def test_no_rows_make_an_empty_table(ada: ByHand) -> None:
    assert ada.put_rows(command(), ROWS.slice(0, 0)) == 0
    assert ada.rows("FROM taken") == []


def test_options_of_another_server_are_passed_over(ada: ByHand) -> None:
    assert ada.put_rows(command(options={"compression": "zstd"}), ROWS) == 2


def test_market_rows_go_through_the_store(ada: ByHand) -> None:
    before = count(ada, "trades")
    for more in ({}, {"schema": "market"}, {"schema": "market", "catalog": "tickflight"}):
        assert ada.put_rows(command(APPEND, "trades", **more), trades(3, exchange="OTHER")) == 3  # type: ignore[arg-type]
    assert count(ada, "trades") == before + 9


@pytest.mark.parametrize(
    ("mode", "again", "rows"),
    [("create", adbc.ProgrammingError, 2), ("create_append", None, 4), ("replace", None, 2), ("append", None, 4)],
)
def test_adbc_ingests_in_each_mode(adbc_ada: adbc.Connection, mode: str, again: Any, rows: int) -> None:
    with adbc_ada.cursor() as cursor:
        if mode == "append":
            with pytest.raises(adbc.ProgrammingError, match="NOT_FOUND"):
                cursor.adbc_ingest("taken", ROWS, mode="append")
            cursor.execute("CREATE TABLE taken (a BIGINT, b VARCHAR)")
        assert cursor.adbc_ingest("taken", ROWS, mode=mode) == 2
        if again is not None:
            with pytest.raises(again, match="is there already"):
                cursor.adbc_ingest("taken", ROWS, mode=mode)
        else:
            assert cursor.adbc_ingest("taken", ROWS, mode=mode) == 2
        cursor.execute("SELECT count(*) FROM taken")
        assert cursor.fetchall() == [(rows,)]


def test_adbc_ingests_into_a_schema_and_for_the_session(adbc_ada: adbc.Connection) -> None:
    with adbc_ada.cursor() as cursor:
        cursor.adbc_ingest("taken", ROWS, mode="create", db_schema_name="own", catalog_name="tickflight")
    with adbc_ada.cursor() as cursor:  # a schema stays with its cursor
        cursor.adbc_ingest("passing", ROWS, mode="create", temporary=True)
        cursor.execute("SELECT (SELECT count(*) FROM own.taken), (SELECT count(*) FROM passing)")
        assert cursor.fetchall() == [(2, 2)]
