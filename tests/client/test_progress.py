"""Progress is for somebody who looks and waits: it is shown after a second, and nowhere else."""

from __future__ import annotations

import io
import sys

import pyarrow as pa
import pytest

from tickflight import progress
from tickflight.progress import Progress, size, watch

BATCH = pa.record_batch({"x": pa.array(range(1000), pa.int64())})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Said:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed: list[str] = []

    def show(self, text: str) -> None:
        self.lines.append(text)

    def close(self, text: str) -> None:
        self.closed.append(text)


def pull(times: list[float]) -> Said:
    """Count a batch at each time; close at the last."""
    said, clock = Said(), iter([0.0, *times, times[-1]])
    counted = Progress(said, lambda: next(clock))
    for _ in times:
        counted.add(BATCH)
    counted.close()
    return said


def test_what_is_over_within_a_second_shows_nothing() -> None:
    said = pull([0.1, 0.5, 0.99])
    assert (said.lines, said.closed) == ([], [])


def test_long_pull_tells_rows_bytes_and_rate_a_few_times_a_second() -> None:
    said = pull([0.5, 1.0, 1.1, 1.2, 1.25, 2.0])
    assert said.lines == [
        "2,000 rows, 16.0 kB, 1.0 s, 2,000 rows/s",
        "5,000 rows, 40.0 kB, 1.2 s, 4,000 rows/s",
        "6,000 rows, 48.0 kB, 2.0 s, 3,000 rows/s",
    ]
    assert said.closed == said.lines[-1:]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3.2e12, "3200.0 GB")]
)
def test_sizes_have_units(count: float, text: str) -> None:
    assert size(count) == text


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert watch(None) is None
    assert watch(False) is None
    assert watch(True) is not None
    monkeypatch.setattr(sys, "stderr", None)
    assert watch(None) is None


def test_terminal_shows_it_unless_the_environment_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv(progress.SWITCH, raising=False)
    assert watch(None) is not None
    assert watch(False) is None
    monkeypatch.setenv(progress.SWITCH, "0")
    assert watch(None) is None


def test_without_the_package_there_is_none_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda _: None)
    assert watch(True) is None


def test_line_of_a_terminal_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    display = progress._Terminal()
    display.show("5 rows")
    display.close("5 rows")
    assert "5 rows" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")
    progress._Terminal().close("never shown")
