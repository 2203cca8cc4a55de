"""The crash matrix: open what a crash at each operation of a recorded run would have left.

The rule of this file: a store is held to what was promised before the point, and then goes on as if nothing had been.
``python tests/support/crash_points.py RECORDING --seed S --point N:WAY`` makes a point again and shows what is wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from crash_batches import Ledger
from crash_check import ViolationError, check_store
from crash_recording import Point, Recording, fast_folder, find_points, parse_point, states
from crash_workload import STORE, Workload, be_quiet
from disk_model import Tree, write_tree
from disk_shim import Kind

PROCESSES = 2
_POINT_S = 120.0  # a point that hangs ends its process, with a traceback of every thread
_CHUNK = 40  # points for one process at a time


@dataclass(frozen=True)
class Failure:
    """A point whose store broke its word, and how."""

    point: Point
    said: str


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
    for sent in list(workload.ledger.sent.values()):
        if sent.producer is None:
            continue
        ack = workload.deliver(sent)
        known = sent.number in present
        if ack.rows and ack.duplicate != known:
            said = f"{'is' if known else 'is not'} there, and sent again it is duplicate={ack.duplicate}"
            raise ViolationError(f"{sent.table}: batch {sent.number} {said}")


def check_points(recording: Recording, points: list[Point], scratch: Path) -> list[Failure]:
    """Check ``points`` one after the other, in a folder below ``scratch``; return those that failed."""
    be_quiet()
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "disk"
    failures = []
    for point, tree, ledger in states(recording, points):
        faulthandler.dump_traceback_later(_POINT_S, exit=True)
        try:
            check_state(tree, ledger, folder)
        except Exception as error:  # whatever it is, the point failed
            failures.append(Failure(point, describe(error)))
        faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder.parent, ignore_errors=True)
    return failures


def describe(error: BaseException) -> str:
    """Return an error for a report: what it says, below where it came from if it is no violation."""
    if isinstance(error, ViolationError):
        return f"ViolationError: {error}"
    return "".join(traceback.format_exception(error)[-4:]).strip()


def check_in_pool(recording: Recording, points: list[Point], scratch: Path) -> list[Failure]:
    """Check ``points`` in spawned processes: delta-rs has threads, which a fork would lose."""
    size = max(1, min(_CHUNK, -(-len(points) // PROCESSES)))
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(check_points, recording, chunk, scratch) for chunk in chunks]
        return [failure for future in futures for failure in future.result()]


def main() -> None:
    """Make a point of a recording again and say what is wrong with it, or check all of its points."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("recording", type=Path, help="folder, as a failed test names it")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--point", type=parse_point, help="as in a report, such as 812:power; all without it")
    parser.add_argument("--keep", type=Path, help="folder for the disk state, as it was before the store opened it")
    parser.add_argument("--trust-later-syncs", action="store_true", help="see proto-notes/crash-testing.md")
    options = parser.parse_args()
    recording = Recording(options.recording, options.seed, options.trust_later_syncs)
    if options.point is None:
        _check_all(recording)
    else:
        _show(recording, options.point, options.keep)


def _check_all(recording: Recording) -> None:
    started = time.monotonic()
    points = find_points(recording.entries())
    failures = check_in_pool(recording, points, fast_folder())
    for failure in failures:
        print(f"{failure.point}: {failure.said}")
    print(f"{len(points)} points, {len(failures)} failed, {time.monotonic() - started:.0f} s")


def _show(recording: Recording, point: Point, keep: Path | None) -> None:
    entries = recording.entries()
    for entry in entries[max(0, point.number - 8) : point.number]:
        print(f"  {entry.mark}" if entry.kind is Kind.MARK else f"  {entry}")
    print(f"> {entries[point.number] if point.number < len(entries) else 'the end'}")
    ((_, tree, ledger),) = states(recording, [point])
    if keep is not None:
        write_tree(tree, keep)
    check_state(tree, ledger, fast_folder() / "disk")
    print("nothing is wrong here")


if __name__ == "__main__":
    main()
