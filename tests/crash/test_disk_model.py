"""The model keeps what was synced, may lose the rest, and trusts no sync that failed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from disk_model import Disk, Tree
from disk_shim import Entry, Kind


class Journal:
    """Entries as a process would make them."""

    def __init__(self) -> None:
        self.disk = Disk()
        self._handles = 0

    def do(
        self,
        kind: Kind,
        path: str = "",
        path2: str = "",
        *,
        handle: int = 0,
        offset: int = 0,
        data: bytes = b"",
        flags: int = 0,
        error: int = 0,
    ) -> None:
        self.disk.apply(Entry(kind, flags, error, 0, handle, offset, path, path2, data))

    def open(self, path: str, flags: int = os.O_CREAT) -> int:
        self._handles += 1
        self.do(Kind.OPEN_WRITE, path, handle=self._handles, flags=flags)
        return self._handles

    def write(self, path: str, data: bytes) -> int:
        handle = self.open(path)
        self.do(Kind.WRITE, handle=handle, data=data)
        return handle

    def sync(self, path: str) -> None:
        self.do(Kind.SYNC, handle=self.open(path))

    def outcomes(self, tries: int = 300) -> list[Tree]:
        """Return what losing power now may leave, each once."""
        found = []
        for seed in range(tries):
            tree = self.disk.lose_power(random.Random(seed))
            if tree not in found:
                found.append(tree)
        return found


def contents(trees: list[Tree], path: str) -> Iterator[bytes | None]:
    return (tree.get(path, b"no file") for tree in trees)


def test_contents_and_name_are_sure_when_both_were_synced() -> None:
    journal = Journal()
    journal.write("a", b"12345678")
    assert set(contents(journal.outcomes(), "a")) >= {b"no file", b"", b"12345678", bytes(8)}
    journal.sync("a")
    assert set(contents(journal.outcomes(), "a")) == {b"no file", b"12345678"}
    journal.sync("")
    assert set(contents(journal.outcomes(), "a")) == {b"12345678"}


def test_a_synced_file_in_a_folder_without_a_sure_name_may_be_lost() -> None:
    journal = Journal()
    journal.do(Kind.MKDIR, "f")
    journal.write("f/a", b"1")
    journal.sync("f/a")
    journal.sync("f")
    assert {} in journal.outcomes()
    journal.sync("")
    assert journal.outcomes() == [{"f": None, "f/a": b"1"}]


def test_a_rename_is_done_or_not() -> None:
    journal = Journal()
    journal.write("new", b"2")
    journal.sync("new")
    journal.sync("")
    journal.do(Kind.RENAME, "new", "old")
    assert sorted(str(t) for t in journal.outcomes()) == ["{'new': b'2'}", "{'old': b'2'}"]


def test_a_name_that_was_taken_away_may_come_back_until_its_folder_is_synced() -> None:
    journal = Journal()
    journal.write("a", b"1")
    journal.sync("a")
    journal.sync("")
    journal.do(Kind.UNLINK, "a")
    assert {"a": b"1"} in journal.outcomes()
    journal.sync("")
    assert journal.outcomes() == [{}]


def test_a_later_write_may_survive_an_earlier_one_that_does_not() -> None:
    journal = Journal()
    handle = journal.write("a", b"1")
    journal.sync("")
    journal.do(Kind.WRITE, handle=handle, offset=1, data=b"2")
    assert {"a": b"\x002"} in journal.outcomes()


def test_what_a_failed_sync_was_about_stays_doubtful() -> None:
    journal = Journal()
    handle = journal.write("a", b"1")
    journal.sync("")
    journal.do(Kind.SYNC, handle=handle, error=5)
    journal.do(Kind.SYNC, handle=handle)
    assert set(contents(journal.outcomes(), "a")) == {b"", b"\0", b"1"}
    journal.do(Kind.WRITE, handle=handle, data=b"1")
    journal.do(Kind.SYNC, handle=handle)
    assert set(contents(journal.outcomes(), "a")) == {b"1"}


def test_a_later_sync_counts_for_who_trusts_it() -> None:
    journal = Journal()
    journal.disk = Disk(trusting=True)
    handle = journal.write("a", b"1")
    journal.sync("")
    journal.do(Kind.SYNC, handle=handle, error=5)
    assert len(journal.outcomes()) > 1
    journal.do(Kind.SYNC, handle=handle)
    assert journal.outcomes() == [{"a": b"1"}]


def test_a_killed_process_leaves_all_that_it_wrote() -> None:
    journal = Journal()
    handle = journal.write("a", b"12345")
    journal.do(Kind.TRUNCATE, handle=handle, offset=2)
    journal.open("b")
    journal.do(Kind.LINK, "a", "c")
    journal.do(Kind.UNLINK, "a", error=13)
    assert journal.disk.killed() == {"a": b"12", "b": b"", "c": b"12"}
