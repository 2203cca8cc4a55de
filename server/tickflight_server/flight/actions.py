"""Flight SQL's actions: prepared statements, transactions, sessions, cancelling and renewing.

The rule of this file: an action is a method from its request to its answer, None for none.
"""

from __future__ import annotations

from tickflight.wire import WireError
from tickflight.wire.actions import (
    ActionBeginTransactionRequest,
    ActionBeginTransactionResult,
    ActionCancelQueryRequest,
    ActionCancelQueryResult,
    ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest,
    ActionEndTransactionRequest,
    CancelFlightInfoRequest,
    CancelFlightInfoResult,
    CancelStatement,
    CancelStatementResult,
    CloseSessionRequest,
    CloseSessionResult,
    GetSessionOptionsRequest,
    RenewFlightEndpointRequest,
    SetSessionOptionsRequest,
)
from tickflight.wire.codec import Message
from tickflight.wire.enums import CancelResult, CancelStatus, CloseSessionStatus, EndTransaction
from tickflight.wire.flight import FlightEndpoint, FlightInfo
from tickflight.wire.tickets import Query, TicketStatementQuery, parse_ticket
from tickflight_server.clock import Clock
from tickflight_server.errors import InputError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.queries import QueryService
from tickflight_server.flight.sessions import Sessions
from tickflight_server.identity.authenticator import Authenticator


class ActionService:
    """Answers the actions of the protocol.

    Args:
        handle_idle_s: how long a ticket lasts unused.
    """

    def __init__(
        self,
        queries: QueryService,
        sessions: Sessions,
        authenticator: Authenticator,
        clock: Clock,
        handle_idle_s: float,
    ) -> None:
        self._queries = queries
        self._sessions = sessions
        self._authenticator = authenticator
        self._clock = clock
        self._handle_idle_s = handle_idle_s

    def create_prepared(self, call: Call, request: ActionCreatePreparedStatementRequest) -> Message:
        """Prepare a statement."""
        return self._queries.prepare(call, request.query, request.transaction_id)

    def close_prepared(self, call: Call, request: ActionClosePreparedStatementRequest) -> None:
        """Forget a prepared statement."""
        self._queries.close_prepared(call, request.prepared_statement_handle)

    def begin_transaction(self, call: Call, request: ActionBeginTransactionRequest) -> Message:
        """Begin a transaction."""
        return ActionBeginTransactionResult(self._sessions.begin(call))

    def end_transaction(self, call: Call, request: ActionEndTransactionRequest) -> None:
        """Commit or roll back."""
        if request.action == EndTransaction.END_TRANSACTION_UNSPECIFIED:
            raise InputError("the action does not say how the transaction ends.", hint="Say commit or rollback.")
        commit = request.action == EndTransaction.END_TRANSACTION_COMMIT
        self._sessions.end(call, request.transaction_id, commit=commit)

    def cancel_query(self, call: Call, request: ActionCancelQueryRequest) -> Message:
        """Cancel by the deprecated action, which has the flight's information as bytes."""
        cancelled = self._cancel(call, FlightInfo.parse(request.info))
        names = CancelResult
        return ActionCancelQueryResult(
            names.CANCEL_RESULT_CANCELLED if cancelled else names.CANCEL_RESULT_NOT_CANCELLABLE
        )

    def cancel_flight_info(self, call: Call, request: CancelFlightInfoRequest) -> Message:
        """Cancel what runs, or would run, for the tickets of a flight."""
        cancelled = self._cancel(call, request.info)
        names = CancelStatus
        return CancelFlightInfoResult(
            names.CANCEL_STATUS_CANCELLED if cancelled else names.CANCEL_STATUS_NOT_CANCELLABLE
        )

    def cancel_statement(self, call: Call, request: CancelStatement) -> Message:
        """End a statement by its id."""
        return CancelStatementResult(self._queries.cancel_statement(call, request.id))

    def _cancel(self, call: Call, info: FlightInfo) -> bool:
        tickets = [ticket for endpoint in info.endpoint if (ticket := _ticket(endpoint))]
        # all of them, whatever the first says
        return sum(self._cancel_ticket(call, ticket) for ticket in tickets) > 0

    def _cancel_ticket(self, call: Call, ticket: TicketStatementQuery | Query) -> bool:
        if isinstance(ticket, Query):
            return self._queries.cancel_query(call, ticket)
        return self._queries.cancel(call, ticket.statement_handle)

    def renew_endpoint(self, call: Call, request: RenewFlightEndpointRequest) -> Message:
        """Keep a ticket for as long as a new one."""
        endpoint = request.endpoint
        ticket = _ticket(endpoint)
        if not isinstance(ticket, TicketStatementQuery):
            raise InputError("the endpoint does not expire.", hint="Only the tickets of statements do.")
        self._queries.renew(call, ticket.statement_handle)
        expires = int((self._clock.now_us() / 1e6 + self._handle_idle_s) * 1e9)
        return FlightEndpoint(endpoint.ticket, endpoint.location, expires, endpoint.app_metadata)

    def set_options(self, call: Call, request: SetSessionOptionsRequest) -> Message:
        """Set options of the session."""
        return self._sessions.set_options(call, request)

    def options(self, call: Call, request: GetSessionOptionsRequest) -> Message:
        """Tell the options of the session."""
        return self._sessions.options(call)

    def close_session(self, call: Call, request: CloseSessionRequest) -> Message:
        """End the session, and the login that it came by."""
        self._sessions.end_session(call)
        self._authenticator.end(call.session)
        return CloseSessionResult(CloseSessionStatus.CLOSED)


def _ticket(endpoint: FlightEndpoint) -> TicketStatementQuery | Query | None:
    """Return a statement's ticket, None if it is no such ticket."""
    try:
        ticket = parse_ticket(endpoint.ticket.ticket) if endpoint.ticket is not None else None
    except WireError:
        return None
    return ticket if isinstance(ticket, TicketStatementQuery | Query) else None
