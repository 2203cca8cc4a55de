"""Each public data file of Binance becomes the rows that it says."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from backfill_files import DATA, convert, source, zipped

from tickflight_server.app.backfill.chunks import find_layout
from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.errors import InputError, UnsupportedError

ROOT = DATA / "binance" / "data"


def one(pattern: str) -> Path:
    (path,) = ROOT.glob(pattern)
    return path


def test_spot_trades_have_no_header_and_count_in_milliseconds_until_2024() -> None:
    found = convert(one("spot/**/BTCUSDT-trades-2024-12-31.csv"), "decimal")["trades"].to_pylist()
    assert len(found) == 20
    assert found[1] | {"receipt_timestamp": None} == {
        "exchange": "BINANCE",
        "symbol": "BTC-USDT",
        "timestamp": dt.datetime(2024, 12, 31, 0, 0, 0, 137_000),
        "receipt_timestamp": None,
        "side": "sell",
        "amount": Decimal("0.00200000"),
        "price": Decimal("93001.01000000"),
        "id": "4300000001",
    }
    assert found[0]["side"] == "buy"
    assert found[0]["receipt_timestamp"] == found[0]["timestamp"]


def test_spot_files_count_in_microseconds_from_2025_on() -> None:
    found = convert(one("spot/**/BTCUSDT-trades-2025-01-01.csv"))["trades"].to_pylist()
    assert found[1]["timestamp"] == dt.datetime(2025, 1, 1, 0, 0, 0, 137)
    (candle, *_) = convert(one("spot/**/BTCUSDT-1m-*.csv"))["candles"].to_pylist()
    assert (candle["start"], candle["stop"]) == (dt.datetime(2025, 1, 1), dt.datetime(2025, 1, 1, 0, 0, 59, 999_999))
    assert candle["timestamp"] == candle["stop"]
    assert (candle["interval"], candle["trades"], candle["closed"]) == ("1m", 200, True)
    prices = [candle[n] for n in ("open", "high", "low", "close", "volume")]
    assert prices == [93500.0, 93510.0, 93490.0, 93501.0, 12.3]


def test_aggregated_trades_have_the_id_of_the_aggregate() -> None:
    found = convert(one("spot/**/ETHBTC-aggTrades*"))["trades"].to_pylist()
    assert (found[0]["id"], found[0]["symbol"], found[0]["price"]) == ("500", "ETH-BTC", 0.03560)
    dated = convert(one("futures/um/**/*-aggTrades-*"))["trades"].to_pylist()
    assert {(r["exchange"], r["symbol"]) for r in dated} == {("BINANCE_FUTURES", "BTC-USDT-24U27")}


def test_futures_files_have_a_header() -> None:
    found = convert(one("futures/um/**/BTCUSDT-trades-*"))["trades"].to_pylist()
    assert len(found) == 9
    assert {(r["exchange"], r["symbol"]) for r in found} == {("BINANCE_FUTURES", "BTC-USDT-PERP")}
    coin = convert(one("futures/cm/**/BTCUSD_PERP-trades-*"))["trades"].to_pylist()
    assert {(r["exchange"], r["symbol"]) for r in coin} == {("BINANCE_DELIVERY", "BTC-USD-PERP")}
    assert coin[0]["amount"] == 1.0


def test_other_futures_files() -> None:
    (quote, *_) = convert(one("futures/um/**/*-bookTicker-*"))["l1_book"].to_pylist()
    assert [quote[n] for n in ("bid_price", "bid_size", "ask_price", "ask_size")] == [69800.1, 4.0, 69800.2, 0.1]
    assert quote["timestamp"] == dt.datetime(2024, 3, 30, 0, 0, 0, 4000)  # when it was sent, as cryptofeed takes it
    assert list(convert(one("futures/um/**/*-bookTicker-*"), table="ticker")) == ["ticker"]
    (rate, *_) = convert(one("futures/um/**/*-fundingRate-*"), "decimal")["funding"].to_pylist()
    assert (rate["rate"], rate["timestamp"]) == (Decimal("0.00001500"), dt.datetime(2024, 7, 1))
    interest = convert(one("futures/um/**/*-metrics-*"))["open_interest"].to_pylist()
    assert (interest[1]["open_interest"], interest[1]["timestamp"]) == (80121.456, dt.datetime(2024, 7, 1, 0, 5))
    forced = convert(one("futures/cm/**/*-liquidationSnapshot-*"))["liquidations"].to_pylist()
    assert [r["side"] for r in forced[:2]] == ["buy", "sell"]
    assert (forced[0]["quantity"], forced[0]["price"], forced[0]["status"]) == (3.0, 62500.1, "filled")
    assert forced[4]["status"] == "unfilled"
    assert {r["interval"] for r in convert(one("futures/um/**/ETHUSDT-1h-*"))["candles"].to_pylist()} == {"1h"}


def test_a_trades_file_says_its_market_by_its_columns(tmp_path: Path) -> None:
    spot = zipped(one("spot/**/BTCUSDT-trades-2024-12-31.csv"), tmp_path)
    assert find_layout(source(spot), Wishes()).mapping["exchange"] == "BINANCE"
    futures = zipped(one("futures/um/**/BTCUSDT-trades-*"), tmp_path)
    assert find_layout(source(futures), Wishes()).mapping["exchange"] == "BINANCE_FUTURES"
    coin = zipped(one("futures/cm/**/BTCUSD_PERP-trades-*"), tmp_path)
    assert find_layout(source(coin), Wishes()).mapping["exchange"] == "BINANCE_DELIVERY"


def test_a_market_is_asked_for_where_nothing_tells_it(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m-2021-01.csv"
    lines = one("futures/um/**/ETHUSDT-1h-*").read_text().splitlines()[1:]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="spot or futures market") as refused:
        find_layout(source(path), Wishes())
    assert "--exchange BINANCE " in str(refused.value)
    found = convert(path, exchange="BINANCE_FUTURES")["candles"].to_pylist()
    assert {r["symbol"] for r in found} == {"BTC-USDT-PERP"}
    # microseconds are spot's alone
    shutil.copy(one("spot/**/BTCUSDT-1m-*.csv"), tmp_path)
    assert find_layout(source(tmp_path / "BTCUSDT-1m-2025-01-01.csv"), Wishes()).mapping["exchange"] == "BINANCE"


def test_months_are_written_as_cryptofeed_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "spot" / "BTCUSDT-1mo-2025-01.csv"
    path.parent.mkdir()
    path.write_text(one("spot/**/BTCUSDT-1m-*.csv").read_text())
    assert find_layout(source(path), Wishes()).mapping["interval"] == "1M"


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    def layout(name: str, text: str, **wishes: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        find_layout(source(path), Wishes(**wishes))

    with pytest.raises(UnsupportedError, match="depth by percentage"):
        layout("BTCUSDT-bookDepth-2024-01-01.csv", "timestamp,percentage,depth,notional\n")
    with pytest.raises(UnsupportedError, match="mark price"):
        layout("markPriceKlines/BTCUSDT-1m-2024-01-01.csv", "1,2\n")
    with pytest.raises(InputError, match="'ABCXYZ'"):
        layout("ABCXYZ-trades-2024-01-01.csv", "1,1,1,1,1704067200000,True,True\n")
    with pytest.raises(InputError, match="has 3 columns"):
        layout("BTCUSDT-trades-2024-01-01.csv", "1,2,3\n")
    with pytest.raises(InputError, match="does not say what it holds"):
        layout("renamed.csv", "1,2,3\n", format="binance")
    with pytest.raises(InputError, match="cannot go to table candles"):
        layout("BTCUSDT-trades-2024-01-02.csv", "1,1,1,1,1704067200000,True,True\n", table="candles")
    with pytest.raises(InputError, match="its symbol"):
        layout("trades.csv", "id,price,qty,quote_qty,time,is_buyer_maker\n")
    layout("trades.csv", "id,price,qty,quote_qty,time,is_buyer_maker\n", symbol="BTC-USDT-PERP")
