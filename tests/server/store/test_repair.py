"""A repair makes a folder open again with every row that can be read, once, and says exactly what is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakes import (
    check_goes_on,
    check_rows,
    contents,
    flip,
    flip_some,
    log_files,
    make_lake,
    parts,
    reports,
    told_lost,
    versions,
)

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import StorageError
from tickflight_server.store import Store
from tickflight_server.store.check import Checker
from tickflight_server.store.partition import PartOptions, PartWriter
from tickflight_server.store.repair import Repair, repair_folder


@pytest.fixture(scope="module")
def lake(tmp_path_factory: Any, settings_for: Any, trades: Any) -> Path:
    folder = tmp_path_factory.mktemp("repair") / "lake"
    make_lake(settings_for(folder, compact_share=0), trades)
    return folder


@pytest.fixture
def place(lake: Path, tmp_path: Path, settings_for: Any) -> LakehouseSettings:
    return settings_for(Path(shutil.copytree(lake, tmp_path / "copy")), compact_share=0)


def kinds(settings: LakehouseSettings) -> set[str]:
    return {f.kind for f in Checker(settings).run().findings}


def repaired(settings: LakehouseSettings, rows_of: Any, trades: Any) -> dict[str, set[int]]:
    """Repair the folder and see that all is well; return the rows that were lost."""
    before = Checker(settings).run()
    torn = any(f.kind == "log.torn_tail" for f in before.findings)
    if before.clean:
        return check_rows(settings, rows_of, torn=torn)
    done = repair_folder(settings)
    assert done.state == "done"
    after = Checker(settings).run()
    assert after.clean, [f.line for f in after.findings]
    lost = check_rows(settings, rows_of, torn=torn)
    for table, rows in lost.items():
        assert len(rows) == (done.tables[table].rows_lost if table in done.tables else 0)
    assert done.rows_lost == sum(len(rows) for rows in lost.values())
    check_goes_on(settings, rows_of, trades)
    assert Checker(settings).run().clean
    return lost


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", [1, 4])
def test_flipped_bits_in_the_log(place: Any, rows_of: Any, trades: Any, seed: int, number: int) -> None:
    flip_some(log_files(place.storage_path), seed, number)
    repaired(place, rows_of, trades)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_in_parts(place: Any, rows_of: Any, trades: Any, seed: int) -> None:
    flip_some(parts(place.storage_path), seed, 3)
    lost = repaired(place, rows_of, trades)
    # what the log still has comes from there
    assert all(seq <= 200 for seq in lost["trades"])


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_everywhere(place: Any, rows_of: Any, trades: Any, seed: int) -> None:
    folder = place.storage_path
    flip_some([*log_files(folder), *parts(folder)], seed, 6)
    repaired(place, rows_of, trades)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_in_versions_lose_nothing(place: Any, rows_of: Any, trades: Any, seed: int) -> None:
    flip_some(versions(place.storage_path), seed, 2)
    assert repaired(place, rows_of, trades)["trades"] == set()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a log file cut in the middle": lambda f: cut(log_files(f)[1], 2_000),
    "a log file without a head": lambda f: cut(log_files(f)[1], 17),
    "a log file gone in the middle": lambda f: log_files(f)[1].unlink(),
    "all of the log gone": lambda f: shutil.rmtree(f / "_tickflight/log"),
    "the first log file gone": lambda f: log_files(f)[0].unlink(),
    "a part gone that only it had": lambda f: parts(f)[0].unlink(),
    "all parts gone": lambda f: [p.unlink() for p in parts(f)],
    "parts and the log gone": lambda f: [p.unlink() for p in [*parts(f)[::2], log_files(f)[0]]],
    "the newest version gone": lambda f: versions(f)[-1].unlink(),
    "a version gone in the middle": lambda f: versions(f)[1].unlink(),
    "all versions gone": lambda f: shutil.rmtree(f / "trades/_delta_log"),
    "the newest version torn": lambda f: cut(versions(f)[-1], 300),
    "the newest version empty": lambda f: cut(versions(f)[-1], 0),
    "a version of zeros": lambda f: versions(f)[0].write_bytes(bytes(500)),
    "the hint damaged": lambda f: (f / "trades/_delta_log/_last_checkpoint").write_text("{"),
    "the hint names nothing": lambda f: (f / "trades/_delta_log/_last_checkpoint").write_text('{"version": 20}'),
    "the identity gone": lambda f: (f / "_tickflight/writer").unlink(),
    "the identity gone and a log file damaged": lambda f: [
        (f / "_tickflight/writer").unlink(),
        flip(log_files(f)[1], 5_000),
    ],
}
LOSES_NOTHING = {
    *("the newest version gone", "a version gone in the middle", "all versions gone", "the newest version torn"),
    *("the newest version empty", "a version of zeros", "the hint damaged", "the hint names nothing"),
    "the identity gone",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_repaired(place: Any, rows_of: Any, trades: Any, what: str) -> None:
    DAMAGE[what](place.storage_path)
    if what == "all of the log gone":  # its end cannot be known: what parts say is all there is
        with pytest.raises(AssertionError):
            repaired(place, rows_of, trades)
        assert Checker(place).run().clean
        return
    lost = repaired(place, rows_of, trades)
    assert bool(lost["trades"]) == (what not in LOSES_NOTHING)


def test_without_repair_such_a_folder_does_not_open(place: Any) -> None:
    flip(log_files(place.storage_path)[0], 5_000)
    with pytest.raises(StorageError):
        Store(place)


def test_a_lost_part_is_named_with_its_rows(place: Any, rows_of: Any, trades: Any) -> None:
    with Store(place) as store:
        index = store.tables["trades"].state.parts
        part = next(index.part(p) for p in range(len(index)) if index.last[p] == 100 and index.symbol[p] == "B")
    path = place.storage_path / "trades" / part.path
    flip(path, 200)
    damaged = path.read_bytes()
    lost = repaired(place, rows_of, trades)
    (report,) = reports(place.storage_path)
    (told,) = report["tables"]["trades"]["parts_lost"]
    assert (told["exchange"], told["symbol"], told["day"]) == ("BINANCE", "B", "2023-11-14")
    assert (told["rows"], told["rows_lost"], told["rows_found"]) == (part.rows, part.rows, 0)
    assert (told["first_seq"], told["last_seq"]) == (min(lost["trades"]), max(lost["trades"]))
    aside = next((place.storage_path / "_tickflight/damaged").rglob(path.name))
    assert aside.read_bytes() == damaged
    assert not path.exists()


def test_what_is_readable_in_fragments_is_in_rejected(place: Any, rows_of: Any, trades: Any) -> None:
    file = log_files(place.storage_path)[1]
    # in the batch's values: the record can be read, but is not believed
    record = next(o for o, n in records(file) if n == "trades")
    where = file.read_bytes().index(b"buy", record)
    flip(file, where, 1)
    damaged = file.read_bytes()
    lost = repaired(place, rows_of, trades)["trades"]
    assert len(lost) == 20
    with Store(place) as store:
        reasons = [r for _, r in rows_of(store, "rejected", "reason")]
        rows = [json.loads(r) for _, r in rows_of(store, "rejected", "row")]
        tables = {t for _, t in rows_of(store, "rejected", "table")}
    assert len(reasons) == 20
    assert tables == {"trades"}
    assert {int(r["price"]) + 1 for r in rows} == lost
    assert all(r.startswith(f"repair: log file {file.name}, offset {record}: ") for r in reasons)
    (report,) = reports(place.storage_path)
    assert report["log"][0]["rows_in_rejected"] == 20
    aside = next((place.storage_path / "_tickflight/damaged").rglob(file.name))
    assert aside.read_bytes() == damaged


def records(path: Path) -> list[tuple[int, str]]:
    """Return offset and table of each record of a log file."""
    from tickflight_server.store.record import FILE_HEADER, parse_record

    data = memoryview(path.read_bytes())
    found = []
    offset = FILE_HEADER.size
    while offset < len(data):
        record, end, _ = parse_record(data, offset)
        found.append((offset, record.table))
        offset = end
    return found


def test_bytes_that_say_nothing_are_kept_as_text(place: Any, rows_of: Any, trades: Any) -> None:
    file = log_files(place.storage_path)[1]
    record = records(file)[1][0]
    data = bytearray(file.read_bytes())
    data[record : record + 1_000] = bytes(1_000)
    file.write_bytes(data)
    repaired(place, rows_of, trades)
    with Store(place) as store:
        ((_, text),) = rows_of(store, "rejected", "row")
    told = json.loads(text)
    assert (told["file"], told["offset"]) == (file.name, record)
    assert told["hex"].startswith("00" * 1_000)


def test_a_batch_sent_again_after_a_repair_is_known(place: Any, trades: Any) -> None:
    flip(log_files(place.storage_path)[1], 5_000)
    repair_folder(place)
    with Store(place) as store:
        for sequence in (1, 10, 35):
            batch = trades(20, 20 * (sequence - 1), symbols=("A", "B", "C"))
            assert store.append("trades", batch, producer=b"p", sequence=sequence).result(20).duplicate
        assert not store.append("trades", trades(20, 700), producer=b"p", sequence=36).result(20).duplicate


def test_marks_of_a_torn_version_are_kept(place: Any, rows_of: Any, trades: Any) -> None:
    folder = place.storage_path
    with Store(place) as store:
        store.append("trades", trades(5, 700), producer=b"q", sequence=7).result(20)
    with Store(place) as store:  # so that the log lets go of it
        store.append("ticker", trades(1).select(["exchange", "symbol", "timestamp"])).result(20)
        store.flush()
    newest = versions(folder)[-1]
    newest.write_bytes(newest.read_bytes().replace(b'"add"', b'"add', 1))
    assert "version.unreadable" in kinds(place)
    done = repair_folder(place)
    assert done.rows_lost == 0
    with Store(place) as store:
        assert len(rows_of(store)) == 705
        assert store.append("trades", trades(5, 700), producer=b"q", sequence=7).result(20).duplicate


def damage_much(folder: Path) -> None:
    flip(log_files(folder)[0], 5_000)
    flip(log_files(folder)[2], 3_000)
    flip(parts(folder)[0], 500)
    parts(folder)[-1].unlink()
    cut(versions(folder)[-1], 300)


@pytest.mark.parametrize("steps", range(9))
def test_a_repair_that_was_killed_can_be_run_again(
    lake: Path, place: Any, settings_for: Any, tmp_path: Path, rows_of: Any, trades: Any, steps: int
) -> None:
    damage_much(place.storage_path)
    whole = settings_for(Path(shutil.copytree(place.storage_path, tmp_path / "whole")), compact_share=0)
    expected = repaired(whole, rows_of, trades)
    first = Repair(place)
    first.prepare()
    for _, step in zip(range(steps), first.steps(), strict=False):
        step()
    again = repair_folder(place)
    after = Checker(place).run()
    assert after.clean, [f.line for f in after.findings]
    assert check_rows(place, rows_of) == expected
    assert again.rows_lost == sum(len(rows) for rows in expected.values())
    states = [r["state"] for r in reports(place.storage_path)]
    assert states.count("done") == 1
    assert "begun" not in states
    with Store(place) as one, Store(whole) as other:
        assert [r for _, r in rows_of(one, "rejected", "reason")] == [
            r for _, r in rows_of(other, "rejected", "reason")
        ]
    check_goes_on(place, rows_of, trades)


def test_a_whole_folder_is_left_as_it_is(place: Any) -> None:
    before = contents(place.storage_path)
    repair_folder(place)
    assert contents(place.storage_path) == before


def test_losses_of_two_repairs_add_up(place: Any, rows_of: Any, trades: Any) -> None:
    flip(log_files(place.storage_path)[1], 5_000)
    first = repair_folder(place)
    assert first.rows_lost
    flip(parts(place.storage_path)[0], 500)
    second = repair_folder(place)
    assert second.rows_lost > 0
    lost = check_rows(place, rows_of)["trades"]
    assert len(lost) == first.rows_lost + second.rows_lost
    assert lost == told_lost(place.storage_path)
    assert kinds(place) <= {"rows.lost_before", "part.removed", "part.leftover"}


def test_a_configuration_that_does_not_fit_is_refused(place: Any, settings_for: Any) -> None:
    other = settings_for(place.storage_path, numeric_type="decimal")
    before = contents(place.storage_path)
    assert "version.refused" in kinds(other)
    with pytest.raises(StorageError, match="cannot be repaired"):
        repair_folder(other)
    assert contents(place.storage_path) == before


def test_rows_in_two_parts_stay_in_one(place: Any, rows_of: Any, trades: Any) -> None:
    with Store(place) as store:
        store.flush()
        table = store.tables["trades"]
        index = table.state.parts
        mine = [index.part(p) for p in range(len(index)) if index.last[p] <= 200 and index.symbol[p] == "A"]
        assert len(mine) == 2
        rows = pa.concat_tables([pq.ParquetFile(table.folder / p.path).read() for p in mine])
        rows = rows.take(pa.array(rows.column("timestamp").to_numpy().argsort(kind="stable"))).slice(5)
        with PartWriter(table.folder, table.part_schema, PartOptions("zstd", 1024)) as writer:
            both = writer.write(mine[0].key, rows, 1, 200)
        table.catalog.commit([both], 700, {})
    assert "rows.twice" in kinds(place)
    assert repaired(place, rows_of, trades)["trades"] == set()


def test_a_part_that_is_not_what_the_catalog_says_is_written_anew(place: Any, rows_of: Any, trades: Any) -> None:
    first = versions(place.storage_path)[0]
    before, mark, after = first.read_text().partition('numRecords\\":')
    assert mark
    first.write_text(before + mark + "9" + after.lstrip(" 0123456789"))
    assert kinds(place) == {"part.bounds"}
    assert repaired(place, rows_of, trades)["trades"] == set()
    (report,) = reports(place.storage_path)
    assert len(report["tables"]["trades"]["parts_written_anew"]) == 1


def test_parts_of_a_lost_version_are_taken_in_for_those_that_it_merged(place: Any, rows_of: Any, trades: Any) -> None:
    with Store(place) as store:
        store.flush()
        before = versions(place.storage_path)
        store.keeper.compact(all_of_it=True, table="trades")
        store.keeper.close()
        store.keeper.vacuum(hours=0)
    lost = set(versions(place.storage_path)) - set(before)
    assert lost
    for version in lost:
        version.unlink()
    assert kinds(place) >= {"part.missing", "part.unknown"}
    assert repaired(place, rows_of, trades)["trades"] == set()


def test_what_retention_removed_is_no_loss_and_stays_away(place: Any, rows_of: Any, settings_for: Any) -> None:
    with Store(place) as store:
        store.flush()
        table = store.tables["trades"]
        index = table.state.parts
        gone = [index.part(p) for p in range(len(index)) if index.last[p] <= 200]
        table.rewrite(gone, [], expired=True)
        left = next(index.part(p) for p in range(len(index)) if index.first[p] > 300)
    flip(place.storage_path / "trades" / left.path, 300)
    for path in log_files(place.storage_path):
        path.unlink()
    kept = settings_for(place.storage_path, compact_share=0, retention_days={"*": 1.0})
    done = repair_folder(kept)
    assert done.tables["trades"].rows_lost == left.rows
    with Store(place) as store:
        found = {seq for seq, _ in rows_of(store)}
    assert not found & set(range(1, 201))
    assert len(found) == 500 - left.rows
