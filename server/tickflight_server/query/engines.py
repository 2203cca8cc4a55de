"""An engine for each sight of the store: those who see the same share one, and no two sights share anything of it.

The rule of this file: what one sight has made, planned or kept is out of another's reach, since it is in another
database; only threads and places among the running statements are common.
"""

from __future__ import annotations

import threading
from pathlib import Path

from tickflight_server.config import QuerySettings
from tickflight_server.errors import BusyError
from tickflight_server.identity.rights import ALL, Sight
from tickflight_server.query.engine import Engine


class Engines:
    """The engines of a server, each made when it is first asked for.

    Args:
        main: that of those who see all rows.
        settings: limits.
        folder: where the workspaces' files are; without one they are in memory.
    """

    def __init__(self, main: Engine, settings: QuerySettings, folder: Path | None) -> None:
        self._settings = settings
        self._folder = folder
        self._lock = threading.Lock()
        self._engines: dict[Sight, Engine] = {ALL: main}

    def of(self, sight: Sight) -> Engine:
        """Return the engine of those who see ``sight``.

        Raises:
            BusyError: there are ``query.sights_max`` already.
        """
        found = self._engines.get(sight)
        if found is not None:
            return found
        with self._lock:
            found = self._engines.get(sight)
            if found is None:
                if len(self._engines) >= self._settings.sights_max:
                    raise BusyError(
                        f"{self._settings.sights_max} different rights are in use (query.sights_max).",
                        hint="Give users the same roles, or raise the setting: each has an engine of its own.",
                    )
                found = self._engines[sight] = self._make(sight, len(self._engines))
            return found

    def _make(self, sight: Sight, number: int) -> Engine:
        file = None
        if sight.workspace is not None and self._folder is not None:
            file = self._folder / f"workspace-{sight.workspace}.duckdb"
        main = self._engines[ALL]
        engine = Engine(
            main.store.whole,
            self._settings,
            main.feeds,
            main.clock,
            file,
            sight=sight,
            shared=main.shared,
            spill=str(number),
        )
        engine.warm_up()
        return engine

    def close(self) -> None:
        """Let all engines go but the main one, which is its maker's."""
        with self._lock:
            made = [engine for sight, engine in self._engines.items() if sight != ALL]
            self._engines = {ALL: self._engines[ALL]}
        for engine in made:
            engine.close()
