"""What a report says, in its order: chapters of words, tables and the names of their figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ser_memory.common.errors import listing
from ser_memory.train.predictions import Predictions, join_folds
from ser_memory.train.report import summary, tables
from ser_memory.train.report.conditions import in_conditions
from ser_memory.train.report.data import RunData
from ser_memory.train.report.published import Published, beside
from ser_memory.train.report.statistics import FEWEST_SEEDS
from ser_memory.train.report.summary import Row, Runs
from ser_memory.train.report.tables import Named
from ser_memory.train.report.transcripts import courses
from ser_memory.train.report.variants import SHARED, variant_of
from ser_memory.train.results import of_few, overall
from ser_memory.train.runs import POOLED, Variant

SLOPES = (
    "Each model was trained and tested on transcripts of its own word error rate. Slope: the change of the figure when the "
    "word error rate rises from 0 to 1, by least squares for each seed; its interval is over the seeds."
)
CONDITIONS = (
    "The same models and utterances; only the test recordings were put into another condition before they were encoded. "
    "Drop: the clean figure minus that in the condition, for each seed."
)
ESTIMATES = (
    "These runs continue from bundles. Figures of the corpora that the bundles have learned are estimates, from the few "
    "test utterances that the bundles hold; n says how many. The first stage is the model as it came."
)
NO_TESTS = "Fewer than three seeds: a test over seeds would say next to nothing, so there is none. Train with --seeds 5."
FOLDS = (
    "Folds: the figure of a corpus with folds is over the pooled test predictions of all folds. That of another corpus is "
    "the mean over the models of all folds."
)


class _OfCorpus(Protocol):
    """A figure over so many utterances of a corpus."""

    @property
    def corpus(self) -> str: ...
    @property
    def n(self) -> int: ...


@dataclass(frozen=True)
class Chapter:
    """A part of a report. `figures` are the beginnings of the names of those that belong here."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Named] = ()
    figures: Sequence[str] = ()
    parts: Sequence[Chapter] = field(default_factory=tuple)

    @property
    def common_notes(self) -> list[str]:
        """Notes that all of several tables have: the page shows them once."""
        several = len(self.tables) > 1
        first = self.tables[0].table.notes if several else ()
        return [note for note in first if all(note in each.table.notes for each in self.tables)]

    @property
    def all_tables(self) -> list[Named]:
        """Those of its parts too."""
        return [*self.tables, *(named for part in self.parts for named in part.all_tables)]


def chapters(
    runs: Mapping[str, RunData], split: str = summary.TEST, against: Sequence[Published] = ()
) -> list[Chapter]:
    """All chapters for which the runs have data, by the label of each run.

    Raises SerError if predictions are damaged, or a published table has names that the runs do not have.
    """
    reduced: Runs = {label: run.overall for label, run in runs.items()}
    last = [(label, values) for label, run in runs.items() for values in _last(run, split)]
    found = [
        Chapter("What was run", [line for label, run in runs.items() for line in _described(label, run)]),
        _results(reduced, split),
        _estimated(runs, split),
        _by_fold(runs, split),
        _samplers(reduced, split),
        _transfer(reduced, split),
        _sampling(last, split),
        _predictions(runs, last, split),
        Chapter("What the memories hold", figures=["memory"]),
        Chapter("Training", figures=["learning", "bent"]),
        _costs(runs),
        _across(runs, split),
        _transcripts(runs, split),
        _conditions(runs, split),
        _published(reduced, against),
    ]
    return [chapter for chapter in found if chapter is not None]


def differences(runs: Mapping[str, RunData], split: str = summary.TEST) -> list[Row]:
    """The tests of all strategies against their baseline after the last stage, of CCC, for forest plots."""
    rows = summary.comparisons({label: run.overall for label, run in runs.items()}, split)
    last = {label: max(row.stage for row in rows if row.label == label) for label in runs}
    return [
        row for row in rows
        if row.metric == "ccc" and row.stage == last[row.label] and row.test is not None and row.test.low is not None
    ]  # fmt: skip


