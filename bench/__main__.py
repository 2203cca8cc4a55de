"""``python -m bench NAME …``: run benchmarks by name and print their figures, one JSON line each.

``python -m bench --collect [NAME …]`` runs each in a process of its own, by default those of ``TABLE``, keeps the lines
in ``bench/results/`` and draws ``bench/report.html``.
"""

from __future__ import annotations

import argparse
import importlib

from bench import collect
from bench.names import ALL
from tickflight_server.logs import configure_logs


def main() -> None:
    """Run the benchmarks that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--collect", action="store_true", help="keep the figures and draw the report")
    asked = parser.parse_args()
    configure_logs("warning")  # to standard error: standard output is for figures
    if asked.collect:
        raise SystemExit(collect.run(asked.names))
    if not asked.names:
        parser.error("name a benchmark, or --collect")
    for name in asked.names:
        for figure in importlib.import_module(f"bench.{name}").run():
            print(figure.to_json(), flush=True)


main()
