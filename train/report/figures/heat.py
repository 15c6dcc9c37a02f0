"""Stage by corpus: one small table in colours per variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.image import AxesImage
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
    rows_of,
    sheet,
    trained_in,
)
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant

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
    shown = rows_of(results, dimension, metric, split)
    values: dict[tuple[str, int, str], list[float]] = {}
    for row in shown:
        values.setdefault((names[variant_of(row)], row.stage, row.corpus), []).append(row.value)
    means = {key: float(np.mean(found)) for key, found in values.items()}
    stages = dict(sorted({row.stage: row.stage_name for row in shown}.items()))
    sizes = {row.corpus: row.n for row in shown}
    stage_of = trained_in(results)
    present = list(dict.fromkeys(key[0] for key in values))
    low, high = min(0.0, *means.values()), max(means.values())

    columns = min(len(present), _COLUMNS)
    rows = -(-len(present) // columns)
    figure = sheet(WIDE, 22 + rows * (10 + 8 * len(stages)))
    grid = panels(figure, len(present), columns, sharex=True, sharey=True)
    for axes, name in zip(grid, present, strict=True):
        table = np.array([[means.get((name, stage, corpus), np.nan) for corpus in sizes] for stage in stages])
        image = axes.imshow(table, cmap=_COLOURS, vmin=low, vmax=high, aspect="auto", interpolation="none")
        _write_cells(image, table, list(stages), [stage_of[corpus] for corpus in sizes])
        axes.set_title(name.replace(" (", "\n("))
        axes.set_xticks(range(len(sizes)), list(sizes), rotation=20, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(stages)), list(stages.values()))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    for axes in grid[::columns]:
        axes.set_ylabel("after stage")
    figure.colorbar(image, ax=grid, label=f"{measure(metric, dimension)}, {split} split", aspect=30, pad=0.02)

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


def _write_cells(
    image: AxesImage, table: npt.NDArray[np.float64], stages: Sequence[int], trained: Sequence[int]
) -> None:
    """The number of each cell: rows are after `stages`, columns are corpora that the stages `trained` train on."""
    axes, (low, high) = image.axes, image.get_clim()
    for (row, column), value in np.ndenumerate(table):
        text, ink = "–", "black"
        if np.isfinite(value):
            text = f"({value:.2f})" if trained[column] > stages[row] else f"{value:.2f}"
            ink = ink_on(image.get_cmap(), (value - low) / ((high - low) or 1.0))
        axes.text(column, row, text, ha="center", va="center", color=ink)
        if trained[column] == stages[row]:
            frame = Rectangle(
                (column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=ink, linewidth=1.2
            )
            axes.add_patch(frame)
