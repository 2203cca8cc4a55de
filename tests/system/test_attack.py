"""A real server under attack: what is refused costs little, is counted, and others are served all the while."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flight_here import trades
from pyarrow import flight
from raw_http2 import (
    CONTINUATION,
    DATA,
    DO_PUT,
    END_HEADERS,
    END_STREAM,
    GREETING,
    HEADERS,
    LIST_ACTIONS,
    Connection,
    frame,
    request,
)
from system_processes import ServerProgram, wait_for

import tickflight
from tickflight.wire.append import AppendBatch, AppendResult
from tickflight.wire.commands import AppendStream
from tickflight.wire.tickets import Query

TOKEN = "token-of-ada"
GREETING_S = 0.7
GIANT_MB = 400  # loopback brings up to 120 between two looks at a connection
SETTINGS = {
    "AUTH__TOKENS": f'{{"ada": "{TOKEN}"}}',
    "AUTH__ROLES": '{"ada": ["admin"]}',
    "FLIGHT__GREETING_S": str(GREETING_S),
    "FLIGHT__GREETING_MB_MAX": "4",
    "FLIGHT__UNREAD_MB_MAX": "16",
    "FLIGHT__MESSAGE_BYTES_MAX": str(4 << 20),
    "FLIGHT__CONNECTIONS_MAX": "200",
    "FLIGHT__CONNECTS_PER_S_MAX": "300",
    "FLIGHT__CALLS_PER_USER_MAX": "40",
    "ARROW_MEMORY_MB": "1024",
}
BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the door looks into /proc")


class Attacked:
    """A server with narrow limits, and an honest client of it."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProgram(folder)
        self.client = tickflight.connect(self.server.address, token=TOKEN)
        self.client.sql("SELECT 1").arrow()
        self.rest = self.descriptors()

    @property
    def port(self) -> int:
        return self.server.port

    def counted(self, name: str) -> float:
        rows = self.client.sql("SELECT value FROM system.metrics WHERE name = ?", [name]).arrow().to_pylist()
        return rows[0]["value"] if rows else 0.0

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.server.process.pid}/fd").iterdir()))

    def stranger(self) -> flight.FlightClient:
        """Return a client that does not send again what was cut off before it was read."""
        return flight.FlightClient(self.server.address, generic_options=[("grpc.enable_retries", 0)])

    def memory_mb(self, what: str = "VmRSS") -> int:
        lines = Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(what))

    def stop(self) -> None:
        self.client.close()
        assert self.server.stop() == 0


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(f"TICKFLIGHT_{name}", value)
        running = Attacked(tmp_path_factory.mktemp("attacked"))
    yield running
    running.stop()


def put(server: Attacked, batch: pa.RecordBatch, *, options: pa.ipc.IpcWriteOptions | None = None) -> AppendResult:
    """Append a batch, and return the answer."""
    call = flight.FlightCallOptions(headers=[BEARER], write_options=options, timeout=60)
    with flight.FlightClient(server.server.address) as client:
        descriptor = flight.FlightDescriptor.for_command(AppendStream("trades").serialize())
        writer, reader = client.do_put(descriptor, batch.schema, call)
        with suppress(flight.FlightError, pa.ArrowException):
            writer.write_with_metadata(batch, pa.py_buffer(AppendBatch(1).serialize()))
        answer = AppendResult.parse(reader.read().to_pybytes())
        with suppress(pa.ArrowException):
            writer.close()
        return answer


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"PRI * HT",
        GREETING,
        GREETING + frame(HEADERS, 0, 1, request(LIST_ACTIONS)[:40]),
        GREETING + frame(HEADERS, END_HEADERS, 1, request(DO_PUT)),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["nothing", "half a greeting", "a greeting", "half a header", "a call without a login", "HTTP/1"],
)
def test_connection_on_which_nobody_is_let_in_is_ended(attacked: Attacked, said: bytes) -> None:
    with Connection(attacked.port, said) as one:
        assert one.ended_after(GREETING_S + 5) is not None


