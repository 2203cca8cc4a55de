"""Every command, ticket and action: bytes that are damaged, misplaced or too many get the status that says so.

The rule of this file: it goes through the tables of the protocol, so that a new command is tested by being in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from by_hand import ByHand, refused, taken_or_refused, truncated, with_unknown_field
from google.protobuf.any_pb2 import Any as AnyMessage

from tickflight.wire.actions import ACTIONS, CancelFlightInfoRequest, RenewFlightEndpointRequest
from tickflight.wire.codec import Message, Wrapped
from tickflight.wire.commands import (
    COMMANDS,
    AppendStream,
    Command,
    CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate,
    CommandStatementIngest,
    CommandStatementQuery,
    CommandStatementSubstraitPlan,
    CommandStatementUpdate,
)
from tickflight.wire.flight import FlightEndpoint, FlightInfo, FlightTicket
from tickflight.wire.tickets import TICKETS, Query, TicketStatementQuery

PUT_ONLY = (AppendStream, CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementUpdate)
PUTS = (*PUT_ONLY, CommandPreparedStatementQuery)
REFUSED = (CommandStatementSubstraitPlan,)
CALLS = ("info", "schema", "put")
LARGE = b"x" * 5_000_000
NOT_OFFERED = ("BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan")
REQUESTS: dict[str, Message] = {
    "CancelFlightInfo": CancelFlightInfoRequest(FlightInfo()),
    "RenewFlightEndpoint": RenewFlightEndpointRequest(FlightEndpoint(FlightTicket(b"x"))),
}
OFFERED = [name for name in ACTIONS if name not in NOT_OFFERED]


def is_taken(command: type[Command], call: str) -> bool:
    return command in PUTS if call == "put" else command not in (*PUT_ONLY, *REFUSED)


def request(action: str) -> Message:
    return REQUESTS.get(action) or ACTIONS[action].request()


def wrapped(name: str, value: bytes) -> bytes:
    return bytes(AnyMessage(type_url=name, value=value).SerializeToString())


CASES = [(command, call) for command in COMMANDS.values() for call in CALLS]
TAKEN = [(command, call) for command, call in CASES if is_taken(command, call)]
IDS: dict[str, Any] = {"ids": lambda value: value if isinstance(value, str) else value.__name__}


@pytest.mark.parametrize(("command", "call"), CASES, **IDS)
def test_command_in_a_call_that_is_not_its_own_is_not_offered(ada: ByHand, command: type[Command], call: str) -> None:
    if is_taken(command, call):
        return
    with refused("UNIMPLEMENTED", f"{command.__name__} is not offered here"):
        getattr(ada, call)(command())


@pytest.mark.parametrize(("command", "call"), TAKEN, **IDS)
def test_damaged_inside_of_a_command_is_an_invalid_argument(ada: ByHand, command: type[Command], call: str) -> None:
    with refused("INVALID_ARGUMENT", f"malformed {command.full_name}"):
        getattr(ada, call)(wrapped(command.type_url(), b"\x0a\xff\x01"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("junk", [b"", b"\xff\xff", b"SELECT 1", b"\x0a\x02ab", LARGE], ids=lambda j: str(j[:10]))
def test_bytes_that_are_no_command_are_an_invalid_argument(ada: ByHand, call: str, junk: bytes) -> None:
    status = "UNIMPLEMENTED" if junk == b"\x0a\x02ab" else "INVALID_ARGUMENT"
    with refused(status, "Flight SQL command is expected"):
        getattr(ada, call)(junk)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "url",
    [
        "type.googleapis.com/arrow.flight.protocol.sql.CommandGetNothing",
        "type.googleapis.com/arrow.flight.protocol.sql.TicketStatementQuery",
        "type.googleapis.com/arrow.flight.protocol.sql.ActionBeginTransactionRequest",
        "type.googleapis.com/google.protobuf.Timestamp",
        "commandgetcatalogs",
        "x" * 100_000,
    ],
    ids=lambda url: url[-20:],
)
def test_type_url_of_something_else_is_not_offered(ada: ByHand, call: str, url: str) -> None:
    with refused("UNIMPLEMENTED", "Flight SQL command is expected"):
        getattr(ada, call)(wrapped(url, b""))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("url", ["", "/", "type.googleapis.com/"])
def test_type_url_without_a_type_is_an_invalid_argument(ada: ByHand, call: str, url: str) -> None:
    with refused("INVALID_ARGUMENT", "without a type"):
        getattr(ada, call)(wrapped(url, b""))


@pytest.mark.parametrize(("command", "call"), TAKEN, **IDS)
def test_truncated_command_is_refused_or_read_as_what_is_left(ada: ByHand, command: type[Command], call: str) -> None:
    message = command().serialize() if command is not CommandStatementQuery else command("SELECT 1").serialize()
    for beginning in truncated(message):
        with taken_or_refused("INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"):
            getattr(ada, call)(beginning)


@pytest.mark.parametrize("call", ["info", "schema"])
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS.values() if is_taken(c, "info") and "Get" in c.__name__], **IDS
)
def test_field_of_a_newer_protocol_is_passed_over(ada: ByHand, command: type[Command], call: str) -> None:
    inside = AnyMessage.FromString(command().serialize())
    newer = with_unknown_field(wrapped(inside.type_url, with_unknown_field(inside.value)))
    ask: Callable[[bytes], Any] = getattr(ada, call)
    found, expected = ask(newer), ask(command().serialize())
    assert (found if call == "schema" else found.schema) == (expected if call == "schema" else expected.schema)


# --- tickets


@pytest.mark.parametrize(
    ("ticket", "status", "match"),
    [
        (b"", "INVALID_ARGUMENT", "a ticket is expected"),
        (b"junk", "INVALID_ARGUMENT", "a ticket is expected"),
        (LARGE, "INVALID_ARGUMENT", "a ticket is expected"),
        (CommandStatementQuery("SELECT 1"), "UNIMPLEMENTED", "CommandStatementQuery where a ticket is expected"),
        (TicketStatementQuery(), "NOT_FOUND", "no such query result"),
        (TicketStatementQuery(b"x" * 16), "NOT_FOUND", "no such query result"),
        (TicketStatementQuery(LARGE), "NOT_FOUND", "no such query result"),
        (CommandPreparedStatementQuery(), "NOT_FOUND", "no such prepared statement"),
        (Query(), "INVALID_ARGUMENT", "the SQL text is empty"),
        (Query("SELECT 1", b"junk"), "INVALID_ARGUMENT", "no Arrow IPC stream"),
        (Query("SELECT '" + "x" * 2_000_000 + "'"), "INVALID_ARGUMENT", r"query\.sql_bytes_max"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ticket_that_is_none_is_refused(ada: ByHand, ticket: Any, status: str, match: str) -> None:
    with refused(status, match):
        ada.get(ticket)


@pytest.mark.parametrize("ticket", TICKETS.values(), **IDS)
def test_damaged_inside_of_a_ticket_is_an_invalid_argument(ada: ByHand, ticket: type[Any]) -> None:
    with refused("INVALID_ARGUMENT", f"malformed {ticket.full_name}"):
        ada.get(wrapped(ticket.type_url(), b"\x0a\xff\x01"))


# --- actions


@pytest.mark.parametrize("action", OFFERED)
def test_damaged_request_of_an_action_is_an_invalid_argument(ada: ByHand, action: str) -> None:
    for body in (b"\xff\xff", b"\x0a\xff\x01"):
        with refused("INVALID_ARGUMENT"):
            ada.act(action, body)


@pytest.mark.parametrize("action", [a for a in OFFERED if issubclass(ACTIONS[a].request, Wrapped)])
def test_request_of_another_action_is_not_offered(ada: ByHand, action: str) -> None:
    other = next(ACTIONS[a].request for a in OFFERED if ACTIONS[a].request is not ACTIONS[action].request)
    with refused("UNIMPLEMENTED", "is expected"):
        ada.act(action, other())
    with refused("INVALID_ARGUMENT", "without a type"):
        ada.act(action, b"")
    with refused("INVALID_ARGUMENT", "malformed"):
        ada.act(action, wrapped(ACTIONS[action].request.type_url(), b"\x0a\xff\x01"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", OFFERED)
def test_truncated_request_of_an_action_is_refused_or_read_as_what_is_left(ada: ByHand, action: str) -> None:
    for beginning in truncated(request(action).serialize()):
        with taken_or_refused("INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"):
            ada.act(action, beginning)


@pytest.mark.parametrize("action", ["GetSessionOptions", "SetSessionOptions", "BeginTransaction", "tickflight.health"])
def test_newer_request_of_an_action_is_taken(ada: ByHand, action: str) -> None:
    assert type(ada.act(action, with_unknown_field(request(action).serialize()))) is ACTIONS[action].result


@pytest.mark.parametrize("action", ["", "Nix", "createpreparedstatement", "x" * 100_000, "a\nb"])
def test_action_of_another_name_is_not_offered(ada: ByHand, action: str) -> None:
    with refused("UNIMPLEMENTED", "is not offered here"):
        ada.act(action, b"")
