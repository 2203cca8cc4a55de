"""The page about import says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tickflight_server.app.backfill import binance, export, layout, tardis
from tickflight_server.app.backfill.symbols import VENUES, symbol_name

PAGE = (Path(__file__).parents[4] / "proto-notes" / "backfill.md").read_text()


def test_every_kind_of_file_is_on_the_page() -> None:
    ticked = set(re.findall(r"`([^`]+)`", PAGE))
    assert set(tardis.KINDS) | (set(binance.KINDS) - {"klines"}) <= ticked
    assert {"book_snapshot_5", "book_snapshot_25", "options_chain", "bookDepth"} <= ticked


def test_every_exchange_is_on_the_page_with_its_name() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    told = {name: row[2] for row in rows for name in re.findall(r"`([^`]+)`", row[1])}
    for venue, (name, _) in VENUES.items():
        assert name in told[venue].replace(" ", "").split(","), venue


def venues(line: str) -> list[str]:
    """Return Tardis.dev's exchanges in the first cell of a table's row."""
    cells = line.split("|")
    return [v for v in re.findall(r"`([^`]+)`", cells[1]) if v in VENUES] if len(cells) > 2 else []


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if venues(line)])
def test_examples_of_symbols_hold(line: str) -> None:
    for symbol, name in re.findall(r"(\S+) → ([A-Z0-9-]+)", line):
        assert name in {symbol_name(venue, symbol) for venue in venues(line)}, symbol


def test_limits_are_those_of_the_code() -> None:
    assert f"{layout.CHUNK_ROWS:,} lines" in PAGE
    assert f"{layout.CHUNK_BYTES >> 20} MiB" in PAGE
    assert f"{export.STEP_ROWS:,} rows" in PAGE
    assert f"{export.STEP_ROWS_LISTS:,} of tables" in PAGE
    assert f"{export.STEP_GROWTH_MAX} times" in PAGE
