"""Messages that a server should survive: sound ones of all kinds, damaged ones, misplaced ones, and bytes of nothing.

The rule of this file: the same seed makes the same messages; only the handles in them are of the server's making.
"""

from __future__ import annotations

import random
import string
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import pyarrow as pa
from flight_here import trades
from google.protobuf.any_pb2 import Any as AnyMessage

from tickflight.wire import codec
from tickflight.wire.actions import ACTIONS
from tickflight.wire.append import AppendBatch
from tickflight.wire.codec import Message
from tickflight.wire.commands import (
    COMMANDS,
    AppendStream,
    CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate,
    CommandStatementIngest,
    CommandStatementQuery,
    CommandStatementUpdate,
)
from tickflight.wire.tickets import TICKETS, Query

RPCS = ("info", "schema", "get", "put", "action")
PUTS = (
    AppendStream,
    CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate,
    CommandStatementIngest,
    CommandStatementUpdate,
)
HANDLES_MAX = 50
STATEMENTS = (
    "SELECT 1",
    "SELECT * FROM trades WHERE symbol = 'BTC-USDT' AND price < 5 ORDER BY seq LIMIT 3",
    "SELECT symbol, count(*), max(price) FROM market.trades GROUP BY ALL",
    "SELECT ?::INT + $1::INT AS x, ? AS y",
    "WITH a AS (SELECT * FROM range(5) r(x)) SELECT x, [x, 1], {'k': x}, MAP {x: 'v'} FROM a",
    "SELECT * FROM system.parts, system.tables",
    "SELECT * FROM system.feeds",
    "SELECT 'a'::ENUM('a', 'b'), 1::HUGEINT, uuid(), INTERVAL 1 DAY, 1.5::DECIMAL(38, 18)",
    "FROM trades AT (VERSION => 1)",
    "SHOW ALL TABLES",
    "DESCRIBE notes",
    "EXPLAIN SELECT count(*) FROM trades",
    "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text VARCHAR DEFAULT 'x', at TIMESTAMP)",
    "CREATE OR REPLACE TABLE workspace.copied AS SELECT * FROM trades LIMIT 10",
    "CREATE TEMP TABLE scratch (a INT)",
    "CREATE OR REPLACE VIEW seen AS SELECT count(*) AS n FROM trades",
    "CREATE SCHEMA IF NOT EXISTS mine",
    "CREATE OR REPLACE MACRO twice(a) AS a * 2",
    "INSERT INTO notes (id, text) VALUES (1, 'one') ON CONFLICT DO NOTHING RETURNING id",
    "INSERT OR REPLACE INTO notes SELECT x, 'n' || x, NULL FROM range(4) r(x)",
    "INSERT INTO notes VALUES ($1, $2, NULL)",
    "UPDATE notes SET text = 'two' WHERE id = 1 RETURNING *",
    "DELETE FROM notes WHERE id > 2",
    "MERGE INTO notes USING (SELECT 1 AS id) s ON notes.id = s.id WHEN MATCHED THEN DELETE",
    "DROP TABLE IF EXISTS notes CASCADE",
    "ALTER TABLE notes ADD COLUMN more INT",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "SET schema = 'mine'",
    "SET TimeZone = 'Europe/Berlin'",
    "RESET statement_timeout",
    "USE tickflight.workspace",
    "SELECT count(*) FROM range(100000000000) a WHERE a.range % 3 = 1",
    "COPY trades TO '/nowhere.csv'",
    "ATTACH 'other.duckdb'",
    "FROM read_csv('/etc/passwd')",
    "PRAGMA database_size",
    "CALL duckdb_settings()",
    "DELETE FROM market.trades",
)
NAMES = ("tickflight", "market", "workspace", "trades", "notes", "temp", "mine", "tr%", "_", "", "table", "TABLE", "\\")
OPTIONS = ("catalog", "schema", "timezone", "statement_timeout", "snapshot", "", "x" * 300)


@dataclass(frozen=True)
class Sent:
    """One message: the call it goes by, an action's type, and the batches that follow it in a put."""

    rpc: str
    body: bytes
    action: str = ""
    batches: tuple[tuple[pa.RecordBatch, bytes], ...] = ()


