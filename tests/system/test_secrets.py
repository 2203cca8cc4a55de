"""Secrets that are planted everywhere are found nowhere: not in logs, errors, system tables, the audit, or files."""

import base64
import json
import os
from pathlib import Path
from urllib.parse import quote

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pytest
from flight_here import trades
from pyarrow import flight
from system_processes import ServerProgram, run_cli, wait_for

import tickflight
from tickflight.cli import main as client_main
from tickflight_server.cli import cli
from tickflight_server.config import load_settings
from tickflight_server.errors import ConfigError, ServerError

PLANTED = {
    name: f"planted-{name.replace(' ', '-')}-Zq7w"
    for name in (
        *("password of root", "token of a machine", "token in the environment", "key of the audit", "secret of JWT"),
        *("wrong password", "wrong token", "token without a scheme", "unreadable credentials", "key id", "key secret"),
        *("id in SQL", "secret in SQL", "password in SQL", "tier key", "tier secret", "collector password"),
        *("broken yaml", "broken json", "wrong place", "address in SQL", "feed key", "wrong feed password"),
    )
}
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJwbGFudGVkLXN1YmplY3QifQ.cGxhbnRlZC1zaWduYXR1cmUtb2YtYS10b2tlbg"


def forms():
    """Every planted secret in every form in which it could be told."""
    for name, secret in (*PLANTED.items(), ("JWT", JWT), ("signature", JWT.rpartition(".")[2])):
        data = secret.encode()
        yield name, data
        yield f"{name}, quoted", quote(secret, safe="").encode()
        yield f"{name}, in hexadecimal", data.hex().encode()
        for user in ("", "root:", "nobody:"):
            # without its end, which depends on what follows
            yield f"{name}, in base 64", base64.b64encode(user.encode() + data)[: -len(user) - 4]


def found_in(data):
    return sorted({name for name, form in forms() if form in data})


def write_private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def configured(tmp_path):
    """A configuration with a secret in each place that takes one, and an environment with the others."""
    document = {
        "auth": {
            "users": {"root": PLANTED["password of root"]},
            "tokens": {"machine": PLANTED["token of a machine"]},
            "roles": {"root": ["admin"]},
            "jwt": {"secret_file": write_private(tmp_path / "jwt.secret", PLANTED["secret of JWT"] * 2)},
        },
        "audit": {"key_file": write_private(tmp_path / "audit.key", PLANTED["key of the audit"])},
        "collector": {
            "username": "root",
            "password_file": write_private(tmp_path / "collector.password", PLANTED["wrong feed password"]),
        },
        "lakehouse": {
            "tier": {
                "url": "s3://bucket/prefix",
                "after_days": 0,
                "timeout_s": 0.2,
                "options": {"endpoint": "http://127.0.0.1:9", "allow_http": True, "region": "somewhere"},
                "credentials": {"access_key_id": "PLANTED_TIER_KEY", "secret_access_key": "PLANTED_TIER_SECRET"},
            },
            "keep_interval_seconds": 0.2,
        },
        "feeds": [
            {
                "exchange": "BINANCE",
                "symbols": ["BTC-USDT"],
                "channels": ["trades"],
                "credentials": {"key_id": "PLANTED_FEED_KEY"},
                "endpoints": {"websocket": "wss://127.0.0.1:9", "rest": "http://127.0.0.1:9"},
            }
        ],
        "log": {"level": "debug"},
    }
    write_private(tmp_path / "config.yaml", json.dumps(document))
    environment = {
        "TICKFLIGHT_COLLECTOR__TOKEN": "",
        "PLANTED_TIER_KEY": PLANTED["tier key"],
        "PLANTED_TIER_SECRET": PLANTED["tier secret"],
        "PLANTED_FEED_KEY": PLANTED["feed key"],
    }
    del environment["TICKFLIGHT_COLLECTOR__TOKEN"]
    return tmp_path / "config.yaml", environment


def knock(address):
    """Call with everything that does not let one in; return what is answered."""
    answers = []
    basic = base64.b64encode(f"root:{PLANTED['wrong password']}".encode()).decode()
    for header in (
        f"Basic {basic}",
        f"Basic {PLANTED['unreadable credentials']}",
        f"Bearer {PLANTED['wrong token']}",
        f"Bearer {JWT}",
        PLANTED["token without a scheme"],
    ):
        with flight.FlightClient(address) as client:
            options = flight.FlightCallOptions(headers=[(b"authorization", header.encode())])
            with pytest.raises(flight.FlightUnauthenticatedError) as refused:
                list(client.list_actions(options))
            answers.append(str(refused.value))
    return answers


# a caller's own words may come back to the caller, and go nowhere else
STATEMENTS = (
    f"CREATE SECRET s (TYPE s3, KEY_ID '{PLANTED['id in SQL']}', SECRET '{PLANTED['secret in SQL']}')",
    f"CREATE SECRET s (TYPE s3, KEY_ID '{PLANTED['id in SQL']}', SECRET '{PLANTED['secret in SQL']}",
    f"CREATE TABLE workspace.t AS SELECT '{PLANTED['password in SQL']}' AS password",
    f"SELECT * FROM read_parquet('s3://{PLANTED['address in SQL']}@bucket/x?secret={PLANTED['secret in SQL']}')",
    f"ATTACH 'postgres://user:{PLANTED['password in SQL']}@host/db' AS other",
    f"SELECT password = '{PLANTED['password in SQL']}' FROM no_such_table",
    f"SET s3_secret_access_key = '{PLANTED['secret in SQL']}'",
    f"SELECT token FROM (SELECT '{PLANTED['password in SQL']}' AS token) WHERE token = 1",
)


