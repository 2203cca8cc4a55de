"""Files to import, what they become, and questions to a folder."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from tickflight_server.app.backfill.asking import FolderAsker
from tickflight_server.app.backfill.cells import Cells
from tickflight_server.app.backfill.chunks import find_layout, read_chunks
from tickflight_server.app.backfill.files import SourceFile, find_files
from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.config import LakehouseSettings, Settings

DATA = Path(__file__).parents[1] / "data" / "backfill"


def lake(folder: Path, numeric: str = "float64") -> LakehouseSettings:
    # every row is stored, also one that repeats an id: what is tested here are files and their chunks
    return LakehouseSettings.model_validate({"storage_path": folder, "numeric_type": numeric, "dedup": {"trades": []}})


def source(path: Path) -> SourceFile:
    (file,), _ = find_files((path,))
    return file


def convert(path: Path, numeric: Any = "float64", chunk_rows: int | None = None, **wishes: Any) -> dict[str, pa.Table]:
    """Return what a file becomes, by table, without a store."""
    file = source(path)
    layout = find_layout(file, Wishes(**wishes))
    if chunk_rows is not None:
        object.__setattr__(layout, "chunk_rows", chunk_rows)
    found: dict[str, list[pa.RecordBatch]] = {}
    faults: list[str] = []
    for chunk in read_chunks(file, layout, numeric, lambda _: None):
        for table, batch in layout.convert(chunk.cells):
            found.setdefault(table, []).append(batch)
        faults += chunk.cells.faults.values()
    for table, batch in layout.finish():
        found.setdefault(table, []).append(batch)
    assert not faults
    return {table: pa.concat_tables([pa.Table.from_batches([b]) for b in batches]) for table, batches in found.items()}


def cells(columns: dict[str, Any], numeric: Any = "float64") -> Cells:
    arrays = {n: v if isinstance(v, pa.Array) else pa.array(v, pa.string()) for n, v in columns.items()}
    return Cells(arrays, len(next(iter(arrays.values()))), numeric)


def ask(folder: Path, sql: str, numeric: str = "float64") -> list[dict[str, Any]]:
    asker = FolderAsker(Settings(lakehouse=lake(folder, numeric)))
    try:
        with asker.ask(sql, {}) as (_, batches):
            return [row for batch in batches for row in batch.to_pylist()]
    finally:
        asker.close()


def gzipped(path: Path, folder: Path) -> Path:
    packed = folder / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def zipped(path: Path, folder: Path, name: str | None = None) -> Path:
    packed = folder / (name or f"{path.stem}.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    return packed
