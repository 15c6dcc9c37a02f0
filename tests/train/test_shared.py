"""Workers that share an experiment come to what one process comes to, and train nothing twice."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ser_memory.common.claims import Claims
from ser_memory.common.errors import SerError
from ser_memory.common.locks import is_held
from ser_memory.train.engines.inline import Inline
from ser_memory.train.engines.shared import Shared, name_of
from ser_memory.train.experiment import plan
from ser_memory.train.loop import Training
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.test_cli import caches, refused, run
from tests.train.worlds import STAGES, corpora, corpora_in_folds

assert caches  # the fixture
FILES = ("results.csv", "memory.csv", "epochs.csv", "predictions.h5")


class World:
    """A small experiment, its store, and workers that share it."""

    def __init__(self, folder: Path, folds: bool = False, rate: float = 1e-3) -> None:
        self.folder = folder
        chosen = StrategySettings(strategy=("finetune", "gem"), memory_size=(10,), seeds=2)
        loop = TrainingSettings(
            loss="mse", dimensions=("activation", "valence"), batch_size=16, epochs=2, learning_rate=rate
        )
        self.corpora = corpora_in_folds() if folds else corpora()
        numbers = tuple(len(corpus.folds) for corpus in self.corpora)
        self.experiment = Experiment(chosen.variants, STAGES, (0, 1), loop, folds=numbers)

    def trainer(self, store: str = "shared") -> Trainer:
        return Trainer(self.experiment, self.corpora, Store(self.folder / store), torch.device("cpu"))

    def tasks(self, trainer: Trainer) -> tuple[Run, ...]:
        return plan(self.experiment, trainer, trainer.store).tasks

    def claims(self) -> Claims:
        return Claims(self.folder / "claims", timeout=0.1)

    def worker(self, claims: Claims, patience: float = 60) -> Iterator[tuple[Run, Outcome]]:
        """A worker that trains as far as what it yields is asked for."""
        trainer = self.trainer()
        return Shared(trainer, claims, patience).run(self.tasks(trainer), lambda _: None)

    def alone(self) -> dict[Run, Outcome]:
        trainer = self.trainer("alone")
        return dict(Inline(trainer).run(self.tasks(trainer), lambda _: None))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows by one with every stage that is trained."""
    seen: list[float] = []
    original: Callable[..., object] = Training.run

    def counting(self: Training, *arguments: object) -> object:
        seen.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Training, "run", counting)
    return seen


@pytest.mark.parametrize("folds", [False, True])
def test_two_workers_share_all_tasks(tmp_path: Path, folds: bool, trained: list[float]) -> None:
    world = World(tmp_path, folds)
    expected = world.alone()
    stages = len(trained)
    trained.clear()
    with world.claims() as first, world.claims() as second:
        found: list[dict[Run, Outcome]] = [{}, {}]
        workers = list(zip((world.worker(first), world.worker(second)), found, strict=True))
        going = True
        while going:  # each in turn trains a task
            going = False
            for worker, outcomes in workers:
                for task, outcome in worker:
                    outcomes[task] = outcome
                    going = True
                    break
    assert found == [expected, expected]
    assert len(trained) == stages


def test_a_task_that_fails_is_known_to_all(tmp_path: Path, trained: list[float]) -> None:
    world = World(tmp_path, rate=1e30)
    with world.claims() as first, world.claims() as second:
        one = dict(world.worker(first))
        assert {task: outcome.failed for task, outcome in one.items()} == {Run(None, 0): 1, Run(None, 1): 1}
        assert len(trained) == 2
        assert dict(world.worker(second)) == one == world.alone()
        assert len(trained) == 2 + 2  # those of `alone`


def test_the_task_of_a_worker_that_left_is_taken_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.claims() as other:
        assert other.take(name_of(Run(None, 0)))
    with world.claims() as own:
        assert dict(world.worker(own)) == world.alone()


def test_a_worker_that_is_stopped_loses_no_epoch(tmp_path: Path) -> None:
    world = World(tmp_path)
    epochs: Counter[str] = Counter()
    with world.claims() as claims:
        trainer = world.trainer()
        stopped = Shared(trainer, claims, 60)

        def one_epoch(amount: float) -> None:
            epochs["first"] += int(amount)
            stopped.stop()

        assert not dict(stopped.run(world.tasks(trainer), one_epoch))
    with world.claims() as claims:
        trainer = world.trainer()

        def more(amount: float) -> None:
            epochs["second"] += int(amount)

        outcomes = dict(Shared(trainer, claims, 60).run(world.tasks(trainer), more))
    assert outcomes == world.alone()
    assert epochs == {"first": 1, "second": 2 * (1 + 2 * 2) * 2 - 1}


