"""CancelQuery, CancelFlightInfo and RenewFlightEndpoint: by the tickets in what a server gave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from by_hand import ByHand, refused
from flight_here import FlightHere, wait_until
from pyarrow import flight

from tickflight.wire.actions import (
    ActionCancelQueryRequest,
    CancelFlightInfoRequest,
    RenewFlightEndpointRequest,
)
from tickflight.wire.commands import CommandGetTableTypes, CommandStatementQuery
from tickflight.wire.enums import CancelResult, CancelStatus
from tickflight.wire.flight import FlightEndpoint, FlightInfo, FlightTicket
from tickflight.wire.tickets import Query, TicketStatementQuery

ENDLESS = "SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1"
Cancel = Callable[[ByHand, bytes], bool]


def by_query(client: ByHand, info: bytes) -> bool:
    result = client.act("CancelQuery", ActionCancelQueryRequest(info)).result
    assert result in (CancelResult.CANCEL_RESULT_CANCELLED, CancelResult.CANCEL_RESULT_NOT_CANCELLABLE)
    return bool(result == CancelResult.CANCEL_RESULT_CANCELLED)


def by_info(client: ByHand, info: bytes) -> bool:
    status = client.act("CancelFlightInfo", CancelFlightInfoRequest(FlightInfo.parse(info))).status
    assert status in (CancelStatus.CANCEL_STATUS_CANCELLED, CancelStatus.CANCEL_STATUS_NOT_CANCELLABLE)
    return bool(status == CancelStatus.CANCEL_STATUS_CANCELLED)


both = pytest.mark.parametrize("cancel", [by_query, by_info])


@both
def test_query_that_was_not_fetched_never_runs(ada: ByHand, cancel: Cancel) -> None:
    info = ada.info(CommandStatementQuery("SELECT 1"))
    assert cancel(ada, info.serialize())
    assert cancel(ada, info.serialize()), "again is no error"
    with refused("CANCELLED", "the query was cancelled"):
        ada.get(info.endpoints[0].ticket.ticket)


@both
def test_query_that_runs_is_stopped(ada: ByHand, closed: FlightHere, cancel: Cancel) -> None:
    info = ada.info(CommandStatementQuery(ENDLESS))
    caught: list[BaseException] = []

    def fetch() -> None:
        try:
            ada.get(info.endpoints[0].ticket.ticket)
        except flight.FlightError as error:
            caught.append(error)

    running = threading.Thread(target=fetch)
    running.start()
    wait_until(lambda: closed.free_places == 7)
    assert cancel(ada, info.serialize())
    running.join(10)
    assert [type(error) for error in caught] == [flight.FlightCancelledError]
    wait_until(lambda: closed.free_places == 8)


@both
def test_cancel_just_before_the_query_runs_is_not_lost(
    ada: ByHand, closed: FlightHere, monkeypatch: pytest.MonkeyPatch, cancel: Cancel
) -> None:
    info = ada.info(CommandStatementQuery(ENDLESS))
    execute = closed.engine.execute

    def cancel_first(*args: Any, **kwargs: Any) -> Any:
        assert cancel(ada, info.serialize())
        return execute(*args, **kwargs)

    monkeypatch.setattr(closed.engine, "execute", cancel_first)
    with refused("CANCELLED"):
        ada.get(info.endpoints[0].ticket.ticket)


@both
def test_query_of_another_user_is_not_cancelled(ada: ByHand, bob: ByHand, cancel: Cancel) -> None:
    info = ada.info(CommandStatementQuery("SELECT 1 AS x"))
    assert not cancel(bob, info.serialize())
    assert ada.get(info.endpoints[0].ticket.ticket).to_pylist() == [{"x": 1}]


@both
@pytest.mark.parametrize(
    "info",
    [
        FlightInfo(),
        FlightInfo(endpoint=(FlightEndpoint(),)),
        FlightInfo(endpoint=(FlightEndpoint(FlightTicket(b"")), FlightEndpoint(FlightTicket(b"junk")))),
        FlightInfo(endpoint=(FlightEndpoint(FlightTicket(TicketStatementQuery(b"x").serialize())),)),
        FlightInfo(endpoint=(FlightEndpoint(FlightTicket(CommandGetTableTypes().serialize())),) * 1000),
    ],
    ids=["nothing", "no ticket", "junk", "unknown", "catalog"],
)
def test_what_names_no_query_is_not_cancellable(ada: ByHand, cancel: Cancel, info: FlightInfo) -> None:
    assert not cancel(ada, info.serialize())


def of(*tickets: bytes) -> bytes:
    return FlightInfo(endpoint=tuple(FlightEndpoint(FlightTicket(ticket)) for ticket in tickets)).serialize()


@both
def test_query_in_one_round_trip_is_stopped_by_its_id(ada: ByHand, closed: FlightHere, cancel: Cancel) -> None:
    ticket = Query(ENDLESS, id=b"0123456789abcdef").serialize()
    caught: list[BaseException] = []

    def fetch() -> None:
        try:
            ada.get(ticket)
        except flight.FlightError as error:
            caught.append(error)

    running = threading.Thread(target=fetch)
    running.start()
    wait_until(lambda: closed.free_places == 7)
    assert cancel(ada, of(ticket))
    running.join(10)
    assert [type(error) for error in caught] == [flight.FlightCancelledError]
    wait_until(lambda: closed.free_places == 8)


@both
def test_cancel_that_overtakes_a_query_in_one_round_trip_is_not_lost(ada: ByHand, cancel: Cancel) -> None:
    ticket = Query("SELECT 1", id=b"early").serialize()
    assert cancel(ada, of(ticket))
    with refused("CANCELLED", "the query was cancelled"):
        ada.get(ticket)
    with refused("CANCELLED", "the query was cancelled"):
        ada.get(TicketStatementQuery(b"early"))


@both
def test_query_without_an_id_is_not_cancellable(ada: ByHand, cancel: Cancel) -> None:
    assert not cancel(ada, of(Query("SELECT 1").serialize()))


def test_id_that_has_ended_can_be_used_again(ada: ByHand) -> None:
    for _ in range(2):
        assert ada.get(Query("SELECT 1 AS x", id=b"again").serialize()).to_pylist() == [{"x": 1}]


def test_id_of_another_user_is_neither_run_nor_cancelled(ada: ByHand, bob: ByHand) -> None:
    ticket = Query("SELECT 1 AS x", id=b"of bob").serialize()
    by_info(bob, of(ticket))
    with refused("INVALID_ARGUMENT", "is taken"):
        ada.get(ticket)
    with refused("INVALID_ARGUMENT", "is taken"):
        by_info(ada, of(ticket))


@pytest.mark.parametrize("info", [b"junk", b"\x0a\xff"])
def test_information_that_cannot_be_read_is_an_invalid_argument(ada: ByHand, info: bytes) -> None:
    with refused("INVALID_ARGUMENT", "malformed"):
        ada.act("CancelQuery", ActionCancelQueryRequest(info))


def test_cancel_does_not_roll_back_what_was_written(ada: ByHand) -> None:
    ada.run("CREATE OR REPLACE TABLE written (a INT)")
    info = ada.info(CommandStatementQuery("INSERT INTO written VALUES (1)"))
    by_info(ada, info.serialize())
    assert ada.rows("FROM written") == [{"a": 1}]


def test_pyarrow_cancels_and_renews_by_its_own_calls(ada: ByHand) -> None:
    info = ada.info(CommandStatementQuery("SELECT 1 AS x"))
    endpoint = info.endpoints[0]
    answer = ada.act(
        "RenewFlightEndpoint",
        RenewFlightEndpointRequest(FlightEndpoint(FlightTicket(endpoint.ticket.ticket), app_metadata=b"mine")),
    )
    assert answer.ticket == FlightTicket(endpoint.ticket.ticket)
    assert answer.app_metadata == b"mine"
    assert answer.expiration_time >= endpoint.expiration_time.cast("int64").as_py() - 1000


@pytest.mark.parametrize(
    ("endpoint", "status", "match"),
    [
        (FlightEndpoint(), "INVALID_ARGUMENT", "the endpoint does not expire"),
        (FlightEndpoint(FlightTicket(b"junk")), "INVALID_ARGUMENT", "the endpoint does not expire"),
        (FlightEndpoint(FlightTicket(CommandGetTableTypes().serialize())), "INVALID_ARGUMENT", "does not expire"),
        (FlightEndpoint(FlightTicket(TicketStatementQuery().serialize())), "NOT_FOUND", "no such query result"),
        (FlightEndpoint(FlightTicket(TicketStatementQuery(b"x").serialize())), "NOT_FOUND", "no such query result"),
    ],
    ids=["no ticket", "junk", "catalog", "empty", "unknown"],
)
def test_endpoint_that_is_none_is_not_renewed(ada: ByHand, endpoint: FlightEndpoint, status: str, match: str) -> None:
    with refused(status, match):
        ada.act("RenewFlightEndpoint", RenewFlightEndpointRequest(endpoint))


def test_endpoint_of_another_user_is_not_renewed(ada: ByHand, bob: ByHand) -> None:
    ticket = ada.info(CommandStatementQuery("SELECT 1")).endpoints[0].ticket.ticket
    with refused("NOT_FOUND", "no such query result"):
        bob.act("RenewFlightEndpoint", RenewFlightEndpointRequest(FlightEndpoint(FlightTicket(ticket))))
