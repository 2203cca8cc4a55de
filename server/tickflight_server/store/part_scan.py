"""Looking at one part: is it there, whole, and what the catalog, its path and its name say of it.

The rule of this file: one part is in memory at a time, and of a whole one only the columns that are compared. A part
whose checksum is wrong is not read any further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tickflight_server.paths import parse_part_file_name, part_checksum
from tickflight_server.store.access import file_checksum
from tickflight_server.store.evolution import widens
from tickflight_server.store.partition import DAY_US, Part, PartitionKey
from tickflight_server.store.parts import Ints

LOST_KINDS = ("part.missing", "part.size", "part.checksum", "part.unreadable", "part.schema")
REWRITTEN_KINDS = ("part.bounds", "part.order")
_COLUMNS = ("exchange", "symbol", "timestamp", "seq")
# what pyarrow raises over bytes that are not what they should be
_BAD_BYTES = (OSError, pa.ArrowException, ValueError, MemoryError)


@dataclass
class PartScan:
    """What was found of one part: problems as kind and text, and the ``seq`` of its rows if it could be read."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    seq: Ints | None = None

    @property
    def lost(self) -> bool:
        """Whether its rows cannot be read from it."""
        return any(kind in LOST_KINDS for kind, _ in self.problems)

    @property
    def rewritten(self) -> bool:
        """Whether its rows can be read, and it is not what the catalog says."""
        return not self.lost and any(kind in REWRITTEN_KINDS for kind, _ in self.problems)


def scan_part(folder: Path, part: Part, schema: pa.Schema, *, evolved: bool, quick: bool) -> PartScan:
    """Compare a live part of the table in ``folder`` with the catalog; ``evolved``: it may have an older schema."""
    if "://" in part.path:
        return PartScan([("part.remote", "it lies on another storage and was not read")])
    path = folder / part.path
    try:
        size = path.stat().st_size
    except OSError:
        return PartScan([("part.missing", f"the file is missing, with {part.rows} rows")])
    if size != part.nbytes:
        return PartScan([("part.size", f"it has {size} bytes instead of {part.nbytes}")])
    if quick:
        return PartScan()
    return _scan_contents(path, part, schema, evolved=evolved)


def _scan_contents(path: Path, part: Part, schema: pa.Schema, *, evolved: bool) -> PartScan:
    try:
        if (wrong := wrong_checksum(path)) is not None:
            return PartScan([("part.checksum", wrong)])
        found = pq.read_schema(path)
        if (unlike := _unlike(found, schema, evolved=evolved)) is not None:
            return PartScan([("part.schema", unlike)])
        # without a checksum in its name, only reading all of it shows that it is whole
        rows = read_columns(path, _COLUMNS if part_checksum(path.name) else None)
    except _BAD_BYTES as error:
        return PartScan([("part.unreadable", first_line(error))])
    return _compare(rows, part)


