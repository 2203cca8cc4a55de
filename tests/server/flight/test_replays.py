"""A replay is a plain DoGet of any Flight client: rows in order of time, of one moment, and gone when its caller is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire.actions import CreatePin, Pin, ReleasePin
from tickflight.wire.streams import Replay, Selection

START_US = 1_790_000_000_000_000
ORDER = [("timestamp", "ascending"), ("receipt_timestamp", "ascending"), ("seq", "ascending")]


def ticket(table: str = "trades", start_us: int | None = None, end_us: int | None = None, **chosen: Any) -> bytes:
    return Replay(Selection(table, **chosen), start_us, end_us).serialize()


def get(client: flight.FlightClient, request: bytes, options: Any = None) -> pa.Table:
    return client.do_get(flight.Ticket(request), options or flight.FlightCallOptions()).read_all()


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(served.address) as made:
        yield made


def test_ticket_is_the_command(client: flight.FlightClient) -> None:
    request = ticket(columns=("timestamp", "symbol"))
    info = client.get_flight_info(flight.FlightDescriptor.for_command(request))
    (endpoint,) = info.endpoints
    assert endpoint.ticket.ticket == request
    assert info.schema == client.get_schema(flight.FlightDescriptor.for_command(request)).schema
    rows = get(client, request)
    assert rows.schema == info.schema == pa.schema([("timestamp", pa.timestamp("us")), ("symbol", pa.string())])
    assert rows.num_rows == 300_000


def test_rows_are_in_order_of_time(client: flight.FlightClient) -> None:
    rows = get(client, ticket())
    assert rows.num_rows == 300_000
    assert rows == rows.sort_by(ORDER)


def test_range_symbols_and_condition_choose_rows(client: flight.FlightClient) -> None:
    request = ticket(
        start_us=START_US + 10_000_000,
        end_us=START_US + 20_000_000,
        symbols=("ETH-USDT", "SOL-USDT"),
        columns=("price",),
        where="price != 12",
    )
    prices = [float(n) for n in range(10, 20) for _ in range(2) if n != 12]
    assert get(client, request)["price"].to_pylist() == prices


def test_long_rows_are_cut_by_bytes(client: flight.FlightClient) -> None:
    sizes = [c.data.nbytes for c in client.do_get(flight.Ticket(ticket("l2_book")))]
    assert len(sizes) > 1
    assert max(sizes) <= 2 << 20


@pytest.mark.parametrize(
    ("request_bytes", "error", "words"),
    [
        (ticket("nothing"), pa.ArrowKeyError, "no stored table 'nothing'"),
        (Replay().serialize(), pa.ArrowKeyError, "no stored table ''"),
        (ticket(columns=("nothing",)), pa.ArrowInvalid, "no column 'nothing'"),
        (ticket(where="pric > 1"), pa.ArrowInvalid, '"pric" not found'),
        (ticket(where="true) OR (true"), pa.ArrowInvalid, "LINE 1"),
    ],
)
def test_request_that_cannot_be_is_refused(
    client: flight.FlightClient, request_bytes: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.get_flight_info(flight.FlightDescriptor.for_command(request_bytes))
    with pytest.raises(error, match=words):
        get(client, request_bytes)


def test_snapshot_is_what_is_seen(
    make_server: Callable[..., Any], make_trades: Callable[..., Any], do_action: Callable[..., list[bytes]]
) -> None:
    server = make_server(ordered_window_rows=100)
    server.store.append("trades", make_trades(5000)).result()
    with flight.FlightClient(server.address) as client:
        (answer,) = do_action(client, "tickflight.pin", CreatePin(3600))
        pin = Pin.parse(answer).id
        under = flight.FlightCallOptions(headers=[(b"x-tickflight-snapshot", pin.encode())])
        server.store.append("trades", make_trades(10, start_us=START_US - 10**9)).result()
        server.store.flush()
        assert get(client, ticket(), under)["price"].to_pylist() == [float(n) for n in range(5000)]
        assert get(client, ticket()).num_rows == 5010
        reader = client.do_get(flight.Ticket(ticket()), under)
        reader.read_chunk()
        do_action(client, "tickflight.release_pin", ReleasePin(pin))
        with pytest.raises(pa.ArrowKeyError, match="no snapshot"):
            reader.read_all()


def test_caller_that_goes_away_leaves_nothing_behind(
    make_server: Callable[..., Any], make_trades: Callable[..., Any], until: Callable[..., None]
) -> None:
    server = make_server(ordered_window_rows=1000, concurrent_max=1, queue_timeout_s=1, batch_bytes=65_536)
    for _ in range(4):
        server.store.append("trades", make_trades(50_000)).result()
    with flight.FlightClient(server.address) as client:
        reader = client.do_get(flight.Ticket(ticket()))
        reader.read_chunk()
        reader.cancel()
        until(lambda: server.free_places == 1)
        assert get(client, ticket(end_us=START_US + 1)).num_rows == 4


def test_slow_reader_holds_no_place(make_server: Callable[..., Any], make_trades: Callable[..., Any]) -> None:
    server = make_server(ordered_window_rows=100_000, concurrent_max=1, queue_timeout_s=1)
    server.store.append("trades", make_trades(100_000)).result()
    with flight.FlightClient(server.address) as client:
        reader = client.do_get(flight.Ticket(ticket()))
        assert reader.read_chunk().data.num_rows
        assert get(client, ticket(end_us=START_US + 1)).num_rows == 1
        assert reader.read_all().num_rows


def test_open_replays_are_limited(
    make_server: Callable[..., Any], make_trades: Callable[..., Any], until: Callable[..., None]
) -> None:
    server = make_server(streams_max=1, ordered_window_rows=100_000, batch_bytes=65_536)
    server.store.append("trades", make_trades(100_000)).result()
    with flight.FlightClient(server.address) as client:
        reader = client.do_get(flight.Ticket(ticket()))
        reader.read_chunk()
        with pytest.raises(flight.FlightUnavailableError, match=r"query\.streams_max"):
            get(client, ticket())
        reader.cancel()
        until(lambda: not len(server.flight._streams))
        assert get(client, ticket(end_us=START_US + 1)).num_rows == 1


def test_time_limit_holds(make_server: Callable[..., Any], make_trades: Callable[..., Any]) -> None:
    server = make_server(statement_timeout_s=0.2, ordered_window_rows=10)
    server.store.append("trades", make_trades(50_000)).result()
    with flight.FlightClient(server.address) as client, pytest.raises(flight.FlightTimedOutError, match=r"0\.2 s"):
        get(client, ticket())
