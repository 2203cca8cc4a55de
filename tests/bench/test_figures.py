"""Tests that a figure is one line with what a reader needs to trust it."""

from __future__ import annotations

import json

from bench.figures import Aim, figure

KEYS = ["bench", "name", "value", "unit", "ratio", "ratio_to", "spread", "conditions", "commit"]


def test_a_figure_is_the_median_of_its_runs_with_their_spread() -> None:
    line = json.loads(figure("small", "SELECT 1", [3.0, 1.0, 2.0], "ms", "one client").to_json())
    assert list(line) == KEYS
    assert (line["value"], line["spread"], line["ratio"]) == (2.0, [1.0, 3.0], None)
    assert line["conditions"].startswith("one client; 3 runs, ")


def test_a_ratio_is_the_median_of_pairs_taken_in_turns() -> None:
    found = figure("read_ring", "ADBC", [10.0, 30.0, 20.0], "rows/s", "", beside=[20.0, 40.0, 20.0], ratio_to="bare")
    assert (found.ratio, found.ratio_to) == (0.75, "bare")


def test_an_aim_is_of_the_ratio_where_there_is_one_else_of_the_value() -> None:
    aim = Aim(">=", 0.85)
    beside = figure("read_ring", "ADBC", [9.0], "rows/s", "", beside=[10.0], ratio_to="bare", aim=aim)
    alone = figure("small", "SELECT 1", [2.0], "ms", "", aim=Aim("<=", 1.5))
    assert json.loads(beside.to_json())["aim"] == {"op": ">=", "value": 0.85, "met": True}
    assert json.loads(alone.to_json())["aim"] == {"op": "<=", "value": 1.5, "met": False}