def wrong_checksum(path: Path) -> str | None:
    """Return what is wrong with the checksum of a part, or None: it holds, or the part's name says none.

    Raises:
        OSError: the file cannot be read.
    """
    wanted = part_checksum(path.name)
    if wanted is None or (actual := file_checksum(path)) == wanted:
        return None
    return f"its checksum is {actual} and not that of its name"


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return columns of a part, or all; what pyarrow raises over damaged bytes goes through."""
    return pq.ParquetFile(path).read(columns=None if columns is None else list(columns))


def _unlike(found: pa.Schema, schema: pa.Schema, *, evolved: bool) -> str | None:
    for field_ in schema:
        place = found.get_field_index(field_.name)
        if place < 0:
            if not evolved:
                return f"it has no column {field_.name!r}"
        elif found.field(place).type != field_.type and not (evolved and widens(found.field(place).type, field_.type)):
            return f"its column {field_.name!r} is {found.field(place).type} and not {field_.type}"
    return None


def _compare(rows: pa.Table, part: Part) -> PartScan:
    """Compare the rows of a part with what the catalog, its path and its name say."""
    scan = PartScan(seq=rows.column("seq").to_numpy())
    if rows.num_rows != part.rows or rows.num_rows == 0:
        scan.problems.append(("part.bounds", f"it has {rows.num_rows} rows and not {part.rows}"))
    if rows.num_rows == 0:
        return scan
    facts = part_facts(part.path, rows)
    if facts is None:
        scan.problems.append(("part.bounds", "its rows are of more than one exchange, symbol or day"))
        return scan
    for name in ("min_us", "max_us", "min_seq", "max_seq"):
        if getattr(facts, name) != getattr(part, name):
            text = f"its {name} is {getattr(facts, name)} and not {getattr(part, name)}"
            scan.problems.append(("part.bounds", text))
    if facts.key != part.key:
        scan.problems.append(("part.bounds", f"its rows are of {describe(facts.key)}"))
    elif part.key.folder != part.path.rpartition("/")[0]:
        scan.problems.append(("part.place", f"rows of {describe(part.key)} lie in another folder"))
    bounds = parse_part_file_name(part.path.rpartition("/")[2])
    if bounds and not bounds[0] <= facts.min_seq <= facts.max_seq <= bounds[1]:
        scan.problems.append(("part.bounds", f"it has rows {facts.min_seq} to {facts.max_seq}, unlike its name"))
    times, seq = rows.column("timestamp").cast(pa.int64()).to_numpy(), rows.column("seq").to_numpy()
    steps, order = np.diff(times), np.diff(seq)
    if ((steps < 0) | ((steps == 0) & (order <= 0))).any():
        scan.problems.append(("part.order", "its rows are not in order of timestamp and seq"))
    return scan


def part_facts(path: str, rows: pa.Table, nbytes: int = 0) -> Part | None:
    """Return what the catalog should say of a part with ``rows``, or None if they are of several partitions."""
    exchanges, symbols = (pc.unique(rows.column(n)).to_pylist() for n in ("exchange", "symbol"))
    times, seq = rows.column("timestamp").cast(pa.int64()).to_numpy(), rows.column("seq").to_numpy()
    days = np.unique(times // DAY_US).tolist()
    if len(exchanges) != 1 or len(symbols) != 1 or len(days) != 1:
        return None
    key = PartitionKey(exchanges[0], symbols[0], days[0])
    bounds = (int(times.min()), int(times.max()), int(seq.min()), int(seq.max()))
    return Part(path, key, rows.num_rows, nbytes, *bounds)


def describe(key: PartitionKey) -> str:
    """Return a partition as text."""
    return f"{key.exchange} {key.symbol} {key.date:%Y-%m-%d}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True)
class Unlisted:
    """A file named as a part that the version does not list.

    ``facts`` is None if it cannot be read, or if its checksum is wrong; ``what`` says why then. ``removed``: a version
    that is kept says that it was removed.
    """

    path: str
    first: int
    last: int
    facts: Part | None
    what: str
    removed: bool
    verified: bool = True


def name_unlisted(relative: str, *, removed: bool) -> Unlisted:
    """Take a part that the version does not list by its name alone."""
    first, last = parse_part_file_name(relative.rpartition("/")[2]) or (0, 0)
    return Unlisted(relative, first, last, None, "not read", removed)


def scan_unlisted(folder: Path, relative: str, *, removed: bool) -> Unlisted:
    """Look at a part that the version does not list."""
    path = folder / relative
    by_name = name_unlisted(relative, removed=removed)
    verified = part_checksum(path.name) is not None
    try:
        if (wrong := wrong_checksum(path)) is not None:
            return replace(by_name, what=f"damaged: {wrong}")
        rows = read_columns(path, _COLUMNS if verified else None)
        facts = part_facts(relative, rows, path.stat().st_size)
    except (*_BAD_BYTES, KeyError) as error:
        return replace(by_name, what=f"damaged: {first_line(error)}")
    what = "" if facts is not None else "with rows of several partitions, or none"
    return replace(by_name, facts=facts, what=what, verified=verified)


def read_seq(path: Path) -> Ints:
    """Return the ``seq`` of a part that was found readable."""
    return np.asarray(read_columns(path, ("seq",)).column("seq").to_numpy())
