"""CommandStatementQuery: planned at GetFlightInfo, run at DoGet; what writes runs once."""

from __future__ import annotations

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand, refused, with_unknown_field
from google.protobuf.any_pb2 import Any as AnyMessage

from tickflight.wire.commands import CommandStatementQuery
from tickflight.wire.tickets import TicketStatementQuery, parse_ticket


def test_query_is_one_ticket_with_a_time_it_ends_at(ada: ByHand) -> None:
    found = ada.info(CommandStatementQuery("SELECT count(*) AS n FROM trades"))
    (endpoint,) = found.endpoints
    assert isinstance(parse_ticket(endpoint.ticket.ticket), TicketStatementQuery)
    assert endpoint.expiration_time is not None
    assert (endpoint.locations, found.total_records, found.total_bytes) == ([], -1, -1)
    assert ada.get(endpoint.ticket.ticket).to_pylist() == [{"n": 1000}]
    assert ada.get(endpoint.ticket.ticket).to_pylist() == [{"n": 1000}], "until it ends it can be fetched again"


@pytest.mark.parametrize("call", ["info", "schema"])
@pytest.mark.parametrize(
    ("sql", "status", "match"),
    [
        ("", "INVALID_ARGUMENT", "the SQL text is empty"),
        ("   -- nothing", "INVALID_ARGUMENT", "empty"),
        (";", "INVALID_ARGUMENT", "empty"),
        ("SELEC 1", "INVALID_ARGUMENT", "syntax error"),
        ("SELECT 1; SELECT 2", "INVALID_ARGUMENT", "2 statements"),
        ("SELECT nix", "INVALID_ARGUMENT", "nix"),
        ("FROM nix", "INVALID_ARGUMENT", "nix does not exist"),
        ("SELECT 1::NIX", "INVALID_ARGUMENT", "NIX"),
        ("SELECT '" + "x" * 2_000_000 + "'", "INVALID_ARGUMENT", r"query\.sql_bytes_max"),
    ],
    ids=lambda value: value[:20],
)
def test_text_that_is_no_statement_is_an_invalid_argument(
    ada: ByHand, call: str, sql: str, status: str, match: str
) -> None:
    with refused(status, match):
        getattr(ada, call)(CommandStatementQuery(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "COPY trades TO 'x.csv'",
        "ATTACH 'x.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "SELECT getenv('HOME')",
        "INSERT INTO market.trades (price) VALUES (1)",
        "DELETE FROM trades",
        "DROP VIEW market.trades",
        "CREATE TABLE market.mine (a INT)",
        "CREATE TABLE tickflight.system.mine (a INT)",
    ],
)
def test_what_is_not_for_users_is_denied_with_what_to_do_instead(ada: ByHand, sql: str) -> None:
    with refused("PERMISSION_DENIED", "Hint: "):
        ada.info(CommandStatementQuery(sql))
    assert ada.rows("SELECT count(*) AS n FROM trades") == [{"n": 1000}]


def test_statement_that_writes_runs_once_however_often_it_is_fetched(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE once (a INT)")
    found = ada.info(CommandStatementQuery("INSERT INTO once VALUES (1), (2)"))
    assert (found.total_records, found.schema.names) == (2, [])
    for _ in range(3):
        assert ada.get(found.endpoints[0].ticket.ticket).num_rows == 0
    assert ada.schema(CommandStatementQuery("INSERT INTO once VALUES (3)")).names == []
    assert ada.rows("FROM once") == [{"a": 1}, {"a": 2}]


def test_returned_rows_stay_with_their_ticket(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE once (a INT)")
    found = ada.info(CommandStatementQuery("INSERT INTO once VALUES (1), (2) RETURNING a * 10 AS b"))
    ada.run("DROP TABLE once")
    for _ in range(2):
        assert ada.get(found.endpoints[0].ticket.ticket).to_pylist() == [{"b": 10}, {"b": 20}]


def test_transaction_that_is_none_is_not_found(ada: ByHand, bob: ByHand) -> None:
    of_ada = ada.begin()
    ended = ada.begin()
    ada.end(ended, commit=True)
    for client, transaction in ((ada, b"x"), (ada, b"x" * 1000), (ada, ended), (bob, of_ada)):
        for call in (client.info, client.schema):
            with refused("NOT_FOUND", "there is no such transaction"):
                call(CommandStatementQuery("SELECT 1", transaction))
    assert ada.rows("SELECT 1 AS x", of_ada) == [{"x": 1}]
    assert ada.rows("SELECT 1 AS x", b"") == [{"x": 1}], "an empty id is none"


def test_ticket_of_another_user_is_not_found_and_of_another_connection_is(ada: ByHand, bob: ByHand, closed) -> None:  # type: ignore[no-untyped-def]
    ticket = ada.info(CommandStatementQuery("SELECT 1 AS x")).endpoints[0].ticket.ticket
    with refused("NOT_FOUND", "there is no such query result"):
        bob.get(ticket)
    other = ByHand(closed.address, "token-of-ada")
    assert other.get(ticket).to_pylist() == [{"x": 1}]
    other.close()


def test_fields_of_a_newer_protocol_are_passed_over(ada: ByHand) -> None:
    inside = AnyMessage.FromString(CommandStatementQuery("SELECT 1 AS x").serialize())
    inside.value = with_unknown_field(inside.value)
    assert ada.info(inside.SerializeToString()).schema.names == ["x"]


@pytest.mark.parametrize(
    ("sql", "kind", "status"),
    [
        ("SELEC 1", adbc.ProgrammingError, "INVALID_ARGUMENT"),
        ("COPY trades TO 'x'", adbc.ProgrammingError, "UNAUTHORIZED"),
        ("SELECT 1 / 0 + 'a'::INT", adbc.ProgrammingError, "INVALID_ARGUMENT"),
    ],
)
def test_adbc_makes_its_class_of_error(adbc_ada: adbc.Connection, sql: str, kind: type[Exception], status: str) -> None:
    with adbc_ada.cursor() as cursor:
        with pytest.raises(kind, match=status):  # noqa: PT012 — at which of the two is the driver's choice
            cursor.execute(sql)
            cursor.fetchall()
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
