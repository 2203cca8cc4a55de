"""The type of every parameter is that of what it meets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.binding import bind
from tickflight_server.query.database import set_now
from tickflight_server.query.engine import Engine
from tickflight_server.query.parameter_types import UNTOLD, parameter_schema, result_schema
from tickflight_server.query.probe import Prober
from tickflight_server.store import Store

TIME, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")
INTERVAL = pa.month_day_nano_interval()
TEXT, FLOAT, LONG, INT, BOOL, DATE = pa.string(), pa.float64(), pa.int64(), pa.int32(), pa.bool_(), pa.date32()
HUGE = pa.decimal128(38, 0)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of the engine, whose tables are empty, and two tables to write to."""
    folder = tmp_path_factory.mktemp("lake")
    with Store(LakehouseSettings(storage_path=folder)) as store:
        engine = Engine(store, QuerySettings())
        with engine.connections.connect() as made:
            Prober(made, store.numeric)
            set_now(made, 0)
            made.execute("CREATE SCHEMA tickflight.work")
            made.execute("CREATE TYPE tickflight.work.colour AS ENUM ('red', 'green')")
            made.execute(
                "CREATE TABLE tickflight.work.marks (id INTEGER PRIMARY KEY, name VARCHAR, made TIMESTAMP, day DATE, "
                "price DECIMAL(18, 4), colour tickflight.work.colour, tags VARCHAR[], zoned TIMESTAMPTZ, raw BLOB, "
                "extra STRUCT(k SMALLINT), key UUID, levels MAP(VARCHAR, DOUBLE))"
            )
            made.execute("CREATE TABLE tickflight.work.notes (id INTEGER, day DATE)")
            yield made
        engine.close()


