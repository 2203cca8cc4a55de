"""What a check finds: each kind of finding with its weight and what to do about it, and the report that lists them.

The rule of this file: a kind stands once in ``KINDS``; the page proto-notes/repair.md explains the same kinds, and a
test compares the two. An error keeps the server from starting or rows from being read; a note is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
_REPAIR = "Keep a copy of the folder, then run `tickflight-server check --repair`, or restore it from a backup."
_BACKUP = "Restore it from a backup; `tickflight-server check --repair` goes on without it and says what is lost."
_NOTHING = "Nothing."


class Kind(NamedTuple):
    """How much a kind of finding weighs, and what to do."""

    severity: Severity
    todo: str


KINDS: Mapping[str, Kind] = {
    "writer.missing": Kind("error", _REPAIR),
    "log.damaged": Kind("error", _REPAIR),
    "log.foreign": Kind("error", "Remove the file if it is another folder's; `--repair` sets it aside unread."),
    "log.rows_missing": Kind("error", _REPAIR),
    "log.overlap": Kind("warning", "The first record of a row counts. Keep a copy of the folder and report it."),
    "log.unknown_table": Kind("warning", "A newer server wrote these rows: start that one."),
    "log.torn_tail": Kind("note", "Nothing: it was never acknowledged, and the next start cuts it off."),
    "version.unreadable": Kind("error", _REPAIR),
    "version.empty": Kind("error", _REPAIR),
    "version.refused": Kind("error", "Make the configuration what it was, or start the server that wrote the table."),
    "version.damaged_old": Kind("warning", "The newest version is whole: only older ones cannot be read."),
    "part.missing": Kind("error", _BACKUP),
    "part.size": Kind("error", _BACKUP),
    "part.checksum": Kind("error", _BACKUP),
    "part.unreadable": Kind("error", _BACKUP),
    "part.schema": Kind("error", _BACKUP),
    "part.bounds": Kind("error", "Queries may miss its rows. `tickflight-server check --repair` writes it anew."),
    "part.order": Kind("error", "Queries may miss its rows. `tickflight-server check --repair` writes it anew."),
    "part.place": Kind("warning", "The server reads it where it lies; other readers may not. Compaction moves it."),
    "part.remote": Kind("note", "It lies on another storage and was not read."),
    "part.unknown": Kind("error", "A table version is missing. `tickflight-server check --repair` takes it in again."),
    "part.broken_leftover": Kind("error", "It was never finished. `tickflight-server check --repair` sets it aside."),
    "part.leftover": Kind("note", "Nothing: the next start deletes what a crash left, once the log has its rows."),
    "part.removed": Kind("note", "Nothing: vacuum deletes it when nobody can need it."),
    "part.expired": Kind("note", "Nothing: vacuum deletes it."),
    "rows.twice": Kind("error", "`tickflight-server check --repair` keeps the first of each."),
    "rows.skipped": Kind("error", "`tickflight-server check --repair` puts them in parts."),
    "rows.missing": Kind("error", "Restore the folder from a backup, or live without them: nothing here has them."),
    "rows.lost_before": Kind("note", "Nothing: an earlier repair said so."),
    "rows.expired": Kind("note", "Nothing: retention leaves such holes."),
    "repair.unfinished": Kind("warning", "Run `tickflight-server check --repair` again: it ends what it began."),
    "file.foreign": Kind("note", "Nothing of the server's: remove it if you know it."),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or worth knowing.

    ``file`` is relative to the data folder, ``part`` to its table's folder.
    """

    kind: str
    what: str
    table: str | None = None
    file: str | None = None
    offset: int | None = None
    part: str | None = None
    severity: Severity = "note"
    todo: str = ""

    @property
    def line(self) -> str:
        """The finding on one line."""
        where = self.file if self.offset is None else f"{self.file}, offset {self.offset}"
        place = ", ".join(p for p in (self.table and f"table {self.table}", where, self.part) if p)
        return f"{self.severity}: {place}: {self.what}. {self.todo} [{self.kind}]"


def finding(kind: str, what: str, **where: Any) -> Finding:
    """Return a finding of ``kind``, with the weight and the advice of its kind."""
    return Finding(kind, what, severity=KINDS[kind].severity, todo=KINDS[kind].todo, **where)


@dataclass
class TableFacts:
    """What a check counted in one table."""

    version: int = -1
    flushed_seq: int = 0
    last_seq: int = 0
    parts: int = 0
    rows_in_parts: int = 0
    bytes_in_parts: int = 0
    rows_in_log: int = 0
    unlisted_files: int = 0


@dataclass
class CheckReport:
    """All findings of a check, and what it counted."""

    folder: str
    quick: bool = False
    writer: str | None = None
    log_files: int = 0
    log_bytes: int = 0
    log_records: int = 0
    tables: dict[str, TableFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, what: str, **where: Any) -> None:
        """Add a finding."""
        self.findings.append(finding(kind, what, **where))

    def having(self, severity: Severity) -> list[Finding]:
        """Return the findings of one weight."""
        return [f for f in self.findings if f.severity == severity]

    @property
    def clean(self) -> bool:
        """Whether nothing was found but notes."""
        return all(f.severity == "note" for f in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        counts = {name: len(self.having(name)) for name in ("error", "warning", "note")}
        return {"clean": self.clean, "counts": counts} | asdict(self)
