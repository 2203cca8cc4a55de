"""The pages say what the code does: settings, tables, worked examples, snippets, links, and nobody's machine."""

import re
import subprocess
from datetime import datetime
from pathlib import Path
from uuid import UUID

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import pyarrow as pa
import pytest
import yaml
from flight_here import FlightHere, trades
from pydantic import BaseModel

from tickflight_server import config
from tickflight_server.audit.chain import FIRST, Chain
from tickflight_server.audit.line import parse as parse_line
from tickflight_server.config import LakehouseSettings, QuerySettings, Settings
from tickflight_server.paths import decode_component, encode_component, parse_log_file_name, parse_part_file_name
from tickflight_server.query.engine import Engine
from tickflight_server.query.statement import StatementReader
from tickflight_server.schemas import MARKET, STORED
from tickflight_server.store import Pin, PinBoard, Store
from tickflight_server.store.record import FILE_HEADER, FileHeader, parse_file_header, parse_record, serialize_record

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "proto-notes"
README = (ROOT / "README.md").read_text()

SECTIONS = {
    "lakehouse": config.LakehouseSettings,
    "lakehouse.tier": config.TierSettings,
    "query": config.QuerySettings,
    "flight": config.FlightSettings,
    "flight.tls": config.TlsSettings,
    "flight.tls.subjects[]": config.SubjectSettings,
    "auth": config.AuthSettings,
    "auth.jwt": config.JwtSettings,
    "roles{}": config.RoleSettings,
    "roles{}.read[]": config.ReadGrant,
    "roles{}.limits": config.RoleLimits,
    "audit": config.AuditSettings,
    "collector": config.CollectorSettings,
    "feeds[]": config.FeedSettings,
    "feeds[].endpoints": config.Endpoints,
    "log": config.LogSettings,
}


def pages():
    guides = sorted((ROOT / "client" / "docs").glob("*.md"))
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *guides, *sorted(NOTES.rglob("*.md"))]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def table_rows(text):
    """Return the cells of every row of the tables in ``text``, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    ruled = [number for number, row in enumerate(rows) if set(row[0]) == {"-"}]
    heads = {place for number in ruled for place in (number, number - 1)}
    return [row for number, row in enumerate(rows) if number not in heads]


def section(text, heading):
    """Return what stands between ``heading`` and the next heading of its level or above."""
    level = len(heading.split(" ")[0])
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def shown(field):
    """Return a setting's default as the README writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ({}, [], ()) or value == config.RoleLimits():
        return "empty"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_setting_is_in_the_readme_with_its_default(name):
    told = {row[0]: row[1] for row in table_rows(section(README, f"#### {name}"))}
    assert told == {f"`{key}`": f"`{shown(field)}`" for key, field in SECTIONS[name].model_fields.items()}


def test_every_section_of_the_configuration_is_in_the_readme():
    assert {re.split(r"[.\[{]", name)[0] for name in SECTIONS} == set(Settings.model_fields)
    classes = {c for c in vars(config).values() if isinstance(c, type) and issubclass(c, BaseModel)}
    assert classes - {Settings} == set(SECTIONS.values())


def test_example_configuration_is_valid():
    every = [Settings.model_validate(yaml.safe_load(text)) for text in blocks(README, "yaml")]
    settings = every[0]
    assert [feed.exchange for feed in settings.feeds] == ["BINANCE", "KRAKEN"]
    for channel in {channel for feed in settings.feeds for channel in feed.channels}:
        assert channel in MARKET


def test_every_table_and_column_is_in_the_notes():
    page = (NOTES / "tables.md").read_text()
    headings = re.findall(r"^## ((?:market|system)\.\w+)$", page, re.MULTILINE)
    assert headings == [f"{table.schema}.{name}" for name, table in STORED.items()]
    for table in STORED.values():
        text = section(page, f"## {table.schema}.{table.name}")
        assert text.strip().splitlines()[0].lower() == f"{table.comment.lower()}."
        rows = table_rows(text)
        assert [row[0] for row in rows] == [c.name for c in table.columns]
        for row, column in zip(rows, table.columns, strict=True):
            wire = str(column.arrow_type("float64"))
            ring = "dictionary" if column.kind == "label" else ""
            null = "no" if column.required or column.name == "seq" else "yes"
            assert row == [column.name, wire, str(column.arrow_type("decimal")), ring, null, column.source or ""]


