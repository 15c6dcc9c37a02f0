"""The main figure: how a measure changes along the stages, one panel per corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ser_memory.common.errors import listing
from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    Look,
    counted,
    extremes,
    in_style,
    label_below,
    legend_below,
    looks,
    mean_and_spread,
    measure,
    panels,
    rows_of,
    sheet,
    trained_in,
)
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant, shares_first_stage

_COLUMNS = 3
_SHADE = "0.92"
_MOST_BANDS = 4  # more of them hide each other: then each point gets a bar
_LONGEST = 9  # letters of a stage's name that has room beside others
_SLANTED: dict[str, Any] = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"}
_SIDEWAYS = 0.4  # of the distance between two stages, over which the variants' bars are spread


@in_style
def along_stages(
    results: Sequence[Result],
    names: Mapping[Variant, str],
    dimension: str,
    metric: str = "ccc",
    split: str = "test",
) -> Drawn:
    """A measure after each stage: mean over the seeds, with one standard deviation to either side.

    `results` are the rows of results.csv, all corpora and splits, without those of single folds; `names` gives each
    variant's name. Raises ValueError if no row has this dimension, metric and split.
    """
    shown = rows_of(results, dimension, metric, split)
    values: dict[str, dict[str, dict[int, list[float]]]] = {}  # corpus -> name -> stage -> by seed
    for row in shown:
        of_corpus = values.setdefault(row.corpus, {})
        of_corpus.setdefault(names[variant_of(row)], {}).setdefault(row.stage, []).append(row.value)
    stages = dict(sorted({row.stage: row.stage_name for row in shown}.items()))
    sizes = {row.corpus: row.n for row in shown}
    stage_of = trained_in(results)
    present = {
        name: look
        for name, look in looks(names.values()).items()
        if any(name in found for found in values.values())
    }
    apart = [
        name
        for variant, name in names.items()
        if name in present and not shares_first_stage(variant.strategy)
    ]
    bands = len(present) <= _MOST_BANDS

    long = max(map(len, stages.values())) > _LONGEST
    columns = min(len(sizes), _COLUMNS)
    figure = sheet(WIDE, (62 if bands else 75) * -(-len(sizes) // columns))
    grid = panels(figure, len(sizes), columns, sharey=True, sharex=True)
    for axes, (corpus, n) in zip(grid, sizes.items(), strict=True):
        if (trained := stage_of[corpus]) in stages:
            axes.axvspan(trained - 0.5, trained + 0.5, color=_SHADE, linewidth=0, zorder=0)
        handles = _draw_lines(axes, values[corpus], present, bands, apart)
        axes.set_title(f"{corpus} ({split}, n = {n:,})")
        axes.set_xticks(list(stages), list(stages.values()), **(_SLANTED if long else {}))
        axes.set_xlim(0.5, len(stages) + 0.5)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    for axes in grid[::columns]:
        axes.set_ylabel(measure(metric, dimension))
    label_below(grid, columns, "after stage")
    legend_below(figure, [*handles, Patch(color=_SHADE)], [*present, "stage of this corpus"])

    seeds = len({row.seed for row in shown})
    first, last = next(iter(sizes)), max(stages)
    ends = {name: mean_and_spread(line[last])[0] for name, line in values[first].items() if last in line}
    spread = "bands" if bands else "bars"
    return Drawn(
        figure,
        f"{measure(metric, dimension)} along the stages",
        f"Lines with one panel per corpus: {measure(metric, dimension)} on the {split} split after each stage. "
        f"On {first} after {stages[last]}, {extremes(ends)}.",
        f"{measure(metric, dimension)} on the {split} split after each stage: mean of {counted(seeds, 'seed')}, "
        f"{spread} show one standard deviation to either side.{_told_of_first(present, apart)}",
    )


def _told_of_first(names: Iterable[str], apart: Sequence[str]) -> str:
    """Which variants share the first stage, for the caption."""
    if not apart:
        return " All variants share the first stage."
    return f" All variants but {listing(apart)} share the first stage." if set(names) - set(apart) else ""


def _draw_lines(
    axes: Axes,
    values: Mapping[str, Mapping[int, Sequence[float]]],
    looks: Mapping[str, Look],
    bands: bool,
    apart: Sequence[str],
) -> list[Line2D]:
    """A line for each look; `values` maps a name and a stage to the figures of the seeds.

    The names in `apart` do not share the first stage of the others.
    """
    drawn = []
    for index, (name, look) in enumerate(looks.items()):
        line = dict(sorted(values.get(name, {}).items()))
        summaries = [mean_and_spread(found) for found in line.values()]
        means = [mean for mean, _ in summaries]
        low, high = ([mean + side * spread for mean, spread in summaries] for side in (-1, 1))
        shift = 0.0 if bands or len(looks) == 1 else _SIDEWAYS * (index / (len(looks) - 1) - 0.5)
        # All that share the first stage start at its one point.
        where = [stage + (shift if stage > 1 or name in apart else 0.0) for stage in line]
        drawn += axes.plot(
            where,
            means,
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markerfacecolor=look.face,
        )
        if bands:
            axes.fill_between(where, low, high, color=look.colour, alpha=0.15, linewidth=0)
        else:
            axes.vlines(where, low, high, color=look.colour, linewidth=0.8)
    return drawn
