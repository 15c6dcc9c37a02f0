"""Runs -> a report: tables on the terminal and in files, figures, and one page with all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ser_memory.common.console import say, table
from ser_memory.common.files import write_whole
from ser_memory.common.manifests import stage_name
from ser_memory.common.reporting import progress
from ser_memory.train.report import tables
from ser_memory.train.report.contents import Chapter, chapters, differences
from ser_memory.train.report.data import RunData
from ser_memory.train.report.formats import comma_separated, latex, markdown
from ser_memory.train.report.published import Published
from ser_memory.train.report.summary import Row
from ser_memory.train.report.tables import Named
from ser_memory.train.report.transcripts import courses

if TYPE_CHECKING:  # they load matplotlib, which waits until the first figure is drawn
    from ser_memory.train.report.figures.base import Drawn, Saved
    from ser_memory.train.report.figures.forest import Difference

PAGE = "index.html"
_PRINTED = (
    "strategies-",
    "estimates-",
    "samplers-",
    "forgetting-",
    "backward-",
    "conditions-",
    "costs",
    "published",
)
_WRITERS = {"md": markdown, "tex": latex, "csv": comma_separated}


@dataclass(frozen=True)
class Report:
    """Where a report is."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    content: tuple[Named, ...]  # the tables themselves


def write_report(
    runs: Mapping[str, RunData], output: Path, split: str, against: Sequence[Published], command: str
) -> Report:
    """Write tables, figures and the page of runs, each under its label, into a folder.

    Each file is written whole. Raises SerError if a file of a run is damaged, OSError if one cannot be written.
    """
    from ser_memory.train.report.page import Section, page, reproduction

    found = chapters(runs, split, against)
    named = [each for chapter in found for each in chapter.all_tables]
    written = [path for each in named for path in _write_table(each, output / "tables")]
    pictures = dict(write_figures(runs, output / "figures", split))

    def section(chapter: Chapter) -> Section:
        shown: list[Saved] = [
            picture for kind in chapter.figures for name, picture in pictures.items() if kind_of(name) == kind
        ]
        common = chapter.common_notes
        return Section(
            chapter.heading,
            [*chapter.paragraphs, *common],
            tables=[each.table.without_notes(common) for each in chapter.tables],
            figures=shown,
            sections=[section(part) for part in chapter.parts],
        )

    # A chapter whose tables and figures a run has no data for is left out.
    sections = [
        made
        for made in map(section, found)
        if made.paragraphs or made.tables or made.figures or made.sections
    ]
    content = page(_title(runs), _lead(split), [*sections, reproduction(list(runs.values()), command)])
    write_whole(output / PAGE, content)
    return Report(
        output / PAGE,
        tuple(written),
        tuple(path for picture in pictures.values() for path in picture.files),
        tuple(named),
    )


def write_figures(
    runs: Mapping[str, RunData], folder: Path, split: str, wanted: Sequence[str] = ()
) -> Iterator[tuple[str, Saved]]:
    """Draw and save the figures one after the other; `wanted` names some kinds, else all are drawn."""
    from ser_memory.train.report.figures.base import save

    with progress("drawing", len(runs), "runs") as advance:
        if not wanted or "transcripts" in wanted:
            for name, drawn in _transcripts(runs, split):
                yield name, save(drawn, folder, name)
        for label, run in runs.items():
            for name, drawn in _drawn(run, label, split, wanted):
                whole = f"{name}{f'-{tables.file_name(label)}' if label else ''}"
                yield whole, save(drawn, folder, whole)
            advance(1)


def kind_of(name: str) -> str:
    """`stages` for stages-activation."""
    return name.partition("-")[0]


def _drawn(run: RunData, label: str, split: str, wanted: Sequence[str]) -> Iterator[tuple[str, Drawn]]:
    from ser_memory.train.report.figures.gallery import figures_of

    forests = _forests(run, label, split) if not wanted or "forest" in wanted else ()
    return itertools.chain(figures_of(run, run.overall, split, wanted), forests)


def _transcripts(runs: Mapping[str, RunData], split: str) -> Iterator[tuple[str, Drawn]]:
    """What runs on different transcripts show, a figure per dimension."""
    from ser_memory.train.report.figures.base import names_of
    from ser_memory.train.report.figures.transcripts import against_word_errors

    found = courses(runs, split)
    names = names_of(row for run in runs.values() for row in run.results)
    for dimension in dict.fromkeys(course.dimension for course in found):
        part = [course for course in found if course.dimension == dimension]
        yield f"transcripts-{dimension}", against_word_errors(part, names, f"CCC of {dimension} ({split})")


def _forests(run: RunData, label: str, split: str) -> Iterator[tuple[str, Drawn]]:
    """The tests against the baseline after the last stage, a figure per dimension."""
    from ser_memory.train.report.figures.forest import forest

    parts: dict[str, list[Row]] = {}
    for row in differences({label: run}, split):
        parts.setdefault(row.dimension, []).append(row)
    for dimension, rows in parts.items():
        measured = f"CCC of {dimension} after {rows[0].stage_name}, {split} split"
        baseline = rows[0].baseline  # that of all of them, since they are of one stage
        assert baseline is not None  # `differences` gives only tested rows
        yield (
            f"forest-{dimension}",
            forest([_difference(row) for row in rows], measured, tables.name_of(baseline)),
        )


def _difference(row: Row) -> Difference:
    from ser_memory.train.report.figures.forest import Difference

    test = row.test
    assert test is not None  # `differences` gives only such rows
    assert test.low is not None
    assert test.high is not None
    label = f"{row.corpus} (n = {row.n:,}): {tables.name_of(row.variant)}"
    return Difference(label, test.difference, test.low, test.high, test.p, row.holm)


def _write_table(named: Named, folder: Path) -> list[Path]:
    paths = []
    for suffix, write in _WRITERS.items():
        paths.append(folder / f"{named.name}.{suffix}")
        write_whole(paths[-1], write(named.table))
    return paths


def _title(runs: Mapping[str, RunData]) -> str:
    planned = [run.config.get("experiment", {}).get("stages", ()) for run in runs.values()]
    stages = max(planned, key=len)  # those of a run that continues others are more
    return (
        f"What is forgotten, and what a memory saves: {stage_name(stages)}"
        if stages
        else "A report of ser-train"
    )


def _lead(split: str) -> list[str]:
    return [
        f"All figures are of the {split} split, on the whole split at once.",
        "CCC: Lin's concordance correlation coefficient, 1 at best; 0 where prediction and truth have nothing in common. "
        "UAR: mean recall of low, middle and high, each a third of the rating scale; 1/3 by chance.",
    ]


def print_tables(named: Sequence[Named]) -> None:
    """The main tables, with the notes that they share once."""
    notes: dict[str, None] = {}
    for each in named:
        if each.name.startswith(_PRINTED) and not each.name.endswith("-tests"):
            rows = [[f"{cell.text} {cell.marks}".rstrip() for cell in row] for row in each.table.rows]
            table(each.table.title, list(each.table.headings), rows, left=each.table.left)
            notes |= dict.fromkeys(each.table.notes)
    for note in notes:
        say(note)
