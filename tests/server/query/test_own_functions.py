"""Own table functions: their rows stand where they are called, and what is no call of theirs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from flight_here import START_US
from hypothesis import given
from hypothesis import strategies as st
from sql_here import SqlHere
from stopped_clock import StoppedClock

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import (
    CancelledError,
    PermissionDeniedError,
    ServerError,
    StatementError,
    UnsupportedError,
)
from tickflight_server.query import own_functions
from tickflight_server.query.engine import Engine
from tickflight_server.query.own_functions import OwnFunction, Parameter
from tickflight_server.query.own_rows import Wanted
from tickflight_server.query.rewriting import in_callers_words
from tickflight_server.query.statement import StatementReader
from tickflight_server.query.writer import Writer
from tickflight_server.query.writing import Writing
from tickflight_server.store import Store

NOON_US = 1_795_348_800_000_000
SCHEMA = pa.schema([("n", pa.int64()), ("label", pa.string())])
HERE = OwnFunction(
    "numbers",
    (
        Parameter("label", "text"),
        Parameter("count", "count", 3, most=100),
        Parameter("t", "time", None),
        Parameter("step", "interval", None),
        Parameter("names", "texts", None),
        Parameter("other", "any", None),
    ),
    lambda *_: SCHEMA,
)
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store for all tests of this module, which leave nothing in it that another one would see."""
    folder = tmp_path_factory.mktemp("lake")
    with Store(LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0)) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(store: Store) -> Iterator[Engine]:
    made = Engine(store, QuerySettings(), clock=StoppedClock(START_US + 3600 * 1_000_000))
    yield made
    made.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[StatementReader]:
    with duckdb.connect() as connection:
        yield StatementReader(connection, 1 << 20)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[Wanted]:
    """Offer ``numbers``, which counts, and ``flow``, a stream; return what was wanted of them."""
    flow = OwnFunction("flow", HERE.parameters, HERE.schema, "stream")
    for function in (HERE, flow):
        monkeypatch.setitem(own_functions.OWN_FUNCTIONS, function.name, function)  # type: ignore[arg-type]
    seen: list[Wanted] = []

    def provide(wanted: Wanted) -> pa.Table:
        seen.append(wanted)
        count = wanted.values["count"]
        columns = {"n": list(range(1, count + 1)), "label": [wanted.values["label"]] * count}
        return pa.table(columns, schema=SCHEMA)

    engine.own_rows.providers["numbers"] = provide
    return seen


