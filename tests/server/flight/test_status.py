"""Each of this server's errors reaches the client under its status, with its words and nothing else."""

from __future__ import annotations

import traceback

import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire import WireError
from tickflight_server import errors
from tickflight_server.flight.status import InvalidArgument, NotFound, Unimplemented, install, mapped_errors, to_flight


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.AuthenticationError("m", hint="h"), flight.FlightUnauthenticatedError),
        (errors.PermissionDeniedError("m", hint="h"), flight.FlightUnauthorizedError),
        (errors.UnsupportedError("m", hint="h"), Unimplemented),
        (errors.NotFoundError("m", hint="h"), NotFound),
        (errors.InputError("m", hint="h"), InvalidArgument),
        (errors.StatementError("m", hint="h"), InvalidArgument),
        (errors.RowError("m", hint="h"), InvalidArgument),
        (errors.TooLargeError("m", hint="h"), InvalidArgument),
        (errors.CancelledError("m", hint="h"), flight.FlightCancelledError),
        (errors.BusyError("m", hint="h"), flight.FlightUnavailableError),
        (errors.LogClosedError("m", hint="h"), flight.FlightUnavailableError),
        (errors.ResourceExhaustedError("m", hint="h"), flight.FlightInternalError),
        (errors.StorageError("m", hint="h"), flight.FlightInternalError),
        (errors.ServerError("m", hint="h"), flight.FlightInternalError),
    ],
)
def test_error_has_its_status_and_its_words(error: Exception, expected: type[Exception]) -> None:
    translated = to_flight(error)
    assert type(translated) is expected
    assert str(translated).removeprefix("resource exhausted: ").startswith("m Hint: h")


def test_every_class_of_errors_has_a_status() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ServerError):
            assert isinstance(to_flight(kind("m")), Exception)


def test_what_is_not_ours_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    translated = to_flight(RuntimeError("password=hunter2"))
    assert type(translated) is flight.FlightInternalError
    assert str(translated) == "the call failed inside the server (RuntimeError). Hint: See the server's log."
    assert "hunter2" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("kind", "expected"), [("unknown", Unimplemented), ("malformed", InvalidArgument)])
def test_message_that_cannot_be_read_is_the_clients_fault(kind: str, expected: type[Exception]) -> None:
    assert type(to_flight(WireError("m", kind=kind))) is expected  # type: ignore[arg-type]


def test_error_of_flight_stays() -> None:
    for error in (flight.FlightCancelledError("x"), InvalidArgument("x")):
        assert to_flight(error) is error


def test_mapped_errors_hide_where_they_came_from() -> None:
    with pytest.raises(NotFound) as caught, mapped_errors():
        raise errors.NotFoundError("gone")
    assert caught.value.__suppress_context__


def test_arrow_finds_no_traceback_in_the_clean_ones() -> None:
    install()
    install()
    for error in (InvalidArgument("x"), NotFound("x"), Unimplemented("x")):
        assert traceback.format_exception(error) == ["."], "a message may not end in a space"
        assert traceback.format_exception(type(error), error, None) == ["."]
    assert traceback.format_exception(pa.ArrowInvalid("x")) != []
    assert traceback.format_exception(ValueError("x")) == ["ValueError: x\n"]
