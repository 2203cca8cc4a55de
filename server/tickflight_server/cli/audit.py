"""The commands ``tickflight-server audit …``.

The rule of this file: that of the package: a command reads its arguments and calls one function.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from tickflight_server.config import load_settings
from tickflight_server.errors import ServerError
from tickflight_server.logs import configure_logs
from tickflight_server.paths import Layout

_LINE = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


@click.group()
def audit() -> None:
    """Look after the record of who did what."""


@audit.command()
@click.option("--config", type=click.Path(path_type=Path), help="YAML file; see the README.")
@click.option("--storage-path", type=click.Path(path_type=Path), help="Data folder.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of the audit's files, such as a copy.")
@click.option("--line", "known", help="A line that is known from a log or an earlier look, as NUMBER:HASH.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    config: Path | None, storage_path: Path | None, folder: Path | None, known: str | None, as_json: bool
) -> None:
    """Find lines that were removed, altered, moved or put in, and files that are missing.

    A server may run meanwhile. Ends with 0 if all is well, 1 if something was found, 2 if it could not be looked at.
    """
    from tickflight_server.audit import audit_folder, chains_of
    from tickflight_server.audit import verify as look

    anchor = _LINE.fullmatch(known) if known is not None else None
    if known is not None and anchor is None:
        raise click.BadParameter("it is a line's number and its hash, such as 4711:9f86d0…", param_hint="--line")
    try:
        settings = load_settings(config, {"lakehouse": {"storage_path": storage_path}} if storage_path else None)
        configure_logs("warning", settings.log.format)
        place = folder or audit_folder(settings.audit, Layout(settings.lakehouse.storage_path).audit)
        report = look(place, chains_of(settings.audit), known=(int(anchor[1]), anchor[2]) if anchor else None)
    except (ServerError, OSError) as error:
        click.echo(f"tickflight-server: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        for note in report.notes:
            click.echo(f"note: {note}")
        for found in report.findings:
            click.echo(found.text)
        seal = "sealed by a key" if report.keyed else "without a key: who can write the files can make them anew"
        click.echo(f"{report.files} files, lines {report.first} to {report.last}, {seal}")
        click.echo(f"last line {report.last}:{report.hash}")
        count = len(report.findings)
        click.echo("clean" if report.clean else f"not clean: {count} finding{'' if count == 1 else 's'}")
    sys.exit(0 if report.clean else 1)
