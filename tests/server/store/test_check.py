"""A check finds what is damaged, names it, and changes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lakes import contents, flip, log_files, make_lake, parts, versions

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import ConfigError
from tickflight_server.store import Store
from tickflight_server.store.check import Checker
from tickflight_server.store.findings import KINDS, CheckReport

NOTES = Path(__file__).parents[3] / "proto-notes"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: Any, settings_for: Any, trades: Any) -> Path:
    folder = tmp_path_factory.mktemp("check") / "lake"
    make_lake(settings_for(folder, compact_share=0), trades)
    return folder


@pytest.fixture
def copy(lake: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lake, tmp_path / "copy"))


@pytest.fixture
def check(settings_for: Any) -> Callable[..., CheckReport]:
    def run(folder: Path, *, quick: bool = False, **changes: Any) -> CheckReport:
        return Checker(settings_for(folder, **changes), quick=quick).run()

    return run


def kinds(report: CheckReport) -> set[str]:
    return {f.kind for f in report.findings}


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_folder_is_clean(lake: Path, check: Any, quick: bool) -> None:
    before = contents(lake)
    report = check(lake, quick=quick)
    assert report.clean
    assert kinds(report) == set()
    facts = report.tables["trades"]
    assert (facts.last_seq, facts.rows_in_log) == (700, 500)
    assert facts.rows_in_parts > 300
    assert set(report.tables) == {"trades", "ticker"}
    assert json.loads(json.dumps(report.as_json()))["clean"] is True
    assert contents(lake) == before


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def with_metadata(path: Path, change: Callable[[Any], Any]) -> None:
    """Write a part anew, with another size and checksum, as a tool would that knows no better."""
    pq.write_table(change(pq.ParquetFile(path).read()), path)


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a byte of a record": (lambda f: flip(log_files(f)[1], 3_500), {"log.damaged", "log.rows_missing"}),
    "the head of a log file": (lambda f: flip(log_files(f)[1], 20), {"log.damaged"}),
    "a log file cut in the middle": (lambda f: cut(log_files(f)[0], 2_000), {"log.damaged", "log.rows_missing"}),
    "the end of the last log file": (lambda f: cut(log_files(f)[-1], 9_999), {"log.torn_tail"}),
    "a log file of another folder": (lambda f: make_foreign(f), {"log.foreign"}),
    "a renamed log file": (
        lambda f: log_files(f)[-1].rename(log_files(f)[-1].with_stem("000000000099")),
        {"log.damaged"},
    ),
    "a log file is gone": (lambda f: log_files(f)[1].unlink(), {"log.rows_missing"}),
    "a part is gone": (lambda f: parts(f)[0].unlink(), {"part.missing"}),
    "a part is short": (lambda f: cut(parts(f)[0], 99), {"part.size"}),
    "a byte of a part": (lambda f: flip(parts(f)[0], 500), {"part.checksum"}),
    "a version is torn": (lambda f: cut(versions(f)[-1], 300), {"version.unreadable"}),
    "a version is empty": (lambda f: cut(versions(f)[-1], 0), {"version.empty"}),
    "the newest version is gone": (lambda f: versions(f)[-1].unlink(), {"part.leftover"}),
    "a version in the middle is gone": (lambda f: versions(f)[1].unlink(), {"version.unreadable"}),
    "the first version is gone": (lambda f: versions(f)[0].unlink(), {"version.unreadable"}),
    "the hint is damaged": (
        lambda f: (f / "trades/_delta_log/_last_checkpoint").write_text("{"),
        {"version.unreadable"},
    ),
    "the identity is gone": (lambda f: (f / "_tickflight/writer").unlink(), {"writer.missing"}),
    "a part twice": (
        lambda f: shutil.copy(parts(f)[0], parts(f)[0].with_stem("0000000000000000001-0000000000000000100-deadbeef")),
        {"part.leftover"},
    ),
    "somebody's files": (
        lambda f: [(f / p).write_text("x") for p in ("a", "trades/b", "_tickflight/c", "_tickflight/log/d")],
        {"file.foreign"},
    ),
}


def make_foreign(folder: Path) -> None:
    other = folder.parent / "other"
    with Store(LakehouseSettings(storage_path=other)):
        pass
    shutil.copy(next((other / "_tickflight/log").glob("*.log")), log_files(folder)[-1].with_stem("000000000098"))


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_nothing_is_changed(copy: Path, check: Any, what: str) -> None:
    damage, expected = DAMAGE[what]
    damage(copy)
    before = contents(copy)
    report = check(copy)
    assert kinds(report) == expected
    assert report.clean == all(KINDS[k].severity == "note" for k in expected)
    for found in report.findings:
        assert found.line.startswith(found.severity)
        assert found.todo
        assert "\n" not in found.line
    assert contents(copy) == before


def test_damage_in_the_log_is_named_with_file_and_offset(copy: Path, check: Any) -> None:
    file = log_files(copy)[0]
    flip(file, 3_500)
    (found,) = [f for f in check(copy).findings if f.kind == "log.damaged"]
    assert found.file == f"_tickflight/log/{file.name}"
    assert found.offset is not None
    assert 40 < found.offset <= 3_500


def test_a_quick_check_does_not_read_the_contents_of_parts(copy: Path, check: Any) -> None:
    flip(parts(copy)[0], 500)
    assert check(copy, quick=True).clean
    parts(copy)[1].unlink()
    assert kinds(check(copy, quick=True)) == {"part.missing"}


def test_rows_that_retention_removed_are_no_fault(copy: Path, check: Any, settings_for: Any) -> None:
    with Store(settings_for(copy, compact_share=0)) as store:
        index = store.tables["trades"].state.parts
        gone = [index.part(p) for p in range(len(index)) if index.last[p] <= 200]
        assert store.tables["trades"].rewrite(gone, [], expired=True)
    report = check(copy, retention_days={"*": 1.0})
    assert report.clean
    assert kinds(report) == {"rows.expired", "part.removed"}
    # a table that is kept for ever has no such holes
    assert "rows.missing" in kinds(check(copy))


def test_what_is_no_data_folder_is_refused_and_not_made(tmp_path: Path, check: Any) -> None:
    with pytest.raises(ConfigError):
        check(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_every_kind_of_finding_is_explained() -> None:
    page = (NOTES / "repair.md").read_text()
    told = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (error|warning|note) \|", page, re.MULTILINE))
    assert told == {name: kind.severity for name, kind in KINDS.items()}
