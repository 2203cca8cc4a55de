"""An import stores each row once, and tells of every line that is none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from backfill_files import DATA, ask, gzipped, lake, source, zipped

from tickflight_server.app.backfill import run
from tickflight_server.app.backfill.chunks import find_layout
from tickflight_server.app.backfill.identity import producer_id
from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.app.backfill.run import Totals, run_import
from tickflight_server.app.backfill.sinks import StoreSink
from tickflight_server.errors import BusyError

TRADES = DATA / "tardis" / "binance-futures_trades_2024-01-01_BTCUSDT.csv"
LEVELS = next(DATA.glob("tardis/*incremental*"))
FAULTS = DATA / "faults" / TRADES.name
Imports = Callable[..., Totals]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into chunks of five lines."""
    monkeypatch.setattr(run, "find_layout", lambda *a: dataclasses.replace(find_layout(*a), chunk_rows=5))


class DyingSink(StoreSink):
    """Loses its process after so many batches: what is on its way is not waited for."""

    left = 0

    def append(self, *arguments: Any, **options: Any) -> Future[Any]:
        if self.left == 0:
            raise BusyError("killed")
        self.left -= 1
        return super().append(*arguments, **options)


@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_every_file_is_stored_and_a_second_run_stores_nothing(imports: Imports, tmp_path: Path, numeric: str) -> None:
    first = imports(DATA / "tardis", DATA / "binance", numeric=numeric)
    assert (first.files, first.rejected, first.repeated, first.failed) == (19, 0, 0, [])
    again = imports(DATA / "tardis", DATA / "binance", numeric=numeric)
    assert (again.files, again.rows, again.rejected, again.repeated) == (19, 0, 0, first.rows)
    tables = ask(tmp_path / "store", 'SELECT "table" AS name, rows FROM system.tables WHERE rows > 0', numeric)
    counts = {"trades": 96, "l1_book": 26, "l2_book": 18, "funding": 12, "open_interest": 11, "index": 7}
    assert {t["name"]: t["rows"] for t in tables} == counts | {"liquidations": 11, "candles": 11}
    assert sum(t["rows"] for t in tables) == first.rows


def test_decimals_are_those_of_the_file(imports: Imports, tmp_path: Path) -> None:
    imports(TRADES, numeric="decimal")
    stored = ask(tmp_path / "store", "SELECT price, amount FROM trades ORDER BY seq", "decimal")
    lines = [line.split(",") for line in TRADES.read_text().splitlines()[1:]]
    assert [(r["price"], r["amount"]) for r in stored] == [(Decimal(c[6]), Decimal(c[7])) for c in lines]


