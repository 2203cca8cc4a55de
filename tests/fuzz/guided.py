"""Coverage-guided fuzzing of one target of ``tests/support/fuzz_targets.py``, as `make fuzz` runs it.

    python tests/fuzz/guided.py ingest --seconds 3600 --corpus DIR --record FILE

The rule of this file: it finds inputs and judges none; what is a finding is the target's to say. An input that ends the
process is left beside the corpus as ``crash-…``, and becomes a file of ``tests/fuzz/corpus`` once it is mended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"
KEPT = HERE / "corpus"
_MEMORY_MB = 2048
_INPUT_MAX = 1 << 14


def main() -> int:
    """Run one target in a child, which may die, and write down what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--record", type=Path, help="a line of JSON is added here when the run is over")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    return fuzz(args) if args.here else watch(args)


def watch(args: argparse.Namespace) -> int:
    """Run the fuzzer until its time is over or it finds something; return whether it did."""
    args.corpus.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, __file__, args.target, "--here", "--seed", str(args.seed)]
    command += ["--seconds", str(args.seconds), "--corpus", str(args.corpus)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    runs = [line for line in done.stdout.splitlines() if line.startswith("#") or "stat::" in line]
    found = {
        "target": args.target,
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
        "executions": _executions(runs),
        "finding": done.returncode != 0,
    }
    if args.record is not None:
        with args.record.open("a") as file:
            file.write(json.dumps(found) + "\n")
    if done.returncode:
        print(done.stdout[-4000:])
    print(json.dumps(found))
    return done.returncode


def _executions(lines: list[str]) -> int:
    for line in reversed(lines):
        if "number_of_executed_units" in line:
            return int(line.split()[-1])
    return int(lines[-1].split()[0].strip("#")) if lines else 0


def fuzz(args: argparse.Namespace) -> int:
    """Be the fuzzer."""
    sys.path.insert(0, str(SUPPORT))
    import atheris

    # Python's libraries are loaded before: what counts is the way through the server's own code
    import pyarrow.flight  # noqa: F401

    with atheris.instrument_imports(include=["tickflight", "tickflight_server", "fuzz_targets"]):
        import fuzz_targets

    target = fuzz_targets.TARGETS[args.target]
    options: dict[str, Any] = {}
    if args.target in fuzz_targets.STREAMS:
        lead = fuzz_targets.STREAMS[args.target]

        def mutate(data: bytes, size_max: int, seed: int) -> bytes:
            found = fuzz_targets.arrow_of(data, seed, lead=lead)
            return found if len(found) <= size_max else atheris.Mutate(data, size_max)

        options["custom_mutator"] = mutate
    dictionary = KEPT / f"{args.target}.dict"
    arguments = [
        *(sys.argv[0], f"-max_total_time={args.seconds}", f"-seed={args.seed}", f"-rss_limit_mb={_MEMORY_MB}"),
        *(f"-max_len={_INPUT_MAX}", "-timeout=20", "-print_final_stats=1", f"-artifact_prefix={args.corpus}/"),
        *([f"-dict={dictionary}"] if dictionary.exists() else []),
        *(str(args.corpus), *([str(KEPT / args.target)] if (KEPT / args.target).is_dir() else [])),
    ]
    atheris.Setup(arguments, target, **options)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
