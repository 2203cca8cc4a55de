"""CommandGetXdbcTypeInfo and CommandGetSqlInfo over the wire."""

from __future__ import annotations

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand

from tickflight.wire.commands import CommandGetSqlInfo, CommandGetXdbcTypeInfo

BIGINT, VARCHAR = -5, 12


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [(BIGINT, {BIGINT}), (VARCHAR, {VARCHAR}), (0, set()), (12345, set()), (-(2**31), set()), (2**31 - 1, set())],
)
def test_types_of_a_number_are_those(ada: ByHand, kind: int, numbers: set[int]) -> None:
    table = ada.get(CommandGetXdbcTypeInfo(kind))
    assert set(table["data_type"].to_pylist()) == numbers


def test_all_types_are_sorted_by_number_then_name(ada: ByHand) -> None:
    rows = ada.get(CommandGetXdbcTypeInfo()).select(["data_type", "type_name"]).to_pylist()
    assert len(rows) > 10
    assert rows == sorted(rows, key=lambda row: (row["data_type"], row["type_name"]))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((0,), [0]),
        ((8, 3, 8), [3, 8]),
        ((4_000_000_000,), []),
        ((9_999, 0), [0]),
        ((2**32 - 1,), []),
    ],
    ids=str,
)
def test_codes_that_are_asked_for_are_told_once_and_unknown_ones_are_left_out(
    ada: ByHand, asked: tuple[int, ...], told: list[int]
) -> None:
    assert sorted(ada.get(CommandGetSqlInfo(asked))["info_name"].to_pylist()) == told


def test_no_code_asks_for_all(ada: ByHand) -> None:
    codes = ada.get(CommandGetSqlInfo())["info_name"].to_pylist()
    assert len(codes) == len(set(codes))
    assert max(codes) <= 576
    assert set(range(12)) - {6, 7} <= set(codes)


def test_many_codes_are_no_burden(ada: ByHand) -> None:
    codes = ada.get(CommandGetSqlInfo(tuple(range(100_000))))["info_name"].to_pylist()
    assert set(codes) == set(ada.get(CommandGetSqlInfo())["info_name"].to_pylist())


def test_adbc_reads_the_facts(adbc_ada: adbc.Connection) -> None:
    info = adbc_ada.adbc_get_info()
    assert info["vendor_name"] == "tickflight"
    assert info["vendor_arrow_version"]
