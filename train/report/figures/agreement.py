"""Predicted against true values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.ticker import FuncFormatter, LogLocator

from ser_memory.common.metrics import ccc
from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    counted,
    extremes,
    in_style,
    label_below,
    mean_and_spread,
    panels,
    sheet,
)

_COLUMNS = 3
_CELLS = 24  # per side
# Without its palest part, so that a cell with one utterance can be told from an empty one.
_COLOURS = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.25, 1.0, 256)))


@dataclass(frozen=True)
class Panel:
    """What one panel shows: the (N,) truth and the (R, N) predictions of R runs, both in [-1, 1]."""

    name: str
    truth: npt.NDArray[np.floating]
    predictions: npt.NDArray[np.floating]


@in_style
def predicted_against_true(shown: Sequence[Panel], dimension: str, where: str) -> Drawn:
    """How often each pair of true and predicted value occurs, over all runs of a panel, with the line of equality.

    Utterances without a truth, and runs without a prediction for an utterance, do not count. The CCC is that of each
    run, as mean and standard deviation. `where` names corpus, split and stage. Raises ValueError if there is no
    panel, or one has nothing to show.
    """
    if not shown:
        raise ValueError("there is no panel to draw")
    found = [(panel, _pairs(panel)) for panel in shown]
    limit = max(1.0, *(float(np.abs(pair).max()) for _, pairs in found for pair in pairs))
    edges = np.linspace(-limit, limit, _CELLS + 1)
    counts = [_histogram(pairs, edges) for _, pairs in found]
    fewest = 1.0 / max(len(pairs) for _, pairs in found)
    scale = LogNorm(fewest, max(*(float(count.max()) for count in counts), 10 * fewest))

    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    figure = sheet(WIDE, 10 + rows * 54)
    scores = {}
    grid = panels(figure, len(shown), columns, sharex=True, sharey=True)
    for axes, (panel, pairs), count in zip(grid, found, counts, strict=True):
        image = axes.imshow(
            np.ma.masked_equal(count.T, 0),
            cmap=_COLOURS,
            norm=scale,
            origin="lower",
            extent=(-limit, limit, -limit, limit),
            interpolation="none",
        )
        axes.plot([-limit, limit], [-limit, limit], color="0.3", linewidth=0.8, linestyle="--")
        mean, spread = mean_and_spread([ccc(*pair) for pair in pairs])
        scores[panel.name] = mean
        about = f" ± {spread:.2f}" if len(pairs) > 1 else ""
        axes.set_title(f"{panel.name}\nCCC {mean:.2f}{about}, n = {_utterances(pairs)}")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
    label_below(grid, columns, f"true {dimension}")
    for axes in grid[::columns]:
        axes.set_ylabel(f"predicted {dimension}")
    bar = figure.colorbar(image, ax=grid, label="utterances per cell and run", aspect=30, pad=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    bar.ax.minorticks_off()

    runs = counted(max(len(pairs) for _, pairs in found), "run")
    return Drawn(
        figure,
        f"Predicted and true {dimension}: {where}",
        f"Density of predicted against true {dimension} on {where}, one panel per variant. "
        f"CCC: {extremes(scores)}.",
        f"Predicted against true {dimension} on {where}, over {runs}, both from -1 to 1. Darker cells have more "
        "utterances; on the dashed line the prediction is right. CCC: mean ± standard deviation of the runs.",
    )


def _pairs(panel: Panel) -> list[npt.NDArray[np.float64]]:
    """(2, M) true and predicted values of each run that has some."""
    pairs = []
    for predictions in panel.predictions:
        both = np.stack([panel.truth, predictions]).astype(np.float64)
        both = both[:, np.isfinite(both).all(axis=0)]
        if both.shape[1]:
            pairs.append(both)
    if not pairs:
        raise ValueError(f"panel {panel.name!r} has no utterance with a truth and a prediction")
    return pairs


def _histogram(
    pairs: Sequence[npt.NDArray[np.float64]], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(cells, cells) utterances per run by true and predicted value."""
    true, predicted = np.concatenate(pairs, axis=1)
    counts, _, _ = np.histogram2d(true, predicted, bins=[edges, edges])
    return np.asarray(counts / len(pairs), dtype=np.float64)


def _utterances(pairs: Sequence[npt.NDArray[np.float64]]) -> str:
    """The number of utterances of a run, or the range over the runs: folds need not be equal."""
    sizes = sorted({pair.shape[1] for pair in pairs})
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
