"""What the quality of transcripts costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ser_memory.train.report.figures.base import (
    WIDE,
    Drawn,
    counted,
    in_style,
    legend_below,
    looks,
    mean_and_spread,
    panels,
    sheet,
)
from ser_memory.train.report.transcripts import Course
from ser_memory.train.runs import Variant

_COLUMNS = 3


@in_style
def against_word_errors(courses: Sequence[Course], names: Mapping[Variant, str], measured: str) -> Drawn:
    """A measure over word error rates, one panel per corpus: means over the seeds, bars of one standard deviation.

    The courses are of one dimension; `measured` names measure, dimension and split. Raises ValueError if there is none.
    """
    if not courses:
        raise ValueError("there are no transcripts to compare")
    corpora = {course.corpus: course.n for course in courses}
    look_of = looks(names.values())
    columns = min(len(corpora), _COLUMNS)
    figure = sheet(WIDE, 66 * -(-len(corpora) // columns))
    handles = {}
    grid = panels(figure, len(corpora), columns, sharey=True)
    for axes, (corpus, n) in zip(grid, corpora.items(), strict=True):
        for course in (course for course in courses if course.corpus == corpus):
            look = look_of[names[course.variant]]
            order = sorted(range(len(course.rates)), key=course.rates.__getitem__)
            figures = [[values[place] for values in course.by_seed.values()] for place in order]
            spread = [mean_and_spread(values) for values in figures]
            handles[names[course.variant]] = axes.errorbar(
                [course.rates[place] for place in order],
                [mean for mean, _ in spread],
                [deviation for _, deviation in spread],
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                markerfacecolor=look.face,
                elinewidth=0.8,
                capsize=1.5,
            )
        axes.set_title(f"{corpus} (n = {n:,})")
        axes.set_xlabel("word error rate")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    for axes in grid[::columns]:
        axes.set_ylabel(measured)
    legend_below(figure, list(handles.values()), list(handles))
    seeds = max(len(course.by_seed) for course in courses)
    told = "; ".join(
        f"{course.corpus}, {names[course.variant]}: slope {found.value:+.2f}"
        for course in courses
        if (found := course.slope) is not None
    )
    return Drawn(
        figure,
        f"{measured} and word error rate",
        f"Lines, one panel per corpus: {measured} over the word error rate of the transcripts. {told}.",
        f"{measured}, models trained and tested on transcripts of each word error rate: mean of {counted(seeds, 'seed')} "
        "and one standard deviation.",
    )
