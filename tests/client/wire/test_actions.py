import pytest

from tickflight.wire import WireError, Wrapped
from tickflight.wire.actions import (
    ACTIONS,
    ActionBeginTransactionRequest,
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    CancelFlightInfoRequest,
    CloseSessionResult,
    Flush,
    FlushResult,
    RenewFlightEndpointRequest,
    SetSessionOptionsRequest,
    SetSessionOptionsResult,
    parse_action_request,
    parse_action_result,
)
from tickflight.wire.enums import CloseSessionStatus, ErrorValue
from tickflight.wire.flight import FlightEndpoint, FlightInfo, FlightTicket, Location


@pytest.mark.parametrize("action", ACTIONS)
def test_only_bodies_of_flight_sql_are_wrapped(action):
    for cls in filter(None, (ACTIONS[action].request, ACTIONS[action].result)):
        assert issubclass(cls, Wrapped) == cls.full_name.startswith("arrow.flight.protocol.sql.")


@pytest.mark.parametrize(
    ("action", "request_"),
    [
        ("CreatePreparedStatement", ActionCreatePreparedStatementRequest("SELECT 1", b"t")),
        ("BeginTransaction", ActionBeginTransactionRequest()),
        ("CancelFlightInfo", CancelFlightInfoRequest(FlightInfo(total_records=-1))),
        ("SetSessionOptions", SetSessionOptionsRequest({"catalog": "x", "gone": None, "list": ()})),
        ("tickflight.Flush", Flush()),
    ],
)
def test_a_request_is_read_by_the_type_of_its_action(action, request_):
    assert parse_action_request(action, request_.serialize()) == request_


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("CreatePreparedStatement", ActionCreatePreparedStatementResult(b"h", b"d", b"p", is_update=False)),
        ("RenewFlightEndpoint", FlightEndpoint(FlightTicket(b"t"), (Location("grpc://h"),), 1_700_000_000_000_000_001)),
        ("SetSessionOptions", SetSessionOptionsResult({"a": ErrorValue.INVALID_NAME})),
        ("CloseSession", CloseSessionResult(CloseSessionStatus.CLOSED)),
        ("tickflight.Flush", FlushResult({"market.trades": 7})),
    ],
)
def test_a_result_is_read_by_the_type_of_its_action(action, result):
    assert parse_action_result(action, result.serialize()) == result


def test_is_update_false_is_not_the_same_as_absent():
    empty = ActionCreatePreparedStatementResult(b"h")
    assert ActionCreatePreparedStatementResult.parse(empty.serialize()).is_update is None


def test_session_integer_is_eight_bytes_little_endian():
    request = SetSessionOptionsRequest({"a": -2})
    value = "19" + "fe" + "ff" * 7
    assert request.serialize() == bytes.fromhex("0a0e" + "0a0161" + "1209" + value)


def test_session_boolean_is_not_an_integer():
    back = SetSessionOptionsRequest.parse(SetSessionOptionsRequest({"a": True, "b": 1}).serialize())
    assert back.session_options["a"] is True
    assert type(back.session_options["b"]) is int


def test_session_integer_out_of_range_is_refused():
    with pytest.raises(WireError, match="SetSessionOptionsRequest cannot be written"):
        SetSessionOptionsRequest({"a": 2**63}).serialize()


@pytest.mark.parametrize("cls", [CancelFlightInfoRequest, RenewFlightEndpointRequest])
def test_a_request_without_its_subject_is_malformed(cls):
    with pytest.raises(WireError, match=f"malformed {cls.full_name}: no "):
        cls.parse(b"")


def test_an_action_that_is_not_known_is_refused():
    with pytest.raises(WireError, match="no action 'Dance'") as caught:
        parse_action_request("Dance", b"")
    assert caught.value.kind == "unknown"


def test_an_action_without_a_result_has_none_to_read():
    with pytest.raises(WireError, match="EndTransaction has no result"):
        parse_action_result("EndTransaction", b"")
