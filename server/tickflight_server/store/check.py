"""Check a data folder: log, versions, parts and rows, against each other.

The rule of this file: it reads and never writes, and holds one log file or one part in memory at a time. What it says
is what the server would find, and what the server would not find before somebody asks for the rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import ConfigError, StorageError
from tickflight_server.paths import Layout, parse_part_file_name
from tickflight_server.schemas import STORED, TableSchema
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.check_files import find_foreign, find_writer, judge_unlisted
from tickflight_server.store.evolution import adapt
from tickflight_server.store.findings import CheckReport, TableFacts
from tickflight_server.store.log_scan import LogScan, Tick, read_log, scan_log
from tickflight_server.store.part_scan import PartScan, Unlisted, first_line, name_unlisted, scan_part, scan_unlisted
from tickflight_server.store.partition import DAY_US
from tickflight_server.store.parts import EMPTY, Ints, PartIndex
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.repair_report import known_holes, unfinished
from tickflight_server.store.ring import add_seq
from tickflight_server.store.seqset import Range, SeqSet, count, show, to_ranges
from tickflight_server.store.vacuum import part_files
from tickflight_server.store.version_scan import VersionFiles, removed_parts, scan_versions


@dataclass
class TableScan:
    """What is in one table's folder. Parts are named by their places in ``index``.

    ``have`` are the rows of the live parts that can be read; ``lost`` are the others. ``twice`` are rows of a part that
    one before it has too.
    """

    schema: TableSchema
    folder: Path
    versions: VersionFiles
    index: PartIndex = EMPTY
    flushed: int = 0
    version: int = -1
    evolved_seq: int = -1
    readable: bool = True
    catalog: TableCatalog | None = None
    have: SeqSet = field(default_factory=SeqSet)
    scans: dict[int, PartScan] = field(default_factory=dict)
    twice: dict[int, Ints] = field(default_factory=dict)
    unlisted: list[Unlisted] = field(default_factory=list)

    @property
    def lost(self) -> list[int]:
        """Live parts whose rows cannot be read."""
        return [place for place, scan in self.scans.items() if scan.lost]

    @property
    def target(self) -> int:
        """Up to where flushes have looked at rows."""
        return int(max([self.flushed, *self.index.last.tolist()]))

    def remote_ranges(self) -> list[Range]:
        """Return where the rows of the parts lie that are on another storage and were not read."""
        index = self.index
        places = [place for place, path in enumerate(index.path) if "://" in path]
        return [(int(index.min_seq[p]), int(index.max_seq[p])) for p in places]


class Checker:
    """Looks through one data folder, which the caller holds, and gathers what it finds in ``report``.

    Args:
        quick: leave out the contents of parts.
        tick: told what was read, and how many bytes of it.
    """

    def __init__(
        self,
        settings: LakehouseSettings,
        *,
        quick: bool = False,
        tick: Tick = lambda *_: None,
        tables: Mapping[str, TableSchema] = STORED,
    ) -> None:
        self.settings = settings
        self.layout = Layout(settings.storage_path.absolute())
        self.schemas = tables
        self.quick = quick
        self.tick = tick
        self.report = CheckReport(str(self.layout.root), quick)
        self.writer: UUID | None = None
        self.log = LogScan()
        self.tables: dict[str, TableScan] = {}

    def run(self) -> CheckReport:
        """Check everything; return what was found.

        Raises:
            ConfigError: this is no data folder.
            StorageError: a file cannot be read at all.
        """
        if not self.layout.internal.is_dir():
            raise ConfigError(f"{self.layout.root} is no data folder.", hint="Give --storage-path or --config.")
        self.writer = find_writer(self.layout, self.report, list(self.schemas))
        self.log = scan_log(self.layout.log, self.writer, self.tick, known=frozenset(self.schemas))
        self._tell_log()
        for name in self.schemas:
            scan = self.tables[name] = self.scan_versions(name)
            if scan.readable:
                self.scan_table(scan)
                self._tell_rows(scan)
        if not self.quick:
            self._check_log_against_parts()
        for path, _ in unfinished(self.layout):
            file = str(path.relative_to(self.layout.root))
            self.report.add("repair.unfinished", "a repair was killed before its end", file=file)
        find_foreign(self.layout, self.report, list(self.schemas))
        return self.report

    # --- the log

    def _tell_log(self) -> None:
        report, log = self.report, self.log
        report.log_files, report.log_bytes = len(log.files), sum(f.size for f in log.files)
        report.log_records = sum(f.records for f in log.files)
        for file in log.files:
            name = str(file.path.relative_to(self.layout.root))
            if file.foreign is not None:
                report.add("log.foreign", file.foreign, file=name)
            for offset, end, what in file.damages:
                report.add("log.damaged", f"{what}; {end - offset} bytes", file=name, offset=offset)
            if file.torn_at is not None:
                text = f"the last {file.size - file.torn_at} bytes are no whole record"
                report.add("log.torn_tail", text, file=name, offset=file.torn_at)
        for name, table, first, last in log.overlaps:
            text = f"rows {first} to {last} begin before the end of the record before them"
            report.add("log.overlap", text, file=f"{self.layout.log.relative_to(self.layout.root)}/{name}", table=table)
        for table, rows in log.unknown.items():
            report.add("log.unknown_table", f"{rows} rows of a table that this version does not know", table=table)

    # --- one table

    def scan_versions(self, name: str) -> TableScan:
        """Read a table's newest version; the scan is not ``readable`` if that cannot be done."""
        folder = self.layout.table(name)
        scan = TableScan(self.schemas[name], folder, scan_versions(folder))
        broken = scan.versions.broken
        for file, what in scan.versions.bad.items():
            kind = "version.empty" if what == "it is empty" else "version.unreadable"
            self.report.add(kind if file in broken else "version.damaged_old", what, table=name, file=file)
        try:
            self.load(scan, folder)
        except StorageError as error:
            scan.readable = False
            if not broken:
                kind = "version.unreadable" if error.message.startswith("cannot read") else "version.refused"
                self.report.add(kind, error.message.rstrip("."), table=name)
            return scan
        # a damaged newest version may read like the one before it
        scan.readable = not broken
        return scan

    def load(self, scan: TableScan, folder: Path) -> None:
        """Read the newest version in ``folder`` into ``scan``.

        Raises:
            StorageError: as for ``TableCatalog.load``.
        """
        writer = self.writer or UUID(int=0)
        catalog = TableCatalog(folder, scan.schema, writer, self.settings.numeric_type, self.settings.vacuum_hours)
        try:
            scan.index, scan.flushed = catalog.load()
        except (ValueError, KeyError, OverflowError) as error:  # valid JSON, and not what was written
            raise StorageError(f"cannot read table {scan.schema.name}: {first_line(error)}.") from None
        if any(not np.issubdtype(getattr(scan.index, n).dtype, np.integer) for n in PartIndex.COLUMNS[1:]):
            raise StorageError(f"cannot read table {scan.schema.name}: a part's statistics are damaged.")
        for path in scan.index.path:
            name = path.rpartition("/")[2]
            if "://" not in path and parse_part_file_name(name) is None and not (scan.folder / path).exists():
                raise StorageError(f"cannot read table {scan.schema.name}: it lists {name!r}, which is no part.")
        scan.version, scan.evolved_seq, scan.catalog = catalog.version, catalog.evolved_seq, catalog
        scan.readable = True

    def scan_table(self, scan: TableScan) -> None:
        """Look at every part of a table, listed or not."""
        name = scan.schema.name
        schema = scan.schema.arrow(self.settings.numeric_type)
        index = scan.index
        for place in np.lexsort((index.max_seq, index.min_seq)).tolist():
            part = index.part(place)
            evolved = bool(index.last[place] <= scan.evolved_seq)
            found = scan_part(scan.folder, part, schema, evolved=evolved, quick=self.quick)
            if found.problems:
                scan.scans[place] = found
            for problem, what in found.problems:
                self.report.add(problem, f"{what} (rows {part.min_seq} to {part.max_seq})", table=name, part=part.path)
            if found.seq is not None:
                twice = scan.have.add(found.seq)
                if len(twice):
                    scan.twice[place] = twice
                    text = f"{len(twice)} rows are in another part too: {show(to_ranges(twice))}"
                    self.report.add("rows.twice", text, table=name, part=part.path)
                found.seq = None
            self.tick(part.path.rpartition("/")[2], part.nbytes)
        self._scan_unlisted(scan)

    def _scan_unlisted(self, scan: TableScan) -> None:
        live = set(scan.index.path.tolist())
        found = sorted(relative for relative in part_files(scan.folder) if relative not in live)
        removed = removed_parts(scan.versions, scan.version) if found else set()
        last = max(scan.target, self.log.last_seq(scan.schema.name))
        known = self.known_rows(scan)
        expired_us = self.expired_us(scan)
        for relative in found:
            if self.quick:
                item = name_unlisted(relative, removed=relative in removed)
            else:
                item = scan_unlisted(scan.folder, relative, removed=relative in removed)
            scan.unlisted.append(item)
            kind, text = judge_unlisted(scan.folder, item, known, last, expired_us, scan.flushed)
            self.report.add(kind, text, table=scan.schema.name, part=relative)

    def known_rows(self, scan: TableScan) -> SeqSet:
        """Return the rows of a table that are in a live part or that the log gives back."""
        known = scan.have.copy()
        runs = self.log.runs.get(scan.schema.name, ())
        known.add_ranges((max(first, scan.flushed + 1), last) for first, last in runs)
        return known

    def expired_us(self, scan: TableScan) -> int:
        """Return the time (µs since 1970) before which a table's rows are not kept, 0 if all are."""
        days = self.settings.keep_days(scan.schema.name)
        return 0 if days is None else time.time_ns() // 1000 - int(days * DAY_US)

    # --- rows

    def _tell_rows(self, scan: TableScan) -> None:
        name, index = scan.schema.name, scan.index
        runs = self.log.runs.get(name, [])
        last = max(scan.target, self.log.last_seq(name))
        if last == 0 and scan.version < 0:
            return
        self.report.tables[name] = TableFacts(
            version=scan.version,
            flushed_seq=scan.flushed,
            last_seq=last,
            parts=len(index),
            rows_in_parts=index.total_rows,
            bytes_in_parts=index.total_bytes,
            rows_in_log=count(runs),
            unlisted_files=len(scan.unlisted),
        )
        in_log = SeqSet(runs)
        gap = in_log.missing(scan.flushed + 1, last)
        if gap:
            inside = 0 if self.quick else count(gap) - sum(count(scan.have.missing(a, b)) for a, b in gap)
            text = f"the log lacks rows {show(gap)}, {inside} of which are in parts"
            self.report.add("log.rows_missing", text, table=name)
        if not self.quick:
            self._tell_holes(scan, in_log)

    def _tell_holes(self, scan: TableScan, in_log: SeqSet) -> None:
        """Tell of rows up to the flushed one that are nowhere."""
        name = scan.schema.name
        known = scan.have.copy()
        known.update(in_log)
        told = [(int(scan.index.min_seq[p]), int(scan.index.max_seq[p])) for p in scan.lost]
        known.add_ranges([*told, *scan.remote_ranges()])
        holes = known.missing(1, scan.flushed)
        known.add_ranges(known_holes(self.layout, name))
        new = known.missing(1, scan.flushed)
        if (before := count(holes) - count(new)) > 0:
            self.report.add("rows.lost_before", f"{before} rows were lost in earlier repairs", table=name)
        if new:
            text = f"{count(new)} rows up to the flushed one ({scan.flushed}) are nowhere: {show(new)}"
            self.report.add("rows.expired" if self.expired_us(scan) else "rows.missing", text, table=name)

    def _check_log_against_parts(self) -> None:
        """Find rows of the log that are in a part and would be taken again, and rows that are in none and would not."""
        doubtful = {name for name, scan in self.tables.items() if scan.readable and self._doubtful(scan)}
        if not doubtful:
            return
        covered = {name: self.tables[name].index.covered() for name in doubtful}
        for file, record in read_log(self.layout.log, self.writer, [], lambda *_: None):
            if not isinstance(record, AppendRecord) or record.table not in doubtful:
                continue
            scan = self.tables[record.table]
            rows = decode(record, scan.schema, self.settings)
            seq = rows.column("seq").to_numpy()
            have = scan.have.contains(seq)
            open_ = uncovered(covered[record.table], scan.index.row_keys(rows), seq)
            double = have & open_ & (seq > scan.flushed)
            if double.any():
                text = f"rows are in parts, and would be taken from the log again: {show(to_ranges(seq[double]))}"
                self.report.add("rows.twice", text, table=record.table, file=file.name)
            skipped = ~have & open_ & (seq <= scan.flushed) & kept_rows(rows, self.expired_us(scan))
            if skipped.any():
                text = f"rows are in the log, and in no part as they should be: {show(to_ranges(seq[skipped]))}"
                self.report.add("rows.skipped", text, table=record.table, file=file.name)

    def _doubtful(self, scan: TableScan) -> bool:
        """Return whether parts have rows above the flushed one, or the log has rows up to it that no part has."""
        runs = self.log.runs.get(scan.schema.name, [])
        above = next(scan.have.ranges(scan.flushed + 1), None)
        return bool(runs) and (
            above is not None or any(scan.have.missing(a, min(b, scan.flushed)) for a, b in runs if a <= scan.flushed)
        )


