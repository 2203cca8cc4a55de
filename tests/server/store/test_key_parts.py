"""A part's footer says of its keys what its rows say; a part without one is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickflight_server.store.key_columns import Hasher
from tickflight_server.store.key_parts import FOOTER_KEY, PartKeys, key_metadata, read_entries, read_part


def table(ids: list[str | None], seq: int = 41) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.string()), "seq": pa.array(range(seq, seq + len(ids)), pa.int64())})


def write(path: Path, rows: pa.Table, metadata: dict[bytes, bytes] | None) -> Path:
    pq.write_table(rows.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("ids", "integers", "least", "greatest", "texts"),
    [
        (["12", "7", "9"], 3, 7, 12, 0),
        (["12", "007", None, "x"], 1, 12, 12, 2),
        (["x", ""], 0, -1, -1, 2),
        ([None, None], 0, -1, -1, 0),
        (["0", str(2**63 - 1), str(2**63)], 2, 0, 2**63 - 1, 1),
    ],
)
def test_a_footer_tells_the_integers_range(
    tmp_path: Path, ids: list[str | None], integers: int, least: int, greatest: int, texts: int
) -> None:
    rows = table(ids)
    path = write(tmp_path / "a.parquet", rows, key_metadata(rows, ["id"]))
    assert read_part(path, ["id"]) == PartKeys(path, integers, least, greatest, texts, 41)
    assert read_part(path, ["id"]).rows == integers + texts


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {FOOTER_KEY: b"{"},
        {FOOTER_KEY: b"[]"},
        {FOOTER_KEY: b'{"columns": ["id"]}'},
        {FOOTER_KEY: b'{"columns": 1}'},
    ],
)
def test_a_part_without_a_footer_of_use_is_read(tmp_path: Path, metadata: dict[bytes, bytes] | None) -> None:
    path = write(tmp_path / "a.parquet", table(["12", "7", "x"]), metadata)
    assert read_part(path, ["id"]) == PartKeys(path, 2, 7, 12, 1, 0)


def test_a_footer_for_other_columns_is_not_believed(tmp_path: Path) -> None:
    rows = table(["12", "7"]).append_column("order_id", pa.array(["a", "b"]))
    path = write(tmp_path / "a.parquet", rows, key_metadata(rows, ["order_id"]))
    assert read_part(path, ["id"]) == PartKeys(path, 2, 7, 12, 0, 0)
    assert read_part(path, ["order_id"]).texts == 2
    assert read_part(path, ["order_id", "id"]).texts == 2
    assert read_part(path, ["id", "a column that came later"]).rows == 0


def test_a_parts_entries_are_those_of_its_rows(tmp_path: Path) -> None:
    rows = table(["12", None, "x", "7"])
    path = write(tmp_path / "a.parquet", rows, None)
    hasher, pairs = Hasher(1), np.full(2, 3, np.int32)
    entries = read_entries(path, ["id"], hasher, 3)
    integers = hasher.integers(np.array([12, 7]), pairs)
    texts = hasher.texts([pa.array(["x"])], pairs[:1])
    assert entries.high.tolist() == [*integers.high.tolist(), *texts.high.tolist()]
    assert entries.low.tolist() == [*integers.low.tolist(), *texts.low.tolist()]
    assert len(read_entries(write(tmp_path / "b.parquet", table([None]), None), ["id"], hasher, 3)) == 0
    assert len(read_entries(write(tmp_path / "c.parquet", table([]), None), ["id"], hasher, 3)) == 0
