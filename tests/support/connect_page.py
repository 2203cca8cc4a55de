"""The blocks of client/docs/connect.md, as the tests of the tools run them.

The rule of this file: what a reader copies is what a test runs; the only thing that changes is the server's address.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "client" / "docs" / "connect.md"
HOST = "127.0.0.1"
PORT = "8815"


def section(tool: str) -> str:
    """Return what stands under a tool's heading."""
    found = re.search(rf"^## {re.escape(tool)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{PAGE.name} has no section {tool}"
    return found[1]


def blocks(tool: str, language: str) -> list[str]:
    """Return a section's blocks whose opening line says ``language``, word for word."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", section(tool), re.DOTALL | re.MULTILINE)


def recipe(tool: str, language: str, port: int) -> str:
    """Return a section's blocks of a language as one text, for the server at a port of this machine."""
    found = blocks(tool, language)
    assert found, f"{tool} has no block of {language}"
    return "\n".join(found).replace(PORT, str(port))


def run_here(tool: str, port: int) -> dict[str, object]:
    """Run a section's Python in this process; return the names it made."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(recipe(tool, "python", port), f"{PAGE.name}, {tool}", "exec"), names)
    return names


def files(tool: str, port: int) -> dict[str, str]:
    """Return the files that a section shows: the name follows the language on a block's opening line."""
    found = re.findall(r"^```\w+ ([\w./]+)\n(.*?)^```", section(tool), re.DOTALL | re.MULTILINE)
    return {name: text.replace(PORT, str(port)) for name, text in found}
