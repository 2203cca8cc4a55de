"""The worked example of proto-notes/flush.md, played on a real table; and the footer of folder-layout.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from tickflight_server.paths import parse_part_file_name
from tickflight_server.schemas import STORED
from tickflight_server.store.flushing import Waiting
from tickflight_server.store.key_parts import FOOTER_KEY, parse_metadata
from tickflight_server.store.partition import PartOptions
from tickflight_server.store.record import AppendRecord, batch_to_payload
from tickflight_server.store.table import Table, TableOptions

NOTES = Path(__file__).parents[3] / "proto-notes"
PAGE = NOTES / "flush.md"
WRITER = UUID(int=7)


def example() -> dict[str, str]:
    """Return the lines of the page's example by their first words."""
    (block,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return {re.split(r"\s{2,}", line, maxsplit=1)[0]: line for line in block.splitlines()}


def numbers(line: str, label: str) -> list[int]:
    """Return the numbers behind ``label`` in a line of the example."""
    found = re.search(rf"{label}((?: \d+)+)", line)
    assert found, (label, line)
    return [int(n) for n in found[1].split()]


def parts_of(line: str) -> list[tuple[str, int, int]]:
    return [(s, int(a), int(b)) for s, a, b in re.findall(r"\b([AB]) (\d+)-(\d+)", line)]


def seqs(batches: list[pa.RecordBatch]) -> list[int]:
    return sorted(s for b in batches for s in b.column("seq").to_pylist())


class Played:
    """A table that is fed by rows of symbols A and B, one of the one letter a row."""

    def __init__(self, folder: Path, make: Callable[..., pa.RecordBatch]) -> None:
        self._folder, self._make = folder, make
        self.log: list[AppendRecord] = []
        self.table = self.open()

    def open(self) -> Table:
        options = TableOptions(numeric="float64", segment_rows=1, parts=PartOptions("zstd", 1024))
        table = Table(STORED["trades"], self._folder, WRITER, options)
        table.load()
        return table

    def rows(self, symbols: str) -> None:
        for symbol in symbols:
            first = len(self.log) + 1
            batch = STORED["trades"].arrow_input(memory=True)
            row = self._make(1, first, symbols=(symbol,))
            columns = [
                row.column(f.name).cast(f.type) if f.name in row.schema.names else pa.nulls(1, f.type) for f in batch
            ]
            rows = pa.RecordBatch.from_arrays(columns, schema=batch)
            self.log.append(AppendRecord("trades", first, 1, b"", 0, batch_to_payload(rows)))
            self.table.publish(first, rows)

    def read(self) -> list[tuple[str, int, int]]:
        """Return symbol, first and last of the parts that are read."""
        index = self.table.snapshot().parts
        names = [parse_part_file_name(p.rpartition("/")[2]) for p in index.path]
        return sorted((s, *n) for s, n in zip(index.symbol, names, strict=True) if n)

    def restart(self) -> None:
        self.table = self.open()
        for record in self.log:
            if record.last_seq > self.table.state.flushed_seq:
                self.table.replay(record)
        self.table.check_replayed()


def only_a(waiting: Waiting, *_: object) -> np.ndarray:
    """Choose the partition of symbol A, which is the large one in the example."""
    a = waiting.table.column("symbol").combine_chunks().cast(pa.string()).to_pylist()
    keys = np.concatenate([c.keys.keys for c in waiting._chunks])
    return np.unique(keys[[s == "A" for s in a]])


def test_the_worked_example(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Waiting, "choose", only_a)
    lines = example()
    played = Played(tmp_path, trades)
    played.rows("AAABAB")
    for name, more in (("flush 1", ""), ("flush 2", "AB")):
        played.rows(more)
        played.table.flush()
        state, line = played.table.state, lines[name]
        assert numbers(line, "target") == [state.target]
        assert numbers(line, "flushed_seq") == [state.flushed_seq]
        assert numbers(line, "waiting") == seqs(played.table._waiting.table.to_batches())
        newest = state.parts.part(len(state.parts) - 1)
        assert parts_of(line) == [(newest.key.symbol, *(parse_part_file_name(newest.path.rpartition("/")[2]) or ()))]
        assert played.read() == []
    played.table.release_oldest()
    check_places(played, lines["release"])
    assert numbers(lines["release"], "segments") == seqs([s.batch for s in played.table.state.segments])
    played.restart()
    check_places(played, lines["start"])
    assert played.table.state.segments == ()


def check_places(played: Played, line: str) -> None:
    state = played.table.state
    assert numbers(line, "ring_from") == [state.ring_from]
    assert played.read() == parts_of(line)
    assert numbers(line, "held") == seqs([s.batch for s in state.held])


def test_the_footer_on_the_page_is_one(tmp_path: Path) -> None:
    page = (NOTES / "folder-layout.md").read_text()
    (text,) = re.findall(r"^(\{\"columns\".*)$", page, re.MULTILINE)
    keys = parse_metadata(tmp_path, {FOOTER_KEY: text.encode()}, ["id"])
    assert keys is not None
    assert (keys.rows, keys.least, keys.greatest, keys.min_seq) == (93, 1234, 1402, 4)
