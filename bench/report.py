"""The report: every figure with its aim and its spread, as one page of tables and charts that needs nothing else.

The rule of this file: the page shows what the lines say and adds nothing; the same lines give the same page.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.charts import aims_chart, bars_chart

Line = Mapping[str, Any]  # a figure as its JSON line has it

_STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1c2330; background: #fff; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .3rem; }
p.note { color: #59636e; margin: .2rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e3e7ec; vertical-align: top; }
th { color: #59636e; font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number, td.aim { white-space: nowrap; } svg { max-width: 100%; height: auto; } nav a { margin-right: .8rem; }
.met { color: #11713a; font-weight: 600; } .missed { color: #b3261e; font-weight: 600; }
td.conditions { color: #59636e; font-size: .8rem; }
"""


def write(figures: Sequence[Line], path: Path) -> None:
    """Write the page of ``figures``, each as its JSON line has it."""
    path.write_text("\n".join(_page(figures)) + "\n")


def _page(figures: Sequence[Line]) -> Iterator[str]:
    benches = [(name, list(lines)) for name, lines in groupby(figures, key=lambda line: line["bench"])]
    aimed = [line for line in figures if "aim" in line]
    met = sum(line["aim"]["met"] for line in aimed)
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tickflight: benchmarks</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body><h1>tickflight: benchmarks</h1>"
    commits = ", ".join(sorted({line["commit"] for line in figures})) or "none"
    yield f'<p class="note">{len(figures)} figures, {met} of {len(aimed)} aims met; commit {_text(commits)}.'
    yield "Each value is a median; the spread is the least and the greatest run. A ratio is to what is named, in the"
    yield "same run. Written by <code>make bench</code>.</p><nav>"
    yield from (f'<a href="#{name}">{name}</a>' for name, _ in benches)
    yield "</nav>"
    if aimed:
        yield "<h2>Aims</h2>"
        yield '<p class="note">How many times better than its aim a figure is: right of the line, the aim is met.</p>'
        yield aims_chart(aimed)
    for name, lines in benches:
        yield from _section(name, lines)
    yield "</body></html>"


def _section(name: str, lines: Sequence[Line]) -> Iterator[str]:
    yield f'<h2 id="{name}">{name}</h2>'
    yield "<table><thead><tr><th>figure</th><th>value</th><th>spread</th><th>ratio</th><th>aim</th><th>conditions</th>"
    yield "</tr></thead><tbody>"
    yield from map(_row, lines)
    yield "</tbody></table>"
    for unit, same in groupby(sorted(lines, key=lambda line: str(line["unit"])), key=lambda line: str(line["unit"])):
        group = list(same)
        if len(group) > 1:
            yield bars_chart(group, unit)


def _row(line: Line) -> str:
    low, high = line["spread"]
    ratio = "" if line["ratio"] is None else f"{line['ratio']:.3g} of {line['ratio_to']}"
    cells = (
        ("", line["name"]),
        ("number", f"{number(line['value'])} {line['unit']}"),
        ("number", f"{number(low)} to {number(high)}"),
        ("number", ratio),
        ("aim", _aim(line)),
        ("conditions", line["conditions"]),
    )
    return "<tr>" + "".join(f'<td class="{kind}">{_text(text)}</td>' for kind, text in cells) + "</tr>"


def _aim(line: Line) -> Any:
    if "aim" not in line:
        return ""
    word = "met" if line["aim"]["met"] else "missed"
    return _Html(f'<span class="{word}">{_text(line["aim"]["op"])} {line["aim"]["value"]:g} {word}</span>')


class _Html(str):
    """Text that is markup already."""


def _text(text: str) -> str:
    return text if isinstance(text, _Html) else html.escape(text)


def number(value: float) -> str:
    """Return a value as people read it: 1,234,567 or 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
