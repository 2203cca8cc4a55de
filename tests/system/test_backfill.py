"""Import and export as commands: over both roads, killed and run again, and asked over ADBC."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from backfill_files import DATA, gzipped
from system_processes import run_cli, wait_for

TRADES = DATA / "tardis" / "binance-futures_trades_2024-01-01_BTCUSDT.csv"
FAULTS = DATA / "faults" / TRADES.name
LINES = 600_000
START = 1_704_067_200_000_000
HEAD = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
COUNTS = (
    "SELECT count(*) n, count(DISTINCT id) ids, min(seq) low, max(seq) high, bool_and(id = seq::VARCHAR) same FROM "
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ten chunks; ids count from 1."""
    path = tmp_path_factory.mktemp("large") / "bybit_trades_2024-01-01_BTCUSDT.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(HEAD)
        file.writelines(
            f"bybit,BTCUSDT,{START + i * 1000},{START + i * 1000 + 500},{i},buy,{42000 + i % 99}.5,0.1\n"
            for i in range(1, LINES + 1)
        )
    return path


def start_import(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tickflight_server.cli", "import", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def whole(rows: dict[str, Any]) -> bool:
    return rows == {"n": LINES, "ids": LINES, "low": 1, "high": LINES, "same": True}


def last(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("tickflight-server: ")
    assert "Hint:" in lines[0]
    return lines[0]


def test_a_running_server_takes_files_once(start_server: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "decimal.yaml"
    config.write_text(yaml.safe_dump({"lakehouse": {"numeric_type": "decimal"}}))
    server = start_server("--config", str(config))
    files = [str(gzipped(TRADES, tmp_path)), str(DATA / "tardis"), str(DATA / "binance")]
    first = last(run_cli("import", *files, "--address", server.address))
    assert first.startswith("20 files, 218 lines: 192 rows, 0 rejected, 24 repeated, "), first
    again = last(run_cli("import", *files, "--address", server.address))
    assert "lines: 0 rows, 0 rejected, 216 repeated, " in again, again
    prices = server.query("SELECT price FROM trades WHERE exchange = 'BINANCE_FUTURES' AND id LIKE '44%' ORDER BY seq")
    assert [r["price"] for r in prices] == [Decimal(line.split(",")[6]) for line in TRADES.read_text().splitlines()[1:]]
    # what went over Flight is known to a folder too: it is the same store
    server.stop()
    folder = last(run_cli("import", *files, "--config", str(config), "--storage-path", str(tmp_path / "store")))
    assert "lines: 0 rows, 0 rejected, 216 repeated, " in folder, folder


def test_an_import_that_is_killed_goes_on(start_server: Callable[..., Any], large: Path) -> None:
    server = start_server()
    for rows in (1, 200_000):
        process = start_import(str(large), "--address", server.address)
        wait_for(lambda least=rows: server.query("SELECT count(*) n FROM trades")[0]["n"] >= least, "rows arrive")
        process.kill()
        process.communicate()
    (counts,) = server.query(COUNTS + "trades")
    assert 0 < counts["n"] < LINES
    assert counts["n"] == counts["ids"]
    done = last(run_cli("import", str(large), "--address", server.address))
    assert ", 0 repeated" not in done
    (counts,) = server.query(COUNTS + "trades")
    assert whole(counts), counts


def test_an_import_goes_on_over_a_server_that_is_killed(start_server: Callable[..., Any], large: Path) -> None:
    server = start_server()
    port = server.port
    process = start_import(str(large), "--address", server.address)
    for rows in (1, 200_000):
        wait_for(lambda s=server, least=rows: s.query("SELECT count(*) n FROM trades")[0]["n"] >= least, "rows arrive")
        server.kill()
        server = start_server(port=port)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    (counts,) = server.query(COUNTS + "trades")
    assert whole(counts), counts


def test_an_import_into_a_folder_that_is_killed_goes_on(
    start_server: Callable[..., Any], large: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    logs = store / "_tickflight" / "log"
    for megabytes in (5, 15):
        process = start_import(str(large), "--storage-path", str(store))
        wait_for(lambda least=megabytes: sum(f.stat().st_size for f in logs.glob("*.log")) > least << 20, "rows arrive")
        process.kill()
        process.communicate()
    last(run_cli("import", str(large), "--storage-path", str(store)))
    server = start_server()
    (counts,) = server.query(COUNTS + "trades")
    assert whole(counts), counts


def test_lines_that_do_not_fit_are_in_system_rejected(start_server: Callable[..., Any]) -> None:
    server = start_server()
    for _ in range(2):
        result = run_cli("import", str(FAULTS), "--address", server.address)
        assert result.returncode == 0
        assert f"{FAULTS}, line 3: price 'abc' is not a number: rejected" in result.stdout
        assert "8 rejected" in last(result)
    kept = server.query('SELECT reason, "row", producer FROM system.rejected ORDER BY seq')
    assert len(kept) == 8
    assert all(FAULTS.name in r["reason"] for r in kept)
    assert server.query("SELECT count(*) n FROM trades") == [{"n": 2}]


def test_an_export_comes_back_from_a_server_and_from_a_folder(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server()
    last(run_cli("import", str(DATA / "tardis"), "--address", server.address))
    by_server = tmp_path / "server" / "l2_book.parquet"
    by_server.parent.mkdir()
    last(run_cli("export", "l2_book", "--address", server.address, "-o", str(by_server)))
    text = str(tmp_path / "q.csv")
    last(run_cli("export", "--sql", "SELECT count(*) AS n FROM trades", "--address", server.address, "-o", text))
    assert Path(text).read_text() == '"n"\n24\n'
    server.stop()
    by_folder = tmp_path / "folder.parquet"
    last(run_cli("export", "l2_book", "--storage-path", str(tmp_path / "store"), "-o", str(by_folder)))
    assert pq.ParquetFile(by_server).read().equals(pq.ParquetFile(by_folder).read())
    again = tmp_path / "again"
    assert "18 rows" in last(run_cli("import", str(by_server), "--storage-path", str(again)))
    back = tmp_path / "back.parquet"
    last(run_cli("export", "l2_book", "--storage-path", str(again), "-o", str(back)))
    assert pq.ParquetFile(back).read().equals(pq.ParquetFile(by_server).read())


def test_what_people_get_wrong_is_one_line_with_a_hint(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server()
    store, output = str(tmp_path / "store"), str(tmp_path / "x.parquet")
    in_use = one_line(run_cli("import", str(TRADES), "--storage-path", store))
    assert str(server.process.pid) in in_use
    assert "--address" in in_use
    assert "--address" in one_line(run_cli("export", "trades", "--storage-path", store, "-o", output))
    assert "no file" in one_line(run_cli("import", str(tmp_path / "nothing.csv"), "--address", server.address))
    odd = tmp_path / "odd.csv"
    odd.write_text("a,b\n1,2\n")
    assert "--format" in one_line(run_cli("import", str(odd), "--address", server.address))
    cut = gzipped(TRADES, tmp_path)
    cut.write_bytes(cut.read_bytes()[:-30])
    assert "cut off" in one_line(run_cli("import", str(cut), "--address", server.address))
    assert "two places" in one_line(run_cli("import", str(odd), "--address", server.address, "--storage-path", store))
    assert "--address" in one_line(run_cli("import", str(TRADES), "--address", "grpc://127.0.0.1:1"))
    assert "treads" in one_line(run_cli("export", "treads", "--address", server.address, "-o", output))
    assert "nowhere" in one_line(
        run_cli("export", "--sql", "SELECT * FROM nowhere", "--address", server.address, "-o", output)
    )
    assert "--from" in one_line(
        run_cli("export", "trades", "--from", "soon", "--address", server.address, "-o", output)
    )
    assert "hour" in one_line(run_cli("export", "trades", "--partition-by", "hour", "-o", output))
    assert not Path(output).exists()
    assert server.query("SELECT count(*) n FROM trades") == [{"n": 0}]


def test_a_server_that_asks_who_one_is_is_told_by_the_environment(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "auth.yaml"
    config.write_text(yaml.safe_dump({"auth": {"users": {"ann": "secret"}, "tokens": {"batch": "long"}}}))
    server = start_server("--config", str(config))
    to = ("import", str(TRADES), "--address", server.address)
    assert "TICKFLIGHT_TOKEN" in one_line(run_cli(*to))
    assert "--user" in one_line(run_cli(*to, "--user", "ann", environment={"TICKFLIGHT_PASSWORD": "guess"}))
    assert ": 24 rows" in last(run_cli(*to, "--user", "ann", environment={"TICKFLIGHT_PASSWORD": "secret"}))
    assert "24 repeated" in last(run_cli(*to, environment={"TICKFLIGHT_TOKEN": "long"}))
    assert os.environ.get("TICKFLIGHT_TOKEN") is None