def test_connection_of_somebody_who_was_let_in_may_be_silent(attacked: Attacked) -> None:
    pytest.importorskip("grpc")
    from raw_calls import bytes_field

    asked = bytes_field(1, Query("SELECT 1").serialize())
    path = "/arrow.flight.protocol.FlightService/DoGet"
    with Connection(attacked.port, GREETING) as one:
        one.send(frame(HEADERS, END_HEADERS, 1, request(path, token=TOKEN)))
        one.send(frame(DATA, END_STREAM, 1, b"\0" + len(asked).to_bytes(4, "big") + asked))
        assert one.ended_after(2.5 * GREETING_S) is None


def test_storm_of_connections_is_slowed_and_harms_nobody_who_is_in(attacked: Attacked) -> None:
    slowed = attacked.counted("connections_slowed_s")
    waits: list[float] = []
    with attacked.client.writer("trades") as writer:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            for _ in range(300):
                knock(attacked.port)
            began = time.monotonic()
            assert writer.write(trades(5)).result(10).rows == 5
            waits.append(time.monotonic() - began)
    assert attacked.counted("connections_slowed_s") > slowed
    assert sorted(waits)[len(waits) // 2] < 0.5
    wait_for(lambda: attacked.descriptors() <= attacked.rest + 8, "descriptors as at rest", 20)


def knock(port: int) -> None:
    """Connect and go away, without waiting for anything."""
    with socket.socket() as one:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert one.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)


def test_those_who_are_in_keep_their_place_when_strangers_take_all(attacked: Attacked) -> None:
    ended = attacked.counted("connections_ended_room")
    with ExitStack() as held:
        for _ in range(400):
            with suppress(OSError):
                one = held.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", attacked.port))
        wait_for(
            # a storm may be slowed before there are too many
            lambda: attacked.counted("connections_ended_room") > ended or attacked.counted("connections_slowed_s"),
            "strangers end, or come more slowly",
            20,
        )
        wait_for(lambda: attacked.counted("connections") <= 200, "no more connections than may be", 20)
        assert attacked.client.sql("SELECT 1").arrow().num_rows == 1


def test_giant_message_of_a_stranger_is_cut_off(attacked: Attacked) -> None:
    before = attacked.memory_mb("VmHWM")
    with attacked.stranger() as client, pytest.raises(pa.ArrowException):
        client.do_get(flight.Ticket(bytes(GIANT_MB << 20))).read_all()
    assert attacked.counted("connections_ended_unread") + attacked.counted("connections_ended_silent")
    assert attacked.memory_mb("VmHWM") < before + GIANT_MB / 2


def test_giant_message_of_a_user_is_cut_off(attacked: Attacked) -> None:
    before, ended = attacked.memory_mb("VmHWM"), attacked.counted("connections_ended_unread")
    options = flight.FlightCallOptions(headers=[BEARER])
    with attacked.stranger() as client, pytest.raises(pa.ArrowException):
        client.do_get(flight.Ticket(bytes(GIANT_MB << 20)), options).read_all()
    assert attacked.counted("connections_ended_unread") > ended
    assert attacked.memory_mb("VmHWM") < before + GIANT_MB / 2


def test_giant_metadata_is_refused(attacked: Attacked) -> None:
    options = flight.FlightCallOptions(headers=[BEARER, (b"x-giant", b"x" * (1 << 20))])
    # gRPC's own limit, 16 KiB; what the client learns of it depends on whether it was still writing
    with flight.FlightClient(attacked.server.address) as client, pytest.raises((pa.ArrowException, OSError)) as refused:
        list(client.list_actions(options))
    assert "metadata size exceeds" in str(refused.value) or isinstance(refused.value, flight.FlightUnavailableError)
    assert answered(attacked)


