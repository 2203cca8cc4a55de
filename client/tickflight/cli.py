"""The command ``tickflight``: a query, its rows; a list of tables.

The rule of this file: rows go to standard output and nothing else does; secrets come from the environment.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from tickflight.client import Client, connect
from tickflight.connection import DEFAULT_ADDRESS
from tickflight.errors import TickflightError
from tickflight.preview import cut
from tickflight.result import Result

_ROWS_SHOWN = 50
_CELL_CHARS = 40


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process: 0, 1 for an error of the server's, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        with connect(
            options.address,
            username=options.user,
            password=os.environ.get("TICKFLIGHT_PASSWORD") if options.user else None,
            token=None if options.user else os.environ.get("TICKFLIGHT_TOKEN"),
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
        description="Query a tickflight server.",
        epilog="TICKFLIGHT_PASSWORD holds the password of --user, TICKFLIGHT_TOKEN a bearer token.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    query = commands.add_parser("query", help="run a SQL query and print its rows")
    query.add_argument("sql")
    query.add_argument("--format", choices=sorted(_FORMATS), default="table")
    query.add_argument("--output", "-o", help="file to write instead of standard output")
    query.set_defaults(run=_query)
    tables = commands.add_parser("tables", help="list the tables and their columns")
    tables.set_defaults(run=_tables)
    for command in (query, tables):
        command.add_argument("--address", default=os.environ.get("TICKFLIGHT_ADDRESS", DEFAULT_ADDRESS))
        command.add_argument("--user")
    return parser


def _query(client: Client, options: argparse.Namespace) -> None:
    write = _FORMATS[options.format]
    # progress is for who waits, not between the rows
    rows_seen = not options.output and options.format != "table" and sys.stdout.isatty()
    with client.sql(options.sql, progress=False if rows_seen else None) as result:
        if options.output:
            with open(options.output, "wb") as file:  # noqa: PTH123 - the path is the user's, as given
                write(result, file)
        else:
            write(result, sys.stdout.buffer)
            sys.stdout.flush()


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


def _write_csv(result: Result, file: IO[bytes]) -> None:
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


def _write_json(result: Result, file: IO[bytes]) -> None:
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


def _write_arrow(result: Result, file: IO[bytes]) -> None:
    with pa.ipc.new_stream(file, result.schema) as writer:
        for batch in result:
            writer.write_batch(batch)


def _write_parquet(result: Result, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, result.schema, compression="zstd") as writer:
        for batch in result:
            writer.write_batch(batch)


_FORMATS: Mapping[str, Callable[[Result, IO[bytes]], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "arrow": _write_arrow,
    "parquet": _write_parquet,
}
