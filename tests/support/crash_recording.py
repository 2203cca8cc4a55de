"""Recorded runs: the workload's sessions under the shim, and every crash that could have met them.

The rule of this file: a recording is a folder with all that its crashes are made from; a point is a number of its
journal, a way to die and a seed, and these make the same disk state again.
"""

from __future__ import annotations

import enum
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from crash_batches import Ledger
from crash_workload import RECOVERY, SESSIONS, Kill
from disk_model import Disk, Tree, torn, write_tree
from disk_shim import CHANGING, Control, Entry, Kind, read_journal, shim_environment

_SESSION_S = 120.0


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


def parse_point(text: str) -> Point:
    """Return the point that a report names, such as ``812:power``."""
    number, _, way = text.partition(":")
    return Point(int(number), Way(way).value)


@dataclass(frozen=True)
class Recording:
    """A folder with a journal and, for a run that began behind a crash, with what was there and promised before."""

    folder: Path
    seed: int
    trusting: bool = False  # see ``Disk``

    @property
    def journal(self) -> Path:
        """The journal of the run."""
        return self.folder / "journal"

    @property
    def disk(self) -> Path:
        """The folder that was watched, as the run left it."""
        return self.folder / "disk"

    @property
    def base(self) -> Path:
        """What was on the disk before the run, if anything was."""
        return self.folder / "base"

    @property
    def promises(self) -> Path:
        """The marks of earlier runs, a line each."""
        return self.folder / "promises"

    def entries(self) -> list[Entry]:
        """Return the journal's entries."""
        return read_journal(self.journal)

    def begin(self) -> tuple[Disk, Ledger]:
        """Return the disk and the promises as they were before the first entry."""
        disk, ledger = Disk(trusting=self.trusting), Ledger(self.seed)
        if self.base.exists():
            disk.load(self.base)
            ledger.load(self.promises)
        return disk, ledger


def fast_folder() -> Path:
    """Return a new folder in memory where there is one: crashes are made up here, and no disk is needed for them."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="crash-", dir=memory if os.access(memory, os.W_OK) else None)).resolve()


def record(library: Path, folder: Path, seed: int) -> Recording:
    """Run the workload's sessions under the shim, one process each, into the new folder ``folder``."""
    recording = Recording(folder, seed)
    recording.disk.mkdir(parents=True)
    recording.journal.touch()
    for number, steps in enumerate(SESSIONS):
        _run_session(library, recording, str(number), dies=any(isinstance(step, Kill) for step in steps))
    return recording


def record_recovery(library: Path, folder: Path, tree: Tree, ledger: Ledger) -> Recording:
    """Open the disk state of a crash under the shim, so that its recovery can be crashed, too."""
    recording = Recording(folder, ledger.seed)
    write_tree(tree, recording.base)
    write_tree(tree, recording.disk)
    recording.promises.write_text("".join(f"{json.dumps(m)}\n" for m in ledger.marks()))
    recording.journal.touch()
    _run_session(library, recording, RECOVERY, dies=False)
    return recording


def _run_session(library: Path, recording: Recording, name: str, *, dies: bool) -> None:
    control = Control(recording.folder / f"control-{name}", make=True)
    promises = ["--promises", str(recording.promises)] if recording.promises.exists() else []
    done = subprocess.run(
        [sys.executable, "-m", "crash_workload", "--seed", str(recording.seed), "--session", name, *promises],
        env=shim_environment(library, recording.disk, journal=recording.journal, control=control.path),
        timeout=_SESSION_S,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = -9 if dies else 0
    assert done.returncode == wanted, f"session {name} ended with {done.returncode}: {done.stderr[-2000:]}"
    assert control.escapes == 0, f"session {name} changed the disk unseen"


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


def states(recording: Recording, points: Iterable[Point]) -> Iterator[tuple[Point, Tree, Ledger]]:
    """Yield what is on the disk at each of ``points``, and what had been promised by then; the journal is read once."""
    entries = recording.entries()
    disk, ledger = recording.begin()
    at = 0
    for number, group in groupby(sorted(points), key=lambda p: p.number):
        for entry in entries[at:number]:
            disk.apply(entry)
            if entry.kind is Kind.MARK:
                ledger.apply(entry.mark)
        at = number
        for point in group:
            yield point, _state(disk, entries, point, recording.seed), ledger.copy()


def _state(disk: Disk, entries: list[Entry], point: Point, seed: int) -> Tree:
    chance = random.Random(f"point/{seed}/{point}")
    is_torn = point.way in (Way.KILL_TORN.value, Way.POWER_TORN.value)
    with disk.tearing(torn(entries[point.number], chance)) if is_torn else nullcontext():
        return disk.killed() if point.way.startswith(Way.KILL.value) else disk.lose_power(chance)
