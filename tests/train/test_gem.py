"""GEM's projection against a brute-force solution of the same problem."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.worlds import samples
from train.model import Architecture, EmotionModel
from train.objective import ccc_loss
from train.strategies import STRATEGIES, StrategySettings
from train.strategies.gem import project


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


def violation(answer: np.ndarray, g: np.ndarray, memories: np.ndarray) -> float:
    """The worst negative product, relative to the lengths of the gradient and the memory."""
    lengths = np.linalg.norm(memories, axis=1) * np.linalg.norm(g)
    return float(max(0.0, (-(memories @ answer) / lengths).max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_brute_force(dtype: torch.dtype) -> None:
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
    g = torch.tensor([1.0, 2.0])
    assert project(g, torch.tensor([[1.0, 0.0], [0.0, 1e-6]])) is g


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
def test_awkward_memories(memories: list[list[float]]) -> None:
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


def test_a_step_harms_no_memory() -> None:
    """Inside a model: after the adjustment no memory's loss rises to first order."""
    torch.manual_seed(0)
    model = EmotionModel(Architecture(6, 5, 8, 4))
    memories = [samples(32, seed=1), samples(16, seed=3)]
    opposed = replace(memories[0], targets=-memories[0].targets)  # what the batch learns, memory unlearns
    strategy = STRATEGIES["gem"](opposed, memories, StrategySettings())
    model.eval()  # without dropout's noise the conflict is certain
    ccc_loss(model(opposed.acoustic, opposed.text), opposed.targets).backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    strategy.adjust_gradients(model, ccc_loss)
    assert model.training
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    model.eval()
    for memory in memories:
        loss = ccc_loss(model(memory.acoustic, memory.text), memory.targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        product = sum(float((a.double() * b.double()).sum()) for a, b in zip(after, gradients, strict=True))
        assert product > -1e-6
