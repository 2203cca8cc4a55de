"""A product's worker as the benchmark sees it: a process that answers requests.

The rule of this file: nothing that a worker started outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

from bench.peers.environments import ROOT
from bench.peers.workers.harness import CannotError

ANSWER_S = 180.0


class BrokenError(Exception):
    """A worker failed, ended or gave no answer; the text says what it said."""


class Worker:
    """One product under test, in ``folder``. Use it as a context manager."""

    def __init__(self, name: str, python: Path, folder: Path, *, own: bool = False) -> None:
        """Start the product; ``own``: it may import this repository's packages."""
        self.name = name
        self._log = folder.parent / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if own or not key.startswith("PYTHON")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", f"bench.peers.workers.{name}", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        try:
            self.version: str = self._answer()["version"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """Send a request, wait for the answer.

        Raises:
            CannotError: the product has no such operation.
            BrokenError: it failed.
        """
        requests = self._pipe(self._process.stdin)
        try:
            requests.write(json.dumps({"do": do, **request}).encode() + b"\n")
            requests.flush()
        except OSError:
            raise BrokenError(self._last_words()) from None
        answer = self._answer()
        if "cannot" in answer:
            raise CannotError(answer["cannot"])
        if "failed" in answer:
            raise BrokenError(answer["failed"])
        return answer

    def _answer(self) -> dict[str, Any]:
        answers = self._pipe(self._process.stdout)
        ready, _, _ = select.select([answers], [], [], ANSWER_S)
        line = answers.readline() if ready else b""
        if not line:
            raise BrokenError(self._last_words() if ready else f"no answer for {ANSWER_S:.0f} s")
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it ended without a word"

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def close(self) -> None:
        """Let the product stop, then end whatever is left of it."""
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe(self._process.stdout).close()
