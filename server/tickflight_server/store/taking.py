"""What becomes of a batch that is offered: checks before, and one answer for all its parts after.

The rule of this file: nothing is acknowledged before all rows of the batch, the rejected ones included, are durable.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

from tickflight_server.errors import InputError
from tickflight_server.store.committer import Ack

PRODUCER_BYTES_MAX = 64
SEQUENCE_MAX = (1 << 63) - 1  # a Delta table's application transaction is a signed 64-bit number


def check_producer(producer: bytes, sequence: int) -> None:
    """Refuse what cannot be a producer's name and sequence.

    Raises:
        InputError: it is not.
    """
    if len(producer) > PRODUCER_BYTES_MAX:
        raise InputError(f"the producer's id has {len(producer)} bytes, at most {PRODUCER_BYTES_MAX} are taken.")
    if producer and not 1 <= sequence <= SEQUENCE_MAX:
        raise InputError(
            f"sequence {sequence} of a producer's batch is not from 1 to {SEQUENCE_MAX}.",
            hint="Count a producer's batches from 1.",
        )


@dataclass(frozen=True)
class Taken:
    """What becomes of a batch: its first ``seq``, what ends when it is durable, and what of it was there already."""

    first_seq: int = 0
    future: Future[None] | None = None
    known: bool = False
    repeated: int = 0


def join(results: list[Taken], rows: int, rejected: int) -> Future[Ack]:
    """Return a future that ends with all of ``results``, or with the first error among them."""
    taken = results[0]
    # a batch without a row that fits is known by its rejected rows
    duplicate = results[0 if rows else -1].known
    answer = Ack(0 if duplicate else taken.first_seq, rows - taken.repeated, rejected, duplicate, taken.repeated)
    waiting = [t.future for t in results if t.future is not None]
    joined: Future[Ack] = Future()
    if not waiting:
        joined.set_result(answer)
        return joined
    left = len(waiting)
    lock = threading.Lock()

    def done(future: Future[None]) -> None:
        nonlocal left
        with lock:
            left -= 1
            error = future.exception()
            if joined.done():
                return
            if error is not None:
                joined.set_exception(error)
            elif left == 0:
                joined.set_result(answer)

    for future in waiting:
        future.add_done_callback(done)
    return joined
