"""The command prints rows and nothing else on standard output, and one line about what went wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickflight.cli import main

QUERY = "SELECT symbol, seq, timestamp, NULL::DOUBLE AS nothing FROM trades ORDER BY seq LIMIT 2"
Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(served: Any, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line; return its exit code and what it wrote."""
    monkeypatch.setenv("TICKFLIGHT_ADDRESS", served.address)

    def call(*arguments: str) -> tuple[int, bytes, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


def test_table_is_text_in_columns(run: Run) -> None:
    code, out, err = run("query", QUERY)
    assert (code, err) == (0, "")
    assert out.decode().splitlines() == [
        "symbol    seq  timestamp            nothing",
        "--------  ---  -------------------  -------",
        "BTC-USDT  1    2026-09-21 14:13:20",
        "BTC-USDT  2    2026-09-21 14:13:21",
        "2 rows",
    ]


def test_table_shows_the_first_rows_and_counts_all(run: Run) -> None:
    _, out, _ = run("query", "SELECT seq, repeat('x', 100) AS long FROM trades ORDER BY seq")
    lines = out.decode().splitlines()
    assert len(lines) == 2 + 50 + 1
    assert lines[-1] == "200 rows (the first 50 are shown)"
    assert lines[2].endswith("x…")


def test_csv_is_read_back(run: Run) -> None:
    _, out, _ = run("query", QUERY, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert [r["seq"] for r in rows] == ["1", "2"]
    assert rows[0]["symbol"] == "BTC-USDT"
    assert rows[0]["nothing"] == ""


def test_json_is_an_object_a_line(run: Run) -> None:
    _, out, _ = run("query", QUERY, "--format", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0] == {"symbol": "BTC-USDT", "seq": 1, "timestamp": "2026-09-21 14:13:20", "nothing": None}
    assert len(rows) == 2


def test_json_of_values_that_it_does_not_know_is_still_json(run: Run) -> None:
    _, out, _ = run(
        "query",
        "SELECT 'nan'::DOUBLE AS nan, 'inf'::DOUBLE AS inf, 1.50::DECIMAL(9, 2) AS d, ['nan'::DOUBLE] AS l, "
        "'é\n' AS s, 'x'::BLOB AS b",
        "--format",
        "json",
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads(out, parse_constant=refuse)
    assert (row["nan"], row["inf"], row["l"], row["d"], row["s"]) == (None, None, [None], "1.50", "é\n")


def test_arrow_is_a_stream(run: Run) -> None:
    _, out, _ = run("query", QUERY, "--format", "arrow")
    assert pa.ipc.open_stream(out).read_all()["seq"].to_pylist() == [1, 2]


def test_parquet_goes_to_a_file(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    code, out, _ = run("query", QUERY, "--format", "parquet", "-o", str(target))
    assert (code, out) == (0, b"")
    assert pq.read_table(target)["seq"].to_pylist() == [1, 2]


def test_parquet_goes_to_standard_output_too(run: Run) -> None:
    _, out, _ = run("query", QUERY, "--format", "parquet")
    assert pq.read_table(io.BytesIO(out)).num_rows == 2


@pytest.mark.parametrize("kind", ["table", "csv", "json", "arrow", "parquet"])
def test_empty_result_has_its_columns(run: Run, kind: str) -> None:
    code, out, _ = run("query", "FROM trades WHERE symbol = 'nix'", "--format", kind)
    assert code == 0
    if kind == "json":
        assert out == b""
    else:
        assert b"receipt_timestamp" in out


@pytest.mark.parametrize("kind", ["csv", "json", "table"])
def test_books_with_lists_can_be_printed(run: Run, kind: str) -> None:
    code, out, err = run("query", "SELECT [1.5, 2] AS l, {'a': 1} AS s", "--format", kind)
    assert (code, err) == (0, "")
    assert b"1.5" in out


def test_tables_are_listed_with_their_columns(run: Run) -> None:
    code, out, _ = run("tables")
    assert code == 0
    (line,) = [x for x in out.decode().splitlines() if x.startswith("market.trades: ")]
    assert "price double" in line
    assert "timestamp timestamp[us]" in line


def test_error_of_the_statement_shows_the_place_and_exits_with_one(run: Run) -> None:
    code, out, err = run("query", "SELECT pricee FROM trades")
    assert (code, out) == (1, b"")
    assert err.startswith('tickflight: Binder Error: Referenced column "pricee" not found')
    assert err.endswith("LINE 1: SELECT pricee FROM trades\n               ^^^^^^\n")


def test_error_in_the_middle_exits_with_one(run: Run) -> None:
    query = "SELECT CASE WHEN x < 500000 THEN 1 ELSE CAST('no' AS INTEGER) END AS n FROM range(600000) r(x)"
    code, _, err = run("query", query, "--format", "json")
    assert code == 1
    assert err.startswith("tickflight: Conversion Error")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["query", "SELECT 1", "--address", "127.0.0.1:1"], "refused"),
        (["query", "SELECT 1", "--address", "http://x"], "write grpc://host:port"),
        (["query", "SELECT 1", "--user", "ada"], "a user needs a password"),
        (["query", "SELECT 1", "-o", "/nowhere/x"], "/nowhere/x"),
    ],
)
def test_error_is_one_line_and_exit_one(run: Run, arguments: list[str], match: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, b"")
    assert err.startswith("tickflight: ")
    assert match in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["nix"], ["query"], ["query", "SELECT 1", "--format", "xml"]])
