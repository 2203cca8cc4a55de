"""Tests that the page shows every figure, says which aims are missed, and is the same for the same lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import report
from bench.figures import Aim, figure


def _lines() -> list[dict[str, Any]]:
    found = [
        figure("read_ring", "by <ADBC>", [9e6], "rows/s", "ten", beside=[1e7], ratio_to="bare", aim=Aim(">=", 0.85)),
        figure("read_ring", "bare", [1e7], "rows/s", "ten"),
        figure("small", "SELECT 1", [2.0], "ms", "one", aim=Aim("<=", 1.5)),
    ]
    return [json.loads(one.to_json()) for one in found]


def test_the_page_shows_every_figure_and_what_is_missed(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report.write(_lines(), page)
    text = page.read_text()
    assert "3 figures, 1 of 2 aims met" in text
    assert "by &lt;ADBC&gt;" in text
    assert "9,000,000 rows/s" in text
    assert "0.9 of bare" in text
    assert text.count("missed</span>") == 1
    assert text.count("<svg") == 2, "the aims, and the two figures of one unit"
    report.write(_lines(), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == text


def test_no_figures_are_a_page_too(tmp_path: Path) -> None:
    report.write([], tmp_path / "report.html")
    assert "0 figures" in (tmp_path / "report.html").read_text()
