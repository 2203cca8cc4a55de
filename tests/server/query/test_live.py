"""A live query: every update is the query's own result at its cut, and what can be kept by buckets is."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import START_US
from sql_here import SqlHere

from tickflight_server.clock import SystemClock
from tickflight_server.errors import CancelledError, StatementError, TooLargeError, UnsupportedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.live import LiveQuery, runs_of
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.stability import Stability
from tickflight_server.store import Store

Make = Callable[..., LiveQuery]
SECOND = "time_bucket(INTERVAL 1 SECOND, timestamp)"
MINUTE = "time_bucket(INTERVAL 1 MINUTE, timestamp)"
NO_BUCKET = "it has no GROUP BY over a time bucket"
ALONE = "it does not read one stored table alone"


@pytest.fixture
def live(engine: Engine, store: Store) -> Make:
    stability = Stability(engine.connections)

    def make(
        sql: str, parameters: dict[str, Any] | None = None, *, options: Options = DEFAULTS, **more: Any
    ) -> LiveQuery:
        more = {"result_mb": 16, "started": lambda _: None, **more}
        return LiveQuery(engine, SystemClock(), stability, sql, parameters or {}, options=options, **more)

    return make


def canonical(table: pa.Table) -> list[str]:
    return sorted(repr(tuple(row.values())) for row in table.to_pylist())


def asked_whole(engine: Engine, sql: str, parameters: Any, cuts: Any) -> pa.Table:
    with engine.execute(engine.plan(sql, parameters), cuts=cuts) as execution:
        return execution.reader.read_all()


KEPT = [
    f"SELECT symbol, {SECOND} AS t, sum(price * amount) / sum(amount) AS vwap FROM trades GROUP BY ALL",
    f"SELECT {MINUTE}, median(price), count(*) FROM trades GROUP BY 1",
    (
        f"SELECT {MINUTE} AS t, first(price ORDER BY timestamp, seq) AS o, last(price ORDER BY timestamp, seq) AS c "
        "FROM market.trades GROUP BY t ORDER BY t DESC"
    ),
    f"SELECT count(*) AS n FROM trades GROUP BY {MINUTE}, symbol ORDER BY n, min(price)",
    f"SELECT side, {MINUTE} AS t, count(DISTINCT price) AS n FROM trades WHERE price > 100 GROUP BY ALL HAVING n > 2",
    "SELECT date_trunc('hour', x.timestamp) AS h, symbol, sum(amount) FROM trades x GROUP BY h, symbol ORDER BY ALL",
    "SELECT date_trunc('month', timestamp) AS m, quantile_cont(price, 0.9) FROM trades GROUP BY m",
    "SELECT time_bucket(INTERVAL 1 MONTH, timestamp, TIMESTAMP '2020-01-15') AS m, count(*) FROM trades GROUP BY m",
    "SELECT time_bucket(INTERVAL 10 MINUTES, timestamp, INTERVAL 3 MINUTES) AS m, max(seq) FROM trades GROUP BY 1",
    f"SELECT upper(symbol) AS s, {MINUTE} AS timestamp, arg_max(price, seq) FROM trades GROUP BY ALL ORDER BY 2, 1",
    (
        f"SELECT {MINUTE}, count(*) FILTER (side = 'buy'), list(price ORDER BY seq) FROM trades WHERE symbol IN "
        "('A-B', 'C-D') AND price BETWEEN 10 AND 900 GROUP BY 1"
    ),
    "SELECT time_bucket(INTERVAL 1 HOUR, receipt_timestamp) AS h, count(*) FROM trades GROUP BY h",
    f"SELECT wavg(price, amount) AS v, {MINUTE} AS t FROM trades GROUP BY t ORDER BY sum(amount) DESC NULLS LAST, t",
    f"SELECT DISTINCT_COUNT, t FROM (SELECT 1) x(DISTINCT_COUNT), (SELECT {MINUTE} t FROM trades) GROUP BY ALL",
]

MODES: list[tuple[str, str | None]] = [
    *((sql, None) for sql in KEPT[:-1]),
    (KEPT[-1], ALONE),
    (f"SELECT {MINUTE} AS t, vwap(price, amount) AS v FROM trades GROUP BY ALL", None),
    ("SELECT count(*) FROM trades", NO_BUCKET),
    ("SELECT symbol, count(*) FROM trades GROUP BY ALL", NO_BUCKET),
    ("SELECT * FROM trades WHERE price > 10", NO_BUCKET),
    ("SELECT time_bucket(INTERVAL 1 SECOND, timestamp) AS timestamp FROM trades GROUP BY timestamp", NO_BUCKET),
    (f"SELECT {SECOND} + INTERVAL 1 SECOND AS t, count(*) FROM trades GROUP BY t", NO_BUCKET),
    ("SELECT time_bucket(to_seconds(seq), timestamp) AS t, count(*) FROM trades GROUP BY t", NO_BUCKET),
    ("SELECT time_bucket(INTERVAL 1 SECOND, timestamp + INTERVAL 1 HOUR) AS t FROM trades GROUP BY t", NO_BUCKET),
    (f"SELECT {SECOND} AS t FROM trades GROUP BY t LIMIT 5", "it has a LIMIT or OFFSET"),
    (f"SELECT DISTINCT count(*) FROM trades GROUP BY {SECOND}", "it has a DISTINCT"),
    (f"SELECT {SECOND} AS t, sum(count(*)) OVER () FROM trades GROUP BY t", "it has a window"),
    (f"SELECT {SECOND} AS t FROM trades GROUP BY t QUALIFY row_number() OVER () = 1", "it has a window"),
    (f"SELECT {SECOND} AS t, (SELECT max(price) FROM ticker) FROM trades GROUP BY t", "it has a subquery"),
    (f"SELECT {SECOND} AS t, count(*) FROM trades GROUP BY ROLLUP (t)", "it has several grouping sets"),
    (f"WITH x AS (FROM trades) SELECT {SECOND} AS t, count(*) FROM x GROUP BY t", "it has a WITH"),
    (f"SELECT {SECOND} AS t FROM trades TABLESAMPLE 10% GROUP BY t", "it takes a sample"),
    ("SELECT time_bucket(INTERVAL 1 SECOND, a.timestamp) AS t FROM trades a, ticker GROUP BY t", ALONE),
    (f"SELECT {SECOND} AS t FROM trades GROUP BY t UNION ALL SELECT now()", "it is no single SELECT"),
    (
        f"SELECT {SECOND} AS t FROM trades WHERE timestamp > now() - INTERVAL 1 HOUR GROUP BY t",
        "it calls now, which may give another value for the same rows",
    ),
    (
        f"SELECT {SECOND} AS t, current_date AS d FROM trades GROUP BY ALL",
        "it calls current_date, which may give another value for the same rows",
    ),
    (
        f"SELECT {SECOND} AS t, sum(random()) FROM trades GROUP BY ALL",
        "it calls random, which may give another value for the same rows",
    ),
    (
        f"SELECT {SECOND} AS t, price * 2 AS p FROM trades WHERE p > 3 GROUP BY ALL",
        "its WHERE names p, which is no column of trades",
    ),
    (
        f"SELECT {SECOND} AS t, -max(price) AS p FROM trades GROUP BY t ORDER BY p * 2",
        "it orders by an expression over",
    ),
    (f"SELECT {SECOND} AS t, symbol FROM trades GROUP BY ALL ORDER BY symbol COLLATE NOCASE", "it orders by a COLLATE"),
    (
        "SELECT time_bucket(INTERVAL 1 SECOND, t) AS t FROM trades x(e, s, i, a, p, y, z, t) GROUP BY ALL",
        "it renames the",
    ),
    (
        f"SELECT {SECOND} AS t, min(side::ENUM('buy', 'sell')) FROM trades GROUP BY t",
        "a column of its result is an ENUM",
    ),
    ("SELECT time_bucket(INTERVAL 1 SECOND, timestamp) FROM system.gaps GROUP BY 1", None),
    ("SELECT comment, last_seq FROM system.tables", "it reads a table of schema system"),
    ("SELECT 1", ALONE),
]


def test_each_query_is_kept_by_buckets_or_told_why_not(live: Make) -> None:
    for sql, reason in MODES:
        made = live(sql)
        assert made.mode == ("incremental" if reason is None else "asked again"), (sql, made.reason)
        assert made.reason.startswith(reason or ""), sql
        assert bool(made.reason) == (reason is not None)


def test_every_reason_is_on_the_page() -> None:
    page = " ".join((Path(__file__).parents[3] / "proto-notes" / "live.md").read_text().split())
    for _, reason in MODES:
        words = re.sub(r"(?<=calls )\w+|(?<=WHERE names )\w+|(?<=no column of )\w+", "…", reason or "")
        assert words in page, reason


@pytest.mark.parametrize("seed", range(3))
def test_updates_equal_the_query_at_their_cuts(
    live: Make, engine: Engine, store: Store, make_trades: Any, release: Callable[[], None], seed: int
) -> None:
    chance = random.Random(seed)
    asked = [
        *KEPT,
        "SELECT symbol, count(*) FROM trades GROUP BY ALL",
        f"SELECT DISTINCT count(*) FROM trades GROUP BY {MINUTE}",
    ]
    queries = {sql: live(sql) for sql in asked}
    newest: dict[str, Any] = {}
    opened = 0
    for _ in range(8):
        for _ in range(chance.randrange(3)):
            late = chance.random() < 0.4
            first = chance.randrange(4000) if late else 4000 + chance.randrange(2000)
            rows = make_trades(chance.randrange(1, 60), chance.choice(["A-B", "C-D", "E-F"]), first)
            store.append("trades", rows).result()
        step = chance.random()
        if step < 0.3:
            store.flush()
        elif step < 0.5:
            release()
        elif step < 0.7:
            store.keeper.compact()
        for sql, one in queries.items():
            update = one.update()
            if update is not None:
                newest[sql] = update
                opened += update.opened
            else:
                assert sql in newest
            cuts = {"trades": store.tables["trades"].state.last_seq}
            whole = asked_whole(engine, sql, (), cuts)
            told = newest[sql].table
            assert canonical(told) == canonical(whole), sql
            assert told.schema.names == whole.schema.names
            if sql.endswith(("ORDER BY ALL", "ORDER BY t DESC")):
                assert told.to_pylist() == whole.to_pylist()
    assert opened


def test_an_update_is_of_its_cut_and_not_of_what_comes_after(
    live: Make, engine: Engine, store: Store, make_trades: Any
) -> None:
    sql = f"SELECT {MINUTE} AS t, count(*) AS n FROM trades GROUP BY t"
    one = live(sql)
    for number in range(3):
        store.append("trades", make_trades(90, first=60 * number)).result()
        update = one.update()
        assert update is not None
        store.append("trades", make_trades(50)).result()
        assert canonical(update.table) == canonical(asked_whole(engine, sql, (), update.cuts))
        assert sum(update.table["n"].to_pylist()) == update.cuts["trades"]


def test_only_the_buckets_that_new_rows_touch_are_opened(
    live: Make, store: Store, make_trades: Any, release: Callable[[], None]
) -> None:
    for day in range(6):
        store.append("trades", make_trades(50, start_us=START_US + day * 86_400_000_000)).result()
        release()
    one = live(f"SELECT {MINUTE} AS t, sum(price) AS s FROM trades GROUP BY t")
    first = one.update()
    assert first is not None
    assert first.opened == 6
    store.append("trades", make_trades(5, start_us=START_US + 2 * 86_400_000_000)).result()
    late = one.update()
    assert late is not None
    assert late.opened == 3  # the new rows, and then them and the part of their day


def test_bounds_of_several_buckets_far_apart_prune_too(
    live: Make, engine: Engine, store: Store, make_trades: Any, release: Callable[[], None]
) -> None:
    for day in range(12):
        store.append("trades", make_trades(50, start_us=START_US + day * 86_400_000_000)).result()
        release()
    sql = f"SELECT {MINUTE} AS t, sum(price) AS s FROM trades GROUP BY t"
    one = live(sql)
    one.update()
    for day in (1, 5, 9):
        store.append("trades", make_trades(5, start_us=START_US + day * 86_400_000_000)).result()
    update = one.update()
    assert update is not None
    assert update.opened == 9
    assert canonical(update.table) == canonical(asked_whole(engine, sql, (), update.cuts))


@pytest.mark.parametrize("parameters", [{"1": 30.0, "2": "buy"}, {"least": 30.0, "Side": "buy"}])
def test_parameters_go_to_every_text_that_has_them(
    live: Make, engine: Engine, store: Store, make_trades: Any, parameters: dict[str, Any]
) -> None:
    places = ["?", "?"] if "1" in parameters else ["$least", "$side"]
    sql = (
        f"SELECT {MINUTE} AS t, count(*) FILTER (side = {places[1]}) FROM trades WHERE price > {places[0]} GROUP BY t"
        if "1" not in parameters
        else f"SELECT {MINUTE} AS t, sum(price + ?) FROM trades WHERE side = ? GROUP BY t"
    )
    one = live(sql, parameters)
    assert one.mode == "incremental"
    for number in range(3):
        store.append("trades", make_trades(90, first=40 * number)).result()
        update = one.update()
        assert update is not None
        assert canonical(update.table) == canonical(asked_whole(engine, sql, parameters, update.cuts))


def test_nothing_is_told_while_the_result_is_the_same(live: Make, store: Store, make_trades: Any) -> None:
    store.append("trades", make_trades(10)).result()
    kept, again = (live(sql) for sql in (KEPT[4], "SELECT count(*) FROM trades WHERE price > 100"))
    for one in (kept, again):
        assert one.update() is not None
        assert not one.has_news()
    store.append("trades", make_trades(10)).result()
    for one in (kept, again):
        assert one.has_news()
        assert one.update() is None
        assert not one.has_news()


def test_waiting_ends_with_a_row_with_the_time_and_with_a_stop(live: Make, store: Store, make_trades: Any) -> None:
    for sql in (KEPT[0], "SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM ticker)"):
        one = live(sql)
        one.update()
        assert not one.wait(0.01, lambda: False)
        store.append("trades", make_trades(1)).result()
        assert one.wait(5, lambda: False)
        assert not one.wait(5, lambda: True)
        one.wake()


def test_what_changes_without_rows_is_volatile(live: Make, engine: Engine) -> None:
    SqlHere(engine).write("CREATE TABLE mine AS SELECT 1 AS x")
    volatile = [
        "FROM book_at('BINANCE', 'BTC-USDT', now(), 5)",
        "SELECT count(*) FROM trades, book_at('BINANCE', 'BTC-USDT', now(), 5)",
        "SELECT now()",
        "SELECT x FROM mine",
        "SELECT count(*) FROM trades, mine",
        "FROM system.tables",
        "SELECT 1",
    ]
    steady = ["SELECT count(*) FROM trades", "WITH a AS (FROM trades) SELECT count(*) FROM a, ticker"]
    assert [live(sql).volatile for sql in volatile] == [True] * len(volatile)
    assert [live(sql).volatile for sql in steady] == [False] * len(steady)
    one = live("SELECT sum(x) FROM mine")
    first = one.update()
    assert first is not None
    assert one.has_news()
    assert one.update() is None
    SqlHere(engine).write("INSERT INTO mine VALUES (41)")
    second = one.update()
    assert second is not None
    assert second.table.column(0).to_pylist() == [42]


def test_a_schema_of_the_users_may_have_another_table_of_the_name(live: Make, engine: Engine) -> None:
    SqlHere(engine).write("CREATE SCHEMA mine")
    options = Options(schema="mine")
    sql = f"SELECT {MINUTE} AS t FROM trades GROUP BY t"
    assert live(sql, options=options).reason == "schema mine may have a table trades of its own"
    assert live(sql, options=options).volatile
    assert live(sql.replace("trades", "market.trades"), options=options).mode == "incremental"


def test_enums_come_as_texts_and_an_order_is_the_querys(live: Make, store: Store, make_trades: Any) -> None:
    one = live("SELECT side::ENUM('sell', 'buy') AS s FROM trades")
    assert one.schema.field("s").type == pa.string()
    store.append("trades", make_trades(200)).result()
    update = one.update()
    assert update is not None
    assert update.table.schema == one.schema
    with pytest.raises(UnsupportedError, match="ENUMs inside"):
        live("SELECT [side::ENUM('sell', 'buy')] AS s FROM trades")
    ordered = live(f"SELECT {MINUTE} AS t, max(price) AS p FROM trades GROUP BY t ORDER BY -max(price), t").update()
    assert ordered is not None
    prices = ordered.table["p"].to_pylist()
    assert prices == sorted(prices, reverse=True)
    assert ordered.table.schema.names == ["t", "p"]


def test_what_is_no_query_and_what_is_too_large_is_refused(live: Make, store: Store, make_trades: Any) -> None:
    for sql in ("CREATE TABLE x (a INT)", "EXPLAIN SELECT 1"):
        with pytest.raises(UnsupportedError, match="only a query"):
            live(sql)
    with pytest.raises(UnsupportedError, match="no end"):
        live("FROM tail('trades')")
    with pytest.raises(StatementError, match="nothing"):
        live("SELECT nothing FROM trades")
    store.append("trades", make_trades(10)).result()
    for sql in ("SELECT range(200000) FROM trades", f"SELECT range(200000), {MINUTE} AS t FROM trades GROUP BY ALL"):
        with pytest.raises(TooLargeError, match="live_result_mb"):
            live(sql, result_mb=1).update()


def test_an_update_can_be_cancelled(live: Make, store: Store, make_trades: Any) -> None:
    store.append("trades", make_trades(10)).result()
    cancels: list[Callable[[], None]] = []
    one = live("SELECT count(*) FROM range(100000000000) a, trades", started=cancels.append)
    stopping = threading.Event()

    def stop() -> None:
        while not stopping.wait(0.01):  # the engine may be between two steps
            cancels[-1]()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(CancelledError):
            one.update()
    finally:
        stopping.set()
        stopper.join()


def test_runs_have_every_bucket_and_are_few() -> None:
    second = timedelta(seconds=1)
    times = [0, 1, 2, 10, 11, 30]
    touched = pa.array([t * 1_000_000 for t in times], pa.int64()).cast(pa.timestamp("us"))
    runs = runs_of(touched, second)
    assert [(a.second, b.second) for a, b in runs] == [(0, 2), (10, 11), (30, 30)]
    scattered = pa.array([n * n * 10_000_000 for n in range(1, 50)], pa.int64()).cast(pa.timestamp("us"))
    runs = runs_of(scattered, second)
    assert len(runs) == 8
    assert all(any(a <= t <= b for a, b in runs) for t in scattered.to_pylist())
