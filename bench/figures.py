"""A figure: what was measured, its unit, its spread, and under which conditions.

The rule of this file: a figure is a median with its spread, and says on which commit and machine it was taken.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured number. ``spread`` is the least and the greatest of the runs, in ``unit``."""

    bench: str
    name: str
    value: float
    unit: str
    spread: tuple[float, float]
    conditions: str
    commit: str
    ratio: float | None = None
    ratio_to: str | None = None

    def to_json(self) -> str:
        """Return the figure as one line of JSON."""
        return json.dumps(asdict(self))


def figure(bench: str, name: str, runs: Sequence[float], unit: str, conditions: str) -> Figure:
    """Return the figure of several runs: their median and spread, to four digits."""
    low, high = _digits(min(runs)), _digits(max(runs))
    where = f"{conditions}; {len(runs)} runs, {os.cpu_count()} cores, Python {platform.python_version()}"
    return Figure(bench, name, _digits(statistics.median(runs)), unit, (low, high), where, commit())


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


@functools.cache
def commit() -> str:
    """Return the commit that is measured, with a + when there are changes on top."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
