"""Summaries -> tables, as they are printed, put on the page and written to files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ser_memory.common.errors import listing
from ser_memory.train.report import summary
from ser_memory.train.report.conditions import InCondition
from ser_memory.train.report.formats import ABSENT, Cell, Table, number, title_of
from ser_memory.train.report.published import Beside
from ser_memory.train.report.statistics import SIGNIFICANT, Interval
from ser_memory.train.report.summary import CURRENT, SEEN, Cost, Group, OverFolds, Row, Sampled
from ser_memory.train.report.transcripts import Course, Slope
from ser_memory.train.runs import NO_SAMPLER, Variant

_Measured = TypeVar("_Measured", Row, OverFolds)

_ROLE_MARKS = {SEEN: "s", CURRENT: "c"}  # unseen has none
ROLES = (
    "s: seen, trained on before; c: current, trained on at this stage; without a letter: not trained on yet."
)
STARS = (
    f"*: differs from the baseline with p < {SIGNIFICANT:g}, two-sided paired t-test over the seeds; "
    "**: also after Holm's correction over the table. + higher, - lower."
)


@dataclass(frozen=True)
class Named:
    """A table and the name of its files."""

    name: str
    table: Table


def name_of(variant: Variant, samplers: bool = True) -> str:
    """`experience-replay (random, 1,000)`; a strategy without a memory has its name alone, as has `all`."""
    if variant.sampler == NO_SAMPLER or not samplers:
        return variant.strategy
    return f"{variant.strategy} ({variant.sampler}, {variant.memory_size:,})"


def matrices(name: str, rows: Sequence[Row], what: str, notes: Sequence[str]) -> list[Named]:
    """For each measure and dimension, a table of stages and strategies by corpora."""
    return [
        Named(f"{name}-{dimension}-{metric}", _matrix(part, metric, dimension, what, notes))
        for (metric, dimension), part in _parts(rows).items()
    ]


def _matrix(rows: Sequence[Row], metric: str, dimension: str, what: str, notes: Sequence[str]) -> Table:
    sizes = {row.corpus: row.n for row in rows}
    lines: dict[tuple[str, int, str, Variant], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.label, row.stage, row.stage_name, row.variant), {})[row.corpus] = row
    fewest, seeds = min(row.seeds for row in rows), max(row.seeds for row in rows)
    made = [
        (label, (Cell(stage_name), Cell(name_of(variant)), *(_figure(found.get(corpus)) for corpus in sizes)))
        for (label, _, stage_name, variant), found in lines.items()
    ]
    many = f"{seeds}" if fewest == seeds else f"{fewest} to {seeds}"
    spread = f"mean ± standard deviation over {many} seeds" if seeds > 1 else "one seed"
    title = title_of(metric, dimension, rows[0].split, sizes, f"{what}, {spread}" if what else spread)
    return _by_run(title, ("stage", "strategy", *sizes), made, notes, left=2)


def _by_run(
    title: str,
    headings: Sequence[str],
    lines: Sequence[tuple[str, tuple[Cell, ...]]],
    notes: Sequence[str] = (),
    *,
    left: int,
) -> Table:
    """A table of lines, each with the label of its run: the first column has the labels if there are several runs."""
    labelled = any(label for label, _ in lines)
    rows = tuple((Cell(label), *cells) if labelled else cells for label, cells in lines)
    return Table(title, (*(["run"] if labelled else []), *headings), rows, tuple(notes), left + labelled)


def _figure(row: Row | None) -> Cell:
    if row is None:
        return Cell(ABSENT)
    role = _ROLE_MARKS.get(row.role, "")
    return number(row.mean, row.deviation, marks=f"{role}{significance(row)}")


def significance(row: Row) -> str:
    """`*+`, `**-` or nothing."""
    if row.test is None or row.test.p is None or row.test.p >= SIGNIFICANT:
        return ""
    sign = "+" if row.test.difference > 0 else "-"
    return f"{'**' if row.holm is not None and row.holm < SIGNIFICANT else '*'}{sign}"


def over_folds(rows: Sequence[OverFolds], split: str, notes: Sequence[str]) -> list[Named]:
    """For each measure and dimension, mean and deviation over folds by stage, strategy and corpus."""
    made = []
    for (metric, dimension), part in _parts(rows).items():
        lines = [
            (
                row.label,
                (*_place(row), number(row.mean, row.deviation), _whole(row.folds)),
            )
            for row in part
        ]
        headings = ("stage", "strategy", "corpus", "mean ± deviation", "folds")
        title = f"{metric.upper()} of {dimension}, {split} split: mean ± standard deviation over the folds"
        table = _by_run(title, headings, lines, notes, left=3)
        made.append(Named(f"folds-{dimension}-{metric}", table))
    return made


def tests(name: str, rows: Sequence[Row], what: str, notes: Sequence[str]) -> list[Named]:
    """For each measure and dimension, every test of a table in full."""
    tested = [row for row in rows if row.test is not None]
    made = []
    for (metric, dimension), part in _parts(tested).items():
        sizes = {row.corpus: row.n for row in part}
        headings = (
            "stage", "strategy", "corpus", "difference", "95% from", "95% to", "p", "Holm p", "effect size d_z", "seeds",
        )  # fmt: skip
        lines = [(row.label, _test(row)) for row in part]
        title = title_of(metric, dimension, part[0].split, sizes, f"{what}, paired over the seeds")
        table = _by_run(title, headings, lines, notes, left=3)
        made.append(Named(f"{name}-{dimension}-{metric}-tests", table))
    return made


def _place(row: Row | OverFolds) -> tuple[Cell, ...]:
    return Cell(row.stage_name), Cell(name_of(row.variant)), Cell(row.corpus)


def _test(row: Row) -> tuple[Cell, ...]:
    test = row.test
    assert test is not None  # chosen by the caller
    return (
        *_place(row),
        number(test.difference),
        number(test.low),
        number(test.high),
        p_cell(test.p),
        p_cell(row.holm),
        number(test.effect, digits=2),
        _whole(test.n),
    )


def p_cell(p: float | None) -> Cell:
    """A p value; below 0.001 it is written so."""
    if p is None:
        return Cell(ABSENT)
    emphasis = "strong" if p < SIGNIFICANT else ""
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p, emphasis)  # type: ignore[arg-type]  # noqa: PLR2004


def sampled(corpus: str, split: str, stage_name: str, rows: Sequence[Sampled]) -> list[Named]:
    """For each measure and dimension, intervals over utterances and over speakers, side by side.

    Differences from fine-tuning are there if it is among the rows with others.
    """
    made = []
    parts: dict[tuple[str, str], list[Sampled]] = {}
    for row in rows:
        parts.setdefault((row.metric, row.dimension), []).append(row)
    for (metric, dimension), part in parts.items():
        compared = any(row.utterances_difference for row in part)
        notes = [
            summary.SAMPLING_NOISE,
            *dict.fromkeys(row.speakers.note for row in part if row.speakers.note),
        ]
        ends = ("95% over utterances", "95% over speakers")
        headings = (
            "strategy", metric.upper(), *ends,
            *((f"difference from {name_of(summary.FINETUNE)}", *ends) if compared else ()),
            "models",
        )  # fmt: skip
        lines = tuple(
            (
                Cell(name_of(row.variant)),
                number(row.utterances.value),
                _ends(row.utterances),
                _ends(row.speakers),
                *(_differences(row) if compared else ()),
                _whole(row.seeds),
            )
            for row in part
        )
        title = title_of(
            metric, dimension, split, {corpus: part[0].n}, f"after {stage_name}, bootstrap intervals"
        )
        made.append(
            Named(f"intervals-{corpus}-{dimension}-{metric}", Table(title, headings, lines, tuple(notes)))
        )
    return made


def _differences(row: Sampled) -> tuple[Cell, ...]:
    value = row.utterances_difference.value if row.utterances_difference else None
    return number(value), _ends(row.utterances_difference), _ends(row.speakers_difference)


def _ends(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(ABSENT)
    if interval.low is None or interval.high is None:
        return Cell(interval.note)  # such as too few speakers
    return Cell(f"{interval.low:.3f} to {interval.high:.3f}", interval.low)


def costs(rows: Sequence[Cost]) -> Table:
    """Seconds of training and bytes kept, by strategy and stage."""
    lines = [
        (
            row.label,
            (
                Cell(row.stage_name), Cell(name_of(row.variant)), number(row.seconds, row.deviation, digits=1),
                *map(_whole, (row.memory_bytes, row.parameter_bytes, row.other_bytes, row.kept_bytes, row.seeds)),
            ),
        )
        for row in rows
    ]  # fmt: skip
    headings = (
        "stage", "strategy", "seconds", "bytes of memory", "of parameters", "of other things", "kept in all", "seeds",
    )  # fmt: skip
    return _by_run("What training takes and keeps", headings, lines, (summary.COSTS,), left=2)


def groups(
    kind: str, corpus: str, split: str, stage_name: str, found: Mapping[Variant, Sequence[Group]]
) -> Named:
    """Figures of every speaker or gender under every variant; groups too small for a CCC are counted in a note.

    There is one n for all dimensions, unless some utterances have no rating of one: then each has its own.
    """
    dimensions = list(dict.fromkeys(row.dimension for rows in found.values() for row in rows))
    lines = []
    left_out: dict[str, dict[str, None]] = {}
    by_group: dict[tuple[Variant, str], dict[str, Group]] = {}
    for variant, rows in found.items():
        for row in rows:
            by_group.setdefault((variant, row.name), {})[row.dimension] = row
    same = all(
        len(of) == len(dimensions) and len({row.n for row in of.values()}) == 1 for of in by_group.values()
    )
    for (variant, name), of in by_group.items():
        first = next(iter(of.values()))
        if all(row.ccc is None for row in of.values()):
            left_out.setdefault(first.note, {})[name] = None
            continue
        figures = [cell for dimension in dimensions for cell in _group(of.get(dimension), with_n=not same)]
        lines.append((Cell(name), Cell(name_of(variant)), *([_whole(first.n)] if same else []), *figures))
    shown = ("CCC", "UAR", "mean error") if same else ("n", "CCC", "UAR", "mean error")
    headings = (
        kind, "strategy", *(["n"] if same else []),
        *(f"{what} of {dimension}" for dimension in dimensions for what in shown),
    )  # fmt: skip
    title = f"{corpus}, {split} split, after {stage_name}, by {kind}: means over the seeds"
    notes = [
        f"Left out, {why}: {len(names)} ({kind} {listing(names, most=3)})." for why, names in left_out.items()
    ]
    notes.append("Mean error: prediction - truth; above 0, predictions are too high.")
    return Named(f"{kind}-{corpus}", Table(title, headings, tuple(lines), tuple(notes), left=2))


def _group(row: Group | None, with_n: bool) -> list[Cell]:
    size = [_whole(row.n if row else 0)] if with_n else []
    return [*size, *(number(value) for value in ((row.ccc, row.uar, row.error) if row else (None,) * 3))]


def _whole(n: int) -> Cell:
    return Cell(f"{n:,}", float(n))


def transcripts(rows: Sequence[tuple[Course, Slope | None]], split: str, notes: Sequence[str]) -> Table:
    """Figures by word error rate, with the slope of each strategy."""
    kinds = list(dict.fromkeys(kind for course, _ in rows for kind in course.kinds))
    lines = tuple(
        (
            Cell(course.corpus),
            Cell(name_of(course.variant)),
            Cell(course.dimension),
            _whole(course.n),
            *(_at_rate(course, kind) for kind in kinds),
            number(slope.value if slope else None),
            number(slope.low if slope else None),
            number(slope.high if slope else None),
            _whole(len(course.by_seed)),
        )
        for course, slope in rows
    )
    headings = ("corpus", "strategy", "dimension", "n", *kinds, "slope", "95% from", "95% to", "seeds")
    title = f"CCC after the last stage, {split} split, by transcripts (WER: word error rate)"
    return Table(title, headings, lines, tuple(notes), left=3)


def _at_rate(course: Course, kind: str) -> Cell:
    if kind not in course.kinds:
        return Cell(ABSENT)
    place = course.kinds.index(kind)
    return Cell(f"{course.means[place]:.3f} (WER {course.rates[place]:.2f})", course.means[place])


def conditions(rows: Sequence[InCondition], split: str, notes: Sequence[str]) -> list[Named]:
    """For each dimension, figures in other acoustic conditions beside those without."""
    made = []
    for dimension in dict.fromkeys(row.dimension for row in rows):
        part = [row for row in rows if row.dimension == dimension]
        lines = [
            (
                row.label,
                (
                    Cell(row.corpus), Cell(name_of(row.variant)), Cell(row.condition), _whole(row.n),
                    *(number(*_over_seeds(values)) for values in (row.clean, row.here, row.drops)),
                    _whole(len(row.here)),
                ),
            )
            for row in part
        ]  # fmt: skip
        headings = ("corpus", "strategy", "condition", "n", "clean", "in the condition", "drop", "seeds")
        title = (
            f"CCC of {dimension} after the last stage, {split} split, in other acoustic conditions: mean ± standard "
            "deviation over the seeds"
        )
        table = _by_run(title, headings, lines, notes, left=3)
        made.append(Named(f"conditions-{dimension}", table))
    return made


def _over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def published(rows: Sequence[Beside]) -> Table:
    """Published figures beside ours."""
    lines = [
        (
            row.label,
            (
                Cell(row.published.stage_name),
                Cell(name_of(row.variant) if row.variant else row.published.strategy),
                Cell(row.published.corpus),
                Cell(f"{row.published.metric.upper()} of {row.dimension or 'a dimension that is not given'}"),
                Cell(row.split),
                number(row.published.value), number(row.ours), number(row.difference), _whole(row.n),
                Cell(row.published.note),
            ),
        )
        for row in rows
    ]  # fmt: skip
    headings = (
        "stage",
        "strategy",
        "corpus",
        "measure",
        "split",
        "published",
        "ours",
        "difference",
        "n",
        "note",
    )
    return _by_run("Published figures beside ours", headings, lines, left=5)


def file_name(text: str) -> str:
    """Letters, digits and dashes."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in text.lower()).split())


def _parts(rows: Iterable[_Measured]) -> dict[tuple[str, str], list[_Measured]]:
    """By metric and dimension, CCC first."""
    found: dict[tuple[str, str], list[_Measured]] = {}
    for row in rows:
        found.setdefault((row.metric, row.dimension), []).append(row)
    return dict(sorted(found.items(), key=lambda item: item[0][0]))
