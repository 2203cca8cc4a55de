"""What pyarrow raises becomes one tree of errors with the server's own words."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import flight

import tickflight
from tickflight.errors import TRANSLATED, translate


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (flight.FlightUnauthenticatedError, tickflight.AuthenticationError),
        (flight.FlightUnauthorizedError, tickflight.PermissionDeniedError),
        (flight.FlightUnavailableError, tickflight.UnavailableError),
        (flight.FlightTimedOutError, tickflight.CancelledError),
        (flight.FlightCancelledError, tickflight.CancelledError),
        (flight.FlightInternalError, tickflight.ServerError),
        (flight.FlightServerError, tickflight.ServerError),
        (pa.ArrowKeyError, tickflight.NotFoundError),
        (pa.ArrowNotImplementedError, tickflight.UnsupportedError),
        (pa.ArrowInvalid, tickflight.QueryError),
        (pa.ArrowTypeError, tickflight.ServerError),
        (pa.ArrowCancelled, tickflight.CancelledError),
        (OSError, tickflight.UnavailableError),
        (RuntimeError, tickflight.ServerError),
    ],
)
def test_error_becomes_whose_fault_it_is(error: type[Exception], expected: type[Exception]) -> None:
    assert type(translate(error("why."))) is expected


def test_error_of_ours_stays() -> None:
    error = tickflight.WriteError("no", code="rows")
    assert translate(error) is error


def test_every_error_is_of_the_tree() -> None:
    for name in tickflight.__all__:
        kind = getattr(tickflight, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, tickflight.TickflightError)
    assert all(issubclass(kind, Exception) for kind in TRANSLATED)


PLACE = "Binder Error: no x\n\nLINE 1: select x\n               ^"
CONTEXT = (
    ". gRPC client debug context: INVALID_ARGUMENT:{0}. Client context: IOError: Server never sent. Detail: Internal"
)


@pytest.mark.parametrize(
    "words",
    [
        "wrong user or password. Hint: Check both.",
        PLACE,
        "no stop at the end",
        'LINE 1: select "Detail: x" from t\n               ^^^',
        "see. Detail: Internal affairs are no tail.",
        "Error: with: colons.",
        "two lines.\nof text.",
    ],
)
@pytest.mark.parametrize(
    "tail",
    [
        "",
        ". Detail: Python exception: ",
        '. Detail: Python exception: Traceback (most recent call last):\n  File "x", line 1\nValueError: x\n',
        ". Detail: Unauthenticated",
        ". Detail: Internal",
    ],
)
@pytest.mark.parametrize("context", ["", CONTEXT, ". Client context: OK"])
def test_words_are_kept_to_the_full_stop_and_the_wires_details_go(words: str, tail: str, context: str) -> None:
    text = f"{words}{tail}"
    assert str(translate(pa.ArrowInvalid(text + context.format(text)))) == words


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("UNAVAILABLE", tickflight.UnavailableError),
        ("CANCELLED", tickflight.CancelledError),
        ("INVALID_ARGUMENT", tickflight.QueryError),
        ("NOT_FOUND", tickflight.NotFoundError),
        ("UNIMPLEMENTED", tickflight.UnsupportedError),
        ("UNKNOWN", tickflight.ServerError),
        ("INTERNAL", tickflight.ServerError),
        ("SOMETHING_NEW", tickflight.UnavailableError),
    ],
)
def test_stream_reader_has_the_status_in_its_text(status: str, expected: type[Exception]) -> None:
    error = OSError(f"m. gRPC client debug context: {status}:m. Client context: OK. Detail: Failed")
    assert type(translate(error)) is expected
    assert str(translate(error)) == "m"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Conversion Error: no", tickflight.QueryError),
        ("Out of Memory Error: no", tickflight.ResourceExhaustedError),
        ("INTERRUPT Error: Interrupted!", tickflight.CancelledError),
        ("IO Error: no", tickflight.ServerError),
    ],
)
@pytest.mark.parametrize("kind", [OSError, flight.FlightServerError])
def test_engines_own_error_in_the_middle_is_told_by_its_name(
    kind: type[Exception], words: str, expected: type[Exception]
) -> None:
    text = f"{words}. gRPC client debug context: UNKNOWN:{words}. Client context: OK"
    assert type(translate(kind(text))) is expected


def test_limit_that_was_hit_is_an_error_of_its_own() -> None:
    told = translate(flight.FlightInternalError("resource exhausted (query.memory_mb): m. Hint: h. Detail: Internal"))
    assert type(told) is tickflight.ResourceExhaustedError
    assert str(told) == "resource exhausted (query.memory_mb): m. Hint: h"


def test_prefixes_of_the_transport_go() -> None:
    text = "Flight returned unavailable error, with message: failed to connect"
    assert str(translate(flight.FlightUnavailableError(text))) == "failed to connect"


def test_error_without_words_has_its_name() -> None:
    assert str(translate(flight.FlightCancelledError(""))) == "FlightCancelledError"
