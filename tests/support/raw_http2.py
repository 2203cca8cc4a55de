"""Connections that speak as much of HTTP/2 as a test wants, by hand, and then fall silent or go on for ever.

The rule of this file: frames are written byte by byte; nothing here keeps to the protocol unless it is told to.
"""

from __future__ import annotations

import select
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, CONTINUATION = 0, 1, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
LIST_ACTIONS = "/arrow.flight.protocol.FlightService/ListActions"
DO_PUT = "/arrow.flight.protocol.FlightService/DoPut"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


GREETING = PREFACE + frame(SETTINGS, 0, 0)


def header(name: str, value: str) -> bytes:
    """Return a header field that no table knows."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    length, found = len(data) - 127, b"\x7f"
    while length > 127:
        found, length = found + bytes([length & 127 | 128]), length >> 7
    return found + bytes([length]) + data


def request(path: str, *more: tuple[str, str], token: str = "") -> bytes:
    """Return the header block of a call."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    fields += [("te", "trailers"), ("content-type", "application/grpc")]
    fields += [("authorization", f"Bearer {token}")] if token else []
    return b"".join(header(*field) for field in (*fields, *more))


class Connection:
    """A TCP connection to a server on this machine."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.sendall(sent)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send; return whether the other end still listens."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def ended_after(self, most_s: float) -> float | None:
        """Return after how many seconds the server ended the connection, None if it did not."""
        began = time.monotonic()
        while (left := most_s - (time.monotonic() - began)) > 0:
            if select.select([self.socket], [], [], left)[0]:
                try:
                    if not self.socket.recv(65536):
                        return time.monotonic() - began
                except OSError:
                    return time.monotonic() - began
        return None

    def read_until(self, text: bytes, most_s: float = 10) -> bytes:
        """Return what comes until ``text`` is in it, or the time is over, or the server ended the connection."""
        found, end = b"", time.monotonic() + most_s
        while text not in found and (left := end - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                data = self.socket.recv(65536)
                if not data:
                    break
                found += data
        return found
