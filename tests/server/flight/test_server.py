"""The server as a whole: what it lists, what it refuses, and how it starts and stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire import commands as c
from tickflight.wire.actions import (
    ActionBeginTransactionRequest,
    ActionBeginTransactionResult,
    ActionEndTransactionRequest,
    CloseSessionRequest,
    FeedReport,
    Flush,
    parse_action_result,
)
from tickflight.wire.enums import EndTransaction
from tickflight.wire.tickets import Query
from tickflight_server.errors import ConfigError
from tickflight_server.flight.admin import REPORT_BYTES_MAX
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS, result_schema
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.schemas import MARKET, STORED

Do = Callable[..., list[bytes]]
Raises = Callable[..., Any]


def command(message: c.Command) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(message.serialize())


def make(kind: type[c.Command]) -> c.Command:
    fields = {"table": "trades", "pk_table": "trades", "fk_table": "fills"}
    return kind(**{k: v for k, v in fields.items() if k in kind.__dataclass_fields__})


@pytest.mark.parametrize("kind", RESULT_SCHEMAS, ids=lambda k: k.__name__)
def test_catalog_command_is_its_own_ticket_and_keeps_its_schema(
    client: flight.FlightClient, kind: type[c.Command]
) -> None:
    message = make(kind)
    found = client.get_flight_info(command(message))
    assert found.schema == client.get_schema(command(message)).schema == result_schema(message)  # type: ignore[arg-type]
    (endpoint,) = found.endpoints
    assert endpoint.ticket.ticket == message.serialize()
    assert client.do_get(endpoint.ticket).read_all().schema.equals(found.schema, check_metadata=True)


def test_adbc_browses_everything(served: Any) -> None:
    with adbc.connect(served.address, autocommit=True) as connection:
        (catalog,) = connection.adbc_get_objects(depth="all").read_all().to_pylist()
        assert catalog["catalog_name"] == "tickflight"
        schemas = {s["db_schema_name"]: s["db_schema_tables"] for s in catalog["catalog_db_schemas"]}
        assert {t["table_name"] for t in schemas["market"]} == set(MARKET)
        assert "rejected" in {t["table_name"] for t in schemas["system"]}
        (columns,) = [t["table_columns"] for t in schemas["market"] if t["table_name"] == "trades"]
        assert [x["column_name"] for x in columns] == STORED["trades"].arrow().names
        for depth in ("catalogs", "db_schemas", "tables"):
            assert connection.adbc_get_objects(depth=depth).read_all().num_rows == 1
        assert connection.adbc_get_table_types() == ["table", "view"]
        assert connection.adbc_get_info()["vendor_name"]


@pytest.mark.parametrize("name", STORED)
def test_adbc_gets_the_schema_of_every_table(served: Any, name: str) -> None:
    with adbc.connect(served.address, autocommit=True) as connection:
        found = connection.adbc_get_table_schema(name, db_schema_filter=STORED[name].schema)
        assert found.equals(STORED[name].arrow(), check_metadata=False)
        with pytest.raises(adbc.ProgrammingError):
            connection.adbc_get_table_schema("nix")


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda client: client.get_flight_info(flight.FlightDescriptor.for_path("trades")),
            pa.ArrowNotImplementedError,
            "only descriptors with a Flight SQL command",
        ),
        (lambda client: client.get_flight_info(flight.FlightDescriptor.for_command(b"junk")), pa.ArrowInvalid, "Any"),
        (lambda client: client.get_flight_info(flight.FlightDescriptor.for_command(b"")), pa.ArrowInvalid, "Any"),
        (
            lambda client: client.get_flight_info(command(c.CommandStatementUpdate("DELETE FROM trades"))),
            pa.ArrowNotImplementedError,
            "CommandStatementUpdate is not offered here",
        ),
        (
            lambda client: client.get_schema(flight.FlightDescriptor.for_path("trades")),
            pa.ArrowNotImplementedError,
            "only descriptors",
        ),
        (lambda client: client.do_get(flight.Ticket(b"junk")).read_all(), pa.ArrowInvalid, "a ticket"),
        (
            lambda client: client.do_get(flight.Ticket(c.CommandStatementQuery("SELECT 1").serialize())).read_all(),
            pa.ArrowNotImplementedError,
            "CommandStatementQuery",
        ),
        (
            lambda client: client.do_get(flight.Ticket(Query("SELECT ?", b"junk").serialize())).read_all(),
            pa.ArrowInvalid,
            "no Arrow IPC stream",
        ),
        (
            lambda client: list(client.do_action(flight.Action("Nix", b""))),
            pa.ArrowNotImplementedError,
            "action 'Nix' is not offered",
        ),
        (
            lambda client: list(client.do_action(flight.Action("CreatePreparedStatement", b"junk"))),
            pa.ArrowInvalid,
            "Any",
        ),
        (
            lambda client: list(
                client.do_action(flight.Action("tickflight.FeedReport", FeedReport("f", b"[1]").serialize()))
            ),
            pa.ArrowInvalid,
            "JSON object",
        ),
        (
            lambda client: list(
                client.do_action(flight.Action("tickflight.FeedReport", FeedReport("f", b"{").serialize()))
            ),
            pa.ArrowInvalid,
            "JSON object",
        ),
        (
            lambda client: client.do_put(flight.FlightDescriptor.for_path("x"), pa.schema([("a", pa.int8())]))[
                0
            ].close(),
            pa.ArrowNotImplementedError,
            "only descriptors",
        ),
        (
            lambda client: client.do_put(command(c.CommandStatementQuery("SELECT 1")), pa.schema([("a", pa.int8())]))[
                0
            ].close(),
            pa.ArrowNotImplementedError,
            "not offered",
        ),
        (
            lambda client: client.do_put(command(c.CommandPreparedStatementQuery(b"x")), pa.schema([("a", pa.int8())]))[
                0
            ].close(),
            KeyError,
            "no such prepared statement",
        ),
        (lambda client: list(client.list_flights()), NotImplementedError, ""),
    ],
)
def test_what_cannot_be_served_is_refused_clean(
    client: flight.FlightClient, raises_clean: Raises, call: Callable[[Any], Any], kind: Any, match: str
) -> None:
    if kind is NotImplementedError:
        with pytest.raises((NotImplementedError, pa.ArrowException, OSError)):
            call(client)
        return
    with raises_clean(kind, match):
        call(client)


def test_actions_that_are_listed_are_offered(client: flight.FlightClient, do_action: Do) -> None:
    listed = {a.type for a in client.list_actions()}
    assert {"CreatePreparedStatement", "BeginTransaction", "CloseSession", "tickflight.Flush"} <= listed
    for name in listed:
        with suppress(pa.ArrowInvalid, pa.ArrowKeyError):  # an empty body is no request for most
            list(client.do_action(flight.Action(name, b"")))


def test_transaction_has_an_id_and_ends_once(client: flight.FlightClient, do_action: Do, raises_clean: Raises) -> None:
    (body,) = do_action(client, "BeginTransaction", ActionBeginTransactionRequest())
    result = parse_action_result("BeginTransaction", body)
    assert isinstance(result, ActionBeginTransactionResult)
    assert result.transaction_id
    end = ActionEndTransactionRequest(result.transaction_id, EndTransaction.END_TRANSACTION_ROLLBACK)
    assert do_action(client, "EndTransaction", end) == []
    with raises_clean(KeyError, "there is no such transaction"):
        do_action(client, "EndTransaction", end)


def test_closing_a_session_that_is_none_is_fine(client: flight.FlightClient, do_action: Do) -> None:
    assert len(do_action(client, "CloseSession", CloseSessionRequest())) == 1


def test_feeds_report_is_asked_by_sql(make_server: Callable[..., Any], do_action: Do) -> None:
    with flight.FlightClient(make_server().address) as client:
        for received in (1, 2):
            report = json.dumps({"received": received, "last_error": None, "x": [1]}).encode()
            assert do_action(client, "tickflight.FeedReport", FeedReport("binance", report)) == []
        ticket = flight.Ticket(Query("SELECT feed, received, report FROM system.feeds").serialize())
        (row,) = client.do_get(ticket).read_all().to_pylist()
    assert (row["feed"], row["received"]) == ("binance", 2)
    assert json.loads(row["report"])["x"] == [1]


@pytest.mark.parametrize(
    "report",
    [
        b"[" * 100_000,
        b'{"x": ' + b"[" * 30 + b"]" * 30 + b"}",
        b'{"last_error": "\\ud800"}',
        b'{"x": "' + b"x" * REPORT_BYTES_MAX + b'"}',
        b'{"x": ' + b"1" * 5000 + b"}",
        b"\xff",
    ],
    ids=["deep", "nested", "surrogate", "large", "long number", "no text"],
)
def test_report_that_no_table_can_show_is_refused(
    make_server: Callable[..., Any], do_action: Do, raises_clean: Raises, report: bytes
) -> None:
    with flight.FlightClient(make_server().address) as client:
        with raises_clean(pa.ArrowInvalid, "feed's report"):
            do_action(client, "tickflight.FeedReport", FeedReport("binance", report))
        assert client.do_get(flight.Ticket(Query("FROM system.feeds").serialize())).read_all().num_rows == 0


def test_flush_answers_with_what_is_flushed(
    make_server: Callable[..., Any], make_trades: Callable[..., Any], do_action: Do
) -> None:
    running = make_server()
    running.store.append("trades", make_trades(5)).result()
    with flight.FlightClient(running.address) as client:
        (body,) = do_action(client, "tickflight.Flush", Flush())
    assert dict(parse_action_result("tickflight.Flush", body).flushed_seq)["trades"] == 5  # type: ignore[union-attr]
    assert len(running.store.tables["trades"].state.parts) == 1


def test_taken_port_is_an_error_of_the_configuration(served: Any) -> None:
    settings = served.settings.model_copy(
        update={"flight": served.settings.flight.model_copy(update={"port": served.flight.port})}
    )
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{served.flight.port}\. Hint: .*flight\.port"):
        FlightSqlServer(served.store, served.engine, settings)
