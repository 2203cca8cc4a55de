"""A query opens what can match and nothing else, sees each row once, and always gives its place back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.errors import (
    BusyError,
    CancelledError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerError,
    StatementError,
    TooLargeError,
    UnsupportedError,
)
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import Execution, batch_rows_for
from tickflight_server.schemas import STORED
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
MINUTE_US = 60_000_000
SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
BIG = "FROM range(100000000000) r(x)"
Ask = Callable[..., Any]
Make = Callable[..., Any]


@pytest.fixture
def filled(store: Store, make_trades: Make, release: Callable[[], None]) -> Store:
    """Parts of three symbols from the first and the 30th minute; a segment of each from the 59th and 60th."""
    for minute in (0, 30):
        for symbol in SYMBOLS:
            store.append("trades", make_trades(10, symbol, start_us=START_US + minute * MINUTE_US)).result()
        release()
    for minute in (58, 59):
        for symbol in SYMBOLS:
            store.append("trades", make_trades(10, symbol, start_us=START_US + minute * MINUTE_US)).result()
    return store


def count(opened: Any, table: str = "trades") -> tuple[int, int]:
    return len(opened[table].parts), len(opened[table].segments)


def same_unpruned(engine: Engine, sql: str, parameters: Any = ()) -> tuple[Any, int, int]:
    """Return the rows and what was opened; the rows are those that come without pruning."""
    plan = engine.plan(sql, parameters)
    with engine.execute(plan) as execution:
        rows = execution.reader.read_all()
        opened = execution.opened
    unpruned = replace(plan, filters=dict.fromkeys(plan.filters), statement=replace(plan.statement, top=None))
    with engine.execute(unpruned) as execution:
        everything = execution.reader.read_all()
        assert count(execution.opened) == (6, 6)
    assert rows.schema == everything.schema == plan.schema
    assert sorted(map(repr, rows.to_pylist())) == sorted(map(repr, everything.to_pylist()))
    return rows, *count(opened)


BTC, ETH = "symbol = 'BTC-USDT'", "symbol = 'ETH-USDT'"
LAST_MINUTE = "symbol = 'BTC-USDT' AND timestamp > now() - INTERVAL 65 SECOND"

RECURSIVE = f"""
    WITH RECURSIVE r AS (
        SELECT 0 AS d UNION ALL
        SELECT d + 1 FROM r JOIN trades t ON t.{ETH} AND t.price = r.d AND t.timestamp < TIMESTAMP '2026-09-21 14:20:00'
    ) SELECT max(d) FROM r"""


@pytest.mark.parametrize(
    ("sql", "parts", "segments"),
    [
        ("SELECT * FROM trades", 6, 6),
        ("SELECT count(*) FROM trades WHERE symbol = 'BTC-USDT'", 2, 2),
        (f"SELECT * FROM trades WHERE {LAST_MINUTE}", 0, 1),
        ("SELECT * FROM trades WHERE symbol = 'BTC-USDT' AND timestamp < TIMESTAMP '2026-09-21 14:20:00'", 1, 0),
        ("SELECT * FROM trades WHERE symbol = 'nix'", 0, 0),
        ("SELECT * FROM trades WHERE symbol IN ('BTC-USDT', 'ETH-USDT', 'nix')", 4, 4),
        ("SELECT * FROM trades WHERE symbol >= 'ETH' AND symbol < 'ETI'", 2, 2),
        ("SELECT * FROM trades WHERE NOT symbol = 'BTC-USDT'", 4, 4),
        ("SELECT * FROM trades WHERE symbol = 'BTC-USDT' OR seq = 11", 3, 2),
        ("SELECT * FROM trades WHERE timestamp::DATE = DATE '2026-09-22'", 0, 0),
        ("SELECT * FROM trades WHERE seq BETWEEN 61 AND 65", 0, 1),
        ("SELECT * FROM trades WHERE timestamp > current_timestamp - INTERVAL 65 SECOND", 0, 3),
        ("SELECT * FROM trades WHERE exchange = 'KRAKEN'", 0, 0),
        ("SELECT * FROM trades WHERE price > 5 AND symbol = 'ETH-USDT'", 2, 2),
        # through what stands between the filter and the table
        (f"WITH c AS (SELECT * FROM trades) SELECT * FROM c WHERE {LAST_MINUTE}", 0, 1),
        (f"WITH c AS MATERIALIZED (SELECT * FROM trades WHERE {LAST_MINUTE}) SELECT * FROM c, c AS d", 0, 1),
        (f"SELECT * FROM (SELECT *, price * 2 AS twice FROM trades) WHERE {LAST_MINUTE}", 0, 1),
        (f"SELECT symbol, max(price) FROM trades WHERE {LAST_MINUTE} GROUP BY ALL", 0, 1),
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol HAVING symbol = 'ETH-USDT'", 2, 2),
        (f"SELECT * FROM trades WHERE {LAST_MINUTE} ORDER BY timestamp DESC LIMIT 2", 0, 1),
        (f"(FROM trades WHERE {LAST_MINUTE}) UNION ALL (FROM trades WHERE symbol = 'nix')", 0, 1),
        (
            "SELECT *, row_number() OVER (ORDER BY seq) n FROM trades WHERE symbol = 'ETH-USDT' QUALIFY n = 1",
            2,
            2,
        ),
        # a table's scans each bring their own
        (f"SELECT * FROM trades a JOIN trades b USING (timestamp) WHERE a.{BTC} AND b.{ETH}", 4, 4),
        (f"SELECT * FROM trades a JOIN trades b USING (symbol, timestamp) WHERE a.{BTC}", 2, 2),
        (f"SELECT * FROM trades a JOIN trades b USING (timestamp) WHERE a.{BTC}", 6, 6),
        (f"SELECT * FROM trades WHERE {BTC} AND price > (SELECT avg(price) FROM trades WHERE {ETH})", 4, 4),
        (f"SELECT (SELECT count(*) FROM trades b WHERE b.{ETH} AND b.seq < a.seq) FROM trades a WHERE {BTC}", 4, 4),
        (f"FROM trades a WHERE {BTC} AND NOT EXISTS (FROM trades b WHERE b.{ETH} AND b.price = a.price + 1)", 4, 4),
        (f"(FROM trades WHERE {BTC}) UNION ALL (FROM trades WHERE symbol = 'SOL-USDT')", 4, 4),
        (RECURSIVE, 1, 0),
        # what is only known from rows must not be taken from empty tables
        ("SELECT seq FROM trades t JOIN (SELECT count(*) n FROM trades) ON t.seq = n", 6, 6),
        ("SELECT seq FROM trades WHERE seq IN (SELECT coalesce(max(seq), 0) FROM trades)", 6, 6),
        ("SELECT seq FROM trades WHERE symbol = (SELECT max(symbol) FROM trades WHERE symbol < 'F')", 6, 6),
    ],
)
def test_query_opens_just_what_can_match(filled: Store, engine: Engine, sql: str, parts: int, segments: int) -> None:
    _, *opened = same_unpruned(engine, sql)
    assert opened == [parts, segments]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT * FROM trades WHERE symbol = ? AND timestamp > now() - to_seconds(?)", ["BTC-USDT", 65]),
        ("SELECT * FROM trades WHERE symbol = $1 AND seq > $2", ["BTC-USDT", 90]),
        ("SELECT * FROM trades WHERE symbol = $symbol AND seq > $seq", {"seq": 90, "symbol": "BTC-USDT"}),
    ],
)
def test_bound_parameter_prunes(filled: Store, engine: Engine, sql: str, parameters: Any) -> None:
    rows, parts, segments = same_unpruned(engine, sql, parameters)
    assert (parts, segments) == (0, 1)
    assert rows.num_rows == 10


def test_join_of_two_tables_prunes_both(filled: Store, ask: Ask, release: Callable[[], None]) -> None:
    for symbol in SYMBOLS:
        quote = {"exchange": ["BINANCE"], "symbol": [symbol], "bid": [1.0], "ask": [2.0]}
        filled.append(
            "ticker", pa.record_batch(quote | {"timestamp": pa.array([START_US]).cast(pa.timestamp("us"))})
        ).result()
    release()
    for join in ("ASOF JOIN ticker q USING (symbol, timestamp)", "JOIN ticker q USING (symbol)"):
        rows, opened = ask(f"SELECT t.price, q.bid FROM trades t {join} WHERE t.symbol = 'ETH-USDT'")
        assert rows.num_rows == 40
        assert count(opened) == (3, 0)
        assert count(opened, "ticker") == (1, 0)


def test_asof_join_of_many_rows_is_no_nested_loop(store: Store, ask: Ask, make_trades: Make) -> None:
    store.append("trades", make_trades(50_000)).result()
    begun = time.perf_counter()
    rows, _ = ask(
        "SELECT count(*) n FROM trades a ASOF JOIN trades b USING (exchange, symbol, timestamp) "
        "WHERE a.exchange = 'BINANCE' AND a.symbol = 'BTC-USDT'"
    )
    assert rows["n"].to_pylist() == [50_000]
    assert time.perf_counter() - begun < 5


def test_opened_parts_are_named_relative_to_their_table(filled: Store, ask: Ask) -> None:
    _, opened = ask("SELECT * FROM trades WHERE symbol = 'ETH-USDT' AND timestamp < TIMESTAMP '2026-09-21 14:20:00'")
    (path,) = opened["trades"].parts
    assert (filled.root / "trades" / path).is_file()
    assert "symbol=ETH-USDT" in path


def test_both_runs_see_one_now(filled: Store, engine: Engine, clock: Any) -> None:
    plan = engine.plan("SELECT now() AS n, count(*) AS c FROM trades WHERE timestamp > now() - INTERVAL 65 SECOND")
    clock.us += 10 * MINUTE_US
    with engine.execute(plan) as execution:
        (row,) = execution.reader.read_all().to_pylist()
    assert row["c"] == 30
    assert row["n"].timestamp() is not None
    with engine.execute(
        engine.plan("SELECT count(*) AS c FROM trades WHERE timestamp > now() - INTERVAL 65 SECOND")
    ) as later:
        assert later.reader.read_all()["c"].to_pylist() == [0]


def test_row_that_arrives_between_probe_and_run_is_seen_whole(filled: Store, engine: Engine, make_trades: Make) -> None:
    plan = engine.plan(
        "SELECT (SELECT count(*) FROM trades WHERE symbol = 'NEW-USDT') a, "
        "(SELECT count(*) FROM trades WHERE symbol = 'NEW-USDT') b, count(*) c FROM trades"
    )
    filled.append("trades", make_trades(7, "NEW-USDT")).result()
    with engine.execute(plan) as execution:
        filled.append("trades", make_trades(7, "NEW-USDT")).result()
        (row,) = execution.reader.read_all().to_pylist()
    assert row == {"a": 7, "b": 7, "c": 127}


def test_plan_that_is_run_again_opens_anew(filled: Store, engine: Engine, make_trades: Make) -> None:
    plan = engine.plan("SELECT count(*) AS c FROM trades WHERE symbol = 'NEW-USDT'")
    counts = []
    for _ in range(3):
        with engine.execute(plan) as execution:
            counts += execution.reader.read_all()["c"].to_pylist()
            parts, segments = count(execution.opened)
            assert (parts, segments > 0) == (0, len(counts) > 1)
        filled.append("trades", make_trades(5, "NEW-USDT")).result()
    assert counts == [0, 5, 10]


def test_flush_and_release_under_a_query_change_nothing_for_it(
    filled: Store, engine: Engine, release: Callable[[], None]
) -> None:
    with engine.execute(engine.plan("SELECT seq FROM trades"), batch_rows=2048) as execution:
        release()
        assert sorted(execution.reader.read_all()["seq"].to_pylist()) == list(range(1, 121))


@pytest.mark.parametrize("name", [f"{t.schema}.{t.name}" for t in STORED.values()])
def test_empty_table_has_its_full_schema(ask: Ask, engine: Engine, name: str) -> None:
    rows, _ = ask(f"FROM {name}")
    assert rows.schema == STORED[name.split(".")[1]].arrow() == engine.plan(f"FROM {name}").schema
    assert rows.num_rows == 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM trades ORDER BY seq",
        "SELECT symbol, side, count(*), sum(amount), min(timestamp), max(seq) FROM trades GROUP BY ALL ORDER BY ALL",
        "SELECT * FROM trades WHERE symbol = 'ETH-USDT' AND price BETWEEN 2 AND 4 ORDER BY seq",
        "SELECT time_bucket(INTERVAL 5 SECOND, timestamp), symbol, sum(price) FROM trades GROUP BY ALL ORDER BY ALL",
        "SELECT symbol || side AS s, upper(exchange) FROM trades ORDER BY seq",
    ],
)
def test_answer_is_the_same_wherever_the_rows_are(
    store: Store, ask: Ask, make_trades: Make, release: Callable[[], None], sql: str
) -> None:
    receipt = pa.array([START_US] * 10).cast(pa.timestamp("us"))
    for symbol in SYMBOLS:
        store.append("trades", make_trades(10, symbol).append_column("receipt_timestamp", receipt)).result()
    in_ring, opened = ask(sql)
    assert count(opened)[0] == 0
    store.flush()
    in_both, _ = ask(sql)
    release()
    in_parts, opened = ask(sql)
    assert count(opened)[1] == 0
    assert in_ring == in_both == in_parts


def test_mixed_rows_are_each_seen_once(filled: Store, ask: Ask) -> None:
    rows, opened = ask("SELECT seq FROM trades")
    assert count(opened) == (6, 6)
    assert sorted(rows["seq"].to_pylist()) == list(range(1, 121))


@pytest.mark.parametrize(
    ("sql", "expected", "marker"),
    [
        ("SELEC 1", "syntax error", "LINE 1: SELEC 1\n        ^^^^^"),
        ("SELECT 1\nFROM tradez", 'Did you mean "trades"?', "LINE 2: FROM tradez\n             ^^^^^^"),
        ("SELECT pricee FROM trades", '"price"', "LINE 1: SELECT pricee FROM trades\n               ^^^^^^"),
        ("SELECT now(1)", "now", "LINE 1: SELECT now(1)\n               ^^^"),
        (
            "SELECT CAST('x' AS INTEGER)",
            "Could not convert",
            "LINE 1: SELECT CAST('x' AS INTEGER)\n               ^^^^",
        ),
        ("SELECT * FROM trades WHERE price = 'x'", "Could not convert", "^^^"),
        ("SELECT * FROM nix.trades", "nix", "^^^"),
        (
            "EXPLAIN SELECT pricee FROM trades",
            '"price"',
            "LINE 1: EXPLAIN SELECT pricee FROM trades\n                       ^^^^^^",
        ),
        ("SELECT pricee FROM trades WHERE symbol = $s", '"price"', "LINE 1: SELECT pricee"),
    ],
)
def test_error_shows_the_place_and_suggests(filled: Store, ask: Ask, sql: str, expected: str, marker: str) -> None:
    with pytest.raises(StatementError) as caught:
        ask(sql, {"s": "x"} if "$s" in sql else ())
    assert expected in str(caught.value)
    assert marker in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(symbol AS INTEGER) FROM trades",
        "SELECT sum(CAST(symbol AS INTEGER)) FROM trades",
        "SELECT error('stop ' || symbol) FROM trades",
        "SELECT * FROM trades, nix",
        "SELECT x FROM __market_trades",
        "FROM temp.main.__market_trades",
        "SELECT market.x FROM trades",
        "SELECT exchange FROM trades JOIN trades b USING (symbol)",
    ],
)
def test_error_tells_nothing_of_the_inside(filled: Store, ask: Ask, sql: str) -> None:
    with pytest.raises(ServerError) as caught:
        ask(sql)
    assert str(filled.root) not in str(caught.value)
    if "__market_" not in sql:
        assert "__market_" not in str(caught.value)


def test_file_that_is_gone_is_named_relative_to_the_data_folder(filled: Store, ask: Ask) -> None:
    for path in (filled.root / "trades").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(ServerError) as caught:
        ask("SELECT * FROM trades")
    assert "trades/year=2026" in str(caught.value)
    assert str(filled.root) not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY trades TO '{root}/trades/x.parquet'",
        "WITH x AS (COPY (SELECT 1) TO '{root}/trades/x.parquet') SELECT 1",
        "ATTACH '{root}/x' AS y",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "INSERT INTO trades SELECT * FROM trades",
        "FROM read_parquet('{root}/trades/**/*.parquet')",
        "FROM glob('{root}/**')",
        "FROM '{root}/x.parquet'",
        "SELECT getvariable('__market_trades')",
        "FROM pg_settings",
    ],
)
def test_what_could_reach_the_machine_is_refused(filled: Store, engine: Engine, sql: str) -> None:
    before = sorted(filled.root.rglob("*"))
    refused = r"not offered here|files cannot be read by SQL|is not for users|cannot be written by SQL"
    with pytest.raises((UnsupportedError, PermissionDeniedError), match=refused):
        engine.read(sql.format(root=filled.root))
    assert sorted(filled.root.rglob("*")) == before


def test_ten_megabytes_of_sql_are_refused(engine: Engine) -> None:
    with pytest.raises(TooLargeError, match=r"query\.sql_bytes_max"):
        engine.plan(f"SELECT '{'x' * 10_000_000}'")


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("VALUES (1), (2)", 2),
        ("SELECT 1 AS x, 2 AS x, 3 AS x_1", 1),
        ("FROM trades", 120),
        ("FROM trades SELECT DISTINCT symbol", 3),
        ("SHOW TABLES", 28),
        ("DESCRIBE trades", 10),
        ("SUMMARIZE trades", 10),
        ("DESCRIBE system.parts", 14),
        ("EXPLAIN SELECT * FROM trades", 1),
        ("EXPLAIN ANALYZE SELECT * FROM trades", 1),
        ("EXPLAIN (ANALYZE, FORMAT json) FROM trades", 1),
        ("-- first\nEXPLAIN FROM trades", 1),
        ("SELECT * FROM range(5)", 5),
        ("SELECT * FROM information_schema.tables WHERE table_schema IN ('market', 'system')", 28),
        ("SELECT * FROM duckdb_views() WHERE NOT internal AND schema_name = 'market'", 15),
        ("PIVOT trades ON side IN ('buy', 'sell') USING count(*) GROUP BY symbol", 3),
        ("SELECT * FROM system.parts, (FROM system.log LIMIT 1)", 6),
        ("WITH trades AS (SELECT 1 AS x) FROM trades", 1),
        ("SELECT * FROM tickflight.market.trades LIMIT 3", 3),
        ("SELECT * FROM trades USING SAMPLE 5 ROWS", 5),
    ],
)
def test_other_ways_to_ask_work(filled: Store, ask: Ask, engine: Engine, sql: str, rows: int) -> None:
    found, _ = ask(sql)
    assert found.num_rows == rows
    assert found.schema == engine.plan(sql).schema


def test_catalog_tells_no_path(filled: Store, engine: Engine) -> None:
    for sql in (
        "SELECT * FROM trades, duckdb_views()",
        "SELECT * FROM trades, sqlite_master",
        "SHOW ALL TABLES",
        "SELECT * FROM trades, duckdb_databases()",
    ):
        with engine.execute(engine.plan(sql)) as execution:
            text = str(execution.reader.read_all().to_pylist())
        assert ".parquet" not in text
        assert str(filled.root) not in text


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT count(*) AS n {BIG} LEFT JOIN trades ON x = seq",
        f"SELECT count(*) AS n FROM trades, (SELECT count(*) {BIG})",
        f"SELECT x {BIG} WHERE x NOT IN (SELECT seq FROM trades) ORDER BY x DESC LIMIT 1",
    ],
)
def test_probe_that_takes_too_long_prunes_nothing(filled: Store, make_engine: Callable[..., Engine], sql: str) -> None:
    engine = make_engine(probe_timeout_s=0.05)
    begun = time.perf_counter()
    plan = engine.plan(sql)
    assert time.perf_counter() - begun < 2
    assert plan.filters == {"trades": None}
    assert len(plan.schema) == 1
    # and what probed can be used again
    assert engine.plan("FROM trades WHERE symbol = 'x'").filters["trades"] is not None


def test_query_without_tables_is_planned_without_being_run(engine: Engine) -> None:
    begun = time.perf_counter()
    assert engine.plan(f"SELECT count(*) AS n {BIG}").schema == pa.schema([("n", pa.int64())])
    assert engine.plan(f"EXPLAIN ANALYZE SELECT count(*) {BIG}").schema.names == ["explain_key", "explain_value"]
    assert time.perf_counter() - begun < 2


def test_plan_that_fails_leaves_nothing_behind(engine: Engine) -> None:
    threads = threading.active_count()
    for _ in range(50):
        with pytest.raises(StatementError):
            engine.plan("SELECT pricee FROM trades")
        assert engine.plan("SELECT price FROM trades WHERE seq = 1").filters["trades"] is not None
    assert [kept.qsize() for kept in engine.connections._probers.values()] == [1]
    # a timer that was called off needs a moment to end on a busy machine
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threading.active_count() <= threads


def free_places(engine: Engine) -> int:
    return engine.shared.places.free


ENDLESS = "SELECT a.seq, sin(b.x) AS s FROM trades a, range(1000000) b(x)"


def test_closing_early_frees_the_place(filled: Store, engine: Engine) -> None:
    for _ in range(10):
        execution = engine.execute(engine.plan(ENDLESS))
        assert execution.reader.read_next_batch().num_rows > 0
        assert free_places(engine) == 3
        execution.close()
        execution.close()
        assert free_places(engine) == 4


def test_full_engine_refuses_after_a_while_and_serves_when_one_ends(filled: Store, engine: Engine) -> None:
    executions = [engine.execute(engine.plan(ENDLESS)) for _ in range(4)]
    with pytest.raises(BusyError, match=r"^resource exhausted \(query.concurrent_max\): 4 statements run already"):
        engine.execute(engine.plan("SELECT 1"))
    executions.pop().close()
    with engine.execute(engine.plan("SELECT 1 AS x")) as execution:
        assert execution.reader.read_all()["x"].to_pylist() == [1]
    for execution in executions:
        execution.close()


def read_in_a_thread(execution: Execution) -> tuple[threading.Thread, list[BaseException], threading.Event]:
    failures: list[BaseException] = []
    begun = threading.Event()
    batches = execution.batches()

    def run() -> None:
        try:
            for _ in batches:
                begun.set()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures, begun


@pytest.mark.parametrize("end", [Execution.close, Execution.cancel])
def test_another_thread_ends_an_execution_that_is_read(
    filled: Store, engine: Engine, end: Callable[[Execution], None]
) -> None:
    for _ in range(5):
        execution = engine.execute(engine.plan(ENDLESS))
        thread, failures, begun = read_in_a_thread(execution)
        assert begun.wait(60)
        end(execution)
        thread.join(60)
        assert not thread.is_alive()
        assert [type(f) for f in failures] == [CancelledError]
        execution.close()
        assert free_places(engine) == 4
    with engine.execute(engine.plan("SELECT count(*) AS n FROM trades")) as execution:
        assert execution.reader.read_all()["n"].to_pylist() == [120]


def test_query_without_a_first_row_is_stopped_by_what_started_was_given(filled: Store, engine: Engine) -> None:
    cancels: list[Callable[[], None]] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            engine.execute(engine.plan(f"SELECT count(*) {BIG} WHERE x % 3 = 1"), started=cancels.append)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.05)
        for cancel in cancels:
            cancel()
    assert [type(f) for f in failures] == [CancelledError]
    assert free_places(engine) == 4
    cancels[0]()  # of a connection that is closed: nothing


def test_execution_that_cannot_start_frees_its_place(filled: Store, engine: Engine) -> None:
    for _ in range(10):
        with pytest.raises(StatementError):
            engine.execute(engine.plan("SELECT sum(CAST(symbol AS INTEGER)) FROM trades"))
    assert free_places(engine) == 4


def test_error_in_the_middle_of_a_result_is_the_askers(store: Store, engine: Engine, make_trades: Make) -> None:
    store.append("trades", make_trades(100_000)).result()
    plan = engine.plan("SELECT CASE WHEN seq < 90000 THEN 1 ELSE CAST(symbol AS INTEGER) END FROM trades")
    with engine.execute(plan, batch_rows=2048) as execution, pytest.raises(StatementError, match="Could not convert"):
        for _ in execution.batches():
            pass


def test_too_much_memory_is_the_askers_fault_and_harms_nobody(
    filled: Store, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(memory_mb=64)
    plan = engine.plan("SELECT list(x) FROM range(100000000) r(x)")
    with pytest.raises(ResourceExhaustedError, match=r"query\.memory_mb") as caught:
        engine.execute(plan)
    assert "\n" not in str(caught.value)
    with engine.execute(engine.plan("SELECT count(*) AS n FROM trades")) as execution:
        assert execution.reader.read_all()["n"].to_pylist() == [120]


def test_queries_of_many_threads_do_not_mix(filled: Store, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(concurrent_max=8)
    wrong: list[Any] = []

    def run(number: int) -> None:
        symbol = SYMBOLS[number % 3]
        for _ in range(10):
            plan = engine.plan("SELECT symbol, count(*) AS n FROM trades WHERE symbol = ? GROUP BY 1", [symbol])
            with engine.execute(plan) as execution:
                rows = execution.reader.read_all().to_pylist()
            if rows != [{"symbol": symbol, "n": 40}] or max(count(execution.opened)) > 2:
                wrong.append((rows, execution.opened))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine.shared.places.free == 8


@pytest.mark.parametrize(
    ("schema", "rows"),
    [
        (pa.schema([("x", pa.int64())]), 131_072),
        (pa.schema([(f"c{i}", pa.float64()) for i in range(10)]), 24_576),
        (pa.schema([("s", pa.string()), ("l", pa.list_(pa.float64()))]), 6_144),
        (pa.schema([(f"c{i}", pa.list_(pa.int8())) for i in range(100)]), 2_048),
        (pa.schema([]), 131_072),
    ],
)
def test_batch_has_about_its_bytes_in_whole_vectors(schema: pa.Schema, rows: int) -> None:
    assert batch_rows_for(schema, 2 << 20) == rows


def test_tables_are_listed_with_their_schemas(engine: Engine) -> None:
    found = {f"{schema}.{name}": arrow for schema, name, _, arrow in engine.opening.tables()}
    assert found["market.trades"] == STORED["trades"].arrow()
    assert "system.rejected" in found
    assert "system.parts" in found
    assert len(found) == 28
