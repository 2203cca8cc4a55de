"""What every worker does alike: requests and answers as JSON lines, and the clock.

The rule of this file: only the product's own work is timed. Rows are brought into the product's form before the clock
starts, and answers are looked at after it has stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

READY_S = 60.0


class CannotError(Exception):
    """The product has no such operation; the text says why."""


class Product:
    """A product under test. What a subclass does not define, the product cannot do."""

    version = ""

    def load(self, path: Path) -> None:
        """Bring the rows of a Parquet file into table ``trades``."""
        raise CannotError("it takes no rows")

    def ask(self, question: dict[str, Any]) -> pa.Table:
        """Return the answer to a question, with every row in the client's memory."""
        raise CannotError("it answers no questions")

    def prepare(self, batches: list[pa.RecordBatch]) -> Sequence[Any]:
        """Return batches in the form that ``ingest`` takes."""
        return batches

    def ingest(self, batches: Sequence[Any]) -> None:
        """Append to ``trades``, one batch after the other; all of it is durable and visible at the end."""
        raise CannotError("it takes no rows")

    def prepare_events(self, rows: pa.Table) -> Sequence[Any]:
        """Return trades as cryptofeed's parsers make them."""
        raise CannotError("cryptofeed has no backend for it")

    def events(self, trades: Sequence[Any]) -> None:
        """Give trades to the product's cryptofeed backend; all of them are durable and visible at the end."""
        raise CannotError("cryptofeed has no backend for it")

    def settle(self) -> None:
        """Finish what the product would do later, so that it does not fall into another's measurement."""

    def close(self) -> None:
        """Stop the server."""


def serve(make: Callable[[Path], Product]) -> None:
    """Answer the requests of standard input until it ends; the folder of the product's data is the only argument."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a product prints is not an answer
    product = make(Path(sys.argv[1]))
    try:
        print(json.dumps({"version": product.version}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = _answer(product, json.loads(line))
            except CannotError as error:
                answer = {"cannot": str(error)}
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        product.close()


def _answer(product: Product, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "load":
            _, seconds = _timed(lambda: product.load(Path(request["path"])))
            return {"seconds": seconds}
        case "ask":
            tables, seconds = _timed(lambda: [product.ask(question) for question in request["questions"]])
            return {
                "seconds": seconds,
                "rows": sum(table.num_rows for table in tables),
                "sum": sum(_sum(table) for table in tables),
            }
        case "ingest":
            batches = pq.read_table(request["path"]).combine_chunks().to_batches(max_chunksize=request["batch_rows"])
            prepared = product.prepare(batches)
            _, seconds = _timed(lambda: product.ingest(prepared))
            return {"seconds": seconds, "rows": sum(batch.num_rows for batch in batches)}
        case "events":
            trades = product.prepare_events(pq.read_table(request["path"]))
            _, seconds = _timed(lambda: product.events(trades))
            return {"seconds": seconds, "rows": len(trades)}
        case "settle":
            _, seconds = _timed(product.settle)
            return {"seconds": seconds}
    raise ValueError(request["do"])


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _sum(table: pa.Table) -> float:
    """Return the sum of all numbers of an answer, by which two answers are compared."""
    total = 0.0
    for column in table.columns:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
            total += float(pc.sum(column.cast(pa.float64())).as_py() or 0.0)
    return total


def plain(table: pa.Table) -> pa.Table:
    """Return ``table`` with text in the place of dictionaries, for products that have none."""
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def free_port() -> int:
    """Return a TCP port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until ``process`` listens.

    Raises:
        RuntimeError: it ended, or did not listen within a minute.
    """
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not come up: exit status {process.poll()}")


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; its output goes to the worker's standard error."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
