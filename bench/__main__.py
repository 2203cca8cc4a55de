"""``python -m bench NAME …``: run benchmarks by name and print their figures, one JSON line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping

from bench import book, growth, keys, live, replay, smoke, tail
from bench.figures import Figure
from tickflight_server.logs import configure_logs

BENCHES: Mapping[str, Callable[[], Iterable[Figure]]] = {
    "book": book.run,
    "growth": growth.run,
    "keys": keys.run,
    "live": live.run,
    "replay": replay.run,
    "smoke": smoke.run,
    "tail": tail.run,
}


def main() -> None:
    """Run the benchmarks that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="+", choices=sorted(BENCHES), metavar="NAME", help=", ".join(sorted(BENCHES)))
    configure_logs("warning")  # to standard error: standard output is for figures
    for name in parser.parse_args().names:
        for figure in BENCHES[name]():
            print(figure.to_json(), flush=True)


main()
