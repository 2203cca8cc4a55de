"""A real object store for tests, rclone's `serve s3` over a folder, and a proxy that breaks connections."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from ports import free_port

KEY_ID, SECRET = "TESTACCESSKEY", "TESTSECRETKEY"
DEADLINE_S = 30.0
CACHE_S = 0.1  # for so long the server believes what it saw of a folder


def change(path: Path, contents: bytes) -> None:
    """Write a file of a bucket from outside, and wait until the server has forgotten the old one."""
    path.write_bytes(contents)
    time.sleep(2 * CACHE_S)


class S3Server:
    """A process that serves the folders in ``folder`` as buckets, and checks signatures."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        assert program, "rclone is missing: install the group dev"
        address, key = f"127.0.0.1:{self.port}", f"{KEY_ID},{SECRET}"
        arguments = ["serve", "s3", "--addr", address, "--auth-key", key, "--etag-hash", "MD5"]
        # tests change files behind its back, with ``change``; at 0 it never ends making a folder
        arguments += ["--dir-cache-time", f"{CACHE_S}s", *self._options]
        with (self.folder.parent / "rclone.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *arguments, str(self.folder)], stderr=log, env={**os.environ, "RCLONE_CONFIG": os.devnull}
            )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "the object store did not start"
                assert self._process.poll() is None, "the object store ended"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class BreakingProxy:
    """Passes connections on to ``port``, and cuts the next ones after the bytes in ``up`` and ``down``.

    Each connection takes the first number of either list, counting what goes to the server (``up``) and what comes
    from it (``down``); an empty list is no limit.
    """

    def __init__(self, port: int) -> None:
        self.up: list[int] = []
        self.down: list[int] = []
        self.cuts = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._sockets += [client, server]
                up = self.up.pop(0) if self.up else None
                down = self.down.pop(0) if self.down else None
            for source, sink, limit in ((client, server, up), (server, client, down)):
                threading.Thread(target=self._pass, args=(source, sink, limit), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65_536):
                if limit is not None and passed + len(data) >= limit:
                    sink.sendall(data[: limit - passed])
                    self.cuts += 1
                    break
                sink.sendall(data)
                passed += len(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
