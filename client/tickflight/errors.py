"""Every error of the client, one tree; each class says whose fault it is.

The rule of this file: what pyarrow.flight raises is translated here and nowhere else, and no server traceback or wire
detail reaches the reader.

    TickflightError
    ├── UnavailableError       the server cannot be reached, or is too busy: try again
    │   └── LagError           a tail's reader was too slow; it can go on where it was
    ├── AuthenticationError    wrong or missing credentials
    ├── PermissionDeniedError  known, but not allowed
    ├── QueryError             the statement or its parameters; keeps the engine's place marker
    ├── NotFoundError          no such table, or a result that is gone
    ├── ResourceExhaustedError more than a limit of the server's allows; the words name it and say what to narrow
    ├── UnsupportedError       the server does not offer this
    ├── WriteError             a batch that the server refused; nothing of it was stored
    ├── CancelledError         the call was cancelled or took longer than its time limit
    └── ServerError            something failed inside the server
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa
from pyarrow import flight


class TickflightError(Exception):
    """Base of all errors of this package."""


class UnavailableError(TickflightError):
    """The server cannot be reached or has no room now; the same call may go through later."""


class LagError(UnavailableError):
    """A tail ended because its reader was too slow: it has all rows up to ``seq``, and ``token`` goes on after them."""

    def __init__(self, message: str, *, token: str = "", seq: int = 0) -> None:
        super().__init__(message)
        self.token = token
        self.seq = seq


class AuthenticationError(TickflightError):
    """Wrong or missing credentials."""


class PermissionDeniedError(TickflightError):
    """The user is known and may not do this."""


class QueryError(TickflightError):
    """The statement or its parameters cannot be used; the message shows the place."""


class NotFoundError(TickflightError):
    """There is no such table, or the result is no longer held."""


class ResourceExhaustedError(TickflightError):
    """More than a limit of the server's allows: the message names the limit and what to narrow."""


class UnsupportedError(TickflightError):
    """The server does not offer this."""


class WriteError(TickflightError):
    """The server refused a batch and stored nothing of it. ``code`` is the server's stable name of the reason."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CancelledError(TickflightError):
    """The call was cancelled, or took longer than its time limit."""


class ServerError(TickflightError):
    """Something failed inside the server; its log says what."""


_TABLE: tuple[tuple[type[BaseException], type[TickflightError]], ...] = (
    (flight.FlightUnauthenticatedError, AuthenticationError),
    (flight.FlightUnauthorizedError, PermissionDeniedError),
    (flight.FlightUnavailableError, UnavailableError),
    (flight.FlightTimedOutError, CancelledError),
    (flight.FlightCancelledError, CancelledError),
    (pa.ArrowCancelled, CancelledError),
    (pa.ArrowKeyError, NotFoundError),
    (pa.ArrowNotImplementedError, UnsupportedError),
    (pa.ArrowInvalid, QueryError),
    (flight.FlightError, ServerError),
    (pa.ArrowException, ServerError),
    (OSError, UnavailableError),
)

TRANSLATED = tuple({theirs for theirs, _ in _TABLE})
"""What ``translate`` knows: for ``except`` clauses."""

# gRPC and Arrow wrap the server's words: prefixes of the transport, and details behind them
_PREFIX = re.compile(
    r"^(?:Flight (?:error|RPC failed|returned \w+ error)[^:]*(?:, with message)?:\s*"
    r"|IOError:\s*|Could not \w+ [^:]*:\s*)+"
)
_CONTEXT = re.compile(r"\. (?:gRPC client debug|Client|Additional) context: .*", re.DOTALL)
_DETAIL = re.compile(r"\. Detail: (?:Python exception: .*|\w+)\Z", re.DOTALL)
# Arrow's stream readers know no Flight errors: the status is only in their text
_STATUS = re.compile(r"\bgRPC client debug context: (?:[^:]*: )?([A-Z_]+):")
_STATUSES: Mapping[str, type[TickflightError]] = {
    "INVALID_ARGUMENT": QueryError,
    "NOT_FOUND": NotFoundError,
    "UNIMPLEMENTED": UnsupportedError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "CANCELLED": CancelledError,
    "DEADLINE_EXCEEDED": CancelledError,
    "UNAVAILABLE": UnavailableError,
    "INTERNAL": ServerError,
    "UNKNOWN": ServerError,
}
# what the engine finds in the middle of a stream comes without a status, by its own name
_ENGINE: Mapping[str, type[TickflightError]] = {
    **dict.fromkeys(("Conversion", "Out of Range", "Invalid Input", "Invalid Type", "Mismatch Type"), QueryError),
    "Out of Memory": ResourceExhaustedError,
    "INTERRUPT": CancelledError,
}
_EXHAUSTED = "resource exhausted"  # pyarrow cannot send the status of that name
_ENGINE_NAME = re.compile(rf"({'|'.join(_ENGINE)}) Error: ")


def translate(error: BaseException) -> TickflightError:
    """Return the client's error for what pyarrow raised."""
    if isinstance(error, TickflightError):
        return error
    whole = str(error)
    text = _DETAIL.sub("", _CONTEXT.sub("", _PREFIX.sub("", whole))).strip() or type(error).__name__
    kind = next((ours for theirs, ours in _TABLE if isinstance(error, theirs)), ServerError)
    if text.startswith(_EXHAUSTED):
        kind = ResourceExhaustedError
    elif kind in (UnavailableError, ServerError):
        status, engine = _STATUS.search(whole), _ENGINE_NAME.match(text)
        if engine:
            kind = _ENGINE[engine[1]]
        elif status:
            kind = _STATUSES.get(status[1], kind)
    return kind(text)
