"""What other acoustic conditions cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ser_memory.common.protocols import in_natural_order
from ser_memory.train.report.conditions import InCondition
from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    counted,
    extremes,
    in_style,
    legend_below,
    looks,
    mean_and_spread,
    panels,
    sheet,
)
from ser_memory.train.runs import Variant

_COLUMNS = 3
_BETWEEN = 0.6  # of the distance of two conditions: what the points of all variants fill
CLEAN = "clean"


@in_style
def across_conditions(found: Sequence[InCondition], names: Mapping[Variant, str], measured: str) -> Drawn:
    """A measure by acoustic condition, one panel per corpus: means over the seeds, bars of one standard deviation.

    What is found is of one run and dimension; `measured` names measure, dimension and split. Raises ValueError if it is
    empty.
    """
    if not found:
        raise ValueError("there is no other condition")
    corpora = {each.corpus: each.n for each in found}
    conditions = [CLEAN, *in_natural_order({each.condition for each in found})]
    variants = list(dict.fromkeys(each.variant for each in found))
    look_of = looks(names.values())
    columns = min(len(corpora), _COLUMNS)
    figure = sheet(WIDE, 74 * -(-len(corpora) // columns))
    handles = {}
    grid = panels(figure, len(corpora), columns, sharey=True)
    for axes, (corpus, n) in zip(grid, corpora.items(), strict=True):
        for place, variant in enumerate(variants):
            own = [each for each in found if (each.corpus, each.variant) == (corpus, variant)]
            values = {each.condition: each.here for each in own} | ({CLEAN: own[0].clean} if own else {})
            spread = {name: mean_and_spread(values[name]) for name in conditions if name in values}
            shift = _BETWEEN * ((place + 0.5) / len(variants) - 0.5)
            look = look_of[names[variant]]
            handles[names[variant]] = axes.errorbar(
                [conditions.index(name) + shift for name in spread],
                [mean for mean, _ in spread.values()],
                [deviation for _, deviation in spread.values()],
                color=look.colour,
                marker=look.marker,
                linestyle="none",
                markerfacecolor=look.face,
                elinewidth=0.8,
                capsize=1.5,
            )
        axes.set_title(f"{corpus} (n = {n:,})")
        axes.set_xticks(range(len(conditions)), conditions, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(conditions) - 0.5)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    for axes in grid[::columns]:
        axes.set_ylabel(measured)
    legend_below(figure, list(handles.values()), list(handles))
    seeds = max(len(each.here) for each in found)
    drops = {f"{names[each.variant]} on {each.corpus} by {each.condition}": mean_and_spread(each.drops)[0]
             for each in found}  # fmt: skip
    return Drawn(
        figure,
        f"{measured} by acoustic condition",
        f"Points, one panel per corpus: {measured} of the recordings as they are, and in each condition. Of the drops, "
        f"{extremes(drops)}.",
        f"{measured} by acoustic condition of the test recordings: mean of {counted(seeds, 'seed')} and one standard "
        "deviation. The models are the same in all conditions.",
    )
