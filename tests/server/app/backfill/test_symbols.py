"""Names are cryptofeed's, or there is none."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptofeed import defines
from cryptofeed.symbols import Symbol

from tickflight_server.app.backfill.symbols import VENUES, exchange_name, symbol_name

NAMES = [
    ("binance", "BTCUSDT", "BTC-USDT"),
    ("binance", "BNBFDUSD", "BNB-FDUSD"),
    ("binance", "USDCUSDT", "USDC-USDT"),
    ("binance", "BNBBUSD", "BNB-BUSD"),
    ("binance", "ETHBTC", "ETH-BTC"),
    ("binance", "1000SATSUSDT", "1000SATS-USDT"),
    ("binance-us", "BTCUSD", "BTC-USD"),
    ("binance-futures", "BTCUSDT", "BTC-USDT-PERP"),
    ("binance-futures", "ETHUSDC", "ETH-USDC-PERP"),
    ("binance-futures", "BTCUSDT_240628", "BTC-USDT-24M28"),
    ("binance-delivery", "BTCUSD_PERP", "BTC-USD-PERP"),
    ("binance-delivery", "BNBUSD_PERP", "BNB-USD-PERP"),
    ("binance-delivery", "ETHUSD_240927", "ETH-USD-24U27"),
    ("okex", "BTC-USDT", "BTC-USDT"),
    ("okex-swap", "BTC-USD-SWAP", "BTC-USD-PERP"),
    ("okex-futures", "BTC-USD-240628", "BTC-USD-24M28"),
    ("bybit", "BTCUSDT", "BTC-USDT-PERP"),
    ("bybit", "BTCUSD", "BTC-USD-PERP"),
    ("bybit", "BTCPERP", "BTC-USDC-PERP"),
    ("bybit", "BTC-28JUN24", "BTC-USDC-24M28"),
    ("bybit-spot", "ETHUSDT", "ETH-USDT"),
    ("deribit", "BTC-PERPETUAL", "BTC-USD-PERP"),
    ("deribit", "BTC-28JUN24", "BTC-USD-24M28"),
    ("deribit", "ETH-5JAN24", "ETH-USD-24F5"),
    ("deribit", "SOL_USDC-PERPETUAL", "SOL-USDC-PERP"),
    ("deribit", "BTC_USDC", "BTC-USDC"),
    ("coinbase", "BTC-USD", "BTC-USD"),
    ("bitmex", "XBTUSD", "BTC-USD-PERP"),
    ("bitmex", "ETHUSDT", "ETH-USDT-PERP"),
    ("bitmex", "XBT_USDT", "BTC-USDT"),
    ("kraken", "XBT/USD", "BTC-USD"),
    ("kraken", "XDG/USD", "DOGE-USD"),
    ("cryptofacilities", "PI_XBTUSD", "BTC-USD-PERP"),
    ("cryptofacilities", "FI_ETHUSD_240628", "ETH-USD-24M28"),
    ("bitfinex", "BTCUSD", "BTC-USD"),
    ("bitfinex", "BTCUST", "BTC-USDT"),
    ("bitfinex", "DOGE:USD", "DOGE-USD"),
    ("bitfinex-derivatives", "BTCF0:USTF0", "BTC-USDT-PERP"),
    ("bitstamp", "btcusd", "BTC-USD"),
    ("huobi", "btcusdt", "BTC-USDT"),
    ("huobi-dm-swap", "BTC-USD", "BTC-USD-PERP"),
    ("gate-io", "BTC_USDT", "BTC-USDT"),
    ("gate-io-futures", "BTC_USDT", "BTC-USDT-PERP"),
    ("upbit", "KRW-BTC", "BTC-KRW"),
    ("bitflyer", "FX_BTC_JPY", "BTC-JPY-FX"),
    ("phemex", "sBTCUSDT", "BTC-USDT"),
    ("phemex", "BTCUSD", "BTC-USD-PERP"),
]
UNKNOWN = [
    ("binance", "WHATEVER"),
    ("binance", "USDT"),
    ("binance-us", "BTCBUSD"),
    ("binance-futures", "BTCUSDT_241328"),
    ("bitmex", "XBTM24"),
    ("bitmex", "ETHUSD_ETH"),
    ("deribit", "BTC-28JUN24-50000-C"),
    ("okex-futures", "BTC-USD-SOON"),
    ("huobi-dm", "BTC_CQ"),
    ("nowhere", "BTCUSDT"),
]


@pytest.mark.parametrize(("venue", "symbol", "name"), NAMES)
def test_a_symbol_gets_the_name_that_cryptofeed_gives_it(venue: str, symbol: str, name: str) -> None:
    assert symbol_name(venue, symbol) == name


@pytest.mark.parametrize(("venue", "symbol"), UNKNOWN)
def test_a_symbol_that_does_not_say_all_has_no_name(venue: str, symbol: str) -> None:
    assert symbol_name(venue, symbol) is None


def test_exchanges_are_constants_of_cryptofeed() -> None:
    known = {v for n, v in vars(defines).items() if n.isupper() and isinstance(v, str)}
    assert {exchange_name(venue) for venue in VENUES} <= known
    assert exchange_name("nowhere") is None


def test_days_are_written_as_cryptofeed_writes_them() -> None:
    text = Symbol("BTC", "USDT", type=defines.FUTURES, expiry_date="240105").normalized
    assert symbol_name("binance-futures", "BTCUSDT_240105") == text == "BTC-USDT-24F05"
    named = Symbol("BTC", "USDC", type=defines.FUTURES, expiry_date="05JAN24").normalized
    assert symbol_name("bybit", "BTC-5JAN24") == named
    moment = dt.datetime(2024, 1, 5, 8, tzinfo=dt.UTC).timestamp()
    of_time = Symbol("BTC", "USD", type=defines.FUTURES, expiry_date=moment).normalized
    assert symbol_name("deribit", "BTC-5JAN24") == of_time == "BTC-USD-24F5"
