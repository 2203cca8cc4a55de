"""CreatePreparedStatement to ClosePreparedStatement: preparing, binding, running as a query and as an update."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from by_hand import ByHand, refused
from flight_here import FlightHere

from tickflight.wire.actions import ActionClosePreparedStatementRequest
from tickflight.wire.append import DoPutPreparedStatementResult
from tickflight.wire.commands import CommandPreparedStatementQuery, CommandPreparedStatementUpdate

CLOSE = "ClosePreparedStatement"


def values(*columns: list[Any]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(c) for c in columns], names=[str(n) for n in range(len(columns))])


@pytest.mark.parametrize(
    ("sql", "columns", "parameters", "is_update"),
    [
        ("SELECT 1 AS x", ["x"], [], False),
        ("SELECT price FROM trades WHERE symbol = ? AND seq < ?", ["price"], ["1", "2"], False),
        ("SELECT $b::INT AS x, $a::INT AS y", ["x", "y"], ["b", "a"], False),
        ("CREATE TABLE IF NOT EXISTS p (a INT)", [], [], True),
        ("SET timezone = 'UTC'", [], [], True),
    ],
)
def test_result_tells_columns_and_parameters(
    ada: ByHand, sql: str, columns: list[str], parameters: list[str], is_update: bool
) -> None:
    result = ada.prepare(sql)
    assert len(result.prepared_statement_handle) >= 16
    assert pa.ipc.read_schema(pa.py_buffer(result.dataset_schema)).names == columns
    assert sorted(pa.ipc.read_schema(pa.py_buffer(result.parameter_schema)).names) == sorted(parameters)
    assert result.is_update is is_update


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("", "INVALID_ARGUMENT"),
        ("SELEC", "INVALID_ARGUMENT"),
        ("FROM nix", "INVALID_ARGUMENT"),
        ("SELECT 1; SELECT 2", "INVALID_ARGUMENT"),
        ("SELECT '" + "x" * 2_000_000 + "'", "INVALID_ARGUMENT"),
        ("COPY trades TO 'x'", "PERMISSION_DENIED"),
        ("DELETE FROM trades", "PERMISSION_DENIED"),
    ],
    ids=lambda value: value[:20],
)
def test_what_cannot_run_is_not_prepared(ada: ByHand, sql: str, status: str) -> None:
    with refused(status):
        ada.prepare(sql)


def test_preparing_in_a_transaction_that_is_none_is_not_found(ada: ByHand, bob: ByHand) -> None:
    for client, transaction in ((ada, b"x"), (bob, ada.begin())):
        with refused("NOT_FOUND", "there is no such transaction"):
            client.prepare("SELECT 1", transaction)


@pytest.mark.parametrize("handle", [b"", b"x", b"x" * 16, b"x" * 1_000_000], ids=len)
def test_handle_that_is_none_is_not_found_in_any_call(ada: ByHand, handle: bytes) -> None:
    query, update = CommandPreparedStatementQuery(handle), CommandPreparedStatementUpdate(handle)
    for call in (
        lambda: ada.info(query),
        lambda: ada.schema(query),
        lambda: ada.get(query),
        lambda: ada.put(query, values([1])),
        lambda: ada.put(update, values([1])),
    ):
        with refused("NOT_FOUND", "there is no such prepared statement"):
            call()
    assert ada.act(CLOSE, ActionClosePreparedStatementRequest(handle)) is None, "closing twice is no error"


def test_handle_of_another_user_is_as_good_as_none(ada: ByHand, bob: ByHand) -> None:
    handle = ada.prepare("SELECT 1 AS x").prepared_statement_handle
    query = CommandPreparedStatementQuery(handle)
    for call in (bob.info, bob.schema, bob.get, bob.put):
        with refused("NOT_FOUND", "there is no such prepared statement"):
            call(query)
    assert bob.act(CLOSE, ActionClosePreparedStatementRequest(handle)) is None
    assert ada.get(query).to_pylist() == [{"x": 1}], "nobody else can close it"


def test_closed_handle_is_gone_for_every_call(ada: ByHand) -> None:
    handle = ada.prepare("SELECT ?::INT AS x").prepared_statement_handle
    query = CommandPreparedStatementQuery(handle)
    ada.put(query, values([1]))
    ticket = ada.info(query).endpoints[0].ticket.ticket
    assert ada.act(CLOSE, ActionClosePreparedStatementRequest(handle)) is None
    for call in (ada.info, ada.schema, ada.put):
        with refused("NOT_FOUND", "there is no such prepared statement, or it has ended"):
            call(query)
    with refused("NOT_FOUND", "there is no such prepared statement, or it has ended"):
        ada.get(ticket)


def test_binds_answer_with_the_handle_and_stand_in_for_those_before(ada: ByHand) -> None:
    query = CommandPreparedStatementQuery(ada.prepare("SELECT ?::INT + 1 AS x").prepared_statement_handle)
    for value in (1, 5):
        (answer,) = ada.put(query, values([value]))
        assert DoPutPreparedStatementResult.parse(answer).prepared_statement_handle == query.prepared_statement_handle
        assert ada.get(ada.info(query).endpoints[0].ticket.ticket).to_pylist() == [{"x": value + 1}]


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (values([1]), "2 parameters, 1 values"),
        (values([1], [2], [3]), "2 parameters, 3 values"),
        (pa.record_batch([], names=[]), "no values are bound|2 parameters, 0 values"),
    ],
    ids=["few", "many", "none"],
)
def test_wrong_number_of_values_is_an_invalid_argument(ada: ByHand, batch: pa.RecordBatch, match: str) -> None:
    query = CommandPreparedStatementQuery(ada.prepare("SELECT ?::INT, ?::INT").prepared_statement_handle)
    with refused("INVALID_ARGUMENT", match):
        ada.put(query, batch)
        ada.info(query)


def test_statement_without_its_values_has_a_schema_and_does_not_run(ada: ByHand) -> None:
    query = CommandPreparedStatementQuery(ada.prepare("SELECT ?::INT AS x").prepared_statement_handle)
    assert ada.schema(query).field("x").type == pa.int32()
    for call in (ada.info, ada.get):
        with refused("INVALID_ARGUMENT", r"no values are bound to \$1"):
            call(query)


def test_rows_of_values_all_change_or_none(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE many (a INT PRIMARY KEY)")
    update = CommandPreparedStatementUpdate(ada.prepare("INSERT INTO many VALUES (?)").prepared_statement_handle)
    assert ada.put_rows(update, values([1, 2, 3])) == 3
    with refused("INVALID_ARGUMENT", "(?i)constraint"):
        ada.put(update, values([4, 5, 1]))
    assert ada.rows("SELECT count(*) AS n FROM many") == [{"n": 3}]
    assert ada.put_rows(update, values([4]), values([5, 6])) == 3


def test_query_is_not_run_as_an_update_nor_what_writes_by_a_ticket_alone(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE many (a INT)")
    query = ada.prepare("SELECT 1").prepared_statement_handle
    with refused("INVALID_ARGUMENT", "the prepared statement gives rows"):
        ada.put(CommandPreparedStatementUpdate(query))
    writes = CommandPreparedStatementQuery(ada.prepare("INSERT INTO many VALUES (1)").prepared_statement_handle)
    with refused("INVALID_ARGUMENT", "the prepared statement writes"):
        ada.get(writes)
    assert ada.info(writes).total_records == 1
    assert ada.rows("SELECT count(*) AS n FROM many") == [{"n": 1}]


def test_statement_outlives_the_session_that_was_forgotten_and_runs_in_the_new_one(
    ada: ByHand, closed: FlightHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.run("CREATE OR REPLACE TABLE kept (a INT)")
    update = CommandPreparedStatementUpdate(ada.prepare("INSERT INTO kept VALUES (1)").prepared_statement_handle)
    sessions = closed.flight.main._sessions
    now = sessions._clock.monotonic()
    with monkeypatch.context() as later:
        later.setattr(sessions._clock, "monotonic", lambda: now + 5)
        sessions.sweep()
    assert "token-of-ada" not in sessions._kept, "it held nothing"
    ada.run("BEGIN")
    assert ada.put_rows(update) == 1
    ada.run("ROLLBACK")
    assert ada.rows("FROM kept") == []


def test_adbc_prepares_binds_and_closes(adbc_ada: adbc.Connection) -> None:
    with adbc_ada.cursor() as cursor:
        assert cursor.adbc_prepare("SELECT ?::INT AS x").names == ["1"]
        cursor.execute("SELECT ?::INT AS x", [7])
        assert cursor.fetchall() == [(7,)]
        cursor.execute("CREATE OR REPLACE TABLE many (a INT PRIMARY KEY)")
        cursor.executemany("INSERT INTO many VALUES (?)", [(1,), (2,)])
        assert cursor.rowcount == 2
        with pytest.raises(adbc.ProgrammingError, match=r"(?i)constraint"):
            cursor.executemany("INSERT INTO many VALUES (?)", [(3,), (2,)])
        cursor.execute("SELECT count(*) FROM many")
        assert cursor.fetchall() == [(2,)]
