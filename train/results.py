"""What training gives: figures, what the memories hold, and the tables results.csv and memory.csv. Free of torch."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.errors import SerError, listing
from ser_memory.common.files import write_whole
from ser_memory.common.manifests import stage_name
from ser_memory.train.kept import KeptBytes
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import NO_SAMPLER, POOLED, Run

RESULTS, MEMORY, COSTS, EPOCHS = "results.csv", "memory.csv", "costs.csv", "epochs.csv"
CONDITIONS = "conditions.csv"
ESTIMATES = "estimates.csv"  # of corpora that are no longer there, with the columns of results.csv
BUNDLES = "bundles"  # the folder of its bundles, in that of a run
STUDY = "study.json"  # lists the runs of a study, in the folder that holds theirs

# Utterances. Over fewer, a CCC means very little: even over ten, where the true one is 0.5, 95% of the values are between
# -0.19 and 0.86 (Fisher's z: tanh(atanh(0.5) ± 1.96 / sqrt(10 - 3))), and over five between -0.68 and 0.96.
FEW = 10

_STAGE = ("strategy", "sampler", "memory_size", "seed", "stage", "stage_name")


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    corpus: str
    split: str
    dimension: str  # activation, valence or dominance
    metric: str  # ccc or uar
    value: float
    n: int  # utterances
    fold: str = ""  # "1", "2", ..., POOLED, or "" without folds


@dataclass(frozen=True)
class Held:
    """How many utterances of one kind a memory holds: a row of memory.csv."""

    corpus: str
    bins: tuple[int, ...]  # of activation and valence: 0 low, 1 middle, 2 high
    speaker: str
    n: int


@dataclass(frozen=True)
class StageResult:
    """The result of one stage of one run, without its parameters."""

    scores: list[float]  # validation CCC after each epoch, the mean over the dimensions
    memory: list[Held]  # of the corpora before
    figures: list[Figure]
    seconds: float | None = field(default=None, compare=False)  # of training, if they are known
    bent: list[float] = field(
        default_factory=list
    )  # share of each epoch's steps that memory bent, if any can be
    score: float | None = None  # as in `kept_score`, which needs `scores` for stages of older versions

    share: float | None = None  # of the new parameters, if they were interpolated

    @property
    def kept_score(self) -> float:
        """The validation score of the parameters that are kept, in [-1, 1]: that of the best epoch or of an average."""
        return max(self.scores) if self.score is None else self.score


@dataclass(frozen=True)
class Outcome:
    """The result of one task of an engine: some stages of one run."""

    stages: dict[int, StageResult] = field(
        default_factory=dict
    )  # by number, from 1; those that were finished
    failed: int | None = None  # the stage in which the predictions stopped being finite


Outcomes = Mapping[
    tuple[Run, int], StageResult
]  # by run and stage from 1; also of a run whose fold is POOLED


@dataclass(frozen=True)
class Result:
    """One row of results.csv. `pandas.DataFrame` takes a list of these as it is."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    stage: int  # from 1
    stage_name: str  # P, P+M, ...
    corpus: str
    split: str
    dimension: str
    metric: str
    value: float
    n: int
    fold: str = ""  # "1", "2", ..., POOLED, or "" without folds


@dataclass(frozen=True)
class ConditionResult(Result):
    """One row of conditions.csv: a figure on test recordings in another acoustic condition."""

    condition: str = ""  # such as noise:10


_Row = TypeVar("_Row", bound=Result)


def tabulate(experiment: Experiment, outcomes: Outcomes) -> list[Result]:
    """All figures that are there, ordered by variant, seed, fold, stage, corpus and split."""
    return [
        Result(**vars(variant), seed=seed, stage=number, stage_name=name, **vars(figure))
        for variant in experiment.variants
        for seed in experiment.seeds
        for fold in (*experiment.fold_names, *([POOLED] if experiment.has_folds else []))
        for number, name, result in stages_of(experiment, outcomes, Run(variant, seed, fold))
        for figure in result.figures
        if figure.fold == fold
    ]


def overall(results: Iterable[_Row]) -> list[_Row]:
    """One figure of all folds: the pooled one where there is one, else the mean over the folds; without folds all rows.

    The mean is of figures on `n` utterances each, or so many on average if the folds differ in size.
    """
    alike: dict[_Row, list[_Row]] = {}
    for result in results:
        alike.setdefault(replace(result, value=0.0, n=0, fold=""), []).append(result)
    return [_overall(same) for same in alike.values()]


def _overall(folds: Sequence[_Row]) -> _Row:
    pooled = [result for result in folds if result.fold == POOLED]
    if pooled or len(folds) == 1:
        return replace((pooled or folds)[0], fold="")
    value = math.fsum(result.value for result in folds) / len(folds)
    return replace(folds[0], value=value, n=round(sum(result.n for result in folds) / len(folds)), fold="")


