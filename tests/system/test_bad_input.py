"""What people get wrong: one clear line with a hint, a non-zero exit or the right status, and nothing lost."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight
import pytest
import yaml
from system_processes import run_cli

import tickflight


def one_line(result: Any) -> str:
    """Return the only line of a failed command's errors that is not of its log."""
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith('{"')]
    assert result.returncode != 0
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "Hint:" in lines[0]
    return lines[0]


def test_an_unknown_config_key_is_named_with_the_closest_known_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("lakehouse: {storage_pth: x}\n")
    text = one_line(run_cli("serve", "--config", str(config)))
    assert "lakehouse.storage_pth" in text
    assert "storage_path" in text


def test_a_bad_config_value_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("lakehouse: {flush_interval_seconds: soon}\n")
    assert "lakehouse.flush_interval_seconds" in one_line(run_cli("serve", "--config", str(config)))
    assert "not valid YAML" in one_line(run_cli("serve", "--config", str(_file(tmp_path / "b.yaml", "a: [1"))))
    assert "cannot read" in one_line(run_cli("serve", "--config", str(tmp_path / "missing.yaml")))


def test_an_environment_variable_is_checked_like_the_file(tmp_path: Path) -> None:
    result = run_cli("serve", "--storage-path", str(tmp_path / "s"), environment={"TICKFLIGHT_FLIGHT__PORT": "seventy"})
    assert "flight.port" in one_line(result)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocker = _file(tmp_path / "file", "")
    assert "storage_path" in one_line(run_cli("serve", "--storage-path", str(blocker / "store"), "--port", "0"))


def test_a_folder_in_use_is_refused_with_its_owner(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server()
    text = one_line(run_cli("serve", "--storage-path", str(tmp_path / "store"), "--port", "0"))
    assert str(server.process.pid) in text
    assert server.query("SELECT 1 AS one") == [{"one": 1}]


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = one_line(run_cli("serve", "--storage-path", str(tmp_path / "s"), "--port", str(port)))
    assert str(port) in text


def test_a_port_of_another_server_is_refused(tmp_path: Path, start_server: Callable[..., Any]) -> None:
    # gRPC would share it silently, and each server would get some of the calls
    port = start_server().port
    text = one_line(run_cli("serve", "--storage-path", str(tmp_path / "other"), "--port", str(port)))
    assert str(port) in text


def test_anonymous_on_an_open_address_is_refused(tmp_path: Path) -> None:
    text = one_line(run_cli("serve", "--storage-path", str(tmp_path / "s"), "--host", "0.0.0.0", "--port", "0"))
    assert "tickflight-server users add" in text


def test_a_feed_of_an_unknown_exchange_is_refused(tmp_path: Path, start_server: Callable[..., Any]) -> None:
    feeds = {"feeds": [{"exchange": "BINANCEE", "symbols": ["BTC-USDT"], "channels": ["trades"]}]}
    config = _file(tmp_path / "feed.yaml", yaml.safe_dump(feeds))
    server = start_server()
    result = run_cli("feed", "--config", str(config), "--address", server.address)
    assert "BINANCE" in one_line(result)


def test_a_replay_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "Hint:" in one_line(run_cli("replay", str(tmp_path / "nothing")))


def test_malformed_rows_are_kept_aside_and_the_rest_go_on(start_server: Callable[..., Any]) -> None:
    server = start_server()
    now = pa.array([1_700_000_000_000_000] * 3, pa.timestamp("us"))
    rows = pa.RecordBatch.from_pydict({"exchange": ["X"] * 3, "symbol": ["A", None, "B"], "timestamp": now})
    with tickflight.connect(server.address) as client, client.writer("trades") as writer:
        ack = writer.write(rows).result(30)
        assert (ack.rows, ack.rejected) == (2, 1)
        with pytest.raises(tickflight.WriteError, match=r"no column 'prize'.*Hint") as refused:
            writer.write(pa.RecordBatch.from_pydict({"prize": [1.0]})).result(30)
        assert refused.value.code == "rows"
        assert writer.write(rows.slice(0, 1)).result(30).rows == 1
    assert server.query("SELECT count(*) n FROM trades") == [{"n": 3}]
    (kept,) = server.query('SELECT exchange, "table", reason, "row" FROM system.rejected')
    assert kept["table"] == "trades"
    assert "symbol" in kept["reason"]
    assert '"exchange": "X"' in kept["row"]


def test_a_wrong_password_is_refused_by_status(start_server: Callable[..., Any], tmp_path: Path) -> None:
    config = _file(tmp_path / "auth.yaml", yaml.safe_dump({"auth": {"users": {"ann": "secret"}}}))
    server = start_server("--config", str(config))
    with pytest.raises(tickflight.AuthenticationError, match="wrong user or password"):
        tickflight.connect(server.address, username="ann", password="guess")
    with pytest.raises(tickflight.AuthenticationError):
        tickflight.connect(server.address)
    options = {"username": "ann", "password": "guess"}
    with pytest.raises(adbc_driver_manager.ProgrammingError, match=r"UNAUTHENTICATED"):
        flight_sql.connect(server.address, db_kwargs=options)
    with tickflight.connect(server.address, username="ann", password="secret") as client:
        assert client.sql("SELECT 1 AS one").arrow().to_pylist() == [{"one": 1}]
    with flight_sql.connect(server.address, db_kwargs=options | {"password": "secret"}) as connection:
        assert connection.adbc_get_info()["vendor_name"] == "tickflight"


def test_a_ten_megabyte_statement_is_refused_and_the_server_goes_on(start_server: Callable[..., Any]) -> None:
    server = start_server()
    with tickflight.connect(server.address) as client:
        with pytest.raises(tickflight.QueryError, match=r"query\.sql_bytes_max.*Hint"):
            client.sql("SELECT '" + "x" * 10_000_000 + "'")
        assert client.sql("SELECT 1 AS one").arrow().num_rows == 1
    with flight_sql.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="INVALID_ARGUMENT"):
            cursor.execute("SELECT '" + "x" * 10_000_000 + "'")
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    config = _file(tmp_path / "auth.yaml", yaml.safe_dump({"auth": {"tokens": {"dashboards": ""}}}))
    assert "dashboards" in one_line(run_cli("serve", "--config", str(config)))
    broken = run_cli("serve", environment={"TICKFLIGHT_AUTH__USERS": "{bad"})
    assert "JSON" in one_line(broken)


def test_a_demo_on_a_file_is_refused(tmp_path: Path) -> None:
    assert "--data" in one_line(run_cli("demo", "--data", str(_file(tmp_path / "file", ""))))


def test_calls_that_flight_sql_does_not_use_are_refused_without_a_traceback(start_server: Callable[..., Any]) -> None:
    with pa.flight.connect(start_server().address) as client:
        with pytest.raises(NotImplementedError, match="ListFlights") as refused:
            list(client.list_flights())
        assert "Traceback" not in str(refused.value)
        descriptor = pa.flight.FlightDescriptor.for_command(b"x")
        _, reader = client.do_exchange(descriptor)
        with pytest.raises(NotImplementedError, match="DoExchange") as refused:
            reader.read_chunk()
        assert "Traceback" not in str(refused.value)
