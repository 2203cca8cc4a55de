"""Tests of the contest's own parts, with products that are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bench.peers import contest, environments
from bench.peers.driver import BrokenError, Worker
from bench.peers.workers import harness
from bench.peers.workers.harness import CannotError
from bench.peers.workload import WORKS

READ = WORKS[0]


class Answers:
    """A worker that answers every question alike."""

    version = "made up"

    def __init__(self, seconds: float, total: float = 6.0, why: str = "") -> None:
        self.seconds, self.total, self.why = seconds, total, why

    def ask(self, do: str, **_: Any) -> dict[str, Any]:
        if self.why:
            raise CannotError(self.why)
        return {"seconds": self.seconds, "rows": 3, "sum": self.total}


def figures(**workers: Answers) -> dict[str, Any]:
    found = contest._figures(READ, workers, Path())  # type: ignore[arg-type]
    return {figure.name: figure for figure in found}


def test_a_row_says_how_far_ours_is_ahead_of_each_peer() -> None:
    found = figures(tickflight=Answers(1.0), quack=Answers(4.0), postgres=Answers(0.5))
    ahead, behind = (found[f"{READ.name} beside {name}"] for name in ("quack", "postgres"))
    assert (ahead.ratio, behind.ratio) == (4.0, 0.5)
    assert (ahead.aim.met(ahead.ratio), ahead.aim.met(behind.ratio)) == (True, False)
    assert found[f"{READ.name}, postgres"].value == READ.amount / 0.5


def test_a_slow_product_has_fewer_runs_and_they_are_paired() -> None:
    found = figures(tickflight=Answers(1.0), postgres=Answers(5.0))[f"{READ.name} beside postgres"]
    assert (found.ratio, "3 runs" in found.conditions) == (5.0, True)


def test_what_a_product_cannot_do_is_a_row_that_says_why() -> None:
    row = figures(tickflight=Answers(1.0), roapi=Answers(1.0, why="it reads only"))[f"{READ.name}, roapi"]
    assert (row.value, row.aim, "it reads only" in row.conditions) == (0.0, None, True)


def test_another_answer_than_ours_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(tickflight=Answers(1.0), quack=Answers(0.1, total=7.0))
    assert not any("quack" in name for name in found)
    assert "another answer" in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_is_a_reason_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(environments.UnavailableError, match="no-python"):
        environments.python_of("roapi")


def test_a_worker_that_does_not_start_says_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "nobody").mkdir()
    with pytest.raises(BrokenError, match="No module named"):
        Worker("nobody", Path(sys.executable), tmp_path / "nobody")


def test_text_takes_the_place_of_dictionaries() -> None:
    table = pa.table({"side": pa.array(["buy", "sell"]).dictionary_encode(), "price": [1.0, 2.0]})
    plain = harness.plain(table)
    assert (plain["side"].type, plain["side"].to_pylist()) == (pa.string(), ["buy", "sell"])
    assert harness._sum(plain) == 3.0
