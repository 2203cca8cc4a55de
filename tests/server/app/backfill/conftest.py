"""Imports into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backfill_files import lake

from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.app.backfill.run import Totals, run_import
from tickflight_server.app.backfill.sinks import StoreSink


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def imports(tmp_path: Path, said: list[str]) -> Callable[..., Totals]:
    """Import files into ``tmp_path/store``."""

    def run(*paths: Path, numeric: str = "float64", folder: str = "store", **wishes: Any) -> Totals:
        settings = lake(tmp_path / folder, numeric)
        return run_import(paths, Wishes(**wishes), lambda: StoreSink(settings), said.append)

    return run
