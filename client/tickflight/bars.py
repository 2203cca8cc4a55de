"""Bars of trades: open, high, low, close and what was traded, by time or by so many trades, so much volume or money.

The rule of this file: the server makes the bars, in one statement with bound values; a bar is of one symbol of one
exchange, and has at least one trade.

Columns of the result, in its order (exchange, symbol, start):

    exchange, symbol
    start, end            of a bar of time its bounds, end excluded; else times of its first and last trade
    open, high, low, close   prices; first and last by timestamp, then seq
    volume                amounts together
    dollar                amounts times prices together, float64
    trades                how many
    vwap                  dollar / volume
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from tickflight.errors import QueryError
from tickflight.replay import Time, microseconds

Kind = Literal["time", "tick", "volume", "dollar"]
Interval = str | timedelta | float
_UNITS_US = {"us": 1, "ms": 1_000, "s": 10**6, "m": 60 * 10**6, "min": 60 * 10**6}
_UNITS_US |= {"h": 3_600 * 10**6, "d": 86_400 * 10**6, "w": 7 * 86_400 * 10**6}
_INTERVAL = re.compile(r"\s*(\d+)\s*([a-z]+)\s*", re.IGNORECASE)
_SCALE = 10**10  # amounts are counted in whole units of 1e-10: then a bar ends exactly where it should

# the number of a trade's bar; $step is the bar's length
_BARS: Mapping[Kind, str] = {
    "time": "time_bucket(to_microseconds($step::BIGINT), timestamp)",
    "tick": "(row_number() OVER in_turn - 1) // $step::BIGINT",
    "volume": f"(sum(CAST(amount::DOUBLE * {_SCALE} AS HUGEINT)) OVER in_turn"
    f" - CAST(amount::DOUBLE * {_SCALE} AS HUGEINT)) // $step::HUGEINT",
    "dollar": f"(sum(CAST(amount::DOUBLE * price::DOUBLE * {_SCALE} AS HUGEINT)) OVER in_turn"
    f" - CAST(amount::DOUBLE * price::DOUBLE * {_SCALE} AS HUGEINT)) // $step::HUGEINT",
}
_BOUNDS: Mapping[bool, str] = {
    True: 'bar AS start, bar + to_microseconds($step::BIGINT) AS "end"',
    False: 'min(timestamp) AS start, max(timestamp) AS "end"',
}
_IN_TURN = (
    "WINDOW in_turn AS (PARTITION BY exchange, symbol ORDER BY timestamp, seq"
    " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
)


def bars_query(
    symbols: Sequence[str] | str | None,
    interval: Interval,
    kind: Kind = "time",
    start: Time | None = None,
    end: Time | None = None,
    *,
    exchanges: Sequence[str] | str | None = None,
    table: str = "trades",
) -> tuple[str, dict[str, Any]]:
    """Return the statement that makes the bars, and its values.

    Raises:
        QueryError: an argument cannot be used.
    """
    if kind not in _BARS:
        raise QueryError(f"kind is {kind!r}: it is one of {', '.join(_BARS)}.")
    if table.removeprefix("market.") not in ("trades", "liquidations"):
        raise QueryError(f"bars are made of trades or liquidations, and not of {table[:100]!r}.")
    values: dict[str, Any] = {"step": _step(interval, kind)}
    conditions = ["price IS NOT NULL", "amount IS NOT NULL"]
    for column, wanted in (("exchange", exchanges), ("symbol", symbols)):
        names = [wanted] if isinstance(wanted, str) else list(wanted or ())
        if names:
            conditions.append(f"{column} IN ({', '.join(f'${column}_{i}' for i in range(len(names)))})")
            values |= {f"{column}_{i}": name for i, name in enumerate(names)}
    for name, op, when in (("since", ">=", start), ("until", "<", end)):
        if (us := microseconds(when)) is not None:
            conditions.append(f"timestamp {op} make_timestamp(${name}::BIGINT)")
            values[name] = us
    amount = "amount" if table.endswith("trades") else "quantity AS amount"
    sql = f"""
        WITH taken AS (
            SELECT exchange, symbol, timestamp, seq, price, {amount} FROM {table}
        ), numbered AS (
            SELECT *, {_BARS[kind]} AS bar FROM taken
            WHERE {" AND ".join(conditions)}
            {"" if kind == "time" else _IN_TURN}
        )
        SELECT exchange, symbol, {_BOUNDS[kind == "time"]},
            first(price ORDER BY timestamp, seq) AS open, max(price) AS high, min(price) AS low,
            last(price ORDER BY timestamp, seq) AS close, sum(amount) AS volume,
            sum(amount::DOUBLE * price::DOUBLE) AS dollar, count(*) AS trades,
            sum(amount::DOUBLE * price::DOUBLE) / nullif(sum(amount::DOUBLE), 0) AS vwap
        FROM numbered GROUP BY exchange, symbol, bar ORDER BY exchange, symbol, start, bar"""
    return sql, values


def _step(interval: Interval, kind: Kind) -> int:
    """Return a bar's length: microseconds, trades, or units of 1e-10."""
    if kind == "time":
        return _length_us(interval)
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        raise QueryError(f"{kind} bars are as long as a number says, and not {interval!r}.")
    if kind == "tick" and interval != int(interval):
        raise QueryError(f"a bar of {interval} trades cannot be: give a whole number.")
    if not 0 < interval < 1e18:
        raise QueryError(f"a bar's length is above 0 and below 1e18, and not {interval}.")
    step = round(interval * (1 if kind == "tick" else _SCALE))
    if not step:
        raise QueryError(f"a bar of {interval} is shorter than {1 / _SCALE}.")
    return step


def _length_us(interval: Interval) -> int:
    if isinstance(interval, timedelta):
        length = interval // timedelta(microseconds=1)
    elif isinstance(interval, str) and (match := _INTERVAL.fullmatch(interval)) and match[2].lower() in _UNITS_US:
        length = int(match[1]) * _UNITS_US[match[2].lower()]
    else:
        raise QueryError(f"{interval!r} is no length of time: write it like 500ms, 5s, 1m, 4h or 1d, or as timedelta.")
    if not 0 < length < 2**53:
        raise QueryError(f"a bar's length is above 0 and not endless: {interval!r}.")
    return length
