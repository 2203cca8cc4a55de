"""What a book's sequence numbers say about missing events, exchange by exchange.

The rule of this file: a hole is told only where cryptofeed's own handler of the exchange shows what the numbers mean;
everywhere else the exchange stands in ``SILENT`` with the reason, and nothing is told.

Two kinds of numbers tell something:

    kind      what is known of the numbers of a symbol                         a hole is
    DENSE     each delta has the number of the one before plus one: the        a delta whose number is higher
              handler demands it, and calls every delta back
    RENEWED   a delta covers a range of numbers and has the last; the handler  a snapshot after a delta, with
              compares both ends itself and, where one is missing, begins the  a higher number than the delta
              book anew from a snapshot while the connection stays

A snapshot begins the numbers anew, and one after another tells nothing: at its start a handler may fetch a second,
because the first was older than the stream. Where a handler answers a jump by an exception (``MissingSequenceNumber``),
cryptofeed makes the connection anew and the hole is told as a reconnect, with the exception as its detail. At the DENSE
exchanges this comes first; their numbers are checked here for events that went missing later, or come another way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NO_NUMBER = -1

DENSE = frozenset({"ASCENDEX", "ASCENDEX_FUTURES", "BEQUANT", "BIT.COM", "FMFW", "HITBTC", "KRAKEN_FUTURES"})

RENEWED = frozenset(
    {
        *("BINANCE", "BINANCE_DELIVERY", "BINANCE_FUTURES", "BINANCE_TR", "BINANCE_US"),
        *("KUCOIN", "KUCOIN_FUTURES", "MEXC"),
    }
)

_CHAIN_OF_3 = "2.4.1 passes no numbers; 3.x passes links of a chain, which jump, and a broken link is a reconnect"
_PER_CONNECTION = "one count for all channels of a connection, and a jump is a reconnect"

SILENT: Mapping[str, str] = {
    "BITFINEX": _PER_CONNECTION,
    "BITGET": _CHAIN_OF_3,
    "BLOCKCHAIN": _PER_CONNECTION,
    "BYBIT": "2.4.1 passes no numbers; 3.x passes update ids that the exchange does not promise to be dense",
    "CRYPTO.COM": "only snapshots, whose numbers are the last change's",
    "DERIBIT": "links of a chain, which jump, and a broken link is a reconnect",
    "GATEIO": "deltas are called back without their numbers",
    "GATEIO_FUTURES": "deltas are called back without their numbers",
    "GATE": "deltas are called back without their numbers",
    "GATE_FUTURES": "deltas are called back without their numbers",
    "INDEPENDENT_RESERVE": "the handler leaves out events of orders that it does not know, and with them their numbers",
    "OKX": _CHAIN_OF_3,
    "POLONIEX": _CHAIN_OF_3,
}
"""Exchanges that number their books, and why nothing is told from the numbers; the others do not number them."""


def kinds(exchange: str) -> tuple[bool, bool]:
    """Return whether an exchange's numbers are DENSE, and whether they are RENEWED."""
    return exchange in DENSE, exchange in RENEWED


def jumps(
    numbers: Ints, snapshots: Flags, before: Ints, after_delta: Flags, dense: Flags, renewed: Flags
) -> npt.NDArray[np.intp]:
    """Return which of a batch's events come after a hole.

    ``before`` is the number of the event before of the same symbol and ``after_delta`` whether that was a delta;
    ``NO_NUMBER`` stands for none. A number that is lower or the same is no hole: an event told twice, or a full book
    stored besides its delta.
    """
    numbered = (numbers != NO_NUMBER) & (before != NO_NUMBER)
    skipped = dense & ~snapshots & (numbers - 1 > before)
    begun_anew = renewed & snapshots & after_delta & (numbers > before)
    return np.flatnonzero(numbered & (skipped | begun_anew))
