"""How much a statement may give and how long it may take, where its caller's roles say so.

The rule of this file: who has no limit pays nothing for it; an error names the limit and says what to narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from tickflight_server.config import MIB
from tickflight_server.errors import ResourceExhaustedError
from tickflight_server.metrics import Metrics
from tickflight_server.query.callers import Caller


class ResultLimit:
    """Ends a result with too many rows or bytes; nothing above the limit is given.

    Args:
        rows_max: None is without.
        bytes_max: None is without.
        narrow: says what to narrow; it is asked when a limit was reached.
    """

    def __init__(
        self, rows_max: int | None, bytes_max: int | None, metrics: Metrics, narrow: Callable[[], str]
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._metrics = metrics
        self._narrow = narrow
        self._rows = self._bytes = 0

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield ``batches`` while they are within the limits.

        Raises:
            ResourceExhaustedError: they are not.
        """
        for batch in batches:
            self._rows += batch.num_rows
            if self._rows_max is not None and self._rows > self._rows_max:
                raise self._over("limits.rows_max", f"the result has more than {self._rows_max:,} rows")
            if self._bytes_max is not None:
                self._bytes += batch.nbytes
                if self._bytes > self._bytes_max:
                    raise self._over("limits.result_mb", f"the result is above {self._bytes_max // MIB:,} MB")
            yield batch

    def _over(self, limit: str, what: str) -> ResourceExhaustedError:
        self._metrics.add("results_cut")
        hint = f"{self._narrow()} LIMIT, or an aggregate, makes it smaller, too."
        return ResourceExhaustedError(f"{what}, which is what your roles let a statement give.", hint=hint, limit=limit)


def result_limit(caller: Caller, metrics: Metrics, narrow: Callable[[], str]) -> ResultLimit | None:
    """Return what ends results that are too large for ``caller``, None if they may be of any size."""
    limits = caller.limits
    if limits.rows_max is None and limits.result_mb is None:
        return None
    most = None if limits.result_mb is None else limits.result_mb * MIB
    return ResultLimit(limits.rows_max, most, metrics, narrow)


def statement_limit(caller: Caller, session_ms: float | None, server_s: float) -> tuple[float, str]:
    """Return how long a statement may run, in seconds, 0 for ever, and the name of the limit: the smallest counts.

    A session's own takes the place of the server's, and never of the roles'.
    """
    found = {"query.statement_timeout_s": server_s} if session_ms is None else {"statement_timeout": session_ms / 1000}
    most = caller.limits.statement_timeout_s
    if most is not None:
        found["limits.statement_timeout_s"] = most
    return _least(found)


def _least(found: Mapping[str, float]) -> tuple[float, str]:
    given = [(seconds, name) for name, seconds in found.items() if seconds > 0]
    return min(given, default=(0.0, ""))
