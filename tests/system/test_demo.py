"""The demo as a person runs it, and replay from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from system_processes import run_cli

from tickflight_server.feed import compat

RECORDING = Path(__file__).parents[1] / "data" / "sandbox" / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE")


def test_the_demo_shows_every_table_dense_and_loses_nothing(tmp_path: Path) -> None:
    arguments = ("demo", "--seconds", "4", "--data", str(tmp_path / "demo"), "--port", "0", "--sandbox", "OKX")
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    for table in ("trades", "ticker", "l2_book", "candles"):
        assert re.search(rf"^{table}: [1-9]\d* rows, seq 1 to \d+ dense$", result.stdout, re.MULTILINE), result.stdout
    assert "nothing lost" in result.stdout
    assert "tickflight.connect(" in result.stdout
    # a second run goes on with the same data
    again = run_cli(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr


def test_replay_says_what_it_played_and_stores_it(start_server: Callable[..., Any]) -> None:
    server = start_server()
    result = run_cli("replay", str(RECORDING), "--address", server.address)
    assert result.returncode == 0, result.stderr
    told = dict(re.findall(r"^(\w+): (\d+) callbacks, \2 rows, 0 rejected$", result.stdout, re.MULTILINE))
    assert set(told) == {"trades", "ticker", "l2_book", "candles"}
    for channel, rows in told.items():
        assert server.query(f"SELECT count(*) n FROM market.{channel}") == [{"n": int(rows)}]


def test_replay_goes_straight_into_a_data_folder(tmp_path: Path, start_server: Callable[..., Any]) -> None:
    result = run_cli("replay", str(RECORDING), "--storage-path", str(tmp_path / "store"))
    assert result.returncode == 0, result.stderr
    server = start_server()
    (row,) = server.query("SELECT sum(rows_on_disk)::BIGINT n FROM system.tables")
    assert row["n"] == sum(int(n) for n in re.findall(r"(\d+) callbacks", result.stdout))
