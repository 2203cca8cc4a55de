"""tickflight: the thin client of an Arrow Flight SQL server for crypto market data.

>>> import tickflight
>>> client = tickflight.connect("grpc://127.0.0.1:8815")
>>> client.sql("SELECT symbol, last(price ORDER BY timestamp) FROM trades GROUP BY symbol").polars()
"""

from importlib import import_module

from tickflight.book import Book
from tickflight.client import Client, connect
from tickflight.errors import (
    AuthenticationError,
    CancelledError,
    LagError,
    NotFoundError,
    PermissionDeniedError,
    QueryError,
    ResourceExhaustedError,
    ServerError,
    TickflightError,
    UnavailableError,
    UnsupportedError,
    WriteError,
)
from tickflight.live import Live
from tickflight.merging import ReplayChunk
from tickflight.replay import Replay
from tickflight.result import Result
from tickflight.snapshot import Snapshot
from tickflight.tail import Skipped, Tail
from tickflight.writer import Ack, Writer

__all__ = [
    "Ack",
    "AuthenticationError",
    "Book",
    "CancelledError",
    "Client",
    "LagError",
    "Live",
    "NotFoundError",
    "PermissionDeniedError",
    "QueryError",
    "Replay",
    "ReplayChunk",
    "ResourceExhaustedError",
    "Result",
    "ServerError",
    "Skipped",
    "Snapshot",
    "Tail",
    "TickflightError",
    "UnavailableError",
    "UnsupportedError",
    "WriteError",
    "Writer",
    "connect",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # who does not use asyncio does not wait for its import
    if name == "aio":
        return import_module("tickflight.aio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
