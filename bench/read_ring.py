"""A full scan of rows in memory: by ADBC and by our client, beside bare Flight with the same batches.

The rule of this file: what we are compared with streams the very batches that our server gave, has nothing else to do,
and is read by the fastest reader that there is of its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import tickflight
from bench.figures import Aim, Figure, figure
from bench.processes import serving
from bench.scans import MARKET_WORDS, Reading, in_turns, memory_rate, rates, serve_bare, server_with_ring

ROWS = int(os.environ.get("TICKFLIGHT_BENCH_RING_ROWS", "10000000"))
RUNS = 5
SQL = "SELECT * FROM trades"
AIM = Aim(">=", 0.85)


def run() -> Iterator[Figure]:
    """Measure all readers in turns; about a minute."""
    reading = Reading(ROWS)
    with (
        server_with_ring(ROWS) as address,
        tickflight.connect(address) as client,
        serving(serve_bare, address, SQL, False, 1) as (bare, _),
        serving(serve_bare, address, SQL, True, 1) as (bare_names, _),
    ):
        one = client.sql(f"{SQL} LIMIT 100000").arrow()
        row_bytes = one.nbytes / one.num_rows
        found = in_turns(
            {
                "client": reading.by_client(client, SQL),
                "bare": reading.by_flight(bare),
                "adbc": reading.by_adbc(address, SQL),
                "bare by adbc": reading.by_adbc(bare, SQL),
                "table by adbc": reading.by_adbc_table(address, SQL),
                "bare table by adbc": reading.by_adbc_table(bare, SQL),
                "names": reading.by_client(client, SQL, dictionaries=True),
                "bare names": reading.by_flight(bare_names),
                "names by adbc": reading.by_adbc(address, SQL, dictionaries=True),
                "bare names by adbc": reading.by_adbc(bare_names, SQL),
            },
            RUNS,
        )
    rate = {name: rates(ROWS, seconds) for name, seconds in found.items()}
    conditions = f"{SQL}: {ROWS} trades in memory, {MARKET_WORDS}, {row_bytes:.0f} bytes a row on the wire, loopback"
    for name, key, beside, to, aim in (
        ("ADBC, beside pyarrow's client", "adbc", "bare", "bare Flight read by pyarrow", AIM),
        ("ADBC", "adbc", "bare by adbc", "bare Flight SQL, one endpoint, read by ADBC", AIM),
        ("ADBC, one table", "table by adbc", "bare table by adbc", "bare Flight SQL, one endpoint, read by ADBC", AIM),
        ("our client", "client", "bare", "bare Flight read by pyarrow", AIM),
        ("our client, names as dictionaries", "names", "bare names", "bare Flight with the same dictionaries", AIM),
        ("ADBC, names as dictionaries", "names by adbc", "bare names by adbc", "bare Flight SQL with the same", AIM),
    ):
        yield figure("read_ring", name, rate[key], "M rows/s", conditions, beside=rate[beside], ratio_to=to, aim=aim)
    yield figure("read_ring", "bare Flight read by pyarrow", rate["bare"], "M rows/s", conditions)
    yield figure("read_ring", "bare Flight SQL read by ADBC", rate["bare by adbc"], "M rows/s", conditions)
    memory = [gigabytes * 1e3 / row_bytes for gigabytes in memory_rate()]
    yield figure("read_ring", "one copy in memory, the limit", memory, "M rows/s", "one core copies rows of this width")
