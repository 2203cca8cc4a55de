"""What is on a disk when the power goes, worked out from a journal of the disk shim.

The rule of this file: only what a sync promised is sure. File contents are sure once their file was synced, names once
their folder was; everything else is there, or torn, or not, as a seed decides. A sync that failed promises nothing,
and neither does a later one about the same bytes. The page is proto-notes/crash-testing.md.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from disk_shim import Entry, Kind

Tree = dict[str, bytes | None]
"""Contents by path relative to the folder; None is a folder. Parents come before what is in them."""

PAGE_BYTES = 4096


class Style(enum.Enum):
    """How much of what is not sure survives."""

    NOTHING = "nothing"
    NAMES = "names"  # every name, and no contents
    CONTENTS = "contents"  # all contents, and no name
    ORDERED = "ordered"  # everything up to some moment, the operation of that moment torn
    ANY = "any"  # each on its own


class _State(enum.Enum):
    PENDING = 0
    DOUBTFUL = 1  # a sync of it failed
    SURE = 2


@dataclass(eq=False)
class _Change:
    """Bytes written at an offset, or with ``data`` None the size that the file was cut or grown to."""

    number: int
    offset: int
    data: bytes | None
    state: _State = _State.PENDING

    def to(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(eq=False)
class _File:
    view: bytearray = field(default_factory=bytearray)
    sure: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        change.to(self.view)
        self.changes.append(change)

    def sync(self, *, failed: bool, trusting: bool) -> None:
        for change in self.changes:
            if change.state is _State.PENDING or (trusting and change.state is _State.DOUBTFUL):
                change.state = _State.DOUBTFUL if failed else _State.SURE
        while self.changes and self.changes[0].state is _State.SURE:
            self.changes.pop(0).to(self.sure)


@dataclass(eq=False)
class _Folder:
    view: dict[str, _Node] = field(default_factory=dict)
    sure: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder
_Names = Callable[[_Folder], dict[str, _Node]]
_Content = Callable[[_File], bytes]


@dataclass(eq=False)
class _Naming:
    """Names that one operation changes together; None takes the name away."""

    number: int
    changes: list[tuple[_Folder, str, _Node | None]]


class Disk:
    """A folder as a process sees it, and as the disk would give it back. ``apply`` the journal's entries in order.

    Args:
        trusting: a sync that goes well makes sure also what an earlier one failed about; Linux does not promise it.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._trusting = trusting
        self._root = _Folder()
        self._handles: dict[int, _Node] = {}
        self._namings: list[_Naming] = []
        self._number = 0

    def load(self, folder: Path) -> None:
        """Take what lies in ``folder`` as there, and sure."""
        for path in sorted(folder.rglob("*")):
            above, name = self._place(str(path.relative_to(folder)))
            content = b"" if path.is_dir() else path.read_bytes()
            node = _Folder() if path.is_dir() else _File(bytearray(content), bytearray(content))
            above.view[name] = above.sure[name] = node

    def apply(self, entry: Entry) -> None:
        """Do what ``entry`` tells; what failed changes nothing, but a failed sync leaves its bytes doubtful."""
        self._number += 1
        if entry.kind is Kind.SYNC:
            self._sync(self._handles[entry.handle], failed=entry.error != 0)
        elif entry.error == 0:
            self._succeed(entry)

    @contextmanager
    def tearing(self, write: Entry) -> Iterator[None]:
        """Have ``write`` done within the context, and undone behind it."""
        file = self._file(write)
        before = bytes(file.view)
        self.apply(write)
        yield
        file.changes.pop()
        file.view[:] = before
        self._number -= 1

    def _succeed(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.OPEN_WRITE | Kind.OPEN_READ | Kind.OPEN_FOLDER:
                self._open(entry)
            case Kind.WRITE:
                self._file(entry).change(_Change(self._number, entry.offset, entry.data))
            case Kind.TRUNCATE:
                self._file(entry).change(_Change(self._number, entry.offset, None))
            case Kind.MKDIR:
                self._name((entry.path, _Folder()))
            case Kind.UNLINK | Kind.RMDIR:
                self._name((entry.path, None))
            case Kind.LINK:
                self._name((entry.path2, self._find(entry.path)))
            case Kind.RENAME:
                self._name((entry.path, None), (entry.path2, self._find(entry.path)))
            case Kind.ESCAPE:
                raise AssertionError(f"not modelled: {entry.data.decode()} of {entry.path}")

    def _open(self, entry: Entry) -> None:
        node = self._find(entry.path)
        if node is None:
            node = _File()
            self._name((entry.path, node))
        if entry.flags & os.O_TRUNC and isinstance(node, _File) and node.view:
            node.change(_Change(self._number, 0, None))
        self._handles[entry.handle] = node

    def _file(self, entry: Entry) -> _File:
        node = self._handles[entry.handle]
        assert isinstance(node, _File)
        return node

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = path.split("/")
        at = self._root
        for folder in folders:
            below = at.view[folder]
            assert isinstance(below, _Folder)
            at = below
        return at, name

    def _find(self, path: str) -> _Node | None:
        if not path:
            return self._root
        above, name = self._place(path)
        return above.view.get(name)

    def _name(self, *changes: tuple[str, _Node | None]) -> None:
        placed = [(*self._place(path), node) for path, node in changes]
        for folder, name, node in placed:
            _set(folder.view, name, node)
        self._namings.append(_Naming(self._number, placed))

    def _sync(self, node: _Node, *, failed: bool) -> None:
        if isinstance(node, _File):
            node.sync(failed=failed, trusting=self._trusting)
        elif not failed:
            for naming in self._namings:
                for folder, name, target in naming.changes:
                    if folder is node:
                        _set(node.sure, name, target)
                naming.changes = [c for c in naming.changes if c[0] is not node]
            self._namings = [n for n in self._namings if n.changes]

    def killed(self) -> Tree:
        """Return what is there when the process dies and the machine lives: everything that was written."""
        return dict(_walk(self._root, "", lambda folder: folder.view, lambda file: bytes(file.view)))

    def lose_power(self, chance: random.Random) -> Tree:
        """Return what may be there when the machine dies now."""
        return _Loss(chance, self._number).tree(self._root, self._namings)


def torn(entry: Entry, chance: random.Random) -> Entry:
    """Return a write that got only so far."""
    return replace(entry, data=entry.data[: chance.randrange(len(entry.data) + 1)])


def write_tree(tree: Tree, folder: Path) -> None:
    """Make ``folder`` hold exactly ``tree``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    """Return what ``folder`` holds."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


class _Loss:
    """One loss of power: a style, and the decisions that it takes."""

    def __init__(self, chance: random.Random, number: int) -> None:
        self._chance = chance
        self._style = chance.choices(list(Style), weights=(2, 1, 1, 3, 4))[0]
        self._moment = max(0, number - int(chance.expovariate(1 / 15)))
        self._keeping = chance.choice((0.2, 0.5, 0.8))

    def tree(self, root: _Folder, namings: list[_Naming]) -> Tree:
        names: dict[_Folder, dict[str, _Node]] = {}
        for naming in namings:
            if self._keeps_name(naming.number):
                for folder, name, node in naming.changes:
                    _set(names.setdefault(folder, dict(folder.sure)), name, node)
        return dict(_walk(root, "", lambda folder: names.get(folder, folder.sure), self._content))

    def _keeps_name(self, number: int) -> bool:
        if self._style is Style.ORDERED:
            return number <= self._moment
        if self._style is Style.ANY:
            return self._chance.random() < self._keeping
        return self._style is Style.NAMES

    def _content(self, file: _File) -> bytes:
        content = bytearray(file.sure)
        # a file may have its new size without its new bytes; those of another file are never in it
        sized = self._style in (Style.NAMES, Style.ANY) and self._chance.random() < 0.5
        for change in file.changes:
            if change.state is _State.SURE:
                change.to(content)
                continue
            for kept in self._kept(change):
                kept.to(content)
            if sized and change.data is not None:
                content.extend(bytes(max(0, change.offset + len(change.data) - len(content))))
        return bytes(content)

    def _kept(self, change: _Change) -> Iterator[_Change]:
        if change.state is _State.DOUBTFUL:
            # what a failed sync was about is on disk or not, whatever came later
            if self._chance.random() < 0.5:
                yield change
        elif self._style is Style.CONTENTS:
            yield change
        elif self._style is Style.ORDERED:
            if change.number < self._moment or (change.number == self._moment and change.data is None):
                yield change
            elif change.number == self._moment:
                yield self._front(change)
        elif self._style is Style.ANY:
            yield from self._some(change)

    def _front(self, change: _Change) -> _Change:
        assert change.data is not None
        return replace(change, data=change.data[: self._chance.randrange(len(change.data) + 1)])

    def _some(self, change: _Change) -> Iterator[_Change]:
        if self._chance.random() < self._keeping:
            yield change
        elif change.data is not None and self._chance.random() < 0.5:
            # torn: some of its pages
            start = change.offset
            end = change.offset + len(change.data)
            while start < end:
                stop = min(end, (start // PAGE_BYTES + 1) * PAGE_BYTES)
                if self._chance.random() < self._keeping:
                    piece = change.data[start - change.offset : stop - change.offset]
                    yield replace(change, offset=start, data=piece)
                start = stop


def _set(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _walk(folder: _Folder, above: str, names_of: _Names, content_of: _Content) -> Iterator[tuple[str, bytes | None]]:
    for name, node in sorted(names_of(folder).items()):
        if isinstance(node, _Folder):
            yield above + name, None
            yield from _walk(node, f"{above}{name}/", names_of, content_of)
        else:
            yield above + name, content_of(node)
