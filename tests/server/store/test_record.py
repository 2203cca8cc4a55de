"""The log's bytes: what is written is read, and nothing else is believed."""

from __future__ import annotations

from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.store.record import (
    AppendRecord,
    BadRecordError,
    FileHeader,
    batch_to_payload,
    find_record,
    parse_file_header,
    parse_record,
    serialize_record,
)

WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
GOLDEN_HEADER = bytes.fromhex(
    "54464c4f470d0a00"  # magic "TFLOG\r\n\0"
    "01000000"  # format 1
    "99c365fa"  # crc32 of the 24 bytes that follow
    "0700000000000000"  # number 7
    "00112233445566778899aabbccddeeff"  # writer
)
GOLDEN_RECORD = bytes.fromhex(
    "54464c52"  # magic "TFLR"
    "d7f07ab7"  # crc32 of bytes 8 to 66
    "13000000"  # 19 bytes of table, producer and payload
    "01060800"  # kind 1, table of 6 bytes, producer of 8, zero
    "2800000000000000"  # 40 bytes of the file were durable
    "e803000000000000"  # first_seq 1000
    "0500000000000000"  # producer's sequence 5
    "0300000000000000"  # 3 rows, zero
    "747261646573"  # "trades"
    "636f6c6c6563742d"  # "collect-"
    "68656c6c6f"  # payload "hello"
    "0000000000"  # zeros up to byte 72
)
RECORD = AppendRecord("trades", 1000, 3, b"collect-", 5, pa.py_buffer(b"hello"))

u64 = st.integers(0, 2**64 - 1)
records = st.builds(
    AppendRecord,
    table=st.text(max_size=60).filter(lambda t: "\ud800" not in t),
    first_seq=u64,
    rows=st.integers(0, 2**32 - 1),
    producer=st.binary(max_size=255),
    sequence=u64,
    payload=st.binary(max_size=200).map(pa.py_buffer),
)


def to_bytes(record: AppendRecord, durable: int = 40) -> bytes:
    return b"".join(bytes(b) for b in serialize_record(record, durable))


def test_a_file_header_is_these_bytes() -> None:
    assert FileHeader(7, WRITER).serialize() == GOLDEN_HEADER
    assert parse_file_header(GOLDEN_HEADER) == FileHeader(7, WRITER)


def test_a_record_is_these_bytes() -> None:
    assert to_bytes(RECORD) == GOLDEN_RECORD
    assert parse_record(memoryview(GOLDEN_RECORD), 0) == (RECORD, 72, 40)


@given(number=u64, writer=st.uuids())
def test_a_file_header_survives_the_round_trip(number: int, writer: UUID) -> None:
    assert parse_file_header(FileHeader(number, writer).serialize()) == FileHeader(number, writer)


@given(bit=st.integers(0, 40 * 8 - 1))
def test_a_file_header_with_a_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(GOLDEN_HEADER)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadRecordError):
        parse_file_header(bytes(damaged))


@given(items=st.lists(records, min_size=1, max_size=4), durable=u64)
def test_records_survive_the_round_trip_one_after_the_other(items: list[AppendRecord], durable: int) -> None:
    data = memoryview(b"".join(to_bytes(item, durable) for item in items))
    offset = 0
    for item in items:
        assert offset % 8 == 0
        found, offset, was_durable = parse_record(data, offset)
        assert found == item
        assert was_durable == durable
    assert offset == len(data)


@given(bit=st.integers(0, 67 * 8 - 1))
def test_a_record_with_a_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(GOLDEN_RECORD)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadRecordError):
        parse_record(memoryview(damaged), 0)


@pytest.mark.parametrize("length", range(67))
def test_a_record_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BadRecordError):
        parse_record(memoryview(GOLDEN_RECORD[:length]), 0)


@given(before=st.binary(max_size=100))
def test_the_next_whole_record_is_found_behind_anything(before: bytes) -> None:
    padded = before + bytes(-len(before) % 8)
    assert find_record(memoryview(padded + GOLDEN_RECORD), 0) == len(padded)


def test_a_record_off_its_alignment_or_with_a_wrong_checksum_is_not_found() -> None:
    assert find_record(memoryview(b"\0" * 4 + GOLDEN_RECORD), 0) is None
    assert find_record(memoryview(GOLDEN_RECORD[:60] + b"J" + GOLDEN_RECORD[61:]), 0) is None
    assert find_record(memoryview(GOLDEN_RECORD), 8) is None


def test_a_batch_comes_back_from_its_payload_in_aligned_memory_of_its_own() -> None:
    batch = pa.record_batch({"price": [1.5, None], "symbol": pa.array(["A", "B"]).dictionary_encode()})
    record = AppendRecord("trades", 1, 2, b"odd", 1, batch_to_payload(batch))
    data = memoryview(to_bytes(record))
    found = parse_record(data, 0)[0].batch()
    assert found.equals(batch)
    data_start = pa.py_buffer(data).address
    for buffer in found["price"].buffers():
        assert buffer.address % 8 == 0
        assert not data_start <= buffer.address < data_start + len(data)


def test_a_slice_takes_only_its_rows_into_the_payload() -> None:
    batch = pa.record_batch({"price": [float(i) for i in range(10_000)]})
    assert batch_to_payload(batch.slice(5_000, 3)).size < 1_000


def test_a_payload_is_arrows_stream_out_of_the_batches_own_memory() -> None:
    rows = 10_000
    batch = pa.record_batch(
        {"id": pa.array(map(str, range(rows))), "price": [float(i) for i in range(rows)], "none": pa.nulls(rows)}
    )
    payload = batch_to_payload(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert payload.to_pybytes() == sink.getvalue().to_pybytes()
    assert payload.size == sink.getvalue().size
    places = {pa.py_buffer(piece).address for piece in payload.pieces}
    assert places >= {b.address for c in batch.columns for b in c.buffers() if b is not None}
