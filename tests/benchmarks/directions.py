"""Which published directions hold on simulated corpora, as their rooms move apart.

    .venv/bin/python -m tests.benchmarks.directions --seeds 10 --distances 0,0.5,1,1.5

The published study (Tavernor, Perez and Mower Provost, Interspeech 2023) reports directions on licensed corpora. Here the
same strategies run on simulated speech at several distances between the rooms. Each line tells the mean difference over
the seeds, and whether a two-sided paired t-test over the seeds supports the published direction, contradicts it, or
neither.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel

from ser_memory.common.console import table
from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.extract.simulation import write_encoders, write_releases
from ser_memory.train.api import train
from ser_memory.train.memory.samplers import SAMPLERS
from ser_memory.train.results import Result

PODCAST, IMPROV, IEMOCAP = STAGES = ("msp-podcast", "msp-improv", "iemocap")
OTHERS = [
    name for name in SAMPLERS if name in ("emotion", "speaker", "speaker-emotion")
]  # those of the paper
REPLAY = "experience-replay"

Figures = Mapping[int, float]  # seed -> CCC
Look = Callable[[str, str, int, str], Figures]  # strategy, sampler, stage and corpus -> its figures


@dataclass(frozen=True)
class Direction:
    """One published finding: the first of two sets of figures is higher than the second."""

    claim: str
    higher: Callable[[Look], Figures]
    lower: Callable[[Look], Figures]


def directions() -> list[Direction]:
    """The findings of the paper, in its order."""
    found = [
        Direction(
            f"fine-tuning forgets {PODCAST} at {name}",
            lambda look, stage=stage: look("finetune", "none", stage - 1, PODCAST),  # type: ignore[misc]
            lambda look, stage=stage: look("finetune", "none", stage, PODCAST),  # type: ignore[misc]
        )
        for stage, name in ((2, "P+M"), (3, "P+M+I"))
    ]
    for strategy in ("gem", REPLAY):
        found += [
            Direction(
                f"{strategy} forgets {PODCAST} less than fine-tuning at {name}",
                lambda look, strategy=strategy, stage=stage: look(strategy, "random", stage, PODCAST),  # type: ignore[misc]
                lambda look, stage=stage: look("finetune", "none", stage, PODCAST),  # type: ignore[misc]
            )
            for stage, name in ((2, "P+M"), (3, "P+M+I"))
        ]
    found += [
        Direction(
            f"gem keeps {PODCAST} better than {REPLAY} at P+M",
            lambda look: look("gem", "random", 2, PODCAST),
            lambda look: look(REPLAY, "random", 2, PODCAST),
        ),
        Direction(
            f"{REPLAY} adapts better than gem to {IMPROV} at P+M",
            lambda look: look(REPLAY, "random", 2, IMPROV),
            lambda look: look("gem", "random", 2, IMPROV),
        ),
        Direction(
            f"{REPLAY} adapts better than gem to {IEMOCAP} at P+M+I",
            lambda look: look(REPLAY, "random", 3, IEMOCAP),
            lambda look: look("gem", "random", 3, IEMOCAP),
        ),
        Direction(
            f"{REPLAY} at P+M lifts unseen {IEMOCAP} over the general model",
            lambda look: look(REPLAY, "random", 2, IEMOCAP),
            lambda look: look(REPLAY, "random", 1, IEMOCAP),
        ),
    ]
    for sampler in OTHERS:
        found.append(
            Direction(
                f"memory by {sampler} beats random on {PODCAST} at P+M",
                lambda look, sampler=sampler: look(REPLAY, sampler, 2, PODCAST),  # type: ignore[misc]
                lambda look: look(REPLAY, "random", 2, PODCAST),
            )
        )
    found.append(
        Direction(
            f"memory by speaker beats random on {IMPROV} at P+M+I",
            lambda look: look(REPLAY, "speaker", 3, IMPROV),
            lambda look: look(REPLAY, "random", 3, IMPROV),
        )
    )
    return found


def judged(higher: Figures, lower: Figures) -> str:
    """`+0.123 holds`, `-0.020 contradicted`, or `+0.001 open`."""
    seeds = sorted(set(higher) & set(lower))
    a, b = ([figures[seed] for seed in seeds] for figures in (higher, lower))
    mean = float(np.mean(np.subtract(a, b)))
    if np.ptp(np.subtract(a, b)) == 0 or ttest_rel(a, b).pvalue >= 0.05:
        return f"{mean:+.3f} open"
    return f"{mean:+.3f} {'holds' if mean > 0 else 'contradicted'}"


def caches_at(distance: float, folder: Path) -> Path:
    """The caches of simulated corpora whose rooms have this distance; made once."""
    world = folder / f"distance-{distance:g}"
    if not (world / "cache" / f"{IEMOCAP}.h5").exists():
        shutil.rmtree(world, ignore_errors=True)
        write_releases(world / "releases", distance=distance)
        acoustic, text = write_encoders(folder / "encoders")
        for corpus in STAGES:
            extract(
                corpus,
                root=world / "releases" / corpus,
                cache=world / "cache",
                acoustic_encoder=str(acoustic),
                text_encoder=str(text),
                device="cpu",
                reporter=Silent(),
            )
    return world / "cache"


def trained(cache: Path, output: Path, seeds: int) -> Sequence[Result]:
    """The demonstration's training, with every sampler of the paper."""
    strategies = ["finetune", "gem:random", f"{REPLAY}:random", *(f"{REPLAY}:{name}" for name in OTHERS)]
    return train(
        strategy=strategies, cache=cache, output=output, seeds=seeds, memory_size=250, learning_rate=1e-3, epochs=60,
        patience=15, device="cpu", reporter=Silent(),
    ).results  # fmt: skip


def looking(results: Sequence[Result], dimension: str) -> Look:
    """Test CCC of a dimension, by strategy, sampler, stage and corpus."""

    def look(strategy: str, sampler: str, stage: int, corpus: str) -> Figures:
        return {
            result.seed: result.value
            for result in results
            if (result.strategy, result.sampler, result.stage) == (strategy, sampler, stage)
            and (result.corpus, result.split) == (corpus, "test")
            and (result.dimension, result.metric) == (dimension, "ccc")
        }

    return look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distances", default="0,0.5,1,1.5")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("directions"))
    arguments = parser.parse_args()
    distances = [float(each) for each in arguments.distances.split(",")]
    tables: dict[str, list[list[str]]] = {"activation": [], "valence": []}
    runs = {}
    for distance in distances:
        start = time.perf_counter()
        cache = caches_at(distance, arguments.folder)
        runs[distance] = trained(cache, arguments.folder / f"distance-{distance:g}" / "run", arguments.seeds)
        print(f"distance {distance:g}: {time.perf_counter() - start:.0f} s", flush=True)
    for dimension, rows in tables.items():
        looks = [looking(runs[distance], dimension) for distance in distances]
        for each in directions():
            rows.append([each.claim, *(judged(each.higher(look), each.lower(look)) for look in looks)])
        for corpus in STAGES:
            means = [float(np.mean(list(look("finetune", "none", 3, corpus).values()))) for look in looks]
            rows.append(
                [f"(test CCC of fine-tuning on {corpus} at P+M+I)", *(f"{mean:.3f}" for mean in means)]
            )
        table(
            f"CCC of {dimension}, test split, {arguments.seeds} seeds: mean difference and paired t-test (p < 0.05)",
            ["published direction", *(f"distance {distance:g}" for distance in distances)],
            rows,
            left=1,
        )


if __name__ == "__main__":
    main()
