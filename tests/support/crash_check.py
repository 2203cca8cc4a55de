"""Whether a store holds what was promised: whole batches, each once, with their contents and their ``seq``.

The rule of this file: it reads a store by its snapshots alone and believes only rows, never counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from crash_batches import TABLES, Ledger, rows_of, tags_of

from tickflight_server.schemas import TableSchema
from tickflight_server.store import Store, TableSnapshot


class ViolationError(AssertionError):
    """The store broke its word."""


def check_store(store: Store, ledger: Ledger) -> set[int]:
    """Return the numbers of the batches that are in ``store``.

    Raises:
        ViolationError: a row is missing, twice, altered, in the wrong place, or was never sent.
    """
    return check_rows({t: _read_rows(store.snapshot(t), store.root / t) for t in (*TABLES, "rejected")}, ledger)


def check_rows(rows: Mapping[str, pa.Table], ledger: Ledger) -> set[int]:
    """Return the numbers of the batches that are in ``rows``: by table all it has, in order of ``seq``.

    Raises:
        ViolationError: as above.
    """
    for table in rows:
        seq = rows[table].column("seq").to_pylist()
        if seq != list(range(1, len(seq) + 1)):
            wrong = next(i for i, s in enumerate(seq) if s != i + 1)
            raise ViolationError(f"{table}: seq is not dense from 1: row {wrong + 1} has {seq[wrong]}")
    _check_rejected(rows["rejected"], ledger)
    return set().union(*(_check_table(t, rows[t], ledger) for t in TABLES))


def as_in_parts(rows: pa.Table, table: TableSchema) -> pa.Table:
    """Return ``rows`` with the columns and types that they have in parts."""
    return rows.select(table.arrow().names).cast(table.arrow())


def _read_rows(snapshot: TableSnapshot, folder: Path) -> pa.Table:
    """Return all rows of a snapshot in order of ``seq``."""
    table = snapshot.table
    pieces = [as_in_parts(pa.Table.from_batches([s.batch]), table) for s in snapshot.segments]
    pieces += [_read_part((folder / path).read_bytes(), table) for path in snapshot.parts.path]
    rows = pa.concat_tables([table.arrow().empty_table(), *pieces]).combine_chunks().sort_by("seq")
    if snapshot.last_seq != len(rows):
        raise ViolationError(f"{table.name}: the snapshot says {snapshot.last_seq} rows and has {len(rows)}")
    return rows


@lru_cache(maxsize=4096)
def _read_part(data: bytes, table: TableSchema) -> pa.Table:
    """Return a part's rows, known by its bytes: the states of a run have most of their parts in common."""
    with pq.ParquetFile(pa.BufferReader(data)) as part:
        rows = part.read(use_threads=False)
    return as_in_parts(rows, table)


def _check_table(table: str, rows: pa.Table, ledger: Ledger) -> set[int]:
    found: dict[int, int] = {}
    contents = rows.drop_columns(["seq"])
    tags = tags_of(rows)
    at = 0
    while at < len(tags):
        number = tags[at][0]
        sent = ledger.sent.get(number)
        if sent is None or sent.table != table:
            raise ViolationError(f"{table}: row {at + 1} says batch {number}, which was never sent there")
        if number in found:
            raise ViolationError(f"{table}: batch {number} is at row {found[number]} and again at row {at + 1}")
        wanted = rows_of(ledger.seed, sent).fitting
        if not contents.slice(at, wanted.num_rows).equals(wanted):
            raise ViolationError(f"{table}: batch {number} at row {at + 1} is not whole, or not as it was sent")
        found[number] = at + 1
        at += wanted.num_rows
    for number, ack in ledger.acked.items():
        sent = ledger.sent[number]
        if sent.table != table or not rows_of(ledger.seed, sent).fitting.num_rows:
            continue
        if number not in found:
            raise ViolationError(f"{table}: batch {number} was acknowledged and is missing")
        if ack.first_seq is not None and found[number] != ack.first_seq:
            raise ViolationError(
                f"{table}: batch {number} was acknowledged as row {ack.first_seq}, is row {found[number]}"
            )
    return set(found)


def _check_rejected(rows: pa.Table, ledger: Ledger) -> None:
    found = list(_rejected_ids(rows))
    sent = {i: s.number for s in ledger.sent.values() for i in rows_of(ledger.seed, s).rejected}
    if len(set(found)) != len(found):
        raise ViolationError("rejected: a row is there twice")
    if strange := set(found) - set(sent):
        raise ViolationError(f"rejected: rows {sorted(strange)} were never sent")
    missing = sorted(i for i, number in sent.items() if number in ledger.acked and i not in found)
    if missing:
        raise ViolationError(f"rejected: rows {missing} were acknowledged and are missing")


def _rejected_ids(rows: pa.Table) -> Iterator[str]:
    for row in rows.select(["table", "row"]).to_pylist():
        if row["table"] != "trades":
            raise ViolationError(f"rejected: a row of table {row['table']}")
        yield json.loads(row["row"])["id"]
