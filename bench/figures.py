"""A figure: what was measured, its unit, its spread, what it is compared with, and under which conditions.

The rule of this file: a figure is a median with its spread, and says on which commit and machine it was taken. An aim
is of the figure's ratio where it has one, else of its value.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Aim:
    """What a figure should be: ``op`` and ``value``, as in ``>= 0.85``."""

    op: str
    value: float

    def met(self, found: float) -> bool:
        """Return whether ``found`` is as the aim says."""
        return bool(_OPERATORS[self.op](found, self.value))


@dataclass(frozen=True)
class Figure:
    """One measured number. ``spread`` is the least and the greatest of the runs, in ``unit``.

    ``ratio`` is the value beside that of ``ratio_to``, which was measured in the same run: above 1 is more.
    """

    bench: str
    name: str
    value: float
    unit: str
    ratio: float | None
    ratio_to: str | None
    spread: tuple[float, float]
    conditions: str
    commit: str
    aim: Aim | None = None

    def to_json(self) -> str:
        """Return the figure as one line of JSON; ``aim`` is there only where one is set, with whether it is met."""
        fields = asdict(self)
        if self.aim is None:
            del fields["aim"]
        else:
            fields["aim"]["met"] = self.aim.met(self.value if self.ratio is None else self.ratio)
        return json.dumps(fields)


def figure(
    bench: str,
    name: str,
    runs: Sequence[float],
    unit: str,
    conditions: str,
    *,
    beside: Sequence[float] | None = None,
    ratio_to: str | None = None,
    aim: Aim | None = None,
) -> Figure:
    """Return the figure of several runs: their median and spread, to four digits.

    ``beside`` are the runs of what it is compared with, called ``ratio_to``, taken in turns with ``runs``: the ratio is
    the median of the pairs' ratios.
    """
    low, high = _digits(min(runs)), _digits(max(runs))
    where = f"{conditions}; {len(runs)} runs, {os.cpu_count()} cores, Python {platform.python_version()}"
    ratio = None
    if beside is not None:
        ratio = _digits(statistics.median(a / b for a, b in zip(runs, beside, strict=True)))
    value = _digits(statistics.median(runs))
    return Figure(bench, name, value, unit, ratio, ratio_to, (low, high), where, commit(), aim)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


@functools.cache
def commit() -> str:
    """Return the commit that is measured, with a + when there are changes on top, of results apart."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!results", ":!report.html", "../server", "../client")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
