"""Looks the audit's files through: is every line there, as it was written, and in its place?

The rule of this file: it changes nothing; each finding says in which file and line it is and what it means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tickflight_server.audit.chain import FIRST, Chain
from tickflight_server.audit.folder import HEAD_NAME, File, Head, list_files, read_head
from tickflight_server.audit.line import LINE_BYTES_MAX, Line, LineError, format_time, parse

FINDINGS_MAX = 1000


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written. ``place`` is the number of the line in its ``file``, from 1."""

    file: str
    place: int
    what: str

    @property
    def text(self) -> str:
        """One line about it."""
        return f"{self.file}:{self.place}: {self.what}" if self.place else f"{self.file}: {self.what}"


@dataclass
class Report:
    """What was found. ``lines`` were read, from number ``first`` to ``last`` with ``hash``."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    lines: int = 0
    first: int = 0
    last: int = 0
    hash: str = FIRST
    from_us: int | None = None
    until_us: int | None = None
    keyed: bool = True
    head: Head | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def found(self, file: str, place: int, what: str) -> None:
        """Add a finding, if there are not too many."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(file, place, what))

    def as_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return {
            "clean": self.clean,
            "findings": [{"file": f.file, "line": f.place, "what": f.what} for f in self.findings],
            "notes": self.notes,
            "files": self.files,
            "lines": self.lines,
            "first": self.first,
            "last": self.last,
            "hash": self.hash,
            "from": None if self.from_us is None else format_time(self.from_us),
            "until": None if self.until_us is None else format_time(self.until_us),
            "sealed_by_key": self.keyed,
            "head": None if self.head is None else self.head.n,
        }


def verify(folder: Path, chains: Sequence[Chain], *, known: tuple[int, str] | None = None) -> Report:
    """Look through all lines in ``folder``.

    ``chains`` are of the present key, which comes first, and of earlier ones; ``known`` are number and hash of a line
    that is known from elsewhere: from a log, from an earlier look.

    Raises:
        OSError: the files cannot be read.
    """
    return _Look(folder, chains, known).run()


