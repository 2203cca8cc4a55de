"""Calls of a Flight service whose messages are bytes of the caller's, sound or not.

The rule of this file: nothing between the bytes and the server's gRPC looks at them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import pyarrow as pa

SERVICE = "/arrow.flight.protocol.FlightService/"
# method → whether many messages are sent
METHODS = {
    "GetFlightInfo": False,
    "PollFlightInfo": False,
    "GetSchema": False,
    "DoGet": False,
    "DoAction": False,
    "ListActions": False,
    "ListFlights": False,
    "DoPut": True,
    "DoExchange": True,
    "Handshake": True,
}
ANSWER_S = 30.0
ANSWERS_READ = 100
_ENDLESS = (b"tickflight.v1.Live", b"tickflight.v1.Tail")  # of which a schema and what comes first are read


@dataclass(frozen=True)
class Answer:
    """The status of a call, its words, and the messages before it."""

    status: grpc.StatusCode
    text: str
    messages: tuple[bytes, ...]


class RawCalls:
    """Calls of one server, with a bearer token unless it is empty."""

    def __init__(self, port: int, token: str = "") -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)])
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def __enter__(self) -> RawCalls:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, messages: Sequence[bytes]) -> Answer:
        """Send ``messages``, one unless the method takes many; return what came back."""
        found: list[bytes] = []
        most = 2 if method == "DoGet" and any(name in messages[0] for name in _ENDLESS) else ANSWERS_READ
        try:
            if METHODS[method]:
                answers = self._channel.stream_stream(SERVICE + method)(
                    iter(messages), timeout=ANSWER_S, metadata=self._metadata
                )
            else:  # a server that answers once looks to the client like one that answers with a stream of one
                answers = self._channel.unary_stream(SERVICE + method)(
                    messages[0], timeout=ANSWER_S, metadata=self._metadata
                )
            for answer in answers:
                found.append(answer)
                if len(found) == most:
                    answers.cancel()
        except grpc.RpcError as error:
            return Answer(error.code(), str(error.details()), tuple(found))
        return Answer(grpc.StatusCode.OK, "", tuple(found))


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field of bytes as it goes on the wire."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def descriptor(command: bytes) -> bytes:
    """Return a FlightDescriptor with a command."""
    return b"\x08\x02" + bytes_field(2, command)


def flight_data(command: bytes, batches: Sequence[pa.RecordBatch], note: bytes = b"") -> Iterator[bytes]:
    """Yield the FlightData messages of a put."""
    schema = batches[0].schema
    first = bytes_field(1, descriptor(command))
    for number, message in enumerate((schema.serialize(), *(b.serialize() for b in batches))):
        read = pa.ipc.read_message(message)
        header = bytes_field(2, read.metadata.to_pybytes())
        body = bytes_field(1000, read.body.to_pybytes()) if read.body is not None and read.body.size else b""
        yield (b"" if number else first) + header + (bytes_field(3, note) if number and note else b"") + body


def damaged_somewhere(pick: random.Random, messages: Sequence[bytes]) -> list[bytes]:
    """Return ``messages`` with one of them missing, twice, cut, or with some of its bits and bytes changed."""
    found = list(messages)
    at = pick.randrange(len(found))
    fate = pick.random()
    if fate < 0.1:
        found.pop(at)
    elif fate < 0.2:
        found.insert(at, pick.choice(found))
    elif fate < 0.3:
        found[at] = found[at][: pick.randint(0, len(found[at]))]
    else:
        data = bytearray(found[at])
        for _ in range(pick.randint(1, 6)):
            place = pick.randrange(len(data))
            data[place] = pick.choice((0, 1, 127, 255, data[place] ^ 1 << pick.randrange(8)))
        found[at] = bytes(data)
    return found or [b""]
