"""Keeps pyarrow from loading pandas, which it does for its own use wherever it is installed.

The rule of this file: it is for processes of commands alone; who imports this package keeps their pandas. Nothing of
the server's makes or takes data frames, and a start with pandas takes longer and more memory.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


def do_without_pandas() -> None:
    """Let ``import pandas`` fail from now on, unless it was imported before."""
    sys.meta_path.insert(0, _NoPandas())
