"""What every strategy and every sampler must keep to; a new registry entry is covered without an edit."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_memory.common.options import Options, names_of
from ser_memory.train.corpora import Source
from ser_memory.train.engines import engine_for
from ser_memory.train.experiment import plan
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.loop import Trained
from ser_memory.train.memory.samplers import SAMPLERS
from ser_memory.train.plan import Experiment
from ser_memory.train.results import tabulate
from ser_memory.train.runs import Run
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy, option_classes
from ser_memory.train.strategies.analytic import joined
from ser_memory.train.trainer import Trainer
from tests.train.worlds import BY_GRADIENT, begin, corpora, network, parameters, samples

QUICK = TrainingSettings(batch_size=16, epochs=3, patience=3, learning_rate=1e-3)
STAGES = ("msp-podcast", "msp-improv", "iemocap")


def trained(strategy: str, with_earlier: bool, **options: Any) -> Trained:
    earlier = [samples(20, 1), samples(30, 2)] if with_earlier else []
    training = begin(strategy, samples(50, 0), earlier, loop=QUICK, options=options)
    return training.run(samples(20, 3))[0]


# Another value than the default for every option of every strategy.
OTHER: dict[str, Any] = {
    "replay_share": 0.5, "gem_margin": 0.1, "gem_batch": 8, "der_alpha": 0.1, "der_beta": 0.9,
    "ewc_strength": 1e4, "lwf_strength": 3.0, "replay_loss": "per-corpus", "analytic_features": 20, "analytic_ridge": 100.0,
    "prototype_rank": 1, "prototype_minimum": 4, "prototype_rows": 20,
}  # fmt: skip


# What `Kept` may hold; whether these are samples in disguise is checked for each.
ALLOWED = {"samples", "answers", "parameters", "importance", "prototypes", "rated"}


def near(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> bool:
    """Whether any of (M, V) others is one of the (N, V) rows, or its negative."""
    distances = [np.abs(rows[:, None] - sign * others[None]).max(axis=2).min() for sign in (1, -1)]
    return bool(min(distances) < 1e-3)


def test_every_option_is_tried() -> None:
    assert set(OTHER) == set(names_of(*option_classes()))


def stage_key(name: str, later: LaterStageSettings | None = None, seed: int = 0, **changes: Any) -> str:
    """The fingerprint of a second stage."""
    options: tuple[Options, ...] = tuple(cls.take(changes) for cls in option_classes())
    (variant,) = StrategySettings(strategy=(name,)).variants
    experiment = Experiment((variant,), STAGES, (seed,), QUICK, options, later or LaterStageSettings())
    keys = Fingerprints(experiment, corpora(), network().architecture, torch.device("cpu"))
    return keys.of(Run(variant, seed), 2)


@pytest.mark.parametrize("name", BY_GRADIENT)
class TestGradientStrategy:
    def test_without_earlier_corpora_all_are_plain_training(self, name: str) -> None:
        """The first stage is trained once for all strategies; that is only right if they agree on it."""
        ours, plain = trained(name, with_earlier=False), trained("finetune", with_earlier=False)
        assert torch.equal(ours.parameters, plain.parameters)

    def test_same_seed_same_model(self, name: str) -> None:
        assert torch.equal(trained(name, True).parameters, trained(name, True).parameters)

    def test_what_came_before_matters(self, name: str) -> None:
        differs = not torch.equal(trained(name, True).parameters, trained(name, False).parameters)
        assert differs == (name != "finetune")

    def test_each_of_its_options_matters(self, name: str) -> None:
        usual = trained(name, True)
        for option in names_of(*STRATEGIES[name].options):
            changed = trained(name, True, **{option: OTHER[option]})
            assert not torch.equal(changed.parameters, usual.parameters), option

    def test_its_options_and_no_others_tell_finished_stages_apart(self, name: str) -> None:
        own = names_of(*STRATEGIES[name].options)
        for option, value in OTHER.items():
            assert (stage_key(name, **{option: value}) != stage_key(name)) == (option in own), option

    def test_later_stages_are_told_apart_by_what_matters_to_them(self, name: str) -> None:
        usual, remembers = stage_key(name), STRATEGIES[name].earlier == "memory"
        assert (stage_key(name, LaterStageSettings(stop_on="memory")) != usual) == remembers
        assert stage_key(name, LaterStageSettings(average="ema")) != usual
        one, other = (
            stage_key(name, LaterStageSettings(average="interpolate", average_share=share))
            for share in (0.2, 0.3)
        )
        assert (one != other) != remembers

    def test_an_epoch_goes_once_through_the_new_corpus(self, name: str) -> None:
        current = samples(50, 0)
        strategy = begin(name, current, [samples(20, 1)], (0, 1)).strategy
        steps = list(strategy.batches())
        for run in range(2):
            rows = torch.cat([index[run] for index in steps])
            assert sorted(row for row in rows.tolist() if row < 50) == list(range(50))
        acoustic = strategy.pool.batch(torch.arange(50).repeat(2, 1)).acoustic
        assert torch.equal(acoustic[1], current.acoustic)

    def test_nothing_it_was_not_allowed_is_kept(self, name: str) -> None:
        """Of an earlier corpus a strategy keeps at most the samples it says, and of others at most statistics."""
        net, train, allowed = network(), samples(50, 0), samples(8, 1)
        kind = BY_GRADIENT[name]
        own = [cls() for cls in kind.options]
        permitted = None if kind.earlier == "nothing" else allowed
        kept = kind.keep(net, net.unpack(parameters(net)), train, permitted, *own)
        held = kept.samples
        assert (held is None) == (kind.earlier == "nothing")
        assert held is None or torch.equal(held.targets, allowed.targets)
        others = [value for value in vars(kept).values() if isinstance(value, torch.Tensor)]
        assert all(value.shape in {(1, net.size), (1, len(allowed), 2), (2,)} for value in others)
        assert {name for name, value in vars(kept).items() if value is not None} <= ALLOWED
        if kept.prototypes is not None:
            rows = torch.cat([train.acoustic, train.text, train.targets], dim=1).numpy()
            statistics = [kept.prototypes.means, *np.moveaxis(kept.prototypes.factors, 2, 0)]
            assert not any(near(rows, statistic) for statistic in statistics)

    def test_data_is_left_alone_and_gradients_are_finite(self, name: str) -> None:
        current, earlier = samples(50, 0), [samples(20, 1)]
        before = copy.deepcopy((current, earlier))
        training = begin(name, current, earlier)
        training.step(next(training.strategy.batches()))
        assert torch.isfinite(training.parameters.flat).all()
        for was, now in zip([before[0], *before[1]], [current, *earlier], strict=True):
            assert torch.equal(was.acoustic, now.acoustic)
            assert torch.equal(was.targets, now.targets)


CLOSED_FORM = [name for name in STRATEGIES if name not in BY_GRADIENT]


@pytest.mark.parametrize("name", CLOSED_FORM)
class TestClosedFormStrategy:
    def model(self, name: str, seed: int = 0, **options: float) -> ClosedFormStrategy:
        kind = STRATEGIES[name]
        assert issubclass(kind, ClosedFormStrategy)
        return kind(network().architecture, seed, *(cls.take(options) for cls in kind.options))

    def solved(self, name: str, corpora: Sequence[Samples], seed: int = 0, **options: float) -> torch.Tensor:
        model = self.model(name, seed, **options)
        return model.solve(reduce(joined, [model.keep(corpus) for corpus in corpora]))

    def test_every_order_of_corpora_and_all_rows_at_once_give_the_same_model(self, name: str) -> None:
        parts = [samples(40, seed) for seed in range(3)]
        whole = self.solved(name, [Samples.concatenate(parts)])
        for order in itertools.permutations(parts):
            torch.testing.assert_close(self.solved(name, order), whole, rtol=1e-8, atol=1e-8)

    def test_each_of_its_options_matters_and_has_its_own_stages(self, name: str) -> None:
        usual = self.solved(name, [samples(50, 0)])
        for option in names_of(*STRATEGIES[name].options):
            changed = self.solved(name, [samples(50, 0)], **{option: OTHER[option]})
            assert changed.shape != usual.shape or not torch.equal(changed, usual), option
            assert stage_key(name, **{option: OTHER[option]}) != stage_key(name)

    def test_its_seed_tells_stages_apart_only_if_it_matters(self, name: str) -> None:
        for changes in ({}, OTHER):
            options = [cls.take(changes) for cls in STRATEGIES[name].options]
            kind = STRATEGIES[name]
            assert issubclass(kind, ClosedFormStrategy)
            one, other = (stage_key(name, seed=seed, **changes) for seed in (0, 1))
            assert (one != other) == kind.depends_on_seed(*options)
            one_model, other_model = (self.solved(name, [samples(50, 0)], seed, **changes) for seed in (0, 1))
            assert torch.equal(one_model, other_model) != kind.depends_on_seed(*options)

    def test_no_samples_are_kept_and_bytes_are_those_of_what_is_kept(self, name: str) -> None:
        for changes in ({}, OTHER):
            model = self.model(name, **changes)
            kept = model.keep(samples(50, 0))
            assert kept.samples is None
            (names,) = model.patterns(samples(50, 0))
            assert names == network().architecture.dimensions
            assert kept.size == model.kept_bytes(names)
            assert model.solve(kept).shape == (model.size,)


@pytest.mark.parametrize("name", STRATEGIES)
class TestStrategy:
    def test_a_whole_experiment(self, name: str, tmp_path: Path) -> None:
        store, chosen = Store(tmp_path), StrategySettings(strategy=(name,), memory_size=(10,))
        experiment = Experiment(chosen.variants, STAGES, (0,), QUICK)
        trainer = Trainer(experiment, corpora(), store, torch.device("cpu"))
        engine = engine_for(experiment, Source(tmp_path, STAGES), store, trainer, jobs=1)
        outcomes = dict(engine.run(plan(experiment, trainer, store).tasks, lambda _: None))
        assert not any(outcome.failed for outcome in outcomes.values())
        stages = {
            (run, number): result for run, out in outcomes.items() for number, result in out.stages.items()
        }
        assert stages == plan(experiment, trainer, store).finished  # as kept in the store
        rows = tabulate(experiment, stages)
        assert {row.stage_name for row in rows} == {"P", "P+M", "P+M+I"}
        # stages x corpora x evaluated splits x dimensions x measures
        assert len(rows) == 3 * 3 * 2 * 2 * 2
        assert {row.memory_size for row in rows} == {10 if STRATEGIES[name].earlier == "memory" else 0}


Array = npt.NDArray[np.int64]


@st.composite
def corpus(draw: st.DrawFn) -> tuple[Array, Array, npt.NDArray[np.float32], int, int]:
    """Bins, speakers, embeddings, n and a seed: few or many speakers, unknown ones, empty cells, ties."""
    size = draw(st.integers(1, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = random.choice(9, size, p=random.dirichlet(np.full(9, draw(st.sampled_from([0.1, 1.0, 10.0])))))
    speakers = random.integers(-1, draw(st.sampled_from([0, 1, 3, 200])), size)
    values = random.standard_normal((size, 4)) if draw(st.booleans()) else np.ones((size, 4))
    return (
        np.stack(np.divmod(cells, 3), axis=1), speakers, values.astype(np.float32),
        draw(st.integers(0, 150)), draw(st.integers(0, 1000)),
    )  # fmt: skip


def even(counts: dict[int, int], available: dict[int, int]) -> bool:
    """Whether nobody has two fewer than another, unless all of his are taken."""
    return all(
        counts[one] >= counts[other] - 1 or counts[one] == available[one]
        for one, other in itertools.permutations(available, 2)
    )


def tally(values: Array, among: Array) -> dict[int, int]:
    return {int(value): int((values == value).sum()) for value in np.unique(among)}


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", SAMPLERS)
@given(made=corpus())
def test_a_sampler_gives_that_many_different_rows(
    name: str, made: tuple[Array, Array, npt.NDArray[np.float32], int, int]
) -> None:
    bins, speakers, embeddings, n, seed = made
    before = bins.copy(), speakers.copy(), embeddings.copy()
    chosen, again = (
        SAMPLERS[name](bins, speakers, embeddings, n, np.random.default_rng(seed)) for _ in range(2)
    )
    assert chosen.dtype == np.int64
    assert len(chosen) == min(n, len(bins))
    assert (np.diff(chosen) > 0).all()  # rising, so no repeats
    assert len(chosen) == 0 or 0 <= chosen[0] <= chosen[-1] < len(bins)
    assert np.array_equal(chosen, again)
    for was, now in zip(before, (bins, speakers, embeddings), strict=True):
        np.testing.assert_array_equal(was, now)
