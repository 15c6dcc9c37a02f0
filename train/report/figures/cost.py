"""What a strategy keeps, and what that buys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    extremes,
    in_style,
    legend_below,
    looks,
    mean_and_spread,
    sheet,
)

_FEW = 6
_ASIDE, _FAR = 1.07, 1.5  # factors between points of the same bytes: next to each other, and at most in all
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Kept:
    """One point: the bytes that a variant keeps for later stages, and its figure for every seed."""

    name: str
    bytes: float
    values: tuple[float, ...]


@in_style
def against_bytes(points: Sequence[Kept], measured: str, order: Sequence[str] | None = None) -> Drawn:
    """A measure against bytes kept, on a logarithmic axis; what keeps nothing stands apart at the left.

    `measured` names measure, dimension, corpus, split and n, and may have line breaks. `order` lists the names of all
    variants of the run, so that each has the look that it has in the other figures. Raises ValueError if there is no point.
    """
    if not points:
        raise ValueError("there is no point to draw")
    drawn_as = looks(order or [point.name for point in points])
    positive = [point.bytes for point in points if point.bytes > 0]
    nothing = min(positive, default=10.0) / 4
    figure = sheet(WIDE * 0.75 if len(points) <= _FEW else WIDE, 65)
    axes = figure.subplots()
    handles = []
    same = Counter(point.bytes for point in points)
    before: Counter[float] = Counter()
    for point in points:
        # Points with the same bytes would hide each other.
        step = min(_ASIDE, _FAR ** (1 / same[point.bytes]))
        aside = step ** (before[point.bytes] - (same[point.bytes] - 1) / 2)
        before[point.bytes] += 1
        look = drawn_as[point.name]
        mean, spread = mean_and_spread(point.values)
        axes.errorbar(
            (point.bytes or nothing) * aside,
            mean,
            yerr=spread,
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.face,
            markersize=6,
            elinewidth=0.8,
            capsize=2,
        )
        handles.append(
            Line2D([], [], color=look.colour, marker=look.marker, markerfacecolor=look.face, linestyle="none")
        )
    _byte_axis(axes, positive, nothing if len(positive) < len(points) else None)
    axes.set_xlabel("kept for later stages")
    axes.set_ylabel(measured)
    axes.grid(axis="y")
    legend_below(figure, handles, [point.name for point in points])

    plain = " ".join(measured.split())
    means = {point.name: mean_and_spread(point.values)[0] for point in points}
    most = max(points, key=lambda point: point.bytes)
    return Drawn(
        figure,
        f"{plain} against bytes kept",
        f"Points of {plain} against the bytes that a variant keeps: {extremes(means)}. {most.name} keeps most, "
        f"{size(most.bytes)}.",
        f"{plain} against the bytes that are kept for later stages, logarithmic: mean over the seeds, bars show "
        "one standard deviation to either side. Points with the same bytes are drawn side by side.",
    )


def size(n_bytes: float) -> str:
    """`3.7 MB`, in units of a thousand."""
    for unit, name in _UNITS:
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} bytes"


def _byte_axis(axes: Axes, positive: Sequence[float], nothing: float | None) -> None:
    axes.set_xscale("log")
    low, high = min(positive, default=10.0), max(positive, default=10.0)
    ticks = [factor * 10.0**power for power in range(15) for factor in (1, 2, 5)]
    shown = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6] if positive else []
    shown = shown[:: max(1, len(shown) // 5)]
    labels = [size(tick) for tick in shown]
    if nothing is not None:
        axes.axvline(nothing * 1.8, color="0.7", linewidth=0.8, linestyle=":")
        shown, labels = [nothing, *shown], ["nothing", *labels]
    axes.set_xticks(shown, labels)
    axes.minorticks_off()
    axes.set_xlim((nothing or low) / 1.8, high * 1.8)
