"""What each memory holds over the plane of activation and valence."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from ser_memory.common.labels import N_BINS
from ser_memory.train.report.figures.base import WIDE, Drawn, in_style, ink_on, sheet

_COLOURS = "cividis"
_FEW = 5  # with more columns, a long name takes two lines
_BINS = ("low", "mid", "high")

Cells = Mapping[str, npt.NDArray[np.floating]]  # corpus -> (3, 3) utterances by activation and valence bin


@in_style
def memory_cells(held: Mapping[str, Cells], beside: Mapping[str, Cells] | None = None) -> Drawn:
    """Share of each cell, low, middle and high, in percent: a row per corpus and a column per memory.

    `held` maps the name of a memory to its mean counts over the seeds, `beside` that of a part of the corpus, such
    as `validation split`, to its counts. Raises ValueError if there is no memory.
    """
    if not held:
        raise ValueError("there is no memory to draw")
    columns = {**(beside or {}), **held}
    corpora = list(dict.fromkeys(corpus for cells in held.values() for corpus in cells))
    shares = {
        (name, corpus): 100 * np.asarray(cells[corpus]) / max(float(np.sum(cells[corpus])), 1.0)
        for name, cells in columns.items()
        for corpus in corpora
        if corpus in cells
    }
    high = max(float(share.max()) for share in shares.values())
    colours = mpl.colormaps[_COLOURS]

    cell = min(26.0, (WIDE - 45) / len(columns))  # mm, of three by three cells with their labels
    figure = sheet(45 + cell * len(columns), 22 + (cell + 5) * len(corpora))
    grid = figure.subplots(len(corpora), len(columns), squeeze=False, sharex=True, sharey=True)
    for row, corpus in enumerate(corpora):
        for column, name in enumerate(columns):
            axes = grid[row][column]
            axes.set_xticks(range(N_BINS), _BINS, rotation=90)
            axes.set_yticks(range(N_BINS), _BINS)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            if (name, corpus) not in shares:
                axes.text(1, 1, "none", ha="center", va="center")
                continue
            share = shares[name, corpus]
            image = axes.imshow(share, cmap=colours, vmin=0, vmax=high, origin="lower", interpolation="none")
            for (activation, valence), value in np.ndenumerate(share):
                ink = ink_on(colours, float(value) / (high or 1.0))
                axes.text(valence, activation, f"{value:.0f}", ha="center", va="center", color=ink)
            total = float(np.sum(columns[name][corpus]))
            heading = name.replace("-", "-\n") if len(columns) > _FEW else name
            axes.set_title(f"{heading}\nn = {total:,.0f}" if row == 0 else f"n = {total:,.0f}")
        grid[row][0].set_ylabel(f"{corpus}\nactivation")
    figure.colorbar(image, ax=grid, label="share of cell (%)", aspect=30, pad=0.02)
    figure.supxlabel("valence", fontsize="medium")

    first = corpora[0]
    spread = {name: float(np.ptp(shares[name, first])) for name in held if (name, first) in shares}
    even, uneven = min(spread, key=lambda name: spread[name]), max(spread, key=lambda name: spread[name])
    told = (
        f"Of {first}, the memory {even} is spread most evenly: its cells differ by up to {spread[even]:.0f} points. "
        + (f"{uneven} is most uneven, with {spread[uneven]:.0f} points." if uneven != even else "")
    )
    return Drawn(
        figure,
        "What the memories hold",
        f"Grids of three by three cells of activation and valence, one per corpus and memory. {told.strip()}",
        "Share of utterances in each cell of activation and valence, in percent, mean over the seeds; each bin is a "
        "third of the rating scale.",
    )
