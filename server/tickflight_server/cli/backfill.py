"""The commands ``tickflight-server import`` and ``export``.

The rule of this file: that of the package: a command reads its arguments and calls one function.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from tickflight_server.cli.recording import record
from tickflight_server.config import Settings, load_settings
from tickflight_server.errors import InputError
from tickflight_server.logs import configure_logs

_CONFIG = click.option("--config", type=click.Path(path_type=Path), help="YAML file; see the README.")
_STORAGE = click.option("--storage-path", type=click.Path(path_type=Path), help="Data folder that no server uses.")
_ADDRESS = click.option("--address", help="A running server, such as grpc://127.0.0.1:8815, instead of a folder.")
_USER = click.option("--user", "--username", help="User; TICKFLIGHT_PASSWORD holds the password.")


def _settings(config: Path | None, storage_path: Path | None) -> Settings:
    overrides = {"lakehouse": {"storage_path": storage_path}} if storage_path is not None else {}
    settings = load_settings(config, overrides)
    configure_logs("warning", settings.log.format)
    return settings


def _check_road(address: str | None, storage_path: Path | None) -> None:
    if address is not None and storage_path is not None:
        raise InputError("--address and --storage-path are two places.", hint="Give one of them.")


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["auto", "tardis", "binance", "tickflight"]),
    default="auto",
    show_default=True,
    help="Layout of the files.",
)
@click.option("--table", help="Table, where a file could go to several.")
@click.option("--exchange", help="cryptofeed's name of the exchange, instead of the file's.")
@click.option("--symbol", help="cryptofeed's name of the symbol, such as BTC-USDT-PERP, instead of the file's.")
@_CONFIG
@_STORAGE
@_ADDRESS
@_USER
def import_command(
    paths: tuple[Path, ...],
    layout: str,
    table: str | None,
    exchange: str | None,
    symbol: str | None,
    config: Path | None,
    storage_path: Path | None,
    address: str | None,
    user: str | None,
) -> None:
    """Import history: CSV of Tardis.dev or Binance, or what export wrote.

    PATHS are files (.csv, .csv.gz, .csv.zst, .zip, .parquet, .arrow) or folders of them. A file that was imported
    before, in whole or in part, is not stored twice. Without --address the rows go straight into the data folder.
    """
    from tickflight_server.app.backfill.layout import Wishes
    from tickflight_server.app.backfill.run import run_import
    from tickflight_server.app.backfill.sinks import FlightSink, Sink, StoreSink, connect, told_credentials

    _check_road(address, storage_path)
    settings = _settings(config, storage_path)

    def open_sink() -> Sink:
        if address is None:
            return StoreSink(settings.lakehouse)
        return FlightSink(connect(address, **told_credentials(user, os.environ)))

    started = time.monotonic()
    wishes = Wishes(None if layout == "auto" else layout, table, exchange, symbol)
    totals = run_import(paths, wishes, open_sink, click.echo)
    if address is None:
        record(settings, "import", files=totals.files, rows=totals.rows, rejected=totals.rejected)
    click.echo(
        f"{totals.files} files, {totals.lines} lines: {totals.rows} rows, {totals.rejected} rejected, "
        f"{totals.repeated} repeated, {time.monotonic() - started:.1f} s"
    )
    for text in totals.failed:
        click.echo(f"tickflight-server: {' '.join(text.split())}", err=True)
    if totals.failed:
        sys.exit(1)


@click.command("export")
@click.argument("table", required=False)
@click.option("--sql", help="A query instead of a table.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="File; with --partition-by folder."
)
@click.option("--format", "kind", type=click.Choice(["parquet", "csv", "arrow"]), help="[default: by the file's name]")
@click.option("--from", "since", help="First time, UTC: 2026-11-22 or 2026-11-22T12:30.")
@click.option("--to", "until", help="First time that is left out.")
@click.option("--symbols", help="Comma-separated, such as BTC-USDT,ETH-USDT.")
@click.option("--exchanges", help="Comma-separated, such as BINANCE,OKX.")
@click.option("--partition-by", help="Comma-separated: day, exchange, symbol; a folder for each value.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@_CONFIG
@_STORAGE
@_ADDRESS
@_USER
def export_command(
    table: str | None,
    sql: str | None,
    output: Path,
    kind: str | None,
    since: str | None,
    until: str | None,
    symbols: str | None,
    exchanges: str | None,
    partition_by: str | None,
    force: bool,
    config: Path | None,
    storage_path: Path | None,
    address: str | None,
    user: str | None,
) -> None:
    """Export a table, or a query, to Parquet, CSV or Arrow; import takes what a table's export wrote."""
    from tickflight_server.app.backfill.asking import Asker, FolderAsker, ServerAsker
    from tickflight_server.app.backfill.export import KEYS, Request, Selection, run_export
    from tickflight_server.app.backfill.sinks import connect, told_credentials

    _check_road(address, storage_path)
    settings = _settings(config, storage_path)
    keys = _names(partition_by)
    if wrong := [k for k in keys if k not in KEYS]:
        raise InputError(f"there is no partition by {wrong[0]!r}.", hint=f"There is {', '.join(KEYS)}.")
    selection = Selection(_time("--from", since), _time("--to", until), _names(exchanges), _names(symbols))
    request = Request(output, table, sql, kind, selection, tuple(dict.fromkeys(keys)), force)

    def open_asker() -> Asker:
        if address is None:
            return FolderAsker(settings)
        return ServerAsker(connect(address, **told_credentials(user, os.environ)))

    written = run_export(request, open_asker, click.echo)
    click.echo(f"{written.rows} rows, {written.files} files, {written.nbytes} bytes, {written.seconds:.1f} s: {output}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text!r} is no time.", hint="Write 2026-11-22 or 2026-11-22T12:30:00.") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
