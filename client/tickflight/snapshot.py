"""Snapshots: a hold on the rows that are there at one moment, under which queries give the same rows again.

The rule of this file: the server holds the rows, and for as long as it says; what is here is the name of the hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta

from tickflight.errors import QueryError, ServerError, TickflightError
from tickflight.wire.actions import CreatePin, Pin, ReleasePin, RenewPin
from tickflight.wire.codec import Message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HEADER = b"x-tickflight-snapshot"
Action = Callable[[str, Message], Message | None]


class Snapshot:
    """A hold that a server gave. Use it as a context manager, or ``release`` it; else it ends at ``expires``.

    Args:
        action: runs an action on the server.
        pin: what the server said.
        seconds: how long it was asked for.
    """

    def __init__(self, action: Action, pin: Pin, seconds: int) -> None:
        self._action = action
        self._pin = pin
        self._seconds = seconds

    @classmethod
    def create(cls, action: Action, seconds: int) -> Snapshot:
        """Let the server hold the rows that are there now."""
        return cls(action, _pin(action("tickflight.pin", CreatePin(seconds))), seconds)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        # what went wrong first is what the caller is to see; the hold ends by itself
        with suppress(TickflightError) if failure else nullcontext():
            self.release()

    def __repr__(self) -> str:
        return f"<tickflight.Snapshot {self.id} until {self.expires:%Y-%m-%d %H:%M:%S}Z>"

    @property
    def id(self) -> str:
        """Its name, which any connection of any process may use."""
        return self._pin.id

    @property
    def cuts(self) -> Mapping[str, int]:
        """The ``seq`` of each table's last row in it."""
        return self._pin.cuts

    @property
    def expires(self) -> datetime:
        """When the server lets go of it, UTC."""
        return _EPOCH + timedelta(microseconds=self._pin.expires_us)

    def renew(self, seconds: int | None = None) -> None:
        """Let it hold for ``seconds`` from now on, as long as it was made for when absent.

        Raises:
            NotFoundError: it has ended.
        """
        seconds = self._seconds if seconds is None else seconds
        self._pin = _pin(self._action("tickflight.renew_pin", RenewPin(self.id, seconds)))
        self._seconds = seconds

    def release(self) -> None:
        """Let it go; a second time does nothing."""
        self._action("tickflight.release_pin", ReleasePin(self.id))


def header(snapshot: Snapshot | str | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers under which a call sees ``snapshot``.

    Raises:
        QueryError: it is a text that cannot be a snapshot's id.
    """
    if snapshot is None:
        return ()
    name = snapshot if isinstance(snapshot, str) else snapshot.id
    if not name.isalnum() or not name.isascii():
        raise QueryError(f"{name[:100]!r} is no snapshot: make one with client.snapshot().")
    return ((HEADER, name.encode()),)


def _pin(answer: Message | None) -> Pin:
    if not isinstance(answer, Pin):
        raise ServerError("the server did not say which snapshot it holds.")
    return answer
