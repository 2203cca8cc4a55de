"""Random SQL over a few tables, each statement in two texts: one for a server, one for the oracle of ``rights_oracle``.

The rule of this file: a statement has one right result, in whatever order rows come: windows and limits have an order
without ties. One random source makes it all: a seed is a statement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sql_fuzz_expressions import Expressions, Scope


@dataclass(frozen=True)
class Made:
    """A statement for the server and for the oracle, with its values; ``fails``: it names what is not there."""

    server: str
    oracle: str
    values: tuple[Any, ...] = ()
    fails: bool = False


class SqlFuzz(Expressions):
    """Makes statements over ``schema``."""

    def statement(self) -> Made:
        """Return the next one."""
        self._values, self._swaps, self._aliases = [], [], 0
        self._bound = self.chance.random() < 0.2
        fails = bool(self.schema.hidden) and self.chance.random() < 0.08
        text = self._hidden() if fails else self._query()
        oracle = text
        for ours, theirs in self._swaps:
            oracle = oracle.replace(ours, theirs)
        return Made(text, oracle, tuple(self._values), fails)

    # --- queries

    def _query(self) -> str:
        made: tuple[Callable[[], str], ...] = (
            *(self._plain,) * 4,
            *(self._grouped,) * 3,
            *(self._joined,) * 3,
            *(self._windowed,) * 2,
            *(self._sets,) * 2,
            *(self._common,) * 2,
            self._sample,
            self._summary,
            self._qualified,
            self._asof,
            self._distinct,
            self._recursive,
            self._called,
        )
        return self.chance.choice(made)()

    def _plain(self) -> str:
        source, scope = self._from()
        items = self._items(scope)
        text = f"SELECT {', '.join(items)} FROM {source}{self._where(scope)}"
        return text + self.chance.choice(("", "", " ORDER BY ALL", self._limit()))

    def _limit(self) -> str:
        return f" ORDER BY ALL LIMIT {self.chance.choice((1, 3, 10, 1000))}"

    def _items(self, scope: Scope, most: int = 4) -> list[str]:
        if self.chance.random() < 0.15:
            return [self.chance.choice(("*", "COLUMNS(*)"))]
        return [f"{self._any(scope)} AS c{i}" for i in range(self.chance.randint(1, most))]

    def _grouped(self) -> str:
        source, scope = self._from()
        keys = [self._any(scope, 1) for _ in range(self.chance.randint(0, 2))]
        items = [f"{k} AS k{i}" for i, k in enumerate(keys)]
        items += [f"{self._aggregate(scope)} AS a{i}" for i in range(self.chance.randint(1, 3))]
        groups = ""
        if keys:
            how = self.chance.choice(("ALL", "list", "list", "ROLLUP", "CUBE"))
            listed = ", ".join(str(i + 1) for i in range(len(keys)))
            groups = {"ALL": " GROUP BY ALL", "list": f" GROUP BY {listed}"}.get(how, "")
            if not groups:
                groups = f" GROUP BY {how} ({', '.join(keys)})"
                items = [i for i in items if not i.startswith("(")] or items
        having = (
            f" HAVING {self._aggregate_number(scope)} > {self._literal('number')}" if self.chance.random() < 0.2 else ""
        )
        return f"SELECT {', '.join(items)} FROM {source}{self._where(scope)}{groups}{having}"

    def _joined(self) -> str:
        (left, one), (right, two) = self._from(joins=False), self._from(joins=False)
        kind = self.chance.choice(("JOIN", "LEFT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN", "RIGHT JOIN"))
        on = self._join_condition(one, two)
        scope = one if kind in ("SEMI JOIN", "ANTI JOIN") else Scope([*one.columns, *two.columns])
        items = [f"{self._any(scope, 2)} AS c{i}" for i in range(self.chance.randint(1, 3))]
        where = self._where(one) if kind in ("JOIN", "SEMI JOIN", "ANTI JOIN") else ""
        if self.chance.random() < 0.4:
            items = ["count(*) AS n", f"{self._aggregate(one)} AS a"]
        return f"SELECT {', '.join(items)} FROM {left} {kind} {right} ON {on}{where}"

    def _join_condition(self, one: Scope, two: Scope) -> str:
        kinds = [k for k in ("text", "time", "int", "number") if one.of(k) and two.of(k)]
        if not kinds:
            return "true"
        kind = self.chance.choice(kinds)
        return f"{self.chance.choice(one.of(kind))} = {self.chance.choice(two.of(kind))}"

    def _windowed(self) -> str:
        source, scope = self._from(joins=False)
        by = f"PARTITION BY {self._any(scope, 1)} " if self.chance.random() < 0.7 else ""
        if scope.order and self.chance.random() < 0.7:
            over = f"({by}ORDER BY {scope.order})"
            function = self.chance.choice(("row_number()", "lag({x})", "lead({x})", "first_value({x})", "ntile(3)"))
        else:
            over = f"({by}ORDER BY {self._any(scope, 1)})"
            function = self.chance.choice(("rank()", "dense_rank()", "count(*)", "max({x})", "min({x})", "cume_dist()"))
        window = function.format(x=self._any(scope, 1)) + f" OVER {over}"
        rest = self._items(scope, 2)
        return f"SELECT {window} AS w, {', '.join(rest)} FROM {source}{self._where(scope)}"

    def _qualified(self) -> str:
        source, scope = self._from(joins=False)
        order = scope.order or self._any(scope, 1)
        item = self._any(scope, 1)
        partition = self._any(scope, 1)
        return f"SELECT {item} AS c FROM {source} QUALIFY rank() OVER (PARTITION BY {partition} ORDER BY {order}) <= 2"

    def _sets(self) -> str:
        kind = self.chance.choice(("number", "text", "time"))
        parts = []
        for _ in range(self.chance.randint(2, 3)):
            source, scope = self._from(joins=False)
            parts.append(f"SELECT {self._expression(kind, scope, 2)} AS c FROM {source}{self._where(scope)}")
        operator = self.chance.choice((" UNION ALL ", " UNION ", " INTERSECT ", " EXCEPT ", " EXCEPT ALL "))
        return operator.join(f"({part})" for part in parts)

    def _common(self) -> str:
        source, scope = self._from()
        hint = self.chance.choice(("", "MATERIALIZED ", "NOT MATERIALIZED "))
        inner = f"SELECT {self._any(scope)} AS a, {self._any(scope)} AS b FROM {source}{self._where(scope)}"
        use = self.chance.choice(
            (
                "SELECT a, count(*) AS n FROM x GROUP BY a",
                "SELECT count(*) AS n, count(DISTINCT a) AS d, max(b) AS m FROM x",
                "SELECT x.a FROM x SEMI JOIN x AS y ON x.b = y.b",
                "FROM x ORDER BY ALL LIMIT 5",
                "SELECT * FROM (FROM x) UNION ALL FROM x",
            )
        )
        return f"WITH x AS {hint}({inner}) {use}"

    def _recursive(self) -> str:
        source, scope = self._from(joins=False)
        count = f"SELECT count(*) FROM {source}{self._where(scope)}"
        return f"WITH RECURSIVE r(i, n) AS (SELECT 1, ({count}) UNION ALL SELECT i + 1, n FROM r WHERE i < 3) FROM r"

    def _sample(self) -> str:
        source, scope = self._from(joins=False)
        rows = self.chance.choice((1, 7, 50))
        inner = f"SELECT {self._any(scope, 1)} AS c FROM {source}{self._where(scope)}"
        return f"SELECT count(*) AS n FROM (FROM ({inner}) USING SAMPLE {rows} ROWS)"

    def _summary(self) -> str:
        source, scope = self._from(joins=False)
        inner = f"SELECT {', '.join(self._items(scope, 2))} FROM {source}"
        return f"SELECT count, column_name, min, max FROM (SUMMARIZE {inner})"

    def _asof(self) -> str:
        tables = [t for t in self.schema.tables if {"exchange", "symbol", "timestamp"} <= set(t.columns)]
        if len(tables) < 1:
            return self._plain()
        one, two = (self.chance.choice(tables) for _ in range(2))
        operator = self.chance.choice((">=", ">", "<=", "<"))
        kind = self.chance.choice(("ASOF JOIN", "ASOF LEFT JOIN"))
        pick = [f"{a}.{self.chance.choice(list(t.columns))} AS c_{a}" for a, t in (("l", one), ("r", two))]
        left, right = self._reference(one, "l"), self._reference(two, "r")
        on = f"l.exchange = r.exchange AND l.symbol = r.symbol AND l.timestamp {operator} r.timestamp"
        return f"SELECT {', '.join(pick)} FROM {left} {kind} {right} ON {on}"

    def _distinct(self) -> str:
        source, scope = self._from()
        return f"SELECT DISTINCT {self._any(scope)} AS c, {self._any(scope, 1)} AS d FROM {source}{self._where(scope)}"

    def _called(self) -> str:
        if not self.schema.calls:
            return self._plain()
        call, columns = self.chance.choice(self.schema.calls)
        scope = Scope([(f"f.{name}", kind) for name, kind in columns.items()])
        items = ["f.*"] if self.chance.random() < 0.4 else self._items(scope, 3)
        return f"SELECT {', '.join(items)} FROM {call} AS f{self._where(scope)}"

    def _hidden(self) -> str:
        """Name what is not there, somewhere."""
        table, column = self.chance.choice(self.schema.hidden)
        shown, scope = self._from(joins=False)
        kind = self.chance.choice(("item", "where", "order", "subquery", "group"))
        if not column:
            return self.chance.choice(
                (f"SELECT count(*) FROM {table}", f"SELECT 1 FROM {shown} WHERE EXISTS (FROM {table})")
            )
        hidden = f"(SELECT count({column}) FROM {table} AS h)"
        return {
            "item": f"SELECT {column} FROM {table}",
            "where": f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL",
            "order": f"SELECT 1 FROM {table} ORDER BY {column}",
            "subquery": f"SELECT {self._any(scope, 1)} FROM {shown} WHERE 1 IN {hidden}",
            "group": f"SELECT count(*) FROM {table} GROUP BY {column}",
        }[kind]
