"""What somebody sees of a store: rows and columns that their rights permit, and no trace of others."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stopped_clock import StoppedClock

from tickflight_server.config import LakehouseSettings, ReadGrant, RoleSettings
from tickflight_server.errors import NotFoundError
from tickflight_server.identity.rights import ALL, Roles, Sight
from tickflight_server.schemas import STORED, TIMESTAMP
from tickflight_server.store import SeenStore, Store

START_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
PAIRS = [(e, s) for e in ("BINANCE", "OKX") for s in ("BTC-USDT", "ETH-USDT", "BTC-EUR")]
SERVER = Path(__file__).parents[3] / "server" / "tickflight_server"


def rows(*pairs: tuple[str, str], at_us: int = START_US) -> pa.RecordBatch:
    times = pa.array([at_us] * len(pairs), pa.int64()).cast(TIMESTAMP)
    labels = {
        name: pa.array([pair[i] for pair in pairs]).dictionary_encode() for i, name in enumerate(("exchange", "symbol"))
    }
    return pa.record_batch({**labels, "price": [1.0] * len(pairs), "timestamp": times, "receipt_timestamp": times})


def sight(*grants: ReadGrant) -> Sight:
    return Roles({"r": RoleSettings(read=grants)}).rights(["r"]).sight


BTC = sight(ReadGrant(tables=("trades",), exchanges=("BINANCE",), symbols=("BTC-*",)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(
        LakehouseSettings(storage_path=tmp_path, wal_commit_interval_ms=0), StoppedClock(START_US), background=False
    ) as opened:
        yield opened


def seen(store: Store, what: Sight = BTC) -> SeenStore:
    return SeenStore(store, what, StoppedClock(START_US))


def in_memory(snapshot: Any) -> list[tuple[str, str]]:
    tables = [pa.Table.from_batches([s.batch]) for s in snapshot.segments]
    return [(r["exchange"], r["symbol"]) for table in tables for r in table.to_pylist()]


def test_rows_in_memory_are_those_that_are_permitted(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    snapshot = seen(store).snapshot("trades")
    assert in_memory(snapshot) == [("BINANCE", "BTC-USDT"), ("BINANCE", "BTC-EUR")]
    (segment,) = snapshot.segments
    assert segment.exchanges == {"BINANCE"}
    assert segment.symbols == {"BTC-USDT", "BTC-EUR"}


def test_dictionaries_have_no_name_that_may_not_be_seen(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    store.append("trades", rows(PAIRS[0], PAIRS[1]).slice(0, 1)).result()  # its dictionary has a name that no row has
    for segment in seen(store).snapshot("trades").segments:
        for name in ("exchange", "symbol"):
            column = segment.batch.column(name)
            assert set(column.dictionary.to_pylist()) == set(column.to_pylist())


def test_parts_are_those_that_are_permitted(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    store.flush()
    snapshot = seen(store).live("trades")
    assert sorted(zip(snapshot.parts.exchange, snapshot.parts.symbol, strict=True)) == [
        ("BINANCE", "BTC-EUR"),
        ("BINANCE", "BTC-USDT"),
    ]
    assert len(store.snapshot("trades").parts) == 0, "the rows are still in memory"
    assert len(seen(store, ALL).live("trades").parts) == 6


def test_history_ends_where_it_is_said(store: Store) -> None:
    for days in (0, 1, 3):
        store.append("trades", rows(PAIRS[0], at_us=START_US - days * DAY_US)).result()
    what = sight(ReadGrant(tables=("trades",), history_days=2))
    assert len(in_memory(seen(store, what).snapshot("trades"))) == 2
    assert seen(store, what).moves(["trades"])
    later = SeenStore(store, what, StoppedClock(START_US + 3 * DAY_US))
    assert in_memory(later.snapshot("trades")) == []
    store.flush()
    assert len(seen(store, what).live("trades").parts) == 2


def test_rows_after_a_cut_are_left_out_whether_seq_is_seen_or_not(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    what = sight(ReadGrant(tables=("trades",), columns=("exchange", "symbol")))
    snapshot = seen(store, what).snapshot("trades", 4)
    assert in_memory(snapshot) == PAIRS[:4]
    assert snapshot.segments[0].batch.schema.names == ["exchange", "symbol"]
    assert [c.name for c in snapshot.table.columns] == ["exchange", "symbol"]


def test_a_table_without_a_grant_does_not_exist(store: Store) -> None:
    here = seen(store)
    assert list(here.tables) == list(here.schemas) == ["trades"]
    for ask in (here.snapshot, lambda t: here.snapshot_at(t, 0), lambda t: here.version_at(t, 0)):
        with pytest.raises(NotFoundError, match=r"no stored table 'ticker'") as told:
            ask("ticker")
        assert "Tables are trades" in (told.value.hint or "")
    assert [folder.name for folder in here.read_folders] == ["trades", "cache"]


def test_new_rows_are_those_that_are_permitted(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    (segment,) = store.tables["trades"].state.segments
    found = seen(store).permitted("trades", segment, segment.batch.slice(1, 3))
    assert found.column("symbol").to_pylist() == ["BTC-EUR"]
    assert seen(store, ALL).permitted("trades", segment, segment.batch) is segment.batch


def test_what_was_chosen_is_kept_within_its_bytes_and_no_longer_than_its_segment(store: Store) -> None:
    store.append("trades", rows(*PAIRS)).result()
    here = seen(store)
    first = here.snapshot("trades").segments[0]
    assert here.snapshot("trades").segments[0] is first
    tight = SeenStore(store, BTC, StoppedClock(START_US), kept_bytes=0)
    assert tight.snapshot("trades").segments[0] is not tight.snapshot("trades").segments[0]
    assert in_memory(tight.snapshot("trades")) == in_memory(here.snapshot("trades"))
    del first
    gc.collect()


def test_what_is_missing_of_a_book_is_known_without_table_gaps(store: Store) -> None:
    book = sight(ReadGrant(tables=("l2_book",), exchanges=("OKX",)))
    assert "gaps" not in seen(store, book).tables
    assert seen(store, book).gaps("l2_book").table == STORED["gaps"]


def test_rows_leave_the_store_by_one_door() -> None:
    """Nothing above the store reads rows of a table but through what is seen of it."""
    door = re.compile(r"\.state\.(segments|held|parts)\b|\.whole\.(snapshot|snapshot_at|open_parts)\b")
    # the newest rows are taken whole and sieved by what is permitted
    known = {"query/fresh.py": "state.segments"}
    for folder in ("query", "flight", "app"):
        for path in (SERVER / folder).rglob("*.py"):
            found = door.search(path.read_text())
            name = str(path.relative_to(SERVER))
            assert found is None or name in known, f"{name}: {found[0]}"