def rows(asked: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in asked[0].to_pylist()]


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT sum(n) FROM numbers('a')", (), 6),
        ("SELECT sum(numbers.n) FROM numbers('a', 4)", (), 10),
        ("SELECT sum(b.n) FROM numbers('a', count => 4) b", (), 10),
        ("SELECT sum(b.n) FROM numbers(count := 4, label := 'a') AS b", (), 10),
        ("SELECT sum(b.x) FROM numbers('a', 2 + 2) AS b(x)", (), 10),
        ("SELECT sum(b.n) FROM b: numbers('a', 4)", (), 10),
        ("SELECT sum(n) FROM market.numbers('a')", (), 6),
        ("SELECT sum(n) FROM tickflight.market.\"NUMBERS\" /* ( */ ('a)', -- )\n 4)", (), 10),
        ("SELECT sum(n) FROM numbers(?, ?)", ["a", 4], 10),
        ("SELECT sum(n) + ? FROM numbers(?, ?) WHERE n < ?", [100, "a", 4, 3], 103),
        ("SELECT sum(n) FROM numbers($l, $c) WHERE n < $c", {"l": "a", "c": 4}, 6),
        ("SELECT sum(n) FROM numbers($L, $c::INTEGER + 1)", {"l": "a", "C": 3}, 10),
        ("SELECT $2 FROM numbers($1) LIMIT 1", ["a", "x"], "x"),
        ("SELECT max(label) FROM numbers(concat('é', ?))", ["x"], "éx"),
        ("WITH b AS (FROM numbers('a')) SELECT sum(b.n) FROM b JOIN numbers('b', 2) c USING (n)", (), 3),
        ("SELECT (SELECT sum(n) FROM numbers('a')) + (SELECT sum(n) FROM numbers('b'))", (), 12),
        ("SELECT sum(n) FROM (VALUES (1)) v(x), LATERAL numbers('a')", (), 6),
        ("SELECT sum(n) FROM (FROM numbers('a')) TABLESAMPLE 100%", (), 6),
        ("SELECT count(*) FROM numbers('a'), system.parts", (), 0),
        ("SELECT count(*) FROM trades RIGHT JOIN numbers('a') ON seq = n", (), 3),
        ("SELECT count(*) FROM numbers('a') ASOF JOIN numbers('b', 2) AS m ON numbers.n >= m.n", (), 3),
    ],
)
def test_rows_stand_where_the_function_is_called(
    wanted: Any, ask: Ask, sql: str, parameters: Any, expected: Any
) -> None:
    assert rows(ask(sql, parameters))[0][0] == expected


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("t => TIMESTAMP '2026-11-22 12:00:00'", "t", NOON_US),
        ("t => '2026-11-22 12:00:00'", "t", NOON_US),
        ("t => '2026-11-22 13:00:00+01:00'::TIMESTAMPTZ", "t", NOON_US),
        ("t => DATE '2026-11-22'", "t", NOON_US - 43_200_000_000),
        ("t => now() - INTERVAL 1 MINUTE", "t", START_US + 59 * 60_000_000),
        ("t => NULL", "t", None),
        ("step => INTERVAL 90 SECONDS", "step", 90_000_000),
        ("step => INTERVAL '1 day 1 second'", "step", 86_401_000_000),
        ("names => 'BTC-USDT'", "names", ("BTC-USDT",)),
        ("names => ['BTC-USDT', 'ETH-USDT']", "names", ("BTC-USDT", "ETH-USDT")),
        ("other => -7", "other", -7),
        ("other => 'start of today'", "other", "start of today"),
        ("count => 7::BIGINT", "count", 7),
    ],
)
def test_values_are_what_their_kind_promises(
    wanted: list[Wanted], ask: Ask, text: str, name: str, expected: Any
) -> None:
    ask(f"FROM numbers('a', {text})")
    assert wanted[0].values[name] == expected
    assert set(wanted[0].values) == {p.name for p in HERE.parameters}


