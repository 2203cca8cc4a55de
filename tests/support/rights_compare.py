"""One statement asked of the server and of the oracle: what is not the same is a fault.

The rule of this file: results are compared as sets of rows with their names; of errors only that there is one, and that
its words have nothing that may not be seen.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
from rights_oracle import Oracle
from rights_visitor import Visitor
from sql_fuzz import Made

from tickflight.errors import TickflightError, UnsupportedError
from tickflight.wire.commands import CommandStatementQuery

DIGITS = 9
"""Of floats: a sum's parts come in any order, and what is worked out from it may differ in the last digits."""


def compare(v: Visitor, oracle: Oracle, made: Made, *, road: str = "sql") -> None:
    """Ask both; note what differs. ``road``: sql, endpoints, or live."""
    wanted, ours = _rows(lambda: oracle.ask(made))
    got, theirs = _rows(lambda: _ask(v, made, road))
    if isinstance(theirs, UnsupportedError):
        v.counts["not offered"] += 1
        return
    if theirs is not None:
        _look(v, made, str(theirs))
    v.counts["of names that are not there"] += made.fails
    if (ours is None) != (theirs is None):
        v.check(False, f"{made.server!r} {made.values}: the server says {theirs!r:.500}, the oracle {ours!r:.300}")
    else:
        v.counts["failed alike"] += ours is not None
        v.check(got == wanted, f"{made.server!r} {made.values} by {road}: {_difference(got, wanted)}")


def _ask(v: Visitor, made: Made, road: str) -> pa.Table:
    if road == "endpoints" and not made.values:
        return v.by_endpoints(CommandStatementQuery(made.server))[1]
    if road == "live":
        with v.client.live(made.server, made.values or None, every=0.05) as live:
            return next(iter(live))
    return v.table(made.server, made.values or None)


def _rows(ask: Any) -> tuple[Counter[str] | None, Exception | None]:
    try:
        table = ask()
    except (duckdb.Error, TickflightError, pa.ArrowException) as error:
        return None, error
    names = table.schema.names
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    rows = zip(*columns, strict=True) if columns else iter(())
    return Counter(repr((names, row)) for row in rows), None


def _plain(value: Any) -> Any:
    """Return a value as equal ones look alike."""
    if isinstance(value, float):
        return value if math.isnan(value) or math.isinf(value) else float(f"{value:.{DIGITS}g}") + 0.0
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


def _look(v: Visitor, made: Made, text: str) -> None:
    """See that an error says nothing that is not seen, but for what the statement says itself."""
    said = " ".join([made.server, *map(str, made.values)])
    own = set(re.findall(r"[\w.-]+", said))
    v.clean(text, f"the refusal of {made.server!r}", said)
    v.proposes(" ".join(w for w in re.split(r"(\W+)", text) if w not in own))


def _difference(got: Counter[str] | None, wanted: Counter[str] | None) -> str:
    if got is None or wanted is None:
        return "only one fails"
    extra, lacking = got - wanted, wanted - got
    told = f"too many {[*extra][:2]}, missing {[*lacking][:2]}"
    return f"{got.total()} rows, wanted {wanted.total()}; {told[:900]}"
