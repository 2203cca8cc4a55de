"""Compaction: many small parts of a partition become few large ones, sorted, with each key once.

The rule of this file: the parts that come out hold exactly the rows of those that went in; until the one commit that
swaps them they are nobody's, and those that went in stay on disk for their readers until vacuum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tickflight_server.errors import StorageError
from tickflight_server.store.evolution import adapt
from tickflight_server.store.key_columns import key_rows
from tickflight_server.store.partition import DAY_US, Part, PartOptions, PartWriter, read_part
from tickflight_server.store.parts import Ints, PartIndex

_TIER_BITS = 2  # parts within a factor of four are alike


@dataclass(frozen=True)
class CompactionPolicy:
    """See ``LakehouseSettings`` for the meanings and units."""

    target_bytes: int = 64 << 20
    parts_min: int = 8
    settle_seconds: float = 3600.0


@dataclass(frozen=True)
class Job:
    """Parts of one partition that become one."""

    parts: tuple[Part, ...]


def plan(index: PartIndex, ring_from: int, now_us: int, policy: CompactionPolicy) -> Iterator[Job]:
    """Yield what should be merged: the partitions with the most parts first, of as many those with the fewest bytes.

    Of a day that is over, all small parts are merged; of the current one, ``parts_min`` of a size class, so that a row
    is rewritten about once a class. Parts above ``ring_from`` are left: memory has a share of their rows.
    """
    small = (index.last <= ring_from) & (index.nbytes * 2 < policy.target_bytes)
    places = np.flatnonzero(small & np.array(["://" not in p for p in index.path], dtype=bool))
    if len(places) < 2:
        return
    keys = index.keys[places]
    order = np.lexsort((index.nbytes[places], keys))
    places, keys = places[order], keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    counts = np.diff(np.r_[starts, len(keys)])
    settled = now_us - policy.settle_seconds * 1e6
    sizes = np.add.reduceat(index.nbytes[places], starts)
    for run in np.lexsort((sizes, -counts)):
        if counts[run] < 2:
            return
        group = places[starts[run] : starts[run] + counts[run]]
        over = (int(index.day[group[0]]) + 1) * DAY_US <= settled
        for chosen in _choose(index.nbytes[group], over, policy):
            yield Job(tuple(index.part(int(p)) for p in group[chosen]))


def _choose(sizes: Ints, over: bool, policy: CompactionPolicy) -> Iterator[slice]:
    """Yield runs of parts, which are in order of size, to merge: each about the target's size at most."""
    begin = 0
    tiers = [int(s).bit_length() // _TIER_BITS for s in sizes]
    while begin < len(sizes):
        # the whole of a settled day and what has become very many; else only what is alike
        alike = range(begin, len(sizes))
        end = begin
        total = 0
        for place in alike:
            if not over and tiers[place] != tiers[begin] and len(sizes) < 4 * policy.parts_min:
                break
            if place > begin and total + sizes[place] > policy.target_bytes:
                break
            total += int(sizes[place])
            end = place + 1
        enough = 2 if over else policy.parts_min
        if end - begin >= enough:
            yield slice(begin, end)
        begin = end


def merge_parts(
    job: Job, paths: Sequence[Path], folder: Path, schema: pa.Schema, options: PartOptions
) -> tuple[Part, int]:
    """Write the rows of ``job``'s parts, read from ``paths``, to one part; return it and how many rows were repeats.

    Raises:
        StorageError: a part cannot be read or written.
    """
    try:
        oldest_first = sorted(zip(job.parts, paths, strict=True), key=lambda pair: pair[0].min_seq)
        rows = pa.concat_tables([adapt(read_part(p), schema) for _, p in oldest_first])
    except pa.ArrowException as error:
        text = f"the parts of {job.parts[0].key.folder} do not fit together: {str(error).splitlines()[0]}."
        raise StorageError(text, hint="`tickflight-server check` tells what is wrong with them.") from None
    rows = _sorted(rows)
    repeats = _repeats(rows, options.dedup)
    if repeats.any():
        rows = rows.filter(pa.array(~repeats))
    first = min(p.min_seq for p in job.parts)
    last = max(p.last for p in job.parts)
    with PartWriter(folder, schema, options) as writer:
        return writer.write(job.parts[0].key, rows, first, last), int(repeats.sum())


def _sorted(rows: pa.Table) -> pa.Table:
    """Return ``rows``, those of one part after the other, oldest first, in order of timestamp and ``seq``.

    Mostly the parts follow each other in both, nearly: a sort by time that keeps the order of equals has little to do,
    and is right.
    """
    times, seq = rows.column("timestamp").cast(pa.int64()).to_numpy(), rows.column("seq").to_numpy()
    order = np.argsort(times, kind="stable")
    sorted_times, sorted_seq = times[order], seq[order]
    if not ((sorted_times[1:] > sorted_times[:-1]) | (sorted_seq[1:] > sorted_seq[:-1])).all():
        order = np.lexsort((seq, times))
    return rows.take(pa.array(order))


def _differ(rows: pa.Table, column: str) -> bool:
    """Return whether ``column`` holds plain integers alone, and each of them once."""
    found = [key_rows([chunk], np.zeros(len(chunk), np.int32)) for chunk in rows.column(column).chunks if len(chunk)]
    if any(keys.kinds is not None for keys in found):
        return False
    values = np.sort(np.concatenate([keys.values for keys in found]), kind="stable")  # nearly in order as they are
    return not (values[1:] == values[:-1]).any()


def _repeats(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Return which rows have the key of another with a lower ``seq``: stored before the table had this key."""
    repeats = np.zeros(rows.num_rows, dtype=bool)
    if not columns or any(c not in rows.schema.names for c in columns):
        return repeats
    if rows.num_rows and len(columns) == 1 and _differ(rows, columns[0]):
        return repeats
    whole = np.ones(rows.num_rows, dtype=bool)
    for column in columns:
        whole &= rows.column(column).is_valid().to_numpy()
    place = pa.array(np.arange(rows.num_rows))
    keyed = rows.select([*columns, "seq"]).append_column("place", place).filter(pa.array(whole))
    if keyed.num_rows == 0:
        return repeats
    firsts = keyed.group_by(list(columns)).aggregate([("seq", "min")])
    if firsts.num_rows == keyed.num_rows:
        return repeats
    kept = keyed.join(firsts, keys=[*columns, "seq"], right_keys=[*columns, "seq_min"], join_type="left semi")
    repeats[keyed.column("place").to_numpy()] = True
    repeats[kept.column("place").to_numpy()] = False
    return repeats
