"""The crash matrix: record a run once, then open what a crash at each of its operations would have left.

The rule of this file: a point is a number of the journal, a way to die and a seed, and these three make it again.
``python tests/support/crash_points.py JOURNAL --seed S --point N:WAY`` does so, and keeps the folder.
"""

from __future__ import annotations

import argparse
import enum
import faulthandler
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from crash_batches import Ledger
from crash_check import ViolationError, check_store
from crash_workload import SESSIONS, STORE, Kill, Workload, be_quiet
from disk_model import Disk, Tree, torn, write_tree
from disk_shim import CHANGING, Control, Entry, Kind, read_journal, shim_environment

_SESSION_S = 120.0
_POINT_S = 120.0  # a point that hangs ends its process, with a traceback of every thread


class Way(enum.Enum):
    """How a point dies: the process or the machine, before an operation or in the middle of a write."""

    KILL = "kill"
    KILL_TORN = "kill-torn"
    POWER = "power"
    POWER_TORN = "power-torn"


@dataclass(frozen=True, order=True)
class Point:
    """A crash just before entry ``number`` of the journal or, torn, within it; behind the last one is the end."""

    number: int
    way: str

    def __str__(self) -> str:
        return f"{self.number}:{self.way}"


@dataclass(frozen=True)
class Failure:
    """A point whose store broke its word, and how."""

    point: Point
    said: str


def fast_folder() -> Path:
    """Return a new folder in memory where there is one: crashes are made up here, and no disk is needed for them."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="crash-", dir=memory if os.access(memory, os.W_OK) else None)).resolve()


def record(library: Path, scratch: Path, seed: int) -> tuple[Path, Path]:
    """Run the workload's sessions under the shim, each in its process; return the folder and the journal."""
    folder, journal = scratch / "recorded", scratch / "journal"
    folder.mkdir()
    journal.touch()
    for number, steps in enumerate(SESSIONS):
        control = Control(scratch / f"control-{number}", make=True)
        done = subprocess.run(
            [sys.executable, "-m", "crash_workload", "--seed", str(seed), "--session", str(number)],
            env=shim_environment(library, folder, journal=journal, control=control.path),
            timeout=_SESSION_S,
            check=False,
        )
        wanted = -9 if any(isinstance(step, Kill) for step in steps) else 0
        assert done.returncode == wanted, f"session {number} ended with {done.returncode}, not {wanted}"
        assert control.escapes == 0, f"session {number} changed the disk unseen"
    return folder, journal


def find_points(entries: list[Entry]) -> list[Point]:
    """Return every point of a journal, leaving out states that are the same as the one before."""
    points = []
    changed = synced = True
    for number, entry in enumerate(entries):
        if entry.kind not in CHANGING or entry.error:
            continue
        if changed:
            points.append(Point(number, Way.KILL.value))
        if changed or synced:
            points.append(Point(number, Way.POWER.value))
        if entry.kind is Kind.WRITE and len(entry.data) > 1:
            points += [Point(number, Way.KILL_TORN.value), Point(number, Way.POWER_TORN.value)]
        synced = entry.kind is Kind.SYNC
        changed = entry.kind not in (Kind.SYNC, Kind.OPEN_FOLDER)
    return [*points, Point(len(entries), Way.KILL.value), Point(len(entries), Way.POWER.value)]


def states(entries: list[Entry], points: Iterable[Point], seed: int) -> Iterator[tuple[Point, Tree, Ledger]]:
    """Yield what is on the disk at each of ``points``, and what had been promised by then; the journal is read once."""
    disk, ledger, at = Disk(), Ledger(seed), 0
    for number, group in groupby(sorted(points), key=lambda p: p.number):
        for entry in entries[at:number]:
            disk.apply(entry)
            if entry.kind is Kind.MARK:
                ledger.apply(entry.mark)
        at = number
        for point in group:
            yield point, _state(disk, entries, point, seed), ledger.copy()


