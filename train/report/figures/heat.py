"""Stage by corpus: one small table in colours per variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle

from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    counted,
    extremes,
    in_style,
    ink_on,
    measure,
    panels,
    sheet,
    trained_in,
    variant_of,
)
from ser_memory.train.results import Result
from ser_memory.train.settings import Variant

_COLUMNS = 3
_COLOURS = "cividis"  # rises in lightness, so that it can be read in grey


@in_style
def stage_by_corpus(
    results: Sequence[Result],
    names: Mapping[Variant, str],
    dimension: str,
    metric: str = "ccc",
    split: str = "test",
) -> Drawn:
    """The mean over the seeds for every stage (rows) and corpus (columns), one panel per variant.

    `results` are the rows of results.csv, all corpora and splits, without those of single folds; `names` gives each
    variant's name. Raises ValueError if no row has this dimension, metric and split.
    """
    shown = [row for row in results if (row.dimension, row.metric, row.split) == (dimension, metric, split)]
    if not shown:
        raise ValueError(f"no result has {metric} of {dimension} on the split {split}")
    values: dict[tuple[str, int, str], list[float]] = {}
    for row in shown:
        values.setdefault((names[variant_of(row)], row.stage, row.corpus), []).append(row.value)
    means = {key: float(np.mean(found)) for key, found in values.items()}
    stages = dict(sorted({row.stage: row.stage_name for row in shown}.items()))
    sizes = {row.corpus: row.n for row in shown}
    stage_of = trained_in(results)
    present = list(dict.fromkeys(key[0] for key in values))
    low, high = min(0.0, *means.values()), max(means.values())
    colours = mpl.colormaps[_COLOURS]

    columns = min(len(present), _COLUMNS)
    rows = -(-len(present) // columns)
    figure = sheet(WIDE, 22 + rows * (10 + 8 * len(stages)))
    with panels(figure, len(present), columns, sharex=True, sharey=True) as grid:
        for axes, name in zip(grid, present, strict=True):
            table = np.array(
                [[means.get((name, stage, corpus), np.nan) for corpus in sizes] for stage in stages]
            )
            image = axes.imshow(table, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none")
            for (row, column), value in np.ndenumerate(table):
                here, current = list(stages)[row], stage_of[list(sizes)[column]]
                ink = "black"
                if np.isfinite(value):
                    unseen = current > here
                    ink = ink_on(colours, (value - low) / ((high - low) or 1.0))
                    axes.text(
                        column,
                        row,
                        f"({value:.2f})" if unseen else f"{value:.2f}",
                        ha="center",
                        va="center",
                        color=ink,
                    )
                else:
                    axes.text(column, row, "–", ha="center", va="center")
                if current == here:
                    axes.add_patch(
                        Rectangle(
                            (column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=ink, linewidth=1.2
                        )
                    )
            axes.set_title(name)
            axes.set_xticks(range(len(sizes)), list(sizes), rotation=20, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(stages)), list(stages.values()))
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        for axes in grid[::columns]:
            axes.set_ylabel("after stage")
        figure.colorbar(
            image, ax=grid, label=f"{measure(metric, dimension)}, {split} split", aspect=30, pad=0.02
        )

    first, last = next(iter(sizes)), max(stages)
    ends = {name: means[name, last, first] for name in present if (name, last, first) in means}
    seeds = len({row.seed for row in shown})
    told = ", ".join(f"{corpus} n = {n:,}" for corpus, n in sizes.items())
    return Drawn(
        figure,
        f"{measure(metric, dimension)} by stage and corpus",
        f"One grid of numbers per variant, stages down and corpora across: {measure(metric, dimension)} on the "
        f"{split} split. After {stages[last]} on {first}, {extremes(ends)}.",
        f"{measure(metric, dimension)} on the {split} split, mean of {counted(seeds, 'seed')} ({told}). A frame marks "
        "the corpus of the stage; numbers in brackets are of corpora that no stage has trained on yet.",
    )
