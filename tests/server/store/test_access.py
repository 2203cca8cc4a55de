"""Parts that are read: there, whole, and checked once; what is damaged is refused by its name and never believed."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from store_parts import part_paths
from system_processes import wait_for

from tickflight_server.clock import SystemClock
from tickflight_server.errors import CancelledError, LogCorruptError, StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import part_file_name
from tickflight_server.store import Store, TableSnapshot
from tickflight_server.store import access as access_module
from tickflight_server.store.access import PartChecker
from tickflight_server.store.health import Health

FLIPS = {"sample": 400, "full": 1_000}


@pytest.fixture
def flips(request: pytest.FixtureRequest) -> int:
    """Return how many bits are tried."""
    return FLIPS[request.config.getoption("--campaign")]


@pytest.fixture
def stored(open_store: Any, put_parts: Any) -> Any:
    store = open_store()
    put_parts(store, 3, symbols=("A", "B"))
    return store


def snapshot_rows(store: Store, rows_of: Any) -> list[tuple[int, Any]]:
    """Return the rows of trades after their parts were opened, as a query does it."""
    snapshot = store.snapshot("trades")
    store.open_parts(snapshot, snapshot.parts).close()
    return list(rows_of(store))


def open_all(store: Store) -> TableSnapshot:
    snapshot = store.snapshot("trades")
    store.open_parts(snapshot, snapshot.parts).close()
    return snapshot


def parts_condition(store: Store) -> tuple[str, str]:
    return next((c.state, c.detail) for c in store.health.conditions() if c.component == "parts")


def test_opened_parts_are_named_from_the_data_folder(stored: Any) -> None:
    snapshot = stored.snapshot("trades")
    opened = stored.open_parts(snapshot, snapshot.parts)
    assert opened.paths == [f"trades/{p}" for p in snapshot.parts.path]
    assert all((stored.root / p).is_file() for p in opened.paths)
    opened.close()
    opened.close()
    assert stored.open_parts(snapshot, snapshot.parts.chosen(snapshot.parts.rows < 0)).paths == []


def test_each_part_is_checked_once(stored: Any) -> None:
    open_all(stored)
    assert stored.metrics.read()["parts_checked"] == 6
    open_all(stored)
    assert stored.metrics.read()["parts_checked"] == 6
    path = part_paths(stored.root / "trades")[0]
    os.utime(path, (1, 1))
    open_all(stored)
    assert stored.metrics.read()["parts_checked"] == 7, "a file that changed is checked again"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("deleted", "no such file or directory"),
        ("cut short", r"it has \d+ bytes instead of \d+"),
        ("longer", r"it has \d+ bytes instead of \d+"),
        ("flipped", "its checksum is wrong"),
        ("replaced", "its checksum is wrong"),
        ("a folder", r"it has \d+ bytes instead of \d+|is a directory"),
    ],
)
@pytest.mark.parametrize("met", [False, True])
def test_a_damaged_part_is_refused_by_name_until_it_is_restored(
    stored: Any, damage: str, says: str, met: bool, rows_of: Any
) -> None:
    if met:
        open_all(stored)
    path = part_paths(stored.root / "trades")[2]
    whole = path.read_bytes()
    path.unlink()
    flipped = bytes([whole[0], whole[1], whole[2], whole[3], whole[4] ^ 1, *whole[5:]])
    left = {"cut short": whole[:-1], "longer": whole + b"\0", "flipped": flipped, "replaced": bytes(len(whole))}
    if damage in left:
        path.write_bytes(left[damage])
    elif damage == "a folder":
        path.mkdir()
    for _ in range(2):
        with pytest.raises(
            StorageError, match=rf"part trades/\S*/{path.name} of table trades cannot be read: ({says})"
        ) as caught:
            open_all(stored)
        assert "check" in (caught.value.hint or "")
    state, detail = parts_condition(stored)
    assert state == "degraded"
    assert path.name in detail
    assert stored.metrics.read()["parts_damaged"] >= 2
    path.rmdir() if damage == "a folder" else path.unlink(missing_ok=True)
    path.write_bytes(whole)
    open_all(stored)
    assert parts_condition(stored) == ("ok", "")
    assert len(rows_of(stored)) == 30


def test_parts_that_a_query_does_not_need_do_not_matter(stored: Any) -> None:
    snapshot = stored.snapshot("trades")
    (stored.root / "trades" / snapshot.parts.path[0]).unlink()
    rest = snapshot.parts.without([snapshot.parts.path[0]])
    assert len(stored.open_parts(snapshot, rest).paths) == 5


def test_without_verification_only_presence_and_size_are_looked_at(open_store: Any, put_parts: Any) -> None:
    store = open_store(verify_parts="never")
    put_parts(store, 1)
    (path,) = part_paths(store.root / "trades")
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    open_all(store)
    assert "parts_checked" not in store.metrics.read()
    path.write_bytes(whole[:-1])
    with pytest.raises(StorageError):
        open_all(store)


def test_many_parts_are_checked_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = PartChecker(tmp_path, Health(SystemClock()), Metrics(), "first_use")
    paths = []
    for i in range(40):
        data = bytes([i]) * 1_000
        paths.append(tmp_path / part_file_name(i, i, access_module.file_checksum(make(tmp_path / "data", data))))
        paths[-1].write_bytes(data)
    checker.check("trades", [(str(p), 1_000) for p in paths])
    paths[33].write_bytes(bytes(1_000))
    with pytest.raises(StorageError, match=paths[33].name):
        checker.check("trades", [(str(p), 1_000) for p in paths])
    checker.close()


def test_parts_may_be_read_while_they_are_compared_and_are_known_whole_afterwards(stored: Any) -> None:
    snapshot = stored.snapshot("trades")
    opened = stored.open_parts(snapshot, snapshot.parts, frozenset({"price"}), meanwhile=True)
    opened.wait()
    opened.close()
    assert stored.metrics.read()["parts_checked"] == 6
    stored.open_parts(snapshot, snapshot.parts, frozenset({"price"})).close()
    assert stored.metrics.read()["parts_checked"] == 6


def test_damage_that_is_found_meanwhile_is_told_by_whoever_waits(stored: Any) -> None:
    snapshot = stored.snapshot("trades")
    damaged = part_paths(stored.root / "trades")[4]
    whole = damaged.read_bytes()
    chunk = pq.read_metadata(damaged).row_group(0).column(4)
    place = chunk.data_page_offset + 3
    damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    opened = stored.open_parts(snapshot, snapshot.parts, frozenset({chunk.path_in_schema}), meanwhile=True)
    for _ in range(2):
        with pytest.raises(StorageError, match=damaged.name):
            opened.wait()
    opened.close()
    assert parts_condition(stored)[0] == "degraded"
    damaged.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(StorageError, match=damaged.name):  # readers find their way by the end
        stored.open_parts(snapshot, snapshot.parts, frozenset({chunk.path_in_schema}), meanwhile=True)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], threading.Event]:
    """Let parts be compared only once the event is set; return which were begun, and the event."""
    compared: list[Path] = []
    go = threading.Event()

    def compare(path: Path, sums: Any, columns: Any) -> bool:
        compared.append(path)
        return go.wait(20)

    monkeypatch.setattr(access_module, "chunks_are_whole", compare)
    return compared, go


def test_nobody_compares_parts_that_were_let_go(stored: Any, slow: tuple[list[Path], threading.Event]) -> None:
    compared, go = slow
    snapshot = stored.snapshot("trades")
    opened = stored.open_parts(snapshot, snapshot.parts, frozenset({"price"}), meanwhile=True)
    wait_for(lambda: compared, "a part begun")
    threading.Timer(0.05, go.set).start()
    opened.close()
    assert go.is_set()
    begun = len(compared)
    assert begun <= 4
    stored.open_parts(snapshot, snapshot.parts, frozenset({"price"})).close()
    assert len(compared) == 6, "what was compared is known, and the rest was not begun"


def test_who_waits_for_parts_to_be_compared_waits_no_more_when_that_is_cancelled(
    stored: Any, slow: tuple[list[Path], threading.Event]
) -> None:
    compared, go = slow
    snapshot = stored.snapshot("trades")
    opened = stored.open_parts(snapshot, snapshot.parts, frozenset({"price"}), meanwhile=True)
    opened.cancel()
    go.set()
    with pytest.raises(CancelledError):
        opened.wait()
    assert len(compared) < 6
    opened.close()
    opened.cancel()
    again = stored.open_parts(snapshot, snapshot.parts, frozenset({"price"}), meanwhile=True)
    again.wait()
    again.close()
    assert len(compared) == 6, "what was left out is not taken for whole"


def make(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_name_without_a_checksum_is_not_compared(tmp_path: Path) -> None:
    path = make(tmp_path / part_file_name(1, 2, "01234567"), b"of an older version")
    checker = PartChecker(tmp_path, Health(SystemClock()), Metrics(), "first_use")
    checker.check("trades", [(str(path), 19)])
    checker.close()


def test_a_part_deleted_under_a_reader_is_said_when_it_is_opened_and_harms_no_other_row(
    stored: Any, rows_of: Any, trades: Any
) -> None:
    snapshot = open_all(stored)
    gone = snapshot.parts.chosen(snapshot.parts.symbol == "A")
    for path in gone.path:
        (stored.root / "trades" / path).unlink()
    with pytest.raises(StorageError, match="no such file"):
        stored.open_parts(snapshot, snapshot.parts)
    assert len(stored.open_parts(snapshot, snapshot.parts.chosen(snapshot.parts.symbol == "B")).paths) == 3
    assert stored.append("trades", trades(1, 99)).result(20).first_seq == 31
    assert stored.flush()["trades"] == 31


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_flipped_bit_of_a_part_is_never_believed(
    open_store: Any, put_parts: Any, rows_of: Any, compression: str, flips: int
) -> None:
    store = open_store(compression=compression, compact_parts_min=2)
    put_parts(store, 2, symbols=("A", "B"))
    paths = part_paths(store.root / "trades")
    rows = snapshot_rows(store, rows_of)
    rng = random.Random(7)
    for _ in range(flips // 2):
        path = rng.choice(paths)
        whole = path.read_bytes()
        bit = rng.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(StorageError, match=path.name):
            open_all(store)
        path.write_bytes(whole)
    assert snapshot_rows(store, rows_of) == rows


def test_a_flipped_bit_of_the_log_is_refused_by_name_or_changes_no_acknowledged_row(
    open_store: Any, trades: Any, rows_of: Any, settings_for: Any, tmp_path: Path, flips: int
) -> None:
    """Two groups share the file: of the last one, damage looks like a tail that was torn before it was durable."""
    store = open_store(wal_file_mb=1)
    for i in range(6):
        store.append("trades", trades(3, 3 * i, symbols=("A", "B")), producer=b"p", sequence=i + 1).result(20)
    rows = rows_of(store)
    store.close(flush=False)
    (path,) = [f.path for f in store.log.files]
    whole = path.read_bytes()
    rng = random.Random(7)
    refused = same = cut = 0
    for _ in range(flips):
        bit = rng.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            again = Store(settings_for(tmp_path / "lake", wal_file_mb=1))
        except LogCorruptError as error:
            refused += path.name in error.message
        else:
            found = rows_of(again)
            again.close(flush=False)
            same += found == rows
            cut += found == rows[:-3]
            assert found in (rows, rows[:-3])
        for newer in path.parent.iterdir():
            if newer != path:
                newer.unlink()
    assert refused > flips // 2
    assert same + cut + refused == flips
