"""Made-up stores and recordings: real servers and parsers take them without a complaint."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cryptofeed")

from bench.lakes import PART_ROWS, SYMBOLS, many_parts
from bench.messages import record
from bench.rising import RisingTrades

from tickflight_server.config import LakehouseSettings
from tickflight_server.feed import compat
from tickflight_server.feed.playback import replay
from tickflight_server.store import Store


def test_a_store_of_many_parts_opens_and_its_newest_day_is_whole(tmp_path: Path) -> None:
    count = SYMBOLS + 3
    many_parts(tmp_path / "store", count)
    with Store(LakehouseSettings(storage_path=tmp_path / "store"), background=False) as store:
        table = store.tables["trades"]
        assert (len(table.state.parts), table.state.flushed_seq) == (count, count * PART_ROWS)
        assert table.state.parts.total_rows == count * PART_ROWS
        last = table.state.parts.max_us.max()
        assert (table.state.parts.max_us > last - 86_400_000_000).sum() >= SYMBOLS


def test_ids_rise_over_all_batches() -> None:
    source = RisingTrades(count=5, rows=100)
    ids = [int(i) for _ in range(10) for i in source.next().column("id").to_pylist()]
    assert ids == sorted(set(ids))


@pytest.mark.skipif(compat.MAJOR >= 3, reason="text recordings are of cryptofeed 2.4.1")
def test_made_up_messages_are_read_by_cryptofeeds_own_parser(tmp_path: Path) -> None:
    counts = {"trades": 60, "ticker": 40, "l2_book": 50}
    size = record(tmp_path / "BINANCE", counts, 3)
    assert size > 150 * 100
    result = replay([tmp_path / "BINANCE"], embedded=tmp_path / "store")
    assert result.complete
    assert result.rows == counts | {"l2_book": 50 + len({"BTC", "ETH", "SOL"})}
