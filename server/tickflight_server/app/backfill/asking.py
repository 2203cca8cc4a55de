"""Whom an export asks: a running server, or a data folder opened here.

The rule of this file: an answer streams; nothing here keeps rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pyarrow as pa

import tickflight
from tickflight_server.app.backfill.sinks import open_store, translate
from tickflight_server.config import Settings
from tickflight_server.errors import ConfigError
from tickflight_server.query.engine import Engine

Answer = tuple[pa.Schema, Iterator[pa.RecordBatch]]


class Asker(Protocol):
    """Runs queries."""

    def ask(self, sql: str, parameters: Mapping[str, Any]) -> AbstractContextManager[Answer]:
        """Give a query's schema and its rows as they come."""

    def close(self) -> None:
        """Let go."""


class ServerAsker:
    """Asks a running server."""

    def __init__(self, client: tickflight.Client) -> None:
        self._client = client

    @contextmanager
    def ask(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[Answer]:
        """Give a query's schema and its rows as they come.

        Raises:
            ServerError: the statement is wrong, or the server went away.
        """
        try:
            with self._client.sql(sql, parameters or None) as result:
                yield result.schema, iter(result)
        except tickflight.TickflightError as error:
            raise translate(error) from None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class FolderAsker:
    """Asks a data folder that no server uses.

    Raises:
        ConfigError: there is no such folder, or it is in use.
    """

    def __init__(self, settings: Settings) -> None:
        folder = settings.lakehouse.storage_path
        if not folder.is_dir():
            raise ConfigError(f"there is no data folder {folder}.", hint="Give --storage-path, --config or --address.")
        self._store = open_store(settings.lakehouse)
        try:
            self._engine = Engine(self._store, settings.query)
        except BaseException:
            self._store.close(flush=False)
            raise

    @contextmanager
    def ask(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[Answer]:
        """Give a query's schema and its rows as they come.

        Raises:
            ServerError: the statement is wrong, or reading failed.
        """
        with self._engine.execute(self._engine.plan(sql, dict(parameters) or ())) as execution:
            yield execution.reader.schema, execution.batches()

    def close(self) -> None:
        """Let the folder go as it was."""
        self._engine.close()
        self._store.close(flush=False)
