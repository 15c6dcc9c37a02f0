"""Small made-up corpora for the trainer's tests: features that carry the labels, each corpus in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ser_memory.common.cache import CacheInfo, write_cache
from ser_memory.train.corpora import Corpus
from ser_memory.train.dropout import Dropout
from ser_memory.train.loop import Training
from ser_memory.train.model import Architecture, Network
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, TrainingSettings
from ser_memory.train.strategies import STRATEGIES, GradientStrategy, Stage

ACOUSTIC_WIDTH, TEXT_WIDTH = 6, 5
BY_GRADIENT = {name: kind for name, kind in STRATEGIES.items() if issubclass(kind, GradientStrategy)}
STAGES = ("msp-podcast", "msp-improv", "iemocap")
SCALES = {"msp-podcast": (1.0, 7.0), "msp-improv": (1.0, 5.0), "iemocap": (1.0, 5.0)}
SPLITS = {"train": 60, "validation": 20, "test": 25}


def samples(n: int, seed: int, dimensions: int = 2) -> Samples:
    """Random tensors of the shapes that training sees."""
    random = torch.Generator().manual_seed(seed)
    return Samples(
        torch.randn(n, ACOUSTIC_WIDTH, generator=random),
        torch.randn(n, TEXT_WIDTH, generator=random),
        torch.arange(n),
        torch.rand(n, dimensions, generator=random) * 2 - 1,
        torch.randint(-1, 5, (n,), generator=random),
    )


def on(device: str, given: Samples) -> Samples:
    """The same samples on a device."""
    names = ("acoustic", "text", "rows", "targets", "speakers")
    return replace(given, **{name: getattr(given, name).to(device) for name in names})


def learnable(n: int, seed: int) -> Samples:
    """Features that carry the labels, through a noise of their own."""
    random = torch.Generator().manual_seed(seed)
    world = torch.Generator().manual_seed(99)
    targets = torch.rand(n, 2, generator=random) * 2 - 1
    return Samples(
        targets @ torch.randn(2, ACOUSTIC_WIDTH, generator=world)
        + torch.randn(n, ACOUSTIC_WIDTH, generator=random),
        targets @ torch.randn(2, TEXT_WIDTH, generator=world) + torch.randn(n, TEXT_WIDTH, generator=random),
        torch.arange(n),
        targets,
        torch.zeros(n, dtype=torch.int64),
    )


def corpora(splits: dict[str, int] | None = None) -> list[Corpus]:
    return [
        Corpus(
            name,
            {split: samples(n, 10 * i + j) for j, (split, n) in enumerate((splits or SPLITS).items())},
            tuple("abcde"),
            {split: f"{name} {split}" for split in splits or SPLITS},
        )
        for i, name in enumerate(STAGES)
    ]


def corpora_in_folds(folds: int = 3, with_folds: Sequence[str] = STAGES[1:]) -> list[Corpus]:
    """The same, of which some have folds: every third utterance is tested in turn, the next validates."""
    return [in_folds(corpus, folds) if corpus.name in with_folds else corpus for corpus in corpora()]


def in_folds(corpus: Corpus, folds: int) -> Corpus:
    whole = Samples.concatenate(list(corpus.splits.values()))
    made = []
    for fold in range(folds):
        places = (torch.arange(len(whole)) - fold) % folds
        rows = {"test": places == 0, "validation": places == 1, "train": places > 1}
        splits = {
            split: part(whole, here.nonzero()[:, 0]) for split, here in sorted(rows.items(), reverse=True)
        }
        digests = {split: f"{corpus.name} {split} {fold}" for split in splits}
        made.append(replace(corpus, splits=splits, digests=digests, fold=str(fold + 1)))
    return replace(made[0], fold="", folds=tuple(made))


def part(whole: Samples, rows: Tensor) -> Samples:
    rated = None if whole.rated is None else whole.rated[rows]
    return replace(whole, rows=rows, targets=whole.targets[rows], speakers=whole.speakers[rows], rated=rated)


def network(**changes: Any) -> Network:
    """A small one of the usual shape."""
    widths = {"acoustic_width": ACOUSTIC_WIDTH, "text_width": TEXT_WIDTH, "trunk_width": 16, "head_width": 8}
    return Network(Architecture(**{**widths, **changes}))


def parameters(net: Network, runs: int = 1) -> Tensor:
    """(R, P), different for every run."""
    return torch.stack([net.initial(np.random.default_rng(run)) for run in range(runs)])


def begin(
    strategy: str, current: Samples, earlier: Sequence[Samples] = (), runs: Sequence[int] = (0,),
    options: Mapping[str, Any] | None = None, net: Network | None = None, loop: TrainingSettings | None = None,
    device: str = "cpu", rated: bool = True, later: LaterStageSettings | None = None, held_out: int = 0,
) -> Training:  # fmt: skip
    """A stage about to begin, after stages on the `earlier` corpora, which a memory holds whole.

    The model is on `device`, the samples stay where they are. Targets may have gaps if they are not `rated`. The last
    `held_out` rows of each memory are looked at, and not trained on.
    """
    net, loop, kind = net or network(), loop or TrainingSettings(batch_size=16), BY_GRADIENT[strategy]
    start = parameters(net, max(runs) + 1)[list(runs)].to(device)
    own = [cls.take(options or {}) for cls in kind.options]
    kept = []
    for corpus in earlier:
        times = len(runs) if kind.earlier == "memory" else 1
        trained, looked_at = torch.arange(len(corpus)).split([len(corpus) - held_out, held_out])
        allowed = None if kind.earlier == "nothing" else corpus.select(trained.repeat(times))
        then = net.unpack(start + 0.01)  # what the model knew: not what it knows now
        what = kind.keep(net, then, corpus, allowed, *own)
        kept.append(replace(what, held_out=corpus.select(looked_at.repeat(times)) if held_out else None))
    stage = Stage(
        net, start, replace(OBJECTIVES[loop.loss], rated=rated), current, kept, loop.batch_size,
        Dropout(net.dropouts, [np.random.SeedSequence([run, 0]) for run in runs], torch.device(device)),
        [np.random.default_rng([run, 1]) for run in runs],
        [np.random.default_rng([run, 2]) for run in runs],
    )  # fmt: skip
    return Training(stage, kind(stage, *own), loop, later)


def write_caches(
    folder: Path, splits: dict[str, int] | None = None, sessions: int = 0,
    dominance: Mapping[str, float] | None = None, **changes: Any,
) -> None:  # fmt: skip
    """A cache per stage whose labels follow the features through a rotation of the corpus's own.

    `dominance` gives the share of the utterances that are rated in it, by corpus; all else is the same with and without.

    No speaker is in two splits. With `sessions`, the utterances are of so many, each with two speakers of its own and
    unknown ones; without, they have none, as in older files of the format.
    """
    for seed, (name, (low, high)) in enumerate(SCALES.items()):
        random = np.random.default_rng(seed)
        names = [split for split, n in (splits or SPLITS).items() for _ in range(n)]
        n = len(names)
        hidden = random.uniform(-1, 1, (n, 2))
        acoustic = hidden @ random.standard_normal((2, ACOUSTIC_WIDTH)) + 0.1 * random.standard_normal(
            (n, ACOUSTIC_WIDTH)
        )
        text = hidden @ random.standard_normal((2, TEXT_WIDTH)) + 0.1 * random.standard_normal(
            (n, TEXT_WIDTH)
        )
        facts: dict[str, Any] = {
            "corpus": name, "release": "made up", "scale_min": low, "scale_max": high,
            "acoustic_encoder": "a", "acoustic_revision": "r1", "acoustic_pooling": "mean", "acoustic_layers": "last",
            "text_encoder": "t", "text_revision": "r1", "text_pooling": "CLS", "transcriber": "release",
            "min_duration": 3.0, "max_duration": 30.0, "sampling_rate": 16000, "precision": "float32", "limit": 0,
            "created_by": "tests", "fingerprint": name, "dropped": {},
        }  # fmt: skip
        if changes.get("acoustic_layers"):  # the first layer is what a cache without layers holds
            acoustic = np.stack([acoustic, random.standard_normal(acoustic.shape)], axis=1)
        ratings = low + (hidden + 1) / 2 * (high - low)
        speakers = [f"{'' if split == 'train' else split}{i % 4}" for i, split in enumerate(names)]
        rated = np.random.default_rng(100 + seed).random(n) < (dominance or {}).get(name, 0.0)
        later: dict[str, Any] = {}
        if sessions:
            later = {"session": [str(i % sessions + 1) for i in range(n)], "release_split": names}
            speakers = [f"{session}{'FM'[i // sessions % 2]}" for i, session in enumerate(later["session"])]
        write_cache(
            folder / f"{name}.h5",
            CacheInfo(**{**facts, **changes}),
            {
                "id": [f"{name}-{i}" for i in range(n)],
                "speaker": [speaker if i % 5 else "Unknown" for i, speaker in enumerate(speakers)],
                "gender": ["Unknown"] * n,
                "split": names,
                "transcript": [""] * n,
                "duration": np.full(n, 4.0),
                "activation": ratings[:, 0],
                "valence": ratings[:, 1],
                "dominance": np.where(rated, low + (hidden.mean(axis=1) + 1) / 2.5 * (high - low), np.nan),
                "acoustic": acoustic,
                "text": text,
                **later,
            },
        )
