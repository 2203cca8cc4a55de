"""Commands for looking after a data folder that no server uses: ``check``, ``compact``, ``vacuum``.

The rule of this file: a command holds the folder while it works, prints what it did, and says what the server does by
itself where one is running.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tickflight_server.cli.recording import record
from tickflight_server.config import Settings, load_settings
from tickflight_server.errors import ConfigError, FolderInUseError, ServerError
from tickflight_server.logs import configure_logs
from tickflight_server.paths import Layout
from tickflight_server.schemas import STORED

if TYPE_CHECKING:
    from tickflight_server.store.findings import CheckReport
    from tickflight_server.store.repair_report import RepairReport

_CONFIG = click.option("--config", type=click.Path(path_type=Path), help="YAML file; see the README.")
_STORAGE = click.option("--storage-path", type=click.Path(path_type=Path), help="Data folder.")
_UNITS = (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10))
# what a running server does of each command by itself
_SERVER_DOES = {
    "check": "The server compares a part's checksum before it first reads it and tells of damage in system.health; "
    "to check everything, stop it.",
    "compact": "The server compacts by itself in the background, see lakehouse.compact_share; to do it now, stop it.",
    "vacuum": "The server vacuums by itself, see lakehouse.vacuum_hours; to do it now, stop it.",
}


def _settings(command: str, config: Path | None, storage_path: Path | None) -> Settings:
    """Return the settings of a data folder that is there.

    Raises:
        ConfigError: it is not, or the configuration is wrong.
    """
    overrides = {"lakehouse": {"storage_path": storage_path}} if storage_path is not None else None
    settings = load_settings(config, overrides)
    configure_logs("error" if settings.log.level == "error" else "warning", settings.log.format)
    if not Layout(settings.lakehouse.storage_path).internal.is_dir():
        raise ConfigError(
            f"{settings.lakehouse.storage_path} is no data folder: there is nothing to {command}.",
            hint="Name it with --storage-path or --config.",
        )
    return settings


@contextmanager
def _unless_served(command: str) -> Iterator[None]:
    """Tell what a running server does by itself, if one holds the folder."""
    try:
        yield
    except FolderInUseError as error:
        text = f"a server runs in this data folder (process {error.owner})."
        raise ConfigError(text, hint=_SERVER_DOES[command]) from None


@click.command()
@_CONFIG
@_STORAGE
@click.option("--repair", is_flag=True, help="Make the folder start again; says what was lost. Copy the folder first.")
@click.option("--quick", is_flag=True, help="Do not read the contents of parts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(config: Path | None, storage_path: Path | None, repair: bool, quick: bool, as_json: bool) -> None:
    """Check log, table versions and parts of a data folder that no server uses.

    Ends with 0 if all is well, 1 if something was found, 2 if it could not be checked. Without --repair it only
    reads.
    """
    if repair and quick:
        raise click.UsageError("--repair reads everything; leave out --quick.")
    try:
        settings = _settings("check", config, storage_path)
        with _unless_served("check"):
            code = _check(settings, repair=repair, quick=quick, as_json=as_json)
    except (ServerError, OSError) as error:
        click.echo(f"tickflight-server: {' '.join(str(error).split())}", err=True)
        code = 2
    sys.exit(code)


def _check(whole: Settings, *, repair: bool, quick: bool, as_json: bool) -> int:
    from tickflight_server.store.check import Checker
    from tickflight_server.store.identity import FolderLock
    from tickflight_server.store.repair import repair_folder

    settings = whole.lakehouse
    lock = FolderLock(Layout(settings.storage_path.absolute()))
    lock.acquire()
    try:
        with _progress(settings.storage_path, "checking", shown=not as_json) as tick:
            report = Checker(settings, quick=quick, tick=tick).run()
        done = repair_folder(settings) if repair and not report.clean else None
        after = Checker(settings).run() if done is not None else report
    finally:
        lock.close()
    if done is not None:
        record(whole, "repair", rows_lost=done.rows_lost, set_aside=str(done.folder))
    if as_json:
        object_ = report.as_json()
        if done is not None:
            object_ |= {"repair": done.as_json(), "after": after.as_json()}
        click.echo(json.dumps(object_))
    else:
        _tell(report)
        if done is not None:
            _tell_repair(done)
            _tell(after)
    return 0 if after.clean else 1


def _tell(report: CheckReport) -> None:
    for found in sorted(report.findings, key=lambda f: ("error", "warning", "note").index(f.severity)):
        click.echo(found.line)
    click.echo(f"log: {report.log_files} files, {_size(report.log_bytes)}, {report.log_records} records")
    for name, facts in report.tables.items():
        if facts.last_seq or facts.parts:
            click.echo(
                f"{name}: version {facts.version}, {facts.parts} parts with {facts.rows_in_parts} rows "
                f"({_size(facts.bytes_in_parts)}), {facts.rows_in_log} rows in the log, last seq {facts.last_seq}"
            )
    counts = {name: len(report.having(name)) for name in ("error", "warning", "note")}
    text = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items())
    depth = ", the contents of parts were not read" if report.quick else ""
    click.echo(f"{'clean' if report.clean else 'not clean'}: {text}{depth}")


def _tell_repair(done: RepairReport) -> None:
    for name, loss in done.tables.items():
        click.echo(
            f"repaired {name}: {loss.rows_lost} rows lost, {loss.rows_from_log} rows written from the log, "
            f"{len(loss.parts_taken_in)} parts taken in, {len(loss.parts_lost)} parts given up"
        )
        for part in loss.parts_lost:
            click.echo(
                f"  {part.exchange} {part.symbol} {part.day}: {part.rows_lost} of {part.rows} rows lost, "
                f"seq {part.first_seq} to {part.last_seq}: {part.why}"
            )
    for file in done.log:
        click.echo(f"log file {file.file} set aside: {len(file.stretches)} damaged stretches")
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo(f"repair: {done.rows_lost} rows lost in all; the report and what was set aside are in {done.folder}")


@contextmanager
def _progress(folder: Path, what: str, *, shown: bool) -> Iterator[Callable[[str, int], None]]:
    """Show a bar on a terminal, over the bytes of all files in ``folder``."""
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    total = sum(p.stat().st_size for pattern in ("*.log", "*.parquet") for p in folder.rglob(pattern))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def tick(name: str, nbytes: int) -> None:
            bar.update(task, advance=nbytes, description=f"{what} {name[:40]}")

        yield tick


@click.command()
@_CONFIG
@_STORAGE
@click.option("--table", type=click.Choice(list(STORED)), help="Only this table.")
@click.option("--all", "all_of_it", is_flag=True, help="Every partition as if its day were over.")
def compact(config: Path | None, storage_path: Path | None, table: str | None, all_of_it: bool) -> None:
    """Merge small parts into large ones, in a data folder that no server uses."""
    from tickflight_server.store import Store

    whole = _settings("compact", config, storage_path)
    settings = whole.lakehouse.model_copy(update={"compact_share": 0.0})
    with _unless_served("compact"):
        store = Store(settings, background=False)
    try:
        for name in [table] if table is not None else list(store.tables):
            done = store.keeper.compact(all_of_it=all_of_it, table=name)
            parts = len(store.tables[name].state.parts)
            if parts or table is not None:
                repeats = f", {done['repeats']} repeated rows left out" if done["repeats"] else ""
                click.echo(f"{name}: {done['parts_in']} parts merged into {done['parts_out']}{repeats}, {parts} now")
    finally:
        store.close(flush=False)
    record(whole, "compact", table=table, all=all_of_it)


@click.command()
@_CONFIG
@_STORAGE
@click.option(
    "--hours", type=click.FloatRange(min=0), help="Keep what was removed so long; else lakehouse.vacuum_hours."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def vacuum(config: Path | None, storage_path: Path | None, hours: float | None, dry_run: bool) -> None:
    """Delete the files of parts that were removed long ago, in a data folder that no server uses."""
    from tickflight_server.store import Store

    whole = _settings("vacuum", config, storage_path)
    settings = whole.lakehouse.model_copy(update={"compact_share": 0.0})
    with _unless_served("vacuum"):
        store = Store(settings, background=False)
    try:
        sizes = {p: p.stat().st_size for n in store.tables for p in (store.root / n).rglob("*.parquet")}
        gone = store.keeper.vacuum(dry_run=dry_run, hours=hours)
        for name in store.tables:
            files = [g for g in gone if g.startswith(f"{name}/")]
            freed = sum(sizes.get(store.root / g, 0) for g in files)
            if len(store.tables[name].state.parts) or files:
                click.echo(f"{name}: {len(files)} files {'would be ' if dry_run else ''}deleted, {_size(freed)}")
    finally:
        store.close(flush=False)
    if not dry_run:
        record(whole, "vacuum", files=len(gone), hours=hours)


def _size(nbytes: int) -> str:
    for unit, size in _UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


COMMANDS = (check, compact, vacuum)
