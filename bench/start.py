"""Starts: with a gigabyte of log that nothing was flushed from, and with a hundred thousand parts in the catalog.

The rule of this file: the time is a server process's, from its start to its first word that it serves; the memory is
the most that it had until then.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import tickflight
from bench.figures import Figure, figure
from bench.lakes import long_log, many_parts
from bench.processes import elsewhere, memory_mb
from bench.servers import server_on

RUNS = 5
PARTS = 100_000
LOG_MB = 1024


def run() -> Iterator[Figure]:
    """Measure both, and a start on an empty folder beside them; a minute and a half."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        runs = np.array([_start(Path(name)) for _ in range(RUNS)])
    idle = float(np.median(runs[:, 1]))
    yield from _figures("an empty folder", runs, "nothing stored")
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        elsewhere(many_parts, Path(name) / "store", PARTS)
        runs = np.array([_start(Path(name), PARTS) for _ in range(RUNS)])
    where = f"200 symbols, 500 days, a part each; an empty server takes {idle:.0f} MiB"
    yield from _figures(f"{PARTS} parts", runs, where)
    yield from _long_log(idle)


def _long_log(idle: float) -> Iterator[Figure]:
    """The start takes the log's rows into memory and parts: each run begins with a copy of the folder."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        made = Path(name) / "made"
        elsewhere(long_log, made / "store", LOG_MB)
        log_mb = sum(p.stat().st_size for p in (made / "store/_tickflight/log").iterdir()) / 1e6
        runs = []
        for turn in range(RUNS):
            folder = Path(name) / f"{turn}"
            shutil.copytree(made, folder)
            runs.append(_start(folder))
            shutil.rmtree(folder)
    where = f"{log_mb:.0f} MB of log, trades of 50 symbols, default configuration; an empty server takes {idle:.0f} MiB"
    yield from _figures("1 GB of log", np.array(runs), where)


def _start(folder: Path, parts: int = 0) -> tuple[float, float]:
    """Return seconds and MiB of a start."""
    started = time.perf_counter()
    with server_on(folder) as (address, pid):
        seconds, peak = time.perf_counter() - started, memory_mb(pid, "VmHWM")
        if parts:
            with tickflight.connect(address) as client:
                (row,) = client.sql("SELECT count(*) n FROM system.parts").arrow().to_pylist()
                assert row["n"] == parts, row
    return seconds, peak


def _figures(what: str, runs: np.ndarray, conditions: str) -> Iterator[Figure]:
    yield figure("start", f"{what}: seconds", runs[:, 0].tolist(), "s", conditions)
    yield figure("start", f"{what}: most memory", runs[:, 1].tolist(), "MiB", conditions)
