from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pyarrow as pa
import pytest

from tickflight_server.errors import CancelledError
from tickflight_server.query.ahead import LANES, MOST, Ahead, Batches


def batch(number: int) -> pa.RecordBatch:
    return pa.record_batch({"n": [number]})


def numbers(batches: Batches) -> list[int]:
    return [one["n"][0].as_py() for one in batches]


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    with closing(Ahead(2)) as made:
        yield made


class Source:
    """Counts what is made of it, and lets nothing be made before ``go`` is set."""

    def __init__(self, sizes: list[int]) -> None:
        self.made = self.opened = 0
        self.go = threading.Event()
        self._sizes = sizes

    def sources(self) -> Iterator[Batches]:
        first = 0
        for size in self._sizes:
            yield self._one(range(first, first + size))
            first += size

    def _one(self, those: range) -> Batches:
        self.opened += 1
        for number in those:
            assert self.go.wait(5)
            self.made += 1
            yield batch(number)


def settled(read: Callable[[], int]) -> int:
    """Return what ``read`` does once it no longer changes."""
    before = -1
    while (now := read()) != before:
        before = now
        time.sleep(0.02)
    return now


def test_batches_come_in_the_order_of_their_sources(ahead: Ahead) -> None:
    for sizes in ([], [0], [3], [0, 0, 2], [5, 0, 1, 7, 0], [1] * 20):
        source = Source(sizes)
        source.go.set()
        assert numbers(ahead.batches(source.sources())) == list(range(sum(sizes)))


def test_no_more_is_made_than_is_promised(ahead: Ahead) -> None:
    source = Source([50, 50, 50])
    source.go.set()
    batches = ahead.batches(source.sources())
    assert settled(lambda: source.made) == 0  # nobody has asked
    for taken in range(1, 60):
        next(batches)
        if taken % 20 == 1:
            assert settled(lambda: source.made) <= taken + LANES * MOST
    assert source.opened <= LANES + 1


def test_an_error_comes_after_the_batches_before_it(ahead: Ahead) -> None:
    def failing() -> Batches:
        yield batch(0)
        raise OSError("the disk is gone")

    batches = ahead.batches([failing(), failing()])
    assert next(batches)["n"].to_pylist() == [0]
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_who_is_first_in_a_result_is_served_first() -> None:
    with closing(Ahead(1)) as ahead:
        source = Source([1])
        order: list[int] = []
        readers = [threading.Thread(target=numbers, args=(ahead.batches(source.sources()),))]

        def of(rank: int) -> Batches:
            order.append(rank)
            yield batch(rank)

        readers += [threading.Thread(target=numbers, args=(ahead.batches([of(rank)], rank),)) for rank in (9, 5, 0)]
        for reader in readers:  # the first keeps the only thread from the others
            reader.start()
            time.sleep(0.01)
        source.go.set()
        for reader in readers:
            reader.join(5)
        assert order == [0, 5, 9]


def test_who_waits_gets_an_error_when_it_is_closed() -> None:
    ahead = Ahead(1)
    source = Source([1])
    failures: list[BaseException] = []

    def read(batches: Batches) -> None:
        try:
            numbers(batches)
        except CancelledError as error:
            failures.append(error)

    readers = [threading.Thread(target=read, args=(ahead.batches(source.sources()),)) for _ in range(3)]
    for reader in readers:
        reader.start()
    time.sleep(0.02)
    ahead.close()
    source.go.set()
    for reader in readers:
        reader.join(5)
        assert not reader.is_alive()
    assert failures
    with pytest.raises(CancelledError):
        numbers(ahead.batches(Source([1]).sources()))
