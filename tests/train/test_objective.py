"""Losses of groups and of targets with gaps: against a literal formula of each group, by autograd in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ser_memory.train.loop import Training
from ser_memory.train.model import HEADS
from ser_memory.train.objective import OBJECTIVES, SMALLEST_GROUP, groups_of
from ser_memory.train.samples import Pool, Samples
from ser_memory.train.settings import TrainingSettings
from tests.train.reference import flat_gradient, plain, plain_ccc_loss
from tests.train.worlds import begin, network, samples

Literal = Callable[[Tensor, Tensor], Tensor]
NO_DROPOUT = {"trunk_dropout": 0.0, "text_dropout": 0.0, "head_dropout": 0.0}


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean(dim=0).sum()


LITERAL: dict[str, Literal] = {"ccc": plain_ccc_loss, "mse": squared}


def of_rated(loss: Literal, prediction: Tensor, target: Tensor) -> Tensor:
    """The loss of one batch, dimension by dimension, of what is rated."""
    total = prediction.new_zeros(())
    for p, t in zip(prediction.T, target.T, strict=True):
        rated = t.isfinite()
        if rated.any():
            total = total + loss(p[rated, None], t[rated, None])
    return total


def of_groups(loss: Literal, prediction: Tensor, target: Tensor, groups: Sequence[int]) -> Tensor:
    """For each dimension the mean over the groups that have ratings of it."""
    total, members = prediction.new_zeros(()), np.array(groups)
    for p, t in zip(prediction.T, target.T, strict=True):
        own = []
        for group in sorted(set(groups)):
            chosen = torch.from_numpy(members == group) & t.isfinite()
            if chosen.any():
                own.append(loss(p[chosen, None], t[chosen, None]))
        if own:
            total = total + sum(own, prediction.new_zeros(())) / len(own)
    return total


def made(gaps: str, runs: int = 3, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets and groups of a stack. Runs have different numbers of groups, and no run has them in order."""
    random = torch.Generator().manual_seed(4)
    prediction = torch.randn(runs, n, 3, generator=random, dtype=torch.float64)
    target = torch.randn(runs, n, 3, generator=random, dtype=torch.float64) + 0.3 * prediction
    groups = torch.stack([torch.randperm(n, generator=random) % (run + 1) for run in range(runs)])
    if gaps == "some":
        target[torch.rand(target.shape, generator=random) < 0.3] = torch.nan
    if gaps in ("a group", "a group and some"):
        target[..., 2][groups == 0] = torch.nan  # which is all of the first run
    if gaps == "a group and some":
        target[:, ::3, 0] = torch.nan
    if gaps == "a column":
        target[..., 1] = torch.nan
    if gaps == "everything":
        target[:] = torch.nan
    return prediction, target, groups


def agrees(loss: Tensor, gradient: Tensor, expected: Tensor, prediction: Tensor) -> None:
    """A loss and its gradient with what autograd makes of the literal one; nothing rated: nothing to follow."""
    if expected.requires_grad:
        expected.backward()
    own = torch.zeros_like(prediction) if prediction.grad is None else prediction.grad
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, own, rtol=1e-10, atol=1e-12)


