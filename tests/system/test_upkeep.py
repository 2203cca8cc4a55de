"""``check``, ``compact`` and ``vacuum`` as processes: what they print, how they end, and what they say to a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lakes import contents, flip, log_files, make_lake, parts
from system_processes import ServerProgram, run_cli

from tickflight_server.config import LakehouseSettings


def trades(rows: int, start: int = 0, *, symbols: tuple[str, ...] = ("A",)) -> pa.RecordBatch:
    number = np.arange(start, start + rows)
    return pa.record_batch(
        {
            "exchange": pa.array(["BINANCE"] * rows),
            "symbol": pa.array([symbols[i % len(symbols)] for i in number]),
            "amount": pa.array(np.ones(rows)),
            "price": pa.array(number.astype(np.float64)),
            "timestamp": pa.array(number * 1_000 + 1_700_000_000_000_000).cast(pa.timestamp("us")),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    folder = Path(tmp_path_factory.mktemp("upkeep")) / "store"
    make_lake(LakehouseSettings(storage_path=folder, compact_share=0, wal_commit_interval_ms=0), trades)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def run(command: str, folder: Path, *arguments: str) -> Any:
    return run_cli(command, "--storage-path", str(folder), *arguments)


def test_check_of_a_whole_folder_ends_with_0_and_changes_nothing(store: Path) -> None:
    before = contents(store)
    done = run("check", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "clean: 0 errors, 0 warnings, 0 notes"
    assert json.loads(run("check", store, "--json").stdout)["tables"]["trades"]["last_seq"] == 700
    assert contents(store) == before


def test_damage_is_told_repaired_and_gone(store: Path) -> None:
    flip(log_files(store)[1], 5_000)
    flip(parts(store)[0], 300)
    quick = run("check", store, "--quick")
    assert quick.returncode == 1
    assert "log.damaged" in quick.stdout
    assert "part.checksum" not in quick.stdout
    assert run("vacuum", store).returncode == 1  # the store does not open
    found = json.loads(run("check", store, "--json").stdout)
    assert {f["kind"] for f in found["findings"]} >= {"log.damaged", "part.checksum"}
    assert found["clean"] is False
    done = run("check", store, "--repair")
    assert done.returncode == 0, done.stdout
    assert "repair: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("clean: ")
    (report,) = store.glob("_tickflight/damaged/*/report.json")
    told = json.loads(report.read_text())
    assert f"repair: {told['rows_lost']} rows lost in all" in done.stdout
    assert run("check", store).returncode == 0
    assert run("vacuum", store).returncode == 0


def test_repair_as_json_is_one_object(store: Path) -> None:
    parts(store)[0].unlink()
    done = run("check", store, "--repair", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["clean"] is False
    assert told["after"]["clean"] is True
    assert told["repair"]["tables"]["trades"]["parts_lost"][0]["why"].startswith("the file is missing")


def test_compact_and_vacuum_say_what_they_did(store: Path) -> None:
    before = len(parts(store))
    done = run("compact", store, "--table", "trades", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"trades: {before} parts merged into 3")
    dry = run("vacuum", store, "--hours", "0", "--dry-run")
    assert dry.stdout.splitlines()[0].startswith(f"trades: {before} files would be deleted, ")
    assert len(parts(store)) == before + 3
    assert run("vacuum", store, "--hours", "0").stdout.splitlines()[0].startswith(f"trades: {before} files deleted, ")
    assert len(parts(store)) == 3
    assert run("check", store).returncode == 0


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("check", 2, "system.health"), ("compact", 1, "compact_share"), ("vacuum", 1, "hours")],
)
def test_a_running_server_is_named(tmp_path: Path, command: str, code: int, words: str) -> None:
    server = ServerProgram(tmp_path)
    try:
        done = run(command, tmp_path / "store")
    finally:
        server.stop()
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"(process {server.process.pid} on " in done.stderr
    assert words in done.stderr


def test_errors_are_one_line(tmp_path: Path, store: Path) -> None:
    for command, code in (("check", 2), ("compact", 1), ("vacuum", 1)):
        done = run(command, tmp_path / "nothing")
        assert (done.returncode, done.stdout) == (code, "")
        assert len(done.stderr.splitlines()) == 1
        assert "is no data folder" in done.stderr
    assert not (tmp_path / "nothing").exists()
    assert run("check", store, "--repair", "--quick").returncode == 2
    (store / "_tickflight/writer").write_text("nonsense")
    (store / "_tickflight/log").rename(store / "log")
    assert run("check", store).returncode == 1