def ask_everything(address):
    """Run statements with secrets in them, and read all that the server tells of itself; return all that it told."""
    told = []
    options = {"username": "root", "password": PLANTED["password of root"]}
    with adbc.connect(address, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
        for sql in STATEMENTS:
            try:
                cursor.execute(sql)
            except adbc_driver_manager.Error:
                continue
        cursor.execute("DROP TABLE IF EXISTS workspace.t")
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'system'")
        tables = [name for (name,) in cursor.fetchall()]
        assert {"audit", "metrics", "health", "feeds"} <= set(tables)
        for name in tables:
            cursor.execute(f'SELECT * FROM system."{name}"')
            told.append(str(cursor.fetch_arrow_table().to_pylist()))
    return told


def test_no_secret_is_told(tmp_path, configured, request):
    configuration, environment = configured
    os.environ.update(environment)
    try:
        server = ServerProgram(tmp_path, "--config", str(configuration))
    finally:
        for name in environment:
            del os.environ[name]
    answers = knock(server.address)
    with tickflight.connect(server.address, token=PLANTED["token of a machine"]) as client:
        with client.writer("trades") as writer:
            writer.write(trades(100, start_us=1_600_000_000_000_000))
        assert client.sql("SELECT count(*) FROM trades").arrow().to_pydict() == {"count_star()": [100]}
    with tickflight.connect(server.address, username="root", password=PLANTED["password of root"]) as client:
        client.flush()
    answers += ask_everything(server.address)
    # the server's, and the feed's
    pids = [server.process.pid, *wait_for(lambda: children(server.process.pid), "a feed is started")]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    wait_for(lambda: b"tier" in server.log.read_bytes(), "the tier cannot be reached, which is told")
    if request.config.getoption("--campaign") == "full":  # it tries for a while
        feed = run_cli("feed", "--config", str(configuration), "--address", server.address, environment=environment)
        assert feed.returncode == 1
        assert "cannot send to" in feed.stderr  # its password is wrong, and was too often by now
        assert found_in(feed.stderr.encode()) == []
    server.stop()
    assert found_in("".join(answers).encode()) == []
    assert found_in(b"".join(commands)) == []
    log = server.log.read_bytes()
    assert found_in(log) == []
    for path in (tmp_path / "store").rglob("*"):
        # a deleted row may stay in the engine's file for a while, and is where its owner put it
        if path.is_file() and not path.name.startswith("workspace.duckdb"):
            assert found_in(path.read_bytes()) == [], path
    audit = b"".join(p.read_bytes() for p in (tmp_path / "store" / "_tickflight" / "audit").iterdir())
    assert b'"outcome":"refused"' in audit


def children(pid):
    """Return the ids of a process's children."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


BROKEN = {
    "yaml": (f"auth:\n  users: {{root: '{PLANTED['broken yaml']}\n", {}),
    "yaml, a tab": (f"auth:\n\tpassword: {PLANTED['broken yaml']}\n", {}),
    "yaml, twice": (f"auth: {PLANTED['broken yaml']}: {PLANTED['broken yaml']}\n", {}),
    "yaml, a tag": (f"auth: !{PLANTED['broken yaml']} x\n", {}),
    "yaml, an alias": (f"auth: *{PLANTED['broken yaml']}\n", {}),
    "no mapping": (f"auth: {PLANTED['wrong place']}\n", {}),
    "a list": (f"auth: {{users: [{PLANTED['wrong place']}]}}\n", {}),
    "a mapping too much": (f"auth: {{users: {{root: {{password: {PLANTED['wrong place']}}}}}}}\n", {}),
    "a number": (f"flight: {{port: {PLANTED['wrong place']}}}\n", {}),
    "the secret itself": (f"lakehouse: {{tier: {{url: s3://b/p, credentials: {{k: {PLANTED['key secret']}}}}}}}\n", {}),
    "the key itself": (
        f"feeds: [{{exchange: A, symbols: [B], channels: [c], credentials: {{key_id: {PLANTED['key id']}}}}}]\n",
        {},
    ),
    "environment": ("", {"TICKFLIGHT_AUTH__USERS": f'{{"root": "{PLANTED["broken json"]}'}),
    "a section": ("", {"TICKFLIGHT_AUTH": f'["{PLANTED["broken json"]}"]'}),
    "a short key": ("", {"TICKFLIGHT_AUDIT__KEY": PLANTED["wrong place"][:15]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_error_of_the_configuration_repeats_a_secret(name, tmp_path, monkeypatch):
    text, environment = BROKEN[name]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failed:
        load_settings(path)
    assert found_in(str(failed.value).encode()) == []
    assert PLANTED["wrong place"][:15] not in str(failed.value)


def test_commands_tell_none(tmp_path, monkeypatch, capsys, command_logs):
    """What is asked of a server that is not there, with secrets in the environment."""
    monkeypatch.setenv("TICKFLIGHT_PASSWORD", PLANTED["wrong password"])
    monkeypatch.setenv("TICKFLIGHT_TOKEN", PLANTED["wrong token"])
    address = ("--address", "grpc://127.0.0.1:9")
    with pytest.raises(ServerError) as failed:
        cli.main(["export", "trades", "-o", str(tmp_path / "x"), *address, "--user", "root"], standalone_mode=False)
    with pytest.raises(SystemExit):
        client_main(["query", "SELECT 1", *address])
    told = capsys.readouterr()
    assert "127.0.0.1:9" in told.err
    assert found_in((str(failed.value) + told.out + told.err).encode()) == []
