"""A bound on the memory that Arrow takes, set before Arrow is loaded.

The rule of this file: it imports nothing of Arrow's, and says nothing where the operator has said something.

Arrow unpacks a compressed batch before this program sees it, into as much memory as the batch says: a few bytes from a
client may ask for all that there is. Arrow's allocator (mimalloc) can be given a fixed range of addresses and no other;
whoever asks for more gets an error, and the process lives. The range costs no memory until it is used.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "TICKFLIGHT_ARROW_MEMORY_MB"
_SHARE = 0.6  # of the machine's memory, or of what its control group lets this process have
_LEAST_MB = 1024
_OURS = ("MIMALLOC_RESERVE_OS_MEMORY", "MIMALLOC_DISALLOW_OS_ALLOC")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def bound_arrow_memory(environment: MutableMapping[str, str] = os.environ) -> int | None:
    """Set the bound for this process; return it in MiB, None if there is none.

    ``TICKFLIGHT_ARROW_MEMORY_MB`` says how much, 0 for no bound. Without it the bound is a share of the memory, unless
    the operator has chosen an allocator or settings of it.
    """
    text = environment.get(VARIABLE, "").strip()
    if text:
        bound = int(text) if text.isdecimal() else 0
    elif any(name.startswith("MIMALLOC_") or name == "ARROW_DEFAULT_MEMORY_POOL" for name in environment):
        return None
    else:
        bound = max(_LEAST_MB, int(_memory_mb() * _SHARE))
    if not bound:
        return None
    environment[_OURS[0]] = f"{bound << 10}KiB"
    environment[_OURS[1]] = "1"
    return bound


def unbound(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the bound from processes that this one starts: Arrow has read it."""
    for name in _OURS:
        environment.pop(name, None)


def _memory_mb() -> int:
    """Return the memory of the machine or of the control group, whichever is less; 0 if nobody tells."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (ValueError, OSError):
        return 0
    for path in _LIMITS:
        try:
            found = min(found, int(path.read_text()) >> 20)
        except (OSError, ValueError):
            continue
    return found
