"""The audit's lines of what somebody does to a data folder at the machine, without a server.

The rule of this file: where a server runs it has the files of the audit, and notes by itself what it notices.
"""

from __future__ import annotations

import getpass
from typing import Any

from tickflight_server.clock import SystemClock
from tickflight_server.config import Settings
from tickflight_server.errors import FolderInUseError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout


def record(settings: Settings, act: str, **about: Any) -> None:
    """Write that the user of this process did ``act``, unless a server runs.

    Raises:
        ConfigError: the audit cannot be written.
    """
    from tickflight_server.audit import open_audit
    from tickflight_server.store.identity import FolderLock

    layout = Layout(settings.lakehouse.storage_path.absolute())
    lock = FolderLock(layout)
    try:
        lock.acquire()
    except FolderInUseError:
        return
    try:
        audit = open_audit(settings.audit, layout.audit, SystemClock(), Metrics(), lambda *_: None)
        audit.act(_user(), act, "command line", **about)
        audit.close()
    finally:
        lock.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name
        return ""
