"""Exchanges' own names of exchanges and symbols as cryptofeed's: ``binance-futures`` ``BTCUSDT`` is ``BTC-USDT-PERP``.

The rule of this file: a name is made only where the exchange's own name says all of it. Where it does not (a dated
contract without its day, a pair without a known quote currency) there is none, and the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Rule = Callable[[str], str | None]

_MONTHS = "FGHJKMNQUVXZ"
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Quote currencies, a longer name before a shorter one that it ends with. Binance lists no plain USD beside BUSD, FDUSD
# and TUSD; elsewhere BNBUSD is BNB in USD, so the lists are not one.
_FIAT = ("EUR", "GBP", "JPY", "KRW", "TRY", "BRL", "AUD", "CAD", "CHF", "SGD", "HKD", "INR", "ZAR", "MXN", "PLN", "ARS")
_COINS = ("BTC", "XBT", "ETH", "BNB", "TRX", "XRP", "DOGE", "SOL")
_BINANCE_QUOTES = (
    *("FDUSD", "BFUSD", "USDT", "USDC", "BUSD", "TUSD", "XUSD", "USDP", "USDS", "USD1", "EURI", "AEUR", "BIDR", "IDRT"),
    *("BKRW", "BVND", "PAX", "DAI", "VAI", "UST", "RUB", "UAH", "NGN", "RON", "CZK", "COP", "DOT", *_FIAT, *_COINS),
)
_QUOTES = ("USDT", "USDC", "RLUSD", "GUSD", "DAI", "USD", *_FIAT, *_COINS)
_STABLE = ("BUSD", "TUSD", "FDUSD", "GUSD", "PUSD", "XUSD")  # or a base's last letter and USD: nobody can tell


def expiry(year: str, month: str, day: str) -> str:
    """Return cryptofeed's form of a day: ``24M28`` is 28 June 2024; a day has a zero if the exchange writes one."""
    return f"{year}{_MONTHS[int(month) - 1]}{day}"


def _digits(day: str) -> str | None:
    """Return the form of a day written ``240628``."""
    if not re.fullmatch(r"\d{6}", day) or not 1 <= int(day[2:4]) <= 12:
        return None
    return expiry(day[:2], day[2:4], day[4:])


def _named_day(day: str, *, padded: bool) -> str | None:
    """Return the form of a day written ``28JUN24`` or ``5JAN24``."""
    match = re.fullmatch(r"(\d{1,2})([A-Z]{3})(\d{2})", day)
    if not match or match[2] not in _MONTH_NAMES:
        return None
    number = match[1].zfill(2) if padded else str(int(match[1]))
    return expiry(match[3], str(_MONTH_NAMES.index(match[2]) + 1), number)


def _pairs(quotes: tuple[str, ...], unclear: tuple[str, ...] = ()) -> Rule:
    """Return the rule of names like ``BTCUSDT``: the quote currency is one of the known ones."""

    def rule(symbol: str) -> str | None:
        if symbol.endswith(unclear or ("\0",)):
            return None
        for quote in quotes:
            base = symbol.removesuffix(quote)
            if base and base != symbol:
                return f"{base}-{quote}"
        return None

    return rule


_binance_pair = _pairs(_BINANCE_QUOTES)
_pair = _pairs(_QUOTES)


def _split(
    mark: str, *, perpetual: bool = False, reverse: bool = False, names: Mapping[str, str] | None = None
) -> Rule:
    """Return the rule of names like ``BTC_USD``: two names with ``mark`` between them."""

    def rule(symbol: str) -> str | None:
        parts = [(names or {}).get(p, p) for p in symbol.split(mark)]
        if len(parts) != 2 or not all(parts):
            return None
        return "-".join([*(reversed(parts) if reverse else parts), *(["PERP"] if perpetual else [])])

    return rule


def _perpetual(symbol: str) -> str | None:
    pair = _pair(symbol)
    return f"{pair}-PERP" if pair else None


def _binance_derivative(symbol: str) -> str | None:
    """``BTCUSDT``, ``BTCUSDT_240628``."""
    name, _, ending = symbol.partition("_")
    pair = _binance_pair(name)
    if pair is None:
        return None
    end = _digits(ending) if ending else "PERP"
    return f"{pair}-{end}" if end else None


def _binance_delivery(symbol: str) -> str | None:
    """``BTCUSD_PERP``, ``BTCUSD_240628``: always in USD."""
    name, _, ending = symbol.partition("_")
    base = name.removesuffix("USD")
    end = "PERP" if ending == "PERP" else _digits(ending)
    return f"{base}-USD-{end}" if base and base != name and end else None


def _okx(symbol: str) -> str | None:
    """``BTC-USDT``, ``BTC-USDT-SWAP``, ``BTC-USD-240628``."""
    parts = symbol.split("-")
    if len(parts) == 2:
        return symbol
    end = "PERP" if parts[-1] == "SWAP" else _digits(parts[-1])
    return f"{parts[0]}-{parts[1]}-{end}" if len(parts) == 3 and end else None


def _deribit(symbol: str) -> str | None:
    """``BTC-PERPETUAL``, ``BTC-28JUN24``, ``SOL_USDC-PERPETUAL``, ``BTC_USDC``; options have no name here."""
    name, _, ending = symbol.partition("-")
    base, _, quote = name.partition("_")
    pair = f"{base}-{quote or 'USD'}"
    if not ending:
        return pair if quote else None
    end = "PERP" if ending == "PERPETUAL" else _named_day(ending, padded=False)
    return f"{pair}-{end}" if end else None


