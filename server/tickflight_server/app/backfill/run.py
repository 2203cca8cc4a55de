"""An import: file after file, chunk after chunk, each answered before the next one is sent.

The rule of this file: chunk N + 1 is sent only when chunk N is durable, so that the last number that the store knows of
a file says that all before it are there. The next chunk is read meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

import tickflight
from tickflight_server.app.backfill.chunks import Chunk, find_layout, read_chunks
from tickflight_server.app.backfill.files import SourceFile, find_files
from tickflight_server.app.backfill.identity import producer_id
from tickflight_server.app.backfill.layout import Layout, Rows, Wishes
from tickflight_server.app.backfill.progress import Shown
from tickflight_server.app.backfill.sinks import Ack, Sink, translate
from tickflight_server.errors import InputError, NotFoundError, ServerError, UnsupportedError
from tickflight_server.schemas import TIMESTAMP

NAMED_MAX = 20  # rejected lines that are shown of each file; all of them are in system.rejected
ANSWER_S = 900.0
REJECTED = "rejected"
_TEXT_MAX = 60_000


@dataclass
class Totals:
    """What came of the files so far."""

    files: int = 0
    lines: int = 0
    rows: int = 0
    rejected: int = 0
    repeated: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        """Add the counts of a file."""
        self.files += 1
        self.lines += other.lines
        self.rows += other.rows
        self.rejected += other.rejected
        self.repeated += other.repeated


@dataclass(frozen=True)
class _Sent:
    table: str
    rows: int
    place: str
    future: Future[Any]


def run_import(
    paths: tuple[Path, ...], wishes: Wishes, open_sink: Callable[[], Sink], say: Callable[[str], None]
) -> Totals:
    """Import files and folders of files; return what came of them, with the errors of those that failed.

    A file that cannot be read or has no known layout does not hold up the others.

    Raises:
        ServerError: there is nothing to import, or the rows have nowhere to go.
    """
    files, others = find_files(paths)
    if others:
        say(f"left out {len(others)} files of other kinds, {others[0].name} among them")
    totals = Totals()
    sink = open_sink()
    try:
        with Shown(say) as shown:
            for file in files:
                try:
                    totals.add(_FileImport(file, wishes, sink, shown).run())
                except (InputError, NotFoundError, UnsupportedError) as error:
                    totals.failed.append(str(error))
                    shown.line(f"{file.path}: not imported")
                finally:
                    sink.file_done()
    finally:
        sink.close()
    return totals


class _FileImport:
    """The import of one file."""

    def __init__(self, file: SourceFile, wishes: Wishes, sink: Sink, shown: Shown) -> None:
        self._file, self._wishes, self._sink, self._shown = file, wishes, sink, shown
        self._counts = Totals()
        self._named = 0
        self._waiting: list[_Sent] = []

    def run(self) -> Totals:
        """Import the file; return its counts when every row of it is durable.

        Raises:
            ServerError: it cannot be read, or the rows cannot be stored; a later run goes on from there.
        """
        started = time.monotonic()
        shown, file = self._shown, self._file
        shown.begin(f"{file.path.name} (check)", file.size)
        content = file.inspect(lambda at: shown.move(at, 0))
        if content.nbytes == 0:
            shown.line(f"{file.path}: empty")
            return self._counts
        layout = find_layout(file, self._wishes)
        producers = {table: producer_id(content, layout, table) for table in (*layout.tables, REJECTED)}
        shown.begin(file.path.name, file.size)
        self._send_all(layout, producers)
        counts = self._counts
        shown.line(
            f"{file.path}: {layout.name} to {', '.join(layout.tables)}: {counts.rows} rows, "
            f"{counts.rejected} rejected, {counts.repeated} repeated, {time.monotonic() - started:.1f} s"
        )
        return counts

    def _send_all(self, layout: Layout, producers: dict[str, bytes]) -> None:
        number = 0
        for number, (rows, rejected, place) in enumerate(self._converted(layout), 1):
            self._wait()
            self._send(rows, rejected, producers, number, place)
        self._wait()
        self._send(layout.finish(), None, producers, number + 1, "its last lines")
        self._wait()

    def _converted(self, layout: Layout) -> Iterator[tuple[list[Rows], pa.RecordBatch | None, str]]:
        """Yield each chunk's rows by table, its rejected rows, and which lines they are."""

        def moved(at: int) -> None:
            self._shown.move(at, self._counts.rows + self._counts.repeated)

        for chunk in read_chunks(self._file, layout, self._sink.numeric, moved):
            rows = layout.convert(chunk.cells)
            total = chunk.cells.rows + len(chunk.bad)
            if self._counts.lines == 0 and total == len(chunk.cells.faults) + len(chunk.bad):
                self._refuse(chunk)
            self._counts.lines += total
            self._counts.rejected += len(chunk.cells.faults) + len(chunk.bad)
            place = f"lines {chunk.lines[0]} to {chunk.lines[-1]}" if len(chunk.lines) else "lines without values"
            yield rows, self._rejected(chunk, rows, layout), place

    def _refuse(self, chunk: Chunk) -> None:
        """Refuse a file of whose first chunk nothing fits: it is something else than it was taken for."""
        line, _, reason = min(_faults(chunk))
        raise InputError(
            f"{self._file.path}, line {line}: {reason}; no line of the first {chunk.cells.rows + len(chunk.bad)} fits, "
            "so nothing was stored.",
            hint=None if "give --" in reason else "See the file; --format and --table say how to read it.",
        )

    def _rejected(self, chunk: Chunk, rows: list[Rows], layout: Layout) -> pa.RecordBatch | None:
        """Name the lines that do not fit and return them as rows of table ``rejected``."""
        faults = sorted(_faults(chunk))
        if not faults:
            return None
        for line, _, reason in faults[: max(0, NAMED_MAX - self._named)]:
            self._shown.line(f"{self._file.path}, line {line}: {reason}: rejected")
        self._named += len(faults)
        if self._named > NAMED_MAX >= self._named - len(faults):
            self._shown.line(f"{self._file.path}: further rejected lines are only counted; see system.rejected")
        exchange, symbol = _whose(rows, layout)
        now = time.time_ns() // 1000
        count = len(faults)
        times = pa.array([now] * count, pa.int64()).cast(TIMESTAMP)
        name = self._file.path.name
        columns = {
            "exchange": pa.array([exchange] * count),
            "symbol": pa.array([symbol] * count),
            "table": pa.array([layout.tables[0]] * count),
            "reason": pa.array([f"{name}, line {line}: {reason}" for line, _, reason in faults]),
            "row": pa.array([json.dumps({"file": name, "line": n, "text": t[:_TEXT_MAX]}) for n, t, _ in faults]),
            "timestamp": times,
            "receipt_timestamp": times,
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _send(
        self,
        rows: list[Rows],
        rejected: pa.RecordBatch | None,
        producers: dict[str, bytes],
        number: int,
        place: str,
    ) -> None:
        batches = [(table, batch) for table, batch in rows if batch.num_rows]
        if rejected is not None:
            batches.append((REJECTED, rejected))
        try:
            for table, batch in batches:
                future = self._sink.append(table, batch, producer=producers[table], sequence=number)
                self._waiting.append(_Sent(table, batch.num_rows, place, future))
        except tickflight.TickflightError as error:
            raise translate(error) from None

    def _wait(self) -> None:
        """Wait for the answers to a chunk and count them."""
        waiting, self._waiting = self._waiting, []
        for sent in waiting:
            ack = self._answer(sent)
            if sent.table == REJECTED:
                continue
            if ack.duplicate:
                self._counts.repeated += sent.rows
                continue
            self._counts.rows += sent.rows - ack.rejected
            self._counts.rejected += ack.rejected
            if ack.rejected:
                self._shown.line(f"{self._file.path}, {sent.place}: the server rejected {ack.rejected} rows")

    def _answer(self, sent: _Sent) -> Ack:
        try:
            ack: Ack = sent.future.result(ANSWER_S)
        except InputError as error:
            raise InputError(f"{self._file.path}, {sent.place}: {error.message}", hint=error.hint) from None
        except ServerError:
            raise
        except (tickflight.TickflightError, TimeoutError) as error:
            raise translate(error) from None
        return ack


def _faults(chunk: Chunk) -> list[tuple[int, str, str]]:
    """Return number, text and reason of every line that does not fit."""
    found = [(int(chunk.lines[row]), chunk.text(row), reason) for row, reason in chunk.cells.faults.items()]
    return found + chunk.bad


def _whose(rows: list[Rows], layout: Layout) -> tuple[str, str]:
    """Return the exchange and symbol that rejected lines are kept under: those of the rows beside them."""
    for _, batch in rows:
        if batch.num_rows:
            return str(batch.column("exchange")[0].as_py()), str(batch.column("symbol")[0].as_py())
    return layout.mapping.get("exchange") or "-", layout.mapping.get("symbol") or "-"
