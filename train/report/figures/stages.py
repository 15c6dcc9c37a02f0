"""The main figure: how a measure changes along the stages, one panel per corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Patch

from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    counted,
    extremes,
    in_style,
    label_below,
    legend_below,
    looks,
    mean_and_spread,
    measure,
    panels,
    sheet,
    trained_in,
    variant_of,
)
from ser_memory.train.results import Result
from ser_memory.train.settings import Variant

_MOST_BANDS = 4  # more of them hide each other: then each point gets a bar
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
    shown = [row for row in results if (row.dimension, row.metric, row.split) == (dimension, metric, split)]
    if not shown:
        raise ValueError(f"no result has {metric} of {dimension} on the split {split}")
    values: dict[tuple[str, str, int], list[float]] = {}
    for row in shown:
        values.setdefault((row.corpus, names[variant_of(row)], row.stage), []).append(row.value)
    stages = dict(sorted({row.stage: row.stage_name for row in shown}.items()))
    sizes = {row.corpus: row.n for row in shown}
    stage_of = trained_in(results)
    drawn_as = looks(names.values())
    present = [name for name in drawn_as if any(key[1] == name for key in values)]
    bands = len(present) <= _MOST_BANDS

    figure = sheet(WIDE, 62 if bands else 75)
    with panels(figure, len(sizes), min(len(sizes), 3), sharey=True, sharex=True) as grid:
        for axes, (corpus, n) in zip(grid, sizes.items(), strict=True):
            trained = stage_of[corpus]
            if trained in stages:
                axes.axvspan(trained - 0.5, trained + 0.5, color="0.92", linewidth=0, zorder=0)
            for index, name in enumerate(present):
                look = drawn_as[name]
                line = {
                    stage: values[corpus, name, stage] for stage in stages if (corpus, name, stage) in values
                }
                means, spreads = zip(*map(mean_and_spread, line.values()), strict=True) if line else ((), ())
                shift = 0.0 if bands or len(present) == 1 else _SIDEWAYS * (index / (len(present) - 1) - 0.5)
                # All start at the one point of the stage that they share.
                where = [stage + (shift if stage > 1 else 0.0) for stage in line]
                axes.plot(
                    where,
                    means,
                    color=look.colour,
                    marker=look.marker,
                    linestyle=look.line,
                    markerfacecolor=look.face,
                )
                low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
                high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
                if bands:
                    axes.fill_between(where, low, high, color=look.colour, alpha=0.15, linewidth=0)
                else:
                    axes.vlines(where, low, high, color=look.colour, linewidth=0.8)
            axes.set_title(f"{corpus} ({split}, n = {n:,})")
            axes.set_xticks(list(stages), list(stages.values()))
            axes.set_xlim(0.5, len(stages) + 0.5)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        grid[0].set_ylabel(measure(metric, dimension))
        label_below(grid, min(len(sizes), 3), "after stage")
        handles = [grid[0].lines[index] for index in range(len(present))]
    legend_below(figure, [*handles, Patch(color="0.92")], [*present, "stage of this corpus"])

    seeds = len({row.seed for row in shown})
    first, last = next(iter(sizes)), max(stages)
    ends = {
        name: mean_and_spread(values[first, name, last])[0]
        for name in present
        if (first, name, last) in values
    }
    spread = "bands" if bands else "bars"
    return Drawn(
        figure,
        f"{measure(metric, dimension)} along the stages",
        f"Lines with one panel per corpus: {measure(metric, dimension)} on the {split} split after each stage. "
        f"On {first} after {stages[last]}, {extremes(ends)}.",
        f"{measure(metric, dimension)} on the {split} split after each stage: mean of {counted(seeds, 'seed')}, "
        f"{spread} show one standard deviation to either side. All variants share the first stage.",
    )
