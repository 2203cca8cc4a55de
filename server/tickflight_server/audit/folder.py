"""The files of the audit: their names, where a line is to go on, and the head that tells how far it has got.

    <folder>/000000000001.jsonl    lines from number 1 on
    <folder>/000000004711.jsonl    the next file, from 4711 on
    <folder>/head.json             number and hash of the last line that is on the disk

The rule of this file: names are built and parsed here; whatever is found in the folder, nothing of it is deleted here
but a last line that was cut off while it was written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tickflight_server.audit.chain import FIRST, Chain
from tickflight_server.audit.line import LINE_BYTES_MAX, Line, LineError, parse
from tickflight_server.files import write_all

HEAD_NAME = "head.json"
_NAME = re.compile(r"(\d{12})\.jsonl")
_BACK = 1 << 16


@dataclass(frozen=True)
class File:
    """A file of lines, by its name the first of them ``first``."""

    path: Path
    first: int


@dataclass(frozen=True)
class Head:
    """How far the lines had got that were on the disk: their last one's number and hash, and when that was told."""

    n: int
    hash: str
    time: str

    def serialize(self, chain: Chain) -> bytes:
        """Return the head as a file has it, sealed."""
        body = json.dumps(asdict(self), separators=(",", ":"))
        return f'{{"head":{body},"seal":"{chain.hash(body.encode())}"}}\n'.encode()

    @classmethod
    def parse(cls, data: bytes, chains: Sequence[Chain]) -> Head | None:
        """Read what ``serialize`` gave with one of ``chains``; None if it is not that."""
        found = re.fullmatch(rb'\{"head":(\{[^{}]*\}),"seal":"([0-9a-f]{64})"\}\n', data)
        if found is None or not any(chain.holds(found[1], found[2].decode()) for chain in chains):
            return None
        try:
            fields = json.loads(found[1])
            return cls(int(fields["n"]), str(fields["hash"]), str(fields["time"]))
        except (ValueError, KeyError, TypeError):
            return None


def file_name(first: int) -> str:
    """Return the name of the file whose first line has number ``first``."""
    return f"{first:012d}.jsonl"


def list_files(folder: Path) -> list[File]:
    """Return the files of lines in ``folder``, in order."""
    found = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    return sorted((File(path, int(match[1])) for path, match in found if match), key=lambda file: file.first)


def read_head(folder: Path, chains: Sequence[Chain]) -> tuple[Head | None, bool]:
    """Return the head of ``folder``, None if it is not there or not sealed by one of ``chains``; and if it is there."""
    try:
        data = (folder / HEAD_NAME).read_bytes()
    except FileNotFoundError:
        return None, False
    return Head.parse(data, chains), True


def write_head(folder: Path, head: Head, chain: Chain) -> None:
    """Put ``head`` on the disk in the place of the one before."""
    aside = folder / f"{HEAD_NAME}.new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, head.serialize(chain))
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.replace(folder / HEAD_NAME)


def lines_backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from the last on: the offset of each, and its bytes with the newline if it has one."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        rest = b""
        while end > 0:
            start = max(0, end - _BACK)
            file.seek(start)
            data = file.read(end - start) + rest
            lines = data.splitlines(keepends=True)
            # the first one may begin before what was read
            kept = 0 if start == 0 else 1
            place = start + len(data)
            for line in reversed(lines[kept:]):
                place -= len(line)
                yield place, line
            rest, end = (lines[0] if kept else b""), start


@dataclass(frozen=True)
class Resumed:
    """Where lines go on: after the one of number ``n`` and ``hash``.

    ``cut`` bytes of a last line that was not whole were taken away from ``file``. ``damaged`` says what is wrong with
    the end of the files, as far as a look at it shows, None for nothing.
    """

    n: int = 0
    hash: str = FIRST
    file: str | None = None
    cut: int = 0
    damaged: str | None = None


def resume(folder: Path, chains: Sequence[Chain]) -> Resumed:
    """Look where the lines of ``folder`` end; take a torn last line away, which nobody relies on.

    Raises:
        OSError: the folder cannot be read or written.
    """
    head, head_there = read_head(folder, chains)
    found = _find_end(folder, chains)
    if head is None:
        if head_there and found.damaged is None:
            return Resumed(found.n, found.hash, found.file, found.cut, f"{HEAD_NAME} is not sealed by this key")
        return found
    if head.n > found.n:
        what = f"lines {found.n + 1} to {head.n} are missing: {HEAD_NAME} tells of them"
        # numbers go on after them, so that the hole stays to be seen
        return Resumed(head.n, head.hash, found.file, found.cut, what)
    return found


def _find_end(folder: Path, chains: Sequence[Chain]) -> Resumed:
    cut, wrong = 0, None
    for file in reversed(list_files(folder)):
        for offset, data in lines_backwards(file.path):
            if not data.endswith(b"\n"):
                cut += len(data)
                os.truncate(file.path, offset)
                continue
            try:
                line = parse(data[:-1])
            except LineError as error:
                wrong = wrong or f"a line of {file.path.name} is damaged: {error}"
                continue
            if not any(chain.holds(line.body, line.hash) for chain in chains):
                wrong = wrong or f"line {line.n} of {file.path.name} was altered, or sealed by another key"
            return Resumed(line.n, line.hash, file.path.name, cut, wrong)
    return Resumed(cut=cut, damaged=wrong)


def first_line(path: Path) -> Line | None:
    """Return the first line of a file, None if it is none."""
    with path.open("rb") as file:
        return _line_or_none(file.readline(LINE_BYTES_MAX))


def last_line(path: Path) -> Line | None:
    """Return the last line of a file, None if it is none."""
    return _line_or_none(next((data for _, data in lines_backwards(path)), b""))


def _line_or_none(data: bytes) -> Line | None:
    try:
        return parse(data.removesuffix(b"\n"))
    except LineError:
        return None


def recent_lines(folder: Path, most: int) -> list[Line]:
    """Return the newest lines of ``folder`` that can be read, at most ``most``, the newest first."""
    found: list[Line] = []
    for file in reversed(list_files(folder)):
        try:
            for _, data in lines_backwards(file.path):
                if len(found) == most:
                    return found
                line = _line_or_none(data)
                if line is not None:
                    found.append(line)
        except FileNotFoundError:  # it was removed meanwhile
            continue
    return found
