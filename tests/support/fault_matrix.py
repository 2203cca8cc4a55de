"""The fault matrix from outside: which points there are, and the processes that run them.

The rule of this file: a process that dies is the failure of the point that it was at, and the next one goes on behind
it. ``python tests/support/fault_matrix.py --seed S --point 17:EIO`` runs one point again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crash_points import PROCESSES
from crash_recording import Recording, fast_folder
from disk_shim import CHANGING, Control, Entry, Kind, compile_shim, read_journal, shim_environment
from fault_points import SHORT

_POINT_S = 120.0


@dataclass(frozen=True)
class FaultResult:
    """What became of a point: the operation that failed first, how many did, and what was wrong, if anything was."""

    point: str
    hit: str
    hits: int
    failed: str | None


class FaultMatrix:
    """Runs points under the shim ``library``, below ``scratch``."""

    def __init__(self, library: Path, scratch: Path, seed: int, *, in_place: bool = False) -> None:
        self._library = library
        self._scratch = scratch
        self._seed = seed
        self._in_place = in_place

    def operations(self) -> list[Entry]:
        """Return the operations of the steps when nothing fails: point ``n`` spoils the ``n``-th, from 1."""
        journal = self._scratch / "faults.journal"
        with self._start("none", [], journal) as process:
            assert process.wait(_POINT_S) == 0, "the steps fail without a fault"
        entries = read_journal(journal)
        return [e for e in entries[: end_of(entries)] if e.kind in CHANGING]

    def record(self, point: str, *, trusting: bool = False) -> tuple[Recording, FaultResult]:
        """Run one point and keep its journal: what is on the disk when power is lost after such a fault?"""
        name = f"recorded-{point.replace(':', '-')}"
        recording = Recording(self._scratch / name, self._seed, trusting)
        recording.folder.mkdir()
        (result,) = self._run_process(name, [point], recording.journal)
        return recording, result

    def run(self, points: list[str]) -> list[FaultResult]:
        """Run ``points``, shared among processes."""
        with ThreadPoolExecutor(PROCESSES) as pool:
            shares = [points[part::PROCESSES] for part in range(PROCESSES)]
            futures = [pool.submit(self._run_share, str(n), share) for n, share in enumerate(shares)]
            return [result for future in futures for result in future.result()]

    def _run_share(self, name: str, points: list[str]) -> list[FaultResult]:
        results: list[FaultResult] = []
        while points:
            results += self._run_process(f"{name}-{len(results)}", points)
            points = points[len(results) :] if not results else points[points.index(results[-1].point) + 1 :]
        return results

    def _run_process(self, name: str, points: list[str], journal: Path | None = None) -> Iterator[FaultResult]:
        with self._start(name, points, journal) as process:
            assert process.stdout is not None
            at = points[0]
            for text in process.stdout:
                line = json.loads(text)
                at = line.get("point", at)
                if "done" in line:
                    yield FaultResult(at, line["hit"], line["hits"], line["failed"])
                    at = ""
            code = process.wait(_POINT_S)
            if code:
                yield FaultResult(at or points[-1], "", 0, f"the process ended with {code}")

    def _start(self, name: str, points: list[str], journal: Path | None = None) -> subprocess.Popen[str]:
        root = self._scratch / f"faults-{name}"
        root.mkdir()
        control = Control(self._scratch / f"faults-{name}.control", make=True)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "fault_points", "--seed", str(self._seed)),
                *(["--in-place"] if self._in_place else []),
                *(["--points", *points] if points else []),
            ],
            env=shim_environment(self._library, root, journal=journal, control=control.path),
            stdout=subprocess.PIPE,
            text=True,
        )


def end_of(entries: list[Entry]) -> int:
    """Return where the run ends and its folder is cleared away."""
    return next(n for n, e in enumerate(entries) if e.kind is Kind.MARK and e.mark == {"step": "end"})


def main() -> None:
    """Run one point again, or all of them, and say what was wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--point", nargs="*", default=[], help="as in a report, such as 17:EIO; all without it")
    parser.add_argument("--in-place", action="store_true", help="the store must go on without being opened anew")
    options = parser.parse_args()
    scratch = fast_folder()
    matrix = FaultMatrix(compile_shim(scratch), scratch, options.seed, in_place=options.in_place)
    points = options.point
    if not points:
        operations = matrix.operations()
        points = [f"{n + 1}:{error}" for n in range(len(operations)) for error in ("EIO", "ENOSPC")]
        points += [f"{n + 1}:{SHORT}" for n, e in enumerate(operations) if e.kind is Kind.WRITE]
    results = matrix.run(points)
    for result in results:
        if result.failed is not None or options.point:
            print(f"{result.point} at {result.hit} ({result.hits} failed): {result.failed or 'nothing is wrong here'}")
    print(f"{len(results)} faults, {sum(r.failed is not None for r in results)} failed")


if __name__ == "__main__":
    main()
