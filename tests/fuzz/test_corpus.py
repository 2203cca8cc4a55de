"""What a fuzzer learnt from, or found, is taken as it should be; and so is a sample of what is new."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_targets import STREAMS, TARGETS, arrow_of

CORPUS = Path(__file__).parent / "corpus"
CORPUS_KB_MAX = 200


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_is_taken_as_it_should_be(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < CORPUS_KB_MAX << 10


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_any_types_and_damaged_ones_lose_no_row_and_end_nothing(
    name: str, seed: int, messages: Callable[[int, int], int], counts: Counter[str]
) -> None:
    pick, data = random.Random(f"{name}/{seed}"), b""
    number = messages(1500, 200_000)
    for _ in range(number):
        data = arrow_of(data, pick.getrandbits(32), lead=STREAMS[name])
        TARGETS[name](data)
    counts["streams of Arrow's format"] = number