MERGE = """
    MERGE INTO work.notes n USING work.marks m ON n.id = m.id AND m.made > ?
    WHEN MATCHED THEN UPDATE SET day = ? WHEN NOT MATCHED THEN INSERT VALUES (?, m.day)
"""
COLUMNS = [
    ("SELECT * FROM trades WHERE symbol = ?", [TEXT]),
    ("SELECT * FROM trades WHERE ? = symbol", [TEXT]),
    ("SELECT * FROM market.trades t WHERE t.price > ?", [FLOAT]),
    ("SELECT * FROM trades WHERE timestamp BETWEEN ? AND ?", [TIME, TIME]),
    ("SELECT * FROM trades WHERE ? BETWEEN price AND amount", [FLOAT]),
    ("SELECT * FROM trades WHERE seq IN (?, 3, ?)", [LONG, LONG]),
    ("SELECT * FROM trades WHERE symbol NOT IN (?, ?)", [TEXT, TEXT]),
    ("SELECT * FROM trades WHERE symbol IN ?", [pa.list_(TEXT)]),
    ("SELECT * FROM trades WHERE seq = ANY(?)", [pa.list_(LONG)]),
    ("SELECT * FROM trades WHERE symbol LIKE ? OR symbol ILIKE ? OR symbol GLOB ?", [TEXT] * 3),
    ("SELECT * FROM trades WHERE symbol SIMILAR TO ? AND symbol ~ ?", [TEXT] * 2),
    ("SELECT * FROM trades WHERE price IS DISTINCT FROM ?", [FLOAT]),
    ("SELECT * FROM trades WHERE price IS NOT DISTINCT FROM ?", [FLOAT]),
    ("SELECT * FROM trades WHERE symbol = $sym AND timestamp > $since OR exchange = $sym", [TEXT, TIME]),
    ("SELECT * FROM trades WHERE (symbol, price) = (?, ?)", [TEXT, FLOAT]),
    ("SELECT * FROM trades WHERE (symbol, price) IN ((?, ?), ('x', ?))", [TEXT, FLOAT, FLOAT]),
    ("SELECT * FROM work.marks WHERE price < ? AND colour = ? AND zoned > ?", [pa.decimal128(18, 4), TEXT, ZONED]),
    (
        "SELECT * FROM work.marks WHERE tags = ? AND day = ? AND raw = ? AND key = ?",
        [pa.list_(TEXT), DATE, pa.binary(), TEXT],
    ),
    ("SELECT * FROM work.marks WHERE extra.k > ? AND extra = ?", [pa.int16(), pa.struct({"k": pa.int16()})]),
    ("SELECT tags[?], levels[?] FROM work.marks", [LONG, TEXT]),
    ("SELECT * FROM system.parts WHERE rows > ?", [LONG]),
]
WORDS = [
    ("SELECT ?::DOUBLE", [FLOAT]),
    ("SELECT CAST(? AS DECIMAL(9, 2)), TRY_CAST(? AS DATE)", [pa.decimal128(9, 2), DATE]),
    ("SELECT ?::HUGEINT, ?::TIMESTAMP_NS, ?::TINYINT", [HUGE, pa.timestamp("ns"), pa.int8()]),
    ("SELECT * FROM trades LIMIT ? OFFSET ?", [LONG, LONG]),
    ("SELECT * FROM trades LIMIT ?%", [FLOAT]),
    ("SELECT * FROM trades WHERE ?", [BOOL]),
    ("SELECT NOT ?, ? AND true", [BOOL, BOOL]),
    ("SELECT CASE WHEN ? THEN price ELSE ? END FROM trades", [BOOL, FLOAT]),
    ("SELECT CASE side WHEN ? THEN ? ELSE amount END FROM trades", [TEXT, FLOAT]),
    ("SELECT * FROM trades WHERE price > CASE WHEN side = 'buy' THEN ? ELSE ? END", [FLOAT, FLOAT]),
    ("SELECT coalesce(?, price), ifnull(side, ?), nullif(seq, ?) FROM trades", [FLOAT, TEXT, LONG]),
    ("SELECT * FROM trades WHERE price > coalesce(?, ?)", [FLOAT, FLOAT]),
    ("SELECT greatest(price, ?), least(?, seq) FROM trades", [FLOAT, LONG]),
    (
        "SELECT sum(price) OVER (ORDER BY timestamp ROWS ? PRECEDING), lag(price, ?, ?) OVER () FROM trades",
        [LONG, LONG, FLOAT],
    ),
    ("SELECT count(*) FILTER (price > ?) FROM trades", [FLOAT]),
    ("SELECT symbol, sum(amount) FROM trades GROUP BY symbol HAVING sum(amount) > ? ORDER BY 1 LIMIT ?", [FLOAT, LONG]),
    ("SELECT price * amount AS value FROM trades WHERE value > ?", [FLOAT]),
    ("SELECT list_filter([price], lambda x: x > ?) FROM trades", [FLOAT]),
    ("EXPLAIN SELECT * FROM trades WHERE price > ?", [FLOAT]),
    ("/* why */ EXPLAIN ANALYZE SELECT price * ? FROM trades", [FLOAT]),
    ("DESCRIBE SELECT * FROM trades WHERE price > ?", [FLOAT]),
]
ARITHMETIC = [
    ("SELECT price * ?, ? + amount, seq % ?, -(price - ?) FROM trades", [FLOAT, FLOAT, LONG, FLOAT]),
    ("SELECT * FROM trades WHERE price > ? * ?", [FLOAT, FLOAT]),
    ("SELECT * FROM trades WHERE price > ? + 1", [FLOAT]),
    ("SELECT * FROM trades WHERE abs(price - ?) < ?", [FLOAT, FLOAT]),
    ("SELECT * FROM trades WHERE price > amount * ? AND seq > ?", [FLOAT, LONG]),
    ("SELECT * FROM trades WHERE timestamp > now() - ?", [INTERVAL]),
    ("SELECT * FROM trades WHERE timestamp > now() - ? * INTERVAL 1 MINUTE", [LONG]),
    ("SELECT * FROM trades WHERE timestamp > now() - to_minutes(?)", [LONG]),
    ("SELECT * FROM trades WHERE timestamp > now() - INTERVAL (?) MINUTE", [FLOAT]),
    ("SELECT * FROM trades WHERE timestamp < ? + INTERVAL 1 DAY", [TIME]),
    ("SELECT * FROM trades WHERE timestamp >= ? AND timestamp < ? + INTERVAL 1 DAY", [TIME, TIME]),
    ("SELECT * FROM trades WHERE timestamp BETWEEN ? - ? AND ?", [TIME, INTERVAL, TIME]),
    ("SELECT timestamp - ?, timestamp + ?, ? - timestamp FROM trades", [INTERVAL, INTERVAL, TIME]),
    ("SELECT * FROM trades WHERE timestamp - ? > INTERVAL 1 HOUR", [TIME]),
    ("SELECT day + ? FROM work.marks", [INT]),
    ("SELECT symbol || ?, ? || 'x' FROM trades", [TEXT, TEXT]),
    ("SELECT price + " + " + ".join("?" * 50) + " FROM trades", [FLOAT] * 50),
    ("SELECT ? + 1, ? * 1.5, -?", [LONG, FLOAT, FLOAT]),
]
FUNCTIONS = [
    ("SELECT round(price, ?) FROM trades", [INT]),
    ("SELECT round(?, 2), sqrt(?), abs(?)", [FLOAT, FLOAT, FLOAT]),
    ("SELECT date_trunc(?, timestamp), strftime(timestamp, ?) FROM trades", [TEXT, TEXT]),
    ("SELECT time_bucket(?, timestamp) FROM trades", [INTERVAL]),
    ("SELECT date_diff('second', ?, timestamp) FROM trades", [TIME]),
    ("SELECT date_add(timestamp, ?) FROM trades", [INTERVAL]),
    ("SELECT extract(year FROM ?), epoch_us(?)", [TIME, TIME]),
    ("SELECT timestamp AT TIME ZONE ? FROM trades", [TEXT]),
    ("SELECT lower(?), substr(symbol, ?, ?), regexp_replace(symbol, ?, ?) FROM trades", [TEXT, LONG, LONG, TEXT, TEXT]),
    ("SELECT quantile_cont(price, ?) FROM trades", [FLOAT]),
    ("SELECT list_contains(tags, ?) FROM work.marks", [TEXT]),
    ("SELECT json_extract(name, ?), name ->> ? FROM work.marks", [TEXT, TEXT]),
    ("SELECT make_timestamp(?), to_timestamp(?)", [LONG, FLOAT]),
    ("SELECT * FROM range(?)", [LONG]),
    ("SELECT * FROM range(?, ?, INTERVAL 1 DAY)", [TIME, TIME]),
]
NESTED = [
    ("SELECT * FROM (SELECT price AS p FROM trades) q WHERE q.p > ?", [FLOAT]),
    ("WITH q AS (SELECT price AS p FROM trades WHERE symbol = ?) SELECT * FROM q WHERE p > ?", [TEXT, FLOAT]),
    ("WITH p AS (SELECT ? AS sym) SELECT * FROM trades, p WHERE symbol = p.sym", [TEXT]),
    (
        "WITH p(a, b) AS (VALUES (?, ?)) SELECT * FROM trades, p AS x WHERE symbol = x.a AND timestamp > x.b",
        [TEXT, TIME],
    ),
    ("SELECT * FROM (SELECT ? AS k) q JOIN trades t ON t.timestamp = q.k", [TIME]),
    ("SELECT * FROM (VALUES (?, ?)) v(p, q) JOIN trades ON symbol = v.p AND price > q", [TEXT, FLOAT]),
    ("SELECT * FROM trades t JOIN ticker k ON t.symbol = k.symbol AND k.bid > ?", [FLOAT]),
    ("SELECT * FROM trades t ASOF JOIN ticker k ON t.symbol = k.symbol AND t.timestamp >= k.timestamp + ?", [INTERVAL]),
    ("SELECT * FROM trades t WHERE EXISTS (SELECT 1 FROM ticker k WHERE k.symbol = t.symbol AND k.ask < ?)", [FLOAT]),
    (
        "SELECT * FROM trades t, LATERAL (SELECT * FROM ticker k WHERE k.symbol = t.symbol AND k.bid > t.price * ?) v",
        [FLOAT],
    ),
    ("SELECT * FROM trades WHERE ? IN (SELECT price FROM trades)", [FLOAT]),
    ("SELECT * FROM trades WHERE price IN (SELECT ?)", [FLOAT]),
    ("SELECT * FROM trades WHERE price > (SELECT ?)", [FLOAT]),
    ("SELECT ? UNION ALL SELECT price FROM trades", [FLOAT]),
    ("SELECT price FROM trades UNION ALL SELECT ?", [FLOAT]),
    ("WITH RECURSIVE r AS (SELECT ? AS n UNION ALL SELECT n + 1 FROM r WHERE n < ?) SELECT * FROM r", [LONG, LONG]),
    ("SELECT * FROM trades AT (VERSION => ?) WHERE price > ?", [LONG, FLOAT]),
    ("SELECT * FROM trades AT (TIMESTAMP => ?)", [TIME]),
]
WRITING = [
    ("INSERT INTO work.marks (id, name, made) VALUES (?, ?, ?), (2, ?, now())", [INT, TEXT, TIME, TEXT]),
    ("INSERT INTO work.notes VALUES (?, ?)", [INT, DATE]),
    ("INSERT INTO work.notes VALUES (? + 1, ?) RETURNING id", [INT, DATE]),
    ("INSERT INTO work.notes SELECT ?, ?", [INT, DATE]),
    ("INSERT INTO work.notes (day, id) SELECT ?, ? + id FROM work.marks WHERE name = ?", [DATE, INT, TEXT]),
    ("INSERT INTO work.notes BY NAME SELECT ? AS day, id FROM work.marks", [DATE]),
    (
        "INSERT INTO work.marks (id) VALUES (?) ON CONFLICT (id) DO UPDATE SET price = ?, day = ?",
        [INT, pa.decimal128(18, 4), DATE],
    ),
    (
        "UPDATE work.marks SET name = ?, price = price * ?, made = made + ? WHERE id = ?",
        [TEXT, pa.decimal128(18, 4), INTERVAL, INT],
    ),
    ("UPDATE work.marks m SET day = n.day FROM work.notes n WHERE n.id = m.id AND n.day > ? RETURNING m.id", [DATE]),
    ("DELETE FROM work.marks WHERE zoned < ? RETURNING id", [ZONED]),
    ("DELETE FROM work.marks USING work.notes n WHERE n.id = marks.id AND n.day = ?", [DATE]),
    (MERGE, [TIME, DATE, INT]),
    ("CREATE TABLE work.made AS SELECT price * ? AS v FROM trades WHERE symbol = ?", [FLOAT, TEXT]),
]
OPEN = [
    ("SELECT ?", [UNTOLD]),
    ("SELECT ? = ?", [UNTOLD, UNTOLD]),
    ("SELECT ? IS NULL, count(?), hash(?)", [UNTOLD] * 3),
    ("SELECT ?, price > ? FROM trades", [UNTOLD, FLOAT]),
    ("SELECT {'a': ?}", [UNTOLD]),
    ("SELECT * FROM nowhere WHERE x = ?", [UNTOLD]),
    ("SELECT ? ?", [UNTOLD] * 2),
    ("", [UNTOLD]),
    ("SELECT ?; SELECT ?", [UNTOLD] * 2),
    ("SET threads = ?", [UNTOLD]),
    ("SELECT coalesce(" + ", ".join("?" * 500) + ")", [UNTOLD] * 500),
    ("SELECT price + " + " + ".join("?" * 300) + " FROM trades", [UNTOLD] * 300),
    ("SELECT " + "(" * 3000 + "?" + ")" * 3000, [UNTOLD]),
]


