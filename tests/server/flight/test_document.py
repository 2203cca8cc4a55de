"""The page of the protocol is written from a table, and the table is what the server does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pyarrow import flight

from tickflight.wire import commands
from tickflight.wire.actions import ACTIONS
from tickflight.wire.tickets import TICKETS
from tickflight_server.flight.actions import ActionService
from tickflight_server.flight.admin import AdminService
from tickflight_server.flight.document import REFUSED, SERVED, Served, document, generated_part, with_document
from tickflight_server.flight.ingest import IngestService
from tickflight_server.flight.lives import LiveService
from tickflight_server.flight.queries import QueryService
from tickflight_server.flight.replays import ReplayService
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS
from tickflight_server.flight.tails import TailService

PAGE = Path(__file__).parents[3] / "proto-notes" / "flight-sql.md"
SERVICES = {
    s.__name__: s
    for s in (ActionService, AdminService, IngestService, LiveService, QueryService, ReplayService, TailService)
}
CATALOG = {kind.__name__ for kind in RESULT_SCHEMAS}


def told_of(call: str) -> dict[str, Served]:
    return {one.message: one for one in SERVED if one.call == call}


def called(handler: Callable[..., Any]) -> set[str]:
    """Return the names that a handler of the server's tables goes by or calls."""
    function = getattr(handler, "__func__", handler)
    return {function.__name__, *function.__code__.co_names}


def test_page_is_what_the_table_says() -> None:
    page = PAGE.read_text()
    assert generated_part(page) == document(), (
        "run python -m tickflight_server.flight.document proto-notes/flight-sql.md"
    )
    assert with_document(page) == page


def test_every_command_and_action_of_the_server_is_told(served_tables: dict[str, Any]) -> None:
    infos = {kind.__name__ for kind in served_tables["infos"]}
    assert infos == {kind.__name__ for kind in served_tables["schemas"]} == set(told_of("GetFlightInfo, GetSchema"))
    assert {kind.__name__ for kind in served_tables["puts"]} == set(told_of("DoPut"))
    assert set(served_tables["actions"]) == set(told_of("DoAction"))
    tickets = {kind.__name__ for kind in TICKETS.values()}
    assert tickets - CATALOG == set(told_of("DoGet")) - {"CommandGet…"}
    assert tickets >= CATALOG


@pytest.fixture
def served_tables(served: Any) -> dict[str, Any]:
    server = served.flight.main
    return {name: getattr(server, name) for name in ("infos", "schemas", "puts", "actions")}


def test_every_message_is_served_or_refused() -> None:
    known = {name for name, kind in vars(commands).items() if name.startswith("Command") and isinstance(kind, type)}
    known |= set(ACTIONS)
    told = {one.message for one in SERVED} | {one.message for one in REFUSED}
    assert known - told == set()
    assert not {one.message for one in SERVED} & {one.message for one in REFUSED}
    assert max(Counter((one.call, one.message) for one in SERVED).values()) == 1


@pytest.mark.parametrize("one", SERVED, ids=lambda one: f"{one.call.split(',')[0]}-{one.message}")
def test_what_a_message_is_done_by_is_what_the_server_calls(served_tables: dict[str, Any], one: Served) -> None:
    for name in one.done_by:
        place, _, function = name.partition(".")
        if place in SERVICES:
            assert callable(getattr(SERVICES[place], function))
        else:
            assert callable(getattr(import_module(f"tickflight_server.flight.{place}"), function))
    by_name = {kind if isinstance(kind, str) else kind.__name__: kind for t in served_tables.values() for kind in t}
    tables = {"GetFlightInfo, GetSchema": ("infos", "schemas"), "DoPut": ("puts",), "DoAction": ("actions",)}
    names = [name.rpartition(".")[2] for name in one.done_by]
    for table, name in zip(tables.get(one.call, ()), names * 2, strict=False):
        assert expected(name) & called(served_tables[table][by_name[one.message]]), (table, name)


def expected(name: str) -> set[str]:
    # three puts go by a method of the server's that writes the answer
    return {name, {"update": "_update", "bind": "_bind", "prepared_update": "_prepared_update"}.get(name, name)}


@pytest.mark.parametrize("one", REFUSED, ids=lambda one: one.message)
def test_what_is_told_as_refused_is(client: flight.FlightClient, served_tables: dict[str, Any], one: Any) -> None:
    keys = {kind if isinstance(kind, str) else kind.__name__ for table in served_tables.values() for kind in table}
    assert one.message not in keys
    if one.message in ACTIONS:
        with pytest.raises(NotImplementedError):
            list(client.do_action(flight.Action(one.message, b"")))
    elif one.message == "ListFlights":
        with pytest.raises(NotImplementedError):
            list(client.list_flights())
    elif one.message == "DoExchange":
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("x"))
        writer.done_writing()
        with pytest.raises(NotImplementedError):
            reader.read_all()
