"""Levels to events."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from backfill_files import DATA, convert
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.app.backfill import books
from tickflight_server.app.backfill.books import LevelGrouper
from tickflight_server.errors import InputError

FILE = next(DATA.glob("tardis/*incremental*"))


def levels(rows: list[tuple[int, bool, bool, float]]) -> pa.Table:
    label = pa.array(["X"] * len(rows), pa.string()).dictionary_encode()
    return pa.table(
        {
            "exchange": label,
            "symbol": label,
            "timestamp": pa.array([r[0] for r in rows], pa.int64()),
            "receipt_timestamp": pa.array([r[0] for r in rows], pa.int64()),
            "is_snapshot": [r[1] for r in rows],
            "is_bid": [r[2] for r in rows],
            "price": [r[3] for r in rows],
            "amount": [1.0] * len(rows),
        }
    )


def group(tables: list[pa.Table]) -> list[dict[str, object]]:
    grouper = LevelGrouper()
    found = [grouper.add(t) for t in tables] + [grouper.finish()]
    return [row for batch in found if batch is not None for row in batch.to_pylist()]


ROW = st.tuples(st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([1.0, 2.0, 3.0]))


@given(st.lists(ROW, min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_events_do_not_depend_on_where_chunks_end(rows: list[tuple[int, bool, bool, float]], cuts: list[int]) -> None:
    places = sorted({0, len(rows), *(c for c in cuts if c <= len(rows))})
    pieces = [levels(rows[a:b]) for a, b in itertools.pairwise(places)]
    found = group(pieces)
    assert found == group([levels(rows)])
    assert sum(len(e["bid_prices"]) + len(e["ask_prices"]) for e in found) == len(rows)  # type: ignore[arg-type]
    keys = [(e["receipt_timestamp"], e["is_snapshot"]) for e in found]
    assert all(a != b for a, b in itertools.pairwise(keys))
    for event in found:
        if event["is_snapshot"]:
            assert event["bid_prices"] == sorted(event["bid_prices"], reverse=True)  # type: ignore[type-var]
            assert event["ask_prices"] == sorted(event["ask_prices"])  # type: ignore[type-var]


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, None])
@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_a_file_of_levels_becomes_events(chunk_rows: int | None, numeric: str) -> None:
    found = convert(FILE, numeric, chunk_rows)["l2_book"].to_pylist()
    assert [e["is_snapshot"] for e in found] == [False, True, *[False] * 7, True]
    assert {(e["exchange"], e["symbol"]) for e in found} == {("OKX", "BTC-USD-24M28")}
    first, snapshot, change = found[:3]
    assert [float(p) for p in snapshot["bid_prices"]] == [41999.9, 41999.5, 41998.0]
    assert [float(s) for s in snapshot["bid_sizes"]] == [1.5, 2.0, 7.0]
    assert [float(p) for p in snapshot["ask_prices"]] == [42000.1, 42001.0, 42003.3]
    assert (first["ask_prices"], [float(p) for p in first["bid_prices"]]) == ([], [41990.1])
    assert ([float(s) for s in change["bid_sizes"]], [float(s) for s in change["ask_sizes"]]) == ([0.0], [0.0])
    assert [float(p) for p in found[8]["ask_prices"]] == [42010.0, 42011.0]
    assert found[8]["timestamp"].microsecond == 700_010


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "EVENT_LEVELS_MAX", 3)
    with pytest.raises(InputError, match="more than 3 levels"):
        group([levels([(1, True, True, 1.0)] * 4)])


def test_nothing_gives_nothing() -> None:
    assert group([]) == []
    assert group([levels([])]) == []
