"""AT clauses: each reference reads the version that it names, and what cannot be read is refused in clear words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.errors import (
    NotFoundError,
    PermissionDeniedError,
    StatementError,
    TooLargeError,
    UnsupportedError,
)
from tickflight_server.query.engine import Engine
from tickflight_server.query.rewriting import VIEWS_MAX, check_same
from tickflight_server.query.statement import Statement, StatementReader
from tickflight_server.query.travel import Travel
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
Ask = Callable[..., Any]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def reader() -> Iterator[StatementReader]:
    with duckdb.connect() as connection:
        yield StatementReader(connection, 1 << 20)


@pytest.fixture
def versions(store: Store, make_trades: Make) -> Store:
    """Three versions, a symbol more in each; then four rows in the ring."""
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        store.append("trades", make_trades(10, symbol)).result()
        store.flush()
    store.append("trades", make_trades(4, "XRP-USDT")).result()
    return store


def rows(asked: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in asked[0].to_pylist()]


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT count(*) FROM trades AT (VERSION => 0)", (), 10),
        ("SELECT count(*) FROM trades AT (VERSION => 2)", (), 30),
        ("SELECT count(*) FROM market.trades AT (VERSION => '1')", (), 20),
        ("SELECT count(*) FROM tickflight.market.trades AT (VERSION => 1::BIGINT)", (), 20),
        ("SELECT count(trades.seq) FROM trades AT (VERSION => 1)", (), 20),
        ("SELECT max(t.seq) FROM trades t AT (VERSION => 1)", (), 20),
        ("SELECT max(t.b) FROM trades AS t(a, b) AT (VERSION => 1)", (), "ETH-USDT"),
        ("SELECT max(t.seq) FROM t: trades AT (VERSION => 1)", (), 20),
        ('SELECT max("T é".seq) FROM trades "T é" AT (VERSION => 1)', (), 20),
        ("SELECT 'éé', count(*) FROM trades AT (VERSION => ?)", [1], "éé"),
        ("SELECT count(*) FROM trades AT (VERSION => ?) WHERE symbol = ? AND price < ?", [2, "SOL-USDT", 5.0], 5),
        ("SELECT count(*) FROM trades AT (VERSION => $v) WHERE seq > $v", {"v": 1}, 19),
        ("SELECT count(*) FROM trades AT (VERSION => $V) WHERE seq > $s", {"v": 1, "S": 10}, 10),
        ("SELECT $2 FROM trades AT (VERSION => $1) LIMIT 1", [1, "x"], "x"),
        ("WITH old AS (FROM trades AT (VERSION => 0)) SELECT count(*) FROM old JOIN trades USING (seq)", (), 10),
        ("SELECT (SELECT count(*) FROM trades AT (VERSION => 0)) + count(*) FROM trades", (), 44),
        ("SELECT count(*) FROM trades AT (VERSION => 0), trades b AT (VERSION => 0)", (), 100),
        ("SELECT count(*) FROM trades a ASOF JOIN trades b AT (VERSION => 0) ON a.seq >= b.seq", (), 34),
        ("SELECT count(*) FROM (FROM trades AT (VERSION => 1)) TABLESAMPLE 100%", (), 20),
        ("SELECT count(*) FROM trades /* AT (VERSION => 0) */ AT -- (VERSION => 0)\n (VERSION => 1)", (), 20),
        ("SELECT count(*) FROM trades -- AT (VERSION => /*\n AT (VERSION => /**/ 1)", (), 20),
        ("PIVOT trades AT (VERSION => 1) ON symbol IN ('ETH-USDT') USING count(*) GROUP BY exchange", (), "BINANCE"),
        ("SELECT count(*) FROM system.rejected r, system.parts JOIN trades AT (VERSION => 0) ON true", (), 0),
        ("SELECT \"explain_key\" FROM (SELECT 'x' AS explain_key) JOIN trades AT (VERSION => 0) ON true", (), "x"),
    ],
)
def test_reference_reads_the_version_that_it_names(
    versions: Store, ask: Ask, sql: str, parameters: Any, expected: Any
) -> None:
    assert rows(ask(sql, parameters))[0][0] == expected


def test_two_versions_of_a_table_can_be_compared(versions: Store, ask: Ask) -> None:
    sql = "SELECT DISTINCT symbol FROM (FROM trades AT (VERSION => ?) EXCEPT FROM trades AT (VERSION => ?))"
    assert rows(ask(sql, [2, 1])) == [("SOL-USDT",)]
    assert rows(ask(sql, [1, 2])) == []


def test_version_is_that_of_a_time(versions: Store, ask: Ask) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    for sql, parameters in [
        ("SELECT count(*) FROM trades AT (TIMESTAMP => ?)", [later]),
        ("SELECT count(*) FROM trades AT (TIMESTAMP => ?::TIMESTAMP)", [later.replace(tzinfo=None)]),
        ("SELECT count(*) FROM trades AT (TIMESTAMP => $at)", {"at": later.isoformat()}),
        (f"SELECT count(*) FROM trades AT (TIMESTAMP => TIMESTAMP '{later:%Y-%m-%d %H:%M:%S}')", ()),
        (f"SELECT count(*) FROM trades AT (TIMESTAMP => '{later:%Y-%m-%d %H:%M:%S}+00'::TIMESTAMPTZ)", ()),
    ]:
        assert rows(ask(sql, parameters)) == [(30,)]
    with pytest.raises(NotFoundError, match="no version of that time"):
        ask("FROM trades AT (TIMESTAMP => TIMESTAMP '2020-01-01')")


def test_filters_prune_each_version_by_itself(versions: Store, ask: Ask) -> None:
    _, opened = ask(
        "SELECT count(*) FROM trades t AT (VERSION => 2) JOIN trades u AT (VERSION => 1) ON t.price = u.price "
        "WHERE t.symbol = 'SOL-USDT' AND u.symbol = ? AND t.timestamp < now()",
        ["ETH-USDT"],
    )
    assert {key: (len(o.parts), len(o.segments)) for key, o in opened.items()} == {"__at0": (1, 0), "__at1": (1, 0)}
    assert opened["__at0"].parts != opened["__at1"].parts
    # one reference sees both scans of its version
    _, opened = ask(
        "FROM trades AT (VERSION => 2) WHERE seq = 1 UNION ALL FROM trades AT (VERSION => 2) WHERE seq = 11"
    )
    assert len(opened["__at0"].parts) == 2


@pytest.mark.parametrize("sql", ["EXPLAIN {}", "EXPLAIN ANALYZE {}", "DESCRIBE {}", "SUMMARIZE {}"])
def test_statements_about_a_query_take_versions_too(versions: Store, ask: Ask, sql: str) -> None:
    found, _ = ask(sql.format("SELECT * FROM trades AT (VERSION => ?) WHERE symbol = ?"), [1, "BTC-USDT"])
    assert found.num_rows
    assert "__at0" not in json.dumps(found.to_pylist(), default=str)


@pytest.mark.parametrize(
    ("sql", "kind", "says"),
    [
        ("FROM trades AT (VERSION => 9)", NotFoundError, "trades has no version 9. Hint: Versions 0 to 2 are kept"),
        ("FROM ticker AT (VERSION => 0)", NotFoundError, "ticker has no version 0"),
        ("FROM trades AT (VERSION => -1)", StatementError, "AT (VERSION => -1) has no number"),
        ("FROM trades AT (VERSION => 'new')", StatementError, "AT (VERSION => new) has no number"),
        ("FROM trades AT (VERSION => 99999999999999999999)", StatementError, "has no number"),
        ("FROM trades AT (TIMESTAMP => 'noon')", StatementError, "AT (TIMESTAMP => noon) has no time"),
        ("FROM trades AT (TIMESTAMP => 3)", StatementError, "has no time"),
        ("FROM trades AT (VERSION => 1 + 1)", UnsupportedError, "takes a plain value"),
        ("FROM trades AT (VERSION => NULL)", UnsupportedError, "takes a plain value"),
        ("FROM trades AT (VERSION => 1.5)", UnsupportedError, "takes a plain value"),
        ("FROM trades AT (VERSION => (SELECT 1))", UnsupportedError, "takes a plain value"),
        ("FROM trades AT (TIMESTAMP => now() - INTERVAL 1 HOUR)", UnsupportedError, "takes a plain value"),
        ("FROM trades AT (TIMESTAMP => '2026-11-22 12:00:00'::DATE)", UnsupportedError, "takes a plain value"),
        ("FROM system.parts AT (VERSION => 1)", UnsupportedError, "system.parts has no versions"),
        ("FROM nope AT (VERSION => 1)", UnsupportedError, "nope has no versions"),
        ("FROM other.market.trades AT (VERSION => 1)", UnsupportedError, "market.trades has no versions"),
        ("FROM trades AT (VERSION => 1) TABLESAMPLE 10%", UnsupportedError, "Sample a subquery"),
        ("FROM trades AT (VERSION => 1), __at0", StatementError, "cannot be read here"),
        ("FROM trades AT (VERSION => 1) JOIN glob('*') ON true", PermissionDeniedError, "glob()"),
        ("FROM trades AT (VERSION => 1), 'x.csv'", PermissionDeniedError, "files cannot be read"),
    ],
)
def test_what_names_no_version_is_refused(versions: Store, ask: Ask, sql: str, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        ask(sql)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 1.0, -1, "x", [1], datetime(2026, 1, 1)])
def test_bound_value_that_is_no_version_is_refused(engine: Engine, value: Any) -> None:
    with pytest.raises(StatementError, match="no number of a version"):
        engine.plan("FROM trades AT (VERSION => ?)", [value])


def test_missing_value_is_named(engine: Engine) -> None:
    with pytest.raises(StatementError, match=r"no value is bound to \$v"):
        engine.plan("FROM trades AT (VERSION => $v)", {"w": 1})
    with pytest.raises(StatementError, match=r"no value is bound to \$1"):
        engine.plan("FROM trades AT (VERSION => ?)")
    with pytest.raises(StatementError, match="Values were not provided"):
        engine.plan("FROM trades AT (VERSION => ?) WHERE seq = ?", [1])
    with pytest.raises(StatementError, match="count mismatch"):
        engine.plan("FROM trades AT (VERSION => ?)", [1, 2])


def test_statement_is_described_before_its_version_is_bound(engine: Engine) -> None:
    sql = "SELECT symbol FROM trades AT (TIMESTAMP => $at) WHERE price > $least"
    assert engine.parameter_names(sql) == ("at", "least")
    assert engine.plan(sql, {"at": None, "least": None}, guessed=True).schema.names == ["symbol"]


@pytest.mark.parametrize(
    ("sql", "quoted"),
    [
        (
            "SELECT nope FROM trades AT (VERSION => 1) WHERE price > 1",
            "LINE 1: SELECT nope FROM trades AT (VERSION => 1)",
        ),
        ("SELECT 1\nFROM trades AT\n(VERSION\n=> 1)\nWHERE nope", "LINE 5: WHERE nope\n              ^^^^"),
    ],
)
def test_error_is_in_the_callers_words(versions: Store, ask: Ask, sql: str, quoted: str) -> None:
    with pytest.raises(StatementError) as caught:
        ask(sql)
    assert quoted in str(caught.value)
    assert "__at" not in str(caught.value)


def test_views_of_versions_stay_with_their_query(versions: Store, ask: Ask, engine: Engine) -> None:
    ask("FROM trades AT (VERSION => 1)")
    with pytest.raises(StatementError, match="__at0 does not exist"):
        engine.plan("FROM __at0")


def test_number_of_versions_is_limited(reader: StatementReader) -> None:
    union = " UNION ALL ".join(f"FROM trades AT (VERSION => {i})" for i in range(VIEWS_MAX))
    assert len(reader.read(union).travels) == VIEWS_MAX
    assert len(reader.read(f"{union} UNION ALL {union}").travels) == VIEWS_MAX
    with pytest.raises(TooLargeError, match=f"at most {VIEWS_MAX}"):
        reader.read(f"{union} UNION ALL FROM trades AT (VERSION => 1000)")


def test_statement_tells_its_versions_apart_from_its_tables(reader: StatementReader) -> None:
    read = reader.read("FROM trades t AT (VERSION => ?), ticker, system.rejected AT (TIMESTAMP => '2026-01-01')")
    assert read.tables == {("", "ticker")}
    assert read.travels == (
        Travel("trades", "VERSION", None, "1", "__at0"),
        Travel("rejected", "TIMESTAMP", "2026-01-01", None, "__at1"),
    )
    assert [r.key for r in read.readings()] == ["ticker", "__at0", "__at1"]
    assert read.left([7]) == {}
    assert read.left({"1": 7}) == {}


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
gaps = st.sampled_from([" ", "\n", "\t  ", " /* AT (VERSION => 7) */ ", " -- é AT (\n", "  "])


@given(names, st.lists(gaps, min_size=9, max_size=9), st.text("é'x ", max_size=5), st.integers(0, 2**63 - 1))
def test_only_references_are_written_anew(
    reader: StatementReader, alias: str, gap: list[str], text: str, version: int
) -> None:
    quoted, literal = '"{}"'.format(alias.replace('"', '""')), "'{}'".format(text.replace("'", "''"))
    words = ["trades", "AS", quoted, "AT", "(", "VERSION", "=>", str(version), ")"]
    reference = "".join(a + b for a, b in zip(words[:-1], gap, strict=False)) + ")"
    sql = f"SELECT {literal}, {quoted}.seq FROM {reference} WHERE {literal} = {literal}"
    read = reader.read(sql)
    assert read.travels == (Travel("trades", "VERSION", str(version), None, "__at0"),)
    before, after = sql.split(reference)
    assert read.sql.startswith(before)
    assert read.sql.endswith(after)
    assert len(read.sql.encode()) == len(sql.encode())
    assert read.sql.count("\n") == sql.count("\n")
    assert read.in_callers_words(read.sql) == sql


def test_tree_that_says_something_else_is_refused() -> None:
    before = {"type": "BASE_TABLE", "table_name": "trades", "alias": "", "at_clause": {"unit": "VERSION"}}
    after = {"type": "BASE_TABLE", "table_name": "__at0", "alias": "trades", "at_clause": None}
    where = {"class": "CONSTANT", "value": 1, "query_location": 5}
    check_same([before, where], [after, {**where, "query_location": 9}], ["__at0"])
    for other in (
        [after, {**where, "value": 2}],
        [after],
        [after, where, where],
        [{**after, "alias": "t"}, where],
        [{**after, "table_name": "ticker"}, where],
        [before, {"class": "CONSTANT", "value": 1}, 1],
    ):
        with pytest.raises(StatementError, match="cannot be read here"):
            check_same([before, where], other, ["__at0"])


@given(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)))
def test_time_is_utc_to_the_microsecond(moment: datetime) -> None:
    travel = Travel("trades", "TIMESTAMP", None, "1")
    exact = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert travel.asked([moment]) == travel.asked([moment.isoformat(" ")]) == exact
    assert travel.asked([moment.replace(tzinfo=UTC)]) == travel.asked([f"{moment.isoformat()}+00:00"]) == exact
    assert travel.asked([moment.date()]) == travel.asked([date.isoformat(moment.date())])


def test_statement_without_versions_is_as_before() -> None:
    assert Statement("SELECT 1", frozenset(), explain=False, probe_sql="SELECT 1").left([1]) == [1]
