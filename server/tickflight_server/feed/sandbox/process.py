"""The sandbox exchange as a process.

The rule of this file: standard output carries two lines of JSON and nothing else, the endpoints when handlers can
connect and the counters at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tickflight_server.errors import ConfigError
from tickflight_server.feed.sandbox.market import DEFAULT_DEPTH, DEFAULT_RATE, DEFAULT_SYMBOLS
from tickflight_server.feed.sandbox.server import PROTOCOLS, SandboxExchange
from tickflight_server.feed.sandbox.subscriber import QUEUE_MESSAGES_MAX


@dataclass(frozen=True)
class SandboxOptions:
    """What the process is started with; see `SandboxExchange`."""

    directory: Path
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    symbols: tuple[str, ...] = DEFAULT_SYMBOLS
    rate: float = DEFAULT_RATE
    seed: int = 1
    depth: int = DEFAULT_DEPTH
    rest_port: int = 0
    websocket_port: int = 0
    queue_messages_max: int = QUEUE_MESSAGES_MAX
    die_with_stdin: bool = False


def run(options: SandboxOptions) -> None:
    """Serve until SIGINT or SIGTERM, or the end of standard input where that is asked for.

    Raises:
        ConfigError: The folder, a port or a protocol cannot be had.
    """
    asyncio.run(_serve(options))


async def _serve(options: SandboxOptions) -> None:
    exchange = SandboxExchange(
        options.protocols,
        directory=options.directory,
        seed=options.seed,
        rate=options.rate,
        symbols=options.symbols,
        depth=options.depth,
        rest_port=options.rest_port,
        websocket_port=options.websocket_port,
        queue_messages_max=options.queue_messages_max,
    )
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if options.die_with_stdin:
        threading.Thread(target=_watch_stdin, args=(loop, ended), daemon=True).start()
    try:
        options.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await exchange.start()
    except OSError as error:
        raise ConfigError(f"The sandbox cannot start: {error}") from error
    try:
        print(json.dumps(exchange.describe()), flush=True)
        await ended.wait()
    finally:
        await exchange.stop()
    print(json.dumps(exchange.counters()), flush=True)


def _watch_stdin(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    # os.read, because a daemon thread inside sys.stdin would hold its lock when the interpreter ends.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(ended.set)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tickflight_server.feed.sandbox", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for ca.pem, made if missing")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="comma-separated; default %(default)s")
    parser.add_argument("--symbols", default=",".join(DEFAULT_SYMBOLS), help="comma-separated; default %(default)s")
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE, help="events per second; default %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--depth", type=int, default=DEFAULT_DEPTH, help="levels a side; default %(default)s")
    parser.add_argument("--rest-port", type=int, default=0)
    parser.add_argument("--websocket-port", type=int, default=0)
    parser.add_argument("--queue-messages-max", type=int, default=QUEUE_MESSAGES_MAX)
    parser.add_argument("--die-with-stdin", action="store_true", help="stop at the end of standard input")
    given = parser.parse_args(arguments)
    options = SandboxOptions(
        directory=given.dir,
        protocols=tuple(given.protocols.split(",")),
        symbols=tuple(given.symbols.split(",")),
        rate=given.rate,
        seed=given.seed,
        depth=given.depth,
        rest_port=given.rest_port,
        websocket_port=given.websocket_port,
        queue_messages_max=given.queue_messages_max,
        die_with_stdin=given.die_with_stdin,
    )
    try:
        run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
