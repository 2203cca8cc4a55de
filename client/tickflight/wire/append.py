"""What travels beside the rows of a DoPut: acknowledgements, put results, and the counters of an append stream.

The rule of this file: app_metadata is bare, one message for each batch or put. ``commands.AppendStream`` opens the
stream; then each batch carries an ``AppendBatch`` and is answered by exactly one ``AppendResult``, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickflight.wire.codec import FLIGHT_SQL, TICKFLIGHT, Message, WireError


@dataclass(frozen=True)
class DoPutUpdateResult(Message, package=FLIGHT_SQL):
    """Answer to an update or an ingest; -1 = the number of rows is unknown."""

    record_count: int = -1


@dataclass(frozen=True)
class DoPutPreparedStatementResult(Message, package=FLIGHT_SQL):
    """Answer to a bind; a handle replaces the one that the client has."""

    prepared_statement_handle: bytes | None = None


@dataclass(frozen=True)
class AppendBatch(Message, package=TICKFLIGHT):
    """app_metadata of a batch: the producer's number for it."""

    sequence: int = 0


@dataclass(frozen=True)
class AppendAck(Message, package=TICKFLIGHT):
    """The batch is durable: ``rows`` rows from ``first_seq`` on were stored, ``rejected`` rows were not.

    ``duplicate``: the batch was here already and nothing was stored again. ``repeated`` rows were not stored because a
    row with the same key was there.
    """

    sequence: int = 0
    first_seq: int = 0
    rows: int = 0
    rejected: int = 0
    duplicate: bool = False
    repeated: int = 0


@dataclass(frozen=True)
class AppendError(Message, package=TICKFLIGHT):
    """Nothing of the batch was stored. ``code`` and ``hint`` are those of the server's errors."""

    sequence: int = 0
    code: str = ""
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class AppendResult(Message, package=TICKFLIGHT):
    """The answer to a batch: either ``ack`` or ``error``.

    Raises:
        WireError: neither or both are given.
    """

    ack: AppendAck | None = None
    error: AppendError | None = None

    def __post_init__(self) -> None:
        if (self.ack is None) == (self.error is None):
            raise WireError(f"malformed {self.full_name}: not one of ack and error", message_type=self.full_name)
