"""Messages of Flight itself that are parts of action bodies, of partitions and of old logins. All travel bare.

The rule of this file: these are bytes inside other bytes; what pyarrow.flight moves as its own objects stays there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickflight.wire.codec import FLIGHT, Message
from tickflight.wire.enums import DescriptorType


@dataclass(frozen=True)
class BasicAuth(Message, package=FLIGHT):
    """Payload of the old handshake."""

    username: str = ""
    password: str = ""


@dataclass(frozen=True)
class FlightDescriptor(Message, package=FLIGHT):
    """What a client asks for: a command or a path."""

    type: DescriptorType = DescriptorType.UNKNOWN
    cmd: bytes = b""
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlightTicket(Message, package=FLIGHT, name="Ticket"):
    """The message ``Ticket``: bytes to be redeemed by DoGet (``tickets.parse_ticket`` reads them)."""

    ticket: bytes = b""


@dataclass(frozen=True)
class Location(Message, package=FLIGHT):
    """Where an endpoint can be fetched."""

    uri: str = ""


@dataclass(frozen=True)
class FlightEndpoint(Message, package=FLIGHT):
    """One part of a result. ``expiration_time``: nanoseconds since 1970, UTC; None = not told."""

    ticket: FlightTicket | None = None
    location: tuple[Location, ...] = ()
    expiration_time: int | None = None
    app_metadata: bytes = b""


@dataclass(frozen=True)
class FlightInfo(Message, package=FLIGHT):
    """A result that can be fetched. ``schema`` is IPC-encapsulated; totals of -1 are unknown."""

    schema: bytes = b""
    flight_descriptor: FlightDescriptor | None = None
    endpoint: tuple[FlightEndpoint, ...] = ()
    total_records: int = -1
    total_bytes: int = -1
    ordered: bool = False
    app_metadata: bytes = b""
