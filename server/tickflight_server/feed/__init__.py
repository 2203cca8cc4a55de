"""Exchange events in: cryptofeed backends, feeds from configuration, replay of recordings. Owner of cryptofeed."""

from tickflight_server.feed.backend import Tickflight
from tickflight_server.feed.backends import (
    BACKENDS,
    BalancesTickflight,
    BookTickflight,
    CandlesTickflight,
    FillsTickflight,
    FundingTickflight,
    IndexTickflight,
    L1BookTickflight,
    LiquidationsTickflight,
    OpenInterestTickflight,
    OrderInfoTickflight,
    PositionsTickflight,
    TickerTickflight,
    TradeTickflight,
    TransactionsTickflight,
)

__all__ = [
    "BACKENDS",
    "BalancesTickflight",
    "BookTickflight",
    "CandlesTickflight",
    "FillsTickflight",
    "FundingTickflight",
    "IndexTickflight",
    "L1BookTickflight",
    "LiquidationsTickflight",
    "OpenInterestTickflight",
    "OrderInfoTickflight",
    "PositionsTickflight",
    "TickerTickflight",
    "Tickflight",
    "TradeTickflight",
    "TransactionsTickflight",
]
