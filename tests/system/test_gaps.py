"""Holes that a feed knows of are rows of ``system.gaps``, seen over ADBC: real sandbox, feed and server processes."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from system_processes import Program, SandboxProgram, ServerProgram, wait_for

CHANNELS = ("trades", "ticker", "l2_book")
SYMBOLS = ("BTC-USDT", "ETH-USDT")
STREAMS = {(channel, symbol) for channel in CHANNELS for symbol in SYMBOLS}
STALL_S = 2.0

# What a hole claims: nothing of the symbol came between its bounds, and events stand at both of them.
CLAIM = """
    SELECT count(*) FILTER (receipt_timestamp > $start AND receipt_timestamp < $end) AS inside,
           count(*) FILTER (receipt_timestamp = $start) AS at_start,
           count(*) FILTER (receipt_timestamp = $end) AS at_end
    FROM market.{channel} WHERE exchange = '{exchange}' AND symbol = '{symbol}'
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProgram]:
    program = SandboxProgram(tmp_path, "--protocols", "BINANCE", "--rate", "400", "--symbols", ",".join(SYMBOLS))
    yield program
    program.stop()


@pytest.fixture
def start_feed(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start feed processes that end with the test."""
    started: list[Program] = []

    def start(config: Path, address: str) -> Program:
        command = ["-m", "tickflight_server.cli", "feed", "--config", str(config), "--address", address]
        started.append(Program(command, tmp_path / "feed.log"))
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            program.kill()


def fault(sandbox: SandboxProgram, what: str) -> Any:
    address = f"{sandbox.endpoints['BINANCE']['rest']}/faults/{what}"
    with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=20) as answer:
        return json.loads(answer.read())


def configure(sandbox: SandboxProgram, folder: Path) -> Path:
    endpoints = {k: v for k, v in sandbox.endpoints["BINANCE"].items() if k != "exchange"}
    feed = {"exchange": "BINANCE", "symbols": list(SYMBOLS), "channels": list(CHANNELS), "endpoints": endpoints}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"collector": {"stall_seconds": STALL_S}, "feeds": [feed]}))
    return path


def all_flow(server: ServerProgram) -> bool:
    """Return whether all have come; of books, deltas: a snapshot after a snapshot tells nothing."""
    tables = {"trades": "trades", "ticker": "ticker", "l2_book": "l2_book WHERE NOT is_snapshot"}
    ask = " UNION ".join(f"SELECT DISTINCT '{channel}' AS channel, symbol FROM {tables[channel]}" for channel in tables)
    return {(row["channel"], row["symbol"]) for row in server.query(ask)} == STREAMS


def gaps(server: ServerProgram, cause: str) -> list[dict[str, Any]]:
    return server.query(f"SELECT * FROM system.gaps WHERE cause = '{cause}' ORDER BY seq")


def check_claim(server: ServerProgram, gap: dict[str, Any], *, bounded: bool = True) -> None:
    bounds = {f"${name}": f"TIMESTAMP '{gap[name]}'" for name in ("start", "end")}
    sql = CLAIM.format(**gap)
    for name, value in bounds.items():
        sql = sql.replace(name, value)
    (row,) = server.query(sql)
    assert row["inside"] == 0, gap
    assert (row["at_start"] > 0 and row["at_end"] > 0) or not bounded, gap
    assert gap["timestamp"] == gap["start"] < gap["end"] <= gap["receipt_timestamp"]
    assert gap["producer"]


def test_every_kind_of_hole_is_told_with_its_bounds(
    sandbox: SandboxProgram, start_server: Callable[..., Any], start_feed: Callable[..., Program], tmp_path: Path
) -> None:
    config = configure(sandbox, tmp_path)
    server = start_server("--config", str(config), "--no-feeds")
    runner = start_feed(config, server.address)
    wait_for(lambda: all_flow(server), "events of every symbol and channel")
    assert server.query("SELECT * FROM system.gaps") == []

    fault(sandbox, "skip?symbol=BTC-USDT")
    wait_for(lambda: [g for g in gaps(server, "sequence") if g["symbol"] == "BTC-USDT"], "the missing numbers")
    first = gaps(server, "sequence")[0]
    assert (first["exchange"], first["channel"]) == ("BINANCE", "l2_book")
    for gap in gaps(server, "sequence"):
        check_claim(server, gap)
        around = server.query(
            f"SELECT sequence_number, is_snapshot FROM l2_book WHERE symbol = '{gap['symbol']}' AND sequence_number IN "
            f"({gap['expected'] - 1}, {gap['received']}) ORDER BY seq LIMIT 2"
        )
        assert [row["is_snapshot"] for row in around] == [False, True], "the last delta, and the book begun anew"
        assert gap["expected"] <= gap["received"]

    fault(sandbox, "silence?symbol=ETH-USDT")

    def running_stalls() -> set[tuple[str, str]]:
        reports = [json.loads(row["report"]) for row in server.query("SELECT report FROM system.feeds")]
        return {(stall["channel"], stall["symbol"]) for report in reports for stall in report["stalled"]}

    wait_for(lambda: running_stalls() >= {(c, "ETH-USDT") for c in CHANNELS}, "the running silence in the report")
    assert gaps(server, "stalled") == [], "a hole is told when it has ended"
    fault(sandbox, "speak?symbol=ETH-USDT")
    stalls = wait_for(lambda: len(found := gaps(server, "stalled")) >= 2 and found, "the silence that has ended")
    assert {gap["channel"] for gap in stalls} >= {"trades", "ticker"}
    for gap in stalls:
        assert gap["symbol"] == "ETH-USDT"
        assert (gap["end"] - gap["start"]).total_seconds() > STALL_S
        check_claim(server, gap)

    assert fault(sandbox, "drop") == {"connections": 1}
    wait_for(lambda: len(gaps(server, "reconnect")) == len(STREAMS), "a hole of each symbol and channel")
    lost = gaps(server, "reconnect")
    assert {(gap["channel"], gap["symbol"]) for gap in lost} == STREAMS
    for gap in lost:
        check_claim(server, gap)
        assert "ConnectionClosedError" in gap["detail"]
        assert "open again" in gap["detail"]

    fault(sandbox, "silence?symbol=BTC-USDT")
    wait_for(lambda: running_stalls() >= {(c, "BTC-USDT") for c in CHANNELS}, "the silence at the end")
    told = len(gaps(server, "stalled"))
    assert runner.stop() == 0
    rest = gaps(server, "stalled")[told:]
    assert {(gap["channel"], gap["symbol"]) for gap in rest} == {(channel, "BTC-USDT") for channel in CHANNELS}
    for gap in rest:
        assert gap["detail"].endswith("when the feed stopped")
        check_claim(server, gap, bounded=False)
    (row,) = server.query("SELECT report FROM system.feeds")
    (count,) = server.query("SELECT count(*)::BIGINT AS n, count(DISTINCT seq)::BIGINT AS d FROM system.gaps")
    assert count == {"n": json.loads(row["report"])["gaps"], "d": json.loads(row["report"])["gaps"]}
    assert "queue full" not in runner.log.read_text()


def test_holes_survive_a_server_that_is_away_and_are_told_once(
    sandbox: SandboxProgram, start_server: Callable[..., Any], start_feed: Callable[..., Program], tmp_path: Path
) -> None:
    config = configure(sandbox, tmp_path)
    server = start_server("--config", str(config), "--no-feeds")
    runner = start_feed(config, server.address)
    wait_for(lambda: all_flow(server), "events of every symbol and channel")
    port = server.port
    server.kill()
    assert fault(sandbox, "drop") == {"connections": 1}
    wait_for(lambda: fault(sandbox, "drop")["connections"], "the feed to come back, which is dropped once more")
    again = start_server("--config", str(config), "--no-feeds", port=port)
    wait_for(lambda: len(gaps(again, "reconnect")) >= len(STREAMS), "the holes of the time without a server")
    assert runner.stop() == 0
    found = gaps(again, "reconnect")
    assert {(gap["channel"], gap["symbol"]) for gap in found} == STREAMS
    assert len({(gap["channel"], gap["symbol"], gap["start"]) for gap in found}) == len(found), "told twice"
    for gap in found:
        check_claim(again, gap)
    (row,) = again.query("SELECT count(*) AS n, max(seq) AS high FROM system.gaps")
    assert row["n"] == row["high"]


def test_feeds_that_serve_runs_tell_their_holes(
    sandbox: SandboxProgram, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server("--config", str(configure(sandbox, tmp_path)))
    wait_for(lambda: all_flow(server), "events of every symbol and channel")
    assert fault(sandbox, "drop") == {"connections": 1}
    wait_for(lambda: len(gaps(server, "reconnect")) == len(STREAMS), "a hole of each symbol and channel")
    (row,) = server.query("SELECT rows FROM system.tables WHERE \"schema\" = 'system' AND \"table\" = 'gaps'")
    assert row["rows"] >= len(STREAMS)
    assert server.stop() == 0
