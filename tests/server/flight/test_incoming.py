"""Batches whose bytes are not what they say are refused before anything reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire.actions import (
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    parse_action_result,
)
from tickflight.wire.commands import CommandPreparedStatementQuery
from tickflight_server.errors import InputError, RowError, TooLargeError
from tickflight_server.flight.incoming import checked, chunks, schema_of

OFFSETS = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1000, 3)))  # pyarrow looks at the ends only
LIES = {
    "text": pa.Array.from_buffers(pa.string(), 2, [None, OFFSETS, pa.py_buffer(b"abc")]),
    "list": pa.ListArray.from_buffers(
        pa.list_(pa.int8()), 2, [None, OFFSETS], children=[pa.array([1, 2, 3], pa.int8())]
    ),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([5]), pa.array(["a"]), safe=False),
    "unicode": pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(bytes(4) + b"\1\0\0\0"), pa.py_buffer(b"\xff")]
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_batch_that_lies_about_its_bytes_is_refused(lie: pa.Array) -> None:
    with pytest.raises(RowError, match="the batch is not valid Arrow"):
        checked(pa.RecordBatch.from_arrays([lie], names=["x"]), 1 << 20)


def test_sound_batch_is_taken_up_to_the_limit() -> None:
    batch = pa.record_batch({"x": [1, 2]})
    assert checked(batch, 16) is batch
    with pytest.raises(TooLargeError, match="a batch has 16 bytes"):
        checked(batch, 15)


class Broken:
    """A reader of a stream that is none."""

    @property
    def schema(self) -> pa.Schema:
        raise pa.ArrowInvalid("no schema.\nmore")

    def read_chunk(self) -> Any:
        raise OSError("not a message")


def test_stream_that_is_none_is_the_senders_fault() -> None:
    with pytest.raises(InputError, match="the stream of batches cannot be read: not a message"):
        list(chunks(Broken()))
    with pytest.raises(InputError, match=r"schema cannot be read: no schema\.$"):
        schema_of(Broken())


@pytest.fixture
def prepared(client: flight.FlightClient, do_action: Callable[..., list[bytes]]) -> flight.FlightDescriptor:
    (body,) = do_action(client, "CreatePreparedStatement", ActionCreatePreparedStatementRequest("SELECT ? AS x"))
    result = parse_action_result("CreatePreparedStatement", body)
    assert isinstance(result, ActionCreatePreparedStatementResult)
    command = CommandPreparedStatementQuery(result.prepared_statement_handle)
    return flight.FlightDescriptor.for_command(command.serialize())


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_values_that_lie_about_their_bytes_are_not_bound(
    client: flight.FlightClient, prepared: flight.FlightDescriptor, raises_clean: Callable[..., Any], lie: pa.Array
) -> None:
    batch = pa.RecordBatch.from_arrays([lie], names=["0"])
    with raises_clean(pa.ArrowInvalid, "the batch is not valid Arrow"):
        writer, _ = client.do_put(prepared, batch.schema)
        with writer:
            writer.write_batch(batch)
    assert client.get_schema(prepared).schema.names == ["x"]
