"""What other acoustic conditions cost: figures in a condition beside those of the recordings as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ser_memory.common.protocols import in_natural_order
from ser_memory.train.report.data import RunData
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import Result, overall
from ser_memory.train.runs import Variant


@dataclass(frozen=True)
class InCondition:
    """The CCC of one variant on one corpus after the last stage, in one condition and without it."""

    label: str  # of the run
    corpus: str
    variant: Variant
    dimension: str
    condition: str
    n: int  # utterances
    clean: tuple[float, ...]  # of each seed that has both figures, rising
    here: tuple[float, ...]

    @property
    def drops(self) -> tuple[float, ...]:
        """What the condition costs, seed by seed; below 0, it helps."""
        return tuple(clean - here for clean, here in zip(self.clean, self.here, strict=True))


def in_conditions(runs: Mapping[str, RunData], split: str) -> list[InCondition]:
    """All conditions of all runs, by run, corpus, dimension, variant and condition."""
    return [found for label, run in runs.items() for found in _of_run(label, run, split)]


def _of_run(label: str, run: RunData, split: str) -> list[InCondition]:
    last = max(row.stage for row in run.results)

    def wanted(row: Result) -> bool:
        return (row.stage, row.split, row.metric) == (last, split, "ccc")

    clean = {
        (row.corpus, variant_of(row), row.dimension, row.seed): row.value
        for row in run.overall
        if wanted(row)
    }
    here: dict[tuple[str, str, Variant, str], dict[int, float]] = {}
    sizes = {}
    for row in filter(wanted, overall(run.conditions)):
        if (row.corpus, variant_of(row), row.dimension, row.seed) in clean:
            key = (row.corpus, row.dimension, variant_of(row), row.condition)
            here.setdefault(key, {})[row.seed] = row.value
            sizes[key] = row.n
    corpora = list(dict.fromkeys(row.corpus for row in run.results))
    variants = list(dict.fromkeys(variant_of(row) for row in run.results))

    def place(key: tuple[str, str, Variant, str]) -> tuple[int, str, int, int]:
        corpus, dimension, variant, condition = key
        return corpora.index(corpus), dimension, variants.index(variant), conditions.index(condition)

    conditions = in_natural_order({condition for *_, condition in here})
    return [
        InCondition(
            label, corpus, variant, dimension, condition, sizes[corpus, dimension, variant, condition],
            tuple(clean[corpus, variant, dimension, seed] for seed in sorted(values)),
            tuple(values[seed] for seed in sorted(values)),
        )
        for (corpus, dimension, variant, condition), values in sorted(here.items(), key=lambda item: place(item[0]))
    ]  # fmt: skip
