"""The command ``tickflight``: a query, its rows; a table that is followed; bars; a book; a list of tables.

The rule of this file: rows go to standard output and nothing else does; secrets come from the environment.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import IO, Any, Protocol

import pyarrow as pa

from tickflight import cli_tail
from tickflight.client import Client, connect
from tickflight.connection import DEFAULT_ADDRESS
from tickflight.errors import QueryError, TickflightError
from tickflight.preview import cut
from tickflight.result import Result

_ROWS_SHOWN = 50
_CELL_CHARS = 40


class Rows(Protocol):
    """What has a schema and batches: a result, a tail."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""

    def __iter__(self) -> Iterator[pa.RecordBatch]: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process: 0, 1 for an error of the server's, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        with connect(
            options.address,
            username=options.user,
            tls_roots=options.tls_roots,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
        ) as client:
            options.run(client, options)
    except TickflightError as error:
        print(f"tickflight: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (pa.ArrowException, OverflowError) as error:
        # a value that the format asked for cannot hold
        print(f"tickflight: --format {options.format}: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # whoever read the rows has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"tickflight: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tickflight",
        description="Query and follow a tickflight server.",
        epilog="TICKFLIGHT_PASSWORD holds the password of --user, TICKFLIGHT_TOKEN a bearer token.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    query = commands.add_parser("query", help="run a SQL query and print its rows")
    query.add_argument("sql")
    query.set_defaults(run=_query)
    tables = commands.add_parser("tables", help="list the tables and their columns")
    tables.set_defaults(run=_tables)
    tail = commands.add_parser("tail", help="follow a table: rows as they become durable")
    cli_tail.add_arguments(tail, ["arrow", "csv", "json"])
    tail.set_defaults(run=_tail)
    bars = commands.add_parser("bars", help="make bars of trades")
    bars.add_argument("symbol")
    bars.add_argument("interval", help="1m, 4h, …; for other kinds a number")
    bars.add_argument("--kind", choices=["time", "tick", "volume", "dollar"], default="time")
    bars.add_argument("-e", "--exchange")
    bars.add_argument("--from", dest="start", type=datetime.fromisoformat, help="first time, UTC")
    bars.add_argument("--to", dest="end", type=datetime.fromisoformat, help="up to this time, UTC")
    bars.set_defaults(run=_bars)
    book = commands.add_parser("book", help="show an order book as it stands, or stood at a time")
    book.add_argument("exchange")
    book.add_argument("symbol")
    book.add_argument("--at", help="a time, UTC where it has no zone; now when absent")
    book.set_defaults(run=_book)
    for command in (query, bars):
        command.add_argument("--format", choices=sorted(_FORMATS), default="table")
        command.add_argument("--output", "-o", help="file to write instead of standard output")
    for command in (query, tables, tail, bars, book):
        command.add_argument("--address", default=os.environ.get("TICKFLIGHT_ADDRESS", DEFAULT_ADDRESS))
        command.add_argument("--user")
        command.add_argument("--tls-roots", metavar="FILE", help="authority to trust, PEM")
        command.add_argument("--tls-cert", metavar="FILE", help="certificate to show, PEM")
        command.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    return parser


def _query(client: Client, options: argparse.Namespace) -> None:
    # progress is for who waits, not between the rows
    rows_seen = not options.output and options.format != "table" and sys.stdout.isatty()
    _output(client.sql(options.sql, progress=False if rows_seen else None), options)


def _bars(client: Client, options: argparse.Namespace) -> None:
    try:
        interval = options.interval if options.kind == "time" else float(options.interval)
    except ValueError:
        raise QueryError(
            f"{options.interval!r} is no number: {options.kind} bars have one as their interval."
        ) from None
    exchanges = [options.exchange] if options.exchange else None
    bars = client.bars(options.symbol, interval, options.kind, options.start, options.end, exchanges=exchanges)
    _output(bars, options)


def _book(client: Client, options: argparse.Namespace) -> None:
    print(client.book(options.exchange, options.symbol, options.at))


def _output(result: Result, options: argparse.Namespace) -> None:
    write = _FORMATS[options.format]
    with result:
        if options.output:
            with open(options.output, "wb") as file:  # noqa: PTH123 - the path is the user's, as given
                write(result, file)
        else:
            write(result, sys.stdout.buffer)
            sys.stdout.flush()


def _tail(client: Client, options: argparse.Namespace) -> None:
    options.format = cli_tail.chosen_format(options.format)
    live = options.format == "live"
    with cli_tail.open_tail(client, options, live=live) as tail:
        if live:
            cli_tail.draw(tail, " ".join([options.table, *(options.symbol or ())]), options.rows)
        else:
            _STREAMED[options.format](cli_tail.Rows(tail, sys.stdout.buffer, options.rows), sys.stdout.buffer)


def _tables(client: Client, options: argparse.Namespace) -> None:
    for name in client.tables():
        columns = ", ".join(f"{f.name} {f.type}" for f in client.schema(name))
        print(f"{name}: {columns}")


def _write_table(result: Result, file: IO[bytes]) -> None:
    """Write the first rows as text in columns, and how many there are."""
    table = result.arrow()
    # column by column: two columns may have one name
    columns = [[_cell(v) for v in column.to_pylist()] for column in table.slice(0, _ROWS_SHOWN).columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    names = table.schema.names
    widths = [max([len(n), *(len(r[i]) for r in rows)]) for i, n in enumerate(names)]
    lines = [names, ["-" * w for w in widths], *rows]
    text = "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    more = f" (the first {_ROWS_SHOWN} are shown)" if table.num_rows > _ROWS_SHOWN else ""
    file.write(f"{text}\n{table.num_rows} rows{more}\n".encode())


def _cell(value: Any) -> str:
    return "" if value is None else cut(str(value), _CELL_CHARS)


def _write_csv(result: Rows, file: IO[bytes]) -> None:
    import pyarrow.csv as csv

    # CSV has no lists: they are written as JSON
    nested = [i for i, field in enumerate(result.schema) if pa.types.is_nested(field.type)]
    schema = result.schema
    for i in nested:
        schema = schema.set(i, pa.field(schema.field(i).name, pa.string()))
    with csv.CSVWriter(file, schema) as writer:
        for batch in result:
            columns = batch.columns
            for i in nested:
                columns[i] = pa.array([None if v is None else _json(v) for v in columns[i].to_pylist()], pa.string())
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _write_json(result: Rows, file: IO[bytes]) -> None:
    """Write one JSON object a line."""
    for batch in result:
        for row in batch.to_pylist():
            file.write(_json(row).encode() + b"\n")


def _json(value: Any) -> str:
    """Return ``value`` as JSON, which has no NaN and no infinity: they become null."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_arrow(result: Rows, file: IO[bytes]) -> None:
    with pa.ipc.new_stream(file, result.schema) as writer:
        for batch in result:
            writer.write_batch(batch)


def _write_parquet(result: Result, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, result.schema, compression="zstd") as writer:
        for batch in result:
            writer.write_batch(batch)


_STREAMED: Mapping[str, Callable[[Rows, IO[bytes]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "arrow": _write_arrow,
}
_FORMATS: Mapping[str, Callable[[Result, IO[bytes]], None]] = {
    **_STREAMED,
    "table": _write_table,
    "parquet": _write_parquet,
}