@pytest.mark.parametrize(
    ("sql", "types"), [*COLUMNS, *WORDS, *ARITHMETIC, *FUNCTIONS, *NESTED, *WRITING, *OPEN], ids=lambda v: str(v)[:60]
)
def test_parameter_has_the_type_of_what_it_meets(
    connection: duckdb.DuckDBPyConnection, sql: str, types: list[pa.DataType]
) -> None:
    names = ("sym", "since") if "$sym" in sql else tuple(str(n) for n in range(1, len(types) + 1))
    found = parameter_schema(connection, sql, names)
    assert found.names == list(names)
    assert [str(t) for t in found.types] == [str(t) for t in types]


def test_parameter_of_no_known_name_is_text(connection: duckdb.DuckDBPyConnection) -> None:
    assert parameter_schema(connection, "SELECT 1", ("x",)) == pa.schema([("x", UNTOLD)])
    assert parameter_schema(connection, "SELECT 1", ()) == pa.schema([])


def test_names_are_told_apart_without_case(connection: duckdb.DuckDBPyConnection) -> None:
    found = parameter_schema(connection, "SELECT price * $Factor FROM trades WHERE seq > $MIN", ("Factor", "MIN"))
    assert found == pa.schema([("Factor", FLOAT), ("MIN", LONG)])


