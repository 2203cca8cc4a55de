"""Pins over the wire: what a call under a snapshot sees, from whichever client, and what it is told when it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire import commands as c
from tickflight.wire.actions import CreatePin, Health, HealthComponent, HealthResult, Pin, ReleasePin, RenewPin
from tickflight.wire.tickets import Query

OPTION = "adbc.flight.sql.rpc.call_header.x-tickflight-snapshot"
COUNT = "SELECT count(*) FROM trades"
Do = Callable[..., list[bytes]]
Raises = Callable[..., Any]


@pytest.fixture
def running(make_server: Callable[..., Any], make_trades: Callable[..., pa.RecordBatch]) -> Any:
    """A server with ten trades."""
    server = make_server(concurrent_max=8, queue_timeout_s=1)
    server.store.append("trades", make_trades(10)).result()
    return server


@pytest.fixture
def client(running: Any) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(running.address) as made:
        yield made


@pytest.fixture
def pin(client: flight.FlightClient, do_action: Do) -> Pin:
    (answer,) = do_action(client, "tickflight.pin", CreatePin(3600))
    return Pin.parse(answer)


@pytest.fixture
def more(running: Any, pin: Pin, make_trades: Callable[..., pa.RecordBatch]) -> None:
    """Five rows that came after the pin, some of them in parts with those before."""
    running.store.append("trades", make_trades(3, "ETH-USDT")).result()
    running.store.flush()
    running.store.append("trades", make_trades(2, "ETH-USDT")).result()


def under(name: str) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=[(b"x-tickflight-snapshot", name.encode())])


def statement(sql: str) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(c.CommandStatementQuery(sql).serialize())


def test_pin_is_every_tables_last_row(running: Any, pin: Pin) -> None:
    assert pin.cuts == {name: table.state.last_seq for name, table in running.store.tables.items()}
    assert (pin.cuts["trades"], pin.cuts["ticker"]) == (10, 0)
    assert pin.expires_us - pin.created_us == 3_600_000_000


@pytest.mark.parametrize("where", ["database", "connection", "statement"])
@pytest.mark.parametrize("parameters", [None, ["BTC-USDT"]])
def test_adbc_sees_the_snapshot(running: Any, pin: Pin, more: None, where: str, parameters: Any) -> None:
    options = {OPTION: pin.id}
    sql = COUNT if parameters is None else f"{COUNT} WHERE symbol = ? OR true"
    with (
        adbc.connect(
            running.address,
            db_kwargs=options if where == "database" else None,
            conn_kwargs=options if where == "connection" else None,
            autocommit=True,
        ) as connection,
        connection.cursor() as cursor,
    ):
        if where == "statement":
            cursor.adbc_statement.set_options(**options)
        cursor.execute(sql, parameters)
        assert cursor.fetchone() == (10,)
        cursor.execute("SELECT count(*) FROM trades t AT (VERSION => ?) WHERE symbol = ?", [0, "BTC-USDT"])
        assert cursor.fetchone() == (10,)
        # a system table is live
        cursor.execute("SELECT last_seq FROM system.tables WHERE \"table\" = 'trades'")
        assert cursor.fetchone() == (15,)


def test_adbc_without_the_option_sees_the_newest_rows(running: Any, more: None) -> None:
    with adbc.connect(running.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(COUNT)
        assert cursor.fetchone() == (15,)


def test_prepared_statement_sees_what_its_last_plan_was_made_under(running: Any, pin: Pin, more: None) -> None:
    with adbc.connect(running.address, autocommit=True) as connection, connection.cursor() as cursor:
        sql = f"{COUNT} WHERE symbol >= ?"
        for option, rows in (("", 15), (pin.id, 10), ("", 15)):
            cursor.adbc_statement.set_options(**{OPTION: option})
            cursor.execute(sql, ["A"])
            assert cursor.fetchone() == (rows,)


def test_partitions_are_read_under_the_snapshot_they_were_made_under(running: Any, pin: Pin, more: None) -> None:
    with (
        adbc.connect(running.address, conn_kwargs={OPTION: pin.id}, autocommit=True) as connection,
        adbc.connect(running.address, autocommit=True) as other,
        connection.cursor() as cursor,
        other.cursor() as reader,
    ):
        partitions, _ = cursor.adbc_execute_partitions("SELECT seq FROM trades")
        for partition in partitions:
            reader.adbc_read_partition(partition)
            assert reader.fetch_arrow_table().num_rows == 10


def test_rows_of_values_all_see_the_snapshot(running: Any, pin: Pin, more: None) -> None:
    with adbc.connect(running.address, conn_kwargs={OPTION: pin.id}, autocommit=True) as connection:
        prepared = connection.cursor()
        prepared.adbc_statement.set_sql_query(f"{COUNT} WHERE symbol >= ?")
        prepared.adbc_statement.prepare()
        prepared.adbc_statement.bind(pa.record_batch({"0": ["A", "B", "C"]}))
        stream, _ = prepared.adbc_statement.execute_query()
        assert pa.RecordBatchReader.from_stream(stream).read_all().column(0).to_pylist() == [10, 10, 0]
        prepared.close()


def test_ticket_keeps_the_snapshot(client: flight.FlightClient, pin: Pin, more: None) -> None:
    found = client.get_flight_info(statement(COUNT), under(pin.id))
    ticket = found.endpoints[0].ticket
    for options in (under(pin.id), flight.FlightCallOptions()):
        assert client.do_get(ticket, options).read_all().column(0).to_pylist() == [10]


def test_ticket_is_not_fetched_under_another_snapshot(
    client: flight.FlightClient, pin: Pin, raises_clean: Raises, do_action: Do
) -> None:
    other = Pin.parse(do_action(client, "tickflight.pin", CreatePin(60))[0])
    pinned = client.get_flight_info(statement(COUNT), under(pin.id)).endpoints[0].ticket
    newest = client.get_flight_info(statement(COUNT)).endpoints[0].ticket
    for ticket, asked in ((pinned, f"under snapshot {pin.id}"), (newest, "without a snapshot")):
        with raises_clean(pa.ArrowInvalid, match=f"asked for {asked}"):
            client.do_get(ticket, under(other.id)).read_all()


def test_query_in_one_call_sees_the_snapshot(client: flight.FlightClient, pin: Pin, more: None) -> None:
    ticket = flight.Ticket(Query(COUNT).serialize())
    assert client.do_get(ticket, under(pin.id)).read_all().column(0).to_pylist() == [10]
    assert client.do_get(ticket, under(f" {pin.id} ")).read_all().column(0).to_pylist() == [10]
    assert client.do_get(ticket).read_all().column(0).to_pylist() == [15]


@pytest.mark.parametrize("gone", ["unknown", "released", "ended"])
def test_snapshot_that_is_gone_is_said_so_in_every_call(
    running: Any, client: flight.FlightClient, pin: Pin, do_action: Do, raises_clean: Raises, gone: str
) -> None:
    ticket = client.get_flight_info(statement(COUNT), under(pin.id)).endpoints[0].ticket
    name = pin.id
    if gone == "released":
        assert do_action(client, "tickflight.release_pin", ReleasePin(name)) == []
        assert do_action(client, "tickflight.release_pin", ReleasePin(name)) == []
    elif gone == "ended":
        # the engine's clock is the machine's: the pin is made to have ended
        running.store.pins._pins = {}
    else:
        name = "0" * 24
    said = {"match": f"there is no snapshot '{name}', or it has ended. Hint: Make one with action tickflight.pin"}
    with raises_clean(pa.ArrowKeyError, **said):
        client.get_flight_info(statement(COUNT), under(name))
    with raises_clean(pa.ArrowKeyError, **said):
        client.get_schema(statement(COUNT), under(name))
    with raises_clean(pa.ArrowKeyError, **said):
        client.do_get(flight.Ticket(Query(COUNT).serialize()), under(name)).read_all()
    with raises_clean(pa.ArrowKeyError, **said):
        do_action(client, "tickflight.renew_pin", RenewPin(name, 5))
    if gone != "unknown":
        with raises_clean(pa.ArrowKeyError, **said):
            client.do_get(ticket).read_all()
    with (
        adbc.connect(running.address, conn_kwargs={OPTION: name}, autocommit=True) as connection,
        connection.cursor() as cursor,
        pytest.raises(adbc.ProgrammingError, match=r"NOT_FOUND.*there is no snapshot"),
    ):
        cursor.execute(COUNT)


def test_renewed_pin_has_its_new_end(client: flight.FlightClient, pin: Pin, do_action: Do) -> None:
    (answer,) = do_action(client, "tickflight.renew_pin", RenewPin(pin.id, 7200))
    renewed = Pin.parse(answer)
    assert (renewed.id, renewed.cuts) == (pin.id, pin.cuts)
    assert renewed.expires_us >= pin.expires_us + 3_600_000_000


def test_wrong_length_of_a_pin_is_refused(client: flight.FlightClient, do_action: Do, raises_clean: Raises) -> None:
    for seconds in (0, -5):
        with raises_clean(pa.ArrowInvalid, match="1 second or more"):
            do_action(client, "tickflight.pin", CreatePin(seconds))
    with raises_clean(pa.ArrowInvalid, match="lakehouse.pin_seconds_max"):
        do_action(client, "tickflight.pin", CreatePin(2_592_001))


def test_pins_are_listed(client: flight.FlightClient, pin: Pin) -> None:
    sql = "SELECT id, epoch_us(created) c, epoch_us(expires) e, cuts->>'trades' AS t FROM system.pins"
    rows = client.do_get(flight.Ticket(Query(sql).serialize())).read_all().to_pylist()
    assert rows == [{"id": pin.id, "c": pin.created_us, "e": pin.expires_us, "t": "10"}]


def test_version_that_is_gone_is_said_so(running: Any, more: None) -> None:
    with adbc.connect(running.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM trades AT (VERSION => 0)")
        assert cursor.fetchone() == (13,)
        cursor.execute("SELECT count(*) FROM trades AT (VERSION => ?)", [0])
        assert cursor.fetchone() == (13,)
        cursor.adbc_prepare("SELECT symbol FROM trades AT (TIMESTAMP => ?)")
        with pytest.raises(adbc.ProgrammingError, match=r"NOT_FOUND.*no version 7\. Hint: Versions 0 to 0 are kept"):
            cursor.execute("SELECT count(*) FROM trades AT (VERSION => ?)", [7])
        with pytest.raises(adbc.ProgrammingError, match=r"INVALID_ARGUMENT.*no number of a version"):
            cursor.execute("SELECT count(*) FROM trades AT (VERSION => ?)", ["new"])


def test_health_is_told_by_action_and_by_table(
    running: Any, client: flight.FlightClient, do_action: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> HealthResult:
        return HealthResult.parse(do_action(client, "tickflight.health", Health())[0])

    rows: list[Any] = []
    monkeypatch.setattr(running.store.health, "conditions", lambda: iter(rows))
    assert ask() == HealthResult("ok", ())
    for component, state, since_us, detail in (("log", "ok", 4, ""), ("flush", "degraded", 5, "disk is full")):
        rows.append(
            SimpleNamespace(component=component, state=state, since_us=since_us, detail=detail, hint="Free some.")
        )
    monkeypatch.setattr(type(running.store.health), "state", "degraded")
    told = ask()
    assert told.state == "degraded"
    assert told.components[1] == HealthComponent("flush", "degraded", 5, "disk is full", "Free some.")
    sql = "SELECT component, state, epoch_us(since) since FROM system.health"
    assert client.do_get(flight.Ticket(Query(sql).serialize())).read_all().to_pylist() == [
        {"component": "log", "state": "ok", "since": 4},
        {"component": "flush", "state": "degraded", "since": 5},
    ]
