"""Names of exchanges and symbols that would be something else as folders: each keeps its rows through everything."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from flight_here import trades
from system_processes import ServerProgram, run_cli

import tickflight

NAMES = (
    *("..", ".", "...", "../../../etc/passwd", "/etc/passwd", "a/../b", "\\..\\b", "C:\\x", "a\\b"),
    *("CON", "NUL", "con", "COM1.txt", "LPT9", "aux.", "BTC.", "BTC ", " BTC", "~", "-rf", "%2e%2e", "%00", "%"),
    *("BTC-usd", "BTC-USD", "btc-USD", "é", "e\u0301", "ﬁ", "fi", "K", "\u212a", "ß", "ẞ", "İ", "i", "ı"),
    *("\u202eDSU-CTB", "BTC\u200b-USD", "\ufeffBTC", "a\nb", "a\tb", "\x01", "\x7f", "*?<>|:\"'`$(id);", "exchange=X"),
    *(
        "x" * 300,
        "x" * 299 + "y",
        "é" * 300,
        "😀" * 75,
        "🏴‍☠️",
        "\U0010ffff",
        "__HIVE_DEFAULT_PARTITION__",
        "null",
        "_delta_log",
    ),
)


def test_every_name_keeps_its_rows_through_flush_restart_and_repair(tmp_path: Path) -> None:
    server = ServerProgram(tmp_path)
    try:
        with tickflight.connect(server.address) as client, client.writer("trades") as writer:
            answers = [writer.write(trades(1, n, first=i, exchange=n)) for i, n in enumerate(NAMES)]
            assert {answer.result(30).rows for answer in answers} == {1}
            check(client)
            client.flush()
            check(client)
            check_what_cannot_be_a_name(client, writer)
    finally:
        assert server.stop() == 0
    store = tmp_path / "store"
    folders = [p for p in (store / "trades").rglob("symbol=*") if p.is_dir()]
    assert len(folders) == len(NAMES)
    assert {len(p.relative_to(store).parts) for p in folders} == {6}
    assert all(p.name.isascii() and p.name.isprintable() and len(p.name) < 255 for p in folders)
    done = run_cli("check", "--repair", "--storage-path", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    server = ServerProgram(tmp_path)
    try:
        with tickflight.connect(server.address) as client:
            check(client)
    finally:
        assert server.stop() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"store", "server.log"}


def check(client: tickflight.Client) -> None:
    """Every name has the one row that was written under it."""
    rows = client.sql("SELECT exchange, symbol, price FROM trades ORDER BY price").arrow().to_pylist()
    assert [(r["exchange"], r["symbol"], r["price"]) for r in rows] == [(n, n, float(i)) for i, n in enumerate(NAMES)]
    for number, name in enumerate(NAMES[::7]):
        found = client.sql("SELECT price FROM trades WHERE symbol = ? AND exchange = ?", [name, name]).arrow()
        assert found.column(0).to_pylist() == [float(7 * number)]


def check_what_cannot_be_a_name(client: tickflight.Client, writer: tickflight.Writer) -> None:
    """Rows without a name, or with a zero in it, are kept aside; text that is no Unicode is refused."""
    for name in ("", "a\0b"):
        answer = writer.write(trades(1, name)).result(30)
        assert (answer.rows, answer.rejected) == (0, 1)
    told = client.sql("SELECT reason FROM system.rejected").arrow().to_pylist()
    assert [row["reason"] for row in told] == ["column 'symbol' is empty or holds a zero character"] * 2
    batch = trades(1)
    surrogate = pa.array([b"\xed\xa0\x80"]).view(pa.string())
    batch = batch.set_column(batch.schema.get_field_index("symbol"), "symbol", surrogate)
    refused = writer.write(batch).exception(30)
    assert "UTF8" in str(refused)