class Noise:
    """Makes messages from a seed; ``learn`` gives it handles that a server answered with."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._handles: deque[bytes] = deque(maxlen=HANDLES_MAX)
        self._tickets: deque[bytes] = deque(maxlen=HANDLES_MAX)
        self._batches = (
            trades(3, exchange="NOISE"),
            pa.record_batch(
                {"id": pa.array([7], pa.int32()), "text": ["t"], "at": pa.array([None], pa.timestamp("us"))}
            ),
            pa.record_batch({"0": [1]}),
            pa.record_batch({"0": [1, None], "1": ["a", "b"]}),
            pa.record_batch({"a": pa.array(["x", "y"]).dictionary_encode(), "a b": [[1], None]}),
            pa.record_batch({"": pa.array([], pa.null())}),
            pa.RecordBatch.from_arrays([], names=[]),
        )

    def learn(self, *, handle: bytes = b"", ticket: bytes = b"") -> None:
        """Use a handle or ticket in messages to come."""
        if handle:
            self._handles.append(handle)
        if ticket:
            self._tickets.append(ticket)

    def next(self) -> Sent:
        """Return the next message."""
        rpc = self._random.choices(RPCS, (4, 2, 4, 3, 6))[0]
        sent = self._sound(rpc)
        fate = self._random.random()
        if fate < 0.45:
            return sent
        if fate < 0.85:
            return Sent(rpc, self.damaged(sent.body), sent.action, sent.batches)
        if fate < 0.93:  # sound, but in the wrong place
            other = self._sound(self._random.choice(RPCS))
            return Sent(rpc, other.body, sent.action, sent.batches)
        name = self._text() if sent.action and self._random.random() < 0.2 else sent.action
        return Sent(rpc, self._random.randbytes(self._random.randint(0, 40)), name, sent.batches)

    def _sound(self, rpc: str) -> Sent:
        pick = self._random
        if rpc == "action":
            name = pick.choice(tuple(ACTIONS))
            return Sent(rpc, self.filled(ACTIONS[name].request).serialize(), name)
        if rpc == "get":
            if self._tickets and pick.random() < 0.5:
                return Sent(rpc, pick.choice(self._tickets))
            return Sent(rpc, self.filled(pick.choice((Query, *TICKETS.values()))).serialize())
        commands = [c for c in COMMANDS.values() if c in PUTS] if rpc == "put" else [*COMMANDS.values()]
        message = self.filled(pick.choice((*commands, *([CommandStatementQuery] * 5 if rpc != "put" else ()))))
        return Sent(rpc, message.serialize(), batches=self._follows(message) if rpc == "put" else ())

    def _follows(self, message: Message) -> tuple[tuple[pa.RecordBatch, bytes], ...]:
        """Return batches of one schema, as a put has them."""
        appends = isinstance(message, AppendStream) and self._random.random() < 0.8
        batch = self._batches[0] if appends else self._random.choice(self._batches)
        found = []
        for number in range(self._random.randint(0, 3)):
            note = AppendBatch(number + 1).serialize() if appends else b""
            if self._random.random() < 0.1:
                note = self.damaged(note or b"note")
            found.append((batch, note))
        return tuple(found)

    # --- sound messages

    def filled(self, cls: type[Message]) -> Message:
        """Return a message with values in its fields that make sense now and then."""
        hints = typing.get_type_hints(cls)
        return cls(**{field.name: self._value(hints[field.name], field.name) for field in fields(cls)})  # type: ignore[arg-type]

    def _value(self, hint: Any, name: str) -> Any:
        pick = self._random
        if hint == codec.SessionValue:
            return pick.choice((None, "", "mine", "UTC", "5s", True, -1, 2**62, 1.5, float("inf"), (), ("a", "b")))
        if isinstance(hint, types.UnionType):
            members = [m for m in typing.get_args(hint) if m is not type(None)]
            return None if pick.random() < 0.5 else self._value(members[0], name)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            return tuple(self._value(args[0], name) for _ in range(pick.randint(0, 3)))
        if origin is Mapping:
            return {pick.choice(OPTIONS): self._value(args[1], name) for _ in range(pick.randint(0, 3))}
        if issubclass(hint, IntEnum):
            return pick.choice(list(hint))
        if issubclass(hint, Message):
            return self.filled(hint)
        return self._plain(hint, name)

    def _plain(self, hint: type, name: str) -> Any:
        pick = self._random
        if hint is bool:
            return pick.random() < 0.5
        if hint is int:
            small = pick.choice((0, 1, 5, 500, pick.randint(0, 600)))
            return small if name in ("info", "data_type", "sequence") else pick.choice((small, 60, -1, 2**31))
        if hint is str:
            return self._sql() if name in ("query", "sql") else self._text()
        if name == "json":
            return pick.choice(
                (
                    b"{}",
                    b'{"received": 1}',
                    b"[" * 5000,
                    b"{",
                    b"null",
                    b'{"last_error": "\\ud800"}',
                    b'{"x": ' + b"[" * 800 + b"]" * 800 + b"}",
                )
            )
        if name == "params":
            return pick.choice((b"", self._stream(), self.damaged(self._stream())))
        if name in ("ticket", "info") and self._tickets:
            return pick.choice(self._tickets)
        return (
            pick.choice(self._handles) if self._handles and pick.random() < 0.8 else pick.randbytes(pick.randint(0, 20))
        )

    def _stream(self) -> bytes:
        batch = self._random.choice(self._batches)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue().to_pybytes())

    def _text(self) -> str:
        pick = self._random
        if pick.random() < 0.8:
            return pick.choice(NAMES)
        letters = string.printable + "äß€😀\x00%_\\\"'"
        return "".join(pick.choice(letters) for _ in range(pick.randint(0, 30)))

    def _sql(self) -> str:
        pick = self._random
        sql = pick.choice(STATEMENTS)
        if pick.random() < 0.6:
            return sql
        words = sql.split(" ")
        changes: Sequence[Callable[[int], Any]] = (
            lambda at: words.pop(at),
            lambda at: words.insert(at, words[pick.randrange(len(words))]),
            lambda at: words.insert(at, pick.choice(("(", ")", "'", '"', ";", "--", "NULL", "?", "*", self._text()))),
            lambda at: words.__setitem__(at, pick.choice(pick.choice(STATEMENTS).split(" "))),
        )
        for _ in range(pick.randint(1, 3)):
            if words:
                pick.choice(changes)(pick.randrange(len(words)))
        return " ".join(words)

    # --- damage

    def damaged(self, data: bytes) -> bytes:
        """Return ``data`` with one to three things wrong with it."""
        for _ in range(self._random.randint(1, 3)):
            data = self._random.choice(DAMAGES)(self._random, data)
        return data


def _flip(pick: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\x80"
    at = pick.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << pick.randrange(8))]) + data[at + 1 :]


def _cut(pick: random.Random, data: bytes) -> bytes:
    return data[: pick.randint(0, len(data))]


def _put_in(pick: random.Random, data: bytes) -> bytes:
    at = pick.randint(0, len(data))
    return data[:at] + pick.randbytes(pick.randint(1, 8)) + data[at:]


def _repeat(pick: random.Random, data: bytes) -> bytes:
    start = pick.randint(0, len(data))
    return data[:start] + data[start : start + pick.randint(0, 30)] * pick.choice((2, 3, 50)) + data[start:]


def _unknown_field(pick: random.Random, data: bytes) -> bytes:
    number = pick.choice((4, 15, 100, 15_000))  # as a varint with wire type 2, then its length
    tag = (number << 3) | 2
    varint = b""
    while tag > 127:
        varint, tag = varint + bytes([tag & 127 | 128]), tag >> 7
    return data + varint + bytes([tag, 3]) + b"abc"


def _within(pick: random.Random, data: bytes) -> bytes:
    """Damage what is inside an Any, or its type, and leave the Any sound."""
    try:
        wrapper = AnyMessage.FromString(data)
    except ValueError:
        return _flip(pick, data)
    except Exception:  # protobuf's DecodeError
        return _flip(pick, data)
    if pick.random() < 0.2:
        wrapper.type_url = pick.choice((*COMMANDS, *TICKETS, "", "x", "type.googleapis.com/", "/" * 1000))
    else:
        wrapper.value = pick.choice((_flip, _cut, _put_in, _repeat, _unknown_field))(pick, wrapper.value)
    return bytes(wrapper.SerializeToString())


DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_within, _within, _within),
    *(_flip, _cut, _put_in, _repeat, _unknown_field),
)
