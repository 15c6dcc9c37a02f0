"""All figures of a run that its files allow. Forest plots need tests, so their callers draw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import DIMENSIONS, in_split_order
from ser_memory.common.labels import N_BINS, to_bins
from ser_memory.train.predictions import Predictions, join_folds
from ser_memory.train.report.conditions import in_conditions
from ser_memory.train.report.data import RunData
from ser_memory.train.report.figures.agreement import Panel, predicted_against_true
from ser_memory.train.report.figures.base import Drawn, measure, names_of
from ser_memory.train.report.figures.conditions import across_conditions
from ser_memory.train.report.figures.cost import Kept, against_bytes
from ser_memory.train.report.figures.heat import stage_by_corpus
from ser_memory.train.report.figures.learning import bent_steps, learning_curves
from ser_memory.train.report.figures.memory import memory_cells
from ser_memory.train.report.figures.stages import along_stages
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import shares_first_stage

_METRIC = "ccc"


def figures_of(
    run: RunData, results: Sequence[Result], split: str = "test", wanted: Sequence[str] = ()
) -> Iterator[tuple[str, Drawn]]:
    """Name and figure, one after the other, so that only one is in memory.

    `results` are the rows of the run without those of single folds; `wanted` names the kinds to draw, if not all. A
    figure whose data the folder lacks is left out. Raises SerError if predictions.h5 is damaged.
    """
    names = names_of(results)
    dimensions = list(dict.fromkeys(row.dimension for row in results if row.split == split))

    def asked(kind: str) -> bool:
        return not wanted or kind in wanted

    for dimension in dimensions if asked("stages") else ():
        yield f"stages-{dimension}", along_stages(results, names, dimension, _METRIC, split)
    for dimension in dimensions if asked("heat") else ():
        yield f"heat-{dimension}", stage_by_corpus(results, names, dimension, _METRIC, split)
    if asked("conditions"):
        yield from _conditions(run, results, split)
    if asked("cost"):
        yield from _costs(run, results, split)
    if run.predictions is not None and asked("agreement"):
        yield from _agreement(run, run.predictions, split)
    for size in sorted({row.memory_size for row in run.memory}) if asked("memory") else ():
        yield f"memory-{size}", memory_cells(_held(run, size), _beside(run))
    if any(shares_first_stage(row.strategy) for row in run.epochs) and asked("learning"):
        yield "learning", learning_curves(run.epochs, names)
    if any(row.bent_share is not None for row in run.epochs) and asked("bent"):
        yield "bent", bent_steps(run.epochs, names)


def _conditions(run: RunData, results: Sequence[Result], split: str) -> Iterator[tuple[str, Drawn]]:
    """What other acoustic conditions cost, a figure per dimension."""
    found = in_conditions({"": run}, split)
    for dimension in dict.fromkeys(each.dimension for each in found):
        part = [each for each in found if each.dimension == dimension]
        measured = f"{measure(_METRIC, dimension)} ({split})"
        yield f"conditions-{dimension}", across_conditions(part, names_of(results), measured)


def _costs(run: RunData, results: Sequence[Result], split: str) -> Iterator[tuple[str, Drawn]]:
    """What is kept against what it buys, a figure per dimension."""
    shown = [row for row in results if row.split == split and row.metric == _METRIC]
    for dimension in dict.fromkeys(row.dimension for row in shown):
        if points := _kept(run, shown, dimension):
            row = _first(shown, dimension)
            measured = f"{measure(_METRIC, dimension)} on {row.corpus}\n({split}, n = {row.n:,})"
            yield f"cost-{dimension}", against_bytes(points, measured, list(names_of(results).values()))


def _kept(run: RunData, shown: Sequence[Result], dimension: str) -> list[Kept]:
    """For each variant that finished the last stage: bytes kept before it, and figures for the first corpus after it.

    That is the first corpus with ratings of the dimension.
    """
    names = names_of(run.results)
    last = max((row.stage for row in shown), default=0)
    first = _first(shown, dimension).corpus
    values: dict[str, list[float]] = {}
    for row in shown:
        if (row.dimension, row.stage, row.corpus) == (dimension, last, first):
            values.setdefault(names[variant_of(row)], []).append(row.value)
    kept: dict[str, list[int]] = {}
    for cost in run.costs:
        # What the last stage itself keeps is for a stage that is not in this run.
        if cost.stage == last - 1 and cost.kept_bytes is not None and variant_of(cost) in names:
            kept.setdefault(names[variant_of(cost)], []).append(cost.kept_bytes)
    return [
        Kept(name, float(np.mean(kept[name])), tuple(found)) for name, found in values.items() if name in kept
    ]


def _first(shown: Sequence[Result], dimension: str) -> Result:
    return next(row for row in shown if row.dimension == dimension)


def _agreement(run: RunData, predictions: Predictions, split: str) -> Iterator[tuple[str, Drawn]]:
    """For each dimension and corpus: the predictions of all variants after the last stage."""
    names = names_of(run.results)
    last = len(predictions.stages)
    rows: dict[str, dict[int, list[int]]] = {}  # of each variant and seed: one, or one per fold
    for index, made in enumerate(predictions.runs):
        if (variant := variant_of(made)) in names:
            rows.setdefault(names[variant], {}).setdefault(made.seed, []).append(index)
    stage_name = next((row.stage_name for row in run.results if row.stage == last), f"stage {last}")
    for corpus in [name for name, splits in predictions.splits.items() if split in splits]:
        truth, after = predictions.truth(corpus, split), predictions.after(corpus, split, last)
        made_by = {
            name: np.stack([row for folds in of_seed.values() for row in join_folds(after[folds])])
            for name, of_seed in rows.items()
        }
        for column, dimension in enumerate(predictions.dimensions):
            found = [
                Panel(name, truth[:, column], made[:, :, column])
                for name, made in made_by.items()
                if np.isfinite(truth[:, column] + made[:, :, column]).any()
            ]
            if found:
                where = f"{corpus}, {split} split, after {stage_name}"
                yield f"agreement-{corpus}-{dimension}", predicted_against_true(found, dimension, where)


def _held(run: RunData, size: int) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Sampler -> corpus -> mean counts by cell over seeds and folds."""
    counts: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    memories: dict[tuple[str, str], set[tuple[int, str]]] = {}
    for row in run.memory:
        if row.memory_size == size:
            cells = counts.setdefault(row.sampler, {}).setdefault(row.corpus, np.zeros((N_BINS, N_BINS)))
            cells[row.bins] += row.n
            memories.setdefault((row.sampler, row.corpus), set()).add((row.seed, row.fold))
    return {
        sampler: {corpus: cells / len(memories[sampler, corpus]) for corpus, cells in found.items()}
        for sampler, found in counts.items()
    }


def _beside(run: RunData) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """The labels of the corpora themselves: of the first split of which there are predictions."""
    predictions = run.predictions
    if predictions is None or not set(DIMENSIONS) <= set(predictions.dimensions):
        return {}  # the plane is that of activation and valence
    plane = [predictions.dimensions.index(dimension) for dimension in DIMENSIONS]
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for corpus in dict.fromkeys(row.corpus for row in run.memory):
        splits = in_split_order(predictions.splits.get(corpus, ()))
        if splits:
            truth = predictions.truth(corpus, splits[0])[:, plane]
            bins = to_bins(truth[np.isfinite(truth).all(axis=1)])
            cells = np.zeros((N_BINS, N_BINS))
            np.add.at(cells, (bins[:, 0], bins[:, 1]), 1)
            found.setdefault(f"{splits[0]} split", {})[corpus] = cells
    return found
