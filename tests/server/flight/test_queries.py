"""Statements, prepared or not, through the clients that people use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from flight_peer import Clocked
from pyarrow import flight

from tickflight.wire.actions import (
    ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    parse_action_result,
)
from tickflight.wire.append import DoPutPreparedStatementResult
from tickflight.wire.commands import CommandPreparedStatementQuery, CommandStatementQuery
from tickflight.wire.tickets import Query
from tickflight_server.schemas import STORED

START = datetime(1970, 1, 1) + timedelta(microseconds=1_790_000_000_000_000)
Do = Callable[..., list[bytes]]
Raises = Callable[..., Any]


def info(client: flight.FlightClient, sql: str, *options: Any) -> flight.FlightInfo:
    descriptor = flight.FlightDescriptor.for_command(CommandStatementQuery(sql).serialize())
    return client.get_flight_info(descriptor, *options)


def test_information_tells_the_schema_and_one_ticket_gives_the_rows(client: flight.FlightClient) -> None:
    found = info(client, "SELECT symbol, count(*) AS n FROM trades GROUP BY 1 ORDER BY 1")
    assert (found.total_records, len(found.endpoints), found.endpoints[0].locations) == (-1, 1, [])
    rows = client.do_get(found.endpoints[0].ticket).read_all()
    assert rows.schema == found.schema
    assert rows["n"].to_pylist() == [100_000] * 3


def test_schema_alone_is_told_too(client: flight.FlightClient) -> None:
    descriptor = flight.FlightDescriptor.for_command(CommandStatementQuery("FROM l2_book").serialize())
    assert client.get_schema(descriptor).schema == STORED["l2_book"].arrow()


@pytest.mark.parametrize(
    "sql",
    [
        "FROM trades WHERE symbol = 'nix'",
        "SELECT 1 AS x, 2 AS x, NULL AS y",
        "SHOW TABLES",
        "DESCRIBE trades",
        "EXPLAIN ANALYZE SELECT count(*) FROM trades",
        "SELECT * FROM system.parts",
        "SELECT 'x'::ENUM('x', 'y') AS e",
        "SELECT 'x'::ENUM('x', 'y') AS e WHERE 1 = 0",
        "SELECT ['x'::ENUM('x', 'y')] AS e FROM range(10000)",
        "SELECT 'x'::ENUM('x', 'y') AS e, 'text' AS made_up FROM range(10000)",
        "SELECT [{'a': 1.5::DECIMAL(9, 2), 'b': INTERVAL 1 DAY}] AS nested, 'x'::ENUM('x', 'y') AS e",
        "SELECT 1::HUGEINT AS h, '1'::JSON AS j, uuid() AS u, '101'::BIT AS b, TIME '10:00' AS t, [1]::INT[1] AS a",
    ],
)
def test_told_schema_is_the_streams(client: flight.FlightClient, sql: str) -> None:
    found = info(client, sql)
    assert client.do_get(found.endpoints[0].ticket).read_all().schema == found.schema


def test_ticket_can_be_fetched_again_and_sees_what_is_new(
    make_server: Callable[..., Any], make_trades: Callable[..., Any]
) -> None:
    running = make_server()
    with flight.FlightClient(running.address) as client:
        ticket = info(client, "SELECT count(*) AS n FROM trades WHERE symbol = 'BTC-USDT'").endpoints[0].ticket
        for expected in (0, 5, 10):
            assert client.do_get(ticket).read_all()["n"].to_pylist() == [expected]
            running.store.append("trades", make_trades(5)).result()


def test_query_takes_one_round_trip(client: flight.FlightClient) -> None:
    assert client.do_get(flight.Ticket(Query("SELECT 41 + 1 AS x").serialize())).read_all().to_pylist() == [{"x": 42}]


def test_ticket_of_another_user_is_refused(make_server: Callable[..., Any], raises_clean: Raises) -> None:
    running = make_server(auth={"tokens": {"ada": "a", "bob": "b"}})
    ada, bob = (flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + t)]) for t in (b"a", b"b"))
    with flight.FlightClient(running.address) as client, flight.FlightClient(running.address) as other:
        ticket = info(client, "SELECT 1", ada).endpoints[0].ticket
        with raises_clean(KeyError, "there is no such query result"):
            client.do_get(ticket, bob).read_all()
        assert other.do_get(ticket, ada).read_all().num_rows == 1


class Prepared:
    """A prepared statement by hand, for what drivers do differently."""

    def __init__(self, client: flight.FlightClient, do_action: Do, sql: str) -> None:
        (body,) = do_action(client, "CreatePreparedStatement", ActionCreatePreparedStatementRequest(sql))
        result = parse_action_result("CreatePreparedStatement", body)
        assert isinstance(result, ActionCreatePreparedStatementResult)
        self.client, self.do_action, self.result = client, do_action, result
        self.command = CommandPreparedStatementQuery(result.prepared_statement_handle)
        self.descriptor = flight.FlightDescriptor.for_command(self.command.serialize())

    def bind(self, *batches: pa.RecordBatch) -> None:
        writer, reader = self.client.do_put(self.descriptor, batches[0].schema)
        with writer:
            for batch in batches:
                writer.write_batch(batch)
            writer.done_writing()
            answer = DoPutPreparedStatementResult.parse(reader.read().to_pybytes())
            assert answer.prepared_statement_handle == self.result.prepared_statement_handle

    def rows(self) -> list[dict[str, Any]]:
        found = self.client.get_flight_info(self.descriptor)
        table = self.client.do_get(found.endpoints[0].ticket).read_all()
        assert table.schema == found.schema
        return table.to_pylist()

    def close(self) -> None:
        request = ActionClosePreparedStatementRequest(self.result.prepared_statement_handle)
        self.do_action(self.client, "ClosePreparedStatement", request)


@pytest.fixture
def prepare(client: flight.FlightClient, do_action: Do) -> Callable[[str], Prepared]:
    return lambda sql: Prepared(client, do_action, sql)


def row(names: list[str], *values: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([v]) for v in values], names=names)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT ?::INT - ?::INT AS x", ["0", "1"]),
        ("SELECT ?::INT - ?::INT AS x", ["1", "2"]),
        ("SELECT ?::INT - ?::INT AS x", ["", ""]),
        ("SELECT $1::INT - $2::INT AS x", ["0", "1"]),
        ("SELECT $first::INT - $second::INT AS x", ["first", "second"]),
        ("SELECT $first::INT - $second::INT AS x", ["0", "1"]),
    ],
)
def test_names_of_bound_columns_are_taken_as_drivers_send_them(
    prepare: Callable[[str], Prepared], sql: str, names: list[str]
) -> None:
    statement = prepare(sql)
    statement.bind(row(names, 7, 5))
    assert statement.rows() == [{"x": 2}]


def test_values_by_name_may_come_in_any_order(prepare: Callable[[str], Prepared]) -> None:
    statement = prepare("SELECT $first::INT - $second::INT AS x")
    statement.bind(row(["second", "first"], 5, 7))
    assert statement.rows() == [{"x": 2}]


def test_prepared_statement_tells_its_schemas(prepare: Callable[[str], Prepared]) -> None:
    result = prepare("SELECT price, ? AS x FROM trades WHERE symbol = ?").result
    parameters = pa.ipc.read_schema(pa.py_buffer(result.parameter_schema))
    columns = pa.ipc.read_schema(pa.py_buffer(result.dataset_schema))
    assert parameters.names == ["1", "2"]
    assert columns.names == ["price", "x"]
    assert columns.field("price").type == pa.float64()
    assert result.is_update is False


@pytest.mark.parametrize(
    ("sql", "value", "expected"),
    [
        ("SELECT quantile_cont(x, ?) AS q FROM range(3) r(x)", 0.5, [{"q": 1.0}]),
        ("SELECT * FROM unnest(?) u(x)", [1, 2], [{"x": 1}, {"x": 2}]),
        ("SELECT x FROM range(5) r(x) LIMIT ?", 1, [{"x": 0}]),
        ("SELECT x FROM range(?) r(x)", 1, [{"x": 0}]),
    ],
)
def test_parameter_that_may_not_be_null_is_prepared_all_the_same(
    prepare: Callable[[str], Prepared], sql: str, value: Any, expected: Any
) -> None:
    statement = prepare(sql)
    statement.bind(row(["0"], value))
    assert statement.rows() == expected


def test_statement_runs_again_with_other_values(prepare: Callable[[str], Prepared]) -> None:
    statement = prepare("SELECT count(*) AS n FROM trades WHERE symbol = ?")
    for symbol, n in (("BTC-USDT", 100_000), ("nix", 0), ("ETH-USDT", 100_000)):
        statement.bind(row(["0"], symbol))
        assert statement.rows() == [{"n": n}]
    assert statement.rows() == [{"n": 100_000}]


def test_several_rows_are_several_runs_in_one_result(prepare: Callable[[str], Prepared], served: Any) -> None:
    statement = prepare("SELECT symbol, count(*) AS n FROM trades WHERE symbol = ? GROUP BY 1")
    statement.bind(pa.record_batch({"0": ["BTC-USDT", "nix"]}), pa.record_batch({"0": ["SOL-USDT"]}))
    assert [r["symbol"] for r in statement.rows()] == ["BTC-USDT", "SOL-USDT"]
    assert served.free_places == 8


def test_failure_of_a_later_row_is_told_clean(
    prepare: Callable[[str], Prepared], served: Any, raises_clean: Raises, until: Callable[..., None]
) -> None:
    statement = prepare("SELECT CASE WHEN $a = 1 THEN 1 ELSE CAST('no' AS INT) END AS x")
    statement.bind(pa.record_batch({"a": [1, 2]}))
    with raises_clean(pa.ArrowInvalid, "Could not convert"):
        statement.rows()
    until(lambda: served.free_places == 8)


def test_dictionary_encoded_values_are_bound(prepare: Callable[[str], Prepared]) -> None:
    statement = prepare("SELECT ? AS x")
    statement.bind(pa.RecordBatch.from_arrays([pa.array(["a", "b"]).dictionary_encode()], names=["0"]))
    assert statement.rows() == [{"x": "a"}, {"x": "b"}]


@pytest.mark.parametrize(
    ("sql", "batch", "match"),
    [
        ("SELECT ?, ?", {"0": [1]}, "has 2 parameters, 1 values were given"),
        ("SELECT ?", {"0": [1], "1": [2]}, "has 1 parameters, 2 values were given"),
        ("SELECT 1", {"0": [1]}, "has 0 parameters, 1 values were given"),
        ("SELECT $a, $b", {"a": [1], "c": [2]}, r"no value is given for \$b"),
    ],
)
def test_wrong_values_are_refused(
    prepare: Callable[[str], Prepared], raises_clean: Raises, sql: str, batch: dict[str, Any], match: str
) -> None:
    statement = prepare(sql)
    with raises_clean(pa.ArrowInvalid, match):
        statement.bind(pa.record_batch(batch))


def test_statement_without_its_values_says_what_is_missing(
    prepare: Callable[[str], Prepared], raises_clean: Raises
) -> None:
    with raises_clean(pa.ArrowInvalid, r"no values are bound to \$1, \$2\. Hint: Bind a row first\."):
        prepare("SELECT ?, ?").rows()


def test_closed_statement_is_gone_and_closing_again_is_no_error(
    prepare: Callable[[str], Prepared], raises_clean: Raises
) -> None:
    statement = prepare("SELECT 1 AS x")
    assert statement.rows() == [{"x": 1}]
    statement.close()
    statement.close()
    with raises_clean(KeyError, "there is no such prepared statement, or it has ended"):
        statement.rows()


# --- through ADBC


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT count(*) FROM trades WHERE symbol = ?", ["BTC-USDT"], (100_000,)),
        ("SELECT count(*) FROM trades WHERE symbol = $1 AND price < $2", ["BTC-USDT", 10.0], (20,)),
        ("SELECT count(*) FROM trades WHERE timestamp < ?", [START + timedelta(seconds=10)], (30,)),
        (
            "SELECT count(*) FROM trades WHERE timestamp < ?",
            [(START + timedelta(seconds=10)).replace(tzinfo=UTC)],
            (30,),
        ),
        ("SELECT ?, ?, ?", [1, "it's; DROP", None], (1, "it's; DROP", None)),
    ],
)
def test_adbc_binds(cursor: adbc.Cursor, sql: str, parameters: list[Any], expected: tuple[Any, ...]) -> None:
    cursor.execute(sql, parameters)
    assert cursor.fetchone() == expected


def test_adbc_runs_one_statement_again_with_other_values(cursor: adbc.Cursor) -> None:
    found = []
    for n in range(5):
        cursor.execute("SELECT ?::INT + 1", [n])
        found.append(cursor.fetchone())
    assert found == [(1,), (2,), (3,), (4,), (5,)]


def test_adbc_tells_the_schema_of_a_statement(cursor: adbc.Cursor) -> None:
    assert cursor.adbc_execute_schema("FROM trades") == STORED["trades"].arrow()
    assert cursor.adbc_prepare("SELECT ?, ?").names == ["1", "2"]


@pytest.mark.parametrize(
    ("sql", "kind", "match"),
    [
        ("SELEC 1", adbc.ProgrammingError, r"(?s)INVALID_ARGUMENT.*LINE 1: SELEC 1"),
        ("SELECT pricee FROM trades", adbc.ProgrammingError, r"(?s)Candidate bindings: .*\^"),
        ("FROM tradez", adbc.ProgrammingError, 'Did you mean "trades"'),
        ("SELECT CAST(symbol AS INT) FROM trades", adbc.ProgrammingError, "Could not convert"),
        ("CREATE TABLE market.x AS SELECT 1", adbc.ProgrammingError, "UNAUTHORIZED.*cannot be changed"),
        ("FROM read_csv('/etc/passwd')", adbc.ProgrammingError, "not offered"),
        (" ", adbc.ProgrammingError, "is empty"),
        ("SELECT 1; SELECT 2", adbc.ProgrammingError, "2 statements"),
        (f"SELECT '{'x' * 10_000_000}'", adbc.ProgrammingError, "query.sql_bytes_max"),
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_adbc_gets_the_right_class_of_error(
    cursor: adbc.Cursor, served: Any, raises_clean: Raises, sql: str, kind: Any, match: str
) -> None:
    with raises_clean(kind, match) as caught:
        cursor.execute(sql)
        cursor.fetchall()
    assert str(served.store.root) not in str(caught.value)
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_market_tables_are_not_updated(cursor: adbc.Cursor, raises_clean: Raises) -> None:
    with raises_clean(adbc.ProgrammingError, "cannot be written by SQL"):
        cursor.executemany("INSERT INTO trades VALUES (?)", [(1,)])
    statement = cursor.adbc_statement
    statement.set_sql_query("DELETE FROM trades")
    with pytest.raises(Exception, match="cannot be written by SQL"):
        statement.execute_update()


def test_too_many_queries_are_told_to_come_later(
    make_server: Callable[..., Any], raises_clean: Raises, until: Callable[..., None]
) -> None:
    running = make_server(concurrent_max=2, queue_timeout_s=0.1)
    endless = flight.Ticket(Query("SELECT x FROM range(100000000000) r(x)").serialize())
    with flight.FlightClient(running.address) as client:
        streams = [client.do_get(endless) for _ in range(2)]
        for stream in streams:
            stream.read_chunk()
        with raises_clean(flight.FlightUnavailableError, "2 statements run already"):
            client.do_get(flight.Ticket(Query("SELECT 1").serialize())).read_all()
        for stream in streams:
            stream.cancel()
        streams.clear()
        del stream
        until(lambda: running.free_places == 2)
        assert client.do_get(flight.Ticket(Query("SELECT 1").serialize())).read_all().num_rows == 1


def test_queries_at_once_do_not_mix(served: Any) -> None:
    failures: list[Any] = []

    def run(number: int) -> None:
        with adbc.connect(served.address, autocommit=True) as connection, connection.cursor() as cursor:
            for i in range(5):
                cursor.execute("SELECT ?::INT, count(*) FROM trades WHERE seq <= ?", [number, 1000 * i])
                if cursor.fetchone() != (number, 1000 * i):
                    failures.append(number)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def read_all(cursor: adbc.Cursor) -> pa.Table:
    handle, _ = cursor.adbc_statement.execute_query()
    return pa.RecordBatchReader._import_from_c(handle.address).read_all()


def test_adbc_cancels_a_query_that_runs(served: Any, until: Callable[..., None]) -> None:
    with adbc.connect(served.address, autocommit=True) as connection, connection.cursor() as cursor:
        canceller = threading.Timer(0.3, cursor.adbc_cancel)
        canceller.start()
        cursor.adbc_statement.set_sql_query("SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1")
        with pytest.raises(Exception, match=r"(?i)cancel"):
            read_all(cursor)
        canceller.join()
        until(lambda: served.free_places == 8)


@pytest.fixture
def transactional(served: Any) -> Iterator[adbc.Connection]:
    with adbc.connect(served.address) as connection:
        yield connection


def test_transactions_of_the_dbapi_begin_and_end_without_a_warning(transactional: adbc.Connection) -> None:
    with transactional.cursor() as cursor:
        for end in (transactional.commit, transactional.rollback, transactional.commit):
            cursor.execute("SELECT count(*) FROM trades")
            assert cursor.fetchone() == (300_000,)
            end()


def test_part_of_a_scan_that_was_read_can_be_read_again_for_a_minute(
    tmp_path: Path, make_trades: Callable[..., pa.RecordBatch], until: Callable[..., None]
) -> None:
    """After it, the server holds its rows no longer; parts that nobody has read stay."""
    running = Clocked(tmp_path / "lake", query={"share_rows": 10})
    try:
        for symbol in ("A", "B"):
            running.store.append("trades", make_trades(20, symbol)).result()
        with flight.FlightClient(running.address) as client:
            info = client.get_flight_info(
                flight.FlightDescriptor.for_command(CommandStatementQuery("SELECT symbol FROM trades").serialize())
            )
            read, unread = (e.ticket for e in info.endpoints)
            assert [client.do_get(read).read_all().num_rows for _ in range(2)] == [20, 20]
            running.clock.us += 61_000_000

            def is_gone() -> bool:
                try:
                    client.do_get(read).read_all()
                except pa.ArrowKeyError:
                    return True
                return False

            until(is_gone)
            assert client.do_get(unread).read_all().num_rows == 20
    finally:
        running.stop()
