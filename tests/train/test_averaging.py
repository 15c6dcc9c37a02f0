"""How later stages are stopped and averaged: against the recurrence and a search written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ser_memory.train.engines.inline import Inline
from ser_memory.train.engines.stacked import Stacked
from ser_memory.train.experiment import plan
from ser_memory.train.gradient import GradientStack
from ser_memory.train.loop import PausedError, Trained, Training
from ser_memory.train.model import Network
from ser_memory.train.plan import Experiment
from ser_memory.train.results import StageResult
from ser_memory.train.runs import Run
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import Trainer
from tests.train.reference import plain, plain_ccc_loss
from tests.train.worlds import BY_GRADIENT, STAGES, begin, corpora, learnable, network, samples

LOOP = TrainingSettings(batch_size=16, epochs=5, patience=2, learning_rate=1e-2)
LATER = {
    "stop on memory": LaterStageSettings(stop_on="memory"),
    "interpolate": LaterStageSettings(average="interpolate", average_share=0.3),
    "ema": LaterStageSettings(average="ema", average_decay=0.9),
    "ema, stop on memory": LaterStageSettings(stop_on="memory", average="ema", average_decay=0.5),
}
WITH_MEMORY = [name for name, kind in BY_GRADIENT.items() if kind.earlier == "memory"]
HELD_OUT = 8  # of each memory below


def stage(name: str, later: LaterStageSettings | None, runs: Sequence[int] = (0, 1)) -> Training:
    """A third stage; corpora differ, so that a model which learns one forgets others."""
    earlier = [learnable(30, 1), samples(40, 2)]
    held_out = HELD_OUT if name in WITH_MEMORY else 0
    options = {"gem_batch": 8, "prototype_rows": 20}
    own = {key: value for key, value in options.items() if key.startswith(name.partition("-")[0])}
    return begin(name, learnable(50, 0), earlier, runs, own, loop=LOOP, later=later, held_out=held_out)


def literal_score(flat: Tensor, parts: Sequence[Samples]) -> list[float]:
    """The CCC of each part, the mean over the dimensions, of (P,) parameters: by the plain network and formula."""
    model = plain(network(), flat).double().eval()
    with torch.no_grad():
        losses = [
            plain_ccc_loss(model(part.acoustic.double(), part.text.double()), part.targets.double())
            for part in parts
        ]
    return [1 - float(loss) / 2 for loss in losses]


def overall(scores: Sequence[float]) -> float:
    """Validation and memory as equal halves, memory being the mean over the earlier corpora."""
    return float((scores[0] + np.mean(scores[1:])) / 2)


def own_part(held_out: Samples, run: int) -> Samples:
    return held_out.select(torch.arange(run * HELD_OUT, (run + 1) * HELD_OUT))


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_the_share_is_the_best_of_eleven(name: str) -> None:
    validation, runs = learnable(20, 3), (0, 1, 2, 3)
    training = stage(name, LATER["interpolate"], runs)
    start = training.stage.start.clone()
    kept = [part.held_out for part in training.stage.kept if part.held_out is not None]
    averaged = training.run(validation)
    best = stage(name, None, runs).run(validation)
    chosen = []
    for run in runs:
        parts = [validation, *(own_part(held_out, run) for held_out in kept)]
        assert len(parts) == 3
        tried = [
            start[run] + share / 10 * (best[run].parameters - start[run]) for share in range(11)
        ]  # fmt: skip
        scores = [overall(literal_score(flat, parts)) for flat in tried]
        chosen.append(int(np.argmax(scores)))
        torch.testing.assert_close(averaged[run].parameters, tried[chosen[-1]], rtol=1e-5, atol=1e-6)
        assert averaged[run].scores == best[run].scores
    assert min(chosen) < 10  # the choice is not an empty one


@pytest.mark.parametrize("name", [name for name in BY_GRADIENT if name not in WITH_MEMORY])
def test_without_a_memory_the_share_is_the_one_that_is_given(name: str) -> None:
    validation = samples(20, 3)
    start = stage(name, None).stage.start.clone()
    averaged, best = (stage(name, later).run(validation) for later in (LATER["interpolate"], None))
    for run in range(2):
        expected = 0.7 * start[run] + 0.3 * best[run].parameters
        torch.testing.assert_close(averaged[run].parameters, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["finetune", "experience-replay"])
def test_the_average_is_the_recurrence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step in float64. It changes no step; it is what is validated, and kept of the best epoch."""
    validation, taken = samples(20, 3), list[Tensor]()
    original = Training.step

    def noted(self: Training, index: Tensor) -> None:
        original(self, index)
        taken.append(self.parameters.flat.clone())

    with monkeypatch.context() as patched:
        patched.setattr(Training, "step", noted)
        training = stage(name, LATER["ema"])
        start = training.stage.start.double()
        per_epoch = len(list(stage(name, None).strategy.batches()))
        averaged = training.run(validation)
        steps, taken[:] = list(taken), []
        stage(name, None).run(validation)
    for ours, theirs in zip(steps, taken, strict=False):
        assert torch.equal(ours, theirs)
    average, after_epochs = start, list[Tensor]()
    for number, flat in enumerate(steps, start=1):
        average = 0.9 * average + 0.1 * flat.double()
        if number % per_epoch == 0:
            after_epochs.append(average)
    for run, one in enumerate(averaged):
        expected = [literal_score(flat[run].float(), [validation])[0] for flat in after_epochs]
        assert one.scores == pytest.approx(expected[: len(one.scores)], abs=1e-5)
        best = int(np.argmax(one.scores))
        torch.testing.assert_close(one.parameters.double(), after_epochs[best][run], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_stage_stops_on_memory_too(name: str) -> None:
    """Scores are those of validation and each run's own held-out rows; the best of them is kept."""
    validation = samples(20, 3)
    training = stage(name, LATER["stop on memory"])
    kept = [part.held_out for part in training.stage.kept if part.held_out is not None]
    for run, one in enumerate(training.run(validation)):
        best = int(np.argmax(one.scores))
        parts = [validation, *(own_part(held_out, run) for held_out in kept)]
        assert one.scores[best] == pytest.approx(overall(literal_score(one.parameters, parts)), abs=1e-5)
        assert len(one.scores) == min(best + 1 + LOOP.patience, LOOP.epochs)


@pytest.mark.parametrize("later", ["interpolate", "ema, stop on memory"])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_paused_stacked_or_alone_it_is_the_same(name: str, later: str, tmp_path: Path) -> None:
    """Paused after every epoch and continued in a new Training: the same bits. Alone: equal except for rounding."""
    store, validation = Store(tmp_path), samples(20, 3)
    unbroken, broken = stage(name, LATER[later]).run(validation), list[Trained]()
    while not broken:
        training = stage(name, LATER[later])
        states = [state for run in "01" if (state := store.paused(run)) is not None]
        if states:
            training.restore(states)
        try:
            broken = training.run(validation, pause=lambda: True)
        except PausedError:
            for run, state in zip("01", training.states(), strict=True):
                store.pause(run, state)
    (alone,) = stage(name, LATER[later], (1,)).run(validation)
    for one, other in zip(unbroken, broken, strict=True):
        assert one.scores == other.scores
        assert torch.equal(one.parameters, other.parameters)
    assert alone.scores == pytest.approx(unbroken[1].scores, abs=1e-4)
    torch.testing.assert_close(alone.parameters, unbroken[1].parameters, atol=1e-3, rtol=1e-3)


def experiment(later: LaterStageSettings, *strategies: str, seeds: Sequence[int] = (0, 1)) -> Experiment:
    chosen = StrategySettings(strategy=strategies, memory_size=(20,))
    slow = replace(LOOP, learning_rate=1e-3)  # roundings grow with every step
    return Experiment(chosen.variants, STAGES, tuple(seeds), slow, later=later)


def trainer_of(made: Experiment, folder: Path) -> Trainer:
    return Trainer(made, corpora(), Store(folder), torch.device("cpu"))


def test_the_first_stage_is_the_same_whatever_later_ones_do(tmp_path: Path) -> None:
    """It is trained once; later stages of each are its own."""
    names = [name for name in STRATEGIES if name in BY_GRADIENT]
    files = [0]
    for later in (LaterStageSettings(), *LATER.values()):
        made = experiment(later, *names, seeds=(0,))
        trainer = trainer_of(made, tmp_path)
        todo = plan(made, trainer, Store(tmp_path))
        assert ((1, Run(None, 0)) in todo.untrained) == (files == [0])
        list(Inline(trainer).run([task for task in todo.tasks if task.variant is None], lambda _: None))
        files.append(len(list(tmp_path.glob("*.safetensors"))))
        second = {trainer.keys.of(run, 2) for run in made.runs}
        assert len(second) == len(names)
    assert files == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_what_is_held_out_is_never_trained_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row that a step reads is noted by its first feature, which no other row has."""
    seen: list[set[float]] = [set(), set()]
    original = Network.forward

    def noted(self: Network, parameters: Any, acoustic: Tensor, *others: Any) -> Any:
        for run, rows in enumerate(acoustic):
            seen[run] |= set(rows[:, 0].tolist())
        return original(self, parameters, acoustic, *others)

    trainer = trainer_of(experiment(LATER["stop on memory"], name), tmp_path)
    made = trainer.corpora
    trainer.carry_out([Run(None, 0), Run(None, 1)], lambda _: None)
    monkeypatch.setattr(Network, "forward", noted)
    runs = [run for run in trainer.experiment.runs if run.variant]
    stack = trainer.stack(runs)
    assert isinstance(stack, GradientStack)
    for number in (2, 3):
        for rows in seen:
            rows.clear()
        with torch.inference_mode():
            assert stack.train(number, lambda _: None, lambda: False) == []
            kept = stack.kept(number)
        current = set(made[number - 1].splits["train"].acoustic[:, 0].tolist())
        for run in range(2):
            looked_at, memory = set[float](), set[float]()
            for part in kept:
                assert part.held_out is not None
                assert part.samples is not None
                own = part.held_out.acoustic.unflatten(0, (2, 4))[:, :, 0]
                assert own[0].tolist() != own[1].tolist()  # seeds hold out other rows
                looked_at |= set(own[run].tolist())
                memory |= set(part.samples.acoustic.unflatten(0, (2, 16))[run, :, 0].tolist())
            assert len(looked_at) == (number - 1) * 4
            assert len(memory) == (number - 1) * 16
            assert not looked_at & (memory | seen[run])
            assert current <= seen[run] <= current | memory
    # memory.csv lists the whole memory: the part that is looked at was kept too.
    for own_run in runs:
        record = trainer.store.record(trainer.keys.of(own_run, 3))
        assert record is not None
        assert sum(held.n for held in record.memory) == 2 * 20
        assert trainer.kept_bytes(own_run, 1, 1) == kept[0].size._replace(
            **{field: value // 2 for field, value in kept[0].size._asdict().items()}
        )


def results(made: Experiment, engine: type[Inline | Stacked], folder: Path) -> dict[Any, StageResult]:
    trainer = trainer_of(made, folder)
    todo = plan(made, trainer, Store(folder))
    return {
        (run, number): result
        for run, outcome in engine(trainer).run(todo.tasks, lambda _: None)
        for number, result in outcome.stages.items()
    }


def test_a_stack_of_runs_comes_to_what_each_comes_to(tmp_path: Path) -> None:
    """Each with its own part of its own memory, through all stages."""
    later = LaterStageSettings(stop_on="memory", average="interpolate")
    made = experiment(later, "experience-replay")
    apart, stacked = results(made, Inline, tmp_path / "apart"), results(made, Stacked, tmp_path / "stacked")
    assert apart.keys() == stacked.keys()
    values = [[figure.value for key in apart for figure in found[key].figures] for found in (apart, stacked)]
    close = np.isclose(values[0], values[1], atol=1e-3)
    assert close.mean() > 0.95  # a rounding may decide which epoch or share is best
    assert all(stacked[key].memory == result.memory for key, result in apart.items())


def test_a_decay_of_0_is_no_average() -> None:
    validation = samples(20, 3)
    none, ema = (
        stage("finetune", later).run(validation)
        for later in (None, LaterStageSettings(average="ema", average_decay=0.0))
    )
    for one, other in zip(none, ema, strict=True):
        assert torch.equal(one.parameters, other.parameters)
