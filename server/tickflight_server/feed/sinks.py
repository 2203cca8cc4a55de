"""Where a collector's batches go: a server over Flight, or a store in the same process.

The rule of this file: ``append`` hands a batch over and returns a future, which ends well only when the rows are
durable. Retries and exactly-once are the writer's and the store's: a future that fails has failed for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from tickflight_server.errors import ConfigError
from tickflight_server.schemas import STORED, NumericType

if TYPE_CHECKING:
    from tickflight_server.query.engine import Engine

CLOSE_FLUSH_S = 1.0
Params = Sequence[Any] | Mapping[str, Any] | None


class Sink(Protocol):
    """Takes batches; called from the collector's thread alone, save for ``query``."""

    @property
    def numeric(self) -> NumericType:
        """How the store keeps numbers."""

    def append(self, table: str, batch: pa.RecordBatch) -> Future[Any]:
        """Hand over a batch; the future's ``Ack``, the store's or the client's, means that its rows survive a crash.

        May block for room.
        """

    def query(self, sql: str, params: Params = None) -> pa.Table:
        """Run a query where the batches went."""

    def flush(self) -> None:
        """Ask for what was appended to be made durable now; returns when it is."""

    def close(self) -> None:
        """Flush and let go. Futures still open afterwards are failed."""


class StoreLike(Protocol):
    """What this module needs of ``tickflight_server.store.Store``."""

    def append(self, table: str, batch: pa.RecordBatch) -> Future[Any]:
        """Append a batch to the log and the ring."""

    def flush(self) -> Any:
        """Move what is in memory into parts."""


Opener = Callable[[Any], tuple[StoreLike, Callable[[], None]]]
"""Takes a path or a settings object; returns the store and what closes it."""


class FlightSink:
    """Batches over Flight ``DoPut``, a writer of the client a table."""

    def __init__(
        self, address: str, *, username: str | None = None, password: str | None = None, token: str | None = None
    ) -> None:
        import tickflight  # late: an embedded collector does not need the client

        self._client: Any = tickflight.connect(address, username=username, password=password, token=token)
        self._writers: dict[str, Any] = {}
        try:
            self.numeric: NumericType = self._client.numeric_type  # the first word with the server
        except BaseException:
            self._client.close()
            raise

    def append(self, table: str, batch: pa.RecordBatch) -> Future[Any]:
        """Hand a batch to the table's writer, which resends it for as long as it takes until the server answers."""
        writer = self._writers.get(table)
        if writer is None:
            name = f"{STORED[table].schema}.{table}"
            # No time limit: how long a lost server is waited for is the queues' bound and the drain's deadline.
            writer = self._writers[table] = self._client.writer(name, retry_timeout_s=None)
        future: Future[Any] = writer.write(batch)
        return future

    def query(self, sql: str, params: Params = None) -> pa.Table:
        """Run a query on the server."""
        return self._client.sql(sql, params).arrow()

    def flush(self) -> None:
        """Wait until the server has acknowledged what was written."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the writers, then the connection. A writer that the server still owes answers is left behind.

        The collector has waited for the answers before it closes; what is open now was given up.
        """
        try:
            for writer in self._writers.values():
                writer.flush(CLOSE_FLUSH_S)
                writer.close()
        finally:
            self._writers.clear()
            self._client.close()


class EmbeddedSink:
    """Batches into a store of the same process."""

    def __init__(self, store: StoreLike, close: Callable[[], None] | None = None) -> None:
        self._store = store
        self._close = close
        self.numeric: NumericType = getattr(store, "numeric", "float64")
        self._engine_lock = threading.Lock()
        self._engine: Engine | None = None

    def append(self, table: str, batch: pa.RecordBatch) -> Future[Any]:
        """Append to the store's log; the future ends when the record is synced."""
        return self._store.append(table, batch)

    def query(self, sql: str, params: Params = None) -> pa.Table:
        """Run a query over the store, by an engine that is made for the first one."""
        from tickflight_server.config import QuerySettings  # late: a feed that never asks needs no engine
        from tickflight_server.query.engine import Engine

        with self._engine_lock:
            if self._engine is None:
                self._engine = Engine(self._store, QuerySettings())  # type: ignore[arg-type]
            engine = self._engine
        with engine.execute(engine.plan(sql, params or ())) as execution:
            return execution.reader.read_all()

    def flush(self) -> None:
        """Move what the store has in memory into parts."""
        self._store.flush()

    def close(self) -> None:
        """Close the store if it was opened for this sink; a store that was passed in stays open."""
        with self._engine_lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None
        if self._close is not None:
            self._close()


def embedded_sink(embedded: Any, open_store: Opener | None = None) -> Sink:
    """Return the sink for a backend's ``embedded=``: a sink or store as it is, else a path or settings to open."""
    if hasattr(embedded, "append") and hasattr(embedded, "numeric"):
        if hasattr(embedded, "query") and hasattr(embedded, "close"):
            sink: Sink = embedded
            return _Borrowed(sink)
        return EmbeddedSink(embedded)
    store, close = (open_store or open_embedded_store)(embedded)
    return EmbeddedSink(store, close)


class _Borrowed:
    """A sink that was passed in: used, and left open for whoever made it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.numeric = sink.numeric
        self.append = sink.append
        self.query = sink.query
        self.flush = sink.flush

    def close(self) -> None:
        """Leave it open."""


def open_embedded_store(place: Any) -> tuple[StoreLike, Callable[[], None]]:
    """Open the store at a path or of a settings object.

    The seam to the store: ``tickflight_server.store.Store`` is opened here and nowhere else in the feed.
    """
    from tickflight_server.config import LakehouseSettings, Settings

    if isinstance(place, str | Path):
        settings = LakehouseSettings.model_validate({"storage_path": Path(place)})
    elif isinstance(place, Settings):
        settings = place.lakehouse
    elif isinstance(place, LakehouseSettings):
        settings = place
    else:
        raise ConfigError(
            f"embedded={place!r} is neither a path, nor settings, nor a store.",
            hint="Pass a folder, a LakehouseSettings or an open Store.",
        )
    from tickflight_server.store import Store  # late: a collector of a feed process has no use for it

    store: Any = Store(settings)
    return store, store.close
