"""Under a umask of 000 nothing that a server makes can be read or written by anybody else."""

import os
import stat

import adbc_driver_flightsql.dbapi as adbc
import pytest
from flight_here import trades
from system_processes import ServerProgram, run_cli

import tickflight


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder):
    """Return what below ``folder`` others may do anything with, by its mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            found[str(path.relative_to(folder))] = oct(stat.S_IMODE(mode))
    return found


def work(server):
    """Let the server make files of every kind."""
    with tickflight.connect(server.address) as client:
        for number in range(3):
            with client.writer("trades") as writer:
                writer.write(trades(1000, start_us=1_790_000_000_000_000 + number * 86_400_000_000))
            client.flush()
        with client.snapshot():
            pass
    with adbc.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE workspace.mine AS SELECT range AS a FROM range(100000)")
        cursor.execute("INSERT INTO workspace.mine VALUES (1)")
        cursor.execute("SELECT count(*) FROM trades")
        assert cursor.fetchone() == (3000,)
        # more than the memory that it has: a part of it goes to the spill folder
        cursor.execute("SELECT count(DISTINCT md5((range * 7)::VARCHAR)) FROM range(1000000)")
        assert cursor.fetchone() == (1_000_000,)


def test_all_files_are_their_owners_alone(tmp_path, open_umask):
    configuration = tmp_path / "config.yaml"
    configuration.write_text("query: {memory_mb: 64, spill_mb: 2000, threads: 1}\nlakehouse: {compact_parts_min: 2}\n")
    server = ServerProgram(tmp_path, "--config", str(configuration))
    work(server)
    store = tmp_path / "store"
    assert open_to_others(store) == {}  # while it runs
    assert (store / "_tickflight" / "workspace.duckdb.wal").exists()
    # another one is told who has the folder
    done = run_cli("serve", "--storage-path", str(store), "--port", "0")
    assert done.returncode == 1
    assert f"process {server.process.pid} on " in done.stderr
    assert " since 20" in done.stderr
    server.kill()
    # what is exported has the modes that its caller asks for
    os.umask(0o027)
    done = run_cli("export", "trades", "-o", str(tmp_path / "out.parquet"), "--storage-path", str(store))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.parquet").stat().st_mode & 0o777 == 0o640
    assert {".json", ".jsonl", ".parquet", ".duckdb", ".log"} <= {path.suffix for path in store.rglob("*")}
    assert open_to_others(store) == {}
