"""A query that was bound, before it runs.

The rule of this file: a plan holds nothing of the store; what it reads is opened when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from tickflight_server.query.own_functions import OwnCall, Values
from tickflight_server.query.probe import Filters
from tickflight_server.query.statement import Parameters, Statement


@dataclass(frozen=True, eq=False)
class Plan:
    """A statement that was bound: its result schema, and the filters that reach each table's scans.

    ``filters`` has an entry for each reading of a stored table: a list with one filter a scan, or None where the scans
    are not known and everything is opened. ``now_us`` is what ``now()`` says. ``versions`` has the table version that
    each AT clause asks for, ``calls`` the values of each call of an own table function. ``dictionaries``: the schema
    has dictionaries where the table has names, since the caller asked for them. ``exact``: it chooses columns of the
    rows of one table that its filter lets through, and all of them.
    """

    statement: Statement
    parameters: Parameters
    schema: pa.Schema
    filters: dict[str, Filters | None]
    now_us: int
    versions: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[OwnCall, Values] = field(default_factory=dict)
    dictionaries: bool = False
    exact: bool = False
