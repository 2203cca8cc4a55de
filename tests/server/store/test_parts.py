"""The index of parts: columns that never change, in the order in which they were added."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.store.partition import Part
from tickflight_server.store.parts import EMPTY, PartIndex, make_index

numbers = st.integers(0, 2**63 - 1)
parts = st.lists(
    st.builds(
        Part,
        path=st.text(max_size=5),
        exchange=st.text(max_size=5),
        symbol=st.text(max_size=5),
        **dict.fromkeys(("day", "rows", "nbytes", "min_us", "max_us", "min_seq", "max_seq"), numbers),
    ),
    max_size=6,
)


def rows(index: PartIndex) -> list[Part]:
    return [Part(*(getattr(index, f.name)[i] for f in fields(PartIndex))) for i in range(len(index))]


@given(first=parts, second=parts)
def test_an_index_holds_the_parts_in_order_and_extending_makes_a_new_one(first: list[Part], second: list[Part]) -> None:
    index = make_index(first)
    extended = index.extended(second)
    assert rows(index) == first
    assert rows(extended) == first + second


@given(items=parts, data=st.data())
def test_choosing_keeps_exactly_the_masked_parts(items: list[Part], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    chosen = make_index(items).chosen(np.array(mask, dtype=bool))
    assert rows(chosen) == [p for p, kept in zip(items, mask, strict=True) if kept]


def test_the_fields_are_those_of_a_part() -> None:
    assert [f.name for f in fields(PartIndex)] == [f.name for f in fields(Part)]


def test_an_index_adds_up_rows_and_bytes() -> None:
    part = Part("p", "X", "A", 1, 10, 100, 0, 1, 1, 10)
    index = make_index([part, part])
    assert (len(index), index.total_rows, index.total_bytes) == (2, 20, 200)
    assert (len(EMPTY), EMPTY.total_rows, EMPTY.total_bytes) == (0, 0, 0)


def test_an_index_cannot_be_reassigned() -> None:
    with pytest.raises(AttributeError):
        EMPTY.path = np.array([])  # type: ignore[misc]
