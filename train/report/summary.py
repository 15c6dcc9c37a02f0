"""Results -> tables as plain data: means, tests, forgetting, transfer, groups and costs. Nothing here prints.

Several runs can be summarised together, each under a label; a run alone may have the label "". Tests compare within one
run only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.manifests import stage_name
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.report.data import CostRow
from ser_memory.train.report.statistics import (
    FEWEST_GROUPS,
    RESAMPLES,
    Interval,
    Paired,
    Resamples,
    ccc_scores,
    holm,
    interval,
    paired,
    resample_speakers,
    resample_utterances,
    uar_scores,
)
from ser_memory.train.report.variants import SHARED, owner_at, owner_of, variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import NO_SAMPLER, POOLED, Variant

TEST = "test"
FINETUNE = Variant("finetune")  # the baseline of strategies
RANDOM = "random"  # the baseline of samplers
SEEN, CURRENT, UNSEEN = "seen", "current", "unseen"
UNTRAINED = {"ccc": 0.0, "uar": 1 / 3}  # the baseline of forward transfer, by measure

SEED_NOISE = (
    "Standard deviations, p values, differences and effect sizes are over seeds. They answer: would this hold if the "
    "models were trained again? Data, splits and test utterances stay the same."
)
SAMPLING_NOISE = (
    "Intervals by the bootstrap are over the test set. They answer: would this hold on other utterances (resampled "
    "utterances), or on other speakers (resampled speakers)? The trained models stay the same. Utterances of one speaker "
    "resemble each other, so intervals over utterances are too short where speakers differ."
)
TESTED = (
    "p: two-sided paired t-test over the seeds that both have, at least three. The effect size is the mean difference "
    "divided by the standard deviation of the differences, with Hedges' correction."
)
CORRECTED = (
    "Holm p: the same p, corrected for all tests of this table in one run. Where it is below 0.05, the chance of any false "
    "claim in the table is at most 5%."
)
ROLES = "At a stage, a corpus is current (trained on now), seen (trained on before) or unseen (not trained on yet)."
FORGETTING = (
    "Forgetting of a corpus: its best figure at any stage before the last, minus its figure after the last stage "
    "(Chaudhry et al. 2018, ECCV). More is worse; below 0, it has improved."
)
BACKWARD = (
    "Backward transfer of a corpus: its figure after the last stage minus its figure when it was learned (Lopez-Paz and "
    "Ranzato 2017, NeurIPS; here per corpus, not their mean). Below 0, it was forgotten."
)
FORWARD = (
    "Forward transfer to a corpus: its figure just before it is trained on, minus that of an untrained model (Lopez-Paz "
    "and Ranzato 2017, NeurIPS; here per corpus). As the untrained model, the CCC is taken as 0, since its predictions "
    "say nothing about the labels, and the UAR as 1/3, the chance level with low, middle and high."
)
FIRST_SHARED = "At the first stage all strategies are the same model: it is trained once for each seed."
FORWARD_SHARED = (
    "Before the second corpus, all strategies have the same model, that of the first stage. So forward transfer to the "
    "second corpus is one figure for all of them."
)
FIRST_OWN = (
    "At the first stage all strategies that train by gradient steps are the same model, which is trained once for each "
    "seed: the tables call it all. {own} has a first stage of its own. At that stage it is compared with all{too}."
)
FORWARD_OWN = (
    "Before the second corpus, all strategies that train by gradient steps have the same model, that of the first stage. "
    "So forward transfer to the second corpus is one figure for all of them, and another for {own}."
)
CONSTANT = "A difference without p, interval and effect size is the same for every seed: a test over seeds is undefined."
COSTS = "Seconds: mean over the seeds. Bytes: what is kept after the stage for later stages, the most of any seed."

_ROUNDING = 1e-12  # of figures that are equal

Runs = Mapping[
    str, Sequence[Result]
]  # label -> rows, one per run, stage, corpus, split, dimension and metric
Seeds = dict[int, float]  # seed -> figure


@dataclass(frozen=True)
class Cell:
    """What a figure is of, in one run and split."""

    variant: Variant  # in the first stage SHARED, or one with a first stage of its own
    stage: int
    corpus: str
    dimension: str
    metric: str


@dataclass(frozen=True)
class Row:
    """One figure, or one quantity made of figures: mean over the seeds, and the test against its baseline."""

    label: str  # of the run
    variant: Variant
    stage: int  # from 1
    stage_name: str
    corpus: str
    role: str  # of the corpus at the stage: seen, current or unseen
    split: str
    dimension: str
    metric: str
    n: int  # utterances
    seeds: int
    mean: float
    deviation: float | None  # standard deviation over the seeds (n - 1); None with one seed
    test: Paired | None  # None for the baseline itself, without one, or with fewer than three seeds
    baseline: Variant | None = None  # that it is compared with; None if the run has none
    holm: float | None = None  # p of the test, corrected over this measure and dimension of the run


Baseline = Callable[[Cell], Variant | None]  # the variant that a figure is tested against; None: nothing


def comparisons(runs: Runs, split: str = TEST) -> list[Row]:
    """Table 2: every strategy at every stage on every corpus, against fine-tuning.

    The first stage of the strategies that train by gradient steps is there once, as SHARED and without a test. A
    strategy with a first stage of its own is tested against it, since it is fine-tuning's too. Rows are ordered by run,
    stage and variant. Raises ValueError if there are two different figures of one seed.
    """
    return [row for run in _open(runs, split) for row in run.table(run.cells, _finetune)]


def samplers(runs: Runs, split: str = TEST) -> list[Row]:
    """Table 3: every sampler against `random`, for the same strategy and memory size; from the second stage on.

    A strategy is there if it has both, with the same memory size. Empty for a run without any.
    """
    rows = []
    for run in _open(runs, split):
        cells = {
            cell: seeds for cell, seeds in run.cells.items() if cell.variant.sampler != NO_SAMPLER
        }  # not the first stage: nothing in it has a sampler
        variants = {cell.variant for cell in cells}
        compared = {
            (each.strategy, each.memory_size)
            for each in variants
            if each.sampler != RANDOM and replace(each, sampler=RANDOM) in variants
        }
        pairs = {
            cell: seeds
            for cell, seeds in cells.items()
            if (cell.variant.strategy, cell.variant.memory_size) in compared
        }
        rows += run.table(pairs, _random)
    return rows


def forgetting(runs: Runs, split: str = TEST) -> list[Row]:
    """FORGETTING of every corpus but the last, by strategy, against fine-tuning; at the last stage."""
    return [row for run in _open(runs, split) for row in run.table(run.changes(_from_best), _finetune)]


def backward_transfer(runs: Runs, split: str = TEST) -> list[Row]:
    """BACKWARD transfer of every corpus but the last, by strategy, against fine-tuning; at the last stage."""
    return [row for run in _open(runs, split) for row in run.table(run.changes(_since_learned), _finetune)]


def forward_transfer(runs: Runs, split: str = TEST) -> list[Row]:
    """FORWARD transfer to every corpus but the first, by strategy, against fine-tuning; at the stage before it.

    Transfer to the second corpus has the variant SHARED and no test: see FORWARD_SHARED. That of a strategy with a first
    stage of its own is tested against it.
    """
    rows = []
    for run in _open(runs, split):
        before = {
            cell: {seed: value - UNTRAINED[cell.metric] for seed, value in seeds.items()}
            for cell, seeds in run.cells.items()
            if run.learned(cell.corpus) == cell.stage + 1
        }
        rows += run.table(before, _finetune)
    return rows


def across(runs: Runs, split: str = TEST) -> list[Row]:
    """Every figure of each further run against the same figure of the first: paired over the seeds that both have.

    Empty for one run. Only figures that both runs have.
    """
    first, *others = _open(runs, split)
    rows = []
    for run in others:
        both = [cell for cell in run.cells if cell in first.cells]
        tested = [run.row(cell, run.cells[cell], paired(run.cells[cell], first.cells[cell])) for cell in both]
        rows += _corrected(tested)
    return rows


def first_stages(runs: Runs) -> tuple[bool, list[str]]:
    """Whether the runs have a shared first stage, and the names of the strategies with one of their own."""
    owners = dict.fromkeys(owner_of(row) for rows in runs.values() for row in rows if row.stage == 1)
    return SHARED in owners, list(dict.fromkeys(each.strategy for each in owners if each != SHARED))


def constant(rows: Iterable[Row]) -> list[tuple[str, Variant]]:
    """The runs' labels and variants whose every figure is the same for all of several seeds."""
    found: dict[tuple[str, Variant], list[float | None]] = {}
    for row in (each for each in rows if each.n > 1):  # the CCC of one utterance is 0 in any case
        found.setdefault((row.label, row.variant), []).append(row.deviation)
    return [
        key
        for key, deviations in found.items()
        if all(deviation is not None and deviation < _ROUNDING for deviation in deviations)
    ]