def test_a_file_is_known_again_by_another_name_and_packing(imports: Imports, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    renamed = folder / "x_trades_y.csv"
    renamed.write_bytes(TRADES.read_bytes())
    assert imports(TRADES).rows == 24
    for copy in (renamed, gzipped(TRADES, folder), zipped(TRADES, folder)):
        assert imports(copy).repeated == 24
    # read in another way, the rows are others
    assert imports(TRADES, symbol="BTC-USDT").rows == 24
    assert imports(TRADES, table="liquidations").rows == 24


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("path", [TRADES, LEVELS, FAULTS, next(DATA.glob("tardis/*derivative*"))])
def test_an_import_that_died_goes_on_where_it_ended(imports: Imports, tmp_path: Path, path: Path) -> None:
    whole = imports(path, folder="whole")
    deaths = 0
    while True:
        sink = DyingSink(lake(tmp_path / "store"))
        sink.left = deaths
        try:
            totals = run_import((path,), Wishes(), lambda s=sink: s, lambda _: None)
            break
        except BusyError:
            deaths += 1
    assert deaths > 2
    assert totals.rows + totals.repeated == whole.rows
    for table in ("trades", "l2_book", "funding", "open_interest", "index"):
        query = f"SELECT * EXCLUDE (seq) FROM {table} ORDER BY seq"
        assert ask(tmp_path / "store", query) == ask(tmp_path / "whole", query)
    kept = 'SELECT reason, "row" FROM system.rejected ORDER BY seq'
    assert ask(tmp_path / "store", kept) == ask(tmp_path / "whole", kept)


def test_lines_that_do_not_fit_are_named_and_kept_aside(imports: Imports, tmp_path: Path, said: list[str]) -> None:
    totals = imports(FAULTS)
    assert (totals.lines, totals.rows, totals.rejected) == (10, 2, 8)
    assert [r["id"] for r in ask(tmp_path / "store", "SELECT id FROM trades ORDER BY seq")] == ["1", "10"]
    kept = ask(tmp_path / "store", 'SELECT exchange, symbol, "table", reason, "row" FROM system.rejected ORDER BY seq')
    assert {(r["exchange"], r["symbol"], r["table"]) for r in kept} == {("BINANCE_FUTURES", "BTC-USDT-PERP", "trades")}
    lines = FAULTS.read_text().splitlines()
    reasons = {json.loads(r["row"])["line"]: r["reason"] for r in kept}
    assert list(reasons) == [3, 5, 6, 7, 8, 9, 10, 11]
    assert all(json.loads(r["row"])["text"] == lines[json.loads(r["row"])["line"] - 1] for r in kept)
    for line, reason in reasons.items():
        assert any(f"line {line}: " in text and text.endswith("rejected") for text in said)
        assert reason.startswith(f"{FAULTS.name}, line {line}: ")
    assert "'abc' is not a number" in reasons[3]
    assert "7 values and not 8" in reasons[5]
    assert "'WHATEVER'" in reasons[8]
    assert "--symbol" in reasons[8]
    again = imports(FAULTS)
    assert (again.rows, again.rejected, again.repeated) == (0, 8, 2)
    assert ask(tmp_path / "store", "SELECT count(*) n FROM system.rejected") == [{"n": 8}]


def test_a_file_of_which_nothing_fits_is_refused(imports: Imports, tmp_path: Path) -> None:
    path = tmp_path / "binance_trades_x.csv"
    path.write_text(TRADES.read_text().replace("BTCUSDT", "WHATEVER"))
    totals = imports(path)
    (error,) = totals.failed
    assert "line 2: symbol 'WHATEVER'" in error
    assert "--symbol" in error
    assert ask(tmp_path / "store", "SELECT count(*) n FROM system.rejected") == [{"n": 0}]
    assert imports(path, symbol="BTC-USDT").rows == 24


def test_one_bad_file_does_not_hold_up_the_others(imports: Imports, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "in").mkdir()
    packed = gzipped(TRADES, tmp_path / "in")
    packed.write_bytes(packed.read_bytes()[:-9])
    (tmp_path / "in" / "odd.csv").write_text("what,is,this\n1,2,3\n")
    (tmp_path / "in" / "empty.csv").write_text("")
    (tmp_path / "in" / "z_trades_z.csv").write_text(TRADES.read_text().splitlines()[0])
    totals = imports(tmp_path / "in", LEVELS)
    assert (totals.files, totals.rows) == (3, 10)
    assert len(totals.failed) == 2
    assert "cut off" in totals.failed[0]
    assert "--format" in totals.failed[1]
    assert any(text.endswith("empty.csv: empty") for text in said)


def test_bytes_that_are_no_text_cost_their_line_alone(imports: Imports, tmp_path: Path) -> None:
    path = tmp_path / "binance_trades_x.csv"
    lines = TRADES.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"buy", b"b\xffy").replace(b"sell", b"s\xffll")
    lines[5] = b"short,line\n"
    path.write_bytes(b"".join(lines))
    totals = imports(path)
    assert (totals.rows, totals.rejected) == (22, 2)
    reasons = [r["reason"] for r in ask(tmp_path / "store", "SELECT reason FROM system.rejected ORDER BY seq")]
    assert "line 4: the line is not UTF-8" in reasons[0]
    assert "line 6: the line has 2 values" in reasons[1]


def test_quotes_in_a_vendors_file_are_characters(imports: Imports, tmp_path: Path) -> None:
    path = tmp_path / "binance_trades_x.csv"
    lines = TRADES.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",4400000001,", ',"4400000001,')
    path.write_text("".join(lines))
    assert imports(path).rows == 24
    assert ask(tmp_path / "store", "SELECT id FROM trades WHERE seq = 2") == [{"id": '"4400000001'}]


def test_many_rejected_lines_are_counted_and_not_all_shown(imports: Imports, tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "binance_trades_x.csv"
    head, first, *_ = TRADES.read_text().splitlines()
    bad = first.replace("42283.5", "x")
    path.write_text("\n".join([head, first, *[bad] * 50]))
    totals = imports(path)
    assert (totals.rows, totals.rejected) == (1, 50)
    assert sum(text.endswith("rejected") and ", line " in text for text in said) == 20
    assert any("further rejected lines" in text for text in said)


def test_the_identity_of_a_file_is_its_content_and_how_it_is_read() -> None:
    content = source(TRADES).inspect()
    layout = find_layout(source(TRADES), Wishes())
    producer = producer_id(content, layout, "trades")
    assert producer.hex() == "696d706f7274df4a87d8f5afbe20fac91c59f0077f78d1f28337"
    assert len(producer) == 26
    others = [
        producer_id(dataclasses.replace(content, nbytes=1), layout, "trades"),
        producer_id(dataclasses.replace(content, digest="00"), layout, "trades"),
        producer_id(content, dataclasses.replace(layout, mapping={}), "trades"),
        producer_id(content, dataclasses.replace(layout, name="x"), "trades"),
        producer_id(content, layout, "rejected"),
    ]
    assert len({producer, *others}) == 6