@pytest.mark.parametrize(
    ("sql", "schema"),
    [
        ("SELECT symbol, price * ? AS v FROM trades WHERE seq > ?", pa.schema([("symbol", TEXT), ("v", FLOAT)])),
        (
            "INSERT INTO work.notes VALUES (?, ?) RETURNING day, id + 1 AS next",
            pa.schema([("day", DATE), ("next", INT)]),
        ),
        ("INSERT INTO work.notes VALUES (? + 1, ?) RETURNING *", pa.schema([("id", INT), ("day", DATE)])),
        ("UPDATE work.notes SET id = id + ? RETURNING *", pa.schema([("id", INT), ("day", DATE)])),
        ("DELETE FROM work.notes WHERE day = ? RETURNING id", pa.schema([("id", INT)])),
        ("INSERT INTO work.notes VALUES (?, ?)", pa.schema([])),
        ("UPDATE work.notes SET id = 1", pa.schema([])),
        ("CREATE TABLE work.other AS SELECT * FROM trades", pa.schema([])),
        ("SELECT ? AS v", pa.schema([("v", TEXT)])),
        ("SELECT ? + INTERVAL 1 DAY AS v, $1 AS w", pa.schema([("v", TIME), ("w", TIME)])),
    ],
)
def test_result_is_known_before_anything_runs(
    connection: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema
) -> None:
    sql = sql.replace("?", "$1") if "$1" in sql else sql
    before = connection.execute("SELECT count(*), (SELECT count(*) FROM duckdb_tables()) FROM work.notes").fetchall()
    assert result_schema(connection, sql) == schema
    after = connection.execute("SELECT count(*), (SELECT count(*) FROM duckdb_tables()) FROM work.notes").fetchall()
    assert after == before == [(0, before[0][1])]