def role(corpus: str, stage: str) -> str:
    """SEEN, CURRENT or UNSEEN: what a corpus is at a stage of this name, such as P+M."""
    *before, now = stage.split("+")
    own = stage_name([corpus])
    return CURRENT if own == now else SEEN if own in before else UNSEEN


@dataclass(frozen=True)
class _Run:
    """The figures of one run on one split."""

    label: str
    split: str
    cells: dict[Cell, Seeds]  # ordered by stage and variant
    stages: dict[int, str]  # names by number
    sizes: dict[tuple[str, str], int]  # rated utterances by corpus and dimension

    def learned(self, corpus: str) -> int | None:
        """The stage at which a corpus is trained on."""
        return next((number for number, name in self.stages.items() if role(corpus, name) == CURRENT), None)

    def table(self, cells: Mapping[Cell, Seeds], baseline: Baseline) -> list[Row]:
        """A row for each cell, with p values corrected over those of its measure and dimension."""
        rows = []
        for cell, seeds in cells.items():
            other = baseline(cell)
            reference = cells.get(replace(cell, variant=other), {}) if other else {}
            rows.append(self.row(cell, seeds, paired(seeds, reference), other if reference else None))
        return _corrected(rows)

    def changes(self, change: Callable[[Sequence[float], int], float]) -> dict[Cell, Seeds]:
        """A quantity of a corpus's figures after all stages and of the stage it was learned at, by the cells at the end.

        Only of corpora that were learned before the end, and of seeds that finished all stages.
        """
        last = max(self.stages, default=0)
        made: dict[Cell, Seeds] = {}
        for cell, final in self.cells.items():
            learned = self.learned(cell.corpus)
            if cell.stage != last or learned is None or learned == last:
                continue
            course = [self._at(cell, stage) for stage in sorted(self.stages)]
            whole = [seed for seed in final if all(seed in stage for stage in course)]
            if whole:
                made[cell] = {seed: change([stage[seed] for stage in course], learned) for seed in whole}
        return made

    def _at(self, cell: Cell, stage: int) -> Seeds:
        return self.cells.get(replace(cell, variant=owner_at(stage, cell.variant), stage=stage), {})

    def row(self, cell: Cell, seeds: Seeds, test: Paired | None, baseline: Variant | None = None) -> Row:
        """The row of a figure."""
        values = list(seeds.values())
        name = self.stages[cell.stage]
        return Row(
            self.label, cell.variant, cell.stage, name, cell.corpus, role(cell.corpus, name), self.split,
            cell.dimension, cell.metric, self.sizes[cell.corpus, cell.dimension], len(values), float(np.mean(values)),
            _deviation(values), test, baseline,
        )  # fmt: skip


