"""The actions: what goes into ``Action.body`` and comes out in ``Result.body``.

The rule of this file: the table ``ACTIONS`` says for each action type what is sent and what is answered. Flight SQL's
own bodies are wrapped in an Any; those of Flight and of tickflight are bare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tickflight.wire.codec import FLIGHT, FLIGHT_SQL, TICKFLIGHT, Message, SessionValue, WireError, Wrapped
from tickflight.wire.commands import SubstraitPlan
from tickflight.wire.enums import (
    CancelResult,
    CancelStatus,
    CloseSessionStatus,
    EndSavepoint,
    EndTransaction,
    ErrorValue,
)
from tickflight.wire.flight import FlightEndpoint, FlightInfo


@dataclass(frozen=True)
class ActionCreatePreparedStatementRequest(Wrapped, package=FLIGHT_SQL):
    """Prepare a SQL text."""

    query: str = ""
    transaction_id: bytes | None = None


@dataclass(frozen=True)
class ActionCreatePreparedSubstraitPlanRequest(Wrapped, package=FLIGHT_SQL):
    """Prepare a Substrait plan."""

    plan: SubstraitPlan | None = None
    transaction_id: bytes | None = None


@dataclass(frozen=True)
class ActionCreatePreparedStatementResult(Wrapped, package=FLIGHT_SQL):
    """The prepared statement: its handle and two IPC-encapsulated schemas, b"" = unknown.

    ``is_update`` None leaves it to the client; many clients look at whether ``dataset_schema`` has columns.
    """

    prepared_statement_handle: bytes = b""
    dataset_schema: bytes = b""
    parameter_schema: bytes = b""
    is_update: bool | None = None


@dataclass(frozen=True)
class ActionClosePreparedStatementRequest(Wrapped, package=FLIGHT_SQL):
    """Forget a prepared statement."""

    prepared_statement_handle: bytes = b""


@dataclass(frozen=True)
class ActionBeginTransactionRequest(Wrapped, package=FLIGHT_SQL):
    """Begin a transaction."""


@dataclass(frozen=True)
class ActionBeginTransactionResult(Wrapped, package=FLIGHT_SQL):
    """The transaction's id, never empty."""

    transaction_id: bytes = b""


@dataclass(frozen=True)
class ActionEndTransactionRequest(Wrapped, package=FLIGHT_SQL):
    """Commit or roll back a transaction."""

    transaction_id: bytes = b""
    action: EndTransaction = EndTransaction.END_TRANSACTION_UNSPECIFIED


@dataclass(frozen=True)
class ActionBeginSavepointRequest(Wrapped, package=FLIGHT_SQL):
    """Set a savepoint."""

    transaction_id: bytes = b""
    name: str = ""


@dataclass(frozen=True)
class ActionBeginSavepointResult(Wrapped, package=FLIGHT_SQL):
    """The savepoint's id."""

    savepoint_id: bytes = b""


@dataclass(frozen=True)
class ActionEndSavepointRequest(Wrapped, package=FLIGHT_SQL):
    """Release a savepoint or roll back to it."""

    savepoint_id: bytes = b""
    action: EndSavepoint = EndSavepoint.END_SAVEPOINT_UNSPECIFIED


@dataclass(frozen=True)
class ActionCancelQueryRequest(Wrapped, package=FLIGHT_SQL):
    """Cancel a query (deprecated since 13.0). ``info`` is a serialized ``flight.FlightInfo``."""

    info: bytes = b""


@dataclass(frozen=True)
class ActionCancelQueryResult(Wrapped, package=FLIGHT_SQL):
    """What became of the query."""

    result: CancelResult = CancelResult.CANCEL_RESULT_UNSPECIFIED


@dataclass(frozen=True)
class CancelFlightInfoRequest(Message, package=FLIGHT):
    """Cancel what was started for a FlightInfo."""

    info: FlightInfo


@dataclass(frozen=True)
class CancelFlightInfoResult(Message, package=FLIGHT):
    """What became of it."""

    status: CancelStatus = CancelStatus.CANCEL_STATUS_UNSPECIFIED


@dataclass(frozen=True)
class RenewFlightEndpointRequest(Message, package=FLIGHT):
    """Ask for an endpoint's life to be prolonged; the answer is a FlightEndpoint."""

    endpoint: FlightEndpoint