@pytest.mark.parametrize("sql", ["SELECT nothing", "", "SELECT 1; SELECT 2", "SELEC"])
def test_result_of_what_does_not_bind_is_not_known(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert result_schema(connection, sql) is None


@pytest.mark.parametrize(
    ("sql", "rows", "changes", "writes"),
    [
        ("SELECT 1", True, False, False),
        ("INSERT INTO work.notes VALUES (1, NULL)", False, True, True),
        ("DELETE FROM work.notes RETURNING id", True, False, True),
        ("WITH d AS (DELETE FROM work.notes RETURNING id) SELECT * FROM d", True, False, True),
        ("CREATE TABLE work.x (a INTEGER)", False, False, True),
        ("DROP TABLE work.notes", False, False, True),
        ("EXPLAIN SELECT 1", True, False, False),
    ],
)
def test_binder_tells_what_a_statement_does(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: bool, changes: bool, writes: bool
) -> None:
    bound = bind(connection, sql)
    assert bound is not None
    assert (bound.rows, bound.changes, bound.writes) == (rows, changes, writes)


OPERANDS = st.recursive(
    st.sampled_from(["?", "price", "seq", "timestamp", "symbol", "1", "1.5", "'x'", "now()", "INTERVAL 1 DAY", "NULL"]),
    lambda inner: st.one_of(
        st.builds(
            "({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "=", "<", "||", "AND", "LIKE"]), inner
        ),
        st.builds("{}({})".format, st.sampled_from(["abs", "max", "lower", "epoch_us", "nowhere", "-", "NOT "]), inner),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
        st.builds("({} IN ({}, {}))".format, inner, inner, inner),
        st.builds("(SELECT {})".format, inner),
        st.builds("({})::{}".format, inner, st.sampled_from(["DOUBLE", "VARCHAR", "TIMESTAMP"])),
    ),
    max_leaves=8,
)


@given(
    expression=OPERANDS, rest=st.sampled_from(["FROM trades", "FROM trades WHERE {}", "FROM (SELECT {} AS price) q"])
)
@settings(max_examples=150, deadline=None)
def test_no_statement_fails_or_takes_long(connection: duckdb.DuckDBPyConnection, expression: str, rest: str) -> None:
    sql = f"SELECT {expression} {rest.format(expression)}"
    names = tuple(str(n) for n in range(1, sql.count("?") + 1))
    found = parameter_schema(connection, sql, names)
    assert found.names == list(names)
    assert not any(pa.types.is_null(kind) for kind in found.types)
    result_schema(connection, sql)


def test_statement_that_the_binder_types_takes_a_millisecond(connection: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT * FROM trades WHERE symbol = ? AND timestamp BETWEEN ? AND ? AND price > ? LIMIT ?"
    names = ("1", "2", "3", "4", "5")
    parameter_schema(connection, sql, names)
    started = time.process_time()
    for _ in range(20):
        parameter_schema(connection, sql, names)
    assert (time.process_time() - started) / 20 < 0.02, "about 0.5 ms on an idle machine"
