"""Who did what is recorded by a real server, over the real driver, and verified by the real command."""

import json
import threading
from contextlib import suppress

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pytest
from flight_here import trades
from system_processes import ServerProgram, run_cli, wait_for

import tickflight
from tickflight_server.audit import Chain, verify
from tickflight_server.audit.line import parse

PASSWORD = "quite-a-long-password"
ROOT = {"username": "root", "password": PASSWORD}


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "auth": {
                    "users": {"root": PASSWORD, "reader": PASSWORD},
                    "tokens": {"machine": "a-token-of-the-machine"},
                    "roles": {"root": ["admin"], "reader": ["reader"]},
                },
                "audit": {"running_after_s": 1.0, "totals_interval_s": 1.0},
            }
        )
    )
    return path


def lines(folder, *kinds):
    files = sorted((folder / "store" / "_tickflight" / "audit").glob("*.jsonl"))
    found = [
        parse(line[:-1])
        for file in files
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    return [line.fields for line in found if not kinds or line.kind in kinds]


def clean(folder):
    """See that nothing is wrong with what is there now."""
    report = verify(folder / "store" / "_tickflight" / "audit", [Chain()])
    assert report.clean, report.findings


def test_logins_rows_and_acts_are_recorded(tmp_path, configuration):
    server = ServerProgram(tmp_path, "--config", str(configuration))
    with tickflight.connect(server.address, **ROOT) as client:
        with client.writer("trades") as writer:
            for number in range(5):
                writer.write(trades(100, start_us=1_790_000_000_000_000 + number * 1_000_000))
        client.flush()
        table = client.sql('SELECT kind, "user", outcome FROM system.audit ORDER BY n').arrow()
        assert {"kind": "server", "user": None, "outcome": None} in table.to_pylist()
    with pytest.raises(tickflight.AuthenticationError):
        tickflight.connect(server.address, username="root", password="wrong")
    with tickflight.connect(server.address, token="a-token-of-the-machine") as client:
        client.sql("SELECT 1").arrow()
        with pytest.raises(tickflight.TickflightError):
            client.flush()
        with tickflight.connect(server.address, **ROOT) as root, client.tail("trades", since=0) as tail:
            next(iter(tail))
            found = root.sql("SELECT id FROM system.queries WHERE \"user\" = 'machine' AND state = 'running'").arrow()
            assert root.cancel(found["id"][0].as_py())
    options = {"username": "reader", "password": PASSWORD}
    with (
        adbc.connect(server.address, db_kwargs=options, autocommit=True) as connection,
        connection.cursor() as cursor,
        pytest.raises(adbc_driver_manager.Error, match="audit"),
    ):
        cursor.execute("SELECT * FROM system.audit").fetchall()
    assert server.stop() == 0
    logins = [(f.get("user"), f["how"], f["outcome"], f.get("address")) for f in lines(tmp_path, "login")]
    assert ("root", "password", "ok", "127.0.0.1") in logins
    assert ("root", "password", "refused", "127.0.0.1") in logins
    assert ("reader", "password", "ok", "127.0.0.1") in logins
    assert any(login[:3] == ("machine", "token", "ok") for login in logins)
    (stream,) = lines(tmp_path, "ingest")
    assert (stream["user"], stream["tables"], stream["batches"], stream["rows"]) == ("root", ["trades"], 5, 500)
    assert [(f["user"], f["outcome"]) for f in lines(tmp_path, "admin") if f["act"] == "flush"] == [
        ("root", "ok"),
        ("machine", "failed"),
    ]
    (cancel,) = [f for f in lines(tmp_path, "admin") if f["act"] == "cancel"]
    assert (cancel["user"], cancel["of"], cancel["text"].split(";")[0]) == ("root", "machine", "tail market.trades")
    assert [f["act"] for f in lines(tmp_path, "server")] == ["start", "stop"]
    audited = ("audit", "verify", "--storage-path", str(tmp_path / "store"))
    done = run_cli(*audited, "--config", str(configuration))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "store" / "_tickflight" / "audit").glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"user":"root"', b'"user":"nick"', 1))
    done = run_cli(*audited, "--line", f"99:{'0' * 64}")
    assert done.returncode == 1
    first, *_, last = done.stdout.splitlines()
    assert first == f"{file.name}:3: line 3 was altered: its hash is another"
    assert last == "not clean: 2 findings"