def test_wrong_arguments_exit_with_two(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, b"")
    assert err.startswith("usage: tickflight")


def test_password_comes_from_the_environment(
    make_server: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = make_server({"users": {"ada": "secret"}, "tokens": {"robot": "r0b0t"}}).address
    query = ["query", "SELECT 1 AS x", "--format", "json", "--address", address]
    assert run(*query)[0] == 1
    monkeypatch.setenv("TICKFLIGHT_TOKEN", "r0b0t")
    assert run(*query)[:2] == (0, b'{"x": 1}\n')
    monkeypatch.setenv("TICKFLIGHT_PASSWORD", "secret")
    assert run(*query, "--user", "ada")[:2] == (0, b'{"x": 1}\n')
    monkeypatch.setenv("TICKFLIGHT_PASSWORD", "wrong")
    code, _, err = run(*query, "--user", "ada")
    assert code == 1
    assert "wrong user or password" in err
    assert "secret" not in err


def test_reader_that_has_enough_ends_the_command_quietly(served: Any) -> None:
    command = [sys.executable, "-c", "from tickflight.cli import main; main()", "query", "--format", "json"]
    environment = {**os.environ, "TICKFLIGHT_ADDRESS": served.address}
    with subprocess.Popen(
        [*command, "SELECT * FROM range(100000000000)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline()) == {"range": 0}
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_bars_are_printed_like_a_query(run: Run) -> None:
    code, out, err = run("bars", "BTC-USDT", "1m", "-e", "BINANCE", "--from", "2026-01-01", "--format", "json")
    assert (code, err) == (0, "")
    bars = [json.loads(line) for line in out.splitlines()]
    assert sum(bar["trades"] for bar in bars) == 100
    code, out, err = run("bars", "BTC-USDT", "25", "--kind", "tick")
    assert out.decode().splitlines()[-1] == "4 rows"
    code, out, err = run("bars", "BTC-USDT", "x", "--kind", "tick")
    assert (code, out) == (1, b"")
    assert "'x' is no number" in err


def test_book_that_is_not_known_is_told(run: Run) -> None:
    assert run("book", "BINANCE", "BTC-USDT", "--at", "2026-12-31T12:00") == (0, b"<no book of BINANCE BTC-USDT>\n", "")
    code, _, err = run("book", "BINANCE", "BTC-USDT", "--at", "then")
    assert code == 1
    assert err.startswith("tickflight: ")
