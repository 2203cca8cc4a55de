"""Servers for benchmarks: a process of its own, on a data folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running_server(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, Path]]:
    """Run ``tickflight-server serve`` in a new folder; give its address and its data folder.

    ``environment`` are settings that no argument has, as ``TICKFLIGHT_LAKEHOUSE__RING_SECONDS``.
    """
    folder = tempfile.TemporaryDirectory(prefix="tickflight-bench-")
    with folder as name, server_on(Path(name), *arguments, environment=environment) as (address, _):
        yield address, Path(name) / "store"


@contextmanager
def server_on(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, int]]:
    """Run ``tickflight-server serve`` in ``folder``; give its address and the process's id."""
    command = [
        *(sys.executable, "-m", "tickflight_server.cli", "serve"),
        *("--storage-path", str(folder / "store"), "--port", "0", *arguments),
    ]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line:
            raise RuntimeError((folder / "server.log").read_text()[-2000:])
        yield line.split()[-1], process.pid
    finally:
        process.terminate()
        process.communicate(timeout=120)
