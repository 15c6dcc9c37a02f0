"""GEM's projection against a brute-force solution of the same problem."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ser_memory.train import projection
from ser_memory.train.model import Parameters
from ser_memory.train.samples import Samples
from ser_memory.train.settings import TrainingSettings
from tests.train.reference import flat_gradient, plain, plain_ccc_loss
from tests.train.worlds import begin, samples


def brute_force(g: np.ndarray, memories: np.ndarray) -> np.ndarray:
    """The closest vector with no negative product: every subset of constraints is tried as the active set.

    On a face where the constraints A are met with equality the closest vector is g less its part in the
    row space of A; the best feasible of all faces is the answer. Unlike the dual, this is exponential.
    """
    best: np.ndarray | None = None
    best_distance = np.inf
    lengths = np.linalg.norm(memories, axis=1)
    for size in range(len(memories) + 1):
        for active in itertools.combinations(range(len(memories)), size):
            rows = memories[list(active)] / lengths[list(active), None]
            candidate = g - rows.T @ np.linalg.lstsq(rows @ rows.T, rows @ g, rcond=None)[0] if size else g
            feasible = (memories @ candidate >= -1e-9 * lengths * np.linalg.norm(g)).all()
            distance = float(np.linalg.norm(candidate - g))
            if feasible and distance < best_distance:
                best, best_distance = candidate, distance
    assert best is not None
    return best


def problems(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random gradients, many in conflict, each memory at a scale of its own from 1e-6 to 1e6."""
    random = np.random.default_rng(11)
    made = []
    for _ in range(count):
        k, p = random.integers(1, 6), random.integers(2, 40)
        g = random.standard_normal(p)
        memories = random.standard_normal((k, p)) - random.uniform(0, 1.5) * g  # leaning against g
        scales = 10.0 ** random.uniform(-6, 6, (k, 1))
        made.append((g * 10.0 ** random.uniform(-6, 6), memories * scales))
    return made


