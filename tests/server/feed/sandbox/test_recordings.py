from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from cryptofeed.defines import CANDLES, L2_BOOK, TICKER, TRADES

DATA = Path(__file__).parents[3] / "data" / "sandbox"
CHANNELS = (TRADES, TICKER, L2_BOOK, CANDLES)
VERSION_3 = importlib.util.find_spec("cryptofeed.capture") is not None


class Keeper:
    def __init__(self):
        self.got = {channel: [] for channel in CHANNELS}

    def callbacks(self):
        return {channel: self._callback(channel) for channel in CHANNELS}

    def _callback(self, channel):
        async def keep(event, receipt_timestamp):
            self.got[channel].append((event.symbol, event.raw) if channel == L2_BOOK else event)

        return keep


def play(folder, keeper):
    """Play a recording and return cryptofeed's own counts, by channel."""
    if VERSION_3:
        from cryptofeed.capture import playback

        path = shutil.copy(DATA / "BINANCE-3.pcap", folder)
        shutil.copy(DATA / "BINANCE-3.meta.json", folder)
        return playback(str(path), callbacks=keeper.callbacks(), on_error="raise").callbacks
    from cryptofeed.raw_data_collection import playback

    files = sorted(str(file) for file in (DATA / "BINANCE").glob("BINANCE.*"))
    return playback("BINANCE", files, callbacks=keeper.callbacks(), config={})["callbacks"]


def test_recording_plays_through_the_exchange_s_own_handler(tmp_path, handler_complaints):
    keeper = Keeper()
    counts = play(tmp_path, keeper)
    assert {c: len(got) for c, got in keeper.got.items()} == {c: counts[c] for c in CHANNELS}
    assert min(counts[c] for c in (TRADES, TICKER, L2_BOOK)) > 50
    assert counts[CANDLES] > 8
    assert {e.symbol for e in keeper.got[CANDLES] if e.closed} == {"BTC-USDT", "ETH-USDT"}
    assert handler_complaints() == []


def test_recorded_books_have_no_gap(tmp_path):
    keeper = Keeper()
    play(tmp_path, keeper)
    for symbol in ("BTC-USDT", "ETH-USDT"):
        raw = [r for s, r in keeper.got[L2_BOOK] if s == symbol]
        last = raw[0]["lastUpdateId"]
        for delta in raw[1:]:
            assert delta["U"] <= last + 1 <= delta["u"]
            last = delta["u"]


@pytest.mark.parametrize("name", ["BINANCE", "BINANCE-3.pcap"])
def test_recordings_are_small_and_name_no_loopback(name):
    files = [DATA / name] if (DATA / name).is_file() else list((DATA / name).iterdir())
    assert sum(file.stat().st_size for file in files) < 600_000
    assert not any(b"127.0.0.1" in file.read_bytes() for file in files)
