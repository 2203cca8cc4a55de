"""Recordings through cryptofeed into a server, and back over ADBC: every field of every row its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pytest
from expected_rows import COUNTS, Expected
from system_processes import ServerProgram

from tickflight_server.feed import compat
from tickflight_server.feed.playback import replay
from tickflight_server.schemas import STORED

REPO = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("TICKFLIGHT_RECORDINGS", REPO.parent / "shared" / "recordings"))
SANDBOX = REPO / "tests" / "data" / "sandbox"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProgram]:
    program = ServerProgram(tmp_path_factory.mktemp("recordings"))
    yield program
    program.stop()


def read(server: ServerProgram, channel: str, after: int) -> pa.Table:
    """Return the rows of a table above a ``seq``, over ADBC, in order."""
    with flight_sql.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM market.{channel} WHERE seq > ? ORDER BY seq", (after,))
        return cursor.fetch_arrow_table()


def last_seq(server: ServerProgram, channel: str) -> int:
    return int(server.query(f"SELECT coalesce(max(seq), 0) n FROM market.{channel}")[0]["n"])


def assert_same(channel: str, got: pa.Table, expected: list[dict[str, Any]], before: int) -> None:
    assert got.schema == STORED[channel].arrow()
    assert got.num_rows == len(expected)
    assert got["seq"].to_pylist() == list(range(before + 1, before + 1 + len(expected)))
    for field in STORED[channel].arrow_input():
        wanted = [row.get(field.name) for row in expected]
        found = got[field.name]
        if pa.types.is_timestamp(field.type):
            wanted = [None if seconds is None else round(seconds * 1e6) for seconds in wanted]
            found = found.cast(pa.int64())
        assert found.to_pylist() == wanted, f"column {field.name} of {channel}"


def check(server: ServerProgram, path: Path) -> Any:
    before = {channel: last_seq(server, channel) for channel in ("trades", "ticker", "l2_book", "candles")}
    expected = Expected()
    result = replay([path], server.address, observe=expected)
    assert result.complete
    assert result.rows == result.callbacks
    for channel, count in result.callbacks.items():
        got = read(server, channel, before[channel])
        assert got.num_rows == count
        assert_same(channel, got, expected.rows[channel], before[channel])
    return result


@pytest.mark.skipif(compat.MAJOR >= 3, reason=f"text recordings need cryptofeed 2.4.1, not {compat.VERSION}")
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings at {RECORDINGS} (set TICKFLIGHT_RECORDINGS)")
@pytest.mark.parametrize("exchange", COUNTS)
def test_a_recording_comes_back_over_adbc_as_its_objects_were(server: ServerProgram, exchange: str) -> None:
    result = check(server, RECORDINGS / exchange)
    assert (result.messages, result.callbacks) == COUNTS[exchange]


def test_the_sandboxs_recording_comes_back_over_adbc_as_its_objects_were(server: ServerProgram) -> None:
    result = check(server, SANDBOX / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE"))
    assert set(result.callbacks) == {"trades", "ticker", "l2_book", "candles"}


def test_rows_are_the_same_after_they_moved_to_disk(start_server: Callable[..., Any]) -> None:
    server = start_server()
    expected = Expected()
    path = SANDBOX / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE")
    replay([path], server.address, observe=expected)
    assert server.stop() == 0
    again = start_server()
    (row,) = again.query("SELECT sum(rows_in_memory)::BIGINT m, sum(rows_on_disk)::BIGINT d FROM system.tables")
    assert row["m"] == 0
    assert row["d"] == sum(len(rows) for rows in expected.rows.values())
    for channel, rows in expected.rows.items():
        assert_same(channel, read(again, channel, 0), rows, 0)
