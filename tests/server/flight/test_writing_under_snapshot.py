"""What writes reads the market data that its snapshot has, as queries do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest

import tickflight


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE kept AS SELECT seq FROM trades",
        "CREATE TABLE kept AS SELECT seq FROM trades WHERE symbol = 'BTC-USDT'",
        "INSERT INTO made SELECT seq FROM market.trades",
        "UPDATE made SET a = (SELECT count(*) FROM trades)",
    ],
)
def test_what_is_written_comes_from_the_snapshot(
    make_server: Callable[..., Any], make_trades: Callable[..., Any], sql: str
) -> None:
    here = make_server()
    here.store.append("trades", make_trades(10)).result()
    with (
        tickflight.connect(here.address) as client,
        client.snapshot(seconds=60) as pin,
        adbc.connect(here.address, autocommit=True) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE made AS SELECT 0::BIGINT AS a FROM range(1)")
        here.store.append("trades", make_trades(5)).result()
        cursor.execute(f"SET snapshot = '{pin.id}'")
        cursor.execute(sql)
        cursor.execute("RESET snapshot")
        table, value = ("kept", "count(*)") if "kept" in sql else ("made", "max(a)")
        cursor.execute(f"SELECT {value} FROM {table}")
        assert cursor.fetchall() == [(10,)]
