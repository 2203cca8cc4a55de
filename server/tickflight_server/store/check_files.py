"""The files of a data folder that no version lists: whose they are, and what a missing identity can be read from.

The rule of this file: a file is judged by its contents where it has any, and by its name where it has not.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from tickflight_server.paths import Layout, parse_part_file_name
from tickflight_server.store.delta_log import FOLDER
from tickflight_server.store.findings import CheckReport
from tickflight_server.store.log_scan import find_log_writers, log_files
from tickflight_server.store.part_scan import Unlisted, read_seq
from tickflight_server.store.seqset import SeqSet, count, show, to_ranges
from tickflight_server.store.version_scan import find_table_writers

# what a later version may keep there: pins of readers, and copies of parts that lie on another storage
_OWN = (
    *("writer", "writer.new", "lock", "log", "spill", "damaged", "pins", "tier", "cache", "audit"),
    *("users.json", "tokens.json"),
)


def find_writer(layout: Layout, report: CheckReport, tables: list[str]) -> UUID | None:
    """Return the folder's identity, from its file or, if that is gone, from what it wrote; None if nothing says it."""
    text: str | None = None
    try:
        text = layout.writer.read_text().strip()
        writer = UUID(text)
    except (OSError, ValueError):
        found = find_log_writers(layout.log)
        for name in tables:
            found |= find_table_writers(layout.table(name))
        if not found:
            if text is not None:
                report.add("writer.missing", "the file does not hold an identity", file="_tickflight/writer")
            return None
        names = " or ".join(sorted(str(w) for w in found))
        report.add("writer.missing", f"the identity is missing; log and tables say {names}", file="_tickflight/writer")
        return next(iter(found)) if len(found) == 1 else None
    report.writer = str(writer)
    return writer


def judge_unlisted(
    folder: Path, item: Unlisted, known: SeqSet, last: int, expired_us: int, flushed: int
) -> tuple[str, str]:
    """Return the kind of finding that a part is which the version does not list, and a text.

    ``known`` are the rows that are somewhere else, ``last`` the newest of them; rows before ``expired_us`` are not
    kept; rows up to ``flushed`` are in parts, or meant to be gone.
    """
    span = f"its name says rows {item.first} to {item.last}"
    if item.facts is None:
        kind = "part.broken_leftover" if item.last > last else "part.removed" if item.removed else "part.leftover"
        return kind, f"not listed, and {item.what}; {span}"
    seq = read_seq(folder / item.path)
    new = seq[~known.contains(seq)]
    if len(new) == 0:
        if item.last > last:
            return "part.broken_leftover", f"not listed, {span}, which nothing knows; those in it are elsewhere"
        return ("part.removed" if item.removed else "part.leftover"), "not listed; its rows are elsewhere"
    text = f"not listed, with {len(new)} rows that are nowhere else: {show(to_ranges(new))}"
    if item.removed and item.last <= last:
        return "part.removed", "not listed; a version says that it was removed"
    if item.facts.max_us < expired_us:
        return "part.expired", text
    # of a part that compaction replaced, some rows may have been repeats
    if len(new) < len(seq) and item.last <= flushed:
        return "part.leftover", f"not listed; {count(to_ranges(new))} of its {len(seq)} rows are nowhere else"
    return "part.unknown", text


def find_foreign(layout: Layout, report: CheckReport, tables: list[str]) -> None:
    """Tell of files that are not the server's."""
    for path in sorted(layout.root.iterdir()):
        if path.name not in tables and path != layout.internal:
            what = "a table that this version does not know" if (path / FOLDER).is_dir() else "not the server's"
            report.add("file.foreign", what, file=path.name)
    for path in sorted(layout.internal.iterdir()):
        if path.name not in _OWN:
            report.add("file.foreign", "not the server's", file=str(path.relative_to(layout.root)))
    logs = {path for _, path in log_files(layout.log)}
    if layout.log.is_dir():
        for path in sorted(set(layout.log.iterdir()) - logs):
            report.add("file.foreign", "not a log file", file=str(path.relative_to(layout.root)))
    for table in tables:
        folder = layout.table(table)
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            inside = path.relative_to(folder).parts[0] == FOLDER
            if not inside and path.is_file() and parse_part_file_name(path.name) is None:
                report.add("file.foreign", "not a part", table=table, file=str(path.relative_to(layout.root)))
