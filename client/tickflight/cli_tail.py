"""``tickflight tail``: rows as they come, as a view that is drawn again and again, or one after the other.

The rule of this file: what comes over the wire is text on a terminal, never a command to it; and Control-C is heard
while nothing comes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import wait
from datetime import timedelta
from importlib.util import find_spec
from typing import IO, Any

import pyarrow as pa

from tickflight.background import Worker
from tickflight.client import Client
from tickflight.errors import QueryError
from tickflight.preview import cut, printable
from tickflight.tail import Tail

_TURN_S = 0.1  # how soon Control-C is heard, and how often the view is drawn anew
_RATE_S = 5.0  # rows a second are those of so long
_ROWS_KEPT = 200
_CELL_CHARS = 40
_LINES_AROUND = 5  # of the view: what it is of, heads, rules
_SINCE = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_arguments(parser: argparse.ArgumentParser, formats: list[str]) -> None:
    """Tell ``parser`` the arguments of the command."""
    parser.add_argument("table")
    parser.add_argument("-s", "--symbol", action="append", help="only this symbol; may be given again")
    parser.add_argument("-e", "--exchange", action="append", help="only this exchange; may be given again")
    parser.add_argument("-c", "--columns", help="only these, with commas between them")
    parser.add_argument("-w", "--where", help='a condition in SQL, such as "price > 50000"')
    parser.add_argument(
        "--since", help="begin with stored rows: 10m, today, 2026-11-22T10:00, or a seq; 0 is everything"
    )
    parser.add_argument("-n", "--rows", type=int, help="end after so many rows")
    parser.add_argument("--format", choices=["live", *formats], help="live on a terminal, else json (an object a line)")


def parse_since(text: str) -> Any:
    """Return what ``Client.tail`` takes as ``since``."""
    ago = _SINCE.fullmatch(text)
    if ago:
        return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    return int(text) if text.isdecimal() else text


def chosen_format(asked: str | None) -> str:
    """Return the format: the one asked for, or what fits standard output.

    Raises:
        QueryError: it cannot be drawn here.
    """
    drawable = find_spec("rich") is not None
    if asked == "live" and not drawable:
        raise QueryError("--format live needs the package rich: pip install 'tickflight[notebook]'.")
    return asked or ("live" if drawable and sys.stdout.isatty() else "json")


def open_tail(client: Client, options: argparse.Namespace, *, live: bool) -> Tail:
    """Return the tail that the arguments ask for; a view goes on with the newest rows when it is too slow."""
    return client.tail(
        options.table,
        symbols=options.symbol,
        exchanges=options.exchange,
        columns=options.columns.split(",") if options.columns else None,
        where=options.where,
        since=parse_since(options.since) if options.since else None,
        on_lag="skip" if live else "end",
    )


class Rows:
    """The batches of a tail for a writer of files, each of which is written out before the next one is waited for."""

    def __init__(self, tail: Tail, file: IO[bytes], rows_max: int | None) -> None:
        self.schema: pa.Schema = tail.schema
        self._tail = tail
        self._file = file
        self._left = rows_max

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches until enough rows came."""
        for batch in turns(self._tail):
            if batch is not None:
                rows = batch if self._left is None else batch.slice(0, self._left)
                yield rows
                self._file.flush()
                self._left = None if self._left is None else self._left - len(rows)
                if self._left == 0:
                    return


def turns(tail: Tail) -> Iterator[pa.RecordBatch | None]:
    """Yield the batches of ``tail``, and None when nothing has come for a moment; close it in the end."""
    worker = Worker("tickflight-tail")
    coming = worker.submit(lambda: next(tail, None))
    try:
        while True:
            if not wait([coming], _TURN_S).done:
                yield None
                continue
            batch = coming.result()
            if batch is None:
                return
            yield batch
            coming = worker.submit(lambda: next(tail, None))
    finally:
        tail.close()
        worker.close()


def draw(tail: Tail, title: str, rows_max: int | None) -> None:
    """Draw the newest rows over and over, the newest on top, until the tail ends."""
    from rich.console import Console
    from rich.live import Live

    view = View(tail, title)
    console = Console()
    with Live(console=console, auto_refresh=False, screen=False) as live:
        drawn = 0.0
        for batch in turns(tail):
            if batch is not None:
                view.add(batch)
            enough = rows_max is not None and view.rows >= rows_max
            now = time.monotonic()
            if enough or now - drawn >= _TURN_S:
                drawn = now
                live.update(view.table(console.height - _LINES_AROUND), refresh=True)
            if enough:
                return


class View:
    """The newest rows of a tail, and how many come."""

    def __init__(self, tail: Tail, title: str) -> None:
        self._tail = tail
        self._title = title
        self._newest: deque[list[str]] = deque(maxlen=_ROWS_KEPT)
        self._arrived: deque[tuple[float, int]] = deque()
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in what came; of a large batch only the end can be seen."""
        self.rows += batch.num_rows
        self._arrived.append((time.monotonic(), batch.num_rows))
        last = batch.slice(max(0, batch.num_rows - _ROWS_KEPT))
        columns = [column.to_pylist() for column in last.columns]
        self._newest.extend([_cell(value) for value in row] for row in zip(*columns, strict=True))

    def rate(self) -> float:
        """Return rows a second of the last moments."""
        now = time.monotonic()
        while self._arrived and now - self._arrived[0][0] > _RATE_S:
            self._arrived.popleft()
        if not self._arrived:
            return 0.0
        return sum(rows for _, rows in self._arrived) / max(1.0, now - self._arrived[0][0])

    def table(self, height: int) -> Any:
        """Return what is to be drawn, of at most ``height`` rows."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        skipped = sum(one.last - one.first + 1 for one in self._tail.skipped)
        told = [f"{self.rows:,} rows", f"{self.rate():,.0f} rows/s", f"lag {self._tail.lag:,} rows"]
        told += [f"{skipped:,} skipped"] if skipped else []
        heading = Text(f"{self._title}: {', '.join(told)}", no_wrap=True, overflow="ellipsis")
        table = Table()
        for field in self._tail.schema:
            number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
            table.add_column(Text(printable(field.name)), no_wrap=True, justify="right" if number else "left")
        for row in list(self._newest)[: -max(1, height) - 1 : -1]:
            table.add_row(*map(Text, row))
        return Group(heading, table)


def _cell(value: Any) -> str:
    return "" if value is None else printable(cut(str(value), _CELL_CHARS))
