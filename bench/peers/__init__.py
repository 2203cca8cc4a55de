"""The same work on tickflight and on what users would pick instead: reads, aggregates, recent windows, ingest.

Each product runs in an environment of its own, made on first use, and is driven by a script of ``workers`` there. The
rule of this file: it imports nothing, because the workers' environments have nothing of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.figures import Figure


def run() -> Iterator[Figure]:
    """Measure every product; about four minutes once the environments are there, some more the first time."""
    from bench.peers.contest import contest

    return contest()
