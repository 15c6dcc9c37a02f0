"""The finished stages of a run as bundles, in RUN/bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ser_memory.common import __version__
from ser_memory.common.cache import ENCODER_ATTRIBUTES, CacheInfo, FeatureCache
from ser_memory.common.machine import one_core_each
from ser_memory.common.manifests import stage_name
from ser_memory.common.reporting import notice, progress
from ser_memory.train.bundle import Bundle, BundleInfo, Floats, Seen, distances_from
from ser_memory.train.bundle_files import write_bundle
from ser_memory.train.bundles.card import card_of
from ser_memory.train.bundles.encoders import named, note_places
from ser_memory.train.corpora import Corpus, Source
from ser_memory.train.gradient import GradientStack
from ser_memory.train.members import HELD_OUT, MEASURED, MEMBERS, TRAINED_ON, Chosen, write_members
from ser_memory.train.memory.samplers import BY_SPEAKER
from ser_memory.train.results import BUNDLES, Outcomes
from ser_memory.train.runs import Run
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from ser_memory.train.settings import BundleSettings
from ser_memory.train.strategies import STRATEGIES, Kept
from ser_memory.train.trainer import Stack, Trainer
from ser_memory.train.workbench import generator

_RADIUS = 0.99  # quantile of the distances of training rows
_ROWS = 4096  # read together


def bundle_folder(output: Path, run: Run, stage: int) -> Path:
    """bundles/<strategy>[-<sampler>-<size>]/[fold-<f>/]seed-<s>/stage-<k>, where the bundle of a stage (from 1) is."""
    assert run.variant is not None
    variant = run.variant
    name = (
        f"{variant.strategy}-{variant.sampler}-{variant.memory_size}"
        if variant.memory_size
        else variant.strategy
    )
    folds = [f"fold-{run.fold}"] if run.fold else []
    return output.joinpath(BUNDLES, name, *folds, f"seed-{run.seed}", f"stage-{stage}")


def write_bundles(
    output: Path, settings: BundleSettings, trainer: Trainer, source: Source, outcomes: Outcomes
) -> list[Path]:
    """Write a bundle for every finished stage of every run but those of `joint`; returns their folders.

    One that is there with the same content stays. Raises SerError if the disk refuses.
    """
    experiment = trainer.experiment
    runs = [run for run in experiment.runs if STRATEGIES[run.strategy].earlier != "corpora"]
    for name in dict.fromkeys(run.strategy for run in experiment.runs if run not in runs):
        notice(f"{name} gets no bundle: what it keeps is all training utterances of its corpora.")
    stages = [
        (run, number)
        for run in runs
        for number in experiment.numbers
        if (experiment.owner(run, number), number) in outcomes
    ]
    writer = _Writer(settings, trainer, source, outcomes)
    note_places(output / BUNDLES, writer.encoders)
    made = []
    chosen: list[Chosen] = []
    # On one core each, as the stages were trained: what is kept has the same bits then.
    with progress("bundles", len(stages), "bundles") as advance, one_core_each(), torch.inference_mode():
        for run in runs:
            for number, bundle in writer.of_run(run, [number for each, number in stages if each == run]):
                folder = bundle_folder(output, run, number)
                write_bundle(folder, bundle, card_of(bundle.info))
                made.append(folder)
                advance(1)
            chosen += writer.chosen
    if chosen:
        write_members(
            output / MEMBERS, chosen, lambda corpus: FeatureCache(source.path(corpus)).read("id").tolist()
        )
    return made


class _Writer:
    """Makes bundles of the stages of a run."""

    def __init__(
        self, settings: BundleSettings, trainer: Trainer, source: Source, outcomes: Outcomes
    ) -> None:
        self._settings, self._trainer, self._source, self._outcomes = settings, trainer, source, outcomes
        self._caches = {name: FeatureCache(source.path(name)).info for name in source.names}
        self._statistics: dict[
            tuple[str, str], tuple[Floats, Floats, Floats, float]
        ] = {}  # by corpus and fold
        self.chosen: list[Chosen] = []  # which utterances the bundles of the last run hold

    def of_run(self, run: Run, numbers: list[int]) -> Iterator[tuple[int, Bundle]]:
        stack, experiment = self._trainer.stack([run]), self._trainer.experiment
        self.chosen = []
        for number in numbers:
            seen = [self._seen(run, each) for each in range(1, number + 1)]
            estimates = tuple(self._estimate(run, each) for each in range(1, number + 1))
            means, variances, texts = (
                np.stack(each) for each in zip(*(rows for _, rows in seen), strict=True)
            )
            kept = tuple(self._without_people(each, run) for each in stack.kept(number + 1))
            self._note(run, number, stack, kept)
            figures = self._outcomes[experiment.owner(run, number), number].figures
            info = self._info(run, number, tuple(each for each, _ in seen))
            yield (
                number,
                Bundle(
                    replace(info, figures=tuple(each for each in figures if each.fold == run.fold)),
                    self._trainer.parameters(run, number),
                    kept,
                    means, variances, texts, estimates,
                ),
            )  # fmt: skip

    def _info(self, run: Run, number: int, seen: tuple[Seen, ...]) -> BundleInfo:
        experiment, cache, encoders = self._trainer.experiment, self._cache, self.encoders
        assert run.variant is not None
        options = {
            name: value
            for each in experiment.options_of(run.strategy)
            for name, value in asdict(each).items()
        }
        training = asdict(experiment.training)
        del training["dimensions"]  # the architecture has them
        return BundleInfo(
            {**encoders, **{name: named(encoders[name]) for name in ("acoustic_encoder", "text_encoder")}},
            cache.precision, int(cache.sampling_rate), float(cache.min_duration), float(cache.max_duration),
            self._source.label_scale, self._source.layer, self._trainer.network.architecture,
            **asdict(run.variant), seed=run.seed, fold=run.fold,
            stage=number, stage_name=stage_name(experiment.stages[:number]),
            training=training, later=asdict(experiment.later_of(run.strategy)), options=options,
            memory=experiment.memory_of(run.variant).described,
            seen=seen, figures=(), language=self._settings.language, created_by=f"ser-memory {__version__}",
        )  # fmt: skip

    @property
    def encoders(self) -> dict[str, str]:
        """The attributes of the caches that tell which encoders made them."""
        return {name: str(getattr(self._cache, name)) for name in ENCODER_ATTRIBUTES}

    @property
    def _cache(self) -> CacheInfo:
        """The cache whose encoders count: all are the same but for their places."""
        return self._caches[self._source.names[0]]

    def _seen(self, run: Run, number: int) -> tuple[Seen, tuple[Floats, Floats, Floats]]:
        """What is known of the corpus of a stage, and its statistics; from the bundle if the stage is in it."""
        if number <= self._trainer.experiment.begun:
            bundle = self._trainer.bundle(run)
            at = number - 1
            return bundle.info.seen[at], (bundle.means[at], bundle.variances[at], bundle.text_means[at])
        corpus = self._trainer.corpus([run], number)
        train, cache = corpus.splits["train"], self._caches[corpus.name]
        rated = train.targets.isfinite()
        *rows, radius = self._statistics_of(corpus)
        seen = Seen(
            corpus.name, float(cache.scale_min), float(cache.scale_max), len(train),
            tuple(name for name, there in zip(corpus.dimensions, rated.any(dim=0).tolist(), strict=True) if there),
            bool(rated.all()), radius, cache.transcriber,
        )  # fmt: skip
        return seen, (rows[0], rows[1], rows[2])

    def _statistics_of(self, corpus: Corpus) -> tuple[Floats, Floats, Floats, float]:
        key = corpus.name, corpus.fold
        if key not in self._statistics:
            self._statistics[key] = statistics(corpus.splits["train"])
        return self._statistics[key]

    def _estimate(self, run: Run, number: int) -> Samples | None:
        """Test utterances of the corpus of a stage, by chance; from the bundle if the stage is in it."""
        if number <= self._trainer.experiment.begun:
            return self._trainer.bundle(run).estimates[number - 1]
        tested = self._trainer.corpus([run], number).splits.get("test")
        if not self._settings.estimate_size or tested is None:
            return None
        return _without_codes(tested.select(torch.from_numpy(self._drawn(run, number, len(tested)))))

    def _drawn(self, run: Run, number: int, n: int) -> npt.NDArray[np.int64]:
        """Which of n test utterances of the corpus of a stage a bundle holds."""
        order = generator(run.seed, number, "estimate").permutation(n)
        return np.sort(order[: self._settings.estimate_size])

    def _note(self, run: Run, after: int, stack: Stack, kept: Sequence[Kept]) -> None:
        """Note which utterances the bundle of a stage holds, but for those that an earlier bundle held."""
        rows = stack.chosen(0) if isinstance(stack, GradientStack) else []
        for number in range(self._trainer.experiment.begun + 1, after + 1):
            corpus = self._trainer.corpus([run], number)
            parts: dict[str, npt.NDArray[np.int64]] = {}
            own = rows[number - 1] if rows else None
            if own is not None:
                trained = kept[number - 1].samples
                n = 0 if trained is None else len(trained)
                parts = {TRAINED_ON: own[:n], HELD_OUT: own[n:]}
            tested = corpus.splits.get("test")
            if self._settings.estimate_size and tested is not None:
                parts[MEASURED] = tested.rows.cpu().numpy()[self._drawn(run, number, len(tested))]
            self.chosen += [
                Chosen(run, after, corpus.name, use, part) for use, part in parts.items() if len(part)
            ]

    def _without_people(self, kept: Kept, run: Run) -> Kept:
        """With codes of speakers only where the sampler needs them, numbered anew: no code means the same elsewhere."""
        assert run.variant is not None
        prepare = _numbered_anew if run.variant.sampler in BY_SPEAKER else _without_codes
        rows, held_out = (None if part is None else prepare(part) for part in (kept.samples, kept.held_out))
        return replace(kept, samples=rows, held_out=held_out)


def statistics(train: Samples) -> tuple[Floats, Floats, Floats, float]:
    """(D,) means and variances of the acoustic rows, (E,) means of the text rows, and the radius that 99 % are within."""
    n = len(train)
    sums = [(a.sum(axis=0, dtype=np.float64), b.sum(axis=0, dtype=np.float64)) for a, b in _blocks(train)]
    mean, words = (np.sum(each, axis=0) / n for each in zip(*sums, strict=True))
    variance = np.sum([((a - mean) ** 2).sum(axis=0) for a, _ in _blocks(train)], axis=0) / n
    made: list[Floats] = [each.astype(np.float32) for each in (mean, variance, words)]
    distances = np.concatenate([distances_from(a, *made[:2]) for a, _ in _blocks(train)])
    radius = float(np.quantile(distances, _RADIUS))
    return made[0], made[1], made[2], radius or 1.0  # 0 if all rows are the same


def _blocks(train: Samples) -> Iterator[tuple[Floats, Floats]]:
    """Acoustic rows, of several layers their mean, and text rows."""
    for batch in train.batches(_ROWS):
        acoustic = batch.acoustic.cpu().numpy()
        yield (acoustic if acoustic.ndim == 2 else acoustic.mean(axis=1)), batch.text.cpu().numpy()  # noqa: PLR2004


def _without_codes(rows: Samples) -> Samples:
    return replace(rows, speakers=torch.full_like(rows.speakers, UNKNOWN_SPEAKER))


def _numbered_anew(rows: Samples) -> Samples:
    """With the codes of speakers as 0, 1, ... in their order, which is all that a sampler needs."""
    known = rows.speakers.clamp(min=0)
    _, codes = torch.where(rows.speakers < 0, torch.iinfo(torch.int64).max, known).unique(return_inverse=True)
    return replace(rows, speakers=torch.where(rows.speakers < 0, UNKNOWN_SPEAKER, codes))
