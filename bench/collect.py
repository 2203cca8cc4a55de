"""``make bench``: run benchmarks one after the other, keep their figures, draw the report.

The rule of this file: a benchmark that fails takes no other with it, and what it gave before stays what is shown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.names import ALL, TABLE

RESULTS = Path(__file__).parent / "results"


def run(names: Sequence[str]) -> int:
    """Run ``names``, or those of the table; return 1 if one of them failed, else 0."""
    failed = [name for name in names or TABLE if not _collect(name)]
    report.write(list(figures()), RESULTS.parent / "report.html")
    for line in figures():
        if "aim" in line:
            met = "met   " if line["aim"]["met"] else "MISSED"
            print(f"{met} {line['bench']}: {line['name']}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _collect(name: str) -> bool:
    RESULTS.mkdir(exist_ok=True)
    started = time.monotonic()
    fresh = RESULTS / f"{name}.jsonl.tmp"
    with fresh.open("w") as out:
        status = subprocess.run([sys.executable, "-m", "bench", name], stdout=out, check=False).returncode
    print(f"{name}: {time.monotonic() - started:.0f} s, exit status {status}", file=sys.stderr)
    if status:
        fresh.unlink()
        return False
    fresh.replace(RESULTS / f"{name}.jsonl")
    return True


def figures() -> Iterator[dict[str, Any]]:
    """Yield the kept figures, by benchmark in the order of the table."""
    for name in ALL:
        path = RESULTS / f"{name}.jsonl"
        if path.exists():
            yield from map(json.loads, path.read_text().splitlines())
