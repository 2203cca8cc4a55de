"""Open streams are counted until their calls end, and told to end when the server shuts down."""

from __future__ import annotations

import pytest

from tickflight_server.errors import BusyError
from tickflight_server.flight.auth import Call, Session
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.identity.rights import Roles


@pytest.fixture
def call() -> Call:
    return Call(Session("", "anonymous", 0.0, Roles({}).rights(["admin"])), {})


def test_as_many_are_open_as_may_be_and_the_end_of_a_call_makes_room(call: Call) -> None:
    streams = OpenStreams(1)
    streams.enter(call, lambda: None)
    other = Call(Session("", "anonymous", 0.0, Roles({}).rights(["admin"])), {})
    with pytest.raises(BusyError, match=r"query\.streams_max"):
        streams.enter(other, lambda: None)
    call.call_completed(None)
    assert len(streams) == 0
    streams.enter(other, lambda: None)
    other.call_completed(None)


def test_closing_lets_all_end_and_none_begin(call: Call) -> None:
    streams, told = OpenStreams(2), []
    streams.enter(call, lambda: told.append(True))
    streams.close()
    assert told == [True]
    with pytest.raises(BusyError, match="shuts down"):
        streams.enter(call, lambda: None)
    call.call_completed(None)


def test_a_caller_that_goes_stops_its_stream(call: Call) -> None:
    told: list[bool] = []
    OpenStreams(1).enter(call, lambda: told.append(True))
    call.gone = lambda: True
    call.look()
    assert told
    call.call_completed(None)