def _described(label: str, run: RunData) -> Iterator[str]:
    seeds = {row.seed for row in run.results}
    folds = {row.fold for row in run.results} - {"", POOLED}
    stages = list(dict.fromkeys(row.stage_name for row in run.results))
    strategies = listing(dict.fromkeys(row.strategy for row in run.results))
    start = f"{label}: " if label else ""
    yield (
        f"{start}{strategies}; stages {listing(stages)}; {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        f"{f', {len(folds)} folds' if folds else ''}."
    )
    if run.begun:
        yield (
            f"{start}This run continues from bundles: the figures of {stages[0]} are those of the models as they came, on "
            "the new corpora."
        )
    if without := run.config.get("without_texts"):
        yield f"{start}No texts, so that models learn and are tested by voice alone: {listing(without)}."
    for dimension, corpora in _unrated(run).items():
        yield f"{start}No ratings of {dimension}, so no figures of it: {listing(corpora)}."
    if folds:
        yield FOLDS
    if not run.complete:
        yield f"{start}This run is not complete. {_unfinished(run)}"
    if run.missing:
        yield f"{start}The folder has no {listing(run.missing)}, so that what is made of them is left out."


def _unrated(run: RunData) -> dict[str, list[str]]:
    """The dimensions that some corpora do not rate, and these corpora."""
    rated = {(row.dimension, row.corpus): None for row in run.results}
    corpora = dict.fromkeys(row.corpus for row in run.results)
    found = {
        dimension: [corpus for corpus in corpora if (dimension, corpus) not in rated]
        for dimension in dict.fromkeys(dimension for dimension, _ in rated)
    }
    return {dimension: lacking for dimension, lacking in found.items() if lacking}


def _unfinished(run: RunData) -> str:
    """What a run that was interrupted has, and what it lacks."""
    experiment = run.config.get("experiment", {})
    planned = [
        (Variant(**variant), seed, stage)
        for variant in experiment.get("variants", ())
        for seed in experiment.get("seeds", ())
        for stage in range(max(run.begun, 1), len(experiment.get("stages", ())) + 1)
    ]
    there = {(variant_of(row), row.seed, row.stage) for row in run.results}
    lacking = [each for each in planned if each not in there]
    names = [f"{tables.name_of(variant)} seed {seed} stage {stage}" for variant, seed, stage in lacking]
    return (
        f"{len(planned) - len(lacking)} of its {len(planned)} stages are there; missing: {listing(names, most=6)}. "
        "The same ser-train command with this folder as --output continues it."
    )


def _results(runs: Runs, split: str) -> Chapter:
    rows = summary.comparisons(runs, split)
    few = max((row.seeds for row in rows), default=0) < FEWEST_SEEDS
    notes = [*_marks(rows, split), *([NO_TESTS] if few else [])]
    shared = _of_first_stages(runs, summary.FIRST_SHARED, summary.FIRST_OWN)
    return Chapter(
        "Every strategy at every stage",
        [summary.ROLES, *shared],
        tables.matrices("strategies", rows, _against(rows), notes),
        ["stages", "heat"],
        _tests(rows, "strategies", f"each strategy {_against(rows)}", ["forest"]),
    )


def _estimated(runs: Mapping[str, RunData], split: str) -> Chapter | None:
    """What is estimated for corpora that are not here."""
    estimated = {label: overall(run.estimates) for label, run in runs.items() if run.estimates}
    if not estimated:
        return None
    rows = summary.comparisons(estimated, split)
    return Chapter(
        "Corpora that are not here",
        [ESTIMATES],
        tables.matrices("estimates", rows, _titled("estimated", rows), _marks(rows, split)),
    )


def _by_fold(runs: Mapping[str, RunData], split: str) -> Chapter | None:
    """The folds of corpora that have some."""
    rows = [row for label, run in runs.items() for row in summary.over_folds(label, run.results, split)]
    if not rows:
        return None
    words = [
        "The figure of each fold is the mean over the seeds. How much folds differ shows how much depends on who is "
        "tested. The tables above have the pooled figure, over the predictions of all folds at once."
    ]
    return Chapter(
        "By fold", words, tables.over_folds(rows, split, _few(rows, f"{split} split of the smallest fold"))
    )


def _against(rows: Sequence[Row]) -> str:
    """What the strategies are compared with, such as `against finetune`; nothing where there is nothing to compare with."""
    baselines = dict.fromkeys(row.baseline for row in rows if row.baseline)
    if list(baselines) == [SHARED]:
        return f"at the first stage against {SHARED.strategy}"
    names = [tables.name_of(each) for each in baselines if each != SHARED]  # which it is too: see FIRST_OWN
    return f"against {listing(names)}" if names else ""


