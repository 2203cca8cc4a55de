"""The system tables say what is where, in the schemas they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.query.system import TABLES, FeedBoard, SystemSource, make_table
from tickflight_server.schemas import STORED
from tickflight_server.store import SeenStore, Store


@pytest.fixture
def filled(store: Store, make_trades: Callable[..., Any]) -> Store:
    """Two symbols in parts and in the ring, one only in the ring."""
    for symbol in ("BTC-USDT", "ETH-USDT"):
        store.append("trades", make_trades(10, symbol)).result()
    store.flush()
    store.append("trades", make_trades(5, "SOL-USDT")).result()
    return store


@pytest.mark.parametrize("name", TABLES)
def test_table_has_its_schema_also_of_an_empty_store(store: Store, name: str) -> None:
    assert make_table(name, SystemSource(SeenStore(store), FeedBoard())).schema == TABLES[name][0]


@pytest.mark.parametrize("name", TABLES)
def test_table_is_read_by_sql_like_any_other(filled: Store, ask: Callable[..., Any], name: str) -> None:
    rows, opened = ask(f"SELECT * FROM system.{name}")
    assert rows.schema.names == TABLES[name][0].names
    assert opened == {}
    assert ask(f"SELECT * FROM {name}")[0].schema == rows.schema


def test_rows_add_up(filled: Store, ask: Callable[..., Any]) -> None:
    (row,) = ask("SELECT * FROM system.tables WHERE \"table\" = 'trades'")[0].to_pylist()
    assert (row["rows"], row["rows_on_disk"], row["rows_not_flushed"]) == (25, 20, 5)
    assert (row["last_seq"], row["flushed_seq"], row["parts"]) == (25, 20, 2)
    (sums,) = ask("SELECT sum(rows) r, sum(bytes) b, min(min_seq) low, max(max_seq) high FROM system.parts")[
        0
    ].to_pylist()
    assert (int(sums["r"]), sums["low"], sums["high"]) == (20, 1, 20)
    assert int(sums["b"]) == row["bytes_on_disk"]
    segments = ask("SELECT * FROM system.segments ORDER BY min_seq")[0].to_pylist()
    assert sum(s["rows"] for s in segments) == row["rows_in_memory"]
    assert [s["in_parts"] for s in segments] == [True, True, False]
    assert segments[-1]["symbols"] == ["SOL-USDT"]
    assert len(ask("FROM system.tables")[0]) == len(STORED)


def test_part_tells_in_which_tier_it_lies(
    filled: Store, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("SELECT DISTINCT tier FROM system.parts")[0].to_pylist() == [{"tier": "local"}]
    table = filled.tables["trades"]
    paths = table.state.parts.path.copy()
    paths[0] = "s3://bucket/trades/x.parquet"
    moved = replace(table.state, parts=replace(table.state.parts, path=paths))
    monkeypatch.setattr(table, "_state", moved)
    rows = ask("SELECT tier, path FROM system.parts ORDER BY tier DESC")[0].to_pylist()
    assert rows[0] == {"tier": "s3", "path": "s3://bucket/trades/x.parquet"}
    assert rows[1]["tier"] == "local"


def test_path_of_a_part_is_relative(filled: Store, ask: Callable[..., Any]) -> None:
    for row in ask("SELECT path FROM system.parts")[0].to_pylist():
        assert row["path"].startswith("trades/year=")
        assert (filled.root / row["path"]).is_file()


def test_metrics_count_queries(filled: Store, ask: Callable[..., Any]) -> None:
    ask("FROM trades")
    (row,) = ask("SELECT value FROM system.metrics WHERE name = 'queries'")[0].to_pylist()
    assert row["value"] >= 1


def test_newest_report_of_a_feed_counts() -> None:
    board = FeedBoard()
    board.report("binance", {"received": 1, "custom": [1]})
    board.report("binance", {"received": 7, "dropped": 2, "last_error": "gone"})
    (row,) = board.rows()
    assert (row["feed"], row["received"], row["sent"], row["dropped"]) == ("binance", 7, 0, 2)
    assert row["last_error"] == "gone"
    assert '"received": 7' in row["report"]


def test_longest_silent_feed_is_forgotten() -> None:
    board = FeedBoard(feeds_max=2)
    for name in ("a", "b", "a", "c"):
        board.report(name, {})
    assert [row["feed"] for row in board.rows()] == ["a", "c"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["received", "sent", "last_error", "x"]), json_values))
def test_no_report_spoils_the_table(values: dict[str, Any]) -> None:
    board = FeedBoard()
    board.report("f", values)
    table = make_table_of_feeds(board)
    assert table.num_rows == 1


def make_table_of_feeds(board: FeedBoard) -> Any:
    return make_table("feeds", SystemSource(store=None, feeds=board))  # type: ignore[arg-type]
