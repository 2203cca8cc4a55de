"""The client asks, lists and describes; its package is light."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import tickflight
from tickflight.client import parameters_to_ipc
from tickflight_server.schemas import MARKET, STORED


def test_rows_come_back_in_the_form_that_is_asked_for(reading: tickflight.Client) -> None:
    rows = reading.sql("SELECT symbol, count(*) AS n FROM trades GROUP BY 1 ORDER BY 1").arrow()
    assert rows.to_pylist() == [{"symbol": "BTC-USDT", "n": 100}, {"symbol": "ETH-USDT", "n": 100}]


def test_tables_are_listed_by_schema_and_name(reading: tickflight.Client) -> None:
    tables = reading.tables()
    assert {f"market.{name}" for name in MARKET} <= set(tables)
    assert {"system.parts", "system.rejected"} <= set(tables)


@pytest.mark.parametrize("name", ["trades", "market.trades", "l2_book", "system.rejected", "system.parts"])
def test_schema_of_a_table_is_told(reading: tickflight.Client, name: str) -> None:
    schema = reading.schema(name)
    assert schema.names == reading.sql(f"FROM {name}").schema.names
    if name.split(".")[-1] in STORED:
        assert schema.equals(STORED[name.split(".")[-1]].arrow())


@pytest.mark.parametrize("name", ["nix", "system.trades", "l_book", "%", "", "market."])
def test_schema_of_no_table_is_an_error(reading: tickflight.Client, name: str) -> None:
    with pytest.raises(tickflight.NotFoundError, match=r"client\.tables\(\) lists them"):
        reading.schema(name)


@pytest.mark.parametrize("kind", ["float64", "decimal"])
def test_numeric_type_is_the_servers(make_server: Callable[..., Any], kind: str) -> None:
    with tickflight.connect(make_server(numeric_type=kind).address) as client:
        assert client.numeric_type == kind


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        5,
        -(2**63),
        1.5,
        "it's; DROP TABLE\n--é",
        "",
        b"\x00\xff",
        Decimal("1.50"),
        date(2026, 1, 2),
        time(1, 2, 3, 4),
        datetime(2026, 1, 2, 3, 4, 5, 6),
        timedelta(milliseconds=5),
        ["a", "b"],
        {"a": 1, "b": None},
    ],
)
def test_parameter_of_any_kind_comes_back(reading: tickflight.Client, value: Any) -> None:
    for query, params in (("SELECT ? AS x", [value]), ("SELECT $1 AS x", (value,)), ("SELECT $x AS x", {"x": value})):
        (found,) = reading.sql(query, params).arrow()["x"].to_pylist()
        if isinstance(value, timedelta):
            assert found.nanoseconds == 5_000_000
        else:
            assert found == value


@pytest.mark.parametrize(
    ("query", "params", "expected"),
    [
        ("SELECT ?::INT - ?::INT AS x", [7, 5], 2),
        ("SELECT $2::INT - $1::INT AS x", [7, 5], -2),
        ("SELECT $a::INT - $b::INT AS x", {"a": 7, "b": 5}, 2),
        ("SELECT $a::INT - $b::INT AS x", {"b": 5, "a": 7}, 2),
        ("SELECT $2::INT - $1::INT AS x", {"2": 7, "1": 5}, 2),
        (
            "SELECT count(*) AS x FROM trades WHERE symbol = $s AND timestamp < $t",
            {"t": datetime(2026, 9, 21, 14, 14, tzinfo=UTC), "s": "ETH-USDT"},
            60 - 47 + 27,
        ),
        ("SELECT ? AS x", [pa.scalar(5, pa.int8())], 5),
        ("SELECT 1 AS x", [], 1),
        ("SELECT 1 AS x", {}, 1),
    ],
)
def test_parameters_go_where_they_belong(reading: tickflight.Client, query: str, params: Any, expected: Any) -> None:
    assert reading.sql(query, params).arrow()["x"].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("query", "params", "match"),
    [
        ("SELECT ?", "text", "write \\[value\\] for a single one"),
        ("SELECT ?", [object()], "parameter 0 of type object has no Arrow type"),
        ("SELECT ?", [2**70], "parameter 0 of type int has no Arrow type"),
        ("SELECT ?, ?", [1], "has 2 parameters, 1 values were given"),
        ("SELECT ?", [1, 2], "has 1 parameters, 2 values were given"),
        ("SELECT 1", [1], "has 0 parameters"),
        ("SELECT ?", None, "not provided for the following parameters: 1"),
        ("SELECT $symbol, $since", {"symbl": 1, "since": 2}, r"no value is given for \$symbol"),
    ],
)
def test_wrong_parameters_are_refused(reading: tickflight.Client, query: str, params: Any, match: str) -> None:
    with pytest.raises(tickflight.QueryError, match=match):
        reading.sql(query, params)


@pytest.mark.parametrize(
    ("query", "kind", "match"),
    [
        ("SELEC 1", tickflight.QueryError, r'(?s)near "SELEC".*LINE 1: SELEC 1\n        \^\^\^\^\^$'),
        ("FROM tradez", tickflight.QueryError, 'Did you mean "trades"'),
        ("SELECT pricee FROM trades", tickflight.QueryError, r"(?s)Candidate bindings.*\^\^\^\^\^\^$"),
        (
            "DELETE FROM trades",
            tickflight.PermissionDeniedError,
            r"^market\.trades cannot be written by SQL\. Hint: .*\.$",
        ),
        (f"SELECT '{'x' * 10_000_000}'", tickflight.QueryError, r"^the SQL text has 10000009 bytes, .* Hint: .*\.$"),
    ],
    ids=lambda v: v[:20] if isinstance(v, str) else "",
)
def test_error_is_of_one_tree_and_keeps_its_words(
    reading: tickflight.Client, query: str, kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match) as caught:
        reading.sql(query)
    assert isinstance(caught.value, tickflight.TickflightError)
    assert caught.value.__cause__ is None


def test_threads_share_a_client(reading: tickflight.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: reading.sql("SELECT ? AS x", [i]).arrow()["x"].to_pylist(), range(50))
    assert list(found) == [[i] for i in range(50)]


def test_flush_tells_how_far(client: tickflight.Client, make_trades: Callable[..., Any]) -> None:
    with client.writer("trades") as writer:
        writer.write(make_trades(5))
    assert client.flush()["trades"] == 5


def test_report_of_a_feed_is_asked_by_sql(client: tickflight.Client) -> None:
    client.report_feed("binance", {"received": 7, "note": "é"})
    (row,) = client.sql("SELECT feed, received FROM system.feeds").arrow().to_pylist()
    assert row == {"feed": "binance", "received": 7}


def test_client_shows_where_it_is_connected(served: Any, reading: tickflight.Client) -> None:
    assert repr(reading) == f"<tickflight.Client of {served.address}>"


def test_parameters_are_one_row_of_arrow() -> None:
    (batch,) = pa.ipc.open_stream(parameters_to_ipc({"a": 1, "b": "x"}))
    assert batch.to_pylist() == [{"a": 1, "b": "x"}]
    (batch,) = pa.ipc.open_stream(parameters_to_ipc([1, None]))
    assert batch.schema.names == ["0", "1"]


def test_package_is_light() -> None:
    """The time is the processor's own, so that a busy machine is no matter."""
    code = (
        "import time, pyarrow, pyarrow.flight; before = time.process_time(); import tickflight, sys; "
        "print(time.process_time() - before); "
        "print([m for m in ('duckdb', 'cryptofeed', 'polars', 'pandas', 'deltalake', 'pydantic', 'numpy.testing', "
        "'tickflight_server', 'adbc_driver_manager') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = answer.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 0.25


def test_import_takes_less_than_half_a_second() -> None:
    code = "import time; before = time.process_time(); import tickflight; print(time.process_time() - before)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert min(float(run.stdout) for run in runs) < 0.5


SILENT = "SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1"


@pytest.mark.parametrize(
    "run",
    [
        lambda client: client.sql(SILENT),
        lambda client: client.sql("SELECT x FROM range(100000000000000) r(x)", progress=False).arrow(),
        lambda client: client.sql("SELECT x FROM range(100000000000000) r(x)", progress=True).arrow(),
    ],
    ids=["before its first rows", "in the middle", "in the middle, with progress"],
)
def test_control_c_ends_the_wait_and_the_query(
    served: Any, reading: tickflight.Client, until: Callable[..., None], run: Callable[[tickflight.Client], object]
) -> None:
    def interrupt() -> None:
        until(lambda: served.free_places == 7)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come while the thread is being started
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        run(reading)
    interrupting.join()
    until(lambda: served.free_places == 8)
    assert reading.sql("SELECT 1 AS x").arrow().num_rows == 1