def project(g: torch.Tensor, memories: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Of a single run."""
    return projection.project(g[None], memories[None], margin)[0]


def violation(answer: np.ndarray, g: np.ndarray, memories: np.ndarray) -> float:
    """The worst negative product, relative to the lengths of the gradient and the memory."""
    lengths = np.linalg.norm(memories, axis=1) * np.linalg.norm(g)
    return float(max(0.0, (-(memories @ answer) / lengths).max()))


@pytest.mark.parametrize("enumerated", [0, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_brute_force(
    dtype: torch.dtype, enumerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways to solve the dual: trying all sets of constraints, and the active-set method."""
    monkeypatch.setattr(projection, "_ENUMERATED", enumerated)
    worst_difference = worst_violation = 0.0
    conflicts = 0
    for g, memories in problems(1000):
        g32, m32 = torch.tensor(g, dtype=dtype), torch.tensor(memories, dtype=dtype)
        given, rows = g32.double().numpy(), m32.double().numpy()
        answer = project(g32, m32).double().numpy()
        conflicts += not np.array_equal(answer, given)
        expected = brute_force(given, rows)
        worst_difference = max(
            worst_difference, float(np.linalg.norm(answer - expected) / np.linalg.norm(given))
        )
        worst_violation = max(worst_violation, violation(answer, given, rows))
    print(
        f"{dtype}: {conflicts} conflicts, difference {worst_difference:.1e}, violation {worst_violation:.1e}"
    )
    assert conflicts > 500
    assert worst_difference < 1e-6
    assert worst_violation < 1e-6


def test_a_ridge_would_fail_here() -> None:
    """The checks above can fail: the original's ridge of 1e-3 leaves constraints violated at small scales."""
    g, memory = np.array([1.0, 0.0]), np.array([[-1e-2, 1e-2]])
    dual = max(0.0, -float((memory @ g)[0]) / float((memory @ memory.T)[0, 0] + 1e-3))
    ridged = g + dual * memory[0]
    assert violation(ridged, g, memory) > 0.1
    exact = project(torch.tensor(g), torch.tensor(memory)).numpy()
    assert violation(exact, g, memory) < 1e-12
    assert exact == pytest.approx([0.5, 0.5])


def test_no_conflict_leaves_the_gradient_as_it_is() -> None:
    g = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    memories = torch.tensor([[[1.0, 0.0], [0.0, 1e-6]], [[1.0, 0.0], [0.0, -1e-6]]])
    assert projection.project(g[:1], memories[:1]) is not None
    answers = projection.project(g, memories)  # the second is in conflict, the first is not
    assert torch.equal(answers[0], g[0])
    assert answers[1].tolist() == [1.0, 0.0]


def test_a_stack_is_projected_run_by_run() -> None:
    random = torch.Generator().manual_seed(0)
    g = torch.randn(40, 12, generator=random)
    memories = torch.randn(40, 3, 12, generator=random) - 0.5 * g[:, None]
    together = projection.project(g, memories)
    for run in range(40):
        expected = brute_force(g[run].double().numpy(), memories[run].double().numpy())
        np.testing.assert_allclose(together[run].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "memories",
    [
        [[-1.0, 0.0, 0.0]] * 3,  # the same memory thrice
        [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],  # opposite: nothing along this axis may remain
        [[0.0, 0.0, 0.0], [-1.0, -1.0, 0.0]],  # a memory without gradient asks for nothing
        [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 1.0, 1.0]],  # only 0 remains
        [[-1.0, 1e-5, 0.0], [-1.0, -1e-5, 0.0]],  # almost parallel
    ],
)
@pytest.mark.parametrize("enumerated", [0, 6])
def test_awkward_memories(
    memories: list[list[float]], enumerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_ENUMERATED", enumerated)
    g = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    answer = project(g, torch.tensor(memories, dtype=torch.float64)).numpy()
    with_gradient = np.array([row for row in memories if any(row)])
    assert violation(answer, g.numpy(), with_gradient) < 1e-9
    np.testing.assert_allclose(answer, brute_force(g.numpy(), with_gradient), atol=1e-9)


def test_the_margin_bounds_the_dual_from_below() -> None:
    """v >= margin, as the original has it: by hand for one memory, v = max(margin, -<g, g_k> / |g_k|^2)."""
    g, memory = (
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.tensor([[-2.0, 2.0]], dtype=torch.float64),
    )
    for margin, dual in ((0.0, 0.25), (0.1, 0.25), (0.5, 0.5)):
        expected = g + dual * memory[0]
        assert torch.allclose(project(g, memory, margin), expected)


def gradient_on(memory: Samples, training_net: object, flat: torch.Tensor) -> torch.Tensor:
    """(P,) float64 by autograd on the plain model, without dropout."""
    model = plain(training_net, flat.double()).eval()  # type: ignore[arg-type]
    batch = memory.batch(torch.arange(len(memory)))
    plain_ccc_loss(model(batch.acoustic.double(), batch.text.double()), batch.targets.double()).backward()
    return flat_gradient(training_net, model)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["gem", "a-gem"])
def test_a_step_harms_no_memory(strategy: str) -> None:
    """Inside a stack of three runs: brute force on autograd's gradients gives the same, run by run."""
    memories = [samples(32, seed=1), samples(16, seed=3)]
    opposed = replace(memories[0], targets=-memories[0].targets)  # what the batch learns, memory unlearns
    training = begin(strategy, opposed, memories, runs=(0, 1, 2))
    net, flat = training.stage.network, training.parameters.flat
    batch = torch.stack([gradient_on(opposed, net, row) for row in flat]).float()
    adjusted = training.strategy.adjust(training.parameters, batch.clone())
    constraints = memories if strategy == "gem" else [Samples.concatenate(memories)]
    for run in range(3):
        rows = torch.stack([gradient_on(memory, net, flat[run]) for memory in constraints])
        assert bool((rows @ batch[run].double() < 0).any())  # a conflict, or nothing would be tested
        expected = brute_force(batch[run].double().numpy(), rows.numpy())
        np.testing.assert_allclose(adjusted[run].numpy(), expected, atol=1e-5)
        assert violation(adjusted[run].double().numpy(), batch[run].numpy(), rows.numpy()) < 1e-5


def test_a_part_of_memory_is_drawn_for_each_run() -> None:
    """--gem-batch: constraints from other samples at each step, and other ones for each run."""
    training = begin("gem", samples(30, 0), [samples(40, 1)], runs=(0, 1), options={"gem_batch": 8})
    gem = training.strategy
    once, again = (gem._of_this_step(gem._memories[0]) for _ in range(2))  # type: ignore[attr-defined]
    assert once.targets.shape == (2, 8, 2)
    assert not torch.equal(once.targets, again.targets)
    assert not torch.equal(once.targets[0], once.targets[1])
    known = {tuple(row) for row in samples(40, 1).targets.tolist()}
    for run in range(2):
        drawn = [tuple(row) for row in once.targets[run].tolist()]
        assert len(set(drawn)) == 8
        assert set(drawn) <= known


