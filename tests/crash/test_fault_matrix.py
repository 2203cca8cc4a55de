"""A disk that fails at any operation, and recovers, costs no acknowledged row and makes no wrong answer."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crash_points import check_in_pool
from crash_recording import find_points
from disk_shim import Entry, Kind
from fault_matrix import FaultMatrix, FaultResult, end_of
from fault_points import SHORT

ERRORS = ("EIO", "ENOSPC")


@pytest.fixture(scope="module")
def matrix(shim: Path, seed: int, in_place: bool, scratch_of_module: Path) -> FaultMatrix:
    return FaultMatrix(shim, scratch_of_module, seed, in_place=in_place)


@pytest.fixture(scope="module")
def operations(matrix: FaultMatrix) -> list[Entry]:
    return matrix.operations()


def test_a_fault_at_any_operation_is_told_and_passes(
    matrix: FaultMatrix, operations: list[Entry], campaign: Any, seed: int, counts: Counter[str]
) -> None:
    points = [f"{n + 1}:{error}" for n in range(len(operations)) for error in ERRORS]
    # permissions and a file system that went read-only are tried here and there
    points += [f"{n + 1}:{error}" for n in range(0, len(operations), 10) for error in ("EROFS", "EACCES")]
    # half a write is no error, and who does not look loses the other half
    short = [f"{n + 1}:{SHORT}" for n, e in enumerate(operations) if e.kind is Kind.WRITE]
    if campaign.faults is not None:
        chance = random.Random(seed)
        points = chance.sample(points, campaign.faults)
        short = chance.sample(short, campaign.short_writes)
    points += short
    counts["faults"] += len(points)
    results = matrix.run(points)
    assert [r.point for r in results if r.failed] == [], report(results, seed)
    assert len(results) == len(points)


def test_power_lost_after_a_fault_costs_nothing_acknowledged(
    matrix: FaultMatrix,
    operations: list[Entry],
    campaign: Any,
    seed: int,
    trusting: bool,
    scratch: Path,
    counts: Counter[str],
    kept: Path,
) -> None:
    # a sync that failed promises nothing, and neither does the next one: what was it about must be written again
    chance = random.Random(seed)
    numbers = [n + 1 for n, e in enumerate(operations) if e.kind in (Kind.SYNC, Kind.WRITE)]
    failed = []
    for number in chance.sample(numbers, min(campaign.faulted_runs, len(numbers))):
        recording, result = matrix.record(f"{number}:{chance.choice(ERRORS)}", trusting=trusting)
        assert result.failed is None, report([result], seed)
        entries = recording.entries()
        fault = next((n for n, e in enumerate(entries) if e.error and e.kind in (Kind.SYNC, Kind.WRITE)), 0)
        points = [p for p in find_points(entries[: end_of(entries)]) if p.number > fault and "power" in p.way]
        points = sorted(chance.sample(points, min(campaign.points_of_a_faulted_run, len(points))))
        counts["crash points after a fault"] += len(points)
        failures = check_in_pool(recording, points, scratch)
        if failures:
            shutil.copytree(recording.folder, kept / recording.folder.name)
        said = f"{kept / recording.folder.name} with seed {seed}, after {result.hit}"
        failed += [f"{said}: {f.point}: {f.said.splitlines()[-1]}" for f in failures]
    assert not failed, "\n".join(failed)


def report(results: list[FaultResult], seed: int) -> str:
    """Say what was wrong and how it is tried again."""
    bad = [r for r in results if r.failed]
    again = f"python tests/support/fault_matrix.py --seed {seed} --point"
    return "\n".join(f"{r.point} at {r.hit}, {r.hits} failed: {r.failed}\n    {again} {r.point}" for r in bad[:20])
