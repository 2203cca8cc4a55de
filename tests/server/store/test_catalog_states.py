"""The Delta table against a model: after any commits, removals, failures and reloads it lists the live parts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_parts import parts_of

from tickflight_server.errors import NotFoundError, StorageError
from tickflight_server.paths import part_file_name
from tickflight_server.schemas import STORED
from tickflight_server.store import delta_log
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.partition import DAY_US, Part, PartitionKey
from tickflight_server.store.parts import PartIndex

TRADES = STORED["trades"]
SYMBOLS = [
    "A",
    "B/C",
    "50%",
    "%41",
    "a b",
    "é",
    "a#b",
    "a?b",
    "a=b&c",
    "..",
    "+",
    "x" * 300,
    "__HIVE_DEFAULT_PARTITION__",
]
keys = st.builds(PartitionKey, st.sampled_from(["X", "Y Z"]), st.sampled_from(SYMBOLS), st.sampled_from([0, 20_000]))


def fail(*_: Any) -> None:
    raise OSError(5, "Input/output error")


class CatalogMachine(RuleBasedStateMachine):
    """No part has a file: the table only says what is where."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "trades"
        self.live: dict[str, Part] = {}
        self.flushed = 0
        self.last = 0
        self.producers: dict[bytes, int] = {}
        self.versions: list[tuple[set[str], int]] = []  # the live paths, and the time of the commit in µs
        self.begun_us = time.time_ns() // 1000 - 3_600_000_000
        self.reload()

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    def part(self, key: PartitionKey, first: int, last: int, max_seq: int) -> Part:
        name = part_file_name(first, last, f"{last:016x}")
        us = key.day * DAY_US
        return Part(f"{key.folder}/{name}", key, 1, 1_000 + last, us + 1, us + DAY_US - 1, first, max_seq)

    def committed(self, version: int) -> None:
        assert version == len(self.versions) == self.catalog.version
        us = self.begun_us + len(self.versions) * 1_000_000
        os.utime(self.folder / "_delta_log" / f"{version:020d}.json", ns=(us * 1_000, us * 1_000))
        self.versions.append((set(self.live), us))

    @rule(found=st.lists(keys, max_size=4, unique=True), lag=st.integers(0, 3), data=st.data())
    def commit(self, found: list[PartitionKey], lag: int, data: st.DataObject) -> None:
        first, self.last = self.last + 1, self.last + 10
        parts = [self.part(key, first, self.last, self.last - 1) for key in found]
        self.flushed = max(self.flushed, self.last - lag)
        producers = data.draw(
            st.dictionaries(st.sampled_from([b"\x00\xff", b"p"]), st.integers(1, 2**63 - 1), max_size=2)
        )
        self.producers |= producers
        self.live |= {p.path: p for p in parts}
        self.committed(self.catalog.commit(parts, self.flushed, producers))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), expired=st.booleans())
    def replace(self, data: st.DataObject, expired: bool) -> None:
        """Let one part stand for some of a partition, or none if they expired."""
        key = data.draw(st.sampled_from(sorted({p.key for p in self.live.values()})))
        removed = [p for p in self.live.values() if p.key == key]
        removed = removed[: data.draw(st.integers(1, len(removed)))]
        last = max(p.last for p in removed)
        added = [] if expired else [self.part(key, removed[0].min_seq, last, max(p.max_seq for p in removed))]
        if added and added[0].path in self.live:
            return
        for part in removed:
            del self.live[part.path]
        self.live |= {p.path: p for p in added}
        self.committed(self.catalog.replace(removed, added, expired=expired))

    @rule(key=keys)
    def commit_without_its_sync(self, key: PartitionKey) -> None:
        """A commit whose sync fails is there all the same, and ``load`` tells."""
        first, self.last = self.last + 1, self.last + 10
        part = self.part(key, first, self.last, self.last)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delta_log, "sync_file", fail)
            with pytest.raises(StorageError, match="Input/output error"):
                self.catalog.commit([part], self.last, {})
        self.flushed = self.last
        self.live[part.path] = part
        self.check(*self.catalog.load())
        self.committed(self.catalog.version)

    @rule()
    def reload(self) -> None:
        self.catalog = TableCatalog(self.folder, TRADES, UUID(int=7), "float64")
        self.check(*self.catalog.load())
        assert self.catalog.version == len(self.versions) - 1

    def check(self, index: PartIndex, flushed: int) -> None:
        assert {p.path: p for p in parts_of(index)} == self.live
        assert dict(zip(index.path, index.last.tolist(), strict=True)) == {p.path: p.last for p in self.live.values()}
        assert flushed == self.flushed
        for producer in (b"\x00\xff", b"p", b"never"):
            assert self.catalog.producer_sequence(producer) == self.producers.get(producer, 0)

    @rule(share=st.floats(0, 1))
    def go_back(self, share: float) -> None:
        for missing in (-1, len(self.versions)):
            with pytest.raises(NotFoundError, match=f"no version {missing}"):
                self.catalog.at_version(missing)
        if self.versions:
            version = round(share * (len(self.versions) - 1))
            paths, us = self.versions[version]
            assert set(self.catalog.at_version(version).path) == paths
            assert [self.catalog.version_at(us + later) for later in (0, 999_999)] == [version] * 2
            assert self.catalog.versions() == (0, len(self.versions) - 1)

    @invariant()
    def another_reader_sees_the_same(self) -> None:
        if self.versions:
            actions = pa.table(DeltaTable(str(self.folder)).get_add_actions(flatten=True))
            found = zip(actions["partition.exchange"].to_pylist(), actions["partition.symbol"].to_pylist(), strict=True)
            assert sorted(found) == sorted((p.key.exchange, p.key.symbol) for p in self.live.values())


class TestCatalog(CatalogMachine.TestCase):
    settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
