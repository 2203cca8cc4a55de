"""What export writes, import takes; and a file is there whole or not at all."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfill_files import DATA, ask, lake

from tickflight_server.app.backfill import export
from tickflight_server.app.backfill.asking import FolderAsker
from tickflight_server.app.backfill.export import Request, Selection, Written, run_export
from tickflight_server.app.backfill.run import Totals
from tickflight_server.config import Settings
from tickflight_server.errors import ConfigError, InputError, NotFoundError, ServerError, StatementError
from tickflight_server.schemas import MARKET, TIMESTAMP, Column
from tickflight_server.store import Store

Imports = Callable[..., Totals]
EXACT = {"decimal": Decimal("0.000000000000000001"), "float64": 1e-18}


def value(column: Column, numeric: str, chance: random.Random) -> Any:
    """Return a value that is hard to write as text."""
    number = chance.choice([EXACT[numeric], 0, 12345678901234567890 if numeric == "decimal" else 0.1 + 0.2, 65000.5])
    number = Decimal(str(number)) if numeric == "decimal" else float(number)
    text = chance.choice(["a", "", 'quoted "x"', "comma,", "line\nend", "ümläut", "[1]"])
    return {
        "label": "A/B,ü" if column.required else chance.choice(["buy", "", "ü,"]),
        "text": text,
        "number": number,
        "time": chance.randrange(0, 7_258_118_400_000_000),
        "int": chance.randrange(-(2**63), 2**63),
        "flag": chance.random() < 0.5,
        "numbers": [number] * chance.randrange(3),
        "texts": [text] * chance.randrange(3),
    }[column.kind]


def fill(folder: Path, numeric: str, rows: int = 40) -> None:
    """Put rows with every kind of value into every market table."""
    chance = random.Random(3)
    with Store(lake(folder, numeric)) as store:
        for name, table in MARKET.items():
            arrays = {}
            for column in table.columns[:-1]:
                kind = table.arrow_input(numeric).field(column.name).type  # type: ignore[arg-type]
                values = [
                    None if not column.required and chance.random() < 0.2 else value(column, numeric, chance)
                    for _ in range(rows)
                ]
                if kind.equals(TIMESTAMP):
                    arrays[column.name] = pa.array(values, pa.int64()).cast(TIMESTAMP)
                    if column.name == "timestamp":
                        start = 1_704_067_200_000_000
                        times = [start + i * 600_000_000 for i in range(rows)]
                        arrays[column.name] = pa.array(times, pa.int64()).cast(TIMESTAMP)
                else:
                    arrays[column.name] = pa.array(values, kind)
            store.append(name, pa.RecordBatch.from_pydict(arrays)).result(30)


def run(folder: Path, output: Path, numeric: str = "float64", **request: Any) -> Written:
    settings = Settings(lakehouse=lake(folder, numeric))
    return run_export(Request(output, **request), lambda: FolderAsker(settings), lambda _: None)


class Lent(FolderAsker):
    """An asker that serves several exports."""

    def close(self) -> None:
        """Stay open."""

    def done(self) -> None:
        super().close()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with self.ask(sql, {}) as (_, batches):
            return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("ending", "numeric"),
    [
        *(("parquet", "float64"), ("parquet", "decimal"), ("csv", "float64"), ("csv", "decimal")),
        *(("arrow", "decimal"), ("csv.gz", "float64"), ("csv.zst", "float64")),
    ],
)
def test_every_table_comes_back_equal(
    imports: Imports, tmp_path: Path, numeric: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "STEP_ROWS", 16)
    monkeypatch.setattr(export, "STEP_ROWS_LISTS", 16)
    fill(tmp_path / "source", numeric)
    files = tmp_path / "files"
    files.mkdir()
    source = Lent(Settings(lakehouse=lake(tmp_path / "source", numeric)))
    for name in MARKET:
        request = Request(files / f"{name}.{ending}", name)
        assert run_export(request, lambda: source, lambda _: None).rows == 40
    assert not [p for p in files.iterdir() if p.name.startswith(".")]
    totals = imports(files, numeric=numeric)
    assert (totals.files, totals.rows, totals.rejected, totals.failed) == (len(MARKET), 40 * len(MARKET), 0, [])
    back = Lent(Settings(lakehouse=lake(tmp_path / "store", numeric)))
    for name in MARKET:
        query = f'SELECT * EXCLUDE (seq) FROM market."{name}" ORDER BY seq'
        assert back.rows(query) == source.rows(query), name
    source.done()
    back.done()


@pytest.fixture
def filled(imports: Imports, tmp_path: Path) -> Path:
    imports(DATA / "tardis", DATA / "binance")
    return tmp_path / "store"


def test_rows_come_in_order_of_seq_in_steps(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 7, 1000):
        monkeypatch.setattr(export, "STEP_ROWS", step)
        output = tmp_path / f"{step}.parquet"
        assert run(filled, output, table="market.trades").rows == 96
        assert pq.read_table(output).column("seq").to_pylist() == list(range(1, 97))


def test_a_selection_is_exported(filled: Path, tmp_path: Path) -> None:
    output = tmp_path / "some.parquet"
    day = dt.datetime(2025, 1, 1)
    chosen = Selection(since=day, until=day + dt.timedelta(days=1), symbols=("BTC-USDT", "X"), exchanges=("BINANCE",))
    assert run(filled, output, table="trades", selection=chosen).rows == 20
    rows = pq.read_table(output).to_pylist()
    assert {(r["exchange"], r["symbol"]) for r in rows} == {("BINANCE", "BTC-USDT")}
    assert all(r["timestamp"].date() == day.date() for r in rows)
    none = run(filled, tmp_path / "none.csv", table="trades", selection=Selection(symbols=("nobody",)))
    assert (none.rows, none.files) == (0, 1)
    assert (tmp_path / "none.csv").read_text().startswith('"exchange","symbol"')


def test_a_query_is_exported(filled: Path, tmp_path: Path) -> None:
    sql = "SELECT symbol, count(*) AS n FROM trades GROUP BY symbol ORDER BY symbol"
    assert run(filled, tmp_path / "q.csv", sql=sql).rows == len((tmp_path / "q.csv").read_text().splitlines()) - 1
    run(filled, tmp_path / "q.arrow", sql=sql)
    assert pa.ipc.open_file(str(tmp_path / "q.arrow")).read_all().column_names == ["symbol", "n"]
    run(filled, tmp_path / "named-anyhow", sql=sql, format="csv")
    assert (tmp_path / "named-anyhow").read_text() == (tmp_path / "q.csv").read_text()


@pytest.mark.parametrize("keys", [("day",), ("symbol",), ("day", "exchange", "symbol")])
def test_partitions_are_folders_that_can_be_imported(
    imports: Imports, filled: Path, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    written = run(filled, tmp_path / "out", table="trades", partition_by=keys)
    files = sorted((tmp_path / "out").rglob("trades.parquet"))
    assert (written.rows, written.files) == (96, len(files))
    assert len(files) > 2
    for path in files:
        named = dict(part.split("=") for part in path.relative_to(tmp_path / "out").parts[:-1])
        assert tuple(named) == keys
        table = pq.ParquetFile(path).read()
        assert named.get("symbol") in (None, *set(table.column("symbol").to_pylist()))
        days = {str(t.date()) for t in table.column("timestamp").to_pylist()}
        assert named.get("day") in (None, *days)
        assert "day" not in named or len(days) == 1
    assert imports(tmp_path / "out", folder="again").rows == 96
    order = "SELECT * EXCLUDE (seq) FROM trades ORDER BY ALL"
    assert ask(tmp_path / "again", order) == ask(filled, order)


def test_nothing_is_replaced_without_force(filled: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.parquet"
    output.write_text("mine")
    with pytest.raises(InputError, match=r"exists.*--force"):
        run(filled, output, table="trades")
    assert output.read_text() == "mine"
    run(filled, output, table="trades", force=True)
    assert pq.read_table(output).num_rows == 96
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run(filled, tmp_path / "out", table="trades", partition_by=("day",))
    run(filled, tmp_path / "out", table="trades", partition_by=("day",), force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_file_that_comes_meanwhile_is_not_replaced(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "t.parquet"
    ask_before = FolderAsker.ask

    @contextmanager
    def slow(self: FolderAsker, sql: str, parameters: Any) -> Iterator[Any]:
        output.write_text("mine")
        with ask_before(self, sql, parameters) as answer:
            yield answer

    monkeypatch.setattr(FolderAsker, "ask", slow)
    with pytest.raises(InputError, match="exists by now"):
        run(filled, output, table="trades")
    assert output.read_text() == "mine"


def test_a_failure_leaves_nothing_behind(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    sql = "SELECT CASE WHEN seq > 50 THEN error('no') ELSE seq END AS x FROM trades"
    with pytest.raises(ServerError):
        run(filled, tmp_path / "out" / "q.parquet", sql=sql)
    assert list((tmp_path / "out").iterdir()) == []


def test_requests_that_make_no_sense_are_refused(filled: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.parquet"
    with pytest.raises(InputError, match="nothing to export"):
        run(filled, output)
    with pytest.raises(InputError, match="or two things"):
        run(filled, output, table="trades", sql="SELECT 1")
    with pytest.raises(InputError, match="as it is"):
        run(filled, output, sql="SELECT 1", partition_by=("day",))
    with pytest.raises(NotFoundError, match="no stored table 'treads'"):
        run(filled, output, table="treads")
    with pytest.raises(NotFoundError, match=r"system\.trades"):
        run(filled, output, table="system.trades")
    with pytest.raises(InputError, match="is a folder"):
        run(filled, tmp_path, table="trades")
    with pytest.raises(InputError, match="only CSV is packed"):
        run(filled, tmp_path / "x.parquet.gz", table="trades")
    with pytest.raises(StatementError, match="does not exist"):
        run(filled, output, sql="SELECT * FROM nowhere")
    with pytest.raises(ConfigError, match="no data folder"):
        run(tmp_path / "nothing", output, table="trades")
    assert not output.exists()


def test_system_rejected_can_be_exported(filled: Path, tmp_path: Path) -> None:
    assert run(filled, tmp_path / "r.csv", table="system.rejected").rows == 0
