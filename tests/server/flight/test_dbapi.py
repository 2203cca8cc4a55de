"""What PEP 249 asks of a connection and a cursor, through the ADBC driver's ``dbapi``, against the workspace."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest

ROWS = [(1, "a"), (2, "b"), (3, None), (4, "d")]


@pytest.fixture
def connection(served: Any) -> Iterator[adbc.Connection]:
    with adbc.connect(served.address) as made:
        with made.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE booze (id INTEGER, name VARCHAR)")
        made.commit()
        yield made


@pytest.fixture
def cursor(connection: adbc.Connection) -> Iterator[adbc.Cursor]:
    with connection.cursor() as made:
        yield made


@pytest.fixture
def filled(connection: adbc.Connection, cursor: adbc.Cursor) -> adbc.Cursor:
    cursor.executemany("INSERT INTO booze VALUES (?, ?)", ROWS)
    connection.commit()
    cursor.execute("SELECT * FROM booze ORDER BY id")
    return cursor


def test_module_says_what_it_is() -> None:
    assert adbc.apilevel == "2.0"
    assert adbc.paramstyle == "qmark"
    errors = (adbc.DataError, adbc.OperationalError, adbc.IntegrityError, adbc.InternalError, adbc.ProgrammingError)
    assert all(issubclass(error, adbc.DatabaseError) for error in errors)


def test_description_names_the_columns_of_a_query_and_nothing_of_an_update(cursor: adbc.Cursor) -> None:
    cursor.execute("SELECT * FROM booze")
    assert cursor.description is not None
    assert [(d[0], len(d)) for d in cursor.description] == [("id", 7), ("name", 7)]
    cursor.execute("INSERT INTO booze VALUES (1, 'x')")
    assert not cursor.description


def test_rowcount_is_what_a_statement_changed(cursor: adbc.Cursor) -> None:
    counts = []
    for sql in (
        "CREATE OR REPLACE TABLE counted (id INTEGER)",
        "INSERT INTO counted VALUES (1), (2), (3)",
        "UPDATE counted SET id = 0 WHERE id > 1",
        "DELETE FROM counted",
        "SELECT * FROM counted",
    ):
        cursor.execute(sql)
        counts.append(cursor.rowcount)
    assert counts == [0, 3, 2, 3, -1]


def test_executemany_counts_all_rows(cursor: adbc.Cursor) -> None:
    cursor.executemany("INSERT INTO booze VALUES (?, ?)", ROWS)
    assert cursor.rowcount == len(ROWS)


def test_executemany_is_all_or_nothing(connection: adbc.Connection, cursor: adbc.Cursor) -> None:
    with pytest.raises(adbc.ProgrammingError):
        cursor.executemany("INSERT INTO booze VALUES (?::INTEGER, 'x')", [("1",), ("2",), ("nought",)])
    connection.rollback()
    cursor.execute("SELECT count(*) FROM booze")
    assert cursor.fetchone() == (0,)


def test_fetchone_ends_with_none(filled: adbc.Cursor) -> None:
    assert [filled.fetchone() for _ in range(5)] == [*ROWS, None]


def test_fetchmany_takes_what_is_left(filled: adbc.Cursor) -> None:
    assert [filled.fetchmany(3), filled.fetchmany(3), filled.fetchmany(3)] == [ROWS[:3], ROWS[3:], []]
    filled.execute("SELECT * FROM booze ORDER BY id")
    assert len(filled.fetchmany()) == filled.arraysize == 1


def test_fetchall_after_fetchone_gives_the_rest(filled: adbc.Cursor) -> None:
    assert filled.fetchone() == ROWS[0]
    assert filled.fetchall() == ROWS[1:]
    assert filled.fetchall() == []


def test_cursor_is_an_iterator(filled: adbc.Cursor) -> None:
    assert list(filled) == ROWS


def test_fetching_without_a_result_is_an_error(connection: adbc.Connection, cursor: adbc.Cursor) -> None:
    with pytest.raises(adbc.Error):
        cursor.fetchone()


def test_closed_things_are_not_used(connection: adbc.Connection) -> None:
    cursor = connection.cursor()
    cursor.close()
    with pytest.raises(adbc.Error):
        cursor.execute("SELECT 1")


def test_parameters_are_values_and_never_sql(cursor: adbc.Cursor) -> None:
    nasty = "'; DROP TABLE booze; --"
    cursor.execute("INSERT INTO booze VALUES (?, ?)", (1, nasty))
    cursor.execute("SELECT id FROM booze WHERE name = ?", (nasty,))
    assert cursor.fetchall() == [(1,)]


def test_null_goes_in_and_comes_out(cursor: adbc.Cursor) -> None:
    cursor.execute("INSERT INTO booze VALUES (?, ?)", (None, None))
    cursor.execute("SELECT * FROM booze")
    assert cursor.fetchall() == [(None, None)]


def test_python_values_come_back_as_they_were(cursor: adbc.Cursor) -> None:
    values = (True, 2**40, 1.5, "☃", b"\0\xff", datetime(2023, 11, 14, 22, 13, 20, 5))
    cursor.execute("SELECT ?::BOOLEAN, ?::BIGINT, ?::DOUBLE, ?, ?::BLOB, ?::TIMESTAMP", values)
    assert cursor.fetchone() == values


def test_rollback_takes_back_and_commit_keeps(served: Any, connection: adbc.Connection, cursor: adbc.Cursor) -> None:
    cursor.execute("INSERT INTO booze VALUES (1, 'gone')")
    connection.rollback()
    cursor.execute("INSERT INTO booze VALUES (2, 'kept')")
    connection.commit()
    with adbc.connect(served.address, autocommit=True) as other, other.cursor() as elsewhere:
        elsewhere.execute("FROM booze")
        assert elsewhere.fetchall() == [(2, "kept")]


def test_what_is_not_committed_is_nobody_elses(served: Any, connection: adbc.Connection, cursor: adbc.Cursor) -> None:
    cursor.execute("INSERT INTO booze VALUES (1, 'mine')")
    with adbc.connect(served.address, autocommit=True) as other, other.cursor() as elsewhere:
        elsewhere.execute("FROM booze")
        assert elsewhere.fetchall() == []
    cursor.execute("FROM booze")
    assert cursor.fetchall() == [(1, "mine")]


def test_closing_without_commit_rolls_back(served: Any, connection: adbc.Connection) -> None:
    with adbc.connect(served.address) as made, made.cursor() as cursor:
        cursor.execute("INSERT INTO booze VALUES (1, 'gone')")
    with adbc.connect(served.address, autocommit=True) as other, other.cursor() as elsewhere:
        elsewhere.execute("FROM booze")
        assert elsewhere.fetchall() == []


def test_statement_prepared_before_a_commit_runs_in_the_next_transaction(
    served: Any, connection: adbc.Connection, cursor: adbc.Cursor
) -> None:
    insert = "INSERT INTO booze VALUES (?, 'again')"
    cursor.execute(insert, (1,))
    connection.commit()
    cursor.execute(insert, (2,))  # the driver keeps the statement, and the ended transaction's id with it
    connection.rollback()
    cursor.execute("SELECT id FROM booze")
    assert cursor.fetchall() == [(1,)]


def test_committing_an_aborted_transaction_is_no_success(connection: adbc.Connection, cursor: adbc.Cursor) -> None:
    cursor.execute("CREATE OR REPLACE TABLE strict (id INTEGER PRIMARY KEY)")
    cursor.execute("INSERT INTO strict VALUES (1)")
    with pytest.raises(adbc.ProgrammingError, match="Constraint Error"):
        cursor.execute("INSERT INTO strict VALUES (1)")
    with pytest.raises(adbc.OperationalError, match="transaction is aborted"):
        connection.commit()


def test_errors_are_of_the_right_class(cursor: adbc.Cursor) -> None:
    for sql, kind in (
        ("SELEC 1", adbc.ProgrammingError),
        ("FROM nowhere_at_all", adbc.ProgrammingError),
        ("DROP SCHEMA market CASCADE", adbc.ProgrammingError),
        ("SAVEPOINT s", adbc.ProgrammingError),
        ("SELECT 1; SELECT 2", adbc.Error),
    ):
        with pytest.raises(kind):
            cursor.execute(sql)
