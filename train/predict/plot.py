"""The ratings of recordings over time, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ser_memory.common.errors import listing
from ser_memory.common.files import write_whole
from ser_memory.train.predict.ratings import Rating
from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    Look,
    in_style,
    legend_below,
    looks,
    panels,
    sheet,
    to_pdf,
    to_png,
    to_svg,
)

_HEIGHT = 42.0  # mm of a panel
_MINUTES_FROM = 600.0  # seconds above which the axis is in minutes
_SAVE: dict[str, Callable[[Drawn], bytes | str]] = {".svg": to_svg, ".pdf": to_pdf, ".png": to_png}


def write_plot(
    path: Path, ratings: Sequence[Rating], dimensions: Sequence[str], ends: tuple[float, float]
) -> None:
    """Draw ratings on a scale with these ends into an .svg, .pdf or .png file.

    Raises OSError.
    """
    write_whole(path, _SAVE[path.suffix.lower()](draw_tracks(ratings, dimensions, ends)))


@in_style
def draw_tracks(ratings: Sequence[Rating], dimensions: Sequence[str], ends: tuple[float, float]) -> Drawn:
    """A panel per recording, a step per window; a band is one standard deviation over the seeds to either side."""
    drawn_as = looks(dimensions)
    figure = sheet(WIDE, _HEIGHT * len(ratings))
    for axes, rating in zip(panels(figure, len(ratings), 1), ratings, strict=True):
        _draw(axes, rating, drawn_as)
        axes.set_ylim(
            min([ends[0], *(value for moment in rating.track for value in moment.values.values())]),
            max([ends[1], *(value for moment in rating.track for value in moment.values.values())]),
        )
        axes.set_title(rating.file)
        axes.grid(axis="y")
    handles = [axes.lines[number] for number in range(len(dimensions))]
    legend_below(figure, handles, list(dimensions))
    levels = "; ".join(
        f"{rating.file} has {listing(f'{name} {value:.2f}' for name, value in (rating.values or {}).items())}"
        for rating in ratings
    )
    return Drawn(
        figure,
        "Ratings over time",
        f"Ratings of {listing(dimensions)} over time, a step per window. On average, {levels}.",
        "A step is a window, which ends where the recording is quiet. A band is a standard deviation over the seeds.",
    )


def _draw(axes: Axes, rating: Rating, drawn_as: dict[str, Look]) -> None:
    in_minutes = rating.duration > _MINUTES_FROM
    unit = 60.0 if in_minutes else 1.0
    edges = [moment.start / unit for moment in rating.track] + [rating.duration / unit]
    for name, look in drawn_as.items():
        values = [moment.values[name] for moment in rating.track]
        steps = [*values, values[-1]]
        axes.plot(edges, steps, drawstyle="steps-post", color=look.colour, linestyle=look.line)
        spread = [moment.spread.get(name, 0.0) for moment in rating.track]
        if any(spread):
            wide = [*spread, spread[-1]]
            axes.fill_between(
                edges,
                [step - width for step, width in zip(steps, wide, strict=True)],
                [step + width for step, width in zip(steps, wide, strict=True)],
                step="post",
                color=look.colour,
                alpha=0.15,
                linewidth=0,
            )
    axes.set_xlim(0, rating.duration / unit)
    axes.set_xlabel("minutes" if in_minutes else "seconds")
