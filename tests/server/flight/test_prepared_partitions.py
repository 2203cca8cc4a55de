"""Partitions over the DB-API, which prepares every statement and forgets it before they are read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest


@pytest.fixture
def shared(make_server: Callable[..., Any], make_trades: Callable[..., Any]) -> Any:
    here = make_server(share_rows=1000, shares_max=4)
    for day in range(8):
        here.store.append("trades", make_trades(1000, start_us=1_790_000_000_000_000 + day * 86_400_000_000)).result()
    here.store.flush()
    here.stop()
    here.start()  # the rows are in eight parts now, and no longer in memory
    return here


def partitions(here: Any, sql: str) -> list[bytes]:
    with adbc.connect(here.address, autocommit=True) as connection, connection.cursor() as cursor:
        found, _ = cursor.adbc_execute_partitions(sql)
    return found


def read(here: Any, partition: bytes) -> list[int]:
    with adbc.connect(here.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_read_partition(partition)
        return cursor.fetch_arrow_table()["seq"].to_pylist()


def test_other_connections_read_each_row_of_one_snapshot_once(shared: Any, make_trades: Callable[..., Any]) -> None:
    found = partitions(shared, "SELECT seq FROM trades WHERE amount > 0")
    assert len(found) == 4
    shared.store.append("trades", make_trades(5)).result()
    with ThreadPoolExecutor(4) as pool:
        rows = [seq for part in pool.map(lambda one: read(shared, one), found) for seq in part]
    assert sorted(rows) == list(range(1, 8001))


def test_what_is_not_cut_is_one_partition_that_outlives_its_statement(shared: Any) -> None:
    (only,) = partitions(shared, "SELECT max(seq) AS seq FROM trades")
    assert read(shared, only) == [8000]