def test_log_example_is_what_the_page_claims():
    (text,) = blocks((NOTES / "log-format.md").read_text(), "hex log")
    data = bytes.fromhex(re.sub(r"#.*", "", text))
    header = parse_file_header(data)
    assert header == FileHeader(1, UUID("6f1d0c52-7f0e-4b7e-9a55-0f6a1c2b3d4e"))
    record, end, durable = parse_record(memoryview(data), FILE_HEADER.size)
    assert (end, durable) == (len(data), 40)
    assert (record.table, record.first_seq, record.rows) == ("trades", 41, 1)
    assert (record.producer, record.sequence) == (b"\x0a\x0b", 7)
    assert record.batch().to_pydict() == {"price": [64998.5]}
    assert header.serialize() + b"".join(bytes(b) for b in serialize_record(record, durable)) == data


def test_audit_example_is_what_the_page_claims():
    (text,) = blocks((NOTES / "audit.md").read_text(), "jsonl audit")
    prev = FIRST
    for number, line in enumerate(map(parse_line, text.encode().splitlines()), 1):
        assert (line.n, line.prev) == (number, prev)
        assert Chain().holds(line.body, line.hash)
        prev = line.hash


def test_folder_examples_are_what_the_page_claims():
    page = (NOTES / "folder-layout.md").read_text()
    rows = table_rows(section(page, "## Encoding of exchange and symbol"))
    assert len(rows) > 4
    for value, name in ([cell.strip("`") for cell in row] for row in rows):
        assert encode_component(value) == name
        assert decode_component(name) == value
    long = encode_component("é" * 300)
    assert re.fullmatch(r"(%C3%A9|%C3)+~[0-9a-f]{16}", long)
    assert len(long) <= 200


def test_names_of_files_in_the_notes_are_names_of_the_store():
    text = "".join(page.read_text() for page in pages())
    logs = re.findall(r"\b[0-9]+\.log\b", text)
    parts = re.findall(r"\b[0-9-]+-(?:[0-9a-f]{16}|[0-9a-f]{8})\.parquet\b", text)
    assert logs
    assert parts
    assert all(parse_log_file_name(name) for name in logs)
    assert all(parse_part_file_name(name) for name in parts)


def test_python_in_the_readme_compiles():
    found = blocks(README, "python")
    assert len(found) > 5
    for number, text in enumerate(found):
        compile(text, f"README block {number}", "exec")


def test_sessions_in_the_readme_run(tmp_path):
    here = FlightHere(tmp_path / "lake", query={"share_rows": 1000})
    for day in range(3):
        here.store.append("trades", trades(1000, start_us=1_790_000_000_000_000 + day * 86_400_000_000)).result()
    here.store.flush()
    found = {}
    for heading in ("### Tables of your own", "### Sessions", "### Long queries"):
        for text in blocks(section(README, heading), "python"):
            exec(text.replace("grpc://127.0.0.1:8815", here.address), found)
    here.stop()
    assert len(found["partitions"]) > 1
    assert found["rows"] == 3000


def test_sql_in_the_readme_binds(tmp_path):
    found = blocks(README, "sql")
    assert len(found) > 5
    with Store(LakehouseSettings(storage_path=tmp_path / "store")) as store:
        engine = Engine(store, QuerySettings())
        for text in found:
            plan = engine.plan(text)
            if plan.statement.streams:
                assert plan.statement.rowwise  # tests/server/flight/test_tails.py runs the like
                continue
            with engine.execute(plan) as execution:
                assert execution.reader.read_all().schema == plan.schema
        engine.close()