def uncovered(covered: Mapping[int, int], keys: Ints, seq: Ints) -> npt.NDArray[np.bool_]:
    """Return which rows, given by their partition's key and ``seq``, are above what ``covered`` says is in parts."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    last = np.array([covered.get(k, 0) for k in distinct.tolist()], dtype=np.int64)
    return np.asarray(seq > last[inverse])


def kept_rows(rows: pa.Table, expired_us: int) -> npt.NDArray[np.bool_]:
    """Return which rows are not old enough for retention."""
    return np.asarray(rows.column("timestamp").cast(pa.int64()).to_numpy() >= expired_us)


def decode(record: AppendRecord, schema: TableSchema, settings: LakehouseSettings) -> pa.Table:
    """Return the rows of a record with their ``seq``, in the table's schema in memory.

    Raises:
        StorageError: they do not fit the table.
    """
    try:
        batch = adapt(record.batch(), schema.arrow_input(settings.numeric_type, memory=True))
    except pa.ArrowException as error:
        raise StorageError(
            f"the log holds rows of table {schema.name} that do not fit it now: {str(error).splitlines()[0]}.",
            hint="lakehouse.numeric_type must stay what it was when the rows were stored.",
        ) from None
    numbered = add_seq(batch, schema.arrow(settings.numeric_type, memory=True), record.first_seq)
    return pa.Table.from_batches([numbered])
