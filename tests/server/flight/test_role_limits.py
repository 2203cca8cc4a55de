"""What a role lets one user use, over a real connection: each limit ends in an error that names it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from flight_here import FlightHere

import tickflight

USERS = {"small": "s", "free": "f"}
EVERYTHING = {"read": [{"schemas": ["market", "system"]}], "write": ["*"], "workspace": True}
Make = Callable[..., FlightHere]


@pytest.fixture
def served(make_server: Make, make_trades: Any) -> Callable[..., FlightHere]:
    """Make a server with a thousand trades, on which user ``small`` has limits and ``free`` none."""

    def make(query: dict[str, Any] | None = None, **limits: Any) -> FlightHere:
        server = make_server(
            auth={"users": USERS, "roles": {"small": ["narrow"], "free": ["user"]}},
            roles={"narrow": {**EVERYTHING, "limits": limits}},
            **(query or {}),
        )
        server.store.append("trades", make_trades(1000)).result()
        return server

    return make


@contextmanager
def _connected(server: FlightHere, user: str = "small") -> Iterator[adbc.Connection]:
    kwargs = {"username": user, "password": USERS[user]}
    with adbc.connect(server.address, db_kwargs=kwargs, autocommit=True) as connection:
        yield connection


def _run(server: FlightHere, sql: str, user: str = "small", values: list[Any] | None = None) -> list[Any]:
    with _connected(server, user) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


def _all(cursor: adbc.Cursor, sql: str) -> list[Any]:
    cursor.execute(sql)
    return cursor.fetchall()


def _client(server: FlightHere, user: str = "small") -> tickflight.Client:
    return tickflight.connect(server.address, username=user, password=USERS[user])


def _counted(server: FlightHere, name: str) -> float:
    return server.store.metrics.read().get(name, 0.0)


ROWS = (
    "SELECT * FROM market.trades",
    "SELECT seq, symbol FROM trades",
    "SELECT symbol, price FROM trades WHERE seq > 0 ORDER BY price",
    "SELECT [seq] AS s FROM trades",
    "SELECT x FROM range(1000) r(x)",
    "FROM trades t1, (SELECT 1) t2",
    "WITH t AS (FROM trades) SELECT seq FROM t UNION ALL SELECT 1",
)


def test_a_result_has_at_most_so_many_rows(served: Callable[..., FlightHere]) -> None:
    server = served(rows_max=100)
    for sql in ROWS:
        with pytest.raises(
            adbc.Error, match=r"resource exhausted \(limits\.rows_max\): the result has more than 100 r"
        ):
            _run(server, sql)
        assert len(_run(server, f"SELECT * FROM ({sql}) LIMIT 100")) == 100
        assert len(_run(server, sql, "free")) >= 1000
    assert _counted(server, "results_cut") == len(ROWS)


def test_the_error_says_what_to_narrow(served: Callable[..., FlightHere]) -> None:
    server = served(rows_max=100)
    with _client(server) as client, pytest.raises(tickflight.ResourceExhaustedError) as caught:
        client.sql("SELECT * FROM trades").arrow()
    assert "market.trades is read with 1,000 rows" in str(caught.value)
    assert "LIMIT" in str(caught.value)


def test_rows_that_are_bound_count_together(served: Callable[..., FlightHere]) -> None:
    server = served(rows_max=100)
    with pytest.raises(adbc.Error, match=r"limits\.rows_max"):
        _run(server, "SELECT x FROM range(?) r(x)", values=[101])
    assert len(_run(server, "SELECT x FROM range(?) r(x)", values=[100])) == 100


def test_a_result_has_at_most_so_many_bytes(served: Callable[..., FlightHere]) -> None:
    server = served(result_mb=1)
    with pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.result_mb\): the result is above 1 MB"):
        _run(server, "SELECT x, x AS y FROM range(200000) r(x)")
    assert len(_run(server, "SELECT x FROM range(10000) r(x)")) == 10_000


def test_what_a_writing_statement_gives_is_limited_too(served: Callable[..., FlightHere]) -> None:
    server = served(rows_max=10)
    _run(server, "CREATE TABLE workspace.mine (x BIGINT)")
    with pytest.raises(adbc.Error, match=r"limits\.rows_max"):
        _run(server, "INSERT INTO workspace.mine SELECT x FROM range(11) r(x) RETURNING x")


def test_live_and_replay_are_limited_too(served: Callable[..., FlightHere]) -> None:
    server = served(rows_max=100)
    with _client(server) as client:
        with pytest.raises(tickflight.TickflightError, match=r"limits\.rows_max"):
            next(iter(client.live("SELECT seq FROM trades")))
        with pytest.raises(tickflight.TickflightError, match=r"limits\.rows_max"):
            list(client.replay("trades").batches())


def test_a_statement_runs_at_most_so_long_whatever_the_session_says(served: Callable[..., FlightHere]) -> None:
    server = served(statement_timeout_s=0.3)
    endless = "SELECT count(*) FROM range(100000000000) r(x) WHERE x % 3 = 7"
    with _connected(server) as connection, connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '1h'")
        began = time.monotonic()
        with pytest.raises(adbc.Error, match=r"time limit of 0\.3 s \(limits\.statement_timeout_s\)"):
            _all(cursor, endless)
        assert time.monotonic() - began < 20
        cursor.execute("SET statement_timeout = '50ms'")
        with pytest.raises(adbc.Error, match=r"time limit of 0\.05 s \(statement_timeout\)"):
            _all(cursor, endless)


HUNGRY = (
    "SELECT list(x) AS l FROM range(100000000) r(x)",
    "SELECT x, random() AS r FROM range(10000000) r(x) ORDER BY r",
    "SELECT x, count(*) FROM range(10000000) r(x) GROUP BY x",
    "SELECT list(t.price + x) FROM trades t, range(1000000) r(x)",
)


def test_a_statement_has_at_most_so_much_memory(served: Callable[..., FlightHere]) -> None:
    server = served(memory_mb=64)
    for sql in HUNGRY:
        with pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.memory_mb\): Out of Memory Error"):
            _run(server, sql)
        assert _run(server, "SELECT count(*) FROM trades") == [(1000,)], "the next one has it again"
    assert _run(server, "SELECT now() IS NOT NULL, symbol FROM market.trades WHERE seq = 1")[0][0] is True


def test_memory_of_one_statement_does_not_count_for_another(served: Callable[..., FlightHere]) -> None:
    server = served(memory_mb=64)
    failures: list[Exception] = []
    done = threading.Event()

    def hungry() -> None:
        while not done.is_set():
            try:
                _run(server, "SELECT list(x) AS l FROM range(100000000) r(x)")
            except adbc.Error as error:
                failures.append(error)

    thread = threading.Thread(target=hungry, daemon=True)
    thread.start()
    for _ in range(20):
        assert len(_run(server, "SELECT symbol, price FROM trades ORDER BY price, seq")) == 1000
    done.set()
    thread.join(20)
    assert failures
    assert all("limits.memory_mb" in str(f) for f in failures)


def test_a_statement_spills_at_most_so_much(served: Callable[..., FlightHere]) -> None:
    sql = "SELECT count(*) FROM (SELECT x, random() AS r FROM range(5000000) r(x) ORDER BY r OFFSET 1)"
    server = served({"spill_mb": 2048}, memory_mb=80, spill_mb=1)
    with pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.(spill|memory)_mb\)"):
        _run(server, sql)
    server = served({"spill_mb": 2048}, memory_mb=80)
    assert _run(server, sql) == [(4_999_999,)], "with the server's room to spill it runs"


def test_a_user_has_at_most_so_many_prepared_statements(served: Callable[..., FlightHere]) -> None:
    server = served(prepared_max=3)
    with _connected(server) as connection:
        cursors = [connection.cursor() for _ in range(4)]
        for cursor in cursors[:3]:
            cursor.adbc_prepare("SELECT ?::INT AS x")
        with pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.prepared_max\): you keep 3"):
            cursors[3].adbc_prepare("SELECT ?::INT AS x")
        cursors[0].close()
        for number in range(20):  # a driver gives back what it prepares, and no tickets: of them the oldest go
            with connection.cursor() as cursor:
                assert _all(cursor, f"SELECT {number}") == [(number,)]
        cursors.append(connection.cursor())
        cursors[4].adbc_prepare("SELECT ?::INT AS x")
        for cursor in cursors[1:]:
            cursor.close()


def test_a_user_has_at_most_so_many_streams(served: Callable[..., FlightHere]) -> None:
    server = served(streams_max=1)
    with _client(server) as client, _client(server, "free") as free:
        first = client.tail("trades", since=10)
        next(iter(first))
        with pytest.raises(tickflight.TickflightError, match=r"resource exhausted \(limits\.streams_max\): 1 tails"):
            next(iter(client.live("SELECT count(*) FROM trades")))
        next(iter(free.live("SELECT count(*) FROM trades")))
        first.close()
    assert _counted(server, "streams_refused") >= 1


def test_a_user_has_at_most_so_many_sessions_with_something_in_them(served: Callable[..., FlightHere]) -> None:
    server = served(sessions_max=2, session_idle_s=1)
    with _connected(server) as one, _connected(server) as two, _connected(server) as three:
        for connection in (one, two):
            with connection.cursor() as cursor:
                cursor.execute("SET TimeZone = 'Europe/Berlin'")
        with three.cursor() as cursor, pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.sessions_max\)"):
            cursor.execute("SELECT 1")
        deadline = time.monotonic() + 20
        while True:  # an unused one ends
            try:
                with three.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    assert cursor.fetchall() == [(1,)]
                break
            except adbc.Error:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_who_sends_rows_too_fast_is_slowed_and_loses_none(served: Callable[..., FlightHere], make_trades: Any) -> None:
    server = served(ingest_rows_per_s=2000)
    began = time.monotonic()
    with _client(server) as client:
        _write(client, *(make_trades(500, "ETH-USDT", start_us=1_760_000_000_000_000 + number) for number in range(6)))
    seconds = time.monotonic() - began
    assert 0.4 <= seconds < 30, "3,000 rows at 2,000 a second, of which a second's come at once"
    assert _run(server, "SELECT count(*) FROM trades WHERE symbol = 'ETH-USDT'") == [(3000,)]
    assert _counted(server, "ingest_slowed") >= 1
    with _connected(server) as connection, connection.cursor() as cursor:
        began = time.monotonic()
        cursor.adbc_ingest("mine", pa.table({"x": range(3000)}), mode="create")
        assert time.monotonic() - began >= 0.4


def test_who_may_only_write_can_connect_and_write(make_server: Make, make_trades: Any) -> None:
    server = make_server(auth={"users": USERS, "roles": {"small": ["feed"], "free": ["user"]}})
    with _client(server) as client:
        _write(client, make_trades(10))
    assert _run(server, "SELECT count(*) FROM trades", "free") == [(10,)]


def test_a_batch_is_at_most_so_large(served: Callable[..., FlightHere], make_trades: Any) -> None:
    server = served(request_mb=1)
    with _client(server) as client, pytest.raises(tickflight.WriteError, match=r"limits\.request_mb"):
        _write(client, make_trades(50_000))
    table = pa.table({"x": range(200_000)})
    with (
        _connected(server) as connection,
        connection.cursor() as cursor,
        pytest.raises(adbc.Error, match=r"limits\.request_mb"),
    ):
        cursor.adbc_ingest("mine", table, mode="create")


def test_queries_at_once_and_waiting_are_limited(served: Callable[..., FlightHere]) -> None:
    server = served(queries_max=1, queue_max=0)
    endless = "SELECT count(*) FROM range(100000000000) r(x) WHERE x % 3 = 7"
    thread = threading.Thread(target=lambda: _quietly(server, endless), daemon=True)
    thread.start()
    board = server.engine.shared.board
    while not [run for run in board.running() if run.state == "running"]:
        time.sleep(0.005)
    with pytest.raises(adbc.Error, match=r"resource exhausted \(limits\.queue_max\)"):
        _run(server, "SELECT 1")
    assert _run(server, "SELECT 1", "free") == [(1,)]
    for run in board.running():
        run.cancel("test")
    thread.join(20)
    assert not thread.is_alive()


def _write(client: tickflight.Client, *batches: pa.RecordBatch) -> None:
    with client.writer("trades") as writer:
        for answer in [writer.write(batch) for batch in batches]:
            answer.result()


def _quietly(server: FlightHere, sql: str) -> None:
    with suppress(adbc.Error):
        _run(server, sql)
