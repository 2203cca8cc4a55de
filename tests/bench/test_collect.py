"""Tests that a benchmark that fails takes no other's figures with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench import collect
from bench.names import ALL


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that figures are kept in, not the repository's."""
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_what_fails_keeps_its_last_figures_and_is_told(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results.mkdir()
    (results / "small.jsonl").write_text("{}\n")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(collect, "figures", lambda: iter([]))
    assert collect.run(["small", "mixed"]) == 1
    assert (results / "small.jsonl").read_text() == "{}\n"
    assert [path.name for path in results.iterdir()] == ["small.jsonl"]
    assert "failed: small, mixed" in capsys.readouterr().err


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    ended = subprocess.run([sys.executable, "-m", "bench", "nothing"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "read_ring" in ended.stderr


def test_every_benchmark_that_is_named_is_there() -> None:
    folder = Path(collect.__file__).parent
    for name in ALL:
        assert (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists(), name