def _open(runs: Runs, split: str) -> list[_Run]:
    return [
        _figures(label, [row for row in rows if row.split == split], split) for label, rows in runs.items()
    ]


def _figures(label: str, rows: Sequence[Result], split: str) -> _Run:
    cells: dict[Cell, Seeds] = {}
    order: dict[Variant, int] = {SHARED: 0}
    for row in rows:
        variant = owner_of(row)
        order.setdefault(variant, len(order))
        cell = Cell(variant, row.stage, row.corpus, row.dimension, row.metric)
        if cells.setdefault(cell, {}).setdefault(row.seed, row.value) != row.value:
            raise ValueError(f"{cell} has two figures of seed {row.seed}, {row.value} and another.")
    ordered = sorted(cells, key=lambda cell: (cell.stage, order[cell.variant]))
    stages = {row.stage: row.stage_name for row in rows}
    sizes = {(row.corpus, row.dimension): row.n for row in rows}
    return _Run(label, split, {cell: cells[cell] for cell in ordered}, stages, sizes)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with Holm's p; a family of tests is one measure of one dimension, which a report shows as one table."""
    families: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        families.setdefault((row.metric, row.dimension), []).append(place)
    made = list(rows)
    for places in families.values():
        tests = [rows[place].test for place in places]
        for place, p in zip(places, holm([test.p if test else None for test in tests]), strict=True):
            made[place] = replace(rows[place], holm=p)
    return made


