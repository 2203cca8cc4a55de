"""The products' environments: made once, below the repository, from the lists in ``requirements``.

The rule of this file: what cannot be had is a reason in words; it never ends the benchmark.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-bench"
LISTS = Path(__file__).parent / "requirements"
INSTALL_S = 600


class UnavailableError(Exception):
    """A product cannot be had here; the text says why."""


def python_of(name: str) -> Path:
    """Return the interpreter of a product's environment, which is made first if its list is new.

    Raises:
        UnavailableError: it could not be made.
    """
    wanted, place = LISTS / f"{name}.txt", FOLDER / name
    done = place / ".installed"
    python = place / "bin" / "python"
    if done.exists() and done.read_text() == wanted.read_text():
        return python
    print(f"peers: making the environment of {name}", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [*pip, "--requirement", str(wanted)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip().splitlines()
            raise UnavailableError(said[-1] if said else str(error)) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(str(error)) from None
    done.write_text(wanted.read_text())
    return python