def test_what_was_recorded_survives_a_kill_and_commands_go_on_in_the_chain(tmp_path, configuration):
    """Killed while many log in at once: each time the chain goes on, and no line that was there is gone."""
    server = ServerProgram(tmp_path, "--config", str(configuration))
    stop = threading.Event()

    def log_in():
        while not stop.is_set():
            with suppress(tickflight.TickflightError):
                tickflight.connect(server.address, token="a wrong token of somebody").close()

    threads = [threading.Thread(target=log_in) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(lines(tmp_path)) > 10, "logins are recorded")
    server.kill()
    stop.set()
    for thread in threads:
        thread.join()
    before = len(lines(tmp_path))
    clean(tmp_path)
    done = run_cli(
        *("users", "add", "carol", "--password-file", "-", "--config", str(configuration)),
        *("--storage-path", str(tmp_path / "store")),
        standard_input="another-long-password\n",
    )
    assert done.returncode == 0, done.stderr
    assert [(f["act"], f["name"], f["address"]) for f in lines(tmp_path, "admin")] == [
        ("users add", "carol", "command line")
    ]
    assert len(lines(tmp_path)) > before
    clean(tmp_path)


def test_every_statement_is_recorded_with_what_it_gave(tmp_path, configuration):
    """Over our client, the driver, tails, and in every way to end; what goes on for long has a line before it ends."""
    server = ServerProgram(tmp_path, "--config", str(configuration))
    with tickflight.connect(server.address, **ROOT) as client:
        with client.writer("trades") as writer:
            writer.write(trades(1000)).result()
            wait_for(lambda: lines(tmp_path, "ingest"), "totals of a stream that goes on")
        assert client.sql("SELECT count(*) FROM trades").arrow().num_rows == 1
        assert client.sql("SELECT exchange, symbol, price FROM trades WHERE price >= ?", [0]).arrow().num_rows == 1000
        with pytest.raises(tickflight.QueryError):
            client.sql("SELECT no_such_column FROM trades")
        client.sql("CREATE TABLE workspace.mine AS SELECT range AS a FROM range(7)").arrow()
        with client.tail("trades", since=0) as tail:
            next(iter(tail))
        with client.tail("trades", since=0) as tail:
            next(iter(tail))
            wait_for(lambda: statements(tmp_path, "running"), "a line while it runs")
        wait_for(lambda: len(statements(tmp_path, "cancelled")) == 2, "tails that their reader left")
    with adbc.connect(server.address, db_kwargs=ROOT, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT symbol, sum(amount) FROM trades GROUP BY symbol")
        assert len(cursor.fetchall()) == 1
        cursor.execute("DELETE FROM workspace.mine WHERE a > 2")
    assert server.stop() == 0
    found = {f["text"]: f for f in statements(tmp_path, "done", "failed")}
    count = found["SELECT count(*) FROM trades"]
    assert (count["user"], count["way"], count["tables"], count["rows"]) == ("root", "query", ["market.trades"], 1)
    assert count["bytes"] in (8, 9)  # with the bits that say what is null, or without
    assert count["address"].startswith("ipv4:127.0.0.1:")
    assert count["ms"] > 0
    plain = found["SELECT exchange, symbol, price FROM trades WHERE price >= ?"]
    assert (plain["rows"], plain["outcome"]) == (1000, "done")
    failed = found["SELECT no_such_column FROM trades"]
    assert failed["outcome"] == "failed"
    assert "no_such_column" in failed["error"]
    assert found["SELECT symbol, sum(amount) FROM trades GROUP BY symbol"]["rows"] == 1
    made = found["CREATE TABLE workspace.mine AS SELECT range AS a FROM range(7)"]
    assert (made["kind"], made["rows"]) == ("change", 7)
    deletes = [f for f in statements(tmp_path) if f["text"].startswith("DELETE")]
    assert [(f["outcome"], f["rows"]) for f in deletes] == [("done", 4)], deletes
    streams = lines(tmp_path, "ingest")
    assert [(f["outcome"], f["rows"]) for f in (streams[0], streams[-1])] == [("running", 1000), ("done", 1000)]
    tails = [f for f in statements(tmp_path) if f["way"] == "tail"]
    assert {f["outcome"] for f in tails} == {"running", "cancelled"}
    assert all(f["rows"] == 1000 for f in tails)
    clean(tmp_path)


def statements(folder, *outcomes):
    found = lines(folder, "query", "change")
    return [f for f in found if not outcomes or f["outcome"] in outcomes]