def _titled(what: str, rows: Sequence[Row]) -> str:
    """A quantity, and what the strategies are compared with."""
    return f"{what}, {against}" if (against := _against(rows)) else what


def _few(rows: Iterable[_OfCorpus], split: str) -> list[str]:
    """Corpora whose figures mean very little, because they are over so few utterances of a split."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.corpus] = min(row.n, sizes.get(row.corpus, row.n))
    return of_few({f"{split} of {corpus}": n for corpus, n in sizes.items()})


def _marks(rows: Sequence[Row], split: str) -> list[str]:
    """What the marks in a table mean, of tests, if there are any; and which of its figures mean very little."""
    tested = [tables.STARS, summary.SEED_NOISE] if any(row.test for row in rows) else []
    return [tables.ROLES, *tested, *_constant(rows), *_few(rows, f"{split} split")]


def _constant(rows: Sequence[Row]) -> list[str]:
    """What has the same figures whatever the seed, so that a deviation of 0 is no accident."""
    names = [
        f"{tables.name_of(variant)}{f' of {label}' if label else ''}"
        for label, variant in summary.constant(rows)
    ]
    return [f"The same for every seed, so with a deviation of 0: {listing(names)}."] if names else []


def _of_first_stages(runs: Runs, shared: str, own: str) -> list[str]:
    """What is to be said of the first stages: `own` names the strategies that have one of their own."""
    any_shared, names = summary.first_stages(runs)
    if not any_shared:
        return []
    baseline = any(row.strategy == summary.FINETUNE.strategy for rows in runs.values() for row in rows)
    too = ", which is fine-tuning's model too" if baseline else ""
    return [own.format(own=listing(names), too=too) if names else shared]


def _of_tests(rows: Sequence[Row]) -> list[str]:
    """What the tests of a table are; also of those that are undefined, if there are any."""
    constant = summary.constant(rows)
    undefined = any(row.test and row.test.p is None and (row.label, row.variant) in constant for row in rows)
    return [
        summary.TESTED, summary.CORRECTED, summary.SEED_NOISE, *([summary.CONSTANT] if undefined else [])
    ]  # fmt: skip


def _tests(rows: Sequence[Row], name: str, what: str, figures: Sequence[str] = ()) -> list[Chapter]:
    made = tables.tests(name, rows, what, _of_tests(rows))
    return [Chapter("The tests in full", (), made, figures)] if made else []


def _samplers(runs: Runs, split: str) -> Chapter | None:
    rows = summary.samplers(runs, split)
    if not rows:
        return None
    what = "samplers against random"
    return Chapter(
        "Who is remembered: samplers against random",
        ["The same strategy and memory size; only the choice of the remembered utterances differs."],
        tables.matrices("samplers", rows, what, _marks(rows, split)),
        parts=_tests(rows, "samplers", what),
    )


def _transfer(runs: Runs, split: str) -> Chapter | None:
    parts = []
    for heading, name, rows, words in (
        ("Forgetting", "forgetting", summary.forgetting(runs, split), [summary.FORGETTING]),
        ("Backward transfer", "backward", summary.backward_transfer(runs, split), [summary.BACKWARD]),
        (
            "Forward transfer", "forward", summary.forward_transfer(runs, split),
            [summary.FORWARD, *_of_first_stages(runs, summary.FORWARD_SHARED, summary.FORWARD_OWN)],
        ),
    ):  # fmt: skip
        if rows:
            what = _titled(heading.lower(), rows)
            parts.append(Chapter(heading, words, tables.matrices(name, rows, what, _marks(rows, split))))
    return Chapter("Forgetting and transfer", parts=parts) if parts else None


@dataclass(frozen=True)
class _Values:
    """The predictions of all variants for one split of one corpus after the last stage."""

    predictions: Predictions
    corpus: str
    stage_name: str
    truth: npt.NDArray[np.float32]  # (N, K); NaN without a rating
    by_variant: dict[Variant, npt.NDArray[np.float32]]  # (R, N, K), a row per seed


def _last(run: RunData, split: str) -> Iterator[_Values]:
    """The predictions of a run after its last stage, corpus by corpus."""
    predictions = run.predictions
    if predictions is None:
        return
    last = len(predictions.stages)
    stage = next((row.stage_name for row in run.results if row.stage == last), None)
    for corpus in [name for name, splits in predictions.splits.items() if split in splits]:
        found = by_variant(predictions, corpus, split, last)
        if found and stage is not None:
            yield _Values(predictions, corpus, stage, predictions.truth(corpus, split), found)


def _sampling(last: Sequence[tuple[str, _Values]], split: str) -> Chapter | None:
    made: list[Named] = []
    for label, values in last:
        speakers = np.array(values.predictions.texts(values.corpus, split, "speaker"))
        rows = summary.intervals(values.truth, values.by_variant, speakers, values.predictions.dimensions)
        shown = tables.sampled(values.corpus, split, values.stage_name, rows)
        made += [_labelled(named, label) for named in shown]
    return Chapter("Other utterances, other speakers", (), made) if made else None


def _predictions(
    runs: Mapping[str, RunData], last: Sequence[tuple[str, _Values]], split: str
) -> Chapter | None:
    if not any(run.predictions for run in runs.values()):
        return None
    made: dict[str, list[Named]] = {"speaker": [], "gender": []}
    for label, values in last:
        for kind, named in made.items():
            names = np.array(values.predictions.texts(values.corpus, split, kind))
            found = {
                variant: summary.groups(values.truth, predicted, names, values.predictions.dimensions)
                for variant, predicted in values.by_variant.items()
            }
            shown = tables.groups(kind, values.corpus, split, values.stage_name, found)
            named.append(_labelled(shown, label))
    return Chapter(
        "Predicted and true values",
        figures=["agreement"],
        parts=[
            Chapter("By speaker", (), made["speaker"]),
            Chapter("By gender", (), made["gender"]),
        ],
    )


def by_variant(
    predictions: Predictions, corpus: str, split: str, stage: int
) -> dict[Variant, npt.NDArray[np.float32]]:
    """(R, N, K) predictions of each variant, for the seeds that have all utterances.

    Folds of one seed that share no utterance are joined into one row; other folds are rows of their own.
    """
    after = predictions.after(corpus, split, stage)
    rows: dict[Variant, dict[int, list[npt.NDArray[np.float32]]]] = {}
    for run, values in zip(predictions.runs, after, strict=True):
        rows.setdefault(variant_of(run), {}).setdefault(run.seed, []).append(values)
    found = {}
    for variant, seeds in rows.items():
        joined = (row for folds in seeds.values() for row in join_folds(np.stack(folds)))
        whole = [row for row in joined if np.isfinite(row).all()]
        if whole:
            found[variant] = np.stack(whole)
    return found


def _costs(runs: Mapping[str, RunData]) -> Chapter | None:
    rows = summary.costs({label: run.costs for label, run in runs.items()})
    if not rows:
        return None
    return Chapter("Cost", (), [Named("costs", tables.costs(rows))], ["cost"])


def _across(runs: Mapping[str, RunData], split: str) -> Chapter | None:
    """Several runs: each against the first, but those that continue another one."""
    first = next(iter(runs))
    alike = {label: run.overall for label, run in runs.items() if run.begun == runs[first].begun}
    rows = summary.across(alike, split)
    if not rows:
        return None
    what = f"each run against {first}"
    words = ["The same strategy, stage and seeds in both runs; only the options differ that name the runs."]
    return Chapter("Runs compared", words, tables.tests("runs", rows, what, _of_tests(rows)))


def _transcripts(runs: Mapping[str, RunData], split: str) -> Chapter | None:
    found = courses(runs, split)
    if not found:
        return None
    notes = _few(found, f"{split} split")
    table = tables.transcripts([(course, course.slope) for course in found], split, notes)
    return Chapter("What transcripts are worth", [SLOPES], [Named("transcripts", table)], ["transcripts"])


def _conditions(runs: Mapping[str, RunData], split: str) -> Chapter | None:
    found = in_conditions(runs, split)
    if not found:
        return None
    made = tables.conditions(found, split, _few(found, f"{split} split"))
    return Chapter("In other acoustic conditions", [CONDITIONS], made, ["conditions"])


def _published(runs: Runs, against: Sequence[Published]) -> Chapter | None:
    if not against:
        return None
    words = ["Other data, features and seeds: such figures show the order of magnitude, not a difference."]
    return Chapter("Published figures", words, [Named("published", tables.published(beside(against, runs)))])


def _labelled(named: Named, label: str) -> Named:
    return Named(f"{tables.file_name(label)}-{named.name}", named.table) if label else named