def of_few(sizes: Mapping[str, int]) -> list[str]:
    """A sentence that names what has figures over fewer than FEW utterances; none if nothing has.

    `sizes` are the numbers of utterances by the names of what they are of, such as `test split of iemocap`.
    """
    few = [f"{name} (n = {n})" for name, n in sizes.items() if n < FEW]
    if not few:
        return []
    return [
        f"Fewer than {FEW} utterances, over which a CCC means very little: {listing(few, most=6)}. Even over {FEW}, one of "
        "0.5 has a 95% interval from -0.19 to 0.86."
    ]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results.csv, one figure per row."""
    write_rows(path, [item.name for item in fields(Result)], (astuple(result) for result in results))


def write_conditions(path: Path, experiment: Experiment, measured: Mapping[str, Outcomes]) -> None:
    """Write conditions.csv, the rows of each condition as in results.csv; no file if there is no condition."""
    rows = [
        (*astuple(row), condition)
        for condition, outcomes in measured.items()
        for row in tabulate(experiment, outcomes)
    ]
    if measured:
        write_rows(path, [item.name for item in fields(ConditionResult)], rows)


def read_results(path: Path) -> list[Result]:
    """The rows of a results.csv, or of the one in a run's folder.

    Raises SerError if there is none, or if it is not a table that ser-train wrote.
    """
    return _read(path / RESULTS if path.is_dir() else path, RESULTS, Result)


def read_conditions(path: Path) -> list[ConditionResult]:
    """The rows of a conditions.csv, or of the one in a run's folder; none if there is none.

    Raises SerError if it is not a table that ser-train wrote.
    """
    path = path / CONDITIONS if path.is_dir() else path
    return _read(path, CONDITIONS, ConditionResult) if path.exists() else []


def _read(path: Path, name: str, kind: type[_Row]) -> list[_Row]:
    columns = [item.name for item in fields(kind)]
    kinds = {"memory_size": int, "seed": int, "stage": int, "value": float, "n": int}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [column for column in columns if column not in (reader.fieldnames or [])]
            if absent and absent != ["fold"]:  # which older versions did not write
                raise SerError(f"{path} has no column {listing(absent)}: give a {name} of ser-train.")
            there = [column for column in columns if column not in absent]
            rows = []
            for row in reader:
                if None in row.values():
                    raise SerError(
                        f"{path} was cut off at line {reader.line_num}: run the same ser-train command with --output "
                        f"{path.parent}, which writes it again."
                    )
                rows.append(kind(**{column: kinds.get(column, str)(row[column]) for column in there}))
            return rows
    except FileNotFoundError:
        raise SerError(f"There is no {path}: give the folder of a run of ser-train.") from None
    except OSError as error:
        raise SerError(f"{path} cannot be opened: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        raise SerError(f"{path} cannot be read as results of ser-train: {error}.") from None


def read_estimates(folder: Path) -> list[Result]:
    """The rows of a run's estimates.csv; none if it has no such file. Raises SerError as `read_results` does."""
    path = folder / ESTIMATES
    return read_results(path) if path.exists() else []


def write_memory(path: Path, experiment: Experiment, outcomes: Outcomes) -> None:
    """Write memory.csv: how many utterances of each cell and speaker every memory of the last stage holds.

    A memory is the same under all strategies with its sampler and size, so it is listed once.
    """
    bins = [f"{dimension}_bin" for dimension in DIMENSIONS]
    rows: dict[tuple[object, ...], None] = {}
    for run in experiment.runs:
        variant, last = run.variant, outcomes.get((run, len(experiment.stages)))
        if variant is not None and variant.sampler != NO_SAMPLER and last is not None:
            for held in last.memory:
                key = (variant.sampler, variant.memory_size, run.seed)
                rows[*key, held.corpus, *held.bins, held.speaker, held.n, run.fold] = None
    write_rows(path, ["sampler", "memory_size", "seed", "corpus", *bins, "speaker", "n", "fold"], rows)


def write_epochs(path: Path, experiment: Experiment, outcomes: Outcomes) -> None:
    """Write epochs.csv: of every epoch the validation CCC, the mean over the dimensions, and the share of bent steps."""
    rows = (
        (*astuple(variant), run.seed, number, name, epoch, score, bent, run.fold)
        for run in experiment.runs
        if (variant := run.variant) is not None
        for number, name, result in stages_of(experiment, outcomes, run)
        for epoch, (score, bent) in enumerate(itertools.zip_longest(result.scores, result.bent), start=1)
    )
    write_rows(path, [*_STAGE, "epoch", "validation_ccc", "bent_share", "fold"], rows)


def write_costs(
    path: Path, experiment: Experiment, outcomes: Outcomes, kept: Callable[[Run, int, int], KeptBytes]
) -> None:
    """Write costs.csv: the seconds that every stage was trained, and the bytes that are kept after it for later ones.

    `kept` gives the bytes that a run keeps from one stage when another is over. The first stage is repeated for every
    variant.
    """
    of_stage = cache(kept)  # the same for all seeds
    rows: list[Sequence[object]] = []
    for run in experiment.runs:
        for number, name, result in stages_of(experiment, outcomes, run):
            total = KeptBytes()
            for earlier in range(1, number + 1):
                total = total.plus(of_stage(replace(run, seed=experiment.seeds[0]), earlier, number))
            assert run.variant is not None  # of `runs`
            rows.append((*astuple(run.variant), run.seed, number, name, result.seconds, *total, run.fold))
    write_rows(path, [*_STAGE, "seconds", "memory_bytes", "parameter_bytes", "other_bytes", "fold"], rows)


def stages_of(experiment: Experiment, outcomes: Outcomes, run: Run) -> Iterator[tuple[int, str, StageResult]]:
    """The stages of a run that are there: number, name, and what it came to."""
    for number in experiment.measured:
        result = outcomes.get((experiment.owner(run, number), number))
        if result is not None:
            yield number, stage_name(experiment.stages[:number]), result


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV, whole or not at all; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
