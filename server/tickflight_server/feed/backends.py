"""cryptofeed backends, named as cryptofeed names its own: ``callbacks={TRADES: TradeTickflight("grpc://host:port")}``.

The rule of this file: a class a channel, and nothing in it but what is particular to the channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from tickflight_server.errors import ConfigError
from tickflight_server.feed.backend import Tickflight
from tickflight_server.feed.books import delta_event, kind_of, snapshot_event


class TradeTickflight(Tickflight):
    """Channel ``trades``."""

    default_key = "trades"


class TickerTickflight(Tickflight):
    """Channel ``ticker``."""

    default_key = "ticker"


class L1BookTickflight(Tickflight):
    """Channel ``l1_book``."""

    default_key = "l1_book"


class FundingTickflight(Tickflight):
    """Channel ``funding``."""

    default_key = "funding"


class OpenInterestTickflight(Tickflight):
    """Channel ``open_interest``."""

    default_key = "open_interest"


class LiquidationsTickflight(Tickflight):
    """Channel ``liquidations``."""

    default_key = "liquidations"


class CandlesTickflight(Tickflight):
    """Channel ``candles``."""

    default_key = "candles"


class IndexTickflight(Tickflight):
    """Channel ``index``."""

    default_key = "index"


class OrderInfoTickflight(Tickflight):
    """Channel ``order_info``."""

    default_key = "order_info"


class FillsTickflight(Tickflight):
    """Channel ``fills``."""

    default_key = "fills"


class BalancesTickflight(Tickflight):
    """Channel ``balances``."""

    default_key = "balances"


class PositionsTickflight(Tickflight):
    """Channel ``positions``."""

    default_key = "positions"


class TransactionsTickflight(Tickflight):
    """Channel ``transactions``."""

    default_key = "transactions"


class BookTickflight(Tickflight):
    """Channels ``l2_book`` and ``l3_book``: which one is seen from the book, or said by ``channel``.

    ``snapshots_only`` stores the full book at every event instead of deltas. ``snapshot_interval=N`` stores the full
    book besides, after every N deltas of a symbol; 0, the default, stores an event a callback.
    """

    default_key = "book"

    def __init__(
        self,
        address: str | None = None,
        *,
        channel: str | None = None,
        snapshots_only: bool = False,
        snapshot_interval: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(address, **options)
        if channel not in (None, "l2_book", "l3_book"):
            raise ConfigError(f"channel={channel!r} is not a book.", hint="l2_book and l3_book are.")
        if snapshot_interval < 0:
            raise ConfigError(f"snapshot_interval={snapshot_interval} is negative.", hint="0 is off.")
        self._channel = channel
        self._snapshots_only = snapshots_only
        self._snapshot_interval = snapshot_interval
        self._deltas: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._kinds: dict[tuple[Any, Any], str] = {}

    async def __call__(self, book: Any, receipt_timestamp: float) -> None:
        """Keep the event. cryptofeed changes ``book`` afterwards, so its levels are copied now, at C speed."""
        lane = self._lane
        if book.delta is None or self._snapshots_only:
            lane.kept.append(snapshot_event(book, receipt_timestamp))
        else:
            lane.kept.append(delta_event(book, receipt_timestamp))
            if self._snapshot_interval and self._snapshot_due(book):
                lane.kept.append(snapshot_event(book, receipt_timestamp))
        if len(lane.kept) > lane.attention:
            await lane.attend(self._attach)

    async def write(self, data: Mapping[str, Any]) -> None:
        """Keep an event given as the dict that ``to_dict`` makes: with ``book`` a snapshot, else a ``delta``."""
        levels = {"bid": (), "ask": ()} | dict(data.get("book") or data.get("delta") or {})
        book = SimpleNamespace(
            exchange=data.get("exchange"),
            symbol=data.get("symbol"),
            timestamp=data.get("timestamp"),
            sequence_number=data.get("sequence_number"),
            checksum=data.get("checksum"),
            delta=None if data.get("book") is not None else levels,
            book=SimpleNamespace(bids=levels["bid"], asks=levels["ask"]),
        )
        await self(book, data.get("receipt_timestamp"))  # type: ignore[arg-type]

    def _snapshot_due(self, book: Any) -> bool:
        key = (book.exchange, book.symbol)
        self._deltas[key] += 1
        if self._deltas[key] < self._snapshot_interval:
            return False
        self._deltas[key] = 0
        return True

    def _split(self, items: Sequence[Any]) -> list[tuple[str, Sequence[Any]]]:
        if self._channel is not None:
            return [(self._channel, items)]
        tables: dict[str, list[Any]] = {"l2_book": [], "l3_book": []}
        for event in items:
            tables[kind_of(event, self._kinds)].append(event)
        return [(table, events) for table, events in tables.items() if events]


BACKENDS: Mapping[str, type[Tickflight]] = {
    "trades": TradeTickflight,
    "ticker": TickerTickflight,
    "l1_book": L1BookTickflight,
    "l2_book": BookTickflight,
    "l3_book": BookTickflight,
    "funding": FundingTickflight,
    "open_interest": OpenInterestTickflight,
    "liquidations": LiquidationsTickflight,
    "candles": CandlesTickflight,
    "index": IndexTickflight,
    "order_info": OrderInfoTickflight,
    "fills": FillsTickflight,
    "balances": BalancesTickflight,
    "positions": PositionsTickflight,
    "transactions": TransactionsTickflight,
}
"""The backend of every channel, by cryptofeed's own constant."""


def backend_for(
    channel: str,
    address: str | None = None,
    *,
    snapshots_only: bool = False,
    snapshot_interval: int = 0,
    **options: Any,
) -> Tickflight:
    """Return a backend for ``channel``; the snapshot settings matter to books alone."""
    if BACKENDS[channel] is BookTickflight:
        return BookTickflight(
            address, channel=channel, snapshots_only=snapshots_only, snapshot_interval=snapshot_interval, **options
        )
    return BACKENDS[channel](address, **options)
