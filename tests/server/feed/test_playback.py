"""Recordings through cryptofeed, its backends and a sink: a row for every callback, every field its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from expected_rows import COUNTS, Expected

from tickflight_server.errors import InputError, NotFoundError, UnsupportedError
from tickflight_server.feed import compat
from tickflight_server.feed.playback import Recording, _FileName, find_recordings, replay
from tickflight_server.schemas import STORED

only_2 = pytest.mark.skipif(compat.MAJOR >= 3, reason=f"text recordings need cryptofeed 2.4.1, not {compat.VERSION}")
only_3 = pytest.mark.skipif(compat.MAJOR < 3, reason=f"captures need cryptofeed 3.x, not {compat.VERSION}")


def assert_equal(table: str, batches: list[pa.RecordBatch], expected: list[dict[str, Any]]) -> None:
    got = pa.Table.from_batches(batches)
    assert got.schema == STORED[table].arrow_input(memory=True)
    assert got.num_rows == len(expected)
    for field in got.schema:
        wanted = [row.get(field.name) for row in expected]
        found = got[field.name]
        if pa.types.is_timestamp(field.type):
            wanted = [None if seconds is None else round(seconds * 1e6) for seconds in wanted]
            found = found.cast(pa.int64())
        assert found.to_pylist() == wanted, f"column {field.name}"


@only_2
@pytest.mark.parametrize("exchange", COUNTS)
def test_recording_becomes_one_row_a_callback_equal_to_to_dict(exchange: str, recordings: Path, sink: Any) -> None:
    expected = Expected()
    result = replay([recordings / exchange], embedded=sink, observe=expected)
    assert (result.messages, result.callbacks) == COUNTS[exchange]
    assert result.rows == result.callbacks
    assert result.complete
    assert not sink.batches["rejected"]
    for channel, count in result.callbacks.items():
        assert sink.count(channel) == count
        assert_equal(channel, sink.batches[channel], expected.rows[channel])


@only_2
def test_folder_of_recordings_is_played_one_after_the_other_through_one_collector(recordings: Path, sink: Any) -> None:
    result = replay([recordings / "PROBIT", recordings / "UPBIT"], embedded=sink)
    assert result.rows == {"trades": 1305, "l2_book": 172}
    assert {row["exchange"] for row in sink.rows("trades")} == {"PROBIT", "UPBIT"}
    found = find_recordings([recordings])
    assert [recording.exchange for recording in found] == sorted(COUNTS)


@only_2
def test_same_recording_twice_gives_twice_the_rows(recordings: Path, sink: Any) -> None:
    folder = recordings / "PROBIT"
    result = replay([folder, folder / "PROBIT.0"], embedded=sink)
    assert result.rows == {"trades": 1001, "l2_book": 27}, "the same files named twice are one recording"
    assert replay([folder], embedded=sink).rows == {"trades": 1001, "l2_book": 27}
    assert sink.count("trades") == 2002


@only_2
def test_folder_names_do_not_confuse_cryptofeeds_playback(recordings: Path, sink: Any, tmp_path: Path) -> None:
    folder = tmp_path / "news-http-HUOBI.ws.1" / "PROBIT"
    folder.parent.mkdir()
    folder.symlink_to(recordings / "PROBIT")
    result = replay([folder], embedded=sink)
    assert result.rows == {"trades": 1001, "l2_book": 27}


def test_file_name_alone_decides_what_a_file_is() -> None:
    name = _FileName("/data/news/http/OKX/KRAKEN.0")
    assert "ws" not in name
    assert "http" not in name
    assert "OKX" not in name
    assert ".ws." in _FileName("/data/KRAKEN.ws.1.0")
    assert name.rsplit("/", 1)[1] == "KRAKEN.0"


@only_2
def test_broken_message_says_which_recording_and_keeps_what_came_before(
    recordings: Path, sink: Any, tmp_path: Path
) -> None:
    for path in (recordings / "PROBIT").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "PROBIT.ws.66.0").open("a") as file:
        file.write("1640000000.5: {not json\n")
    with pytest.raises(InputError, match=r"playing it failed"):
        replay([tmp_path], embedded=sink)
    assert sink.count("trades") == 1001
    from cryptofeed.connection import HTTPAsyncConn, HTTPSync

    assert HTTPAsyncConn.read.__qualname__ == "HTTPAsyncConn.read"
    assert HTTPSync.read.__qualname__ == "HTTPSync.read"


def test_missing_path_and_empty_folder_are_told(tmp_path: Path, sink: Any) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        replay([tmp_path / "gone"], embedded=sink)
    with pytest.raises(NotFoundError, match="no recording"):
        replay([tmp_path], embedded=sink)


def test_recording_of_the_other_release_names_both(tmp_path: Path, sink: Any) -> None:
    name = "KRAKEN.0" if compat.MAJOR >= 3 else "kraken.pcap.zst"
    (tmp_path / name).write_text("x")
    with pytest.raises(UnsupportedError) as caught:
        replay([tmp_path], embedded=sink)
    assert compat.VERSION in str(caught.value)
    assert ("2.4.1" if compat.MAJOR >= 3 else "3.x") in str(caught.value)


@only_2
def test_unknown_exchange_of_a_recording_is_told(tmp_path: Path, sink: Any) -> None:
    (tmp_path / "KRAKN.0").write_text("x: {}\n")
    with pytest.raises(NotFoundError, match="KRAKEN"):
        replay([tmp_path], embedded=sink)


def test_files_are_grouped_and_ordered_by_number(tmp_path: Path) -> None:
    for name in ("KRAKEN.0", "KRAKEN.ws.10.0", "KRAKEN.ws.9.0", "OKX.0", "OKX.http.0.0", "README.md"):
        (tmp_path / name).write_text("")
    found = find_recordings(sorted(tmp_path.glob("*.*0")))
    assert found == [
        Recording("KRAKEN", tuple(tmp_path / n for n in ("KRAKEN.0", "KRAKEN.ws.9.0", "KRAKEN.ws.10.0")), 2),
        Recording("OKX", tuple(tmp_path / n for n in ("OKX.0", "OKX.http.0.0")), 2),
    ]


SANDBOX = Path(__file__).parents[2] / "data" / "sandbox"


def test_recording_of_the_sandbox_becomes_one_row_a_callback_equal_to_to_dict(sink: Any) -> None:
    path = SANDBOX / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE")
    expected = Expected()
    result = replay([path], embedded=sink, observe=expected)
    assert set(result.callbacks) == {"trades", "ticker", "l2_book", "candles"}
    assert result.rows == result.callbacks
    assert result.complete
    for channel in result.callbacks:
        assert_equal(channel, sink.batches[channel], expected.rows[channel])


@only_3
def test_capture_that_is_torn_is_told(sink: Any, tmp_path: Path) -> None:
    (tmp_path / "torn.pcap").write_bytes((SANDBOX / "BINANCE-3.pcap").read_bytes()[:5000] + b"\0" * 7)
    with pytest.raises(InputError, match=r"torn\.pcap"):
        replay([tmp_path], embedded=sink)
