"""``system.queries`` and what ends a statement in it, over a real connection with the real ADBC driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from flight_here import FlightHere

import tickflight

AUTH = {
    "users": {"ann": "a", "bob": "b", "root": "r"},
    "roles": {"ann": ["user"], "bob": ["user"], "root": ["admin"]},
}
ENDLESS = "SELECT count(*) AS n FROM range(100000000000) a(x) WHERE x % 3 = 7"
Make = Callable[..., FlightHere]


@contextmanager
def _cursor(server: FlightHere, user: str) -> Iterator[adbc.Cursor]:
    kwargs = {"username": user, "password": AUTH["users"][user]}
    with adbc.connect(server.address, db_kwargs=kwargs, autocommit=True) as connection, connection.cursor() as made:
        yield made


def _run(server: FlightHere, user: str, sql: str) -> list[Any]:
    with _cursor(server, user) as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def _client(server: FlightHere, user: str) -> tickflight.Client:
    return tickflight.connect(server.address, username=user, password=AUTH["users"][user])


class _Asking(threading.Thread):
    """Runs a statement of a user, and keeps how it ended."""

    def __init__(self, server: FlightHere, user: str, sql: str = ENDLESS) -> None:
        super().__init__(daemon=True)
        self.server, self.user, self.sql = server, user, sql
        self.failure: Exception | None = None
        self.rows: list[Any] = []
        self.start()

    def run(self) -> None:
        try:
            with _cursor(self.server, self.user) as cursor:
                cursor.execute(self.sql)
                self.rows = cursor.fetchall()
        except Exception as error:
            self.failure = error


def _seen(server: FlightHere, user: str, where: str = "true") -> list[dict[str, Any]]:
    with _cursor(server, user) as cursor:
        cursor.execute(f"SELECT * FROM system.queries WHERE ({where}) AND sql NOT LIKE '%system.queries%'")
        return cursor.fetch_arrow_table().to_pylist()


def _wait_for(server: FlightHere, where: str, count: int = 1, user: str = "root") -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while len(found := _seen(server, user, where)) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@pytest.fixture
def server(make_server: Make) -> FlightHere:
    return make_server(auth=AUTH, concurrent_max=4, spare_places=0)


def test_a_statement_is_seen_while_it_runs_and_after_it_ended(server: FlightHere) -> None:
    asking = _Asking(server, "ann")
    (row,) = _wait_for(server, "state = 'running'")
    assert (row["user"], row["sql"], row["kind"], row["ended"], row["rows"]) == ("ann", ENDLESS, "query", None, None)
    assert row["duration_ms"] > 0
    assert row["peer"].startswith("ipv4:127.0.0.1")
    with _cursor(server, "root") as cursor:
        cursor.execute(f"FROM cancel_query('{row['id']}')")
        assert cursor.fetchall() == [(row["id"], True)]
    asking.join(60)
    assert not asking.is_alive()
    assert "Cancelled" in str(asking.failure) or "cancelled" in str(asking.failure)
    (row,) = _wait_for(server, "state = 'cancelled'")
    assert (row["cancelled_by"], row["user"]) == ("root", "ann")
    assert row["ended"] is not None
    with _cursor(server, "root") as cursor:
        cursor.execute(f"FROM cancel_query('{row['id']}')")
        assert cursor.fetchall() == [(row["id"], False)], "it has ended"


def test_what_ended_tells_how_and_how_much(server: FlightHere, make_trades: Any) -> None:
    server.store.append("trades", make_trades(1000)).result()
    with _cursor(server, "ann") as cursor:
        cursor.execute("SELECT symbol, price FROM market.trades")
        cursor.fetchall()
        cursor.execute("SELECT 1 AS x")
        cursor.fetchall()
        cursor.execute("CREATE TABLE workspace.mine AS SELECT 1 AS x")
        with pytest.raises(adbc.Error):
            cursor.execute("SELECT nothing FROM market.trades")
    rows = {row["sql"]: row for row in _seen(server, "ann")}
    scan = rows["SELECT symbol, price FROM market.trades"]
    assert (scan["state"], scan["tables"], scan["rows"], scan["rows_opened"]) == ("done", ["market.trades"], 1000, 1000)
    assert scan["segments"] >= 1
    assert scan["bytes"] > 0
    assert scan["error"] is None
    assert rows["SELECT 1 AS x"]["state"] == "done"
    assert rows["CREATE TABLE workspace.mine AS SELECT 1 AS x"]["kind"] == "write"
    failed = rows["SELECT nothing FROM market.trades"]
    assert failed["state"] == "failed"
    assert "nothing" in failed["error"]
    assert "Traceback" not in failed["error"]
    assert "Detail" not in failed["error"]


def test_users_see_and_end_only_their_own(server: FlightHere) -> None:
    asking = _Asking(server, "ann")
    (row,) = _wait_for(server, "state = 'running'")
    assert _seen(server, "bob") == []
    with _cursor(server, "bob") as cursor:
        cursor.execute(f"FROM cancel_query('{row['id']}')")
        assert cursor.fetchall() == [], "another's statement is not there"
    with _client(server, "bob") as client, pytest.raises(tickflight.NotFoundError, match="there is no statement"):
        client.cancel(row["id"])
    assert asking.is_alive()
    with _client(server, "ann") as client:
        assert [r["id"] for r in client.queries(running=True).arrow().to_pylist() if r["sql"] == ENDLESS] == [row["id"]]
        assert client.cancel(row["id"])
    asking.join(60)
    assert not asking.is_alive()
    with _client(server, "ann") as client, pytest.raises(tickflight.NotFoundError):
        client.cancel("0123456789abcdef")


def test_a_statement_that_waits_is_seen_and_leaves_the_queue_at_once(make_server: Make, until: Any) -> None:
    server = make_server(auth=AUTH, concurrent_max=1)
    asking = _Asking(server, "ann")
    until(lambda: not server.free_places)
    waiting = _Asking(server, "bob", "SELECT 1 AS x")
    places, board = server.engine.shared.places, server.engine.shared.board
    until(lambda: places.waiting)
    (queued,) = [run for run in board.running() if run.state == "queued"]
    assert queued.caller.user == "bob"
    began = time.monotonic()
    with _client(server, "root") as client:
        assert client.cancel(queued.id)
    waiting.join(60)
    assert time.monotonic() - began < 5
    assert waiting.failure is not None
    assert places.waiting == 0
    for run in board.running():
        run.cancel("test")
    asking.join(60)
    assert not asking.is_alive()
    until(lambda: server.free_places == 1)


@pytest.mark.parametrize("kind", ["tail", "live", "replay"])
def test_streams_are_seen_and_ended(server: FlightHere, make_trades: Any, kind: str) -> None:
    server.store.append("trades", make_trades(5000)).result()
    ended = threading.Event()
    failures: list[Exception] = []

    def follow() -> None:
        try:
            with _client(server, "ann") as client:
                if kind == "tail":
                    for _ in client.tail("trades", reconnect_s=0.0):
                        pass
                elif kind == "live":
                    for _ in client.live("SELECT count(*) AS n FROM trades", every=0.05):
                        pass
                else:
                    for _ in client.replay("trades", speed=0.000001):
                        time.sleep(0.01)
        except Exception as error:
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=follow, daemon=True).start()
    if kind == "replay":
        (row,) = _wait_for(server, "kind = 'replay'")
        assert row["sql"].startswith("replay market.trades")
    else:
        (row,) = _wait_for(server, f"kind = '{kind}' AND state = 'running'")
        with _client(server, "root") as client:
            assert client.cancel(row["id"])
        assert ended.wait(20)
        assert failures
        (row,) = _wait_for(server, f"kind = '{kind}'")
        assert (row["cancelled_by"], row["state"]) == ("root", "cancelled")
    assert row["user"] == "ann"
    assert row["tables"] == ["market.trades"]


def test_the_history_is_bounded(make_server: Make) -> None:
    server = make_server(auth=AUTH, history_max=5)
    with _cursor(server, "ann") as cursor:
        for number in range(20):
            cursor.execute(f"SELECT {number} AS x")
            cursor.fetchall()
        cursor.execute("SELECT 'long' || '" + "x" * 5000 + "'")
        cursor.fetchall()
    rows = _seen(server, "ann")
    assert len(rows) <= 5
    assert max(len(row["sql"]) for row in rows) <= 2001
    server = make_server(auth=AUTH, history_max=0)
    with _cursor(server, "ann") as cursor:
        cursor.execute("SELECT 1 AS x")
        cursor.fetchall()
    assert _seen(server, "ann") == []


def test_admins_tables_are_refused_to_others(server: FlightHere) -> None:
    for table in ("log", "metrics", "feeds", "pins"):
        for sql in (f"SELECT * FROM system.{table}", f"CREATE TABLE workspace.t AS SELECT * FROM system.{table}"):
            with pytest.raises(adbc.Error, match=f"table system.{table} is for admins"):
                _run(server, "ann", sql)
        _run(server, "root", f"SELECT * FROM system.{table}")
    for table in ("health", "functions", "tables", "parts", "segments", "gaps", "queries"):
        _run(server, "ann", f"SELECT * FROM system.{table}")
