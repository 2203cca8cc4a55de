"""The keeper of the parts: compaction, retention, tiering and vacuum, in the background and on a budget.

The rule of this file: it never hurries. What it does can stop anywhere and begin anew; it lets flushes that are behind
go first for some seconds, and takes no more than its share of a core.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog

from tickflight_server.clock import Clock
from tickflight_server.config import MIB, LakehouseSettings
from tickflight_server.errors import StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.store.compaction import CompactionPolicy, Job, merge_parts, plan
from tickflight_server.store.delta_log import Removals
from tickflight_server.store.health import Health
from tickflight_server.store.partition import DAY_US, Part, PartOptions
from tickflight_server.store.snapshot import TableSnapshot
from tickflight_server.store.table import Table
from tickflight_server.store.tier import Tier
from tickflight_server.store.vacuum import vacuum

LOG = structlog.get_logger(__name__)
_TICK_S = 1.0
_RETRY_S = 10.0
_BEHIND_MAX_S = 20.0  # flushes that are always behind would let parts pile up: then it works all the same
_JOBS_A_COMMIT = 64
_COMMIT_S = 5.0  # and after so long, whatever their number: what is not committed is in vain if the process ends
_HOUR_MS = 3_600_000
_VACUUM_REST = 100  # times as long as it took
_VACUUM_REST_MAX_S = 3600.0
Step = tuple[str, Callable[[], object]]


class Readers:
    """The snapshots that somebody reads, so that their parts stay."""

    def __init__(self) -> None:
        self._snapshots: weakref.WeakSet[TableSnapshot] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, snapshot: TableSnapshot) -> TableSnapshot:
        """Note that ``snapshot`` is read for as long as somebody holds it; return it."""
        with self._lock:
            self._snapshots.add(snapshot)
        return snapshot

    def paths(self, table: str) -> set[str]:
        """Return the parts of ``table`` that are read."""
        with self._lock:
            snapshots = list(self._snapshots)
        return {p for s in snapshots if s.table.name == table for p in s.parts.path.tolist()}


class Keeper:
    """Looks after the parts of all tables of a store.

    Args:
        readers: whose parts vacuum leaves.
        tier: where old parts go, None if they stay.
        check: raises StorageError for a part that is missing or damaged, given with its table and size.
        pinned: the newest seq of a table that a pin protects from retention, 0 if none does.
        behind: whether flushing has too much to do for anything else.
    """

    def __init__(
        self,
        tables: Mapping[str, Table],
        settings: LakehouseSettings,
        clock: Clock,
        metrics: Metrics,
        health: Health,
        *,
        readers: Readers,
        options: Mapping[str, PartOptions],
        tier: Tier | None,
        check: Callable[[str, Sequence[tuple[str, int]]], None],
        pinned: Callable[[str], int],
        behind: Callable[[], bool],
    ) -> None:
        self._tables = tables
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._readers = readers
        self._options = options
        self._tier = tier
        self._check = check
        self._removals = {name: Removals(table.folder) for name, table in tables.items()}
        self._commits = 0  # of compaction
        # the start has just looked at all files
        self._vacuum_from = clock.monotonic() + settings.keep_interval_seconds
        self._rest_until = 0.0  # after a merge, so that a core's share is not exceeded
        self._failed: dict[str, StorageError] = {}  # paths of parts that cannot be merged, until the next look
        self._pinned = pinned
        self._behind = behind
        self._policy = CompactionPolicy(
            settings.compact_target_mb * MIB, settings.compact_parts_min, settings.compact_settle_seconds
        )
        self._lock = threading.Lock()  # one rewriter at a time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin the background work."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a step under way is finished first."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the steps

    def compact(self, *, all_of_it: bool = False, table: str | None = None) -> dict[str, int]:
        """Merge small parts until nothing is left to merge; return parts in and out, and rows that were repeats.

        With ``all_of_it`` every partition is merged as if its day were over.

        Raises:
            StorageError: a part cannot be read or written; what was committed before stays.
        """
        self._failed.clear()
        return self._compact_tables(self._names(table), lambda: False, all_of_it=all_of_it)

    def _compact_tables(self, names: Iterable[str], stop: Callable[[], bool], *, all_of_it: bool) -> dict[str, int]:
        """Merge what there is to merge in the tables, until ``stop`` says so."""
        total = {"parts_in": 0, "parts_out": 0, "repeats": 0}
        for name in names:
            while not stop() and self._compact_some(name, total, all_of_it=all_of_it):
                pass
        for error in self._failed.values():  # now that all others are merged
            raise error
        return total

    def _compact_some(self, name: str, total: dict[str, int], *, all_of_it: bool) -> bool:
        """Do some jobs of a table and commit them together; return whether there were any."""
        table = self._tables[name]
        policy = replace(self._policy, settle_seconds=-1e12) if all_of_it else self._policy
        removed: list[Part] = []
        added: list[Part] = []
        repeats = 0
        with self._lock:
            end = self._clock.monotonic() + _COMMIT_S
            table.settle()  # before anything is written that an earlier, failed commit may have listed
            state = table.state
            for job in plan(state.parts, state.ring_from, self._clock.now_us(), policy):
                due = max(self._rest_until, self._clock.monotonic()) >= end
                if len(added) >= _JOBS_A_COMMIT or (added and due):
                    break
                self._stop.wait(max(0.0, self._rest_until - self._clock.monotonic()))
                if self._stop.is_set() and not all_of_it:
                    break
                if any(p.path in self._failed for p in job.parts):
                    continue
                try:
                    part, twice = self._merge(table, job)
                except StorageError as error:  # one damaged part must not keep all others small
                    self._failed |= {p.path: error for p in job.parts}
                    continue
                removed += job.parts
                added.append(part)
                repeats += twice
            if not added:
                return False
            if table.rewrite(removed, added):
                self._commits += 1
                total["parts_in"] += len(removed)
                total["parts_out"] += len(added)
                total["repeats"] += repeats
                self._metrics.add("parts_compacted", len(removed))
                self._metrics.add("rows_repeated", repeats)
                LOG.info("compaction.done", table=name, parts_in=len(removed), parts_out=len(added), repeats=repeats)
            return True

    def _merge(self, table: Table, job: Job) -> tuple[Part, int]:
        name = table.schema.name
        options = self._options[name]
        if self._pinned(name) >= min(p.min_seq for p in job.parts):
            options = replace(options, dedup=())  # who pinned these rows reads all of them again
        paths = [table.folder / p.path for p in job.parts]
        started = self._clock.monotonic()
        # what is damaged must not come out with a true checksum
        self._check(name, [(str(path), p.nbytes) for path, p in zip(paths, job.parts, strict=True)])
        merged = merge_parts(job, paths, table.folder, table.catalog.row_schema, options)
        if self._thread.is_alive() and (share := self._settings.compact_share):
            ended = self._clock.monotonic()
            self._rest_until = ended + (ended - started) * (1 / share - 1)
        return merged

    def retain(self) -> int:
        """Remove the parts whose rows are all older than their table keeps; return how many.

        A part that has rows for a pin, or that the log may still give back, stays for later.

        Raises:
            StorageError: a table version could not be committed.
        """
        count = 0
        for name, table in self._tables.items():
            days = self._settings.keep_days(name)
            if days is None:
                continue
            with self._lock:
                state = table.state
                index = state.parts
                oldest = self._clock.now_us() - int(days * DAY_US)
                expired = (index.max_us < oldest) & (index.last <= min(state.flushed_seq, state.ring_from))
                expired &= index.min_seq > self._pinned(name)
                parts = [index.part(int(p)) for p in np.flatnonzero(expired)]
                if parts and table.rewrite(parts, [], expired=True):
                    count += len(parts)
                    self._metrics.add("rows_expired", sum(p.rows for p in parts))
                    LOG.info("retention.done", table=name, parts=len(parts), rows=sum(p.rows for p in parts))
        return count

    def move(self) -> int:
        """Move the parts whose rows are all old enough to the tier; return how many.

        Each is copied, then swapped by a commit; the local file stays for its readers until vacuum.

        Raises:
            StorageError: the tier cannot be written; what was committed before stays.
        """
        settings = self._settings.tier
        if self._tier is None or settings is None:
            return 0
        before_us = self._clock.now_us() - int(settings.after_days * DAY_US)
        count = 0
        for table in self._tables.values():
            while moved := self._move_some(table, self._tier, before_us):
                count += moved
        return count

    def _move_some(self, table: Table, tier: Tier, before_us: int) -> int:
        with self._lock:
            state = table.state
            index = state.parts
            old = (index.max_us < before_us) & (index.last <= min(state.flushed_seq, state.ring_from))
            places = [p for p in np.flatnonzero(old) if "://" not in index.path[p]][:_JOBS_A_COMMIT]
            parts = [index.part(int(p)) for p in places]
            if not parts or self._stop.is_set():
                return 0
            name = table.schema.name
            moved = [replace(p, path=tier.put(table.folder / p.path, f"{name}/{p.path}")) for p in parts]
            if not table.rewrite(parts, moved):
                return 0
            self._metrics.add("parts_moved", len(parts))
            LOG.info("tier.moved", table=name, parts=len(parts), bytes=sum(p.nbytes for p in parts))
            return len(parts)

    def vacuum(self, *, dry_run: bool = False, hours: float | None = None) -> list[str]:
        """Delete the files of parts that were removed long ago; return them, each with its table's folder.

        Raises:
            StorageError: a file cannot be deleted.
        """
        keep = self._settings.vacuum_hours if hours is None else hours
        oldest_ms = self._clock.now_us() // 1000 - int(keep * _HOUR_MS)
        gone: list[str] = []
        for name, table in self._tables.items():
            with self._lock:
                table.settle()
                live = set(table.state.parts.path.tolist())
                in_use = self._readers.paths(name)
                try:
                    removed = self._removals[name].read()
                    found = vacuum(table.folder, name, live, in_use, removed, oldest_ms, dry_run=dry_run)
                    needed = live | in_use | {p for p, when in removed.items() if when >= oldest_ms}
                    found += self._vacuum_tier(name, needed, oldest_ms, dry_run=dry_run)
                except OSError as error:
                    raise StorageError(f"cannot clear up table {name}: {error.strerror or error}.") from None
                gone += [f"{name}/{path}" for path in found]
                if not dry_run:
                    table.clean_log()
        if gone and not dry_run:
            self._metrics.add("files_vacuumed", len(gone))
            LOG.info("vacuum.done", files=len(gone))
        return gone

    def _vacuum_tier(self, table: str, needed: set[str], oldest_ms: int, *, dry_run: bool) -> list[str]:
        """Delete the tier's copies that are older than ``oldest_ms`` and not ``needed``; return them."""
        if self._tier is None:
            return []
        gone = []
        for url, _, modified_us in self._tier.list(f"{table}/"):
            if url not in needed and modified_us < oldest_ms * 1000:
                gone.append(url)
                if not dry_run:
                    self._tier.delete(url)
        return gone

    def _names(self, table: str | None) -> Iterable[str]:
        return list(self._tables) if table is None else [table]

    # --- the background

    def _compact_quietly(self) -> None:
        names = self._tables if self._settings.compact_share else ()
        before = self._commits

        def stop() -> bool:
            return self._stop.is_set() or (self._behind() and self._commits > before)

        self._compact_tables(names, stop, all_of_it=False)

    def _vacuum_quietly(self) -> None:
        """Clear up, unless that took long a short while ago: a look at many files takes seconds of Python's lock."""
        began = self._clock.monotonic()
        if began >= self._vacuum_from:
            self.vacuum()
            ended = self._clock.monotonic()
            self._vacuum_from = ended + min(_VACUUM_REST * (ended - began), _VACUUM_REST_MAX_S)

    def _run(self) -> None:
        slow = idle = self._clock.monotonic()
        often: list[Step] = [("compaction", self._compact_quietly)]
        seldom: list[Step] = [("retention", self.retain), ("tier", self.move), ("vacuum", self._vacuum_quietly)]
        while not self._stop.wait(_TICK_S):
            if self._behind() and self._clock.monotonic() < idle + _BEHIND_MAX_S:
                continue
            due = self._clock.monotonic() >= slow
            if due:
                self._failed.clear()
                slow = self._clock.monotonic() + self._settings.keep_interval_seconds
            failed = [self._try(component, step) for component, step in often + (seldom if due else [])]
            idle = self._clock.monotonic()
            if any(failed):
                self._stop.wait(_RETRY_S)

    def _try(self, component: str, step: Callable[[], object]) -> bool:
        """Do a step; return whether it failed: files pile up while it does, and nothing else suffers."""
        try:
            step()
        except Exception as error:
            self._metrics.add(f"{component}_failures")
            text = error.message if isinstance(error, StorageError) else repr(error)
            self._health.report(component, "degraded", text, getattr(error, "hint", None))
            return True
        self._health.ok(component)
        return False
