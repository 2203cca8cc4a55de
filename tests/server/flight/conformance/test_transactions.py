"""BeginTransaction and EndTransaction; savepoints, which DuckDB does not have, are not offered."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand, refused
from flight_here import FlightHere

from tickflight.wire.actions import (
    ActionBeginSavepointRequest,
    ActionBeginTransactionRequest,
    ActionEndSavepointRequest,
    ActionEndTransactionRequest,
)
from tickflight.wire.commands import CommandGetSqlInfo, CommandStatementUpdate
from tickflight.wire.enums import EndSavepoint, EndTransaction

COMMIT, ROLLBACK = EndTransaction.END_TRANSACTION_COMMIT, EndTransaction.END_TRANSACTION_ROLLBACK


@pytest.fixture(autouse=True)
def table(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE booked (a INT)")


def insert(transaction_id: bytes | None) -> CommandStatementUpdate:
    return CommandStatementUpdate("INSERT INTO booked VALUES (1)", transaction_id)


@pytest.mark.parametrize(("action", "rows"), [(COMMIT, 2), (ROLLBACK, 0)])
def test_end_keeps_or_drops_what_was_written(ada: ByHand, bob: ByHand, action: EndTransaction, rows: int) -> None:
    transaction = ada.act("BeginTransaction", ActionBeginTransactionRequest()).transaction_id
    for _ in range(2):
        ada.put(insert(transaction))
    assert ada.rows("SELECT count(*) AS n FROM booked", transaction) == [{"n": 2}]
    assert bob.rows("SELECT count(*) AS n FROM booked") == [{"n": 0}]
    assert ada.act("EndTransaction", ActionEndTransactionRequest(transaction, action)) is None
    assert bob.rows("SELECT count(*) AS n FROM booked") == [{"n": rows}]


@pytest.mark.parametrize("action", [COMMIT, ROLLBACK])
def test_transaction_ends_once(ada: ByHand, action: EndTransaction) -> None:
    transaction = ada.begin()
    ada.act("EndTransaction", ActionEndTransactionRequest(transaction, action))
    with refused("NOT_FOUND", "there is no such transaction, or it has ended"):
        ada.act("EndTransaction", ActionEndTransactionRequest(transaction, action))
    with refused("NOT_FOUND", "there is no such transaction, or it has ended"):
        ada.put(insert(transaction))


@pytest.mark.parametrize("transaction", [b"", b"x", b"x" * 16, b"x" * 1_000_000], ids=len)
@pytest.mark.parametrize("action", [COMMIT, ROLLBACK])
def test_id_that_is_none_is_not_found(ada: ByHand, transaction: bytes, action: EndTransaction) -> None:
    with refused("NOT_FOUND", "there is no such transaction"):
        ada.act("EndTransaction", ActionEndTransactionRequest(transaction, action))


def test_nobody_else_ends_a_transaction(ada: ByHand, bob: ByHand) -> None:
    transaction = ada.begin()
    ada.put(insert(transaction))
    for action in (COMMIT, ROLLBACK):
        with refused("NOT_FOUND", "there is no such transaction"):
            bob.act("EndTransaction", ActionEndTransactionRequest(transaction, action))
    ada.end(transaction, commit=True)
    assert ada.rows("SELECT count(*) AS n FROM booked") == [{"n": 1}]


@pytest.mark.parametrize("tail", [b"", b"\x10\x00", b"\x10\x09"], ids=["missing", "unspecified", "unknown"])
def test_end_that_does_not_say_how_is_refused_and_leaves_it_open(ada: ByHand, tail: bytes) -> None:
    from google.protobuf.any_pb2 import Any as AnyMessage

    transaction = ada.begin()
    sent = AnyMessage.FromString(ActionEndTransactionRequest(transaction).serialize())
    sent.value += tail
    with refused("INVALID_ARGUMENT", "does not say how|not a valid EndTransaction"):
        ada.act("EndTransaction", sent.SerializeToString())
    ada.put(insert(transaction))
    ada.end(transaction, commit=True)


def test_two_transactions_of_one_session_do_not_see_each_other(ada: ByHand) -> None:
    first, second = ada.begin(), ada.begin()
    ada.put(insert(first))
    assert ada.rows("SELECT count(*) AS n FROM booked", second) == [{"n": 0}]
    ada.put(insert(second))
    ada.end(second, commit=True)
    ada.end(first, commit=True)
    assert ada.rows("SELECT count(*) AS n FROM booked") == [{"n": 2}]


def test_conflict_is_told_in_the_engines_words(ada: ByHand) -> None:
    ada.put(insert(None))
    first, second = ada.begin(), ada.begin()
    ada.put(CommandStatementUpdate("UPDATE booked SET a = 2", first))
    with refused("UNKNOWN", "(?i)conflict"):
        ada.put(CommandStatementUpdate("UPDATE booked SET a = 3", second))
    ada.end(second, commit=False)
    ada.end(first, commit=True)
    assert ada.rows("FROM booked") == [{"a": 2}]


def test_end_of_the_session_rolls_back(ada: ByHand) -> None:
    transaction = ada.begin()
    ada.put(insert(transaction))
    ada.act("CloseSession")
    with refused("NOT_FOUND", "the transaction has ended"):
        ada.put(insert(transaction))
    with refused("NOT_FOUND", "the transaction has ended, and was rolled back"):
        ada.end(transaction, commit=True)
    assert ada.rows("FROM booked") == []


def test_transaction_that_is_one_too_many_pushes_out_the_longest_unused(
    ada: ByHand, closed: FlightHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = ada.begin()
    ada.put(insert(oldest))
    monkeypatch.setattr(closed.flight.main._sessions._transactions, "_most", 1)
    newest = ada.begin()
    with refused("NOT_FOUND", "there is no such transaction"):
        ada.end(oldest, commit=True)
    assert ada.rows("FROM booked") == []
    ada.run("DROP TABLE booked")  # nothing holds it
    ada.end(newest, commit=True)


@pytest.mark.parametrize(
    ("action", "request_"),
    [
        ("BeginSavepoint", ActionBeginSavepointRequest(b"x", "name")),
        ("EndSavepoint", ActionEndSavepointRequest(b"x", EndSavepoint.END_SAVEPOINT_RELEASE)),
        ("EndSavepoint", ActionEndSavepointRequest(b"x", EndSavepoint.END_SAVEPOINT_ROLLBACK)),
        ("BeginSavepoint", b""),
        ("EndSavepoint", b"junk"),
    ],
)
def test_savepoints_are_not_offered_and_not_advertised(ada: ByHand, action: str, request_: Any) -> None:
    with refused("UNIMPLEMENTED", f"action '{action}' is not offered here"):
        ada.act(action, request_)
    assert action not in {found.type for found in ada.client.list_actions(ada.options)}
    (transactions, savepoints) = ada.get(CommandGetSqlInfo((8, 573)))["value"].to_pylist()
    assert (transactions, savepoints) == (1, False)


def test_adbc_commits_and_rolls_back(closed: FlightHere, ada: ByHand) -> None:
    login = {"adbc.flight.sql.authorization_header": "Bearer token-of-ada"}
    with adbc.connect(closed.address, db_kwargs=login) as connection, connection.cursor() as cursor:
        for end, rows in ((connection.rollback, 0), (connection.commit, 1)):
            cursor.execute("INSERT INTO booked VALUES (1)")
            cursor.execute("SELECT count(*) FROM booked")
            assert cursor.fetchall() == [(1,)]
            end()
            assert ada.rows("SELECT count(*) AS n FROM booked") == [{"n": rows}]