def _finetune(cell: Cell) -> Variant | None:
    return None if cell.variant in (FINETUNE, SHARED) else owner_at(cell.stage, FINETUNE)


def _random(cell: Cell) -> Variant | None:
    return None if cell.variant.sampler == RANDOM else replace(cell.variant, sampler=RANDOM)


def _from_best(course: Sequence[float], learned: int) -> float:
    return max(course[:-1]) - course[-1]


def _since_learned(course: Sequence[float], learned: int) -> float:
    return course[-1] - course[learned - 1]


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class OverFolds:
    """How a figure differs from fold to fold."""

    label: str  # of the run
    variant: Variant
    stage: int  # from 1
    stage_name: str
    corpus: str
    dimension: str
    metric: str
    folds: int
    mean: float  # over the folds, of the mean over the seeds
    deviation: float | None  # standard deviation over the folds (n - 1)
    n: int  # utterances of the smallest fold


def over_folds(label: str, results: Iterable[Result], split: str = TEST) -> list[OverFolds]:
    """Every figure of corpora with folds, as results.csv has them; empty for a run without folds."""
    rows = [row for row in results if row.split == split]
    pooled = {row.corpus for row in rows if row.fold == POOLED}
    found: dict[tuple[Variant, int, str, str, str, str], dict[str, list[float]]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.corpus in pooled and row.fold != POOLED:
            key = (owner_of(row), row.stage, row.stage_name, row.corpus, row.dimension, row.metric)
            found.setdefault(key, {}).setdefault(row.fold, []).append(row.value)
            place = (row.corpus, row.dimension)
            sizes[place] = min(row.n, sizes.get(place, row.n))
    made = []
    for key, folds in sorted(found.items(), key=lambda item: item[0][1]):
        means = [float(np.mean(values)) for values in folds.values()]
        _, _, _, corpus, dimension, _ = key
        n = sizes[corpus, dimension]
        made.append(OverFolds(label, *key, len(means), float(np.mean(means)), _deviation(means), n))
    return made


@dataclass(frozen=True)
class Sampled:
    """A measure of one variant on one split, and where it would be on other utterances and other speakers."""

    variant: Variant
    dimension: str
    metric: str
    n: int  # utterances with a rating of the dimension
    seeds: int  # whose mean it is
    utterances: Interval
    speakers: Interval
    utterances_difference: Interval | None  # ours - baseline; None for the baseline itself or without one
    speakers_difference: Interval | None


def intervals(
    truth: npt.ArrayLike,
    predictions: Mapping[Variant, npt.ArrayLike],
    speakers: npt.ArrayLike,
    dimensions: Sequence[str],
    baseline: Variant = FINETUNE,
    resamples: int = RESAMPLES,
) -> list[Sampled]:
    """CCC and UAR of every variant on one split, with 95% bootstrap intervals, and the difference from the baseline.

    `truth` is (N, K), a column per dimension with NaN where there is no rating, the predictions of each variant are
    (R, N, K) for its R seeds, and `speakers` are (N,) names. Utterances without a rating of a dimension do not count in
    it; a dimension that nothing is rated in has no rows. All variants are measured on the same resamples. Raises
    ValueError on shapes that differ.
    """
    x, who = np.asarray(truth, dtype=np.float64), np.asarray(speakers)
    draws: dict[bytes, tuple[Resamples, Resamples]] = {}  # by the utterances that are rated
    rows = []
    for column, dimension in enumerate(dimensions):
        rated = np.isfinite(x[:, column])
        if not rated.any():
            continue
        if rated.tobytes() not in draws:
            utterances = resample_utterances(int(rated.sum()), resamples)
            draws[rated.tobytes()] = utterances, resample_speakers(who[rated], resamples)
        drawn = draws[rated.tobytes()]
        for metric, scorer in (("ccc", ccc_scores), ("uar", uar_scores)):
            found = {
                variant: [scorer(x[rated, column], np.asarray(y)[:, rated, column], each) for each in drawn]
                for variant, y in predictions.items()
            }
            for variant, scores in found.items():
                compared = found.get(baseline) if variant != baseline else None
                gaps = (
                    [interval(a - b) for a, b in zip(scores, compared, strict=True)]
                    if compared
                    else [None, None]
                )
                count = len(np.asarray(predictions[variant]))
                ends = map(interval, scores)
                rows.append(Sampled(variant, dimension, metric, int(rated.sum()), count, *ends, *gaps))
    return rows


@dataclass(frozen=True)
class Group:
    """How well the utterances of one speaker or gender are predicted; means over the seeds."""

    name: str
    dimension: str
    n: int  # utterances with a rating of the dimension
    ccc: float | None  # None if there is a note that says why
    uar: float | None  # None for fewer than ten utterances
    error: float  # mean of prediction - truth; above 0, predictions are too high
    note: str = ""


def groups(
    truth: npt.ArrayLike,
    predictions: npt.ArrayLike,
    names: npt.ArrayLike,
    dimensions: Sequence[str],
) -> list[Group]:
    """Figures of every group of utterances, by name, `Unknown` last: of speakers or of genders, as `names` are.

    `truth` is (N, K), a column per dimension with NaN where there is no rating, `predictions` (R, N, K) for R seeds, and
    `names` (N,). Utterances without a rating of a dimension do not count in it; a group without any has no row of it. A
    group of fewer than ten utterances, or of equal labels, has no CCC. Raises ValueError on shapes that differ.
    """
    x, y, who = (
        np.asarray(truth, dtype=np.float64),
        np.asarray(predictions, dtype=np.float64),
        np.asarray(names),
    )
    if y.shape[1:] != x.shape or who.shape != x.shape[:1] or x.shape[1:] != (len(dimensions),):
        raise ValueError(
            f"truth must be (N, {len(dimensions)}), predictions (R, N, {len(dimensions)}) and names (N,), "
            f"not {x.shape}, {y.shape} and {who.shape}."
        )
    ordered = sorted(set(who.tolist()), key=lambda name: (name == UNKNOWN, name))
    return [
        _group(name, dimension, x[rows, column], y[:, rows, column])
        for name in ordered
        for column, dimension in enumerate(dimensions)
        if (rows := (who == name) & np.isfinite(x[:, column])).any()
    ]


def _group(name: str, dimension: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Group:
    few = len(x) < FEWEST_GROUPS
    note = f"fewer than {FEWEST_GROUPS} utterances" if few else "equal labels" if np.ptp(x) == 0 else ""
    return Group(
        name,
        dimension,
        len(x),
        None if note else float(np.mean([ccc(x, each) for each in y])),
        None if few else float(np.mean([uar(x, each) for each in y])),
        float(np.mean(y - x)),
        note,
    )


@dataclass(frozen=True)
class Cost:
    """What a stage of a variant took and kept, over its seeds."""

    label: str
    variant: Variant
    stage: int
    stage_name: str
    seeds: int
    seconds: float  # mean
    deviation: float | None  # of the seconds over the seeds (n - 1); None with one seed
    memory_bytes: int  # the most of any seed, as the next two
    parameter_bytes: int
    other_bytes: int

    @property
    def kept_bytes(self) -> int:
        """All that is kept."""
        return self.memory_bytes + self.parameter_bytes + self.other_bytes


def costs(runs: Mapping[str, Iterable[CostRow]]) -> list[Cost]:
    """COSTS of every variant and stage of each run that was measured, in the order in which they first appear."""
    found: dict[tuple[str, Variant, int, str], list[CostRow]] = {}
    for label, rows in runs.items():
        for row in (row for row in rows if row.kept_bytes is not None and row.seconds is not None):
            found.setdefault((label, variant_of(row), row.stage, row.stage_name), []).append(row)
    return [_cost(*key, rows) for key, rows in found.items()]


def _cost(label: str, variant: Variant, stage: int, stage_name: str, rows: Sequence[CostRow]) -> Cost:
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return Cost(
        label, variant, stage, stage_name, len({row.seed for row in rows}), float(np.mean(seconds)), _deviation(seconds),
        max(row.memory_bytes or 0 for row in rows),
        max(row.parameter_bytes or 0 for row in rows),
        max(row.other_bytes or 0 for row in rows),
    )  # fmt: skip
