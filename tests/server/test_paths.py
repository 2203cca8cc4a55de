"""Names of files and folders: what comes from outside cannot leave its place, and what is built is parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.paths import (
    Layout,
    cache_file_name,
    decode_component,
    encode_component,
    is_cache_file_name,
    is_partial_file_name,
    log_file_name,
    parse_log_file_name,
    parse_part_file_name,
    part_checksum,
    part_file_name,
    partial_file_name,
    partition_folder,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(value=names)
def test_a_component_is_one_short_plain_folder_name(value: str) -> None:
    text = encode_component(value)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-~%")
    assert text not in ("", ".", "..")
    assert len(text) <= 200
    assert len(Path("symbol=" + text).parts) == 1


@given(value=names)
def test_a_component_that_is_not_too_long_is_decoded_to_what_it_was(value: str) -> None:
    text = encode_component(value)
    if len(text) < 183:
        assert decode_component(text) == value


@given(first=names, second=names)
def test_different_values_have_different_components(first: str, second: str) -> None:
    assert (encode_component(first) == encode_component(second)) == (first == second)


def test_long_values_that_differ_at_the_end_have_different_components() -> None:
    assert encode_component("é" * 300 + "a") != encode_component("é" * 300 + "b")
    assert encode_component("n" * 300 + "a") != encode_component("n" * 300 + "b")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("BTC-USDT", "BTC-USDT"),
        ("BTC/USD", "BTC%2FUSD"),
        ("..", "%2E%2E"),
        (".x", ".x"),
        ("a=b", "a%3Db"),
        ("é", "%C3%A9"),
        ("%41", "%2541"),
        (" ", "%20"),
    ],
)
def test_components_are_percent_encoded(value: str, text: str) -> None:
    assert encode_component(value) == text


def test_a_partition_is_named_by_day_exchange_and_symbol() -> None:
    assert partition_folder(2026, 1, 2, "X", "A/B") == "year=2026/month=01/day=02/exchange=X/symbol=A%2FB"


@given(number=st.integers(0, 10**12 - 1))
def test_log_file_names_are_parsed_and_sort_by_number(number: int) -> None:
    assert parse_log_file_name(log_file_name(number)) == number
    assert (log_file_name(number) < log_file_name(10**11)) == (number < 10**11)


@pytest.mark.parametrize("name", ["", "1.log", "0000000000001.log", "000000000001.log.new", "a00000000001.log"])
def test_other_names_are_no_log_files(name: str) -> None:
    assert parse_log_file_name(name) is None


@given(first=st.integers(0, 2**63 - 1), last=st.integers(0, 2**63 - 1))
def test_part_file_names_are_parsed(first: int, last: int) -> None:
    assert parse_part_file_name(part_file_name(first, last, "0123abcd")) == (first, last)


@pytest.mark.parametrize("name", ["part-0001.parquet", "1-2-0123abcd.parquet", "x.txt"])
def test_other_names_are_no_parts(name: str) -> None:
    assert parse_part_file_name(name) is None


def test_what_is_no_table_lies_in_one_folder() -> None:
    layout = Layout(Path("/lake"))
    assert layout.table("trades") == Path("/lake/trades")
    assert {p.parent for p in (layout.writer, layout.lock, layout.log, layout.cache)} == {Path("/lake/_tickflight")}


def test_a_parts_name_may_carry_the_checksum_of_its_contents() -> None:
    assert part_checksum(part_file_name(1, 2, "0123456789abcdef")) == "0123456789abcdef"
    assert parse_part_file_name(part_file_name(1, 2, "0123456789abcdef")) == (1, 2)
    assert part_checksum(part_file_name(1, 2, "0123abcd")) is None
    assert part_checksum("notes.txt") is None


def test_copies_of_one_part_from_two_places_have_two_names() -> None:
    part = part_file_name(1, 2, "0123456789abcdef")
    names = {cache_file_name(f"s3://{bucket}/trades/{part}") for bucket in ("a", "b")}
    assert len(names) == 2
    assert all(is_cache_file_name(name) and name.endswith(part) for name in names)
    assert not any(is_cache_file_name(name) for name in (part, "notes.txt", partial_file_name(names.pop())))
    assert is_partial_file_name(partial_file_name(part))
    assert not is_partial_file_name(part)
