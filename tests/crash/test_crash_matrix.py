"""A crash at any operation of the disk loses nothing that was acknowledged, doubles nothing and makes nothing up."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crash_points import Failure, check_in_pool
from crash_recording import Point, Recording, Way, find_points, record, record_recovery, states
from disk_model import read_tree
from disk_shim import Entry, Kind

SEEN_MAX = 20  # failures that are shown


@pytest.fixture(scope="module")
def recorded(shim: Path, seed: int, scratch_of_module: Path) -> Recording:
    """One run of the workload."""
    return record(shim, scratch_of_module / "run", seed)


def test_nothing_changes_the_folder_unseen(recorded: Recording) -> None:
    entries = recorded.entries()
    disk, _ = recorded.begin()
    for entry in entries:
        disk.apply(entry)
    assert disk.killed() == read_tree(recorded.disk)
    assert not [e for e in entries if e.kind is Kind.ESCAPE]


def test_the_run_does_all_that_a_crash_can_meet(recorded: Recording) -> None:
    done = [e for e in recorded.entries() if not e.error]

    def happened(kind: Kind, text: str) -> bool:
        return any(e.kind is kind and text in e.path for e in done)

    assert happened(Kind.UNLINK, "/log/"), "a log file is released"
    assert happened(Kind.TRUNCATE, "/log/"), "a torn tail is cut"
    assert happened(Kind.UNLINK, ".parquet"), "an orphan is deleted"
    assert happened(Kind.RENAME, ".checkpoint.parquet"), "Delta writes a checkpoint"
    logs = {e.path for e in done if e.kind is Kind.OPEN_WRITE and "/log/" in e.path}
    assert len(logs) > 2 * 5, "the log rolls"


def test_what_was_acknowledged_survives_a_crash_at_any_point_once(
    recorded: Recording, campaign: Any, seed: int, scratch: Path, counts: Counter[str], kept: Path
) -> None:
    points = choose(recorded.entries(), campaign.crash_points, seed)
    counts["crash points"] += len(points)
    failures = check_in_pool(recorded, points, scratch)
    assert not failures, report(failures, recorded, kept)


def test_a_crash_of_the_recovery_from_a_crash_costs_no_more(
    shim: Path, recorded: Recording, campaign: Any, seed: int, scratch: Path, counts: Counter[str], kept: Path
) -> None:
    chance = random.Random(seed)
    failed = []
    points = [p for p in find_points(recorded.entries()) if p.way != Way.KILL.value]
    for point, tree, ledger in states(recorded, sorted(chance.sample(points, campaign.recoveries))):
        try:
            again = record_recovery(shim, scratch / f"recovery-{point.number}-{point.way}", tree, ledger)
        except AssertionError as error:
            failed.append(report([Failure(point, str(error).strip())], recorded, kept))
            continue
        inner = find_points(again.entries())
        inner = sorted(chance.sample(inner, min(campaign.points_of_a_recovery, len(inner))))
        counts["crash points of recoveries"] += len(inner)
        failures = check_in_pool(again, inner, scratch)
        if failures:
            failed.append(report(failures, again, kept))
        shutil.rmtree(again.folder)
    assert not failed, "\n".join(failed)


def choose(entries: list[Entry], count: int | None, seed: int) -> list[Point]:
    """Return ``count`` points, or all: as many of each kind of operation and way to die as there are, rare ones too."""
    points = find_points(entries)
    if count is None:
        return points
    chance = random.Random(seed)
    chance.shuffle(points)
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        entry = entries[min(point.number, len(entries) - 1)]
        folder = "log" if "/log/" in entry.path else "versions" if "_delta_log" in entry.path else "other"
        groups.setdefault((entry.kind, folder, point.way.startswith(Way.KILL.value)), []).append(point)
    chosen: list[Point] = []
    while len(chosen) < count:
        chosen += [group.pop() for group in groups.values() if group]
    return sorted(chosen[:count])


def report(failures: list[Failure], recording: Recording, kept: Path) -> str:
    """Keep the recording, and say how each point is tried again."""
    copy = kept / recording.folder.name
    if not copy.exists():
        shutil.copytree(recording.folder, copy)
    again = f"python tests/support/crash_points.py {copy} --seed {recording.seed} --point"
    lines = [f"{f.point}: {f.said.splitlines()[-1]}\n    {again} {f.point}" for f in failures[:SEEN_MAX]]
    return "\n".join([f"{len(failures)} points failed", *lines])
