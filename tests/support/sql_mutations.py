"""SQL that nobody would write: sound texts cut, spliced and wrapped, and calls of allowed functions with odd values.

The rule of this file: a text follows from the seed and its number alone; none asks for more memory than a query has.
"""

from __future__ import annotations

import random
import re

from ways_to_call import AFTER_FROM, IN_EXPRESSIONS

from tickflight_server.query.inventory import ALLOWED, CALLED, CALLED_FROM, classes

_TOKEN = re.compile(r"'[^']*'|\w+|\s+|.", re.DOTALL)
_ODD = (
    *(
        "NULL",
        "''",
        "'a'",
        "'%'",
        "'\\'",
        "'é€😀'",
        "'(('",
        "'{\"a\": [1, null]}'",
        "'2026-02-30'",
        "'NaN'",
        "'infinity'",
    ),
    *("0", "-1", "1.5", "1e308", "-0.0", "'NaN'::DOUBLE", "9223372036854775807", "-9223372036854775808", "'0'::BLOB"),
    *(
        "170141183460469231731687303715884105727",
        "1::DECIMAL(38, 38) / 3",
        "TRUE",
        "DATE '2026-09-21'",
        "DATE 'infinity'",
    ),
    *("TIMESTAMP '290309-12-22'", "TIME '23:59:59.999999'", "TIMESTAMPTZ '1970-01-01'", "INTERVAL 178956970 YEARS"),
    *(
        "[]",
        "[NULL]",
        "[1, 2, NULL]",
        "[[1], []]",
        "['a', '']",
        "{'a': 1}",
        "{'a': {'b': NULL}}",
        "MAP {}",
        "MAP {1: 'a'}",
    ),
    *(
        "'101'::BIT",
        "''::BIT",
        "gen_random_uuid()",
        "'[]'::JSON",
        "'{\"a\": 1}'::JSON",
        "union_value(a := 1)",
        "(1, 'a')",
    ),
    *(
        "array_value(1.0, 2.0)",
        "'a'::ENUM ('a', 'b')",
        "1::VARIANT",
        "'POINT (1 2)'::GEOMETRY",
        "price",
        "symbol",
        "timestamp",
        "*",
    ),
    *(
        "lambda x: x",
        "lambda x, y: x",
        "(SELECT max(price) FROM trades)",
        "x := 1",
        "DISTINCT price",
        "seq ORDER BY price",
    ),
)
_SMALL = (
    "NULL",
    "''",
    "'a'",
    "0",
    "-1",
    "3",
    "17",
    "1.5",
    "'%d'",
    "[]",
    "[1, 2]",
    "['a']",
    "'{}'",
    "lambda x: x",
    "price",
    "symbol",
)
_JUNK = (
    "\0",
    "\ufeff",
    "\u202e",
    "é",
    "😀",
    "\\",
    '"',
    "'",
    "$$",
    "/*",
    "--",
    ";",
    "?",
    "$1",
    "#1",
    "::",
    ":=",
    "=>",
    "..",
    "@",
    "`",
)
_WRAPS = (
    *("SELECT * FROM ({})", "WITH c AS ({}) FROM c", "EXPLAIN {}", "EXPLAIN ANALYZE {}", "DESCRIBE {}", "SUMMARIZE {}"),
    *(
        "SELECT ({})",
        "SELECT EXISTS ({})",
        "({}) UNION ALL ({})",
        "CREATE TEMP TABLE fuzzed AS {}",
        "CREATE VIEW fuzzed AS {}",
    ),
    *(
        "CREATE MACRO fuzzed(a) AS TABLE {}",
        "INSERT INTO fuzzed {}",
        "PIVOT ({}) ON 1",
        "SELECT x.* FROM ({}) x, trades LIMIT 3",
    ),
    *(
        "SELECT count(*) OVER () FROM ({})",
        "WITH RECURSIVE c AS ({} UNION {}) FROM c LIMIT 3",
        "SELECT COLUMNS(*)::VARCHAR FROM ({})",
    ),
)
_SOUND = (
    "SELECT symbol, sum(amount * price) AS traded FROM trades WHERE timestamp > now() - INTERVAL 1 DAY GROUP BY ALL",
    "SELECT * FROM trades ASOF JOIN ticker USING (symbol, timestamp) LIMIT 5",
    "SELECT time_bucket(INTERVAL 1 MINUTE, timestamp) AS t, first(price ORDER BY seq) FROM trades GROUP BY t",
    "FROM book_at('BINANCE', 'BTC-USDT', TIMESTAMP '2026-09-21 14:20:00', 5)",
    "SELECT * FROM trades AT (VERSION => 0)",
    "SELECT row_number() OVER (PARTITION BY symbol ORDER BY seq DESC) AS n, * FROM trades QUALIFY n < 3",
    "FROM system.tables",
    "SELECT * FROM duckdb_columns() WHERE table_name = 'trades'",
)


class Mutations:
    """Texts of a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        known = classes()
        self._functions = sorted(known.names(CALLED, ALLOWED - {"heavy", "writes"}))
        self._heavy = sorted(known.names(CALLED, {"heavy"}))
        self._tables = sorted(known.names(CALLED_FROM, ALLOWED - {"heavy"}))
        self._shapes = [s for s in IN_EXPRESSIONS if not s.startswith(("SET", "PRAGMA", "COPY"))]

    def next(self) -> str:
        """Return the next text."""
        choose = self._random.random()
        if choose < 0.5:
            return f"SELECT {self._call()} FROM trades LIMIT 20"
        if choose < 0.6:
            name = self._random.choice(self._functions)
            return self._random.choice(self._shapes).format(f=name, F=name.upper())
        if choose < 0.65:
            name = self._random.choice(self._tables)
            return self._random.choice(AFTER_FROM).format(f=name, F=name.upper())
        text = self._random.choice(_SOUND)
        for _ in range(self._random.randrange(1, 4)):
            text = self._changed(text)
        return text[:20_000]

    def _call(self, depth: int = 0) -> str:
        heavy = self._random.random() < 0.15
        name = self._random.choice(self._heavy if heavy else self._functions)
        values = []
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))):
            if depth < 2 and not heavy and self._random.random() < 0.2:
                values.append(self._call(depth + 1))
            else:
                values.append(self._random.choice(_SMALL if heavy else _ODD))
        over = " OVER ()" if self._random.random() < 0.05 else ""
        return f'"{name}"({", ".join(values)}){over}'

    def _changed(self, text: str) -> str:
        tokens = _TOKEN.findall(text) or [" "]
        place = self._random.randrange(len(tokens))
        match self._random.randrange(8):
            case 0:
                del tokens[place]
            case 1:
                tokens.insert(place, self._random.choice(tokens))
            case 2:
                tokens[place] = self._random.choice(_ODD)
            case 3:
                tokens.insert(place, self._random.choice(_JUNK))
            case 4:
                tokens.insert(place, self._random.choice("([{)]}") * self._random.choice((1, 5, 60, 150)))
            case 5:
                other = _TOKEN.findall(self._random.choice(_SOUND))
                tokens[place:] = other[self._random.randrange(len(other)) :]
            case 6:
                return self._random.choice(_WRAPS).replace("{}", text)
            case _:
                tokens[place] = self._call()
        return "".join(tokens)
