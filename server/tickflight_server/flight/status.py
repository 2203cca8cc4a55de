"""Errors on the wire: the one place where this server's errors become Flight's.

The rule of this file: a client gets the message and the hint, never a traceback. pyarrow sends Flight's own errors
clean, but has none for INVALID_ARGUMENT, NOT_FOUND and UNIMPLEMENTED; those come from Arrow's exceptions, to which it
adds the text of ``traceback.format_exception``. ``install`` makes that text a full stop for the classes below.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pyarrow as pa
import structlog
from pyarrow import flight

from tickflight.wire import WireError
from tickflight_server.errors import (
    AuthenticationError,
    BusyError,
    CancelledError,
    InputError,
    LogClosedError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerError,
    StorageError,
    TimedOutError,
    TransactionError,
    UnsupportedError,
)

LOG = structlog.get_logger(__name__)


class InvalidArgument(pa.ArrowInvalid):  # type: ignore[misc]
    """INVALID_ARGUMENT."""


class NotFound(pa.ArrowKeyError):  # type: ignore[misc]
    """NOT_FOUND."""

    def __str__(self) -> str:
        # a KeyError's own text is quoted
        return str(self.args[0])


class Unimplemented(pa.ArrowNotImplementedError):  # type: ignore[misc]
    """UNIMPLEMENTED."""


_CLEAN = (InvalidArgument, NotFound, Unimplemented, flight.FlightError)

# first match counts
_TABLE: tuple[tuple[type[ServerError], type[Exception]], ...] = (
    (AuthenticationError, flight.FlightUnauthenticatedError),
    (PermissionDeniedError, flight.FlightUnauthorizedError),
    (UnsupportedError, Unimplemented),
    (NotFoundError, NotFound),
    (InputError, InvalidArgument),
    (TimedOutError, flight.FlightTimedOutError),
    (CancelledError, flight.FlightCancelledError),
    # UNKNOWN: dialects look for the engine's words in it
    (TransactionError, flight.FlightServerError),
    (BusyError, flight.FlightUnavailableError),
    (LogClosedError, flight.FlightUnavailableError),
    # pyarrow cannot send RESOURCE_EXHAUSTED; drivers take that for INTERNAL, and neither is tried again
    (ResourceExhaustedError, flight.FlightInternalError),
    (StorageError, flight.FlightInternalError),
    (ServerError, flight.FlightInternalError),
)


def to_flight(error: BaseException) -> Exception:
    """Return the exception to raise in a Flight handler for ``error``; what is not ours is logged and hidden."""
    if isinstance(error, WireError):
        kind = Unimplemented if error.kind == "unknown" else InvalidArgument
        return kind(f"{error}.")
    if isinstance(error, _CLEAN):
        return cast(Exception, error)
    if not isinstance(error, ServerError):
        LOG.error("flight.failed", exc_info=error)
        text = f"the call failed inside the server ({type(error).__name__}). Hint: See the server's log."
        return cast(Exception, flight.FlightInternalError(text))
    for ours, theirs in _TABLE:
        if isinstance(error, ours):
            return theirs(str(error))
    raise AssertionError("ServerError ends the table")


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Translate whatever a handler raises."""
    try:
        yield
    except Exception as error:
        raise to_flight(error) from None


@contextmanager
def mapped_to_arrow() -> Iterator[None]:
    """Translate what the handler of GetSchema raises: there pyarrow sends Flight's own errors as UNKNOWN.

    Of them only a refusal has a status near it, INVALID_ARGUMENT, of which drivers make the same class of error.
    """
    try:
        yield
    except Exception as error:
        translated = to_flight(error)
        raise InvalidArgument(str(error)) if isinstance(error, PermissionDeniedError) else translated from None


def install() -> None:
    """Keep pyarrow from sending the traceback of the clean errors; calling it again changes nothing."""
    original = traceback.format_exception
    if getattr(original, "leaves_out_clean_errors", False):
        return

    def format_exception(exc: Any, *args: Any, **kwargs: Any) -> list[str]:
        kind = exc if isinstance(exc, type) else type(exc)
        # not quite nothing: a message that ends in a space is dropped by the HTTP/2 of Node.js
        return ["."] if issubclass(kind, _CLEAN) else original(exc, *args, **kwargs)

    format_exception.leaves_out_clean_errors = True  # type: ignore[attr-defined]
    traceback.format_exception = format_exception
