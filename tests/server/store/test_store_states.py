"""The store against a model: whatever it is told to do, and whatever fails, each row is there once and stays there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_model import Row, check_state, read_part_rows, read_rows

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import LogClosedError, StorageError
from tickflight_server.store import Ack, Store, TableSnapshot
from tickflight_server.store import committer as committer_module
from tickflight_server.store import delta_log as delta_log_module
from tickflight_server.store import keeper as keeper_module
from tickflight_server.store import partition as partition_module
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.partition import DAY_US

OLD_DAY = 19_675  # in November 2023, long before what retention keeps
KEPT_DAYS = 365
SYMBOLS = ["A", "B/C", "ü %"]
PRODUCERS = [b"", b"p", b"q"]


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def cannot_commit(*_: Any, **__: Any) -> None:
    raise StorageError("cannot commit: No space left on device.")


FAULTS: dict[str, tuple[Any, str, Any] | None] = {
    "none": None,
    "write": (partition_module, "_write_file", full),
    "commit": (TableCatalog, "_commit", cannot_commit),
    "sync": (delta_log_module, "sync_file", full),
}


class Clock:
    """The machine's clock, whose monotonic time a test moves on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


def injected(fault: str) -> AbstractContextManager[Any]:
    """Let a step of writing fail: a part's file, the commit, or the sync of a commit that is there already."""
    place = FAULTS[fault]
    if place is None:
        return nullcontext()
    patch = pytest.MonkeyPatch()
    patch.setattr(*place)

    class Undo(AbstractContextManager[None]):
        def __exit__(self, *_: object) -> None:
            patch.undo()

    return Undo()


@dataclass
class Taken:
    """A snapshot that somebody holds, and what it must read."""

    snapshot: TableSnapshot
    rows: list[Row]


Sent = tuple[int, int, int]  # how many rows, on which day, of how many symbols
batches = st.lists(
    st.tuples(st.sampled_from([1, 5, 90, 2_500]), st.sampled_from([0, 1, 1, 2]), st.integers(1, 3)),
    min_size=1,
    max_size=4,
)
reasons = st.sampled_from(["interval", "memory", "all"])
attempts = st.sampled_from([["none"], ["commit", "none"], ["sync", "none"], ["write", "none"], ["sync", "write"]])
faults = st.sampled_from(["none"] * 4 + ["write", "commit", "sync"])


