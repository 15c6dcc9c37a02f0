"""What makes a result mean nothing: reported before training where it can be seen, and afterwards elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.labels import to_bins
from ser_memory.common.machine import memory
from ser_memory.common.manifests import stage_name
from ser_memory.common.protocols import NEEDED
from ser_memory.common.variation import flat_splits, same_in_all
from ser_memory.train.corpora import Corpus
from ser_memory.train.gradient import remembered
from ser_memory.train.memory.samplers import BY_EMOTION, BY_SPEAKER
from ser_memory.train.objective import SMALLEST_GROUP
from ser_memory.train.plan import SMALLEST_TO_SPLIT, Experiment, held_out_of
from ser_memory.train.results import FEW, Outcomes, Result, of_few
from ser_memory.train.runs import NO_SAMPLER, POOLED, Variant, shares_first_stage
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy
from ser_memory.train.strategies.experience_replay import ExperienceReplayOptions
from ser_memory.train.strategies.mixture import PER_CORPUS, ReplayLossOptions
from ser_memory.train.trainer import network_for

_SMALL = 32  # a larger memory has different labels, unless nearly all labels of its corpus are the same
_NEARLY_ALL = 0.99
_SHOWN = 3  # cases that a sentence names
# Why a model predicts one value, by whether its strategy trains by gradient steps.
_REASONS = {
    True: "these models have learned nothing there. Try another --learning-rate, more --epochs or another --loss.",
    False: "the closed form found no positive correlation of the features with these labels, or no corpus so far rates "
    "them.",
}
_ZERO = 1e-6  # of a CCC: the predictions differ by rounding, if at all


def refuse_impossible(experiment: Experiment, corpora: Sequence[Corpus], jobs: int) -> None:
    """Raise UsageError for what a strategy cannot do with these corpora on this machine."""
    _refuse_small_corpora(experiment, corpora)
    architecture = network_for(corpora).architecture
    for variant in experiment.variants:
        strategy = STRATEGIES[variant.strategy]
        if not issubclass(strategy, ClosedFormStrategy):
            continue
        if architecture.layers:
            raise UsageError(
                f"--layer weighted learns a mixture of layers by gradient steps, and {variant.strategy} takes none: "
                "choose one layer, or another strategy."
            )
        options = experiment.options_of(variant.strategy)
        together = min(jobs, len(experiment.seeds)) if strategy.depends_on_seed(*options) else 1
        model = strategy(architecture, experiment.seeds[0], *options)
        needed = together * model.working_bytes
        if needed > memory():
            raise UsageError(
                f"{variant.strategy} with so many features needs {needed / 1e9:,.0f} GB of memory, and this machine has "
                f"{memory() / 1e9:,.0f} GB: lower --analytic-features{' or --jobs' if together > 1 else ''}."
            )


def _refuse_small_corpora(experiment: Experiment, corpora: Sequence[Corpus]) -> None:
    """Raise UsageError for a corpus whose memory is too small to look at a fifth of it."""
    if not experiment.holding_out:
        return
    for fold in _folds(corpora[:-1]):
        n = len(fold.splits["train"])
        if n < SMALLEST_TO_SPLIT:
            raise UsageError(
                f"{fold.title} has {n} training utterances, too few for {experiment.later.why_held_out}, which looks at a "
                f"fifth of each memory: {SMALLEST_TO_SPLIT} or more are needed, so leave the option out."
            )


def unchanged(experiment: Experiment, outcomes: Outcomes) -> list[str]:
    """A sentence about stages that changed nothing, because the old parameters alone were best."""
    places = dict.fromkeys(
        f"{run.strategy} at {stage_name(experiment.stages[:number])}, seed {run.seed}"
        for (run, number), result in outcomes.items()
        if result.share == 0
    )
    if not places:
        return []
    return [
        "--average interpolate chose none of the new parameters, so the stage changed nothing: "
        f"{listing(places, most=3)}."
    ]


def before_training(experiment: Experiment, corpora: Sequence[Corpus], bundles: bool = False) -> list[str]:
    """Sentences about splits, samplers and memories that cannot do what they are there for.

    With `bundles`, what the last corpus is remembered by leaves the machine too.
    """
    found: list[str] = []
    for corpus in corpora if bundles else corpora[:-1]:
        found += _whole(experiment, corpus)
    for fold in _folds(corpora):
        found += flat_splits(fold.title, _labels(fold), fold.dimensions)
        found += _unrated(fold)
    found += _few(corpora)
    found += _few_held_out(experiment) if len(experiment.stages) > 1 else []
    found += _always_pooled(experiment, corpora)
    for number, corpus in zip(experiment.numbers, corpora[:-1], strict=False):
        for fold in corpus.each_fold:
            found += _samplers(experiment, fold)
            found += _memories(experiment, fold, number)
    return found


def after_training(results: Iterable[Result], corpora: Sequence[Corpus]) -> list[str]:
    """A sentence about figures that are 0 because a model predicts one value for a whole split."""
    flat = {
        (fold.title, split, dimension)
        for fold in _folds(corpora)
        for split, labels in _labels(fold).items()
        for dimension in same_in_all(labels, fold.dimensions)
    }
    named = {corpus.name: corpus for corpus in corpora}
    zero = [
        result
        for result in results
        if result.metric == "ccc"
        and result.fold != POOLED
        and abs(result.value) < _ZERO
        and (named[result.corpus].at(result.fold).title, result.split, result.dimension) not in flat
    ]
    found = []
    for by_gradient, reason in _REASONS.items():
        places = dict.fromkeys(
            _place(result) for result in zero if STRATEGIES[result.strategy].by_gradient == by_gradient
        )
        if places:
            found.append(
                f"CCC is 0 because the model predicts one value for the whole split, {_listed(list(places))}: {reason}"
            )
    return found


def _place(result: Result) -> str:
    """Which figure it is."""
    return (
        f"{result.dimension} of {result.corpus} {result.split} at stage {result.stage_name}, "
        f"{'all strategies' if _shared(result) else result.strategy}, seed {result.seed}"
        f"{f', fold {result.fold}' if result.fold else ''}"
    )


def _listed(cases: Sequence[str]) -> str:
    """How many, and the first of them."""
    shown = "; ".join(cases[:_SHOWN])
    return f"in {len(cases)} case{'' if len(cases) == 1 else 's'} ({shown}{'; ...' if len(cases) > _SHOWN else ''})"


def _shared(result: Result) -> bool:
    return result.stage == 1 and shares_first_stage(result.strategy)


def _few(corpora: Sequence[Corpus]) -> list[str]:
    """Splits of so few rated utterances that their figures mean very little; `flat_splits` names those of one."""
    sizes: dict[str, int] = {}
    for fold in _folds(corpora):
        for split, labels in _labels(fold).items():
            rated = np.isfinite(labels).sum(axis=0)
            flat = same_in_all(labels, fold.dimensions)
            for n in dict.fromkeys(int(n) for n in rated if n and split != "train"):
                names = [name for name, here in zip(fold.dimensions, rated, strict=True) if here == n]
                of = "" if len(names) == len(fold.dimensions) else f"{' and '.join(names)} in the "
                place = f"{of}{split} split of {'the smallest fold of ' if fold.fold else ''}{fold.name}"
                if not set(names) <= set(flat):
                    sizes[place] = min(n, sizes.get(place, n))
    return of_few(sizes)


def _few_held_out(experiment: Experiment) -> list[str]:
    """Memories of which a fifth is so small that its CCC says little."""
    sizes = dict.fromkeys(variant.memory_size for variant in experiment.holding_out)
    return [
        f"A fifth of a memory of {size} is {held_out_of(size)} utterances: their CCC says little, and "
        f"{experiment.later.why_held_out} chooses by it."
        for size in sizes
        if held_out_of(size) < FEW
    ]


def _always_pooled(experiment: Experiment, corpora: Sequence[Corpus]) -> list[str]:
    """Replay whose batches have too few remembered utterances for a loss of their own."""
    found = []
    for variant in experiment.variants:
        options = {type(each): each for each in experiment.options_of(variant.strategy)}
        loss, own = options.get(ReplayLossOptions), options.get(ExperienceReplayOptions)
        if loss is None or loss.replay_loss != PER_CORPUS or own is None or not variant.memory_size:
            continue
        for number, corpus in zip(experiment.numbers, corpora, strict=True):
            if number == 1:
                continue
            remembered_rows = (number - 1) * variant.memory_size
            share = own.replay_share or remembered_rows / (remembered_rows + len(corpus.splits["train"]))
            rows = round(share * experiment.training.batch_size)
            if rows < SMALLEST_GROUP:
                found.append(
                    f"--replay-loss per-corpus has no effect on {variant.strategy} with a memory of "
                    f"{variant.memory_size} at {stage_name(experiment.stages[:number])}: a batch has about {rows} "
                    f"remembered utterances, and fewer than {SMALLEST_GROUP} are taken together with others. Raise "
                    "--replay-share or --batch-size."
                )
    return found


def _folds(corpora: Iterable[Corpus]) -> list[Corpus]:
    """Every corpus in each of its folds."""
    return [fold for corpus in corpora for fold in corpus.each_fold]


def _labels(corpus: Corpus) -> dict[str, npt.NDArray[np.float32]]:
    return {split: samples.targets.cpu().numpy() for split, samples in corpus.splits.items()}


def _whole(experiment: Experiment, corpus: Corpus) -> list[str]:
    """Memories that are as large as their corpus, since they forget nothing and hide nothing."""
    sizes = dict.fromkeys(variant.memory_size for variant in experiment.variants if variant.memory_size)
    found = []
    for fold in corpus.each_fold:
        held = len(fold.splits["train"])
        whole = [size for size in sizes if size >= held]
        which = f" of {listing(whole)} utterances" if whole and len(sizes) > 1 else ""
        if whole:
            found.append(f"The memory{which} of {fold.title} holds all of its {held} training utterances.")
    return found


def _unrated(corpus: Corpus) -> list[str]:
    """Splits that training needs without any rating of a dimension that the corpus rates elsewhere."""
    rated = {
        split: [
            name
            for name, column in zip(corpus.dimensions, labels.T, strict=True)
            if np.isfinite(column).any()
        ]
        for split, labels in _labels(corpus).items()
    }
    somewhere = {name for names in rated.values() for name in names}
    found = []
    for split in NEEDED:
        absent = [name for name in corpus.dimensions if name in somewhere and name not in rated[split]]
        if absent:
            others = (
                f"early stopping goes by {' and '.join(rated[split])} alone"
                if rated[split]
                else "the first epoch is kept"
            )
            effect = "a model learns nothing about it there" if split == "train" else others
            found.append(
                f"The {split} split of {corpus.title} has no ratings of {' and '.join(absent)}, though the corpus has: "
                f"{effect}."
            )
    return found


def _samplers(experiment: Experiment, corpus: Corpus) -> list[str]:
    """Samplers that cannot choose as they are meant to."""
    train = corpus.splits["train"]
    chosen = {
        variant.sampler: None
        for variant in experiment.variants
        if variant.sampler != NO_SAMPLER and variant.memory_size < len(train)
    }
    found = []
    codes = train.speakers.cpu().numpy()
    known = len(np.unique(codes[codes >= 0]))
    by_speaker = [name for name in BY_SPEAKER if name in chosen]
    if by_speaker and known < 2:  # noqa: PLR2004
        found.append(
            f"The training split of {corpus.title} has {known or 'no'} known speaker{'' if known == 1 else 's'}: the "
            f"sampler {listing(by_speaker)} cannot spread its memory over speakers."
        )
    by_emotion = [name for name in BY_EMOTION if name in chosen]
    if by_emotion and len(np.unique(to_bins(train.labels.cpu().numpy()), axis=0)) == 1:
        found.append(
            f"The training split of {corpus.title} is in one cell of {' and '.join(DIMENSIONS)}: the sampler "
            f"{listing(by_emotion)} cannot spread its memory over emotions."
        )
    return found


def _memories(experiment: Experiment, corpus: Corpus, number: int) -> list[str]:
    """Memories from whose CCC nothing can be learned."""
    if experiment.training.loss != "ccc":
        return []
    train = corpus.splits["train"]
    targets = train.targets.cpu().numpy()
    found: dict[str, list[str]] = {}
    memories = dict.fromkeys(
        Variant("", each.sampler, each.memory_size)
        for each in experiment.variants
        if each.sampler != NO_SAMPLER
    )
    for variant in memories:
        if not _may_be_flat(targets, min(variant.memory_size, len(train))):
            continue
        for seed in experiment.seeds:
            flat = same_in_all(targets[remembered(train, variant, seed, number)], corpus.dimensions)
            if flat:
                which = f"{variant.sampler}, {variant.memory_size} utterances, seed {seed}"
                found.setdefault(" and ".join(flat), []).append(which)
    return [
        f"The memory of {corpus.title} has the same {names} in all of its utterances ({'; '.join(which[:3])}"
        f"{'; ...' if len(which) > 3 else ''}): its CCC of {names} is always 0, so it keeps nothing of it. "  # noqa: PLR2004
        "Choose a larger --memory-size or another --sampler."
        for names, which in found.items()
    ]


def _may_be_flat(targets: npt.NDArray[np.float32], size: int) -> bool:
    """Whether it is worth to choose a memory in order to look at its labels."""
    rated = [column[np.isfinite(column)] for column in targets.T]
    most = max(np.unique(column, return_counts=True)[1].max(initial=0) for column in rated)
    return bool(most >= size and (size <= _SMALL or most > _NEARLY_ALL * len(targets)))
