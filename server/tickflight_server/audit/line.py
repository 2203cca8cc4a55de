"""A line of the audit: one JSON object, its number and time first, the hash of the line before and its own last.

    {"n":2,"time":"2026-11-23T17:00:00.000001Z","kind":"login",…,"prev":"<64 hex digits>","hash":"<64 hex digits>"}

The rule of this file: no I/O; the bytes are ASCII, and the hash is over all of them that stand before ``,"hash":``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tickflight_server.audit.chain import Chain

LINE_BYTES_MAX = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAIL = re.compile(rb'(.*,"prev":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}', re.DOTALL)
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


class LineError(ValueError):
    """Bytes that are no line of the audit."""


@dataclass(frozen=True)
class Line:
    """A line as it was read: ``body`` is what its ``hash`` is over, ``fields`` all that it says but for the hashes."""

    n: int
    fields: Mapping[str, Any]
    prev: str
    hash: str
    body: bytes

    @property
    def kind(self) -> str:
        """What the line is about."""
        return str(self.fields["kind"])

    @property
    def time_us(self) -> int:
        """When it was, microseconds since 1970 UTC."""
        return parse_time(str(self.fields["time"]))


def serialize(n: int, time_us: int, fields: Mapping[str, Any], prev: str, chain: Chain) -> tuple[bytes, str]:
    """Return the bytes of a line with its newline, and its hash; what is None in ``fields`` is left out."""
    said = {"n": n, "time": format_time(time_us)} | {k: v for k, v in fields.items() if v is not None}
    body = f'{_encode(said)[:-1]},"prev":"{prev}"'.encode("ascii")
    own = chain.hash(body)
    return b'%b,"hash":"%b"}\n' % (body, own.encode()), own


def parse(data: bytes) -> Line:
    """Read a line, given without its newline; its hash is not checked.

    Raises:
        LineError: it is none.
    """
    found = _TAIL.fullmatch(data)
    if found is None:
        raise LineError("it does not end in two hashes")
    try:
        fields = json.loads(found[1] + b"}")
        n = fields["n"]
        parse_time(fields["time"])
        kind = fields["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LineError("it is no object with n, time and kind") from None
    if type(n) is not int or n < 1 or type(kind) is not str:
        raise LineError("its number or its kind is none")
    del fields["prev"]
    return Line(n, fields, found[2].decode(), found[3].decode(), found[1])


def format_time(time_us: int) -> str:
    """Return a time as lines have it: ISO 8601, UTC, in microseconds."""
    return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%dT%H:%M:%S.%f}Z"


def parse_time(text: str) -> int:
    """Return the microseconds since 1970 of a line's time.

    Raises:
        ValueError: it is none.
    """
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
