"""An export: a table or a query into a file, or a table into a folder of files.

The rule of this file: rows of a table come in order of ``seq``, in steps of bounded size, up to the last ``seq`` that
was there at the start; memory holds one step.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tickflight_server.app.backfill.asking import Asker
from tickflight_server.app.backfill.formats import Output, format_of
from tickflight_server.app.backfill.own import TABLE_KEY
from tickflight_server.app.backfill.progress import Shown
from tickflight_server.errors import InputError, NotFoundError, StorageError
from tickflight_server.paths import encode_component
from tickflight_server.schemas import STORED, TableSchema

KEYS = ("day", "exchange", "symbol")
STEP_ROWS = 131_072  # aimed rows of a step
STEP_ROWS_LISTS = 8_192  # the same of tables with lists, whose rows are large
STEP_GROWTH_MAX = 16  # a step may span so many times as many numbers where few rows match


@dataclass(frozen=True)
class Selection:
    """Which rows: of these exchanges and symbols (none is all), not before ``since``, before ``until`` (UTC)."""

    since: datetime | None = None
    until: datetime | None = None
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def condition(self) -> tuple[str, dict[str, Any]]:
        """Return it as SQL and the values of its parameters."""
        parts, values = ["true"], dict[str, Any]()
        if self.since is not None:
            parts.append("timestamp >= $since")
            values["since"] = self.since
        if self.until is not None:
            parts.append("timestamp < $until")
            values["until"] = self.until
        for column, wanted in (("exchange", self.exchanges), ("symbol", self.symbols)):
            names = {f"{column}{i}": value for i, value in enumerate(wanted)}
            if names:
                parts.append(f"{column} IN ({', '.join(f'${n}' for n in names)})")
                values |= names
        return " AND ".join(parts), values


@dataclass(frozen=True)
class Request:
    """What to export, and where to."""

    output: Path
    table: str | None = None
    sql: str | None = None
    format: str | None = None
    selection: Selection = field(default_factory=Selection)
    partition_by: tuple[str, ...] = ()
    force: bool = False


@dataclass
class Written:
    """What was written."""

    rows: int = 0
    files: int = 0
    nbytes: int = 0
    seconds: float = 0.0


def run_export(request: Request, open_asker: Callable[[], Asker], say: Callable[[str], None]) -> Written:
    """Export; the output is there when this returns, and untouched if it raises.

    Raises:
        ServerError: the request, the statement, the source or the disk; nothing is left behind.
    """
    started = time.monotonic()
    table = _check(request)
    asker = open_asker()
    try:
        with Shown(say) as shown, _hidden(request.output) as hidden:
            job = _Job(request, asker, shown, hidden)
            written = job.query() if table is None else job.table(table)
    finally:
        asker.close()
    written.seconds = time.monotonic() - started
    return written


def _check(request: Request) -> TableSchema | None:
    """Refuse what cannot be done before anything is opened; return the table, None for a query."""
    if (request.table is None) == (request.sql is None):
        raise InputError("nothing to export, or two things.", hint="Name a table, or give --sql, not both.")
    output = request.output
    if request.partition_by:
        if output.exists() and not output.is_dir():
            raise InputError(f"{output} is a file.", hint="With --partition-by, --output is a folder.")
        if output.is_dir() and any(output.iterdir()) and not request.force:
            raise InputError(
                f"the folder {output} is not empty.", hint="Give --force to write into it, or another one."
            )
    elif output.is_dir():
        raise InputError(f"{output} is a folder.", hint="Name a file, or give --partition-by.")
    elif output.exists() and not request.force:
        raise InputError(f"{output} exists.", hint="Give --force to replace it, or another name.")
    if request.sql is not None:
        if request.partition_by or request.selection != Selection():
            raise InputError("a query is exported as it is.", hint="Write the conditions into the query.")
        return None
    name = str(request.table)
    found = STORED.get(name.rpartition(".")[2])
    if found is None or name.rpartition(".")[0] not in ("", found.schema):
        raise NotFoundError(
            f"there is no stored table {name!r}.", hint=f"Tables are {', '.join(STORED)}; or use --sql."
        )
    return found


@contextmanager
def _hidden(output: Path) -> Iterator[Path]:
    """Give a folder beside the output for what is not complete yet; it is removed in the end."""
    folder = output.absolute().parent / f".{output.name}.{os.getpid()}.partial"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Job:
    def __init__(self, request: Request, asker: Asker, shown: Shown, hidden: Path) -> None:
        self._request, self._asker, self._shown, self._hidden = request, asker, shown, hidden
        self._written = Written()

    def query(self) -> Written:
        """Write a query's rows, in the order in which they come."""
        request = self._request
        self._shown.begin(request.output.name, 0)
        with self._asker.ask(str(request.sql), {}) as (schema, batches):
            output = Output(self._hidden / "rows", request.output.name, self._format(request.output), schema)
            for batch in batches:
                self._write(output, batch)
        self._written.nbytes += output.finish()
        self._publish(self._hidden / "rows", request.output)
        return self._written

    def table(self, table: TableSchema) -> Written:
        """Write a table's rows, to one file or to one for each partition; return when all have their names."""
        request = self._request
        last = self._bounds(table, *request.selection.condition())[1]
        condition, values = request.selection.condition()
        condition, values = f"{condition} AND seq <= $last", values | {"last": last}
        if not request.partition_by:
            self._file(table, condition, values, self._hidden / "rows", request.output)
            self._publish(self._hidden / "rows", request.output)
            return self._written
        ending = f".{self._format(Path('x'))}"
        finished: list[tuple[Path, Path]] = []
        for number, (folder, extra, more) in enumerate(self._partitions(table, condition, values)):
            path = request.output / folder / f"{table.name}{ending}"
            hidden = self._hidden / str(number)
            self._file(table, f"{condition} AND {extra}", values | more, hidden, path)
            finished.append((hidden, path))
        for hidden, path in finished:
            self._publish(hidden, path)
        return self._written

    def _format(self, path: Path) -> str:
        return format_of(path, self._request.format)

    def _file(self, table: TableSchema, condition: str, values: Mapping[str, Any], hidden: Path, path: Path) -> None:
        self._shown.begin(path.name if not self._request.partition_by else str(path.parent), 0)
        output: Output | None = None
        for schema, batch in self._steps(table, condition, values):
            if output is None:
                named = schema.with_metadata({TABLE_KEY: table.name.encode()})
                output = Output(hidden, path.name, self._format(path), named)
            if batch is not None:
                self._write(output, batch)
        assert output is not None, "the schema comes before the rows"
        self._written.nbytes += output.finish()

    def _write(self, output: Output, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            output.write(batch)
            self._written.rows += batch.num_rows
            self._shown.move(output.size(), self._written.rows)

    def _steps(
        self, table: TableSchema, condition: str, values: Mapping[str, Any]
    ) -> Iterator[tuple[pa.Schema, pa.RecordBatch | None]]:
        """Yield the schema, then the rows in order of ``seq``, each with it."""
        columns = ", ".join(f'"{c.name}"' for c in table.columns)
        query = f'SELECT {columns} FROM {table.schema}."{table.name}" WHERE {condition}'
        with self._asker.ask(f"{query} LIMIT 0", values) as (schema, _):
            yield schema, None
        low, high = self._bounds(table, condition, values)
        aimed = STEP_ROWS_LISTS if any(c.kind in ("numbers", "texts") for c in table.columns) else STEP_ROWS
        span = aimed
        while low <= high:
            step = {"low": low, "high": min(low + span - 1, high)}
            rows = 0
            with self._asker.ask(f"{query} AND seq BETWEEN $low AND $high ORDER BY seq", {**values, **step}) as (
                _,
                got,
            ):
                for batch in got:
                    rows += batch.num_rows
                    yield schema, batch
            low += span
            # where few rows match, the next step looks at more numbers
            span = min(span * 2, aimed * STEP_GROWTH_MAX) if rows < aimed // 4 else max(aimed, span // 2)

    def _bounds(self, table: TableSchema, condition: str, values: Mapping[str, Any]) -> tuple[int, int]:
        """Return the first and last ``seq`` of the rows that match; the last is below the first if there is none."""
        query = f'SELECT min(seq) AS low, max(seq) AS high FROM {table.schema}."{table.name}" WHERE {condition}'
        (row,) = self._rows(query, values)
        return (1, 0) if row["low"] is None else (row["low"], row["high"])

    def _partitions(
        self, table: TableSchema, condition: str, values: Mapping[str, Any]
    ) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        """Yield folder, condition and values of each partition that has rows."""
        terms = {"day": "CAST(timestamp AS DATE) AS day", "exchange": "exchange", "symbol": "symbol"}
        keys = self._request.partition_by
        chosen = ", ".join(terms[k] for k in keys)
        query = f'SELECT DISTINCT {chosen} FROM {table.schema}."{table.name}" WHERE {condition} ORDER BY ALL'
        for row in self._rows(query, values):
            folder, parts, more = Path(), [], dict[str, Any]()
            for key in keys:
                folder /= f"{key}={encode_component(str(row[key]))}"
                if key == "day":
                    start = datetime.combine(row[key], datetime.min.time())
                    parts.append("timestamp >= $day_start AND timestamp < $day_end")
                    more |= {"day_start": start, "day_end": start + timedelta(days=1)}
                else:
                    parts.append(f"{key} = $the_{key}")
                    more[f"the_{key}"] = row[key]
            yield folder, " AND ".join(parts), more

    def _rows(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._asker.ask(query, values) as (_, batches):
            return [row for batch in batches for row in batch.to_pylist()]

    def _publish(self, hidden: Path, path: Path) -> None:
        """Give a complete file its name."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._request.force:
                hidden.replace(path)
            else:
                _rename_new(hidden, path)
        except FileExistsError:
            raise InputError(f"{path} exists by now.", hint="Give --force to replace it, or another name.") from None
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}.", hint="Check --output.") from None
        self._written.files += 1


def _rename_new(hidden: Path, path: Path) -> None:
    """Rename unless the name is taken; where there are no hard links, a name taken in this instant is lost."""
    try:
        path.hardlink_to(hidden)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError from None
        hidden.rename(path)