GAPS = ["none", "some", "a group", "a group and some", "a column", "everything"]


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_not_rated_adds_nothing(name: str, gaps: str) -> None:
    prediction, target, _ = made(gaps)
    loss, gradient = replace(OBJECTIVES[name], rated=False)(prediction, target)
    for run in range(3):
        one = prediction[run].clone().requires_grad_()
        expected = of_rated(LITERAL[name], one, target[run])
        agrees(loss[run], gradient[run], expected, one)
    assert (gradient[target.isnan()] == 0).all()


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_per_group_is_the_mean_of_the_groups_own(name: str, gaps: str) -> None:
    prediction, target, groups = made(gaps)
    loss, gradient = OBJECTIVES[name].per_group(prediction, target, groups)
    for run in range(3):
        one = prediction[run].clone().requires_grad_()
        expected = of_groups(LITERAL[name], one, target[run], groups[run].tolist())
        agrees(loss[run], gradient[run], expected, one)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_group_without_gaps_is_the_whole_batch(name: str) -> None:
    prediction, target, _ = made("none")
    whole = OBJECTIVES[name](prediction, target)
    for other in (
        OBJECTIVES[name].per_group(prediction, target, torch.zeros(3, 40, dtype=torch.int64)),
        replace(OBJECTIVES[name], rated=False)(prediction, target),
    ):
        for ours, theirs in zip(other, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_without_spread_have_a_finite_gradient(dtype: torch.dtype) -> None:
    """One rated utterance, and equal constants: CCC is 0, and there is no way to better it."""
    prediction, target = torch.full((1, 4, 2), 0.25, dtype=dtype), torch.full((1, 4, 2), 0.25, dtype=dtype)
    target[0, 1:, 0] = torch.nan
    loss, gradient = replace(OBJECTIVES["ccc"], rated=False)(prediction, target)
    assert loss.tolist() == [2.0]
    assert (gradient == 0).all()


def outcomes_by_hand(
    groups: list[tuple[frozenset[int], int]], smallest: int
) -> set[frozenset[frozenset[int]]]:
    """Every way to pool: while one is too small, a smallest joins a smallest of the others. Ties go any way."""
    few = min(n for _, n in groups)
    if len(groups) == 1 or few >= smallest:
        return {frozenset(names for names, _ in groups)}
    found = set()
    for one in (group for group in groups if group[1] == few):
        others = [group for group in groups if group != one]
        least = min(n for _, n in others)
        for other in (group for group in others if group[1] == least):
            rest = [group for group in others if group != other]
            found |= outcomes_by_hand([*rest, (one[0] | other[0], one[1] + other[1])], smallest)
    return found


def is_allowed(groups: set[frozenset[int]], row: list[int], smallest: int) -> bool:
    """None is too small, unless it is the only one; a corpus that is large enough is only joined by too small ones."""
    size = {group: sum(row.count(name) for name in group) for group in groups}
    large_enough = all(n >= smallest for n in size.values()) or len(groups) == 1
    needed = all(
        sum(row.count(name) >= smallest for name in group) <= 1 for group in groups if len(group) > 1
    )
    return large_enough and needed


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 5), min_size=40, max_size=40), min_size=1, max_size=3),
    skewed=st.booleans(),
    smallest=st.integers(1, 20),
)
def test_small_corpora_are_pooled_as_the_rule_says(
    rows: list[list[int]], skewed: bool, smallest: int
) -> None:
    rows = [
        [min(row[:2]) if skewed and place > 12 else name for place, name in enumerate(row)] for row in rows
    ]
    groups = groups_of(torch.tensor(rows), smallest)
    for row, numbers in zip(rows, groups.tolist(), strict=True):
        assert set(numbers) == set(range(max(numbers) + 1))  # from 0, without gaps
        found: dict[int, set[int]] = {}
        for name, number in zip(row, numbers, strict=True):
            found.setdefault(number, set()).add(name)
        assert sum(map(len, found.values())) == len(set(row))  # no corpus is in two groups
        together = {frozenset(names) for names in found.values()}
        alone = [(frozenset([name]), row.count(name)) for name in set(row)]
        assert frozenset(together) in outcomes_by_hand(alone, smallest)
        assert is_allowed(together, row, smallest)


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_parts_are_where_samples_come_from(sizes: list[int], seed: int) -> None:
    """The targets tell in which corpus each sample is; two runs have shares of their own of all but the first."""
    runs = 2
    marked = [
        replace(
            samples(n * (runs if part else 1), part),
            targets=torch.full((n * (runs if part else 1), 2), float(part)),
        )
        for part, n in enumerate(sizes)
    ]
    pool = Pool(marked[0], marked[1:], runs)
    order = np.random.default_rng(seed)
    index = torch.from_numpy(np.stack([order.permutation(sum(sizes)) for _ in range(runs)]))
    assert torch.equal(pool.parts(index).float(), pool.batch(index).targets[..., 0])
    assert torch.equal(pool.parts(index[:, ::2]), pool.parts(index)[:, ::2])  # also of a view


def gradient_of_a_step(training: Training, index: Tensor) -> Tensor:
    """(R, P) that a step hands to the optimiser."""
    training.step(index)
    gradient = training._flat.grad
    assert gradient is not None
    return gradient.clone()


def unrated(corpus: Samples, column: int) -> Samples:
    targets = corpus.targets.clone()
    targets[:, column] = torch.nan
    return replace(corpus, targets=targets)


