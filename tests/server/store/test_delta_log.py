"""Files of a Delta table's log: durable versions, metadata that is whole or not there, removed parts by their time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema
from store_parts import TRADES, number_rows, write_parts

from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.delta_log import Removals, removed_since, set_torn_aside, version_files, write_metadata
from tickflight_server.store.partition import Part

NAMES = ["A", "B/C", "50%", "%41", "a b", "é", "a#b", "a?b", "a=b&c", "日本" * 50, "__HIVE_DEFAULT_PARTITION__"]


@pytest.fixture
def table(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> tuple[TableCatalog, list[Part], Path]:
    """Return a table whose first version has a part for each of the odd names."""
    folder = tmp_path / "trades"
    catalog = TableCatalog(folder, TRADES, UUID(int=7), "float64")
    catalog.load()
    parts = write_parts(folder, [number_rows(trades(2 * len(NAMES), symbols=NAMES))])
    catalog.commit(parts, 2 * len(NAMES), {})
    return catalog, parts, folder


def test_versions_are_listed_oldest_first(table: tuple[TableCatalog, list[Part], Path], tmp_path: Path) -> None:
    catalog, parts, folder = table
    catalog.replace(parts[:1], [])
    (folder / "_delta_log" / "notes.json").write_text("")
    assert [v for v, _ in version_files(folder)] == [0, 1]
    assert version_files(tmp_path / "nothing") == []


@pytest.mark.parametrize("expired", [False, True])
def test_removed_parts_are_told_by_their_paths_whatever_their_names(
    table: tuple[TableCatalog, list[Part], Path], expired: bool
) -> None:
    catalog, parts, folder = table
    before_ms = time.time_ns() // 1_000_000 - 1_000  # a file system's clock is some ms behind
    assert removed_since(folder, 0) == {}
    catalog.replace(parts, [], expired=expired)
    removed = removed_since(folder, before_ms)
    assert set(removed) == {p.path for p in parts}
    assert all(before_ms <= when <= time.time_ns() // 1_000_000 for when in removed.values())
    assert removed_since(folder, time.time_ns() // 1_000_000 + 1_000) == {}


def test_removals_read_a_version_once_and_forget_it_with_its_file(
    table: tuple[TableCatalog, list[Part], Path],
) -> None:
    catalog, parts, folder = table
    removals = Removals(folder)
    assert removals.read() == {}
    catalog.replace(parts[:2], [])
    assert removals.read().keys() == {p.path for p in parts[:2]}
    for _, path in version_files(folder):
        path.write_text("{not read again")
    catalog.replace(parts[2:3], [])
    assert removals.read().keys() == {p.path for p in parts[:3]}
    version_files(folder)[1][1].unlink()
    assert removals.read().keys() == {parts[2].path}


def test_another_delta_reader_reads_no_removed_part(table: tuple[TableCatalog, list[Part], Path]) -> None:
    catalog, parts, folder = table
    for place, part in enumerate(parts):
        catalog.replace([part], [])
        rows = pa.table(DeltaTable(str(folder)).to_pyarrow_dataset().to_table())
        left = [p.key.symbol for p in parts[place + 1 :]]
        assert sorted(set(rows["symbol"].to_pylist())) == sorted(left)
    index, flushed = TableCatalog(folder, TRADES, UUID(int=7), "float64").load()
    assert (len(index), flushed) == (0, 2 * len(NAMES))


def test_metadata_is_a_version_of_its_own_and_keeps_the_rest(table: tuple[TableCatalog, list[Part], Path]) -> None:
    _, parts, folder = table
    delta = DeltaTable(str(folder))
    before = delta.metadata()
    fields = [*delta.schema().fields, *Schema.from_arrow(pa.schema([("venue", pa.string())])).fields]
    write_metadata(folder, delta, Schema(fields), {"tickflight.test": "1"})
    after = DeltaTable(str(folder))
    assert after.version() == 1
    assert after.schema().fields[-1].name == "venue"
    assert after.metadata().configuration == before.configuration | {"tickflight.test": "1"}
    assert (after.metadata().id, after.metadata().partition_columns) == (before.id, before.partition_columns)
    assert pa.table(after.get_add_actions()).num_rows == len(parts)
    assert not (folder / "_delta_log" / ".metadata.tmp").exists()
    with pytest.raises(FileExistsError):
        write_metadata(folder, delta, Schema(fields), {})
    assert DeltaTable(str(folder)).version() == 1


def test_metadata_cut_short_by_a_full_disk_is_no_version(
    table: tuple[TableCatalog, list[Part], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, folder = table
    delta = DeltaTable(str(folder))
    write = os.write
    wrote: list[int] = []

    def write_some(fd: int, data: bytes) -> int:
        if wrote:
            raise OSError(28, "No space left on device")
        wrote.append(write(fd, data[: len(data) // 2]))
        return wrote[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_some)
        with pytest.raises(OSError, match="No space left"):
            write_metadata(folder, delta, delta.schema(), {})
    assert [v for v, _ in version_files(folder)] == [0]


@pytest.mark.parametrize("cut", [b"", b"{", b'{"commitInfo', b"\0" * 64])
def test_a_torn_version_is_set_aside(table: tuple[TableCatalog, list[Part], Path], cut: bytes) -> None:
    catalog, parts, folder = table
    catalog.replace(parts[:1], [])
    path = folder / "_delta_log" / f"{1:020d}.json"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + cut if cut.startswith(b"{") else cut)
    assert set_torn_aside(folder) == 1
    assert path.with_suffix(".json.torn").exists()
    assert set_torn_aside(folder) is None
    index, _ = TableCatalog(folder, TRADES, UUID(int=7), "float64").load()
    assert len(index) == len(parts)


def test_whole_and_damaged_versions_are_left(table: tuple[TableCatalog, list[Part], Path], tmp_path: Path) -> None:
    catalog, parts, folder = table
    assert set_torn_aside(tmp_path) is None
    assert set_torn_aside(folder) is None
    catalog.replace(parts[:1], [])
    path = folder / "_delta_log" / f"{1:020d}.json"
    lines = path.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    path.write_text("\n".join([lines[0].replace('"', "'", 1), *lines[1:]]))
    assert set_torn_aside(folder) is None, "damage is for a repair, and is said"
