"""The rows of the crash tests: made from a seed and a number alone, so that whoever checks can make them again.

The rule of this file: every row tells its batch and its place in it, by its ``receipt_timestamp``; and the ledger says
of each batch what was promised about it, no more.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tickflight_server.schemas import STORED, TIMESTAMP

TABLES = ("trades", "ticker", "l2_book")
PRODUCERS = (b"collector-a", b"collector-b", b"\0\xff binary", None)
_PARTITIONS = (("BINANCE", "BTC-USDT"), ("KRAKEN", "BTC/USD:PERP é"), ("OKX", ".."))
_DAY_US = 86_400_000_000
_T0 = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC
TAG_US = 1_000_000  # a batch's number counts seconds of receipt_timestamp, a row's place microseconds


@dataclass(frozen=True)
class Sent:
    """A batch that was handed to the store: what it is made from."""

    number: int
    table: str
    producer: bytes | None
    text_bytes: int = 0

    def mark(self) -> dict[str, Any]:
        """Return what the journal says of it."""
        producer = None if self.producer is None else self.producer.hex()
        return {"sent": self.number, "table": self.table, "producer": producer, "text": self.text_bytes}


@dataclass(frozen=True)
class Acked:
    """What the store promised; ``first_seq`` is None where it only said that it knows the batch."""

    first_seq: int | None


@dataclass
class Ledger:
    """What was sent and what was acknowledged, by the number of the batch."""

    seed: int
    sent: dict[int, Sent] = field(default_factory=dict)
    acked: dict[int, Acked] = field(default_factory=dict)

    def apply(self, mark: dict[str, Any]) -> None:
        """Take a mark of the journal in."""
        if "sent" in mark:
            producer = None if mark["producer"] is None else bytes.fromhex(mark["producer"])
            self.sent[mark["sent"]] = Sent(mark["sent"], mark["table"], producer, mark["text"])
        elif "acked" in mark:
            self.acked[mark["acked"]] = Acked(mark["first_seq"])

    def marks(self) -> Iterator[dict[str, Any]]:
        """Yield the marks that make this ledger."""
        for sent in self.sent.values():
            yield sent.mark()
        for number, ack in self.acked.items():
            yield {"acked": number, "first_seq": ack.first_seq}

    def load(self, marks: Path) -> None:
        """Take in the marks of a file, one a line."""
        for line in marks.read_text().splitlines():
            self.apply(json.loads(line))

    def unanswered(self) -> Iterator[Sent]:
        """Yield what is to be sent again, in order; without a producer nobody may."""
        return (s for s in self.sent.values() if s.number not in self.acked and s.producer is not None)

    def copy(self) -> Ledger:
        """Return a ledger that goes its own way from here."""
        return Ledger(self.seed, dict(self.sent), dict(self.acked))


@dataclass(frozen=True)
class Rows:
    """A batch as it is sent, and as it must be found: the rows of its table, and the ids of those that do not fit."""

    batch: pa.RecordBatch
    fitting: pa.Table
    rejected: tuple[str, ...]


def choose(seed: int, number: int, *, table: str | None = None, text_bytes: int = 0) -> Sent:
    """Return what batch ``number`` is, if nothing else is asked for."""
    chance = random.Random(f"batch/{seed}/{number}")
    return Sent(number, table or chance.choice(TABLES), chance.choice(PRODUCERS), text_bytes)


@lru_cache(maxsize=4096)
def rows_of(seed: int, sent: Sent) -> Rows:
    """Return the rows of a batch: one to ten, of some symbols and days, out of order; some trades do not fit."""
    chance = random.Random(f"rows/{seed}/{sent.number}")
    rows = 1 if sent.text_bytes else chance.randrange(1, 11)
    whole = sent.table != "trades" or sent.text_bytes or chance.random() > 0.1
    bad = set() if whole else {chance.randrange(rows)}
    places = [chance.choice(_PARTITIONS) for _ in range(rows)]
    times = [_T0 + chance.randrange(3) * _DAY_US + chance.randrange(3_600_000_000) for _ in range(rows)]
    received = _T0 + sent.number * TAG_US + np.arange(rows)
    values: dict[str, Any] = {
        "exchange": [exchange for exchange, _ in places],
        "symbol": ["" if i in bad else symbol for i, (_, symbol) in enumerate(places)],
        "timestamp": pa.array(times, pa.int64()).cast(TIMESTAMP),
        "receipt_timestamp": pa.array(received, pa.int64()).cast(TIMESTAMP),
        **_COLUMNS[sent.table](chance, sent, rows),
    }
    schema = STORED[sent.table].arrow_input()
    columns = [values.get(f.name, [None] * rows) for f in schema]
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    fitting = pa.Table.from_batches([batch]).take(pa.array([i for i in range(rows) if i not in bad], pa.int64()))
    return Rows(batch, fitting, tuple(f"{sent.number}-{i}" for i in sorted(bad)))


def tags_of(rows: pa.Table) -> list[tuple[int, int]]:
    """Return the batch's number and the place in it of each row, as its ``receipt_timestamp`` says."""
    told = rows.column("receipt_timestamp").cast(pa.int64()).to_numpy() - _T0
    return list(zip((told // TAG_US).tolist(), (told % TAG_US).tolist(), strict=True))


def _trades(chance: random.Random, sent: Sent, rows: int) -> dict[str, Any]:
    return {
        "side": [chance.choice(("buy", "sell", None)) for _ in range(rows)],
        "amount": [chance.random() for _ in range(rows)],
        "price": [chance.uniform(1, 70_000) for _ in range(rows)],
        "id": [f"{sent.number}-{i}" + "x" * sent.text_bytes for i in range(rows)],
    }


def _ticker(chance: random.Random, _: Sent, rows: int) -> dict[str, Any]:
    return {side: [chance.choice((None, chance.random())) for _ in range(rows)] for side in ("bid", "ask")}


def _book(chance: random.Random, _: Sent, rows: int) -> dict[str, Any]:
    names = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    return {name: [[chance.random() for _ in range(chance.randrange(4))] for _ in range(rows)] for name in names}


_COLUMNS: dict[str, Callable[[random.Random, Sent, int], dict[str, Any]]] = {
    "trades": _trades,
    "ticker": _ticker,
    "l2_book": _book,
}
