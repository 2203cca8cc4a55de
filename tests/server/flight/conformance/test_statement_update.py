"""CommandStatementUpdate: runs at DoPut, once, and answers with the rows that it changed."""

from __future__ import annotations

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from by_hand import ByHand, refused

from tickflight.wire.commands import CommandStatementUpdate


@pytest.fixture(autouse=True)
def table(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE changed (a INT PRIMARY KEY, b VARCHAR)")


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("INSERT INTO changed VALUES (1, 'x'), (2, 'y')", 2),
        ("INSERT INTO changed SELECT range, 'r' FROM range(100)", 100),
        ("INSERT INTO changed VALUES (1, 'x') RETURNING a", 1),
        ("UPDATE changed SET b = 'z' WHERE a > 100", 0),
        ("DELETE FROM changed", 0),
        ("CREATE TABLE IF NOT EXISTS changed (a INT)", 0),
        ("ALTER TABLE changed ADD COLUMN c INT", 0),
        ("SET timezone = 'Europe/Berlin'", 0),
    ],
)
def test_answer_counts_the_rows_that_changed(ada: ByHand, sql: str, rows: int) -> None:
    assert ada.put_rows(CommandStatementUpdate(sql)) == rows


def test_rows_of_the_put_are_not_looked_at(ada: ByHand) -> None:
    assert ada.put_rows(CommandStatementUpdate("INSERT INTO changed VALUES (1, 'x')"), pa.record_batch({"n": [1]})) == 1
    assert ada.rows("FROM changed") == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize(
    ("sql", "status", "match"),
    [
        ("", "INVALID_ARGUMENT", "empty"),
        ("SELECT 1", "INVALID_ARGUMENT", "the statement gives rows"),
        ("INSERT INTO changed VALUES ('no', 'x')", "INVALID_ARGUMENT", "Could not convert"),
        ("INSERT INTO changed VALUES (1, 'x'), (1, 'y')", "INVALID_ARGUMENT", "(?i)constraint"),
        ("INSERT INTO nix VALUES (1)", "INVALID_ARGUMENT", "nix"),
        ("INSERT INTO market.trades (price) VALUES (1)", "PERMISSION_DENIED", "Hint: Rows come in by ingest"),
        ("DETACH tickflight", "PERMISSION_DENIED", "Hint"),
        ("VACUUM", "PERMISSION_DENIED", "Hint"),
        ("COMMIT", "UNKNOWN", "no transaction is active"),
    ],
)
def test_what_cannot_run_changes_nothing(ada: ByHand, sql: str, status: str, match: str) -> None:
    with refused(status, match):
        ada.put(CommandStatementUpdate(sql))
    assert ada.rows("FROM changed") == []


def test_transaction_that_is_none_is_not_found_and_nothing_runs(ada: ByHand, bob: ByHand) -> None:
    for client, transaction in ((ada, b"x"), (bob, ada.begin())):
        with refused("NOT_FOUND", "there is no such transaction"):
            client.put(CommandStatementUpdate("INSERT INTO changed VALUES (1, 'x')", transaction))
    assert ada.rows("FROM changed") == []


def test_adbc_updates_and_counts(adbc_ada: adbc.Connection) -> None:
    with adbc_ada.cursor() as cursor:
        cursor.adbc_statement.set_sql_query("INSERT INTO changed VALUES (1, 'x'), (2, 'y')")
        assert cursor.adbc_statement.execute_update() == 2
        cursor.execute("UPDATE changed SET b = 'z'")
        assert cursor.rowcount == 2


def test_aborted_transaction_says_so_until_it_is_rolled_back(ada: ByHand) -> None:
    for transaction in (ada.begin(), None):
        if transaction is None:
            ada.run("BEGIN")
        insert = CommandStatementUpdate("INSERT INTO changed VALUES (1, 'x')", transaction)
        assert ada.put_rows(insert) == 1
        with refused("INVALID_ARGUMENT", "(?i)constraint"):
            ada.put(insert)
        with refused("UNKNOWN", "Current transaction is aborted"):
            ada.put(insert)
        if transaction is None:
            ada.run("ROLLBACK")
        else:
            ada.end(transaction, commit=False)
    assert ada.rows("FROM changed") == []