@pytest.mark.parametrize(
    ("sql", "kind", "says"),
    [
        ("FROM numbers()", StatementError, "numbers() is not given label. Hint: Write numbers(label, count := 3,"),
        ("FROM numbers('a', 1, NULL, NULL, NULL, NULL, 7)", StatementError, "has 7 arguments, at most 6 are taken"),
        ("FROM numbers('a', deep => 1)", StatementError, "numbers() has no parameter deep"),
        ("FROM numbers('a', label => 'b')", StatementError, "numbers() is given label twice"),
        ("FROM numbers(1)", StatementError, "label of numbers() is 1, and is to be a text"),
        ("FROM numbers(NULL)", StatementError, "label of numbers() is NULL"),
        ("FROM numbers('a', 0)", StatementError, "count of numbers() is 0, and is to be 1 to 100"),
        ("FROM numbers('a', 1.5)", StatementError, "count of numbers() is 1.5, and is to be a whole number"),
        ("FROM numbers('a', t => 'noon')", StatementError, "t of numbers() is 'noon', and is to be a time"),
        ("FROM numbers('a', step => INTERVAL 1 MONTH)", StatementError, "step of numbers() is"),
        ("FROM numbers('a', step => INTERVAL 0 SECONDS)", StatementError, "step of numbers() is"),
        ("FROM numbers('a', names => [1])", StatementError, "names of numbers() is [1]"),
        ("FROM numbers('a' + 1)", StatementError, "the arguments of numbers() have no value"),
        ("FROM numbers(nope('a'))", StatementError, "the arguments of numbers() have no value"),
        ("FROM numbers(getenv('HOME'))", PermissionDeniedError, "getenv()"),
        ("FROM numbers((SELECT 'a'))", UnsupportedError, "label of numbers() is no value"),
        ("FROM trades, numbers(trades.symbol)", UnsupportedError, "label of numbers() is no value"),
        ("FROM system.numbers('a')", StatementError, "there is no function system.numbers()"),
        ("FROM numbers('a') TABLESAMPLE 10%", UnsupportedError, "on numbers() itself are not offered"),
        ("FROM numbers('a') WITH ORDINALITY", UnsupportedError, "on numbers() itself are not offered"),
        ("FROM numbers('a'), __own0", StatementError, "cannot be read here"),
        ("FROM numbers('a'), glob('*')", PermissionDeniedError, "glob()"),
        ("FROM flow('a')", UnsupportedError, "flow() is not offered here"),
        ("SELECT numbers('a')", StatementError, "numbers"),
        ("CREATE VIEW v AS FROM numbers('a')", UnsupportedError, "CREATE … AS with numbers() is not offered"),
        ("CREATE TABLE v AS FROM numbers('a')", UnsupportedError, "CREATE … AS with numbers() is not offered"),
        ("CREATE MACRO v() AS TABLE FROM numbers('a')", UnsupportedError, "CREATE MACRO with numbers() is not"),
        ("INSERT INTO v FROM numbers('a')", UnsupportedError, "INSERT with numbers() is not offered"),
    ],
)
def test_what_is_no_call_is_refused(wanted: Any, ask: Ask, engine: Engine, sql: str, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        ask(sql)
    assert says in str(caught.value)


def test_missing_value_is_named(wanted: Any, engine: Engine) -> None:
    with pytest.raises(StatementError, match=r"no value is bound to \$1"):
        engine.plan("FROM numbers(?)")
    with pytest.raises(StatementError, match=r"no value is bound to \$l"):
        engine.plan("FROM numbers($l)", {"m": "a"})


@pytest.mark.parametrize(
    "sql", ["EXPLAIN {}", "EXPLAIN (FORMAT json) {}", "DESCRIBE {}", "SUMMARIZE {}", "EXPLAIN ANALYZE {}"]
)
def test_statements_about_a_query_take_calls_too(wanted: list[Wanted], ask: Ask, sql: str) -> None:
    found, _ = ask(sql.format("SELECT * FROM numbers(?)"), ["a"])
    assert found.num_rows
    assert "__own0" not in json.dumps(found.to_pylist(), default=str)
    assert bool(wanted) == (sql not in ("EXPLAIN {}", "EXPLAIN (FORMAT json) {}"))


def test_same_calls_are_made_once_and_a_stream_is_read_once_a_reference(
    wanted: list[Wanted], ask: Ask, engine: Engine
) -> None:
    ask("FROM numbers('a') UNION ALL FROM numbers( 'a' ) UNION ALL FROM numbers('a', 3)")
    assert len(wanted) == 2
    read = engine.read("FROM flow('a') a, flow('a') b")
    assert [call.view for call in read.owns] == ["__own0", "__own1"]


def test_statement_is_described_before_its_values_are_bound(wanted: Any, engine: Engine) -> None:
    sql = "SELECT n FROM numbers($label, $count, $t) WHERE n > $n"
    names = engine.parameter_names(sql)
    assert names == ("label", "count", "t", "n")
    assert engine.plan(sql, dict.fromkeys(names), guessed=True).schema == pa.schema([("n", pa.int64())])
    statement = engine.read(sql)
    options = engine.session().options
    assert engine.parameter_schema(statement, names, options, None).types == [
        pa.string(),
        pa.int64(),
        pa.timestamp("us"),
        pa.int64(),
    ]


def test_call_and_version_stand_in_one_statement(wanted: Any, ask: Ask, store: Any, make_trades: Any) -> None:
    store.append("trades", make_trades(10)).result()
    store.flush()
    sql = "SELECT count(*), ? FROM trades t AT (VERSION => ?), numbers(?) n WHERE n.n < ?"
    assert rows(ask(sql, ["x", 0, "a", 3])) == [(20, "x")]


def test_error_is_in_the_callers_words(wanted: Any, ask: Ask) -> None:
    with pytest.raises(StatementError) as caught:
        ask("SELECT n\nFROM numbers('a',\n 4) b\nWHERE nope")
    assert "LINE 4: WHERE nope\n              ^" in str(caught.value)
    with pytest.raises(StatementError) as caught:
        ask("SELECT n FROM numbers(?) WHERE nope", ["a"])
    assert "LINE 1: SELECT n FROM numbers(?) WHERE nope\n                                       ^" in str(caught.value)


def test_marker_moves_with_what_is_put_back() -> None:
    text = 'x\n\nLINE 1: FROM __own0 AS "f" WHERE no\n                               ^'
    back = in_callers_words(text, [('__own0 AS "f"', "f(?)")])
    assert back == "x\n\nLINE 1: FROM f(?) WHERE no\n                      ^"


def test_rows_of_a_call_stay_with_their_query(wanted: Any, ask: Ask, engine: Engine) -> None:
    ask("FROM numbers('a')")
    with pytest.raises(StatementError, match="__own0 does not exist"):
        engine.plan("FROM __own0")


def test_call_runs_on_a_seat_and_leaves_nothing(wanted: Any, engine: Engine) -> None:
    session = engine.session()
    try:
        statement = engine.read("CREATE TEMP TABLE mine(n INT)")
        assert isinstance(statement, Writing)
        Writer(engine).write(statement, [()], session=session)
        seat = session.seat(None)
        assert seat is not None
        for label in ("a", "b"):
            plan = engine.plan(f"SELECT label FROM numbers('{label}')", options=session.options, seat=seat)
            with engine.execute(plan, options=session.options, seat=seat) as execution:
                assert execution.reader.read_all().to_pylist() == [{"label": label}] * 3
        with pytest.raises(StatementError, match="__own0 does not exist"):
            engine.plan("FROM __own0", options=session.options, seat=seat)
        plan = engine.plan("FROM flow('a')", options=session.options, seat=seat)
        with pytest.raises(UnsupportedError, match=r"flow\(\) is not offered in a transaction that has written"):
            engine.execute(plan, options=session.options, seat=seat)
    finally:
        session.close()


def test_cuts_and_what_stops_it_reach_the_one_who_makes_rows(wanted: list[Wanted], engine: Engine) -> None:
    stops: list[Callable[[], None]] = []
    plan = engine.plan("FROM numbers('a')")
    with engine.execute(plan, cuts={"trades": 7}, started=stops.append):
        assert wanted[0].cuts == {"trades": 7}
        wanted[0].stops.check()
        stops[-1]()
        with pytest.raises(CancelledError):
            wanted[0].stops.check()


def test_users_cannot_take_the_name(engine: Engine) -> None:
    with pytest.raises(ServerError, match="name of the server's"):
        SqlHere(engine).write("CREATE MACRO workspace.book_at(a) AS TABLE SELECT a")


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
gaps = st.sampled_from([" ", "\n", "\t  ", " /* book_at( */ ", " -- é book_at(\n", "  "])


@given(names, st.lists(gaps, min_size=9, max_size=9), st.text("é'x( ", min_size=1, max_size=5))
def test_only_calls_are_written_anew(reader: StatementReader, alias: str, gap: list[str], text: str) -> None:
    quoted, literal = '"{}"'.format(alias.replace('"', '""')), "'{}'".format(text.replace("'", "''"))
    words = ["book_at", "(", literal, ",", "'x'", ",", "now", "(", ")"]
    call = "".join(a + b for a, b in zip(words, gap, strict=True)) + ")"
    sql = f"SELECT {literal}, {quoted}.seq FROM {call} AS {quoted} WHERE {literal} = {literal}"
    read = reader.read(sql)
    assert [call.function for call in read.owns] == ["book_at"]
    assert read.owns[0].arguments[0].name == "exchange"
    before, after = sql.split(f"{call} AS {quoted}")
    assert read.sql.startswith(before)
    assert read.sql.endswith(after)
    assert len(read.sql.encode()) == len(sql.encode())
    assert read.sql.count("\n") == sql.count("\n")
    assert read.in_callers_words(read.sql) == sql
