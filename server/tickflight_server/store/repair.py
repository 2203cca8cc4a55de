"""Repair a data folder: make it start again with every row that can be read, and say exactly what is lost.

The rule of this file: prepare, write down, change. What is prepared is nobody's; the report of what will be lost is on
disk before anything visible changes; each change is one rename or one commit, and a repair that was killed between
two of them can be run again. Nothing is deleted. The page is proto-notes/repair.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import StorageError
from tickflight_server.files import make_folder, sync_folder
from tickflight_server.store.check import Checker
from tickflight_server.store.delta_log import FOLDER
from tickflight_server.store.log_scan import FileScan, read_log
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.repair_log import Fragments
from tickflight_server.store.repair_report import DONE, REPORT, DamagedLog, RepairReport, earlier_reports, unfinished
from tickflight_server.store.repair_table import TableRepair
from tickflight_server.store.seqset import Range, SeqSet
from tickflight_server.store.tier import file_checksum
from tickflight_server.store.version_scan import HINT, marks_of, probe

LOG = structlog.get_logger(__name__)
SUPERSEDED = "superseded"  # a repair that was killed, and that a later one ended
REJECTED = "rejected"
_STAGE, _PROBE = "prepared", "probe"  # folders of a repair's own, gone when it is done
Step = Callable[[], None]


def repair_folder(settings: LakehouseSettings) -> RepairReport:
    """Repair the data folder, which the caller holds; return what was done and lost.

    Raises:
        ConfigError: this is no data folder.
        StorageError: it cannot be read, written, or understood; nothing is lost by trying.
    """
    repair = Repair(settings)
    try:
        repair.prepare()
        for step in repair.steps():
            step()
    except OSError as error:
        raise StorageError(
            f"the repair stopped: {error.filename or 'a file'}: {error.strerror or error}.",
            hint="Free space or mend the permissions and run it again: it goes on where it was.",
        ) from None
    return repair.report


class Repair:
    """One repair: ``prepare``, then each of ``steps`` in order."""

    def __init__(self, settings: LakehouseSettings) -> None:
        self._settings = settings
        self._checker = Checker(settings)
        self._layout = self._checker.layout
        self._place = _new_folder(self._layout.damaged)
        self._repairs: dict[str, TableRepair] = {}
        self._aside: list[Path] = []  # log files to set aside
        self._versions: dict[str, list[Path]] = {}  # files of a table's Delta log to set aside, in this order
        self._old: list[tuple[Path, dict[str, Any]]] = []
        self.report = RepairReport(folder=str(self._place))

    # --- prepare: nothing visible changes

    def prepare(self) -> None:
        """Find out what to do and write what will be needed; until ``steps`` nobody sees any of it."""
        checker = self._checker
        found = checker.run()
        for place in self._layout.damaged.glob("*"):
            if not (place / REPORT).exists():
                _clear(place)  # of a repair that was killed before it changed anything
        self._restore_writer()
        self._old = unfinished(self._layout)
        if refused := [f for f in found.findings if f.kind == "version.refused"]:
            raise StorageError(f"table {refused[0].table} cannot be repaired: {refused[0].what}.", hint=refused[0].todo)
        for name, scan in checker.tables.items():
            if not scan.readable:
                self._fall_back(name)
        files = [f for f in checker.log.files if not f.usable]
        self._aside = [f.path for f in files]
        for table, rows in checker.log.unknown.items() if files else ():
            self.report.notes.append(f"the log holds {rows} rows of table {table}, which this version does not know")
        for name in checker.schemas:
            if self._needs(name, log_broken=bool(files)):
                self._repairs[name] = self._make(name)
                self._repairs[name].prepare()
        self._read_log(files)
        for repair in self._repairs.values():
            repair.write()
        self._tell(files)

    def _restore_writer(self) -> None:
        """Write the folder's identity again if it is gone and its log and tables agree on it."""
        checker = self._checker
        if not any(f.kind == "writer.missing" for f in checker.report.findings):
            return
        if checker.writer is None:
            raise StorageError(
                "the identity of the folder is missing, and its log and tables do not agree on it.",
                hint="Restore _tickflight/writer from a backup.",
            )
        aside = self._layout.writer.with_suffix(".new")
        _write(aside, f"{checker.writer}\n".encode())
        aside.rename(self._layout.writer)
        sync_folder(self._layout.internal)
        self.report.notes.append(f"the folder's identity, {checker.writer}, was written again")

    def _fall_back(self, name: str) -> None:
        """Read the newest version of a table that can be read, and note which files stand in its way."""
        checker = self._checker
        scan = checker.tables[name]
        place = self._place / _PROBE / name
        version = probe(scan.folder, scan.versions, place, lambda folder: checker.load(scan, folder))
        assert scan.version == version
        checker.scan_table(scan)
        folder = scan.folder / FOLDER
        later = [p for p in folder.iterdir() if p.name[:20].isdigit() and int(p.name[:20]) > version]
        broken = [folder / n for n in scan.versions.broken if n != HINT]
        hint = [folder / HINT] if (folder / HINT).exists() else []
        # the newest first: whatever is left after a kill is a run of versions without a hole
        self._versions[name] = hint + sorted({*later, *broken}, reverse=True)
        if version < scan.versions.newest:
            self.report.notes.append(
                f"table {name}: version {scan.versions.newest} cannot be read, version {version} can"
            )

    def _needs(self, name: str, *, log_broken: bool) -> bool:
        scan = self._checker.tables[name]
        last = max(scan.target, self._checker.log.last_seq(name))
        wrong = any(f.table == name and f.severity == "error" for f in self._checker.report.findings)
        return wrong or not scan.readable or name in self._versions or (log_broken and last > scan.flushed)

    def _make(self, name: str) -> TableRepair:
        checker = self._checker
        scan = checker.tables[name]
        if checker.writer is None:
            raise StorageError(
                "the identity of the folder is missing, and nothing says what it was.",
                hint="Restore _tickflight/writer from a backup.",
            )
        return TableRepair(
            scan,
            self._settings,
            checker.writer,
            log_rows=SeqSet(checker.log.runs.get(name, ())),
            log_last=checker.log.last_seq(name),
            holes=self._known_holes(name, scan.version),
            expired_us=checker.expired_us(scan),
            stage=self._place / _STAGE / name,
            ignored=[p for _, r in self._old for p in r.get("tables", {}).get(name, {}).get("parts_written", [])],
        )

    def _known_holes(self, name: str, version: int) -> list[Range]:
        """Return what earlier repairs lost for good: of one that was killed, only if it came to its commit."""
        found: list[Range] = []
        for _, report in earlier_reports(self._layout):
            loss = report.get("tables", {}).get(name, {})
            if report.get("state") == DONE or version > loss.get("version_read", -1):
                found += [(int(a), int(b)) for a, b in loss.get("holes", [])]
        return found

    def _read_log(self, files: list[FileScan]) -> None:
        """Offer every record to its table, and gather what damaged ones still say."""
        flushed = {name: scan.flushed for name, scan in self._checker.tables.items()}
        fragments = Fragments(self._settings.numeric_type, flushed, self._checker.schemas)
        if self._repairs or files:
            for _, item in read_log(self._layout.log, self._checker.writer, [], lambda *_: None):
                if not isinstance(item, AppendRecord):
                    fragments.add(item)
                    continue
                fragments.saw(item)
                if item.table in self._repairs:
                    self._repairs[item.table].offer(item)
        self._settle(fragments)
        self._reject(fragments, files)

    def _settle(self, fragments: Fragments) -> None:
        reserved: dict[str, int] = {}
        for fragment in fragments.found:
            reserved[fragment.table] = max(reserved.get(fragment.table, 0), fragment.last_seq)
        for name, last in reserved.items():
            # the last rows of a table may be in a damaged record alone
            if name not in self._repairs and name in self._checker.tables and last > self._checker.tables[name].flushed:
                assert self._checker.log.last_seq(name) <= self._checker.tables[name].flushed, "its log was offered"
                self._repairs[name] = self._make(name)
        for name, repair in self._repairs.items():
            repair.settle(reserved.get(name, 0), self._marks(name))

    def _marks(self, name: str) -> dict[str, int]:
        """Return the marks of versions that are set aside, now or by a repair that was killed."""
        found: dict[str, int] = {}
        reports = [r.get("tables", {}).get(name, {}).get("marks", {}) for _, r in self._old]
        for marks in [*reports, *(marks_of(p) for p in self._versions.get(name, ()) if p.suffix == ".json")]:
            for mark, number in marks.items():
                found[mark] = max(number, found.get(mark, 0))
        return found

    def _reject(self, fragments: Fragments, files: list[FileScan]) -> None:
        """Put what is lost and can be read in fragments into table ``rejected``, once a file."""
        scan = self._checker.tables[REJECTED]
        marks: dict[str, bytes] = {}
        for file in files:
            mark = f"repair/{file.name}/{file_checksum(file.path)}".encode()
            if scan.catalog is None or not scan.catalog.producer_sequence(mark):
                marks[file.name] = mark
        holes = {name: SeqSet(repair.loss.holes) for name, repair in self._repairs.items()}
        counts: dict[str, int] = {}
        now_us = time.time_ns() // 1000
        for name, batch in fragments.batches(holes, set(marks), now_us):
            if REJECTED not in self._repairs:
                assert self._checker.log.last_seq(REJECTED) <= scan.flushed, "its log was offered"
                self._repairs[REJECTED] = self._make(REJECTED)
                self._repairs[REJECTED].settle(0, {})
            self._repairs[REJECTED].add_rows(batch)
            self._repairs[REJECTED].producers[marks[name]] = 1
            counts[name] = counts.get(name, 0) + batch.num_rows
        for file in files:
            stretches = file.damages or [(0, file.size, file.foreign or "")]
            self.report.log.append(DamagedLog(file.name, stretches, file.records, counts.get(file.name, 0)))

    def _tell(self, files: list[FileScan]) -> None:
        for name, repair in self._repairs.items():
            repair.loss.marks = repair.mark_names()
            repair.loss.parts_written = repair.written
            self.report.tables[name] = repair.loss
        moves = [*(f.path for f in files), *(p for paths in self._versions.values() for p in paths)]
        moves += [r.scan.folder / p for r in self._repairs.values() for p in r.to_set_aside()]
        self.report.set_aside = [str(p.relative_to(self._layout.root)) for p in moves]
        self._take_over()

    def _take_over(self) -> None:
        """Add to the report what a repair that was killed had done before."""
        for path, old in self._old:
            self.report.notes.append(f"ends the repair {path.parent.name}, which was killed")
            self.report.set_aside += [p for p in old.get("set_aside", []) if p not in self.report.set_aside]
            now = {f.file: f for f in self.report.log}
            for file in [DamagedLog(**f) for f in old.get("log", [])]:
                if file.file not in now:
                    self.report.log.append(file)
                else:
                    now[file.file].rows_in_rejected = max(now[file.file].rows_in_rejected, file.rows_in_rejected)
            for name, loss in old.get("tables", {}).items():
                if name not in self.report.tables:
                    self.report.add_loss(name, loss)

    # --- steps: each is atomic, and all of them may be run again

    def steps(self) -> Iterator[Step]:
        """Yield what is to be done, in order; without anything to do, nothing."""
        changed = [n for n, r in self._repairs.items() if r.changes]
        lost = any(r.loss.rows_lost or r.set_aside for r in self._repairs.values())
        if not (changed or lost or self._aside or self._versions or self._old or self.report.notes):
            self.report.notes.append("there was nothing to repair")
            self.report.state = DONE
            _clear(self._place)
            return
        yield lambda: self.report.write(self._place)
        for paths in self._versions.values():
            for path in paths:
                yield self._move(path)
        # what can be read in fragments is safe before the tables forget that they miss it
        for name in sorted(changed, key=lambda n: n != REJECTED):
            yield self._repairs[name].commit
        for repair in self._repairs.values():
            for relative in repair.to_set_aside():
                yield self._move(repair.scan.folder / relative)
        for path in self._aside:
            yield self._move(path)
        yield self._finish

    def _move(self, path: Path) -> Step:
        def move() -> None:
            if not path.exists():
                return
            target = self._place / path.relative_to(self._layout.root)
            make_folder(target.parent)
            path.rename(target)
            sync_folder(target.parent)
            sync_folder(path.parent)

        return move

    def _finish(self) -> None:
        for place in (self._place, *(path.parent for path, _ in self._old)):
            _clear(place)
        self.report.state = DONE
        self.report.write(self._place)
        for path, old in self._old:
            RepairReport.rewrite(path, old | {"state": SUPERSEDED, "ended_by": self._place.name})
        LOG.info("repair.done", rows_lost=self.report.rows_lost, folder=str(self._place))


def _clear(place: Path) -> None:
    """Remove what a repair needed only while it worked."""
    for name in (_STAGE, _PROBE):
        shutil.rmtree(place / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        place.rmdir()


def _new_folder(damaged: Path) -> Path:
    """Return a folder for this repair, named by the time, that is not there yet."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while (place := damaged / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return place


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