class _Look:
    def __init__(self, folder: Path, chains: Sequence[Chain], known: tuple[int, str] | None) -> None:
        self._folder = folder
        self._chains = chains
        self._known = known
        self._report = Report()
        self._chain: Chain | None = None  # of the file that is read
        self._chain_before: Chain | None = None
        self._before: Line | None = None
        self._removed: dict[int, str] = {}  # hash of a removed file's last line by its number, as lines tell
        self._anchors: dict[int, str] = {}  # hashes of lines that are asked for, by number, None until they are met

    def run(self) -> Report:
        report = self._report
        head, there = read_head(self._folder, self._chains)
        report.head = head
        wanted = {number for number in ((head.n if head else 0), self._known[0] if self._known else 0) if number}
        files = list_files(self._folder)
        report.files = len(files)
        for number, file in enumerate(files):
            for place, line in self._lines(file, last=number == len(files) - 1):
                self._look(file, place, line)
                if line.n in wanted:
                    self._anchors[line.n] = line.hash
        self._look_at_start(files)
        self._look_at_end(head, there)
        if files and self._chain_before is not self._chains[0] and self._chains[0].key_id is not None:
            what = "it is not sealed by the present key; it is right only if no server was started since that was set"
            report.found(files[-1].path.name, 1, what)
        return report

    def _lines(self, file: File, *, last: bool) -> Iterator[tuple[int, Line]]:
        """Yield the lines of a file that can be read, with their places; the first line of each names its key."""
        self._chain = None
        with file.path.open("rb") as stream:
            place = 0
            while data := stream.readline(LINE_BYTES_MAX + 1):
                place += 1
                if not data.endswith(b"\n"):
                    if last and len(data) <= LINE_BYTES_MAX and stream.read(1) == b"":
                        self._report.notes.append(
                            f"{file.path.name}:{place}: the last line is not whole: it is being written, or was when "
                            "the server was killed; the next start takes it away and notes it"
                        )
                        return
                    self._report.found(file.path.name, place, "a line that does not end")
                    continue
                try:
                    yield place, parse(data[:-1])
                except LineError as error:
                    self._report.found(file.path.name, place, f"this is no line of the audit: {error}")
            if place == 0 and not last:  # the server was killed before it wrote into a new one
                self._report.found(file.path.name, 0, "the file is empty")

    def _look(self, file: File, place: int, line: Line) -> None:
        report, name, before = self._report, file.path.name, self._before
        if place == 1 and line.n != file.first:
            report.found(name, 1, f"the file begins with line {line.n}, and its name says {file.first}")
        if line.kind == "file" and place == 1:
            key = line.fields.get("key")
            self._chain = next((c for c in self._chains if c.key_id == key), None)
            if self._chain is None:
                report.found(name, 1, f"its lines are sealed by key {key}, which is not among the given ones")
            elif self._chain is not self._chain_before and self._chain_before is not None:
                report.notes.append(f"{name}:1: the key was changed")
            self._chain_before = self._chain
        if self._chain is not None or place == 1:
            if self._chain is None or not self._chain.holds(line.body, line.hash):
                report.found(name, place, f"line {line.n} was altered: its hash is another")
            report.keyed = report.keyed and self._chain is not None and self._chain.key_id is not None
        if before is not None and line.prev != before.hash:
            report.found(name, place, self._gap(before, line))
        elif before is not None and line.n != before.n + 1:
            report.found(name, place, f"line {line.n} comes after line {before.n}: those between are missing")
        self._note(name, place, line)
        self._before = line
        report.lines += 1
        report.last, report.hash, report.until_us = line.n, line.hash, line.time_us
        if report.lines == 1:
            report.first, report.from_us = line.n, line.time_us

    @staticmethod
    def _gap(before: Line, line: Line) -> str:
        if line.n > before.n + 1:
            some = f"line {before.n + 1} is" if line.n == before.n + 2 else f"lines {before.n + 1} to {line.n - 1} are"
            return f"{some} missing before line {line.n}"
        if line.n <= before.n:
            return f"line {line.n} is out of its place: it comes after line {before.n}"
        return f"line {line.n} does not follow line {before.n} as it stands: one of them was altered or put in"

    def _note(self, name: str, place: int, line: Line) -> None:
        """Note what the server itself told of the files."""
        fields = line.fields
        if line.kind == "removed":
            self._removed[int(fields.get("last", 0))] = str(fields.get("last_hash"))
        elif line.kind == "repaired":
            self._report.notes.append(f"{name}:{place}: the server was killed while it wrote a line, which is gone")
        elif line.kind == "damaged":
            self._report.notes.append(f"{name}:{place}: the server found when it started: {fields.get('what')}")
        elif line.kind == "dropped":
            self._report.notes.append(f"{name}:{place}: {fields.get('lines')} lines were dropped, the queue was full")

    def _look_at_start(self, files: Sequence[File]) -> None:
        """See that what is missing before the first line was removed by the server."""
        report = self._report
        if not report.lines:
            return
        first = files[0]
        with first.path.open("rb") as stream:
            data = stream.readline(LINE_BYTES_MAX)
        try:
            line = parse(data.removesuffix(b"\n"))
        except LineError:
            return  # that is found already
        if line.prev == FIRST and line.n == 1:
            return
        if self._removed.get(line.n - 1) == line.prev:
            report.notes.append(f"lines up to {line.n - 1} were removed by the server, for their age")
        else:
            what = f"lines up to {line.n - 1} are missing, and no line says that the server removed them"
            report.found(first.path.name, 1, what)

    def _look_at_end(self, head: Head | None, there: bool) -> None:
        report = self._report
        end = f"the files end with line {report.last}"
        if there and head is None:
            report.found(HEAD_NAME, 0, "it was altered, or is sealed by a key that is not among the given ones")
        if not there and report.lines:
            report.found(HEAD_NAME, 0, "it is missing, and with it what would show that the end was cut off")
        if head is not None:
            self._check_anchor(HEAD_NAME, head.n, head.hash, end)
        if self._known is not None:
            self._check_anchor("the given line", *self._known, end)

    def _check_anchor(self, whence: str, n: int, claimed: str, end: str) -> None:
        report = self._report
        if n > report.last:
            some = f"line {n} is" if n == report.last + 1 else f"lines {report.last + 1} to {n} are"
            report.found(whence, 0, f"{some} missing: {end}")
        elif n in self._anchors and self._anchors[n] != claimed:
            report.found(whence, 0, f"line {n} is not the one that was written: its hash was {claimed}")
        elif n not in self._anchors and n >= report.first:
            report.found(whence, 0, f"line {n} is missing")
