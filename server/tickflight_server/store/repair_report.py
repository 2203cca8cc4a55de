"""The reports that repairs leave in ``_tickflight/damaged/<time>/report.json``: what was lost, set aside, taken in.

The rule of this file: a report is written before anything visible changes, with all that will be lost, and again when
all is done; so a repair that was killed is known, and no loss goes unsaid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tickflight_server.files import make_folder, sync_folder
from tickflight_server.paths import Layout
from tickflight_server.store.seqset import Range

REPORT = "report.json"
BEGUN, DONE = "begun", "done"


@dataclass
class LostPart:
    """A live part that could not be read: what the catalog said of it, and what came of its rows."""

    part: str
    exchange: str
    symbol: str
    day: str
    why: str
    rows: int
    rows_found: int
    rows_lost: int
    first_seq: int
    last_seq: int


@dataclass
class TableLoss:
    """What a repair did to one table.

    ``holes`` are the ranges of ``seq`` that no row has any more, ``rows_lost`` how many rows were lost in all, those in
    ``rejected`` included. ``parts_written`` are new; ``parts_written_anew`` could be read and were not what the catalog
    said. ``marks`` are the application transactions that it records.
    """

    rows_lost: int = 0
    holes: list[Range] = field(default_factory=list)
    parts_lost: list[LostPart] = field(default_factory=list)
    parts_taken_in: list[str] = field(default_factory=list)
    parts_written: list[str] = field(default_factory=list)
    parts_written_anew: list[str] = field(default_factory=list)
    rows_from_log: int = 0
    rows_twice: int = 0
    flushed_seq: int = 0
    version_before: int = -1
    version_read: int = -1
    marks: dict[str, int] = field(default_factory=dict)


@dataclass
class DamagedLog:
    """A log file that was set aside: ``stretches`` are offset, end and what is wrong there."""

    file: str
    stretches: list[tuple[int, int, str]]
    records_read: int
    rows_in_rejected: int = 0


@dataclass
class RepairReport:
    """All that a repair did, or is about to do while ``state`` is ``begun``."""

    state: str = BEGUN
    folder: str = ""
    log: list[DamagedLog] = field(default_factory=list)
    tables: dict[str, TableLoss] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows_lost(self) -> int:
        """Rows lost of all tables."""
        return sum(t.rows_lost for t in self.tables.values())

    def as_json(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        return {"rows_lost": self.rows_lost} | asdict(self)

    def add_loss(self, table: str, loss: dict[str, Any]) -> None:
        """Add what another report says of a table."""
        parts = [LostPart(**part) for part in loss.get("parts_lost", [])]
        holes = [(int(a), int(b)) for a, b in loss.get("holes", [])]
        self.tables[table] = TableLoss(**(loss | {"parts_lost": parts, "holes": holes}))

    def write(self, folder: Path) -> None:
        """Write the report into ``folder``; it is on disk, whole, when this returns."""
        make_folder(folder)
        self.rewrite(folder / REPORT, self.as_json())

    @staticmethod
    def rewrite(path: Path, report: dict[str, Any]) -> None:
        """Let ``report`` stand at ``path``; it is on disk, whole, when this returns."""
        aside = path.with_suffix(".new")
        data = json.dumps(report, indent=1).encode()
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        aside.rename(path)
        sync_folder(path.parent)


def earlier_reports(layout: Layout) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the reports of earlier repairs that can be read, each with its file, oldest first."""
    for path in sorted(layout.damaged.glob(f"*/{REPORT}")):
        try:
            report = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(report, dict):
            yield path, report


def known_holes(layout: Layout, table: str) -> list[Range]:
    """Return the ranges of ``seq`` that earlier repairs found lost, those that were killed included."""
    found: list[Range] = []
    for _, report in earlier_reports(layout):
        holes = report.get("tables", {}).get(table, {}).get("holes", [])
        found += [(int(a), int(b)) for a, b in holes]
    return found


def unfinished(layout: Layout) -> list[tuple[Path, dict[str, Any]]]:
    """Return the reports of repairs that were killed and that no later one ended."""
    return [(path, report) for path, report in earlier_reports(layout) if report.get("state") == BEGUN]
