"""Keys of rows: what a plain integer is, and entries that are the same exactly when the keys are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickflight_server.store.key_columns import INTEGER, NO_KEY, TEXT, Entries, Hasher, KeyRows, join, key_rows

ODD = [
    *(
        "",
        "0",
        "00",
        "007",
        "7",
        "-5",
        "-0",
        "+1",
        " 12",
        "12 ",
        "1 2",
        "１２",
        "1e5",
        "1.0",
        "1_000",
        "0x10",
        "12\n",
        "12\0",
    ),
    *("0xFFFFFFFFF", "0XFFFFFFFFFF", str(2**63 - 1), str(2**63), str(2**64), "9" * 19, "9" * 20, "9" * 300, "ETH-123"),
    *(
        "a" * 63,
        "a" * 64,
        "a" * 65,
        "a" * 200,
        "a" * 64 + "b",
        "nan",
        "inf",
        "true",
        "5b3a1e0c-7f0e-4b7e-9a55-0f6a1c2b3d4e",
    ),
]
ids = st.one_of(
    st.sampled_from(ODD),
    st.integers(0, 2**64).map(str),
    st.integers(-10, 30).map(str),
    st.text(max_size=6),
    st.text("0123456789x- ", max_size=20),
    st.none(),
)


def is_plain(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII) is not None and int(text) < 2**63


def rows_of(*columns: Any, pairs: Any = None) -> KeyRows:
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, pa.string()) for c in columns]
    return key_rows(arrays, np.zeros(len(arrays[0]), np.int32) if pairs is None else np.array(pairs, np.int32))


def kinds_of(rows: KeyRows) -> list[int]:
    return [INTEGER] * len(rows) if rows.kinds is None else rows.kinds.tolist()


def as_list(entries: Entries) -> list[tuple[int, int]]:
    return list(zip(entries.high.tolist(), entries.low.tolist(), strict=True))


@given(st.lists(ids, min_size=1, max_size=20), st.integers(0, 3))
@example(ODD, 0)
@example(["7", "8", None], 0)
@example([None, ""], 0)
@example([str(2**63 - 1), str(2**63)], 0)
def test_a_plain_integer_is_what_python_writes_for_a_number_below_two_to_the_63rd(
    texts: list[str | None], skipped: int
) -> None:
    texts = texts[skipped:] if len(texts) > skipped else texts
    column = pa.array([None, "1", *texts], pa.string()).slice(2)
    rows = rows_of(column)
    expected = [NO_KEY if t is None else INTEGER if is_plain(t) else TEXT for t in texts]
    assert kinds_of(rows) == expected
    for text, kind, value in zip(texts, expected, rows.values.tolist(), strict=True):
        if kind == INTEGER:
            assert str(value) == text
    assert (rows.kinds is None) == (set(expected) == {INTEGER})


@pytest.mark.parametrize("text", ODD)
def test_an_odd_id_alone_is_of_its_kind(text: str) -> None:
    assert kinds_of(rows_of([text])) == [INTEGER if is_plain(text) else TEXT]


@given(st.integers(1, 20), st.lists(st.integers(0, 10**20), min_size=1, max_size=20), st.booleans(), st.data())
def test_ids_of_one_length_are_what_they_are_among_others(
    width: int, numbers: list[int], odd: bool, data: st.DataObject
) -> None:
    texts = [str(n).zfill(width)[-width:] for n in numbers]
    if odd:
        texts.append(data.draw(st.text("0123456789x-/: ", min_size=width, max_size=width)))
    alike = key_rows([pa.array(["", *texts]).slice(1)], np.zeros(len(texts), np.int32))
    mixed = key_rows([pa.array([*texts, "x"])], np.zeros(len(texts) + 1, np.int32))
    kinds = alike.kinds if alike.kinds is not None else np.full(len(texts), INTEGER)
    assert mixed.kinds is not None
    assert kinds.tolist() == mixed.kinds[:-1].tolist() == [INTEGER if is_plain(t) else TEXT for t in texts]
    plain = kinds == INTEGER
    assert alike.values[plain].tolist() == [int(t) for t in texts if is_plain(t)]


def test_a_column_of_integers_has_plain_integers_from_zero_on() -> None:
    rows = rows_of(pa.array([5, -5, None, 0, 2**63 - 1], pa.int64()))
    assert kinds_of(rows) == [INTEGER, TEXT, NO_KEY, INTEGER, INTEGER]
    assert rows.values[[0, 3, 4]].tolist() == [5, 0, 2**63 - 1]


def test_a_row_with_a_null_in_one_of_several_columns_has_no_key() -> None:
    assert kinds_of(rows_of(["1", None, "3"], [None, "2", "3"])) == [NO_KEY, NO_KEY, TEXT]


def test_no_rows_have_no_keys() -> None:
    assert kinds_of(rows_of([])) == []
    assert kinds_of(rows_of([], [])) == []
    assert kinds_of(rows_of(pa.array([], pa.int64()))) == []


@given(st.lists(st.tuples(st.integers(0, 2), ids.filter(bool)), min_size=1, max_size=30), st.randoms())
def test_texts_have_the_same_entry_exactly_when_they_are_the_same(keys: list[tuple[int, str]], chance: Any) -> None:
    hasher = Hasher(1)
    found: dict[tuple[int, str], tuple[int, int]] = {}
    shuffled = [*keys, *chance.sample(keys, len(keys) // 2)]
    chance.shuffle(shuffled)
    half = len(shuffled) // 2
    for some in (keys, shuffled[:half], shuffled[half:]):  # whatever stands beside a text in its batch
        if some:
            pairs, texts = zip(*some, strict=True)
            column = pa.array(["x" * 70, *texts, "y"], pa.string()).slice(1, len(texts))
            for key, entry in zip(some, as_list(hasher.texts([column], np.array(pairs, np.int32))), strict=True):
                assert found.setdefault(key, entry) == entry
                assert entry[1] >= 2**63
    assert len(set(found.values())) == len(found)


columns = st.tuples(
    st.sampled_from(["", "a", "b", "ab", "a\0", "1", "2", "12"]), st.integers(-3, 3), st.text(max_size=3)
)


@given(st.lists(columns, min_size=1, max_size=30))
def test_several_columns_have_the_same_entry_exactly_when_all_are_the_same(keys: list[tuple[str, int, str]]) -> None:
    one, two, three = zip(*keys, strict=True)
    rows = rows_of(
        pa.array(one), pa.array(two, pa.timestamp("us")), pa.array(three).dictionary_encode(), pairs=[1] * len(keys)
    )
    entries = as_list(Hasher(3).texts(rows.columns, rows.pairs))
    assert len(set(entries)) == len(set(keys)) == len(set(zip(keys, entries, strict=True)))


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1)), min_size=1, unique=True))
def test_integers_have_entries_of_their_own(keys: list[tuple[int, int]]) -> None:
    pairs, values = (np.array(c) for c in zip(*keys, strict=True))
    entries = as_list(Hasher(1).integers(values.astype(np.int64), pairs.astype(np.int32)))
    assert len(set(entries)) == len(keys)
    assert [low for _, low in entries] == values.tolist()


def test_entries_are_spread_evenly() -> None:
    hasher, pairs = Hasher(1), np.zeros(100_000, np.int32)
    numbers = np.arange(100_000)
    texts = pa.array([f"id-{i}" for i in numbers])
    for entries in (
        hasher.integers(numbers, pairs),
        hasher.texts([texts], pairs),
        hasher.integers(numbers << 40, pairs),
    ):
        counts = np.bincount((entries.high >> np.uint64(54)).astype(np.int64), minlength=1024)
        assert counts.min() > 0
        assert counts.max() < 200  # 98 each on average


def test_rows_are_taken_with_all_they_have() -> None:
    rows = rows_of(["5", "x", None, "7"], pairs=[1, 2, 3, 4]).take(np.array([3, 1]))
    assert rows.columns[0].to_pylist() == ["7", "x"]
    assert (rows.pairs.tolist(), rows.values[0], kinds_of(rows)) == ([4, 2], 7, [INTEGER, TEXT])
    assert rows.of_kind(TEXT).tolist() == [1]
    assert rows_of(["5"]).of_kind(INTEGER) is None


def test_entries_are_joined_in_order() -> None:
    one = Entries(np.array([3], np.uint64), np.array([4], np.uint64))
    two = Entries(np.array([1], np.uint64), np.array([2], np.uint64))
    assert as_list(join([one, two])) == [(3, 4), (1, 2)]
    assert join([one]) is one
