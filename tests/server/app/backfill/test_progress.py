"""Progress is a bar in a terminal and lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tickflight_server.app.backfill import progress
from tickflight_server.app.backfill.progress import Shown


def test_lines_come_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "PLAIN_S", 0.0)
    with Shown(said.append, Console(file=io.StringIO())) as shown:
        shown.begin("a.csv", 200)
        shown.move(50, 0)
        shown.move(100, 1000)
        shown.begin("q.csv", 0)
        shown.move(7, 3)
        shown.line("done")
    assert said == ["a.csv: 25 %, checked", "a.csv: 50 %, 1,000 rows", "q.csv: 3 rows", "done"]


def test_not_every_step_is_a_line() -> None:
    said: list[str] = []
    with Shown(said.append, Console(file=io.StringIO())) as shown:
        shown.begin("a.csv", 200)
        for at in range(200):
            shown.move(at, at)
    assert said == []


def test_a_terminal_has_a_bar_and_lines_stay_above_it() -> None:
    said: list[str] = []
    screen = io.StringIO()
    with Shown(said.append, Console(file=screen, force_terminal=True, width=100)) as shown:
        for name in ("a.csv", "b.csv"):
            shown.begin(name, 200)
            shown.move(100, 1000)
            shown.line(f"{name}: [done]")
    text = screen.getvalue()
    assert "a.csv: [done]" in text
    assert "1,000 rows" in text
    assert said == []
