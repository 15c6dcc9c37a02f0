"""What a bundle keeps of one corpus, and the attacks that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ser_memory.common.errors import SerError, UsageError
from ser_memory.train.audit import attacks
from ser_memory.train.audit.rows import Corpus, Heard, known_ids
from ser_memory.train.bundle import Bundle, Seen, distances_from, model_of
from ser_memory.train.members import HELD_OUT, MEASURED, TRAINED_ON, read_members
from ser_memory.train.runs import Variant
from ser_memory.train.samples import Batch, Samples
from ser_memory.train.strategies import Kept
from ser_memory.train.strategies.analytic import Analytic

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNCHOSEN, TEST, OTHER_TESTS = "unchosen training rows", "test rows", "other test rows"


@dataclass(frozen=True)
class Attack:
    """Scores of rows, higher for members, and who is a member."""

    what: str
    name: str
    # (n,), or (n, 2) with the number of the member that the row is taken for.
    score: Callable[[Heard], Floats]
    members: Integers
    others: Integers
    compared_with: str
    shifted: bool = False  # the others are another split, with other speakers


class Target:
    """A bundle and one of its corpora, from which the attacks follow."""

    def __init__(
        self, bundle: Bundle, seen: Seen, corpus: Corpus, members: Path | None, before: Bundle | None
    ) -> None:
        """`members` is the members.csv of the run. Raises SerError or UsageError if it does not fit the bundle."""
        if before is not None:
            _refuse_before(bundle, before, seen)
        self.corpus = corpus
        self._bundle, self._before = bundle, before
        self._place = [each.name for each in bundle.info.seen].index(seen.name)
        self._kept = _kept(bundle, self._place)
        estimate = bundle.estimates[self._place]
        parts = {TRAINED_ON: self._kept.samples, HELD_OUT: self._kept.held_out, MEASURED: estimate}
        rows = _rows_of(
            {use: len(part) for use, part in parts.items() if part is not None}, bundle, corpus, members
        )
        # Rows of the cache, as the bundle has them.
        self.memory = np.concatenate([rows[TRAINED_ON], rows[HELD_OUT]])
        self.measured = rows[MEASURED]
        held = [part for part in (self._kept.samples, self._kept.held_out) if part is not None]
        self.remembered = Samples.concatenate(held) if held else None
        self._estimate = estimate

    @property
    def audited(self) -> str:
        """What the bundle keeps of the corpus."""
        if self.remembered is not None:
            kept = f"a memory of {len(self.memory)} utterances"
        elif self._kept.sums:
            kept = "no utterance, but sums over the training rows of all corpora"
        elif self._kept.prototypes is not None:
            kept = "no utterance, but means and covariances per cell of labels"
        else:
            kept = "no utterance, only parameters and the statistics that every bundle has"
        more = f", and {len(self.measured)} test utterances for estimates" if len(self.measured) else ""
        return f"The bundle of {self._bundle.info.title} keeps {kept}{more}, of {self.corpus.name}."

    @property
    def untried(self) -> list[str]:
        """What the bundle keeps of the corpus and no attack is aimed at."""
        return [
            name for name in ("answers", "parameters", "importance") if getattr(self._kept, name) is not None
        ]

    def attacks(self) -> Iterator[Attack]:
        """All attacks on what is there."""
        train, test = self.corpus.train, self.corpus.test
        if self.remembered is not None:
            unchosen = np.setdiff1d(train, self.memory)
            others, compared = (unchosen, UNCHOSEN) if len(unchosen) else (test, TEST)
            yield from self._on_rows("memory", self.remembered, self.memory, others, compared)
            yield Attack(
                "memory", "errors of the model", self._errors, self.memory, others, compared, compared == TEST
            )
        if self._estimate is not None:
            rest = np.setdiff1d(test, self.measured)
            yield from self._on_rows("estimates", self._estimate, self.measured, rest, OTHER_TESTS)
        yield from self._on_sums()
        yield from self._on_prototypes()
        yield from self._on_model()
        yield from self._on_statistics()

    def _on_rows(
        self, what: str, kept: Samples, members: Integers, others: Integers, compared_with: str
    ) -> Iterator[Attack]:
        rows = {"acoustic": kept.acoustic.flatten(1).numpy(), "text": kept.text.numpy()}

        def score(heard: Heard, name: str) -> Floats:
            distances, places = attacks.nearest(heard.flat if name == "acoustic" else heard.text, rows[name])
            return np.stack([-distances, places], axis=1)

        for name in rows:
            yield Attack(
                what, f"nearest row, {name}", partial(score, name=name), members, others, compared_with,
                shifted=compared_with == TEST,
            )  # fmt: skip

    def _on_sums(self) -> Iterator[Attack]:
        if not self._kept.sums:
            return
        products = _products(self._kept)
        yield from self._on_products(products, "sums")
        if self._before is not None:
            between = products - _products(_kept(self._before, 0))
            yield from self._on_products(between, "sums, difference of two bundles")

    def _on_products(self, products: Floats, what: str) -> Iterator[Attack]:
        model = model_of(self._bundle.info)
        assert isinstance(model, Analytic)
        attack = attacks.SumsAttack.on(products)

        def features(heard: Heard) -> npt.NDArray[np.float32]:
            return model.features(Batch(*map(torch.from_numpy, heard)))

        yield self._of_training(what, "outside the span", lambda heard: attack.inside_span(features(heard)))
        yield self._of_training(what, "leverage", lambda heard: attack.leverage(features(heard)))

    def _on_prototypes(self) -> Iterator[Attack]:
        made = self._kept.prototypes
        if made is None:
            return
        there, columns = made.counts > 0, made.means.shape[1] - made.dimensions
        means, factors = made.means[there, :columns], made.factors[there, :columns]

        def score(heard: Heard, which: int) -> Floats:
            rows = np.concatenate([heard.flat, heard.text], axis=1)
            return attacks.near_subspaces(rows, means, factors)[which]

        for which, name in enumerate(["distance to a cell's subspace", "Mahalanobis in the subspace"]):
            yield self._of_training("prototypes", name, partial(score, which=which))

    def _on_model(self) -> Iterator[Attack]:
        yield self._of_training("model", "errors", self._errors)
        before = self._before
        if before is not None:
            yield self._of_training(
                "model, two bundles", "errors that became smaller",
                lambda heard: self._errors(heard) - self._errors(heard, before),
            )  # fmt: skip

    def _on_statistics(self) -> Iterator[Attack]:
        bundle, place = self._bundle, self._place
        mean, variance, words = bundle.means[place], bundle.variances[place], bundle.text_means[place]
        radius = bundle.info.seen[place].radius

        def distance(heard: Heard) -> Floats:
            return distances_from(heard.acoustic, mean, variance)

        yield self._of_training("mean and variance", "distance", lambda heard: -distance(heard))
        yield self._of_training(
            "quantile of distances", "distance to it", lambda heard: -np.abs(distance(heard) - radius)
        )
        yield self._of_training(
            "mean of texts", "distance", lambda heard: -np.linalg.norm(heard.text - words, axis=1)
        )

    def _of_training(self, what: str, name: str, score: Callable[[Heard], Floats]) -> Attack:
        """An attack on what was made of all training rows; test rows were not used."""
        return Attack(what, name, score, self.corpus.train, self.corpus.test, TEST, shifted=True)

    def _errors(self, heard: Heard, bundle: Bundle | None = None) -> Floats:
        made = (bundle or self._bundle).predict(heard.acoustic, heard.text)
        return np.nan_to_num(attacks.small_errors(made, heard.targets), nan=-np.inf)


def _kept(bundle: Bundle, place: int) -> Kept:
    """What is kept of a corpus; closed forms keep one thing of all corpora."""
    return bundle.kept[place if len(bundle.kept) > place else 0]


def _products(kept: Kept) -> Floats:
    """(F, F) sums of products of features over all utterances, whatever they are rated in."""
    return np.asarray(np.sum([each.products for each in (kept.sums or {}).values()], axis=0))


def _rows_of(
    sizes: dict[str, int], bundle: Bundle, corpus: Corpus, members: Path | None
) -> dict[str, Integers]:
    """By use, the rows of the cache that are in the bundle; `sizes` are how many it has.

    Raises UsageError if members.csv is needed, and SerError if it does not fit.
    """
    rows = dict.fromkeys((TRAINED_ON, HELD_OUT, MEASURED), np.zeros(0, np.int64))
    if not sizes:
        return rows
    info = bundle.info
    if members is None:
        raise UsageError(
            f"The bundle keeps {sum(sizes.values())} utterances of {corpus.name}: say which they are with --members "
            "RUN/members.csv."
        )
    variant = Variant(info.strategy, info.sampler, info.memory_size)
    listed = read_members(members, corpus.name, variant, info.seed, info.stage, info.fold)
    for use, size in sizes.items():
        ids = listed.get(use, [])
        if len(ids) != size:
            raise SerError(
                f"{members} lists {len(ids)} utterances of {corpus.name} that are {use}, and the bundle keeps {size}: give "
                "the members file of the run that wrote the bundle."
            )
        rows[use] = known_ids(corpus, ids, members, of_training=use != MEASURED)
    return rows


def _refuse_before(bundle: Bundle, before: Bundle, seen: Seen) -> None:
    """Raise UsageError if two bundles cannot be compared."""
    for name in ("strategy", "architecture", "seed"):
        ours, theirs = getattr(bundle.info, name), getattr(before.info, name)
        if ours != theirs:
            raise UsageError(
                f"--before has another {name} ({theirs}) than the bundle ({ours}): give an earlier bundle of the same run."
            )
    if seen.name in [each.name for each in before.info.seen]:
        raise UsageError(
            f"The bundle of --before has learned from {seen.name} too: give an earlier one, or the cache of a corpus that "
            "only the later one has learned from."
        )
