from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from sql_here import SqlHere

from tickflight_server.errors import BusyError, InputError, NotFoundError, ServerError, TransactionError
from tickflight_server.query.engine import Engine
from tickflight_server.query.writer import Target


@pytest.fixture
def here(engine: Engine) -> SqlHere:
    made = SqlHere(engine)
    made.write("CREATE TABLE t (id INT PRIMARY KEY, x INT)")
    made.write("INSERT INTO t VALUES (1, 10), (2, 20)")
    return made


def contents(here: SqlHere) -> list[Any]:
    return here.rows("SELECT id, x FROM t ORDER BY id")


def ingest(here: SqlHere, target: Target, **columns: list[int]) -> int:
    session = here.engine.session()
    table = pa.table(columns)
    try:
        return here.writer.ingest(target, table.to_reader(), session=session)
    finally:
        session.close()


def test_rows_of_values_are_written_all_or_none(here: SqlHere) -> None:
    sql = "INSERT INTO t VALUES ($1, $2)"
    assert here.write(sql, rows=[{"1": 3, "2": 30}, {"1": 4, "2": 40}]).rows == 2
    with pytest.raises(ServerError, match="Duplicate key"):
        here.write(sql, rows=[{"1": 5, "2": 50}, {"1": 3, "2": 31}])
    assert contents(here) == [(1, 10), (2, 20), (3, 30), (4, 40)]


@pytest.mark.parametrize(
    ("sql", "rows", "given"),
    [
        ("INSERT INTO t VALUES (3, 30) RETURNING id, x AS y", 1, [{"id": 3, "y": 30}]),
        ("UPDATE t SET x = x + 1 WHERE id = 1 RETURNING x", 1, [{"x": 11}]),
        ("DELETE FROM t RETURNING count(*)", 1, None),
        ("UPDATE t SET x = 0", 2, None),
        ("DELETE FROM t WHERE id > 5", 0, None),
        ("INSERT INTO t SELECT id + 10, x FROM t", 2, None),
        ("INSERT OR REPLACE INTO t VALUES (1, 5)", 1, None),
        ("TRUNCATE t", 2, None),
        ("MERGE INTO t USING (VALUES (1, 7)) s(i, y) ON id = i WHEN MATCHED THEN UPDATE SET x = y", 1, None),
    ],
)
def test_changed_rows_are_counted_and_returned(here: SqlHere, sql: str, rows: int, given: Any) -> None:
    if "count(*)" in sql:
        with pytest.raises(ServerError):
            here.write(sql)
        return
    outcome = here.write(sql)
    assert outcome.rows == rows
    assert (None if outcome.table is None else outcome.table.to_pylist()) == given


def test_second_writer_of_a_row_is_told_of_the_conflict(here: SqlHere) -> None:
    first, second = here.engine.session(), here.engine.session()
    for session in (first, second):
        here.write("BEGIN", session)
    here.write("UPDATE t SET x = 11 WHERE id = 1", first)
    with pytest.raises(TransactionError, match=r"(?i)conflict"):
        here.write("UPDATE t SET x = 12 WHERE id = 1", second)
    with pytest.raises(TransactionError, match=r"(?i)aborted"):
        here.write("UPDATE t SET x = 12 WHERE id = 2", second)
    here.write("ROLLBACK", second)
    here.write("COMMIT", first)
    here.write("UPDATE t SET x = 13 WHERE id = 1", second)
    assert contents(here) == [(1, 13), (2, 20)]
    for session in (first, second):
        session.close()


def test_what_a_transaction_wrote_is_its_own_until_the_end(here: SqlHere) -> None:
    session = here.engine.session()
    for end, expected in (("ROLLBACK", 2), ("COMMIT", 1)):
        here.write("BEGIN", session)
        here.write("DELETE FROM t WHERE id = 1", session)
        assert here.rows("SELECT count(*) FROM t", session) == [(1,)]
        assert here.rows("SELECT count(*) FROM t") == [(2,)]
        here.write(end, session)
        assert here.rows("SELECT count(*) FROM t") == [(expected,)]
    session.close()


def test_closed_session_is_rolled_back_and_its_rows_are_free(here: SqlHere) -> None:
    session = here.engine.session()
    here.write("BEGIN", session)
    here.write("CREATE TEMP TABLE own AS SELECT 1 AS x", session)
    here.write("UPDATE t SET x = 0", session)
    session.close()
    here.write("UPDATE t SET x = x + 1")
    assert contents(here) == [(1, 11), (2, 21)]
    with pytest.raises(ServerError, match="own does not exist"):
        here.rows("FROM own")


def test_transaction_with_a_running_statement_is_not_lost_by_its_end(here: SqlHere) -> None:
    session = here.engine.session()
    transaction = session.begin()
    here.write("UPDATE t SET x = 0", session, transaction=transaction)
    release = _held(transaction.seat)
    with pytest.raises(BusyError):
        session.end(transaction, commit=True)
    release()
    assert session.holds(transaction)
    session.end(transaction, commit=True)
    assert contents(here) == [(1, 0), (2, 0)]
    session.close()


def _held(seat: Any) -> Any:
    """Hold a seat from another thread; return what lets it go."""
    import threading

    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with seat.taken():
            taken.set()
            let_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()

    def release() -> None:
        let_go.set()
        thread.join()

    return release


def test_ingest_does_what_its_mode_says(here: SqlHere) -> None:
    assert ingest(here, Target("made"), id=[1, 2]) == 2
    with pytest.raises(InputError, match="is there already"):
        ingest(here, Target("made"), id=[3])
    assert ingest(here, Target("made", if_missing="fail", if_there="append"), id=[3]) == 1
    assert here.rows("SELECT list(id ORDER BY id) FROM made") == [([1, 2, 3],)]
    assert ingest(here, Target("made", if_there="replace"), id=[7]) == 1
    assert here.rows("FROM made") == [(7,)]
    with pytest.raises(NotFoundError):
        ingest(here, Target("other", if_missing="fail", if_there="append"), id=[3])
    with pytest.raises(ServerError):
        ingest(here, Target("t", if_missing="fail", if_there="append"), nope=[3])
    with pytest.raises(ServerError, match="Duplicate key"):
        ingest(here, Target("t", if_there="append"), id=[5, 1], x=[0, 0])
    assert contents(here) == [(1, 10), (2, 20)]


@pytest.mark.parametrize("name", ["trades", "__market_trades", "Metrics"])
def test_ingest_cannot_hide_what_is_the_servers(here: SqlHere, name: str) -> None:
    for temporary in (False, True):
        with pytest.raises(ServerError, match="is a name of the server's"):
            ingest(here, Target(name, temporary=temporary), id=[1])