def test_a_folder_that_shows_files_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: a stage cannot be seen for a while though its task is known to be finished."""
    world = World(tmp_path)
    original: Callable[[Store, Path], int | None] = Store._written
    hidden: Counter[Path] = Counter()

    def late(self: Store, path: Path) -> int | None:
        hidden[path] += 1
        return original(self, path) if hidden[path] > 3 else None

    with world.claims() as first, world.claims() as second:
        worker = world.worker(second)  # to which all is to be done
        one = dict(itertools.islice(world.worker(first), 3))
        monkeypatch.setattr(Store, "_written", late)
        two = dict(worker)
        monkeypatch.undo()
    assert len(one) == 3
    assert two == world.alone()


def test_a_store_of_its_own_is_reported(tmp_path: Path) -> None:
    """The others have finished a task, and what it came to is not there."""
    world = World(tmp_path)
    with world.claims() as other:
        other.finish(name_of(Run(None, 0)))
    with (
        world.claims() as own,
        pytest.raises(SerError, match=r"has trained shared-seed-0, and its stages are not in .*shared: give"),
    ):
        list(world.worker(own, patience=0))


class TestCommand:
    """ser-train --worker."""

    def test_one_worker_writes_what_a_run_writes(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--bundles"]
        assert run(*command, "--output", tmp_path / "alone").exit_code == 0
        result = run(*command, "--worker", "--output", tmp_path / "shared")
        assert result.exit_code == 0, result.output
        alone = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*"))
        assert alone == sorted(
            path.relative_to(tmp_path / "shared") for path in (tmp_path / "shared").rglob("*")
        )
        for name in FILES:
            assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()

    def test_a_disk_without_locks(
        self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Simulated. A run alone refuses it."""

        def fails(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", fails)
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        assert "gives no locks" in refused(run(*command), 1)
        result = run(*command, "--worker")
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--worker"], "--worker needs --output"),
            (["--worker", "--jobs", 2, "--output", "r"], "--jobs has no effect: a worker trains one run"),
            (["--claim-timeout", 5], "--claim-timeout has no effect: only --worker has it"),
            (
                ["--worker", "--output", "r", "--search", "patience=1,2"],
                "--search does not go with --worker",
            ),
        ],
    )
    def test_options_that_do_not_fit(self, options: list[object], says: str, caches: Path) -> None:
        assert says in refused(run("--cache", caches, *options), 2)

    def test_a_folder_that_is_in_use(self, caches: Path, tmp_path: Path) -> None:
        """By a run that has it alone, or by workers with other options."""
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        (tmp_path / "r").mkdir()
        with FileLock(tmp_path / "r/.lock"):
            assert "Another ser-train is writing to" in refused(run(*command, "--worker"), 2)
        with Claims(tmp_path / "r/.claims", 1).on("something else", SerError("")):
            message = refused(run(*command, "--worker"), 2)
            assert message.startswith("Workers with other options or another version share ")
            assert message.endswith("give all of them the same options, or wait until they have ended.")
            message = refused(run(*command), 2)  # as where the disk has locks for this host only
            assert message == f"Workers share {tmp_path / 'r'}: wait for them, or give another --output."
        assert not (tmp_path / "r/config.json").exists()

    def test_workers_that_keep_stages_in_different_folders(
        self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        command += ["--worker", "--claim-timeout", 1]
        original: Callable[..., object] = Training.run
        messages: list[str] = []

        def meanwhile(self: Training, *arguments: object) -> object:
            if not messages:
                messages.append(refused(run(*command), 2))  # each has a folder of its own
            return original(self, *arguments)

        monkeypatch.setattr(Training, "run", meanwhile)
        assert run(*command).exit_code == 0
        assert "is not the folder in which the other workers keep finished stages: give all" in messages[0]

    def test_another_experiment_is_refused_before_any_work(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        assert run(*command).exit_code == 0
        message = refused(run(*command, "--worker", "--epochs", 4), 2)
        assert "already holds another experiment (different: epochs)" in message
        assert not (tmp_path / "r/.claims").exists()

    def test_a_run_alone_waits_for_no_worker(
        self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        original: Callable[..., object] = Training.run
        messages: list[str] = []

        def meanwhile(self: Training, *arguments: object) -> object:
            if not messages:
                messages.append(refused(run(*command), 2))
                assert is_held(tmp_path / "r/.lock")
            return original(self, *arguments)

        monkeypatch.setattr(Training, "run", meanwhile)
        assert run(*command, "--worker").exit_code == 0
        assert "Another ser-train is writing to" in messages[0]
