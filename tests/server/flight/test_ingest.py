"""What is acknowledged is durable and visible, in order, once; what is refused is said batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire.append import AppendBatch, AppendResult
from tickflight.wire.commands import AppendStream
from tickflight.wire.tickets import Query
from tickflight_server.store import Ack

Make = Callable[..., pa.RecordBatch]
Raises = Callable[..., Any]


@pytest.fixture
def running(make_server: Callable[..., Any]) -> Any:
    return make_server()


@pytest.fixture
def client(running: Any) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(running.address) as made:
        yield made


class Stream:
    """An append stream by hand."""

    def __init__(
        self,
        client: flight.FlightClient,
        schema: pa.Schema,
        *,
        table: str = "trades",
        producer: bytes = b"p",
        schema_name: str = "market",
    ) -> None:
        descriptor = flight.FlightDescriptor.for_command(AppendStream(table, schema_name, producer).serialize())
        self.writer, self.reader = client.do_put(descriptor, schema)

    def send(self, batch: pa.RecordBatch, sequence: int) -> None:
        self.writer.write_with_metadata(batch, AppendBatch(sequence).serialize())

    def answer(self) -> AppendResult:
        return AppendResult.parse(self.reader.read().to_pybytes())

    def end(self) -> None:
        self.writer.done_writing()
        assert self.reader.read() is None
        self.writer.close()


def ask(client: flight.FlightClient, sql: str) -> list[dict[str, Any]]:
    return client.do_get(flight.Ticket(Query(sql).serialize())).read_all().to_pylist()


def test_answers_come_in_order_one_a_batch(client: flight.FlightClient, make_trades: Make) -> None:
    stream = Stream(client, make_trades(1).schema)
    for sequence in range(1, 301):
        stream.send(make_trades(3), sequence)
    acks = [stream.answer().ack for _ in range(300)]
    assert [a.sequence for a in acks if a] == list(range(1, 301))
    assert [a.first_seq for a in acks if a] == list(range(1, 901, 3))
    assert all(a and a.rows == 3 and not a.rejected and not a.duplicate for a in acks)
    stream.end()


def test_acknowledged_rows_are_visible(client: flight.FlightClient, make_trades: Make) -> None:
    stream = Stream(client, make_trades(1).schema)
    for sequence in range(1, 6):
        stream.send(make_trades(2), sequence)
        assert stream.answer().ack
        assert ask(client, "SELECT count(*) AS n FROM trades") == [{"n": 2 * sequence}]
    stream.end()


def test_rows_that_were_there_are_counted_in_the_answer(
    running: Any, client: flight.FlightClient, make_trades: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: Future[Ack] = Future()
    stored.set_result(Ack(first_seq=1, rows=2, repeated=1))
    monkeypatch.setattr(running.store, "append", lambda *_, **__: stored)
    stream = Stream(client, make_trades(1).schema)
    stream.send(make_trades(3), 1)
    ack = stream.answer().ack
    assert ack
    assert (ack.rows, ack.rejected, ack.repeated) == (2, 0, 1)
    stream.end()


def test_batch_that_is_sent_again_is_known(client: flight.FlightClient, make_trades: Make) -> None:
    for number in range(3):
        stream = Stream(client, make_trades(1).schema, producer=b"again")
        for sequence in (1, 2):
            stream.send(make_trades(2), sequence)
            ack = stream.answer().ack
            assert ack
            assert ack.duplicate is (number > 0)
            assert ack.sequence == sequence
        stream.end()
    assert ask(client, "SELECT count(*) AS n FROM trades") == [{"n": 4}]


def test_another_producer_counts_for_itself(client: flight.FlightClient, make_trades: Make) -> None:
    for producer in (b"one", b"two", b""):
        stream = Stream(client, make_trades(1).schema, producer=producer)
        stream.send(make_trades(2), 1)
        ack = stream.answer().ack
        assert ack
        assert not ack.duplicate
        stream.end()
    assert ask(client, "SELECT count(*) AS n FROM trades") == [{"n": 6}]


def test_rows_that_do_not_fit_are_set_aside_and_counted(client: flight.FlightClient, make_trades: Make) -> None:
    batch = make_trades(3)
    batch = batch.set_column(1, "symbol", pa.array(["BTC-USDT", None, ""]))
    stream = Stream(client, batch.schema)
    stream.send(batch, 1)
    ack = stream.answer().ack
    assert ack
    assert (ack.rows, ack.rejected) == (1, 2)
    stream.end()
    assert [r["reason"] for r in ask(client, "SELECT reason FROM system.rejected ORDER BY seq")] == [
        "column 'symbol' is null",
        "column 'symbol' is empty or holds a zero character",
    ]


def test_refused_batch_is_answered_and_the_stream_goes_on(client: flight.FlightClient, make_trades: Make) -> None:
    wrong = make_trades(1).rename_columns(["exchange", "symbol", "side", "amount", "prize", "timestamp"])
    stream = Stream(client, wrong.schema)
    for sequence in (1, 2):
        stream.send(wrong, sequence)
        error = stream.answer().error
        assert error
        assert (error.sequence, error.code) == (sequence, "rows")
        assert "no column 'prize'" in error.message
        assert "price" in error.hint
    stream.end()
    assert ask(client, "SELECT count(*) AS n FROM trades") == [{"n": 0}]


def test_too_large_batch_is_answered_and_the_stream_goes_on(client: flight.FlightClient, make_trades: Make) -> None:
    fat = make_trades(2).append_column("id", pa.array(["x" * 40_000_000] * 2))
    thin = make_trades(2).append_column("id", pa.array(["x", "y"]))
    stream = Stream(client, fat.schema)
    stream.send(fat, 1)
    stream.send(thin, 2)
    error, ack = stream.answer().error, stream.answer().ack
    assert error
    assert error.code == "too_large"
    assert "flight.message_bytes_max" in error.message
    assert ack
    assert ack.rows == 2
    stream.end()


def test_empty_batch_is_acknowledged(client: flight.FlightClient, make_trades: Make) -> None:
    stream = Stream(client, make_trades(1).schema)
    stream.send(make_trades(1).slice(0, 0), 1)
    ack = stream.answer().ack
    assert ack
    assert ack.rows == 0
    stream.end()


def test_dictionaries_may_change_from_batch_to_batch(client: flight.FlightClient, make_trades: Make) -> None:
    stream = None
    for number in range(20):
        batch = make_trades(10)
        names = pa.array([f"S{number}-{i % (number + 1)}" for i in range(10)]).dictionary_encode()
        batch = batch.set_column(1, "symbol", names)
        stream = stream or Stream(client, batch.schema)
        stream.send(batch, number + 1)
    assert stream
    for _ in range(20):
        assert stream.answer().ack
    stream.end()
    assert ask(client, "SELECT count(*) AS n, count(DISTINCT symbol) AS s FROM trades") == [
        {"n": 200, "s": sum(min(i, 10) for i in range(1, 21))}
    ]


@pytest.mark.parametrize("sequence", [0, 2**63, 2**64 - 1])
def test_sequence_that_could_pass_for_an_old_one_ends_the_stream(
    client: flight.FlightClient, make_trades: Make, raises_clean: Raises, sequence: int
) -> None:
    stream = Stream(client, make_trades(1).schema)
    stream.send(make_trades(1), sequence)
    with raises_clean(pa.ArrowInvalid, f"a batch has sequence {sequence}. Hint: Count from 1|without its sequence"):
        stream.end()


def test_batch_without_sequence_ends_the_stream_after_its_answers(
    client: flight.FlightClient, make_trades: Make, raises_clean: Raises
) -> None:
    stream = Stream(client, make_trades(1).schema)
    stream.send(make_trades(1), 1)
    stream.writer.write_batch(make_trades(1))
    assert stream.answer().ack
    with raises_clean(pa.ArrowInvalid, "a batch came without its sequence. Hint: Send AppendBatch as app_metadata"):
        stream.end()
    assert ask(client, "SELECT count(*) AS n FROM trades") == [{"n": 1}]


def test_junk_for_metadata_ends_the_stream(
    client: flight.FlightClient, make_trades: Make, raises_clean: Raises
) -> None:
    stream = Stream(client, make_trades(1).schema)
    stream.writer.write_with_metadata(make_trades(1), b"\xff\xff")
    with raises_clean(pa.ArrowInvalid, "AppendBatch"):
        stream.end()


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"table": "nix"}, KeyError, r"no table market\.nix\. Hint: Stored tables are trades"),
        ({"schema_name": "system"}, KeyError, "no table system.trades"),
        ({"table": "parts", "schema_name": "system"}, KeyError, "no table system.parts"),
        ({"producer": b"x" * 65}, pa.ArrowInvalid, "the producer's id has 65 bytes, at most 64"),
    ],
)
def test_stream_to_nowhere_is_refused(
    client: flight.FlightClient, make_trades: Make, raises_clean: Raises, options: Any, kind: Any, match: str
) -> None:
    stream = Stream(client, make_trades(1).schema, **options)
    with raises_clean(kind, match):
        stream.end()


def test_client_that_vanishes_leaves_the_server_well(
    running: Any, client: flight.FlightClient, make_trades: Make, until: Callable[..., None]
) -> None:
    for number in range(5):
        other = flight.FlightClient(running.address)
        stream = Stream(other, make_trades(1).schema, producer=b"gone%d" % number)
        stream.send(make_trades(1), 1)
        assert stream.answer().ack
        stream.send(make_trades(1), 2)
        del stream
        other.close()
    until(lambda: 5 <= ask(client, "SELECT count(*) AS n FROM trades")[0]["n"] <= 10)
    stream = Stream(client, make_trades(1).schema)
    stream.send(make_trades(1), 1)
    assert stream.answer().ack
    stream.end()


# --- bulk ingest, as ADBC does it


@pytest.fixture
def cursor(running: Any) -> Iterator[adbc.Cursor]:
    with adbc.connect(running.address, autocommit=True) as connection, connection.cursor() as made:
        yield made


def test_adbc_ingest_appends(cursor: adbc.Cursor, make_trades: Make) -> None:
    for mode in ("append", "create_append"):
        assert cursor.adbc_ingest("trades", make_trades(10), mode=mode) == 10
    table = pa.Table.from_batches([make_trades(10), make_trades(5, "ETH-USDT")])
    assert cursor.adbc_ingest("trades", table, mode="append", db_schema_name="market") == 15
    cursor.execute("SELECT symbol, count(*) FROM trades GROUP BY ALL ORDER BY ALL")
    assert cursor.fetchall() == [("BTC-USDT", 30), ("ETH-USDT", 5)]


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_adbc_cannot_create_or_replace_a_table(
    cursor: adbc.Cursor, make_trades: Make, raises_clean: Raises, mode: str
) -> None:
    with raises_clean(adbc.ProgrammingError, 'its rows can only be added to. Hint: Use mode="append"'):
        cursor.adbc_ingest("trades", make_trades(1), mode=mode)


@pytest.mark.parametrize(
    ("table", "options", "match"),
    [
        ("nix", {"db_schema_name": "market"}, r"no table market\.nix, and none can be made there. Hint: Append to one"),
        ("nix", {}, r'no table "tickflight"\."workspace"\."nix"'),
        ("trades", {"db_schema_name": "workspace"}, r'no table "tickflight"\."workspace"\."trades"'),
        ("parts", {"db_schema_name": "system"}, "schema system is the server's"),
        ("trades", {"temporary": True}, r'no table "temp"\."main"\."trades"'),
    ],
)
def test_adbc_ingest_into_nothing_is_refused(
    cursor: adbc.Cursor, make_trades: Make, raises_clean: Raises, table: str, options: Any, match: str
) -> None:
    with raises_clean((adbc.ProgrammingError, adbc.NotSupportedError), match):
        cursor.adbc_ingest(table, make_trades(1), mode="append", **options)


def test_adbc_ingest_of_wrong_columns_names_them(cursor: adbc.Cursor, make_trades: Make, raises_clean: Raises) -> None:
    wrong = make_trades(1).append_column("nix", pa.array([1]))
    with raises_clean(
        adbc.ProgrammingError, "table trades has no column 'nix'. 0 rows before it are stored. Hint: Its"
    ):
        cursor.adbc_ingest("trades", wrong, mode="append")
