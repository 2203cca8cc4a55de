"""What the crash tests share: the compiled shim, the size of the campaign, and counts of what was tried."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash_recording import fast_folder
from disk_shim import compile_shim, missing_compiler

FULL_TIMEOUT_S = 4 * 3600


@dataclass(frozen=True)
class Campaign:
    """How much is tried; None is all there is. Another seed tries other points, tears and moments."""

    name: str
    crash_points: int | None
    recoveries: int  # crashes whose recovery is crashed, too
    points_of_a_recovery: int
    faults: int | None
    short_writes: int
    faulted_runs: int  # runs with a fault whose journal is then crashed
    points_of_a_faulted_run: int
    kills: int


CAMPAIGNS = {
    c.name: c
    for c in (Campaign("sample", 60, 1, 8, 16, 4, 1, 6, 6), Campaign("full", None, 60, 25, None, 0, 100, 25, 200))
}


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> Campaign:
    return CAMPAIGNS[request.config.getoption("--campaign")]


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--crash-seed"))


@pytest.fixture(scope="session")
def in_place(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--in-place"))


@pytest.fixture(scope="session")
def trusting(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--trust-later-syncs"))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = missing_compiler()
    if reason is not None:
        pytest.skip(reason)
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """What a test counts; the reports bring it to the line at the end from whichever process."""
    counted: Counter[str] = Counter()
    yield counted
    request.node.user_properties.append(("crash testing", dict(counted)))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory, gone after the test."""
    yield from _in_memory()


@pytest.fixture(scope="module")
def scratch_of_module() -> Iterator[Path]:
    """The same for all tests of a module."""
    yield from _in_memory()


def _in_memory() -> Iterator[Path]:
    folder = fast_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder that outlives the test: for what is needed to try a failure again."""
    return tmp_path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--campaign") == "full":
        for item in items:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