@pytest.mark.parametrize("gaps", [False, True], ids=["rated", "with gaps"])
@pytest.mark.parametrize("loss", OBJECTIVES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("experience-replay", {}),
        ("experience-replay", {"replay_share": 0.5}),
        ("prototype-replay", {"prototype_rows": 40}),
        ("joint", {}),
    ],
)
def test_a_step_per_corpus_is_autograds(name: str, options: dict[str, Any], loss: str, gaps: bool) -> None:
    """Of the mean of the corpora's own losses, written out, with the corpora found by hand."""
    heads = HEADS if gaps else HEADS[:2]
    current, earlier = samples(90, 0, len(heads)), [samples(60, 1, len(heads)), samples(50, 2, len(heads))]
    if gaps:
        earlier[0] = unrated(earlier[0], 2)
    net = network(**NO_DROPOUT, heads=heads)
    training = begin(
        name, current, earlier, (0, 1), {**options, "replay_loss": "per-corpus"}, net,
        TrainingSettings(batch_size=120, loss=loss), rated=not gaps,
    )  # fmt: skip
    start = training.stage.start.clone()
    batches = training.strategy.batches()
    index = next(batches)
    batch = training.strategy.pool.batch(index)
    groups = groups_of(training.strategy.pool.parts(index))
    assert len(groups.unique()) == 3
    assert min(groups.flatten().bincount()) >= SMALLEST_GROUP
    ours = gradient_of_a_step(training, index)
    for run in range(2):
        model = plain(net, start[run].double())
        prediction = model(batch.acoustic[run].double(), batch.text[run].double())
        of_groups(LITERAL[loss], prediction, batch.targets[run].double(), groups[run].tolist()).backward()
        torch.testing.assert_close(ours[run].double(), flat_gradient(net, model), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("gaps", [False, True], ids=["rated", "with gaps"])
def test_a_step_of_der_per_corpus_is_autograds(gaps: bool) -> None:
    """The plain loss of the new corpus, the distance to the answers, and the loss of each memory of its own."""
    heads = HEADS if gaps else HEADS[:2]
    current, earlier = samples(50, 0, len(heads)), [samples(40, 1, len(heads)), samples(60, 2, len(heads))]
    if gaps:
        earlier[0] = unrated(earlier[0], 2)
    net = network(**NO_DROPOUT, heads=heads)
    options = {"replay_loss": "per-corpus", "der_alpha": 0.3, "der_beta": 0.8}
    training = begin(
        "der++", current, earlier, (0,), options, net, TrainingSettings(batch_size=50), rated=not gaps
    )
    start, generator = training.stage.start.clone(), np.random.default_rng([0, 2])
    answered, remembered = (generator.permutation(100)[:50] for _ in range(2))
    index = next(training.strategy.batches())
    ours = gradient_of_a_step(training, index)
    whole = Samples.concatenate(earlier)
    with torch.no_grad():
        then = plain(net, start[0].double() + 0.01)  # what the model knew: see `begin`
        answers = then(whole.acoustic.double(), whole.text.double())
    if gaps:
        answers[:40, 2] = torch.nan  # the first corpus knows nothing of it
    model = plain(net, start[0].double())

    def predicted(of: Samples, rows: np.ndarray) -> Tensor:
        made: Tensor = model(of.acoustic[rows].double(), of.text[rows].double())
        return made

    new = index[0].numpy()
    total = of_rated(plain_ccc_loss, predicted(current, new), current.targets[new].double())
    total = total + 0.3 * of_rated(squared, predicted(whole, answered), answers[answered])
    corpora = [int(row >= 40) for row in remembered]
    old = of_groups(plain_ccc_loss, predicted(whole, remembered), whole.targets[remembered].double(), corpora)
    (total + 0.8 * old).backward()
    torch.testing.assert_close(ours[0].double(), flat_gradient(net, model), rtol=1e-3, atol=2e-5)


def test_a_batch_of_one_corpus_has_the_plain_loss() -> None:
    """Without a corpus before it, and where all others are too few to stand alone."""
    current = samples(90, 0)
    for earlier in ([], [samples(6, 1)]):
        step = [
            gradient_of_a_step(training, next(training.strategy.batches()))
            for loss in ("pooled", "per-corpus")
            for training in [begin("joint", current, earlier, options={"replay_loss": loss})]
        ]
        torch.testing.assert_close(step[0], step[1], rtol=1e-4, atol=1e-6)
