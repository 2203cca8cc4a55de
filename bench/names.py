"""The benchmarks there are: each is a module ``bench.NAME`` with ``run()``, which yields figures.

The rule of this file: what is in ``TABLE`` is run by ``make bench``, in this order, and must end within 20 minutes.
"""

from __future__ import annotations

TABLE = (
    "read_ring",
    "read_lake",
    "first_batch",
    "write_flight",
    "write_feed",
    "fresh",
    "recent",
    "history",
    "small",
    "mixed",
    "size",
    "start",
    "peers",
)
# longer ones, or of one part only
OTHERS = ("book", "growth", "keys", "live", "replay", "tail")
ALL = (*TABLE, *OTHERS)