def _state(disk: Disk, entries: list[Entry], point: Point, seed: int) -> Tree:
    chance = random.Random(f"point/{seed}/{point}")
    whole = {Way.KILL.value: nullcontext(), Way.POWER.value: nullcontext()}
    with whole.get(point.way) or disk.tearing(torn(entries[point.number], chance)):
        return disk.killed() if point.way.startswith(Way.KILL.value) else disk.lose_power(chance)


def check_state(tree: Tree, ledger: Ledger, folder: Path) -> None:
    """Open a disk state with a store and hold it to what was promised, then go on with it.

    Raises:
        ViolationError: the store broke its word.
    """
    write_tree(tree, folder)
    workload = Workload(folder / STORE, ledger)
    try:
        present = check_store(workload.store, ledger)
        _send_all_again(workload, present)
        workload.append(3)
        workload.store.flush()
        workload.check()
        workload.append(1)
        workload.reopen(flush=False)
        workload.check()
        workload.resend(5)
        workload.check()
    finally:
        workload.close(flush=False)


def _send_all_again(workload: Workload, present: set[int]) -> None:
    """Send every batch that has a producer again, as collectors may: what is there is known, what is not is taken."""
    ledger = workload.ledger
    for sent in list(ledger.sent.values()):
        if sent.producer is None:
            continue
        ack = workload.deliver(sent)
        if ack.rows and ack.duplicate != (sent.number in present):
            there = "is there" if sent.number in present else "is not there"
            raise ViolationError(
                f"{sent.table}: batch {sent.number} {there}, and sent again it is duplicate={ack.duplicate}"
            )


def check_points(journal: Path, seed: int, points: list[Point], scratch: Path) -> list[Failure]:
    """Check ``points`` one after the other, in a folder below ``scratch``; return those that failed."""
    be_quiet()
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "disk"
    failures = []
    for point, tree, ledger in states(read_journal(journal), points, seed):
        faulthandler.dump_traceback_later(_POINT_S, exit=True)
        try:
            check_state(tree, ledger, folder)
        except Exception as error:  # whatever it is, the point failed
            failures.append(Failure(point, describe(error)))
        faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder.parent, ignore_errors=True)
    return failures


def describe(error: BaseException) -> str:
    """Return an error for a report: what it says and, if it is no violation, where it came from."""
    if isinstance(error, ViolationError):
        return f"ViolationError: {error}"
    return "".join(traceback.format_exception(error)[-4:]).strip()


def check_in_pool(journal: Path, seed: int, points: list[Point], scratch: Path, *, processes: int) -> list[Failure]:
    """Check ``points`` in spawned processes: delta-rs has threads, which a fork would lose."""
    chunks = [points[start : start + 40] for start in range(0, len(points), 40)]
    if len(points) < 40 * processes:
        chunks = [points[part::processes] for part in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(check_points, journal, seed, chunk, scratch) for chunk in chunks]
        return [failure for future in futures for failure in future.result()]


def main() -> None:
    """Make a point of a journal again and say what is wrong with it, or check them all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--point", help="as in a report, such as 812:power; all of them without it")
    parser.add_argument("--keep", type=Path, help="folder for the disk state, as it was before the store opened it")
    options = parser.parse_args()
    entries = read_journal(options.journal)
    if options.point is None:
        started = time.monotonic()
        points = find_points(entries)
        failures = check_in_pool(options.journal, options.seed, points, fast_folder(), processes=2)
        for failure in failures:
            print(f"{failure.point}: {failure.said}")
        print(f"{len(points)} points, {len(failures)} failed, {time.monotonic() - started:.0f} s")
        return
    number, _, way = options.point.partition(":")
    point = Point(int(number), way)
    for entry in entries[max(0, point.number - 8) : point.number]:
        print(f"  {entry}" if entry.kind is not Kind.MARK else f"  {entry.mark}")
    print(f"> {entries[point.number] if point.number < len(entries) else 'the end'}")
    ((_, tree, ledger),) = states(entries, [point], options.seed)
    if options.keep is not None:
        write_tree(tree, options.keep)
    check_state(tree, ledger, fast_folder() / "disk")
    print("nothing is wrong here")


if __name__ == "__main__":
    main()