def test_sql_about_versions_runs(tmp_path):
    found = blocks((NOTES / "time-travel.md").read_text(), "sql")
    assert len(found) > 3
    row = {"exchange": ["BINANCE"], "symbol": ["BTC-USDT"], "timestamp": [datetime(2026, 11, 22)]}
    with Store(LakehouseSettings(storage_path=tmp_path / "store")) as store:
        engine = Engine(store, QuerySettings())
        for _ in range(2):
            store.append("trades", pa.record_batch(row)).result()
            store.flush()
        for text in found:
            # the table is younger than the time in the text
            plan = engine.plan(text.replace("2026-11-22 22:50:00", "2199-01-01"))
            with engine.execute(plan) as execution:
                assert execution.reader.read_all().num_rows == 1
        engine.close()


def test_python_about_snapshots_compiles():
    found = blocks((NOTES / "time-travel.md").read_text(), "python")
    assert len(found) > 1
    for number, text in enumerate(found):
        compile(text, f"time-travel block {number}", "exec")


def test_sql_about_books_runs(tmp_path):
    found = blocks((NOTES / "books.md").read_text(), "sql")
    assert len(found) > 4
    with Store(LakehouseSettings(storage_path=tmp_path / "store")) as store:
        engine = Engine(store, QuerySettings())
        for text in found:
            with engine.execute(engine.plan(text)) as execution:
                assert execution.reader.read_all().num_columns
        engine.close()


@pytest.mark.parametrize("name", ["time-travel", "books"])
def test_rewritten_statement_is_what_the_page_claims(name):
    page = (NOTES / f"{name}.md").read_text()
    before, after = re.search(r"^    (SELECT .*)\n    (SELECT .*)$", page, re.MULTILINE).groups()
    with duckdb.connect() as connection:
        assert StatementReader(connection, 1000).read(before).sql == after


def test_example_of_pins_is_what_the_page_claims(tmp_path):
    (text,) = blocks((NOTES / "time-travel.md").read_text(), "json")
    (tmp_path / "pins.json").write_text(text)

    class Clock:
        def now_us(self):
            return 1_790_000_000_000_000

        def monotonic(self):
            return 0.0

    (pin,) = PinBoard(tmp_path, Clock()).active()
    assert pin == Pin("4f8a11c09b2d6e5f70819203", {"ticker": 7, "trades": 300}, Clock().now_us(), 1790003600000000)


def test_session_in_the_notes_goes_as_the_page_claims(tmp_path):
    (text,) = blocks((NOTES / "workspace.md").read_text(), "session")
    here = FlightHere(tmp_path / "lake")
    with adbc.connect(here.address) as a, adbc.connect(here.address, autocommit=True) as b:
        cursors = {"a": a.cursor(), "b": b.cursor()}
        steps = re.findall(r"^([ab])> (.*)\n(?:([=!]) (.*)\n)?", text, re.MULTILINE)
        assert len(steps) == len(re.findall(r"^\w> ", text, re.MULTILINE)) > 10
        for who, what, kind, expected in steps:
            if what in ("commit", "rollback"):
                getattr(a, what)()
            elif kind == "!":
                with pytest.raises(adbc.Error, match=re.escape(expected)):
                    cursors[who].execute(what)
            else:
                cursors[who].execute(what)
            if kind == "=":
                assert str(cursors[who].fetchall()) == expected, what
        for cursor in cursors.values():
            cursor.close()
    here.stop()


def test_every_backend_is_in_the_readme():
    from tickflight_server import feed

    names = {name for name in feed.__all__ if name.endswith("Tickflight") and name != "Tickflight"}
    assert not [name for name in sorted(names) if f"`{name}`" not in README]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_decisions_are_numbered_and_tell_their_consequences():
    numbers = [int(page.name[:4]) for page in sorted((NOTES / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for page in (NOTES / "decisions").glob("*.md"):
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")
        assert "## Consequences" in page.read_text()


@pytest.mark.parametrize("page", sorted(NOTES.glob("*.md")), ids=lambda page: page.name)
def test_every_page_says_what_is_bad(page):
    assert "## What is bad about it" in page.read_text()


def test_no_machine_is_named_in_the_repository():
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository: its files cannot be listed")
    # put together here, so that this file does not hold them
    words = ["/" + "work/", "/" + "tmp/x", "/" + "root/", "/" + "home/", "issues" + " show", "index" + "-url"]
    found = []
    for name in answer.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {word}" for word in words if word in text]
    assert not found
