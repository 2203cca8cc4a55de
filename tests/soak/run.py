"""The soak of `make soak`: 200 clients, a third of them hostile, for ten minutes; written down in a page of results.

python tests/soak/run.py --seconds 600 --record bench/results/soak.md --note "two cores, nothing else running"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
INGEST_MS, TIMES, GROWTH_MB = 100.0, 2.0, 64.0
HEAD = """# Soak

Written by `make soak` (tests/soak/run.py), newest last: a real server process on the machine of its clients. What the
hostile clients do is the table of tests/support/soak_hostile.py.
"""


def main() -> int:
    """Run it; return whether an aim was missed."""
    from soak import soak

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--alone", type=float, default=60, help="seconds without hostile clients, before")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), args.seed, clients=args.clients, alone_s=args.alone, attacked_s=args.seconds)
    page = report(found, args)
    print(page)
    print(json.dumps(asdict(found), default=str))
    if args.record is not None:
        text = args.record.read_text() if args.record.exists() else HEAD
        args.record.write_text(text + page)
    return int("missed" in page)


def report(found: Any, args: argparse.Namespace) -> str:
    """Return the section of the page that tells of one run."""
    ingest, honest, rss = found.ingest_ms, found.honest_ms, found.rss_mb
    ratio = honest["attacked"]["p99"] / honest["alone"]["p99"]
    failed, before, after = found.failed, found.before, found.after
    grown = rss["last"] - rss["first"]
    slowest, asked = ingest["attacked"]["p99.9"], honest["attacked"]["p99"]
    rows: list[tuple[str, str, str, bool | None]] = [
        ("ingest p99.9, attacked", f"{slowest:.1f} ms", "≤ 100 ms", slowest <= INGEST_MS),
        ("ingest p99.9, alone", f"{ingest['alone']['p99.9']:.1f} ms", "", None),
        ("ingest p50 / p99 / most, attacked", _three(ingest["attacked"]), "", None),
        ("honest p99, attacked", f"{asked:.1f} ms, {ratio:.2f} × alone", "≤ 2 ×", ratio <= TIMES),
        ("honest p50 / p99 / most, alone", _three(honest["alone"]), "", None),
        ("honest p50 / p99 / most, attacked", _three(honest["attacked"]), "", None),
        ("honest calls that failed, alone", *_none(failed["alone"])),
        ("honest calls that failed, attacked", *_none(failed["attacked"])),
        ("honest calls that were answered, attacked", f"{found.answered['attacked']:,}", "", None),
        ("rows acknowledged are there, once", "yes" if found.rows_kept else "no", "yes", found.rows_kept),
        ("memory, first / last minute", f"{rss['first']:.0f} / {rss['last']:.0f} MiB", "flat", grown <= GROWTH_MB),
        ("memory, slope after the first quarter", f"{rss['slope_per_min']:+.2f} MiB a minute", "", None),
        ("memory, peak", f"{rss['peak']:.0f} MiB", "", None),
        ("descriptors before / after", *_kept(before.descriptors, after.descriptors, 8)),
        ("threads before / after", *_kept(before.threads, after.threads, 16)),
        ("descriptors by kind, before", _counts(before.kinds), "", None),
        ("descriptors by kind, after", _counts(after.kinds), "", None),
    ]
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, seed {args.seed}"
    lines = [
        "",
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {args.clients} clients, {args.seconds:.0f} s",
        "",
        f"{machine}; alone for {args.alone:.0f} s before. The hostile clients run at nice 10. {args.note}".rstrip(),
        "",
        "| what | found | aim | |",
        "|---|---|---|---|",
        *(f"| {name} | {value} | {aim} | {_verdict(good)} |" for name, value, aim, good in rows),
        "",
        f"Attacks: {_counts(found.attacks)}.",
        "",
        f"Counted: {_counts(found.metrics)}.",
        "",
    ]
    return "\n".join(lines)


def _three(times: dict[str, float]) -> str:
    return f"{times['p50']:.1f} / {times['p99']:.1f} / {times['max']:.1f} ms"


def _kept(before: int, after: int, room: int) -> tuple[str, str, bool]:
    return f"{before} / {after}", f"at most {room} more", after <= before + room


def _none(failed: dict[str, int]) -> tuple[str, str, bool]:
    return f"{sum(failed.values())} {_counts(failed)}".strip().replace("|", "/"), "0", not failed


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count:,.0f}" for name, count in sorted(counts.items()))


def _verdict(good: bool | None) -> str:
    return "" if good is None else "met" if good else "missed"


if __name__ == "__main__":
    sys.exit(main())
