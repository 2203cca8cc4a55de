"""Fixtures of the tools' tests: one server process with a recording in it, and the tools' own environments.

The rule of this file: a tool that is not installed skips its tests and says how to install it; nothing is faked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from system_processes import ServerProgram

from tickflight_server.feed import compat
from tickflight_server.feed.playback import replay

REPO = Path(__file__).parents[2]
RECORDING = REPO / "tests" / "data" / "sandbox" / ("BINANCE-3.pcap" if compat.MAJOR >= 3 else "BINANCE")
ENVIRONMENTS = Path(os.environ.get("TICKFLIGHT_TOOLS", REPO / ".venv-tools"))
DEADLINE_S = 240.0

Script = Callable[..., Any]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProgram]:
    """The server that every tool asks: the sandbox's recording is in it, nobody has to log in."""
    program = ServerProgram(tmp_path_factory.mktemp("tools"))
    replay([RECORDING], program.address)
    yield program
    program.stop()


@pytest.fixture(scope="session")
def counts(server: ServerProgram) -> dict[str, int]:
    """How many trades of each symbol there are, asked without any of the tools."""
    rows = server.query("SELECT symbol, count(*) AS n FROM market.trades GROUP BY ALL ORDER BY ALL")
    assert len(rows) == 2
    return {row["symbol"]: row["n"] for row in rows}


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> Path:
    """The folder of the environment that the module's marker names; skip where it is not made."""
    marker = request.node.get_closest_marker("tool")
    assert marker is not None, "the module says by pytest.mark.tool whose environment it needs"
    folder = ENVIRONMENTS / marker.kwargs["environment"]
    if not (folder / ".installed").exists():
        pytest.skip(f"{marker.args[0]} is not installed: make tools TOOLS={folder.name} (or set TICKFLIGHT_TOOLS)")
    return folder


@pytest.fixture
def run_python(environment: Path, tmp_path: Path) -> Script:
    """Run a script with the tool's Python; return what the expression ``found`` of it is, through JSON."""

    def run(script: str, found: str) -> Any:
        answer = tmp_path / "answer.json"
        tail = f"\nimport json, pathlib\npathlib.Path({str(answer)!r}).write_text(json.dumps({found}, default=str))\n"
        (tmp_path / "script.py").write_text(script + tail)
        run_program([str(environment / "bin" / "python"), "script.py"], tmp_path)
        return json.loads(answer.read_text())

    return run


@pytest.fixture
def run_node(environment: Path, tmp_path: Path) -> Script:
    """Run a script with Node.js and the packages of its environment; return what it prints."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")

    def run(script: str) -> str:
        (tmp_path / "node_modules").symlink_to(environment / "node_modules")
        (tmp_path / "script.mjs").write_text(script)
        return run_program([node, "script.mjs"], tmp_path)

    return run


@pytest.fixture(scope="session")
def run_command() -> Script:
    """``run_program``, for the tests."""
    return run_program


def run_program(command: list[str], folder: Path, variables: dict[str, str] | None = None) -> str:
    """Run a program of a tool's own environment; return its output, fail with all of it.

    This repository's packages are hidden from it: it is another machine's program.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        command,
        cwd=folder,
        env={**clean, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
