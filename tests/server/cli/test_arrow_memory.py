"""Arrow's memory has a bound that the operator can set, move and take away."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tickflight_server.cli.arrow_memory import bound_arrow_memory, unbound


def test_bound_is_what_the_operator_says() -> None:
    environment = {"TICKFLIGHT_ARROW_MEMORY_MB": "2048"}
    assert bound_arrow_memory(environment) == 2048
    assert environment["MIMALLOC_RESERVE_OS_MEMORY"] == f"{2048 * 1024}KiB"
    unbound(environment)
    assert environment == {"TICKFLIGHT_ARROW_MEMORY_MB": "2048"}


def test_bound_is_a_share_of_the_memory_unless_somebody_chose_an_allocator() -> None:
    assert bound_arrow_memory({}) or 0 >= 1024
    assert bound_arrow_memory({"TICKFLIGHT_ARROW_MEMORY_MB": "0"}) is None
    assert bound_arrow_memory({"ARROW_DEFAULT_MEMORY_POOL": "system"}) is None
    assert bound_arrow_memory({"MIMALLOC_VERBOSE": "1"}) is None


@pytest.mark.parametrize(("asked_mb", "said"), [(500, "taken"), (2000, "ArrowMemoryError")])
def test_arrow_takes_no_more_than_the_bound(asked_mb: int, said: str) -> None:
    code = (
        "import os; os.environ['TICKFLIGHT_ARROW_MEMORY_MB'] = '1024'\n"
        "import tickflight_server.cli, pyarrow as pa\n"
        f"try: pa.allocate_buffer({asked_mb} << 20); print('taken')\n"
        "except MemoryError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [said], done.stderr