@dataclass(frozen=True)
class SetSessionOptionsRequest(Message, package=FLIGHT):
    """Set options of the session; None erases an option."""

    session_options: Mapping[str, SessionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSessionOptionsResult(Message, package=FLIGHT):
    """The options that could not be set, and why."""

    errors: Mapping[str, ErrorValue] = field(default_factory=dict)


@dataclass(frozen=True)
class GetSessionOptionsRequest(Message, package=FLIGHT):
    """Ask for the session's options."""


@dataclass(frozen=True)
class GetSessionOptionsResult(Message, package=FLIGHT):
    """The session's options."""

    session_options: Mapping[str, SessionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class CloseSessionRequest(Message, package=FLIGHT):
    """End the session."""


@dataclass(frozen=True)
class CloseSessionResult(Message, package=FLIGHT):
    """What became of the session."""

    status: CloseSessionStatus = CloseSessionStatus.UNSPECIFIED


@dataclass(frozen=True)
class FeedReport(Message, package=TICKFLIGHT):
    """What a feed says of itself, as JSON."""

    feed: str = ""
    json: bytes = b""


@dataclass(frozen=True)
class Flush(Message, package=TICKFLIGHT):
    """Write what is in memory to parts."""


@dataclass(frozen=True)
class FlushResult(Message, package=TICKFLIGHT):
    """For each table that was flushed, the seq up to which its rows are in parts."""

    flushed_seq: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pin(Message, package=TICKFLIGHT):
    """A hold on the rows up to ``cuts``, the last seq of each stored table; times in µs since 1970 UTC."""

    id: str = ""
    cuts: Mapping[str, int] = field(default_factory=dict)
    created_us: int = 0
    expires_us: int = 0


@dataclass(frozen=True)
class CreatePin(Message, package=TICKFLIGHT):
    """Hold the rows that are there now, for so many seconds; the answer is a Pin."""

    seconds: int = 0


@dataclass(frozen=True)
class RenewPin(Message, package=TICKFLIGHT):
    """Let a pin hold for so many seconds from now on; the answer is the Pin."""

    id: str = ""
    seconds: int = 0


@dataclass(frozen=True)
class ReleasePin(Message, package=TICKFLIGHT):
    """Let a pin go."""

    id: str = ""


@dataclass(frozen=True)
class CancelStatement(Message, package=TICKFLIGHT):
    """End a statement, by its id in ``system.queries``."""

    id: str = ""


@dataclass(frozen=True)
class CancelStatementResult(Message, package=TICKFLIGHT):
    """Whether it had not ended by itself."""

    cancelled: bool = False


@dataclass(frozen=True)
class Health(Message, package=TICKFLIGHT):
    """Ask how the server is doing."""


@dataclass(frozen=True)
class HealthComponent(Message, package=TICKFLIGHT):
    """How one component is doing: ``state`` is ok, degraded or failed; ``since_us`` 0 is not known."""

    component: str = ""
    state: str = ""
    since_us: int = 0
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True)
class HealthResult(Message, package=TICKFLIGHT):
    """The worst state of all components, and each of them."""

    state: str = ""
    components: tuple[HealthComponent, ...] = ()


@dataclass(frozen=True)
class ActionSpec:
    """One row of the table of actions. ``result`` None: the answer is an empty stream."""

    request: type[Message]
    result: type[Message] | None
    description: str


ACTIONS: Final[Mapping[str, ActionSpec]] = {
    "CreatePreparedStatement": ActionSpec(
        ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, "Prepare a SQL statement."
    ),
    "CreatePreparedSubstraitPlan": ActionSpec(
        ActionCreatePreparedSubstraitPlanRequest, ActionCreatePreparedStatementResult, "Prepare a Substrait plan."
    ),
    "ClosePreparedStatement": ActionSpec(ActionClosePreparedStatementRequest, None, "Forget a prepared statement."),
    "BeginTransaction": ActionSpec(ActionBeginTransactionRequest, ActionBeginTransactionResult, "Begin a transaction."),
    "EndTransaction": ActionSpec(ActionEndTransactionRequest, None, "Commit or roll back a transaction."),
    "BeginSavepoint": ActionSpec(ActionBeginSavepointRequest, ActionBeginSavepointResult, "Set a savepoint."),
    "EndSavepoint": ActionSpec(ActionEndSavepointRequest, None, "Release a savepoint or roll back to it."),
    "CancelQuery": ActionSpec(ActionCancelQueryRequest, ActionCancelQueryResult, "Cancel a query (deprecated)."),
    "CancelFlightInfo": ActionSpec(CancelFlightInfoRequest, CancelFlightInfoResult, "Cancel a query."),
    "RenewFlightEndpoint": ActionSpec(RenewFlightEndpointRequest, FlightEndpoint, "Prolong an endpoint's life."),
    "SetSessionOptions": ActionSpec(SetSessionOptionsRequest, SetSessionOptionsResult, "Set session options."),
    "GetSessionOptions": ActionSpec(GetSessionOptionsRequest, GetSessionOptionsResult, "List session options."),
    "CloseSession": ActionSpec(CloseSessionRequest, CloseSessionResult, "End the session."),
    "tickflight.FeedReport": ActionSpec(FeedReport, None, "Take a feed's report of itself."),
    "tickflight.Flush": ActionSpec(Flush, FlushResult, "Write what is in memory to parts."),
    "tickflight.pin": ActionSpec(CreatePin, Pin, "Hold the rows that are there now, for queries to come."),
    "tickflight.renew_pin": ActionSpec(RenewPin, Pin, "Let a pin hold for longer."),
    "tickflight.release_pin": ActionSpec(ReleasePin, None, "Let a pin go."),
    "tickflight.cancel": ActionSpec(CancelStatement, CancelStatementResult, "End a statement that runs, by its id."),
    "tickflight.health": ActionSpec(Health, HealthResult, "Tell how the server is doing."),
}


def parse_action_request(action_type: str, body: bytes) -> Message:
    """Return the request in the body of an action: an instance of ``ACTIONS[action_type].request``.

    Raises:
        WireError: no such action (``kind`` "unknown"), or the body is not its request.
    """
    return _spec(action_type).request.parse(body)


def parse_action_result(action_type: str, body: bytes) -> Message:
    """Return the result that an action answered with: an instance of ``ACTIONS[action_type].result``.

    Raises:
        WireError: no such action or none that answers (``kind`` "unknown"), or the body is not its result.
    """
    result = _spec(action_type).result
    if result is None:
        raise WireError(f"action {action_type} has no result", kind="unknown")
    return result.parse(body)


def _spec(action_type: str) -> ActionSpec:
    spec = ACTIONS.get(action_type)
    if spec is None:
        raise WireError(f"no action {action_type[:200]!r}", kind="unknown")
    return spec