@pytest.mark.parametrize("enumerated", [0, 6])
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["gradient", "memory", "both"])
def test_a_diverged_run_leaves_the_others_of_its_stack_alone(
    where: str, bad: float, margin: float, enumerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways to solve the dual, with a conflict in every run."""
    monkeypatch.setattr(projection, "_ENUMERATED", enumerated)
    random = torch.Generator().manual_seed(0)
    g = torch.randn(5, 12, generator=random)
    memories = torch.randn(5, 3, 12, generator=random) - 0.5 * g[:, None]
    expected = projection.project(g, memories, margin)
    if where != "memory":
        g[2, 3] = bad
    if where != "gradient":
        memories[2, 0, 4] = bad
    answers = projection.project(g, memories, margin)
    others = [0, 1, 3, 4]
    assert torch.equal(answers[others], expected[others])
    torch.testing.assert_close(answers[others], projection.project(g[others], memories[others], margin))
    if where == "memory":  # in conflict with what cannot be measured: the run must show as diverged
        assert not torch.isfinite(answers[2]).any()
    else:
        torch.testing.assert_close(answers[2], g[2], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strategy", ["gem", "a-gem"])
@pytest.mark.parametrize("corpora", [2, 7])
def test_a_run_that_diverges_ends_alone(strategy: str, corpora: int) -> None:
    """A whole stage over few and many earlier corpora: the other run of the stack is trained to its end."""
    loop = TrainingSettings(batch_size=16, epochs=3, learning_rate=1e-3)
    earlier = [samples(20, seed) for seed in range(1, corpora + 1)]
    (alone,) = begin(strategy, samples(50, 0), earlier, (0,), loop=loop).run(samples(20, 99))
    training = begin(strategy, samples(50, 0), earlier, (0, 1), loop=loop)
    training.parameters.flat[1] = math.nan
    good, bad = training.run(samples(20, 99))
    assert bad.diverged
    assert not good.diverged
    assert good.scores == pytest.approx(alone.scores, abs=1e-5)
    torch.testing.assert_close(good.parameters, alone.parameters, atol=1e-5, rtol=1e-5)


def test_changed_gradients_are_counted() -> None:
    """By run of a stack, over calls; a run whose gradient is not finite gets it back."""
    random = torch.Generator().manual_seed(3)
    changed, expected = torch.zeros(6, dtype=torch.int64), np.zeros(6, np.int64)
    for _ in range(30):
        g, memories = torch.randn(6, 9, generator=random), torch.randn(6, 2, 9, generator=random)
        g[5] = torch.nan
        g[0], memories[0] = 1.0, 1.0
        answer = projection.project(g.clone(), memories, changed=changed)
        expected += (answer.nan_to_num() != g.nan_to_num()).any(dim=1).numpy()
    assert changed.tolist() == expected.tolist()
    assert changed[[0, 5]].tolist() == [0, 0]
    assert changed.max() > 10


def test_the_share_of_bent_steps_is_of_each_epoch() -> None:
    """Counted by hand: a step is bent if a product with a memory's gradient was negative."""
    training = begin("gem", samples(50, 0), [samples(20, 1), samples(20, 2)], (0, 1))
    bent: list[list[bool]] = []
    adjust = training.strategy.adjust

    def noted(parameters: Parameters, gradient: torch.Tensor) -> torch.Tensor:
        before = gradient.clone()
        after = adjust(parameters, gradient)
        bent.append((after != before).any(dim=1).tolist())
        return after

    training.strategy.adjust = noted  # type: ignore[method-assign]
    for _ in range(3):
        bent.clear()
        for index in training.strategy.batches():
            training.step(index)
        assert training.strategy.bent_shares() == np.mean(bent, axis=0).tolist()
    assert begin("gem", samples(50, 0)).strategy.bent_shares() is None
    assert begin("finetune", samples(50, 0), [samples(20, 1)]).strategy.bent_shares() is None
