"""book_at against cryptofeed's own order book: recordings, applied event by event, at random instants.

The recorded rows are stored twice, the second time a little later, so that each instrument is begun anew from a
snapshot; they are cut into batches and flushed at random, and asked for in memory, across the cut and on disk.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from recorded_books import RESYNC_US, append, as_live, by_instrument, expected, play

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.feed import compat
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

REPO = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("TICKFLIGHT_RECORDINGS", REPO.parent / "shared" / "recordings"))
SANDBOX = REPO / "tests" / "data" / "sandbox" / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE")
SQL = "FROM book_at(?, ?, make_timestamp(?), ?)"
DEPTH = 20
INSTANTS = {"sample": 60, "full": 10_000}
SHARED = {"sample": 4, "full": 1000}  # recordings


def recordings(chance: random.Random, some: int) -> list[Path]:
    """Return ``some`` of the shared recordings where they are and can be read, and the sandbox's."""
    if compat.MAJOR >= 3 or not RECORDINGS.is_dir():
        return [SANDBOX]
    shared = sorted(path for path in RECORDINGS.iterdir() if path.is_dir())
    return [SANDBOX, *chance.sample(shared, min(some, len(shared)))]


def ask(engine: Engine, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with engine.execute(engine.plan(SQL, parameters)) as execution:
        table = execution.reader.read_all()
    stamps = table["timestamp"].cast(pa.int64())
    table = table.set_column(table.column_names.index("timestamp"), "timestamp", stamps)
    return [tuple(row.values())[:-1] for row in table.to_pylist()]


@pytest.mark.timeout(3600)
def test_book_is_cryptofeeds_own_at_random_instants(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    chance = random.Random(request.config.getoption("--crash-seed"))
    campaign = request.config.getoption("--campaign")
    count = INSTANTS[campaign]
    first, rows = play(tmp_path / "played", recordings(chance, SHARED[campaign]))
    first = as_live(first)
    again = [(what, replace(event, timestamp_us=event.timestamp_us + RESYNC_US)) for what, event in first]
    found = by_instrument([*first, *again])
    instants: list[tuple[list[Any], list[tuple[Any, ...]]]] = []
    for what in chance.choices(list(found), [len(events) for events in found.values()], k=count):
        stamps = [event.timestamp_us for event in found[what]]
        near = chance.choice(stamps) + chance.choice((-1, 0, 1))
        far = chance.randrange(min(stamps) - 99, max(stamps) + 99)
        instants.append(([*what, chance.choice((near, far)), DEPTH], []))
    for what, events in found.items():
        asked = sorted((i for i in instants if tuple(i[0][:2]) == what), key=lambda i: i[0][2])
        for (_, into), book in zip(asked, expected(what, events, [i[0][2] for i in asked], DEPTH), strict=True):
            into.extend(book)
    with Store(LakehouseSettings(storage_path=tmp_path / "lake", wal_commit_interval_ms=0)) as store:
        engine = Engine(store, QuerySettings())
        append(store, first, rows, chance)
        append(store, again, rows, chance)

        def on_disk() -> None:
            store.flush()
            while store.tables["l2_book"].release_oldest():
                pass

        third = -(-count // 3)
        steps = (lambda: None, on_disk, lambda: store.keeper.compact(all_of_it=True))
        for number, step in enumerate(steps):
            step()
            for parameters, book in instants[number * third : (number + 1) * third]:
                assert ask(engine, parameters) == book, parameters
        engine.close()
    assert sum(bool(book) for _, book in instants) > count / 2
    assert sum(event.snapshot for events in found.values() for event in events) >= 2 * len(found)
