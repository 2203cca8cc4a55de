"""The command follows a table: lines for programs, a view for people, and ends quietly."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import tickflight
from tickflight.cli_tail import View, parse_since

TAIL = [sys.executable, "-c", "from tickflight.cli import main; main()", "tail", "trades"]


def run(served: Any, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "TICKFLIGHT_ADDRESS": served.address}
    return subprocess.run([*TAIL, *arguments], capture_output=True, env=environment, timeout=30, check=False)


def test_rows_are_lines_when_nobody_looks(served: Any) -> None:
    ended = run(served, "-s", "BTC-USDT", "-c", "symbol,price", "-w", "price >= 50", "--since", "0", "-n", "3")
    assert (ended.returncode, ended.stderr) == (0, b"")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert rows == [{"symbol": "BTC-USDT", "price": price} for price in (50.0, 51.0, 52.0)]


def test_csv_and_arrow_are_read_back(served: Any) -> None:
    asked = ["-e", "BINANCE", "-s", "ETH-USDT", "-s", "BTC-USDT", "--since", "2020-01-01", "-n", "150"]
    rows = list(csv.DictReader(io.StringIO(run(served, *asked, "--format", "csv").stdout.decode())))
    assert [row["seq"] for row in rows] == [str(n) for n in range(1, 151)]
    table = pa.ipc.open_stream(run(served, *asked, "--format", "arrow").stdout).read_all()
    assert table["seq"].to_pylist() == list(range(1, 151))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(["-w", "pricee > 1"], "pricee"), (["--since", "yesterdayish"], "is no time"), (["-c", "nix"], "nix")],
)
def test_wrong_argument_is_one_error_and_exit_one(served: Any, arguments: list[str], match: str) -> None:
    ended = run(served, *arguments)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.startswith(b"tickflight: ")
    assert match in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


def test_control_c_ends_it_with_130_and_no_word(
    server: Any, client: tickflight.Client, make_trades: Callable[..., pa.RecordBatch]
) -> None:
    environment = {**os.environ, "TICKFLIGHT_ADDRESS": server.address}
    command = [*TAIL, "--since", "0", "--format", "json", "-c", "seq"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stderr
        with client.writer("trades") as writer:
            writer.write(make_trades(1)).result()
            assert json.loads(process.stdout.readline()) == {"seq": 1}, "each batch is written out at once"
            writer.write(make_trades(1)).result()
            assert json.loads(process.stdout.readline()) == {"seq": 2}
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""


def test_terminal_shows_a_view_with_the_newest_on_top(served: Any) -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "TICKFLIGHT_ADDRESS": served.address,
        "TERM": "xterm",
        "COLUMNS": "100",
        "LINES": "15",
        "NO_COLOR": "1",
    }
    command = [*TAIL, "-s", "BTC-USDT", "-c", "symbol,seq", "--since", "0", "-n", "100"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65_536):
                shown += data
        except OSError:
            pass  # that is how the other end's close looks
        assert process.wait(10) == 0
        assert process.stderr
        assert process.stderr.read() == b""
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "trades BTC-USDT: 100 rows, " in text
    assert "rows/s, lag 0 rows" in text
    numbers = [int(n) for n in re.findall(r"BTC-USDT\W+(\d+)", text.rpartition("symbol")[2])]
    assert numbers == list(range(100, 90, -1))


class Silent:
    """A tail with nothing to say."""

    schema = pa.schema([("s", pa.string())])
    lag = 5
    skipped: list[Any] = []  # noqa: RUF012


def test_value_of_a_row_is_no_command_to_the_terminal() -> None:
    rich = pytest.importorskip("rich.console")
    view = View(Silent(), "trades")  # type: ignore[arg-type]
    view.add(pa.record_batch({"s": ["[red]\x1b[2J\n" + "x" * 100]}))
    out = io.StringIO()
    rich.Console(file=out, width=80).print(view.table(5))
    assert "\x1b" not in out.getvalue()
    assert "[red]" in out.getvalue()
    assert "lag 5 rows" in out.getvalue()


def test_view_keeps_few_rows_and_counts_all() -> None:
    view = View(Silent(), "trades")  # type: ignore[arg-type]
    view.add(pa.record_batch({"s": ["x"] * 100_000}))
    assert view.rows == 100_000
    assert view.rate() == 100_000
    assert view.table(7).renderables[1].row_count == 7


def test_since_is_a_time_a_number_or_a_while_ago() -> None:
    assert parse_since("0") == 0
    assert parse_since("10m").total_seconds() == 600
    assert parse_since("2d").days == 2
    assert parse_since("today") == "today"
