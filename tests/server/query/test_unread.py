"""Columns that are not read: only where the answer is the one that reading them gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flight_here import START_US

from tickflight_server.errors import StorageError
from tickflight_server.query.engine import Engine
from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or, Unknown
from tickflight_server.query.probe import Filters
from tickflight_server.query.unread import known_labels, passing_columns
from tickflight_server.store import Store
from tickflight_server.store.partition import Part, PartitionKey
from tickflight_server.store.parts import PartIndex, make_index

LATER = Compare(">=", "timestamp", 100)
EARLIER = Compare("<", "timestamp", 201)
THERE = Not(IsNull("timestamp"))
PRICED = Compare(">", "price", 1.0)


def parts(*symbols: str) -> PartIndex:
    fields = {"path": "p", "rows": 1, "nbytes": 1, "min_us": 100, "max_us": 200, "min_seq": 5, "max_seq": 9}
    return make_index([Part(key=PartitionKey("E", symbol, 0), **fields) for symbol in symbols])


def test_a_label_is_known_where_all_parts_have_it() -> None:
    assert known_labels(parts("it's", "it's")) == {"exchange": "'E'", "symbol": "'it''s'"}
    assert known_labels(parts("A", "B")) == {"exchange": "'E'"}


@pytest.mark.parametrize(
    "scans",
    [
        [LATER],
        [And(And(THERE, LATER), And(EARLIER, PRICED))],
        [LATER, EARLIER],
        [And(LATER, Compare("!=", "timestamp", 201))],
        [And(LATER, Or(PRICED, In("symbol", frozenset({"A"}))))],
    ],
)
def test_a_time_that_passes_everywhere_and_is_not_given_on_is_known(scans: list[Filter | None]) -> None:
    found = passing_columns(parts("A", "B"), Filters(scans, frozenset({"timestamp", "price"}), frozenset({"price"})))
    assert found == {"timestamp": "TIMESTAMP '1970-01-01 00:00:00.000100'"}


def test_a_number_that_passes_everywhere_is_known() -> None:
    passing = Filters([Compare("<=", "seq", 9)], frozenset({"seq"}), frozenset())
    assert passing_columns(parts("A"), passing) == {"seq": "5::BIGINT"}


@pytest.mark.parametrize(
    "scans",
    [
        [],
        [None],
        [LATER, None],
        [PRICED],
        [LATER, PRICED],
        [Compare(">", "timestamp", 100)],
        [Compare("<", "timestamp", 200)],
        [Compare("!=", "timestamp", 150)],
        [And(LATER, Unknown())],
        [And(LATER, Not(Unknown()))],
        [And(LATER, Or(EARLIER, PRICED))],
        [Or(LATER, Literal(None))],  # null where it does not hold
        [Not(In("timestamp", frozenset({1})))],  # and so is this, were there a null in its list
        [Compare(">=", "timestamp", 99.5)],
        [IsNull("timestamp")],
    ],
)
def test_what_may_not_pass_or_is_not_understood_is_read(scans: list[Filter | None]) -> None:
    assert passing_columns(parts("A"), Filters(scans, frozenset({"timestamp"}), frozenset())) == {}


def test_what_is_given_on_is_read() -> None:
    assert passing_columns(parts("A"), Filters([LATER], frozenset({"timestamp"}), frozenset({"timestamp"}))) == {}
    assert passing_columns(parts("A"), Filters([LATER])) == {}
    assert passing_columns(parts("A"), None) == {}


AFTER = f"timestamp >= make_timestamp({START_US})"
ALL = f"{AFTER} AND seq > 0 AND timestamp < make_timestamp({START_US + 86_400_000_000})"
TOLD = f"timestamp >= TIMESTAMP '{datetime.fromtimestamp(START_US / 1e6, UTC):%Y-%m-%d %H:%M:%S}' AND seq > 0"
"""One that needs no run to be understood."""
QUERIES = (
    f"SELECT count(*), sum(price) FROM trades WHERE {TOLD}",
    f"SELECT count(*), sum(price) FROM trades WHERE {TOLD} AND price > 100 AND timestamp IS NOT NULL",
    f"SELECT max(t.timestamp), min(SEQ) FROM trades t WHERE {TOLD}",
    f"SELECT * FROM trades WHERE {TOLD} AND symbol = 'ETH-USDT'",
    f"SELECT price AS p FROM trades WHERE {TOLD} ORDER BY timestamp, seq DESC LIMIT 3",
    f"SELECT symbol, count(*) FILTER (seq > 5) FROM trades WHERE {TOLD} GROUP BY ALL ORDER BY max(timestamp)",
    f"SELECT price, #10, #8 FROM trades WHERE {TOLD} ORDER BY 1, 2",
    f"SELECT price, (market.trades).seq FROM trades WHERE {TOLD} ORDER BY 1, 2",
    f"SELECT max(tickflight.market.trades).timestamp FROM trades WHERE {TOLD} GROUP BY price ORDER BY 1",
    f"SELECT count(*), sum(price) FROM trades WHERE {ALL}",
    f"SELECT symbol, exchange, count(*) FROM trades WHERE symbol = 'BTC-USDT' AND {AFTER} GROUP BY ALL",
    f"SELECT max(timestamp), min(seq) FROM trades WHERE {ALL}",
    f"SELECT seq, price FROM trades WHERE {ALL} ORDER BY timestamp DESC, seq LIMIT 3",
    f"SELECT price FROM trades WHERE {ALL} ORDER BY seq DESC LIMIT 3",
    f"SELECT count(*) FROM trades WHERE {AFTER} AND seq NOT IN (3, NULL)",
    f"SELECT count(*) FROM trades WHERE {AFTER} AND (seq < 4 OR NULL)",
    f"SELECT count(*) FROM trades a JOIN trades b ON a.seq = b.seq WHERE a.{AFTER} AND b.seq > 0",
    f"SELECT count(*) FROM trades a, trades b WHERE a.timestamp < b.timestamp AND a.{AFTER} AND b.{AFTER}",
    f"SELECT count(*) FROM trades WHERE {AFTER} AND seq = (SELECT max(seq) FROM trades WHERE {AFTER})",
    f"SELECT count(*) FROM trades WHERE {AFTER} AND timestamp::DATE = make_timestamp({START_US})::DATE",
    f"SELECT (SELECT count(*) FROM trades WHERE {AFTER}), (SELECT max(timestamp) FROM trades WHERE {AFTER})",
    f"WITH t AS (FROM trades WHERE {ALL}) SELECT symbol, price FROM t UNION ALL SELECT 'x', seq FROM t ORDER BY ALL",
    f"SELECT count(*) FILTER (timestamp > make_timestamp({START_US + 2_000_000})) FROM trades WHERE {ALL}",
    f"SELECT DISTINCT symbol FROM trades WHERE {ALL} AND symbol LIKE 'B%'",
)


@pytest.mark.parametrize("sql", QUERIES)
@pytest.mark.parametrize("cuts", [None, {"trades": 12}])
def test_the_answer_is_that_of_reading_everything(
    engine: Engine,
    store: Store,
    make_trades: Callable[..., pa.RecordBatch],
    release: Callable[[], None],
    sql: str,
    cuts: dict[str, int] | None,
) -> None:
    for symbol in ("BTC-USDT", "ETH-USDT"):
        store.append("trades", make_trades(6, symbol)).result()
    release()
    store.append("trades", make_trades(4, "BTC-USDT")).result()
    for _ in range(2):  # what is known of it the second time may be told by its text
        plan = engine.plan(sql)
        with engine.execute(plan, cuts=cuts) as execution:
            found = execution.reader.read_all()
        with engine.execute(replace(plan, filters=dict.fromkeys(plan.filters)), cuts=cuts) as execution:
            whole = execution.reader.read_all()
        assert found.sort_by([(name, "ascending") for name in found.schema.names]).equals(
            whole.sort_by([(name, "ascending") for name in whole.schema.names])
        )


def test_a_column_that_need_not_be_read_may_be_damaged(
    engine: Engine, store: Store, make_trades: Callable[..., pa.RecordBatch], release: Callable[[], None], ask: Any
) -> None:
    store.append("trades", make_trades(6)).result()
    release()
    (name,) = store.tables["trades"].state.parts.path
    part = store.root / "trades" / name
    group = pq.read_metadata(part).row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "timestamp"]
    whole = part.read_bytes()
    place = chunk.data_page_offset + 3
    part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for where in (ALL, TOLD):
        assert ask(f"SELECT count(price) AS n FROM trades WHERE {where}")[0].to_pylist() == [{"n": 6}]
        with pytest.raises(StorageError, match="checksum"):
            ask(f"SELECT max(timestamp) FROM trades WHERE {where}")
