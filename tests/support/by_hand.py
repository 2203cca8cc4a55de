"""A Flight SQL client that sends just what it is told to, message by message, and the statuses it gets.

The rule of this file: nothing is added to a message or taken from an answer; a test says what goes over the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from noisy_client import STATUSES
from pyarrow import flight

from tickflight.wire.actions import (
    ActionBeginTransactionRequest,
    ActionCreatePreparedStatementRequest,
    ActionEndTransactionRequest,
    parse_action_result,
)
from tickflight.wire.append import DoPutUpdateResult
from tickflight.wire.codec import Message
from tickflight.wire.commands import CommandStatementQuery
from tickflight.wire.enums import EndTransaction
from tickflight.wire.tickets import Query

NOTHING = pa.record_batch([], names=[])
EXCEPTIONS = {name: kind for kind, name in STATUSES.items()}


@contextmanager
def refused(status: str, match: str | None = None) -> Iterator[None]:
    """Expect a status of the protocol, with words for the caller and nothing of the server's inside."""
    with pytest.raises(EXCEPTIONS[status], match=match) as caught:
        yield
    assert type(caught.value) is EXCEPTIONS[status]
    _check_it_is_clean(caught.value)


@contextmanager
def taken_or_refused(*statuses: str) -> Iterator[None]:
    """Expect success, or one of some statuses."""
    try:
        yield
    except tuple(EXCEPTIONS[name] for name in statuses) as error:
        _check_it_is_clean(error)


def _check_it_is_clean(error: BaseException) -> None:
    for inside in ("Traceback", 'File "', ".py", "site-packages"):
        assert inside not in str(error)


def as_bytes(message: Message | bytes) -> bytes:
    """Return what goes over the wire for ``message``."""
    return message if isinstance(message, bytes) else message.serialize()


class ByHand:
    """One connection to a server, as the user of a bearer token; ``""`` is nobody."""

    def __init__(self, address: str, token: str = "") -> None:
        headers = [(b"authorization", b"Bearer " + token.encode())] if token else []
        self.options = flight.FlightCallOptions(headers=headers, timeout=60)
        self.client = flight.FlightClient(address)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def info(self, command: Message | bytes) -> flight.FlightInfo:
        """Call GetFlightInfo."""
        return self.client.get_flight_info(flight.FlightDescriptor.for_command(as_bytes(command)), self.options)

    def schema(self, command: Message | bytes) -> pa.Schema:
        """Call GetSchema."""
        return self.client.get_schema(flight.FlightDescriptor.for_command(as_bytes(command)), self.options).schema

    def get(self, ticket: Message | bytes) -> pa.Table:
        """Call DoGet."""
        return self.client.do_get(flight.Ticket(as_bytes(ticket)), self.options).read_all()

    def put(self, command: Message | bytes, *batches: pa.RecordBatch) -> list[bytes]:
        """Call DoPut; return the answers."""
        descriptor = flight.FlightDescriptor.for_command(as_bytes(command))
        writer, reader = self.client.do_put(descriptor, (batches or (NOTHING,))[0].schema, self.options)
        with writer:
            for batch in batches:
                writer.write_batch(batch)
            writer.done_writing()
            answers = []
            while (answer := reader.read()) is not None:
                answers.append(answer.to_pybytes())
        return answers

    def act(self, action: str, request: Message | bytes = b"") -> Any:
        """Call DoAction; return the answer as a message, None if there is none."""
        sent = flight.Action(action, as_bytes(request))
        answers = [r.body.to_pybytes() for r in self.client.do_action(sent, self.options)]
        assert len(answers) <= 1
        return parse_action_result(action, answers[0]) if answers else None

    # --- what many tests begin with

    def put_rows(self, command: Message | bytes, *batches: pa.RecordBatch) -> int:
        """Call DoPut; return the rows that the one answer counts."""
        (answer,) = self.put(command, *batches)
        return DoPutUpdateResult.parse(answer).record_count

    def rows(self, sql: str, transaction_id: bytes | None = None) -> list[dict[str, Any]]:
        """Return the rows of a query, in two round trips."""
        (endpoint,) = self.info(CommandStatementQuery(sql, transaction_id)).endpoints
        return self.get(endpoint.ticket.ticket).to_pylist()

    def run(self, *statements: str) -> None:
        """Run statements, whatever they give."""
        for sql in statements:
            self.get(Query(sql))

    def prepare(self, sql: str, transaction_id: bytes | None = None) -> Any:
        """Return the result of CreatePreparedStatement."""
        return self.act("CreatePreparedStatement", ActionCreatePreparedStatementRequest(sql, transaction_id))

    def begin(self) -> bytes:
        """Begin a transaction; return its id."""
        found: bytes = self.act("BeginTransaction", ActionBeginTransactionRequest()).transaction_id
        return found

    def end(self, transaction_id: bytes, *, commit: bool) -> None:
        """Commit or roll back."""
        how = EndTransaction.END_TRANSACTION_COMMIT if commit else EndTransaction.END_TRANSACTION_ROLLBACK
        assert self.act("EndTransaction", ActionEndTransactionRequest(transaction_id, how)) is None


def with_unknown_field(message: bytes) -> bytes:
    """Return a message with a field that the protocol does not have yet: number 99, three bytes."""
    return message + b"\x9a\x06\x03new"


def truncated(message: bytes) -> Sequence[bytes]:
    """Return all beginnings of ``message`` but the empty one."""
    return [message[:end] for end in range(1, len(message))]
