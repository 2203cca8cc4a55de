"""A choice of rows and columns is looked through before anything runs; a condition cannot be more than one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from sql_here import SqlHere

from tickflight_server.errors import InputError, NotFoundError, PermissionDeniedError, StatementError, UnsupportedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.selection import Choice, check
from tickflight_server.schemas import STORED

Ask = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("trades", "trades"),
        ("market.trades", "trades"),
        ("TRADES", "trades"),
        ("gaps", "gaps"),
        ("system.gaps", "gaps"),
    ],
)
def test_table_may_have_its_schema_before_it(engine: Engine, name: str, found: str) -> None:
    assert check(engine, name).table is STORED[found]


@pytest.mark.parametrize("name", ["", "nothing", "system.trades", "market.gaps", "system.queries", "a.b.trades"])
def test_table_that_is_not_stored_is_told_with_those_that_are(engine: Engine, name: str) -> None:
    with pytest.raises(NotFoundError, match=r"no stored table .* market\.trades, .*system\.gaps"):
        check(engine, name)


def test_columns_are_in_the_order_that_was_asked_for(engine: Engine) -> None:
    chosen = check(engine, "trades", columns=["price", "symbol"])
    assert chosen.schema("decimal") == pa.schema([("price", pa.decimal128(38, 18)), ("symbol", pa.string())])
    assert check(engine, "trades").schema("float64") == STORED["trades"].arrow()


def test_columns_that_are_not_there_are_told_with_those_that_are(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"trades has no column 'pric'.* It has exchange, symbol, side, .*seq"):
        check(engine, "trades", columns=["price", "pric"])
    with pytest.raises(InputError, match="'price' is named twice"):
        check(engine, "trades", columns=["price", "seq", "price"])


@pytest.mark.parametrize(
    "where",
    [
        "price > 50000",
        "price > 5 -- only these",
        "price > 5 /* and */ AND side = 'buy'",
        "(price > 1) AND (amount > 1 OR side IS NULL)",
        "symbol LIKE 'BTC%'",
        "timestamp > now() - INTERVAL 1 HOUR",
        "CASE WHEN side = 'buy' THEN price > 1 ELSE price < 1 END",
        "side = ';) OR ('",
        "",
        "  ",
    ],
)
def test_condition_passes(engine: Engine, where: str) -> None:
    chosen = check(engine, "trades", where=where)
    plan = engine.plan(chosen.select("count(*)", "seq > 1"))
    with engine.execute(plan) as execution:
        assert execution.reader.read_all().num_rows == 1


@pytest.mark.parametrize(
    "where",
    [
        "1=1) UNION ALL SELECT * FROM trades WHERE (1=1",
        "true) OR (true",
        "true) ORDER BY (price",
        "true ORDER BY price",
        "true LIMIT 1",
        "true GROUP BY price",
        "true QUALIFY row_number() OVER () = 1",
        "true WINDOW w AS (ORDER BY price)",
        "true USING SAMPLE 10%",
        "true) --",
        "true) /*",
        "/* true",
        "true;",
        "true; DROP TABLE x",
        "price > (SELECT max(price) FROM trades)",
        "EXISTS (FROM ticker)",
        "symbol IN (SELECT symbol FROM ticker)",
        "max(price) > 1",
        "row_number() OVER () > 1",
        "price > ?",
        "price > $1",
        "price > $exchange_0",
        "price >",
        "\0",
    ],
)
def test_what_is_more_than_a_condition_is_refused(engine: Engine, where: str) -> None:
    with pytest.raises((StatementError, UnsupportedError)):
        check(engine, "trades", where=where)


def test_condition_that_does_not_bind_shows_the_place_in_its_own_lines(engine: Engine) -> None:
    with pytest.raises(StatementError, match=r'"pricee" not found') as refused:
        check(engine, "trades", where="price > 1\n AND pricee > 5")
    assert "LINE 2:  AND pricee > 5\n             ^" in str(refused.value)
    with pytest.raises(StatementError, match="LINE 1: pricee > 5"):
        check(engine, "trades", where="pricee > 5")


def test_condition_may_not_ask_what_is_not_for_users(engine: Engine) -> None:
    with pytest.raises(PermissionDeniedError):
        check(engine, "trades", where="getenv('HOME') = ''")


def test_macro_of_users_is_refused_since_it_may_read_another_table(engine: Engine) -> None:
    SqlHere(engine).write("CREATE MACRO workspace.dear(p) AS p > (SELECT max(bid) FROM market.ticker)")
    with pytest.raises(StatementError, match="more than a condition"):
        check(engine, "trades", where="workspace.dear(price)")


def test_values_are_bound_and_never_spliced() -> None:
    choice = Choice(STORED["trades"], exchanges=("X' OR true --",), symbols=("A", "B"), columns=("price",))
    assert choice.select("seq", "seq > $after", then="ORDER BY seq") == (
        "SELECT seq FROM market.trades WHERE seq > $after AND exchange IN ($exchange_0) "
        "AND symbol IN ($symbol_0, $symbol_1) ORDER BY seq"
    )
    assert choice.parameters() == {"exchange_0": "X' OR true --", "symbol_0": "A", "symbol_1": "B"}
    assert Choice(STORED["trades"]).select("seq") == "SELECT seq FROM market.trades"
