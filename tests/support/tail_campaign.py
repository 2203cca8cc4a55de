"""Readers of tails whose connections are cut, who are killed, and whose server is killed, while rows come in.

The rule of this file: a disconnect is a real one, and the next comes when the reader that it hit has got rows again.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from ports import free_port
from system_processes import Program, ServerProgram, wait_for

import tickflight

READER = Path(__file__).with_name("tail_reader.py")
LAKEHOUSE = {
    "flush_interval_seconds": 0.3,
    "ring_mb": 1,
    "buffer_size_mb": 1,
    "flush_partition_seconds": 1,
    "compact_share": 0.5,
}
SYMBOLS = ("A", "B", "C", "D")
_ROWS = 40
_EVERY_S = 0.01
_OLD_US = 1_600_000_000_000_000  # of every tenth row: late by years, so that it lands in another day's part


class Proxy:
    """Forwards connections to a port of this machine, and cuts them all when it is told to."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Close all connections; return how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                here.close()
                continue
            with self._lock:
                self._pairs.append((here, there))
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    source.close()


class Reader:
    """A reader's process, and what it wrote down."""

    def __init__(self, folder: Path, name: str, port: int, options: Mapping[str, Any]) -> None:
        self.name = name
        self.proxy = Proxy(port)
        self.options = options
        self._folder = folder
        self._path = folder / f"{name}.jsonl"
        self._start()

    def _start(self) -> None:
        arguments = [str(READER), f"127.0.0.1:{self.proxy.port}", str(self._path), json.dumps(self.options)]
        self._program = Program(arguments, self._folder / f"{self.name}.log")

    def kill(self) -> None:
        self._program.kill()
        self._start()

    def close(self) -> None:
        self._program.kill()
        self.proxy.close()

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def has(self, rows: int) -> bool:
        return sum(1 for _ in self.rows()) >= rows

    def rows(self) -> Iterator[tuple[int, float]]:
        text = self._path.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():
            _, seq, price = json.loads(line)
            yield from zip(seq, price, strict=True)


class Campaign:
    """A server, a writer and readers: all rows from the first, from a time far back, of some symbols, and from now.

    Args:
        folder: where all of it lives.
        seed: chooses the disconnects.
        before: rows that are there, in parts, before the readers begin.
    """

    def __init__(self, folder: Path, seed: int, *, before: int) -> None:
        self._rng = random.Random(seed)
        self._folder = folder
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump({"lakehouse": LAKEHOUSE}))
        self._port = free_port()
        self._server = self._serve()
        self.counts: Counter[str] = Counter()
        self._written = 0
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        with tickflight.connect(self._server.address) as client:
            self._write(client, before)
            client.flush()
        options: Mapping[str, Mapping[str, Any]] = {
            "all": {"since": 0},
            "far": {"since": "2021-01-01", "columns": ["price", "seq"]},
            "some": {"since": 0, "symbols": ["A", "C"], "where": "price % 3 = 0"},
        }
        self.readers = [Reader(folder, name, self._port, chosen) for name, chosen in options.items()]
        self._thread = threading.Thread(target=self._write_on)
        self._thread.start()

    def _serve(self) -> ServerProgram:
        return ServerProgram(self._folder, "--config", str(self._config), port=self._port)

    def _write(self, client: tickflight.Client, rows: int) -> None:
        with client.writer("trades", retry_timeout_s=None) as writer:
            while rows > 0:
                writer.write(self._batch())
                rows -= _ROWS

    def _batch(self) -> pa.RecordBatch:
        first, now = self._written, time.time_ns() // 1000
        self._written += _ROWS
        numbers = range(first, first + _ROWS)
        return pa.RecordBatch.from_pydict(
            {
                "exchange": ["X"] * _ROWS,
                "symbol": [SYMBOLS[n % len(SYMBOLS)] for n in numbers],
                "price": [float(n) for n in numbers],
                "id": [str(n) for n in numbers],
                "timestamp": pa.array([_OLD_US if n % 10 == 0 else now for n in numbers], pa.timestamp("us")),
            }
        )

    def _write_on(self) -> None:
        try:
            with (
                tickflight.connect(f"127.0.0.1:{self._port}") as client,
                client.writer("trades", retry_timeout_s=None) as writer,
            ):
                while not self._stop.wait(_EVERY_S):
                    writer.write(self._batch())
        except BaseException as error:
            self._failures.append(error)
            raise

    # --- disconnects

    def run(self, disconnects: int, *, server_kills: int, reader_kills: int) -> None:
        """Disconnect so many times, each time one reader, or all where the server is killed."""
        kinds = ["server"] * server_kills + ["reader"] * reader_kills
        kinds += ["connection"] * (disconnects - len(kinds))
        self._rng.shuffle(kinds)
        for kind in kinds:
            reader = self._rng.choice(self.readers)
            before = reader.size
            self._disconnect(kind, reader)
            wait_for(lambda before=before, reader=reader: reader.size > before, f"{reader.name} goes on after {kind}")
            assert not self._failures
            self.counts[kind] += 1
            time.sleep(self._rng.random() * 0.05)  # anywhere in what goes on

    def _disconnect(self, kind: str, reader: Reader) -> None:
        if kind == "connection":
            wait_for(reader.proxy.cut, f"{reader.name} is connected")
        elif kind == "reader":
            reader.kill()
        else:
            self._server.kill()
            self._server = self._serve()

    # --- the end

    def check(self) -> dict[str, int]:
        """Stop writing; return how many rows each reader has, which has all that it is to have, once and in order."""
        self._stop.set()
        self._thread.join()
        rows = self._server.query("SELECT seq, price, symbol, timestamp FROM trades ORDER BY seq")
        assert [r["seq"] for r in rows] == list(range(1, self._written + 1))
        parts = self._server.query("SELECT count(*) AS n FROM system.parts")[0]["n"]
        assert parts > 0
        wanted: dict[str, Callable[[Mapping[str, Any]], bool]] = {
            "all": lambda r: True,
            "far": lambda r: r["timestamp"].year >= 2021,
            "some": lambda r: r["symbol"] in ("A", "C") and r["price"] % 3 == 0,
        }
        counts = {}
        for reader in self.readers:
            expected = [(r["seq"], r["price"]) for r in rows if wanted[reader.name](r)]
            with contextlib.suppress(AssertionError):
                wait_for(partial(reader.has, len(expected)), f"{reader.name} has all")
            got = list(reader.rows())
            assert got == expected, _difference(reader.name, got, expected)
            counts[reader.name] = len(got)
        return counts

    def close(self) -> None:
        self._stop.set()
        for reader in self.readers:
            reader.close()
        self._server.kill()
        self._thread.join()


def _difference(name: str, got: list[tuple[int, float]], expected: list[tuple[int, float]]) -> str:
    missing, more = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    again = [row for row, n in Counter(got).items() if n > 1]
    return f"{name}: missing {missing[:9]}, too many {more[:9]}, twice {again[:9]}, {len(got)} of {len(expected)}"
