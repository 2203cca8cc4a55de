"""Repair one table: keep what can be read, take back what the log or unlisted parts still have, say what is lost.

The rule of this file: until the one commit at the end, what is written here is nobody's. After it, every row that can
be read is in exactly one live part, ``flushed_seq`` is behind all of them, and no ``seq`` is ever given twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tickflight_server.config import LakehouseSettings
from tickflight_server.files import make_folder, make_folders, sync_folder
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.check import TableScan, decode, kept_rows, uncovered
from tickflight_server.store.check_files import judge_unlisted
from tickflight_server.store.evolution import adapt
from tickflight_server.store.part_scan import Unlisted, read_columns, read_seq
from tickflight_server.store.partition import Part, PartOptions, PartWriter, partition_rows
from tickflight_server.store.parts import Ints
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.repair_report import LostPart, TableLoss
from tickflight_server.store.ring import add_seq
from tickflight_server.store.seqset import Range, SeqSet, count

_BUFFER_BYTES = 64 << 20


class TableRepair:
    """The repair of one table: ``prepare``, ``offer`` each record of the log, ``settle``, ``write``, ``commit``.

    Args:
        log_rows: the rows that records of the log hold which can be read.
        log_last: the highest ``seq`` of the log's records.
        holes: ranges that earlier repairs found lost.
        expired_us: rows of before this time (µs since 1970) are not kept, 0 if all are.
        stage: folder where new parts lie until the commit.
        ignored: unlisted parts that a repair which was killed had written.
    """

    def __init__(
        self,
        scan: TableScan,
        settings: LakehouseSettings,
        writer: UUID,
        *,
        log_rows: SeqSet,
        log_last: int,
        holes: list[Range],
        expired_us: int,
        stage: Path,
        ignored: Collection[str] = (),
    ) -> None:
        self.scan = scan
        self.name = scan.schema.name
        self._settings = settings
        self._writer = writer
        self._memory = scan.schema.arrow(settings.numeric_type, memory=True)
        self._stored = scan.schema.arrow(settings.numeric_type)
        self._stage = stage
        self._ignored = ignored
        self._log_rows = log_rows
        self._earlier = holes
        self._expired_us = expired_us
        self._have = scan.have.copy()
        self._covered = SeqSet()  # rows of the log that a part's name says were there and have been left out since
        self._removed = sorted({*scan.lost, *scan.twice, *(p for p, s in scan.scans.items() if s.rewritten)})
        kept = np.ones(len(scan.index), dtype=bool)
        kept[self._removed] = False
        self._kept = scan.index.chosen(kept)
        self._names_cover = self._kept.covered()
        self._added: list[Part] = []  # taken in where they lie
        self._written: list[Part] = []  # in the stage
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._keys = scan.index.keys
        self._recovered: dict[int, int] = dict.fromkeys(scan.lost, 0)  # the lost parts, and what came back of each
        believed = [int(scan.index.last[p]) for p in range(len(scan.index)) if not self._misnamed(p)]
        self.flushed = max([scan.flushed, log_last, *believed])
        self.producers: dict[bytes, int] = {}
        self.set_aside: list[str] = []
        self.loss = TableLoss(version_before=scan.versions.newest, version_read=scan.version)

    def _misnamed(self, place: int) -> bool:
        """Return whether the version names a part wrongly: it is missing, and under another name it is there."""
        if place not in self._recovered or (self.scan.folder / self.scan.index.path[place]).exists():
            return False
        part = self.scan.index.part(place)
        return any(u.facts is not None and replace(u.facts, path=part.path) == part for u in self.scan.unlisted)

    # --- gathering

    def prepare(self) -> None:
        """Read again the parts that have to be written anew, and take in parts that no version lists."""
        readable = [p for p in self._removed if p not in self.scan.lost]
        if readable:
            self._have = SeqSet()
            for path in self._kept.path:
                if "://" not in path:
                    self._have.add(read_seq(self.scan.folder / path))
        for place in readable:
            path = str(self.scan.index.path[place])
            rows = self._read(path)
            seq = rows.column("seq").to_numpy()
            first = np.zeros(len(seq), dtype=bool)
            first[np.unique(seq, return_index=True)[1]] = True
            fresh = first & ~self._have.contains(seq)
            self.loss.parts_written_anew.append(path)
            self.loss.rows_twice += int(len(seq) - fresh.sum())
            self._take(rows.filter(pa.array(fresh)))
        for item in sorted(self.scan.unlisted, key=lambda i: -(i.facts.rows if i.facts else 0)):
            if item.path in self._ignored:
                self.set_aside.append(item.path)
            else:
                self._take_in(item)

    def _read(self, path: str) -> pa.Table:
        return adapt(read_columns(self.scan.folder / path), self._memory)

    def _take_in(self, item: Unlisted) -> None:
        """Take in a part that a lost version listed: as it is, or those rows that nothing else has."""
        known = self._have.copy()
        known.add_ranges(self._log_rows.ranges(self.scan.flushed + 1))
        flushed = self.scan.flushed
        kind, _ = judge_unlisted(self.scan.folder, item, known, self.flushed, self._expired_us, flushed)
        # a name is believed: up to there rows were numbered
        self.flushed = max(self.flushed, item.last)
        if kind == "part.broken_leftover" or (item.facts is None and item.last > flushed and not item.removed):
            self.set_aside.append(item.path)
        if kind != "part.unknown" or item.facts is None:
            return
        self.loss.parts_taken_in.append(item.path)
        path = self.scan.folder / item.path
        fresh = ~known.contains(read_seq(path))
        schema = pq.read_schema(path)
        whole = fresh.all() and item.path.rpartition("/")[0] == item.facts.key.folder
        if whole and schema.names == self._stored.names and schema.types == self._stored.types:
            self._have.add(read_seq(path))
            self._added.append(item.facts)
        else:
            self._take(self._read(item.path).filter(pa.array(fresh)))
            self.set_aside.append(item.path)

    def offer(self, record: AppendRecord) -> None:
        """Take those rows of a record of the log that would otherwise be in no part.

        Raises:
            StorageError: the rows do not fit the table, or cannot be written.
        """
        scan = self.scan
        if record.last_seq > scan.flushed and record.producer:
            self.producers[record.producer] = max(record.sequence, self.producers.get(record.producer, 0))
        first, last = record.first_seq, record.last_seq
        if last <= scan.flushed and not self._touches_lost(record) and not self._have.missing(first, last):
            return
        rows = decode(record, scan.schema, self._settings)
        seq = rows.column("seq").to_numpy()
        keys = scan.index.row_keys(rows)
        missing = ~self._have.contains(seq)
        above = seq > scan.flushed
        in_lost = self._in_lost(keys, seq)
        open_ = uncovered(self._names_cover, keys, seq)
        # rows up to the flushed one are in parts, or retention removed them, or the mark of the version is wrong
        chosen = missing & ((open_ & (above | kept_rows(rows, self._expired_us))) | in_lost)
        self._covered.add(seq[missing & ~chosen & above])
        self.loss.rows_from_log += int(chosen.sum())
        self._take(rows.filter(pa.array(chosen)))

    def _touches_lost(self, record: AppendRecord) -> bool:
        index = self.scan.index
        return any(
            record.first_seq <= index.max_seq[p] and record.last_seq >= index.min_seq[p] for p in self._recovered
        )

    def _in_lost(self, keys: Ints, seq: Ints) -> npt.NDArray[np.bool_]:
        """Return which rows with these partition keys and ``seq`` a lost part may have held."""
        found = np.zeros(len(seq), dtype=bool)
        for place in self._recovered:
            found |= self._inside(place, keys, seq)
        return found

    def _inside(self, place: int, keys: Ints, seq: Ints) -> npt.NDArray[np.bool_]:
        index = self.scan.index
        inside = (keys == self._keys[place]) & (seq >= index.min_seq[place]) & (seq <= index.max_seq[place])
        return np.asarray(inside)

    def _attribute(self, keys: Ints, seq: Ints) -> None:
        """Count rows that were found elsewhere for the lost part that held them."""
        left = np.ones(len(seq), dtype=bool)
        for place in self._recovered:
            inside = left & self._inside(place, keys, seq)
            self._recovered[place] += int(inside.sum())
            left &= ~inside

    def _take(self, rows: pa.Table) -> None:
        if rows.num_rows == 0:
            return
        seq = rows.column("seq").to_numpy()
        self._have.add(seq)
        if self._recovered:
            self._attribute(self.scan.index.row_keys(rows), seq)
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= _BUFFER_BYTES:
            self.write()

    def write(self) -> None:
        """Write the rows that wait to parts in the stage, which nobody sees before ``commit``.

        Raises:
            StorageError: they cannot be written.
        """
        if not self._waiting:
            return
        rows = partition_rows(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        options = PartOptions(self._settings.compression, self._settings.row_group_rows)
        make_folder(self._stage)
        with PartWriter(self._stage, self._stored, options) as writer:
            for place, key in enumerate(rows.keys):
                part = rows.take(place)
                seq = part.column("seq").to_numpy()
                self._written.append(writer.write(key, part, int(seq.min()), int(seq.max())))

    # --- settling what is lost

    def settle(self, reserved: int, marks: dict[str, int]) -> None:
        """Work out what is lost, when the whole log was offered.

        ``reserved`` is a ``seq`` up to which numbers may have been given out; ``marks`` are application transactions
        that damaged versions recorded.
        """
        self.flushed = max(self.flushed, reserved, marks.get(f"{self._writer}/{self.name}", 0))
        for name, sequence in marks.items():
            kind, _, rest = name.partition("/")
            producer, _, table = rest.partition("/")
            if kind == "producer" and table == self.name:
                known = bytes.fromhex(producer)
                self.producers[known] = max(sequence, self.producers.get(known, 0))
        self._settle_parts()
        self._settle_holes()
        self.loss.flushed_seq = self.flushed

    def _settle_parts(self) -> None:
        index = self.scan.index
        for place in self.scan.lost:
            part = index.part(place)
            found = min(part.rows, self._recovered[place] + self._taken_in_for(part))
            why = "; ".join(what for _, what in self.scan.scans[place].problems)
            where = (part.key.exchange, part.key.symbol, f"{part.key.date:%Y-%m-%d}", why)
            bounds = (part.min_seq, part.max_seq)
            self.loss.parts_lost.append(LostPart(part.path, *where, part.rows, found, part.rows - found, *bounds))
            if (self.scan.folder / part.path).exists():
                self.set_aside.append(part.path)

    def _taken_in_for(self, part: Part) -> int:
        """Return how many rows of a lost part came back in unlisted parts, such as the one it was merged into."""
        rows = 0
        for other in self._added:
            if other.key == part.key:
                seq = read_seq(self.scan.folder / other.path)
                rows += int(((seq >= part.min_seq) & (seq <= part.max_seq)).sum())
        return rows

    def _settle_holes(self) -> None:
        """Find the rows that are nowhere any more; those that retention removed are no loss."""
        known = self._have.copy()
        known.update(self._covered)
        known.add_ranges([*self._earlier, *self.scan.remote_ranges()])
        loss, flushed = self.loss, self.scan.flushed
        above = known.missing(flushed + 1, self.flushed)
        if not self._expired_us:
            loss.holes = known.missing(1, self.flushed)
            loss.rows_lost = count(loss.holes)
            return
        lost = SeqSet(above)
        for part in loss.parts_lost:
            lost.add_ranges(known.missing(part.first_seq, part.last_seq) if part.rows_lost else ())
        loss.holes = list(lost.ranges())
        inside = SeqSet(above)
        loss.rows_lost = count(above)
        for part in loss.parts_lost:
            counted = part.last_seq - part.first_seq + 1 - count(inside.missing(part.first_seq, part.last_seq))
            loss.rows_lost += max(0, part.rows_lost - counted)

    def add_rows(self, batch: pa.RecordBatch) -> None:
        """Append rows of the repair's own, behind all others."""
        self._take(pa.Table.from_batches([add_seq(batch, self._memory, self.flushed + 1)]))
        self.flushed += batch.num_rows
        self.loss.flushed_seq = self.flushed

    # --- the commit

    def to_set_aside(self) -> list[str]:
        """Return the parts to set aside after the commit: those that it does not list."""
        # what a repair that was killed had written may be written again, under the same name
        added = {part.path for part in [*self._added, *self._written]}
        return [path for path in dict.fromkeys(self.set_aside) if path not in added]

    @property
    def changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(
            self._removed or self._added or self._written or self.flushed > self.scan.flushed or self._new_marks()
        )

    def _new_marks(self) -> dict[bytes, int]:
        known = self.scan.catalog.producer_sequence if self.scan.catalog is not None else lambda _: 0
        return {p: s for p, s in self.producers.items() if s > known(p)}

    def mark_names(self) -> dict[str, int]:
        """Return the application transactions that the commit will record."""
        marks = {f"producer/{p.hex()}/{self.name}": s for p, s in self._new_marks().items()}
        return {f"{self._writer}/{self.name}": self.flushed} | marks

    def commit(self) -> None:
        """Make it so, in one version of the table; it is on disk when this returns.

        Raises:
            StorageError: the version cannot be written.
        """
        options = (self._settings.numeric_type, self._settings.vacuum_hours)
        catalog = TableCatalog(self.scan.folder, self.scan.schema, self._writer, *options)
        catalog.load()
        removed = [self.scan.index.part(p) for p in self._removed]
        self._unstage()
        catalog.rebuild(removed, [*self._added, *self._written], self.flushed, self._new_marks())

    def _unstage(self) -> None:
        """Move the new parts to where they belong; they are on disk there when this returns."""
        touched: set[Path] = set()
        for part in self._written:
            target = self.scan.folder / part.path
            touched.update(make_folders(target.parent, self.scan.folder))
            (self._stage / part.path).rename(target)
        for folder in sorted(touched, reverse=True):
            sync_folder(folder)

    @property
    def written(self) -> list[str]:
        """The new parts."""
        return [part.path for part in self._written]
