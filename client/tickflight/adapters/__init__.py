"""Replays and bars in the forms of other packages, each in a module of its own.

The rule of this folder: a package is imported when a function that needs it is called, and not before; one that is not
there is told by the name under which it is installed.

    nautilus       nautilus_trader's ticks, book deltas and bars
    hftbacktest    hftbacktest's event array
    frames         pandas frames of bars, as vectorbt takes them

Plain dataclasses need no adapter: ``client.replay(…).events()``.
"""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, package: str) -> Any:
    """Return a module of another package.

    Raises:
        ImportError: it is not there; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {package}, which cannot be imported ({error}): pip install {package}") from error
