"""Recordings through cryptofeed, its backends and a sink: a row for every callback, every field its own."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.errors import InputError, NotFoundError, UnsupportedError
from tickflight_server.feed import compat
from tickflight_server.feed.playback import Recording, _FileName, find_recordings, replay
from tickflight_server.schemas import STORED

only_2 = pytest.mark.skipif(compat.MAJOR >= 3, reason=f"text recordings need cryptofeed 2.4.1, not {compat.VERSION}")
only_3 = pytest.mark.skipif(compat.MAJOR < 3, reason=f"captures need cryptofeed 3.x, not {compat.VERSION}")

# The table of ../shared/recordings/README.md.
COUNTS: dict[str, tuple[int, dict[str, int]]] = {
    "ASCENDEX": (313, {"l2_book": 279, "trades": 4}),
    "BINANCE": (265, {"l2_book": 176, "ticker": 84, "trades": 2, "candles": 2}),
    "BINANCE_FUTURES": (1535, {"ticker": 613, "l2_book": 756, "candles": 67, "trades": 91}),
    "BITFINEX": (1693, {"ticker": 21, "trades": 210, "l2_book": 1600}),
    "BITGET": (1157, {"l2_book": 637, "trades": 555, "ticker": 345, "candles": 10060}),
    "BITMEX": (2120, {"ticker": 436, "trades": 27, "l2_book": 1979}),
    "BITSTAMP": (747, {"l2_book": 627, "trades": 10}),
    "GEMINI": (678, {"l2_book": 655, "trades": 16}),
    "HUOBI_SWAP": (2913, {"trades": 25, "l2_book": 2862}),
    "KRAKEN": (4430, {"l2_book": 4279, "trades": 10, "ticker": 18}),
    "OKX": (410, {"ticker": 28, "trades": 74, "l2_book": 290}),
    "PHEMEX": (1448, {"l2_book": 1337, "trades": 10025, "candles": 10041}),
    "PROBIT": (27, {"trades": 1001, "l2_book": 27}),
    "UPBIT": (449, {"trades": 304, "l2_book": 145}),
}


class Expected:
    """What ``to_dict`` of each object said at the moment of its callback."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def __call__(self, channel: str, obj: Any, receipt_timestamp: Any) -> None:
        row = _book_row(obj) if channel in ("l2_book", "l3_book") else obj.to_dict(numeric_type=float)
        row["receipt_timestamp"] = float(receipt_timestamp)
        # Some handlers of 2.4.1 pass the time of receipt on, which its playback gives them as text.
        row["timestamp"] = float(row.get("timestamp") or row["receipt_timestamp"])
        self.rows[channel].append(row)


def _book_row(book: Any) -> dict[str, Any]:
    said = book.to_dict(delta=book.delta is not None, numeric_type=float)
    row = {"exchange": said["exchange"], "symbol": said["symbol"], "timestamp": said["timestamp"]}
    row["sequence_number"] = book.sequence_number
    row["checksum"] = None if book.checksum is None else str(book.checksum)
    row["is_snapshot"] = book.delta is None
    for side in ("bid", "ask"):
        levels = list(said["book"][side].items()) if book.delta is None else said["delta"][side]
        row[f"{side}_prices"] = [price for price, _ in levels]
        row[f"{side}_sizes"] = [float(size) for _, size in levels]
    return row


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