class StoreMachine(RuleBasedStateMachine):
    """One table of a store; its rows are told apart by their prices."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(keeper_module, "_TICK_S", 1e6)  # only what a rule asks for is removed
        self.patch.setattr(committer_module, "RETRY_S", 0.005)
        for name in ("fsync", "fdatasync"):  # no machine dies here, and syncs would take most of the time
            self.patch.setattr(os, name, lambda fd: None)
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.rows: list[Row] = []
        self.last_seq = 0
        self.sequences = dict.fromkeys(PRODUCERS, 0)
        self.sent: dict[bytes, pa.RecordBatch] = {}
        self.taken: list[Taken] = []
        self.versions: dict[int, list[Row]] = {}
        today = self.clock.now_us() // DAY_US
        self.kept_from = today - KEPT_DAYS - 1
        self.days = (OLD_DAY, today - 4, today - 3)

    @initialize(files_max=st.integers(1, 4), compression=st.sampled_from(["zstd", "none"]))
    def open(self, files_max: int, compression: str) -> None:
        self.settings = LakehouseSettings(
            storage_path=self.folder,
            compression=compression,
            flush_interval_seconds=1e9,
            flush_files_max=files_max,
            flush_partition_seconds=100,
            buffer_size_mb=64,
            ring_seconds=1e9,
            ring_segment_rows=1_024,
            wal_file_mb=1,
            wal_commit_interval_ms=0,
            compact_parts_min=2,
            compact_target_mb=1,
            compact_share=0,
            retention_days={"trades": KEPT_DAYS},
        )
        self.store = Store(self.settings, self.clock)

    @property
    def table(self) -> Any:
        return self.store.tables["trades"]

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.store.close(flush=False)
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)

    # --- rows

    def batch(self, count: int, day: int, spread: int) -> tuple[pa.RecordBatch, list[Row]]:
        """Return rows of ``spread`` symbols, the times of which go back and forth within the day."""
        first = self.last_seq + 1
        symbols = [SYMBOLS[i % spread] for i in range(count)]
        prices = [float(first + i) for i in range(count)]
        times = day * DAY_US + (np.arange(first, first + count) * 7_919_000_003) % DAY_US
        batch = pa.record_batch(
            {
                "exchange": ["X"] * count,
                "symbol": symbols,
                "price": prices,
                "timestamp": pa.array(times, pa.timestamp("us")),
            }
        )
        return batch, [Row(first + i, symbols[i], day, prices[i]) for i in range(count)]

    @rule(batches=batches, producer=st.sampled_from(PRODUCERS))
    def append(self, batches: list[Sent], producer: bytes) -> None:
        for count, day, spread in batches:
            batch, rows = self.batch(count, self.days[day], spread)
            sequence = self.sequences[producer] + 1
            assert self.send(batch, producer, sequence) == Ack(self.last_seq + 1, count)
            self.took(rows, producer, sequence, batch)

    @rule(batches=batches, reason=reasons)
    def append_and_flush_each(self, batches: list[Sent], reason: Any) -> None:
        """Make many parts, all of which are read."""
        for batch in batches:
            self.append([batch], b"")
            self.store._upkeep.flush(reason)
        self.release(everything=True)

    def took(self, rows: list[Row], producer: bytes, sequence: int, batch: pa.RecordBatch) -> None:
        self.rows += rows
        self.last_seq = rows[-1].seq
        self.sequences[producer] = sequence
        self.sent[producer] = batch

    def send(self, batch: pa.RecordBatch, producer: bytes, sequence: int) -> Ack:
        return self.store.append("trades", batch, producer=producer or None, sequence=sequence).result(20)

    @rule(producer=st.sampled_from(PRODUCERS[1:]), back=st.integers(0, 2))
    def send_again(self, producer: bytes, back: int) -> None:
        sequence = self.sequences[producer] - back
        if sequence > 0:
            rows = self.sent[producer].num_rows
            assert self.send(self.sent[producer], producer, sequence) == Ack(0, rows, 0, True)

    @rule(where=st.sampled_from(["fdatasync", "writev"]), producer=st.sampled_from(PRODUCERS))
    def append_while_the_log_fails(self, where: str, producer: bytes) -> None:
        batch, rows = self.batch(3, OLD_DAY, 1)
        sequence = self.sequences[producer] + 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, where, full)
            with pytest.raises(LogClosedError, match="No space left"):
                self.send(batch, producer, sequence)
        deadline = time.monotonic() + 20
        while self.store._committer.failure is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert {c.component: c.state for c in self.store.health.conditions()}["log"] == "ok"
        assert self.send(batch, producer, sequence) == Ack(self.last_seq + 1, 3)
        self.took(rows, producer, sequence, batch)

    # --- flushes and memory

    @rule(reason=reasons, fault=faults)
    def flush(self, reason: Any, fault: str) -> None:
        """A flush that fails may have been committed all the same: the table finds out before it does anything else."""
        with injected(fault):
            try:
                self.store._upkeep.flush(reason)
            except StorageError:
                assert fault != "none"
        if fault == "none" and reason == "all":
            assert self.table.state.flushed_seq == self.last_seq

    @rule(share=st.floats(0, 1))
    def flush_for_memory(self, share: float) -> None:
        keep = int(self.table.state.unflushed_bytes * share)
        self.table.flush("memory", now_s=self.clock.monotonic(), keep_bytes=keep)

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.clock.ahead_s += seconds

    @rule(everything=st.booleans())
    def release(self, everything: bool) -> None:
        while self.table.release_oldest() and everything:
            pass

    @rule()
    def merge(self) -> None:
        self.table.merge_once()

    # --- parts

    @rule(batches=batches, everything=st.booleans(), attempts=attempts)
    def make_parts_and_compact(self, batches: list[Sent], everything: bool, attempts: list[str]) -> None:
        self.append_and_flush_each(batches[:1] * 2, "all")
        self.compact(everything, attempts)

    @rule(everything=st.booleans(), attempts=attempts)
    def compact(self, everything: bool, attempts: list[str]) -> None:
        for fault in attempts:
            self.compact_once(everything, fault)

    def compact_once(self, everything: bool, fault: str) -> None:
        before, unsettled = len(self.table.state.parts), self.table._unsettled is not None
        with injected(fault):
            try:
                done = self.store.keeper.compact(all_of_it=everything)
            except StorageError:
                assert fault != "none"
                return
        if not unsettled:
            assert len(self.table.state.parts) == before + done["parts_out"] - done["parts_in"]
        assert done["repeats"] == 0

    @rule()
    def retain(self) -> None:
        state = self.table.state
        bound = min(state.flushed_seq, state.ring_from)
        gone = {
            row
            for path, day, last in zip(state.parts.path, state.parts.day, state.parts.last, strict=True)
            if day < self.kept_from and last <= bound
            for row in read_part_rows(self.folder / "trades" / path)
        }
        self.store.keeper.retain()
        self.rows = [row for row in self.rows if row not in gone]

    @rule(hours=st.sampled_from([None, 0]))
    def vacuum(self, hours: float | None) -> None:
        time.sleep(0.002)  # what was written in this millisecond stays
        assert self.store.keeper.vacuum(dry_run=True) == []
        gone = {name.removeprefix("trades/") for name in self.store.keeper.vacuum(hours=hours)}
        assert hours == 0 or not gone
        held = {path for taken in self.taken for path in taken.snapshot.parts.path}
        assert not gone & held
        assert not gone & set(self.table.state.parts.path)
        if hours == 0:
            self.versions.clear()

    # --- readers

    @rule(upto=st.none() | st.floats(0, 1.1))
    def take_snapshot(self, upto: float | None) -> None:
        last = None if upto is None else int(upto * self.last_seq)
        snapshot = self.store.snapshot("trades", last)
        rows = [row for row in self.rows if last is None or row.seq <= last]
        assert snapshot.last_seq == (self.last_seq if last is None else min(last, self.last_seq))
        self.taken = [*self.taken[-2:], Taken(snapshot, rows)]

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def travel(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.versions)))
        snapshot = self.store.snapshot_at("trades", version)
        assert read_rows(snapshot, self.folder / "trades") == self.versions[version]

    # --- restarts

    @rule(flush=st.booleans())
    def restart(self, flush: bool) -> None:
        self.store.close(flush=flush)
        self.taken = []
        self.store = Store(self.settings, self.clock)
        if flush:
            assert self.table.state.flushed_seq == self.last_seq

    @rule(fault=st.sampled_from(["write", "commit", "sync"]))
    def die_in_a_flush(self, fault: str) -> None:
        with injected(fault), suppress(StorageError):
            self.store.close(flush=True)
        self.taken = []
        self.versions.clear()  # what landed is not known
        self.store = Store(self.settings, self.clock)

    # --- what must hold

    @invariant()
    def each_row_is_there_once(self) -> None:
        if not hasattr(self, "store"):
            return
        folder = self.folder / "trades"
        state = self.table.state
        assert read_rows(self.store.snapshot("trades"), folder) == self.rows
        check_state(state, folder, self.rows, self.last_seq)
        in_parts = sorted(row for path in state.parts.path for row in read_part_rows(folder / path))
        if state.version >= 0:
            assert self.versions.setdefault(state.version, in_parts) == in_parts
        for taken in self.taken:
            assert read_rows(taken.snapshot, folder) == taken.rows


class TestStore(StoreMachine.TestCase):
    settings = settings(max_examples=14, stateful_step_count=25, deadline=None)
