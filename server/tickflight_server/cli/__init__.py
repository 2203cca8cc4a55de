"""The command ``tickflight-server``.

The rule of this file: a command reads its arguments and calls one function; whatever goes wrong ends in one line with
a hint and a non-zero exit code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from tickflight_server.cli.arrow_memory import bound_arrow_memory, unbound

bound_arrow_memory()  # before anything that loads Arrow

import tickflight_server
from tickflight_server.cli import identity, upkeep
from tickflight_server.cli.audit import audit
from tickflight_server.cli.backfill import export_command, import_command
from tickflight_server.cli.no_pandas import do_without_pandas
from tickflight_server.cli.recording import record
from tickflight_server.config import Settings, load_settings
from tickflight_server.errors import ServerError
from tickflight_server.logs import configure_logs

unbound()
_CONFIG = click.option("--config", type=click.Path(path_type=Path), help="YAML file; see the README.")
_STORAGE = click.option("--storage-path", type=click.Path(path_type=Path), help="Data folder.")
_HOST = click.option("--host", help="Address to listen on.")
_PORT = click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 takes a free one.")
_ADDRESS = click.option("--address", help="Server, such as grpc://127.0.0.1:8815.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tickflight_server.__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Arrow Flight SQL over live and historical crypto market data."""
    if context.invoked_subcommand != "export":  # whose files are the caller's, and not the server's
        os.umask(0o077)


cli.add_command(import_command)
cli.add_command(export_command)
cli.add_command(audit)


def _settings(config: Path | None, **sections: dict[str, Any]) -> Settings:
    overrides = {name: {k: v for k, v in values.items() if v is not None} for name, values in sections.items()}
    settings = load_settings(config, {name: values for name, values in overrides.items() if values})
    configure_logs(settings.log.level, settings.log.format)
    return settings


@cli.command()
@_CONFIG
@_STORAGE
@_HOST
@_PORT
@click.option("--no-feeds", is_flag=True, help="Do not start the configured feeds.")
@click.option("--die-with-stdin", is_flag=True, hidden=True)
def serve(
    config: Path | None,
    storage_path: Path | None,
    host: str | None,
    port: int | None,
    no_feeds: bool,
    die_with_stdin: bool,
) -> None:
    """Serve the data folder over Flight SQL, and run the configured feeds."""
    settings = _settings(config, lakehouse={"storage_path": storage_path}, flight={"host": host, "port": port})
    from tickflight_server.app.serve import serve as run  # only now: it takes longer than to say what is wrong

    if no_feeds:
        settings = settings.model_copy(update={"feeds": []})

    def announce(address: str) -> None:
        click.echo(f"tickflight-server is ready at {address}")

    run(settings, config, announce, die_with_stdin=die_with_stdin)


@cli.command()
@_CONFIG
@_ADDRESS
@click.option("--die-with-stdin", is_flag=True, hidden=True)
def feed(config: Path | None, address: str | None, die_with_stdin: bool) -> None:
    """Run the configured feeds into a server, in this process."""
    from tickflight_server.app.feeds import run_feed_process

    sys.exit(run_feed_process(_settings(config), address, die_with_stdin=die_with_stdin))


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@_CONFIG
@_ADDRESS
@_STORAGE
def replay(paths: tuple[Path, ...], config: Path | None, address: str | None, storage_path: Path | None) -> None:
    """Play recorded raw exchange messages through cryptofeed's handlers into a server.

    PATHS are recordings: a folder of one, a folder of many, or their files. With --storage-path they go straight into
    a data folder that no server uses.
    """
    from tickflight_server.app.feeds import credentials
    from tickflight_server.feed.playback import replay as run

    settings = _settings(config, lakehouse={"storage_path": storage_path})
    collector = settings.collector
    target = address or collector.address or f"grpc://{settings.flight.host}:{settings.flight.port}"
    if storage_path is not None:
        result = run(paths, embedded=settings.lakehouse)
        record(settings, "replay", messages=result.messages)
    else:
        result = run(paths, target, **credentials(collector))
    click.echo(f"{result.messages} messages")
    for channel in sorted(result.callbacks):
        rows, rejected = result.rows.get(channel, 0), result.rejected.get(channel, 0)
        click.echo(f"{channel}: {result.callbacks[channel]} callbacks, {rows} rows, {rejected} rejected")
    if any(result.failed.values()):
        _fail(f"not delivered: {result.failed}. Hint: See the messages above.")


@cli.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long.")
@click.option("--exchange", help="A real exchange, such as BINANCE, instead of the sandbox.")
@click.option("--sandbox", default="BINANCE", show_default=True, help="Whose protocol the sandbox speaks.")
@click.option("--symbols", help="Comma-separated, such as BTC-USDT,ETH-USDT.")
@click.option("--rate", default=2000.0, show_default=True, help="Events a second of the sandbox.")
@click.option("--seed", default=7, show_default=True, help="Seed of the sandbox's market.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
@_PORT
def demo(
    seconds: float | None,
    exchange: str | None,
    sandbox: str,
    symbols: str | None,
    rate: float,
    seed: int,
    data: Path,
    port: int | None,
) -> None:
    """Show the whole way: an exchange, cryptofeed, the server, and a live view of its tables."""
    from tickflight_server.app.demo import DemoOptions, run_demo

    configure_logs()
    names = tuple(s.strip() for s in symbols.split(",") if s.strip()) if symbols else ()
    options = DemoOptions(data, seconds, exchange, sandbox.upper(), names, rate, seed, port)
    if not run_demo(options, click.echo):
        sys.exit(1)


for _command in (*upkeep.COMMANDS, *identity.COMMANDS):
    cli.add_command(_command)


def _fail(text: str) -> NoReturn:
    click.echo(f"tickflight-server: {' '.join(text.split())}", err=True)
    sys.exit(1)


def main() -> None:
    """Run the command line; every error of the server becomes one line."""
    do_without_pandas()
    code = 0
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except ServerError as error:
        click.echo(f"tickflight-server: {' '.join(str(error).split())}", err=True)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # everything is closed; the engine's bindings would report every object that lives until the interpreter ends
    os._exit(code)
