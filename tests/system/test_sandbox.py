"""The whole way with real processes on loopback: sandbox exchange, cryptofeed, DoPut, server, ADBC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from system_processes import Program, SandboxProgram, wait_for

CHANNELS = ("trades", "ticker", "l2_book", "candles")
SYMBOLS = ("BTC-USDT", "ETH-USDT")
DENSE = (
    'SELECT count(*) n, count(DISTINCT seq) d, coalesce(min(seq), 1) low, coalesce(max(seq), 0) high FROM market."{}"'
)


@pytest.fixture(params=["BINANCE", "OKX"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, SandboxProgram]]:
    program = SandboxProgram(tmp_path, "--protocols", request.param, "--rate", "3000", "--symbols", ",".join(SYMBOLS))
    yield request.param, program
    program.stop()


def test_events_of_an_exchange_arrive_dense_and_once_while_flushes_happen(
    sandbox: tuple[str, SandboxProgram], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    exchange, program = sandbox
    endpoints = {k: v for k, v in program.endpoints[exchange].items() if k != "exchange"}
    config = tmp_path / "config.yaml"
    feed = {"exchange": exchange, "symbols": list(SYMBOLS), "channels": list(CHANNELS), "endpoints": endpoints}
    config.write_text(yaml.safe_dump({"lakehouse": {"flush_interval_seconds": 0.5}, "feeds": [feed]}))
    server = start_server("--config", str(config), "--no-feeds")
    runner = Program(
        [*("-m", "tickflight_server.cli", "feed", "--config", str(config)), *("--address", server.address)],
        tmp_path / "feed.log",
    )

    def rows_on_disk() -> int:
        (row,) = server.query("SELECT sum(rows_on_disk)::BIGINT n FROM system.tables WHERE \"schema\" = 'market'")
        return int(row["n"])

    def check() -> dict[str, int]:
        counts = {}
        for channel in CHANNELS:
            (row,) = server.query(DENSE.format(channel))
            n = row["n"]
            assert row == {"n": n, "d": n, "low": 1, "high": n}, channel
            counts[channel] = n
        return counts

    wait_for(lambda: rows_on_disk() > 0, "rows on disk")
    seen = check()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        counts = check()
        assert all(counts[channel] >= seen[channel] for channel in CHANNELS)
        seen = counts
    (flushes,) = server.query("SELECT value::BIGINT v FROM system.metrics WHERE name = 'flushes'")
    assert flushes["v"] >= 2 * len(CHANNELS), "no flush happened underneath"
    assert runner.stop() == 0
    counts = check()
    (report,) = server.query("SELECT received, acknowledged, rejected, dropped, failed FROM system.feeds")
    assert report == {"received": sum(counts.values()), "acknowledged": sum(counts.values())} | dict.fromkeys(
        ("rejected", "dropped", "failed"), 0
    )
    assert all(counts[channel] > 0 for channel in CHANNELS)
    assert server.query("SELECT * FROM system.gaps") == [], "nothing was missing, and nothing is said to be"
    assert {row["symbol"] for row in server.query("SELECT DISTINCT symbol FROM trades")} == set(SYMBOLS)


def test_serve_runs_the_configured_feeds_and_stops_them_without_loss(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    program = SandboxProgram(tmp_path, "--protocols", "BINANCE", "--symbols", "BTC-USDT")
    try:
        endpoints = {k: v for k, v in program.endpoints["BINANCE"].items() if k != "exchange"}
        config = tmp_path / "config.yaml"
        feed = {"exchange": "BINANCE", "symbols": ["BTC-USDT"], "channels": ["trades"], "endpoints": endpoints}
        config.write_text(yaml.safe_dump({"feeds": [feed], "auth": {"tokens": {"me": "t0ken"}}}))
        server = start_server("--config", str(config))

        def rows() -> int:
            import tickflight

            with tickflight.connect(server.address, token="t0ken") as client:
                return int(client.sql("SELECT count(*) n FROM trades").arrow().to_pylist()[0]["n"])

        before = wait_for(rows, "trades by way of the supervised feed")
        assert server.stop() == 0
        assert "were not delivered" not in server.log.read_text()
        config.write_text("{}")
        again = start_server("--config", str(config))
        (row,) = again.query(DENSE.format("trades"))
        assert row["n"] == row["d"] == row["high"] >= before
    finally:
        program.stop()
