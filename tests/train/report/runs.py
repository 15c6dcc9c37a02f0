"""Small run folders for tests of the report: real files whose figures are computed from simulated predictions.

A simulated prediction follows the truth as well as its strategy, stage and corpus let it; noise of its seed is added.
results.csv has the CCC and UAR of these predictions, so that it agrees with predictions.h5. Memories are drawn by the
samplers of the program.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import RATED
from ser_memory.common.labels import to_bins, to_unit
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.memory.samplers import SAMPLERS
from ser_memory.train.runs import Variant

Floats = npt.NDArray[np.float32]

STAGES = ("msp-podcast", "msp-improv", "iemocap")
STAGE_NAMES = ("P", "P+M", "P+M+I")
DIMENSIONS = ("activation", "valence")
ANALYTIC = Variant("analytic")  # has a first stage of its own, and is the same for every seed
VARIANTS = (
    Variant("finetune"),
    Variant("experience-replay", "random", 60),
    Variant("experience-replay", "speaker", 60),
    Variant("gem", "random", 60),
    Variant("gem", "speaker", 60),
    Variant("ewc"),
)

_SPLITS = {"train": 240, "validation": 60, "test": 120}
_EVALUATED = ("validation", "test")
_RETENTION = {
    "finetune": 0.35,
    "experience-replay": 0.75,
    "gem": 0.65,
    "ewc": 0.5,
    "joint": 0.95,
    "analytic": 0.9,
}
_WIDTH = 6  # of an embedding
_RUN = ("strategy", "sampler", "memory_size", "seed")


@dataclass(frozen=True)
class _Corpus:
    name: str
    truth: dict[str, Floats]  # of each split, (N, K) in [-1, 1]; NaN without a rating
    speakers: dict[str, list[str]]
    folds: npt.NDArray[np.int64]  # of the utterances of the test split, from 1


@dataclass(frozen=True)
class _Run:
    variant: Variant
    seed: int
    fold: str

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.variant.strategy, self.variant.sampler, self.variant.memory_size, self.seed)

    @property
    def drawn(self) -> int:
        """What its random numbers depend on."""
        return 0 if self.variant == ANALYTIC else self.seed


def build_run(
    folder: Path,
    *,
    variants: Sequence[Variant] = VARIANTS,
    seeds: int = 5,
    splits: dict[str, int] | None = None,
    folds: int = 0,
    predictions: bool = True,
    unfinished: int = 0,
    command: str | None = "ser-train --strategy finetune --strategy gem --seeds 5",
    dominance: Mapping[str, float] | None = None,
) -> Path:
    """Write a run folder and return it.

    `dominance` makes it a dimension, and maps a corpus to the share of its utterances without a rating of it.

    `folds` > 1 gives the last corpus that many folds. `unfinished` last runs stop after the first stage; the folder
    is then not complete.
    """
    corpora = [_corpus(index, splits or _SPLITS, folds) for index in range(len(STAGES))]
    if dominance is not None:
        corpora = [_with_dominance(corpus, dominance.get(corpus.name, 0.0)) for corpus in corpora]
    marks = [str(fold) for fold in range(1, folds + 1)] or [""]
    runs = [_Run(variant, seed, mark) for variant in variants for seed in range(seeds) for mark in marks]
    reached = [1 if index >= len(runs) - unfinished else len(STAGES) for index in range(len(runs))]
    predicted = {
        (corpus.name, split, stage): _predict(runs, reached, corpus, split, stage)
        for corpus in corpora
        for split in _EVALUATED
        for stage in range(1, len(STAGES) + 1)
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "results.csv",
        (*_RUN, "stage", "stage_name", "corpus", "split", "dimension", "metric", "value", "n", "fold"),
        _figures(runs, reached, corpora, predicted),
    )
    _write_memory(folder, [run for run, last in zip(runs, reached, strict=True) if last > 1], corpora)
    _write_epochs_and_costs(folder, runs, reached)
    if predictions:
        _write_predictions(folder / "predictions.h5", runs, corpora, predicted)
    _write_config(folder / "config.json", variants, seeds, not unfinished, command)
    return folder


def _corpus(index: int, splits: dict[str, int], folds: int) -> _Corpus:
    random = np.random.default_rng([1, index])
    points = 7 if index == 0 else 5  # of the rating scale; a label is the mean of five raters
    truth, speakers = {}, {}
    for split, n in splits.items():
        latent = random.normal((0.1 * index, -0.1), (0.9, 1.1), (n, 2))
        raters = (points + 1) / 2 + (points - 1) / 4 * (latent[:, None] + random.normal(0, 0.6, (n, 5, 2)))
        truth[split] = to_unit(raters.round().clip(1, points).mean(axis=1), 1, points).astype(np.float32)
        speakers[split] = [f"s{number}" for number in random.zipf(1.6, n) % 12]
    folded = folds > 1 and index == len(STAGES) - 1
    parts = np.arange(splits["test"]) % folds + 1 if folded else np.zeros(splits["test"], np.int64)
    return _Corpus(STAGES[index], truth, speakers, parts)


def _with_dominance(corpus: _Corpus, unrated: float) -> _Corpus:
    random = np.random.default_rng([3, STAGES.index(corpus.name)])
    truth = {}
    for split, labels in corpus.truth.items():
        made = np.clip(labels.mean(axis=1) + random.normal(0, 0.3, len(labels)), -1, 1)
        made[np.arange(len(made)) < unrated * len(made)] = np.nan
        truth[split] = np.column_stack([labels, made]).astype(np.float32)
    return replace(corpus, truth=truth)


def _own(run: _Run, stage: int, variants: Sequence[Variant]) -> int:
    """Numbers the variants; the first stage of a seed is the same for those that train by gradient steps."""
    return 0 if stage == 1 and run.variant != ANALYTIC else 1 + variants.index(run.variant)


def _quality(
    run: _Run, corpus: int, stage: int, random: np.random.Generator, dimensions: int
) -> npt.NDArray[np.float64]:
    """How well each dimension follows the truth, 0 to 1."""
    retention = _RETENTION[run.variant.strategy] + (0.08 if run.variant.sampler == "speaker" else 0.0)
    kept = 0.25 if corpus + 1 > stage else retention ** (stage - corpus - 1)
    return kept * np.array([0.75, 0.6, 0.7])[:dimensions] + random.normal(0, 0.02, dimensions)


def _predict(runs: Sequence[_Run], reached: Sequence[int], corpus: _Corpus, split: str, stage: int) -> Floats:
    """(R, N, K) predictions of all runs after a stage; NaN where there are none."""
    truth, index = corpus.truth[split], STAGES.index(corpus.name)
    out = np.full((len(runs), *truth.shape), np.nan, np.float32)
    variants = list(dict.fromkeys(run.variant for run in runs))
    for row, (run, last) in enumerate(zip(runs, reached, strict=True)):
        if stage > last:
            continue
        own = _own(run, stage, variants)
        random = np.random.default_rng([run.drawn, index, stage, own, int(run.fold or 0), len(split)])
        quality = _quality(run, index, stage, random, truth.shape[1])
        noise = random.normal(0, 0.45 * np.sqrt(1 - quality**2), truth.shape)
        made = np.clip(quality * np.nan_to_num(truth) + (1 - quality) * 0.1 + quality * noise, -1, 1)
        there = _in_fold(corpus, split, run.fold)
        out[row, there] = made[there]
    return out


def _in_fold(corpus: _Corpus, split: str, fold: str) -> npt.NDArray[np.bool_]:
    if split != "test" or not corpus.folds.any():
        return np.ones(len(corpus.truth[split]), np.bool_)
    return np.equal(corpus.folds, int(fold))


def _figures(
    runs: Sequence[_Run],
    reached: Sequence[int],
    corpora: Sequence[_Corpus],
    predicted: dict[tuple[str, str, int], Floats],
) -> Iterable[tuple[Any, ...]]:
    for row, (run, last) in enumerate(zip(runs, reached, strict=True)):
        for stage in range(1, last + 1):
            for corpus in corpora:
                for split in _EVALUATED:
                    made = predicted[corpus.name, split, stage][row]
                    there = np.isfinite(made[:, 0])
                    columns = (*run.columns, stage, STAGE_NAMES[stage - 1], corpus.name, split)
                    for line in _measured(corpus.truth[split][there], made[there]):
                        yield (*columns, *line, run.fold)
                    if split == "test" and corpus.folds.any() and run.fold == runs[-1].fold:
                        siblings = [k for k, other in enumerate(runs) if other.columns == run.columns]
                        for line in _measured(
                            corpus.truth[split],
                            np.nanmax(predicted[corpus.name, split, stage][siblings], axis=0),
                        ):
                            yield (*columns, *line, "pooled")


def _measured(truth: Floats, made: Floats) -> Iterable[tuple[Any, ...]]:
    for column, dimension in enumerate(RATED[: truth.shape[1]]):
        rated = np.isfinite(truth[:, column])
        for name, measure in (("ccc", ccc), ("uar", uar)) if rated.any() else ():
            yield dimension, name, measure(truth[rated, column], made[rated, column]), int(rated.sum())


def _write_memory(folder: Path, runs: Sequence[_Run], corpora: Sequence[_Corpus]) -> None:
    rows: dict[tuple[Any, ...], None] = {}
    for run in runs:
        for index, corpus in enumerate(corpora[:-1]) if run.variant.sampler != "none" else ():
            bins = to_bins(corpus.truth["train"][:, :2])
            names = sorted(set(corpus.speakers["train"]))
            codes = np.array([names.index(name) for name in corpus.speakers["train"]])
            random = np.random.default_rng([run.seed, index])
            embeddings = random.normal(size=(len(bins), _WIDTH)).astype(np.float32)
            chosen = SAMPLERS[run.variant.sampler](bins, codes, embeddings, run.variant.memory_size, random)
            counts = Counter((*map(int, bins[one]), corpus.speakers["train"][one]) for one in chosen)
            for held, n in sorted(counts.items()):
                key = (run.variant.sampler, run.variant.memory_size, run.seed, corpus.name)
                rows[*key, *held, n, run.fold] = None
    bin_columns = [f"{dimension}_bin" for dimension in DIMENSIONS]
    _write(
        folder / "memory.csv",
        ("sampler", "memory_size", "seed", "corpus", *bin_columns, "speaker", "n", "fold"),
        rows,
    )


def _write_epochs_and_costs(folder: Path, runs: Sequence[_Run], reached: Sequence[int]) -> None:
    epochs: list[tuple[Any, ...]] = []
    costs: list[tuple[Any, ...]] = []
    variants = list(dict.fromkeys(run.variant for run in runs))
    for run, last in zip(runs, reached, strict=True):
        for stage in range(1, last + 1):
            own = _own(run, stage, variants)
            random = np.random.default_rng([run.drawn, stage, own, int(run.fold or 0), 7])
            columns = (*run.columns, stage, STAGE_NAMES[stage - 1])
            n = 1 if run.variant == ANALYTIC else int(random.integers(12, 26))
            strategy = run.variant.strategy if own else "finetune"
            final = 0.6 - 0.05 * _RETENTION[strategy] + random.normal(0, 0.01)
            for epoch in range(1, n + 1):
                score = final * (1 - np.exp(-epoch / 4)) + random.normal(0, 0.008)
                bent = float(np.clip(0.2 + 0.6 * np.exp(-epoch / 6) + random.normal(0, 0.03), 0, 1))
                shown = bent if strategy == "gem" else ""
                epochs.append((*columns, epoch, score, shown, run.fold))
            memory = stage * run.variant.memory_size * 4 * (768 + 768 + 2)
            parameters = 4 * 650_000 * 2 if run.variant.strategy == "ewc" else 0
            factor = {"gem": 2.5, "experience-replay": 1.3}.get(strategy, 1.0)
            costs.append((*columns, factor * 0.4 * n, memory, parameters, 0, run.fold))
    stage_columns = (*_RUN, "stage", "stage_name")
    _write(folder / "epochs.csv", (*stage_columns, "epoch", "validation_ccc", "bent_share", "fold"), epochs)
    _write(
        folder / "costs.csv",
        (*stage_columns, "seconds", "memory_bytes", "parameter_bytes", "other_bytes", "fold"),
        costs,
    )


def _write_predictions(
    path: Path,
    runs: Sequence[_Run],
    corpora: Sequence[_Corpus],
    predicted: dict[tuple[str, str, int], Floats],
) -> None:
    text = h5py.string_dtype()
    kind = np.dtype(
        [("strategy", text), ("sampler", text), ("memory_size", "i8"), ("seed", "i8"), ("fold", text)]
    )
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "ser-predictions"
        file.attrs["format_version"] = 1
        file.attrs["dimensions"] = json.dumps(RATED[: corpora[0].truth["test"].shape[1]])
        file.attrs["stages"] = json.dumps(STAGES)
        file["runs"] = np.array([(*run.columns, run.fold) for run in runs], dtype=kind)
        for corpus in corpora:
            for split in _EVALUATED:
                group = file.create_group(f"{corpus.name}/{split}")
                n = len(corpus.truth[split])
                group["id"] = np.array([f"{corpus.name}-{split}-{i}" for i in range(n)], dtype=text)
                group["speaker"] = np.array(corpus.speakers[split], dtype=text)
                group["gender"] = np.array([("Female", "Male")[i % 2] for i in range(n)], dtype=text)
                group["truth"] = corpus.truth[split]
        for (name, split, stage), values in predicted.items():
            file[f"{name}/{split}/stage-{stage}"] = values


def _write_config(
    path: Path, variants: Sequence[Variant], seeds: int, complete: bool, command: str | None
) -> None:
    config = {
        "experiment": {
            "stages": STAGES,
            "variants": [asdict(variant) for variant in variants],
            "seeds": list(range(seeds)),
            "training": {
                "loss": "ccc",
                "learning_rate": 1e-4,
                "batch_size": 128,
                "epochs": 50,
                "patience": 10,
            },
            "options": {"gem": {"gem_margin": 0.0}, "finetune": {}},
        },
        "label_scale": "declared",
        "layer": None,
        "streamed": False,
        "device": "cpu",
        "digests": {name: f"{index:x}" * 64 for index, name in enumerate(STAGES, 10)},
        "cache": "cache",
        "protocols": dict.fromkeys(STAGES, "standard"),
        "torch": "2.13.0",
        "versions": {"ser-memory": "0.1.0", "python": "3.11.2"},
        "command": command,
        "complete": complete,
    }
    path.write_text(json.dumps(config, indent=2) + "\n")


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
