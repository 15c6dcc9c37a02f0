"""All strategies and what can be done to them, on given caches, in one table: what helps, and what it costs.

    .venv/bin/python -m tests.benchmarks.strategies --cache CACHE --stages clean,hall,phone --memory-sizes 10,25,50 \\
        --seeds 10 --output OUTPUT

Each row is the mean CCC over all corpora on their test splits, after the last stage. The first rows are the strategies,
held against fine-tuning. Those that begin with + are a strategy with something done to it, held against that strategy
without it, with the same memory. A two-sided paired t-test over the seeds, with Holm's correction over all rows of a
dimension. Every line of training is a command that `ser-train` takes; the same runs can be given to `ser-report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_memory.common.console import say, table
from ser_memory.common.reporting import Silent
from ser_memory.train.api import train
from ser_memory.train.report.data import CostRow, load_run
from ser_memory.train.report.statistics import holm, paired
from ser_memory.train.results import Result
from ser_memory.train.strategies import STRATEGIES

_OF_STEPS = ("batch_size", "learning_rate", "epochs")  # a closed form takes none
_LEVEL = 0.05
REPLAY = {"strategy": "experience-replay", "replay_share": 0.5}
# A name: the options of the row, and of the row that it is held against.
DONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "+ herding": ({"strategy": "experience-replay", "sampler": "herding"}, {"strategy": "experience-replay"}),
    "+ emotion": ({"strategy": "experience-replay", "sampler": "emotion"}, {"strategy": "experience-replay"}),
    "+ share": (REPLAY, {"strategy": "experience-replay"}),
    "+ share: per-corpus": ({**REPLAY, "replay_loss": "per-corpus"}, REPLAY),
    "+ share: stop-on memory": ({**REPLAY, "stop_on": "memory"}, REPLAY),
    "+ share: both": ({**REPLAY, "replay_loss": "per-corpus", "stop_on": "memory"}, REPLAY),
    "+ share: interpolate": ({**REPLAY, "average": "interpolate"}, REPLAY),
    "+ share: ema": ({**REPLAY, "average": "ema"}, REPLAY),
    "+ der++: per-corpus": ({"strategy": "der++", "replay_loss": "per-corpus"}, {"strategy": "der++"}),
    "+ gem: interpolate": ({"strategy": "gem", "average": "interpolate"}, {"strategy": "gem"}),
    "+ joint: per-corpus": ({"strategy": "joint", "replay_loss": "per-corpus"}, {"strategy": "joint"}),
    "+ finetune: interpolate": ({"strategy": "finetune", "average": "interpolate"}, {"strategy": "finetune"}),
    "+ finetune: ema": ({"strategy": "finetune", "average": "ema"}, {"strategy": "finetune"}),
    "+ analytic: 1000 features": (
        {"strategy": "analytic", "analytic_features": 1000},
        {"strategy": "analytic"},
    ),
}


@dataclass(frozen=True)
class Row:
    """A variant after the last stage."""

    name: str
    size: int  # of each memory, 0 without
    ccc: Mapping[str, dict[int, float]]  # of each dimension, by seed: the mean over the corpora
    against: Mapping[str, dict[int, float]]
    kept: int  # bytes of what is kept of all corpora
    seconds: float  # of training all stages, the mean over the seeds


@dataclass(frozen=True)
class Trainer:
    """Trains on the same corpora, with the same options, each row in a folder of its own."""

    output: Path
    common: Mapping[str, Any]
    sizes: Sequence[int]

    def rows(self) -> Iterator[Row]:
        strategies: dict[str, dict[str, Any]] = {name: {"strategy": name} for name in STRATEGIES}
        for name, options in strategies.items():
            yield from self._against(name, options, strategies["finetune"])
        for name, (options, baseline) in DONE.items():
            yield from self._against(name, options, baseline)

    def _against(self, name: str, options: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[Row]:
        results, costs = self._trained(options)
        base, _ = self._trained(baseline)
        for size in dict.fromkeys(result.memory_size for result in results):
            theirs = size if any(result.memory_size == size for result in base) else 0
            of_size = [row for row in costs if row.memory_size == size]
            last = max(of_size, key=lambda row: row.stage)
            seconds = sum(row.seconds or 0.0 for row in of_size) / len({row.seed for row in of_size})
            yield Row(name, size, _means(results, size), _means(base, theirs), last.kept_bytes or 0, seconds)

    def _trained(self, options: Mapping[str, Any]) -> tuple[list[Result], list[CostRow]]:
        folder = self.output / "-".join(str(value) for value in options.values())
        strategy = STRATEGIES[options["strategy"]]
        used = {
            name: value
            for name, value in self.common.items()
            if strategy.by_gradient or name not in _OF_STEPS
        }
        sizes = {"memory_size": list(self.sizes)} if strategy.earlier == "memory" else {}
        run = train(output=folder, reporter=Silent(), **used, **sizes, **options)
        return run.results, load_run(run.folder).costs


def _means(results: Sequence[Result], size: int) -> dict[str, dict[int, float]]:
    """Of each dimension and seed the mean CCC over the corpora's test splits after the last stage."""
    last = max(result.stage for result in results)
    values: dict[str, dict[int, list[float]]] = {}
    for result in results:
        if (result.stage, result.split, result.metric, result.memory_size) == (last, "test", "ccc", size):
            values.setdefault(result.dimension, {}).setdefault(result.seed, []).append(result.value)
    return {
        dimension: {seed: float(np.mean(each)) for seed, each in seeds.items()}
        for dimension, seeds in values.items()
    }


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """Cells of the table."""
    tests = {
        dimension: [paired(row.ccc[dimension], row.against[dimension]) for row in rows]
        for dimension in rows[0].ccc
    }
    corrected = {
        dimension: holm([None if each is None else each.p for each in those])
        for dimension, those in tests.items()
    }
    made = []
    for place, row in enumerate(rows):
        cells = [row.name, str(row.size or "")]
        for dimension, seeds in row.ccc.items():
            values, test, p = list(seeds.values()), tests[dimension][place], corrected[dimension][place]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
            cells.append("" if test is None else f"{test.difference:+.3f}")
            cells.append("" if p is None else f"{p:.3f}{'*' if p < _LEVEL else ''}")
        made.append([*cells, f"{row.kept / 1000:,.0f}", f"{row.seconds:.2f}"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--stages", default="clean,hall,phone")
    parser.add_argument("--memory-sizes", default="10,25,50")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True, help="each row's run is a folder below it")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    common = {
        "cache": arguments.cache, "stages": arguments.stages.split(","), "seeds": arguments.seeds,
        "trained": arguments.output / "trained", "predictions": "none", "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate, "epochs": arguments.epochs,
    }  # fmt: skip
    sizes = [int(size) for size in arguments.memory_sizes.split(",")]
    rows = list(Trainer(arguments.output, common, sizes).rows())
    dimensions = [
        name for dimension in rows[0].ccc for name in (f"CCC of {dimension}", "difference", "p (Holm)")
    ]
    table(
        "Mean over the corpora after the last stage",
        ["", "memory", *dimensions, "kB kept", "s"],
        lines(rows),
        left=1,
    )
    say(
        "* p < 0.05. Strategies are held against finetune, a line with + against the same strategy without it."
    )


if __name__ == "__main__":
    main()
