"""What the rows of a recording must be: taken from the objects themselves, at the moment of their callback."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

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
