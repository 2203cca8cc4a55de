"""Lists of records in a file of JSON: users, and API tokens.

    {"version": 1, "users": [{"name": …, …}, …]}

The rule of this file: a file that is not understood whole is refused whole, with the place; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from tickflight_server.errors import ConfigError
from tickflight_server.identity.secret_files import Stamp, changing, read_secret, stamp, write_secret
from tickflight_server.metrics import Metrics

LOG = structlog.get_logger(__name__)
VERSION = 1
Record = TypeVar("Record")


class RecordFile(Generic[Record]):
    """A file of records by name, read again when it has changed.

    Args:
        what: how the list is called in the file, and the records in messages.
        parse: makes a record of a mapping; raises ValueError or KeyError.
        serialize: the other way round.
        name: a record's name, which no other has.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        parse: Callable[[Mapping[str, Any]], Record],
        serialize: Callable[[Record], dict[str, Any]],
        name: Callable[[Record], str],
    ) -> None:
        self.path = path
        self._parse = parse
        self._serialize = serialize
        self._name = name
        self._stamp: Stamp = None
        self.what = what
        """What the records are called."""
        self.records: Mapping[str, Record] = {}

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

    def load(self) -> Mapping[str, Record]:
        """Read the file; without one there are no records.

        Raises:
            ConfigError: it cannot be read, or others may read it, or it is not such a file.
        """
        found = stamp(self.path)
        self.records = {} if found is None else self._read()
        self._stamp = found
        return self.records

    def refresh(self, metrics: Metrics) -> Mapping[str, Record] | None:
        """Read the file if it has changed; return its records then, else None.

        One that cannot be used any more lets nobody in: what it said before may have been taken back since.
        """
        found = stamp(self.path)
        if found == self._stamp:
            return None
        self._stamp = found
        try:
            self.records = {} if found is None else self._read()
        except ConfigError as error:
            metrics.add("identity_files_refused")
            LOG.error("identity.file_refused", file=self.path.name, error=str(error))
            self.records = {}
        else:
            LOG.info("identity.file_read", file=self.path.name, records=len(self.records))
        return self.records

    def change(self, change: Callable[[dict[str, Record]], None]) -> None:
        """Change the records by ``change``, while nobody else does, and write them.

        Raises:
            ConfigError: the file cannot be read or written.
        """
        with changing(self.path):
            records = dict(self.load())
            change(records)
            rows = [self._serialize(record) for _, record in sorted(records.items())]
            text = json.dumps({"version": VERSION, self.what: rows}, indent=1, ensure_ascii=False)
            write_secret(self.path, f"{text}\n".encode())
            self.load()

    def _read(self) -> dict[str, Record]:
        data = read_secret(self.path)
        try:
            document = json.loads(data)
            version, rows = document["version"], document[self.what]
            if version != VERSION or not isinstance(rows, list):
                raise ValueError(f"version {version!r} is not known")
            return self._unique(self._parse(row) for row in rows)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            detail = str(error) if type(error) is ValueError else type(error).__name__
            raise ConfigError(
                f"{self.path} is no file of {self.what}: {detail}.",
                hint=f"Restore it, or make it anew with `tickflight-server {self.what} add`.",
            ) from None

    def _unique(self, records: Iterable[Record]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for record in records:
            name = self._name(record)
            if name in found:
                raise ValueError(f"{name!r} is there twice")
            found[name] = record
        return found
