"""The report's charts, as SVG for a page.

The rule of this file: a chart is drawn from figures alone, and the same figures give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

_OURS, _MISSED, _AIM = "#1f6feb", "#b3261e", "#1c2330"
_BAR_INCHES, _EDGE_INCHES, _WIDTH_INCHES = 0.3, 0.75, 10.5
_SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tickflight",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def aims_chart(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return how far each figure is above its aim, on a logarithmic scale: 2 is twice as good as asked."""
    names = [f"{line['bench']}: {line['name']}" for line in figures]
    values = [min(100.0, max(0.01, _margin(line))) for line in figures]
    colours = [_OURS if line["aim"]["met"] else _MISSED for line in figures]
    with mpl.rc_context(dict(_SETTINGS)):
        figure, axes = _bars(names)
        axes.barh(names, [value - 1 for value in values], left=1, color=colours, height=0.6)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(0.45, *values), max(2.2, *values) * 1.1)
        axes.axvline(1, color=_AIM, linewidth=1)
        axes.set_xlabel("times better than the aim")
        return _svg(figure)


def _margin(line: Mapping[str, Any]) -> float:
    found = float(line["value"] if line["ratio"] is None else line["ratio"])
    aim = float(line["aim"]["value"])
    if line["aim"]["op"] == "<=":
        found, aim = aim, found
    return 1.0 if found == aim else found / aim if aim else 100.0


def bars_chart(figures: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Return figures of one unit as bars with their spread; logarithmic where they differ more than fiftyfold."""
    names = [str(line["name"]) for line in figures]
    values = [float(line["value"]) for line in figures]
    errors = [
        [max(0.0, value - line["spread"][0]) for value, line in zip(values, figures, strict=True)],
        [max(0.0, line["spread"][1] - value) for value, line in zip(values, figures, strict=True)],
    ]
    colours = [_MISSED if "aim" in line and not line["aim"]["met"] else _OURS for line in figures]
    with mpl.rc_context(dict(_SETTINGS)):
        figure, axes = _bars(names)
        axes.barh(names, values, xerr=errors, color=colours, height=0.6, ecolor=_AIM, error_kw={"linewidth": 0.8})
        if min(values) > 0 and max(values) > 50 * min(values):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_xlabel(unit)
        return _svg(figure)


def _bars(names: Sequence[str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH_INCHES, _EDGE_INCHES + _BAR_INCHES * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#e3e7ec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]  # without the head of a file of its own