def test_header_without_an_end_is_cut_off(attacked: Attacked) -> None:
    before = attacked.memory_mb()
    with Connection(attacked.port, GREETING + frame(HEADERS, 0, 1, request(LIST_ACTIONS))) as one:
        piece = frame(CONTINUATION, 0, 1, request(LIST_ACTIONS, ("x", "y" * 8000)))
        end = time.monotonic() + GREETING_S + 5
        while time.monotonic() < end and one.send(piece * 20):
            pass
        assert one.ended_after(GREETING_S + 5) is not None
    assert attacked.memory_mb() < before + 100


def test_calls_that_never_say_what_they_want_are_limited(attacked: Attacked) -> None:
    refused = attacked.counted("calls_refused")
    with Connection(attacked.port, GREETING) as one:
        for number in range(100):
            one.send(frame(HEADERS, END_HEADERS, 2 * number + 1, request(DO_PUT, token=TOKEN)))
        found = one.read_until(b"calls_per_user_max", 5)
        assert b"calls_per_user_max" in found
    wait_for(lambda: answered(attacked), "room for calls once these have ended")
    assert attacked.counted("calls_refused") > refused


def answered(attacked: Attacked) -> bool:
    try:
        return bool(attacked.client.sql("SELECT 1").arrow().num_rows == 1)
    except tickflight.TickflightError:
        return False


BOMBS = {
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array([1.0])),
    "views of one list": lambda: pa.ListViewArray.from_arrays([0] * 9000, [9000] * 9000, pa.array(np.zeros(9000))),
    "indices of one text": lambda: pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(9000, np.int32)), pa.array(["x" * 9000])
    ),
    "a dictionary": lambda: pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["x" * 99] * 99_999)),
    "nulls of fixed lists": lambda: pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 22), 1 << 20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_batch_that_stands_for_a_large_one_is_refused(attacked: Attacked, name: str) -> None:
    column = BOMBS[name]()
    batch = pa.RecordBatch.from_arrays([column], schema=pa.schema([("price", column.type)]))
    answer = put(attacked, batch)
    assert answer.error is not None
    assert answer.error.code == "too_large"
    assert answered(attacked)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_batch_that_unpacks_to_a_large_one_is_refused(attacked: Attacked, codec: str) -> None:
    batch = pa.record_batch({"price": np.zeros(16 << 17)})
    answer = put(attacked, batch, options=pa.ipc.IpcWriteOptions(compression=codec))
    assert answer.error is not None
    assert answer.error.code == "too_large"


def test_batch_that_says_it_unpacks_to_more_than_there_is_ends_its_stream_alone(attacked: Attacked) -> None:
    pytest.importorskip("grpc")
    from raw_calls import RawCalls, bytes_field, flight_data

    batch = trades(200)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    put_messages = list(flight_data(AppendStream("trades").serialize(), [batch], AppendBatch(1).serialize()))
    packed = pa.ipc.read_message(batch.serialize())
    assert packed.body is not None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    message = reader.read_next_message()
    body = bytearray(message.body.to_pybytes())
    # the first buffer with a length before it: it now says that it holds a TiB
    place = next(i for i in range(0, len(body), 8) if body[i + 8 : i + 12] == b"\x28\xb5\x2f\xfd")
    body[place : place + 8] = (1 << 40).to_bytes(8, "little")
    put_messages[-1] = (
        bytes_field(2, message.metadata.to_pybytes())
        + bytes_field(3, AppendBatch(1).serialize())
        + bytes_field(1000, bytes(body))
    )
    with RawCalls(attacked.port, TOKEN) as calls:
        answer = calls.call("DoPut", put_messages)
    assert answer.status.name == "INVALID_ARGUMENT", answer
    assert "larger than the memory" in answer.text
    assert answered(attacked)


def test_union_does_not_end_the_server(attacked: Attacked) -> None:
    union = pa.UnionArray.from_dense(
        pa.array([], pa.int8()), pa.array([], pa.int32()), [pa.array([], pa.int8())], ["a"]
    )
    answer: Any = put(attacked, pa.record_batch({"price": union}))
    assert answer.error.code == "rows"
    assert answered(attacked)
