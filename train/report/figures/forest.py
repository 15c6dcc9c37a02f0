"""A forest plot: paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ser_memory.train.report.figures.base import WIDE, Drawn, counted, in_style, sheet

_SIGNIFICANT = 0.05
_LINE = 5.0  # mm per row
_COLUMNS = (8, 48)  # pt from the axes to the p values


@dataclass(frozen=True)
class Difference:
    """One row: a paired difference, its interval and its p values; None where a test is undefined."""

    label: str
    difference: float
    low: float
    high: float
    p: float | None
    holm: float | None  # p after Holm's correction


@in_style
def forest(rows: Sequence[Difference], measured: str, against: str, level: float = 0.95) -> Drawn:
    """Differences with their intervals, from top to bottom in the order of the rows.

    `measured` names measure, dimension, corpus and split; `against` what the rows are compared with; `level` is that
    of the intervals. Raises ValueError if there is no row.
    """
    if not rows:
        raise ValueError("there is no difference to draw")
    figure = sheet(WIDE, 22 + _LINE * len(rows))
    axes = figure.subplots()
    beside = axes.get_yaxis_transform()
    for place, row in enumerate(rows):
        holds = row.holm is not None and row.holm < _SIGNIFICANT
        axes.hlines(place, row.low, row.high, color="black", linewidth=1.2)
        axes.vlines([row.low, row.high], place - 0.15, place + 0.15, color="black", linewidth=1.0)
        axes.plot(
            row.difference,
            place,
            marker="s" if holds else "o",
            color="#0072B2" if holds else "black",
            markerfacecolor="#0072B2" if holds else "white",
        )
        for offset, value in zip(_COLUMNS, (row.p, row.holm), strict=True):
            axes.annotate(
                p_value(value),
                (1, place),
                (offset, 0),
                xycoords=beside,
                textcoords="offset points",
                va="center",
            )
    for offset, heading in zip(_COLUMNS, ("p", "Holm's p"), strict=True):
        axes.annotate(
            heading,
            (1, -0.9),
            (offset, 0),
            xycoords=beside,
            textcoords="offset points",
            va="center",
            weight="bold",
        )
    axes.axvline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -1.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference from {against}: {measured}")
    axes.grid(axis="x")
    axes.set_axisbelow(True)

    held = [row for row in rows if row.holm is not None and row.holm < _SIGNIFICANT]
    first = max(rows, key=lambda row: abs(row.difference))
    return Drawn(
        figure,
        f"Differences from {against}: {measured}",
        f"{counted(len(rows), 'paired difference')} from {against} in {measured}; {len(held)} of them with Holm's "
        f"p < {_SIGNIFICANT:g}. The largest is {first.difference:+.3f} ({first.label}), interval {first.low:+.3f} to "
        f"{first.high:+.3f}.",
        f"Paired differences from {against} in {measured}, with {100 * level:g} % intervals. Filled squares: p < "
        f"{_SIGNIFICANT:g} also after Holm's correction; hollow circles: not.",
    )


def p_value(value: float | None) -> str:
    """Three digits; very small values as a bound, and a dash where there is none."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004  # the last of three digits
