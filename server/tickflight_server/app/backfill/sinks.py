"""Where imported rows go: a running server over Flight, or a data folder opened here.

The rule of this file: ``append`` returns a future that ends well only when the rows are durable, and a batch of a known
producer and number is stored once, however often it is sent.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

import tickflight
from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import AuthenticationError, BusyError, ConfigError, InputError, ServerError
from tickflight_server.identity.secret_files import read_secret_text
from tickflight_server.redact import learn
from tickflight_server.schemas import STORED, NumericType
from tickflight_server.store import Ack as StoredAck
from tickflight_server.store import Store

Ack = StoredAck | tickflight.Ack
PATIENCE_S = 600.0  # an import waits so long for room before it gives up


class Sink(Protocol):
    """Takes numbered batches of producers."""

    numeric: NumericType

    def append(self, table: str, batch: pa.RecordBatch, *, producer: bytes, sequence: int) -> Future[Any]:
        """Hand over a batch; the future's ``Ack`` means that its rows survive a crash."""

    def file_done(self) -> None:
        """Let go of what was kept for the producers so far."""

    def close(self) -> None:
        """Let go of everything; what was acknowledged stays."""


class StoreSink:
    """Into a data folder that no server uses.

    Raises:
        ConfigError: the folder is in use or cannot be used.
    """

    def __init__(self, settings: LakehouseSettings) -> None:
        self._store = open_store(settings)
        self.numeric: NumericType = self._store.numeric

    def append(self, table: str, batch: pa.RecordBatch, *, producer: bytes, sequence: int) -> Future[Any]:
        """Append to the store's log; waits while the flush does not keep up."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._store.append(table, batch, producer=producer, sequence=sequence)
            except BusyError:
                if time.monotonic() > deadline:
                    raise

    def file_done(self) -> None:
        """Nothing is kept for a producer."""

    def close(self) -> None:
        """Flush the rows to parts and let the folder go."""
        self._store.close()


def open_store(settings: LakehouseSettings) -> Store:
    """Open the data folder.

    Raises:
        ConfigError: it is in use, and then the hint names ``--address``, or it cannot be used.
    """
    try:
        return Store(settings)
    except ConfigError as error:
        if "used by another server" in error.message:
            error.hint = "A running server takes rows and questions by --address grpc://host:port."
        raise


class FlightSink:
    """Over Flight to a running server, a writer of the client for each table of a file.

    Raises:
        ServerError: nobody answers at the address, or the credentials are wrong.
    """

    def __init__(self, client: tickflight.Client) -> None:
        self._client = client
        self._writers: dict[bytes, tuple[tickflight.Writer, int]] = {}
        self.numeric: NumericType = client.numeric_type

    def append(self, table: str, batch: pa.RecordBatch, *, producer: bytes, sequence: int) -> Future[Any]:
        """Write under the producer's number; a writer counts by itself, so a number left out needs a new one."""
        writer, following = self._writers.get(producer, (None, 0))
        if writer is None or following != sequence:
            if writer is not None:
                writer.close()
            name = f"{STORED[table].schema}.{table}"
            writer = self._client.writer(name, producer=producer, first_sequence=sequence)
        self._writers[producer] = (writer, sequence + 1)
        future: Future[Any] = writer.write(batch)
        return future

    def file_done(self) -> None:
        """Close the writers of the file."""
        for writer, _ in self._writers.values():
            writer.close()
        self._writers.clear()

    def close(self) -> None:
        """Close the connection; every batch that was waited for has its answer."""
        self.file_done()
        self._client.close()


def connect(address: str, user: str | None, password: str | None, token: str | None) -> tickflight.Client:
    """Connect to a running server.

    Raises:
        ServerError: nobody answers, or the credentials are wrong.
    """
    try:
        return tickflight.connect(address, username=user, password=password, token=token)
    except tickflight.TickflightError as error:
        raise translate(error) from None


def translate(error: BaseException) -> ServerError:
    """Return the server's error for what the client raised."""
    text = " ".join(str(error).split())
    if isinstance(error, ServerError):
        return error
    if isinstance(error, tickflight.AuthenticationError):
        return AuthenticationError(text, hint="Give --user and TICKFLIGHT_PASSWORD, or TICKFLIGHT_TOKEN.")
    if isinstance(error, tickflight.UnavailableError):
        return BusyError(
            text, hint="Is the server running? Check --address; the same command goes on where this ended."
        )
    if isinstance(error, tickflight.TickflightError):
        return InputError(text, hint=None if "Hint:" in text else "See the server's log.")
    return ServerError(text, hint="See the messages above.")


def told_credentials(user: str | None, environment: Any) -> dict[str, str | None]:
    """Return how to log in, as the client's command does: secrets come from the environment, or a file it names.

    Raises:
        ConfigError: the file cannot be read, or others may read it.
    """
    return {
        "user": user,
        "password": _told_secret("TICKFLIGHT_PASSWORD", environment) if user else None,
        "token": None if user else _told_secret("TICKFLIGHT_TOKEN", environment),
    }


def _told_secret(name: str, environment: Any) -> str | None:
    file = environment.get(f"{name}_FILE")
    text: str | None = read_secret_text(Path(file)) if file else environment.get(name)
    learn([text] if text else [])
    return text