def _bitmex(symbol: str) -> str | None:
    """``XBTUSD``, ``XBT_USDT``; a dated contract's name does not say its day."""
    if symbol.endswith(("_USDT", "_USDC")):
        return _split("_", names={"XBT": "BTC"})(symbol)
    pair = _pair(symbol)
    if pair is None or pair.rpartition("-")[2] not in ("USD", "USDT", "USDC", "EUR"):
        return None
    return f"{pair.replace('XBT', 'BTC')}-PERP"


def _bybit(symbol: str) -> str | None:
    """``BTCUSDT``, ``BTCPERP``, ``BTC-28JUN24``."""
    if symbol.endswith("PERP"):
        return f"{symbol.removesuffix('PERP')}-USDC-PERP"
    if "-" in symbol:
        base, _, day = symbol.partition("-")
        end = _named_day(day, padded=True)
        return f"{base}-USDC-{end}" if end else None
    return _perpetual(symbol)


def _bitfinex(symbol: str) -> str | None:
    """``BTCUSD``, ``DOGE:USD``, ``BTCF0:USTF0``."""
    symbol = symbol.removeprefix("t").replace("BCHN", "BCH").replace("UST", "USDT")
    base, mark, quote = symbol.partition(":")
    if not mark:
        base, quote = symbol[:3], symbol[3:]
    if base.endswith("F0") and quote.endswith("F0"):
        return f"{base[:-2]}-{quote[:-2]}-PERP"
    return f"{base}-{quote}" if base and quote else None


def _kraken_futures(symbol: str) -> str | None:
    """``PI_XBTUSD``, ``PF_ETHUSD``, ``FI_XBTUSD_240628``."""
    parts = symbol.upper().split("_")
    if len(parts) not in (2, 3) or not parts[1].endswith("USD"):
        return None
    end = _digits(parts[2]) if len(parts) == 3 else "PERP"
    return f"{parts[1][:-3].replace('XBT', 'BTC')}-USD-{end}" if end else None


def _bitflyer(symbol: str) -> str | None:
    """``BTC_JPY``, ``FX_BTC_JPY``."""
    inner = symbol.removeprefix("FX_")
    pair = _split("_")(inner)
    return f"{pair}-FX" if pair and inner != symbol else pair


def _phemex(symbol: str) -> str | None:
    """``sBTCUSDT`` is spot, ``BTCUSD`` a perpetual."""
    return _pair(symbol[1:]) if symbol.startswith("s") else _perpetual(symbol)


def _kraken(symbol: str) -> str | None:
    """``XBT/USD``."""
    return _split("/", names={"XBT": "BTC", "XDG": "DOGE"})(symbol.replace("-", "/"))


def _upper(rule: Rule) -> Rule:
    return lambda symbol: rule(symbol.upper())


VENUES: Mapping[str, tuple[str, Rule]] = {
    "binance": ("BINANCE", _binance_pair),
    "binance-us": ("BINANCE_US", _pairs(_QUOTES, _STABLE)),
    "binance-futures": ("BINANCE_FUTURES", _binance_derivative),
    "binance-delivery": ("BINANCE_DELIVERY", _binance_delivery),
    "okex": ("OKX", _okx),
    "okex-swap": ("OKX", _okx),
    "okex-futures": ("OKX", _okx),
    "okcoin": ("OKCOIN", _split("-")),
    "bybit": ("BYBIT", _bybit),
    "bybit-spot": ("BYBIT", _pair),
    "deribit": ("DERIBIT", _deribit),
    "bitmex": ("BITMEX", _bitmex),
    "coinbase": ("COINBASE", _split("-")),
    "kraken": ("KRAKEN", _kraken),
    "cryptofacilities": ("KRAKEN_FUTURES", _kraken_futures),
    "bitfinex": ("BITFINEX", _bitfinex),
    "bitfinex-derivatives": ("BITFINEX", _bitfinex),
    "bitstamp": ("BITSTAMP", _upper(_pair)),
    "gemini": ("GEMINI", _upper(_pair)),
    "huobi": ("HUOBI", _upper(_pair)),
    "huobi-dm-swap": ("HUOBI_SWAP", _split("-", perpetual=True)),
    "huobi-dm-linear-swap": ("HUOBI_SWAP", _split("-", perpetual=True)),
    "gate-io": ("GATEIO", _split("_")),
    "gate-io-futures": ("GATEIO_FUTURES", _split("_", perpetual=True)),
    "crypto-com": ("CRYPTO.COM", _split("_")),
    "kucoin": ("KUCOIN", _split("-")),
    "upbit": ("UPBIT", _split("-", reverse=True)),
    "bitflyer": ("BITFLYER", _bitflyer),
    "phemex": ("PHEMEX", _phemex),
    "ascendex": ("ASCENDEX", _split("/")),
    "blockchain-com": ("BLOCKCHAIN", _split("-")),
    "dydx": ("DYDX", _split("-", perpetual=True)),
    "bitget": ("BITGET", _pair),
    "bitget-futures": ("BITGET", _perpetual),
}
"""cryptofeed's name of an exchange, and the rule of its symbols, by Tardis.dev's name of it."""


def exchange_name(venue: str) -> str | None:
    """Return cryptofeed's name of an exchange, None if it has none."""
    found = VENUES.get(venue)
    return found[0] if found else None


def symbol_name(venue: str, symbol: str) -> str | None:
    """Return cryptofeed's name of an exchange's symbol, None if it cannot be told."""
    found = VENUES.get(venue)
    return found[1](symbol) if found else None
