"""What happened within the stages: learning curves, and how often GEM bent the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ser_memory.common.errors import listing
from ser_memory.train.report.data import EpochRow
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
    panels,
    sheet,
)
from ser_memory.train.report.variants import SHARED, owner_of, variant_of
from ser_memory.train.runs import Variant, shares_first_stage

_ALL = SHARED.strategy
_Curves = dict[int, dict[str, list[dict[int, float]]]]  # stage -> name -> for each run: epoch -> value


@in_style
def learning_curves(epochs: Sequence[EpochRow], names: Mapping[Variant, str]) -> Drawn:
    """Validation CCC after each epoch, one panel per stage. `names` gives each variant's name.

    A strategy that takes no steps has no course: its mean is a horizontal line. Raises ValueError if there is no epoch.
    """
    curves = _curves(epochs, names, lambda row: row.validation_ccc)
    drawn = _draw(epochs, names, curves, "CCC on the validation split\n(mean of the dimensions)")
    last = max(curves)
    best = {name: _mean([max(run.values()) for run in runs]) for name, runs in curves[last].items()}
    return Drawn(
        drawn[0],
        "Learning curves",
        f"Validation CCC by epoch, one panel per stage. In stage {drawn[1][last]}, the best epoch of "
        f"{extremes(best)}, on average over the runs.",
        f"CCC on the validation split of the stage's own corpus after each epoch, of {counted(_seeds(epochs), 'seed')}. "
        "Thin lines are single runs. The thick line is their mean and ends where the first of them stops."
        + (f" {listing(level)} takes no steps: a horizontal line." if (level := _levels(names)) else ""),
    )


@in_style
def bent_steps(epochs: Sequence[EpochRow], names: Mapping[Variant, str]) -> Drawn:
    """Share of each epoch's steps whose gradient GEM changed, one panel per stage that has some.

    Raises ValueError if no row has a share.
    """
    bent = [row for row in epochs if row.bent_share is not None]
    curves = _curves(bent, names, lambda row: 100 * (row.bent_share or 0.0))
    figure, stages = _draw(bent, names, curves, "steps with a changed gradient (%)", low=0, high=100)
    last = max(curves)
    end = {name: _mean([run[max(run)] / 100 for run in runs]) for name, runs in curves[last].items()}
    return Drawn(
        figure,
        "How often the gradient was changed",
        f"Share of training steps whose gradient was changed for the memory, by epoch. In the last epoch of stage "
        f"{stages[last]}, {extremes(end)} of the steps, on average over the runs.",
        f"Share of the steps of an epoch in which the gradient harmed a memory and was changed, of "
        f"{counted(_seeds(bent), 'seed')}. Thin lines are single runs. The thick line is their mean and ends where "
        "the first of them stops.",
    )


def _curves(
    epochs: Sequence[EpochRow], names: Mapping[Variant, str], value: Callable[[EpochRow], float]
) -> _Curves:
    """The runs of a first stage that variants share are there once."""
    if not epochs:
        raise ValueError("there is no epoch to draw")
    found: dict[tuple[int, str, int, str], dict[int, float]] = {}
    for row in epochs:
        name = _ALL if owner_of(row) == SHARED else names[variant_of(row)]
        found.setdefault((row.stage, name, row.seed, row.fold), {})[row.epoch] = value(row)
    curves: _Curves = {}
    for (stage, name, _, _), run in sorted(found.items(), key=lambda item: item[0][0]):
        curves.setdefault(stage, {}).setdefault(name, []).append(run)
    return curves


def _draw(
    epochs: Sequence[EpochRow],
    names: Mapping[Variant, str],
    curves: _Curves,
    label: str,
    low: float | None = None,
    high: float | None = None,
) -> tuple[Figure, dict[int, str]]:
    stages = {row.stage: row.stage_name for row in epochs}
    drawn_as = looks(names.values())
    shown = [name for name in drawn_as if any(name in runs for runs in curves.values())]
    drawn_as[_ALL] = Look("0.4", "o", "-", filled=False)  # none of a variant
    levels = _levels(names)
    handles = {}
    figure = sheet(WIDE if len(curves) > 1 else WIDE * 0.6, 60)
    grid = panels(figure, len(curves), min(len(curves), 3), sharey=True)
    for axes, (stage, of_stage) in zip(grid, curves.items(), strict=True):
        for index, (name, runs) in enumerate(of_stage.items()):
            look = drawn_as[name]
            if name in levels:
                level = _mean([run[max(run)] for run in runs])
                handles[name] = axes.axhline(level, color=look.colour, linestyle=look.line)
                continue
            for run in runs:
                axes.plot(list(run), list(run.values()), color=look.colour, linewidth=0.4, alpha=0.35)
            together = [epoch for epoch in runs[0] if all(epoch in run for run in runs)]
            spacing = max(1, len(together) // 4)
            means = [_mean([run[epoch] for run in runs]) for epoch in together]
            (handles[name],) = axes.plot(
                together,
                means,
                color=look.colour,
                linestyle=look.line,
                marker=look.marker,
                markerfacecolor=look.face,
                markevery=(index % spacing, spacing),  # not all at the same epochs
            )
        told = "" if _ALL not in of_stage else " (shared by all)" if len(of_stage) == 1 else " (grey: shared)"
        axes.set_title(f"stage {stages[stage]}{told}")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_ylim(low, high)
        axes.grid(axis="y")
    grid[0].set_ylabel(label)
    label_below(grid, min(len(curves), 3), "epoch")
    if shown:
        legend_below(figure, [handles[name] for name in shown], shown)
    return figure, stages


def _levels(names: Mapping[Variant, str]) -> list[str]:
    """The names of variants that take no steps, and so have one figure in place of a course."""
    return [name for variant, name in names.items() if not shares_first_stage(variant.strategy)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _seeds(epochs: Sequence[EpochRow]) -> int:
    return len({row.seed for row in epochs})
