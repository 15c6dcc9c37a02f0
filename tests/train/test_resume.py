"""What is finished is kept: killed, continued, extended; and who trains makes no difference."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from ser_memory.common.errors import SerError
from ser_memory.train.corpora import Source, load_corpora, source_of
from ser_memory.train.engines import processes
from ser_memory.train.engines.contract import Engine
from ser_memory.train.engines.inline import Inline
from ser_memory.train.engines.stacked import Stacked
from ser_memory.train.experiment import plan
from ser_memory.train.gradient import GradientStack
from ser_memory.train.loop import Training
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcome, tabulate
from ser_memory.train.runs import Run
from ser_memory.train.settings import DataSettings, StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies import Kept
from ser_memory.train.trainer import Trainer
from tests.train.test_cli import caches, quick, refused, rows, run
from tests.train.worlds import STAGES, corpora, write_caches

assert caches  # the fixture
ALL = ["--strategy", "finetune", "--strategy", "gem", "--strategy", "experience-replay:speaker"]


def trained_stages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of runs whenever a stack is trained."""
    seen: list[int] = []
    original = Training.run

    def counting(self: Training, *arguments: object) -> object:
        seen.append(self.stage.runs)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "run", counting)
    return seen


def test_a_rerun_trains_nothing_and_more_trains_only_what_is_new(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained_stages(monkeypatch)
    command = ["--cache", caches, "--output", tmp_path / "r"]

    def stages(*more: object) -> int:
        seen.clear()
        result = run(*command, *more, trained=tmp_path / "trained")
        assert result.exit_code == 0, result.output
        return len(seen)

    assert stages("--seeds", 2, "--strategy", "finetune") == 2 * 3
    first = rows(tmp_path / "r")
    bytes_before = (tmp_path / "r/results.csv").read_bytes()
    assert stages("--seeds", 2, "--strategy", "finetune") == 0
    assert (tmp_path / "r/results.csv").read_bytes() == bytes_before
    assert stages("--seeds", 3, "--strategy", "finetune") == 3
    assert [row for row in rows(tmp_path / "r") if row["seed"] != "2"] == first
    assert stages("--seeds", 3, "--strategy", "finetune", "--strategy", "gem") == 3 * 2  # P is there
    assert [
        row for row in rows(tmp_path / "r") if row["seed"] != "2" and row["strategy"] == "finetune"
    ] == first
    # Another sequence with the same beginning, in a folder of its own.
    other = run("--cache", caches, "--stages", "msp-podcast,iemocap", "--strategy", "finetune", "--seeds", 3,
                "--output", tmp_path / "other", trained=tmp_path / "trained")  # fmt: skip
    assert other.exit_code == 0
    assert "3 of 6 stages are finished already." in other.stderr
    # Figures are of the corpora asked for now, and stage P's are the same.
    assert {row["corpus"] for row in rows(tmp_path / "other")} == {"msp-podcast", "iemocap"}
    of_p = [row for row in rows(tmp_path / "other") if row["stage"] == "1" and row["seed"] != "2"]
    assert of_p == [row for row in first if row["stage"] == "1" and row["corpus"] != "msp-improv"]


def test_an_option_of_one_strategy_costs_only_that_strategy(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained_stages(monkeypatch)
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--strategy", "gem"]
    assert run(*command, "--output", tmp_path / "a", trained=tmp_path / "t").exit_code == 0
    seen.clear()
    assert run(*command, "--gem-batch", 4, "--output", tmp_path / "b", trained=tmp_path / "t").exit_code == 0
    assert len(seen) == 2


def test_what_cannot_be_trusted_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file, and caches whose content changed under the same fingerprint."""
    write_caches(tmp_path)
    seen = trained_stages(monkeypatch)
    command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune"]

    def again(name: str) -> int:
        seen.clear()
        assert run(*command, "--output", tmp_path / name, trained=tmp_path / "t").exit_code == 0
        return len(seen)

    assert again("a") == 3
    for number, kept in enumerate(sorted((tmp_path / "t").glob("*.safetensors"))):
        content = kept.read_bytes()
        kept.write_bytes([b"", content[: len(content) // 2], content[:-4] + b"wxyz"][number])
    assert again("b") == 3
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    with h5py.File(tmp_path / "msp-improv.h5", "r+") as file:
        file["acoustic"][7] = file["acoustic"][7] * 2
    assert again("c") == 2  # stage P does not see it, but is evaluated on it
    assert rows(tmp_path / "c") != rows(tmp_path / "a")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ser_memory.train.cli", *quick(*arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_worker_that_cannot_load_the_caches_says_why(tmp_path: Path) -> None:
    """Not that it was killed."""
    experiment = Experiment(StrategySettings(strategy=("finetune",)).variants, STAGES, (0,))
    engine = processes.Processes(experiment, Source(tmp_path, STAGES), tmp_path / "t", jobs=2)
    with pytest.raises(SerError, match=f"There is no cache at {tmp_path}/msp-podcast.h5"):
        list(engine.run([Run(None, 0), Run(None, 1)], lambda _: None))


def test_a_cache_replaced_before_the_workers_open_it_is_refused(tmp_path: Path) -> None:
    """Its digest is that of the file before, under which the new content would be kept."""
    write_caches(tmp_path)
    data, experiment = DataSettings(STAGES, tmp_path), Experiment(StrategySettings().variants, STAGES, (0, 1))
    source = source_of(data, "cpu", 0.5)
    write_caches(tmp_path)
    says = f"{tmp_path}/msp-podcast.h5 was replaced or changed while it was being used: run the same command again"
    with pytest.raises(SerError, match=says):
        load_corpora(source)
    engine = processes.Processes(experiment, source, tmp_path / "t", jobs=2)
    with pytest.raises(SerError, match=says):
        list(engine.run([Run(None, 0), Run(None, 1)], lambda _: None))


def test_two_runs_that_share_stages_keep_their_rows(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One evaluates the shared stage on other corpora while the other is under way."""
    shared = ["--cache", caches, "--seed", 0, "--strategy", "finetune"]
    one = [*shared, "--output", tmp_path / "one"]
    other = [*shared, "--stages", "msp-podcast,iemocap", "--output", tmp_path / "other"]
    save, begun = Store.save, [False]

    def saving(self: Store, *arguments: Any) -> None:
        save(self, *arguments)
        if not begun[0]:
            begun[0] = True
            assert run(*other, trained=tmp_path / "t").exit_code == 0

    monkeypatch.setattr(Store, "save", saving)
    assert run(*one, trained=tmp_path / "t").exit_code == 0
    monkeypatch.undo()
    assert run(*one[:-1], tmp_path / "alone").exit_code == 0
    assert (tmp_path / "one/results.csv").read_bytes() == (tmp_path / "alone/results.csv").read_bytes()
    assert {row["corpus"] for row in rows(tmp_path / "other")} == {"msp-podcast", "iemocap"}
    seen = trained_stages(monkeypatch)
    evaluated: list[object] = []
    monkeypatch.setattr("ser_memory.train.trainer.evaluate", lambda *_: evaluated.append(1))
    for command in (one, other):  # both find their figures again
        assert run(*command, trained=tmp_path / "t").exit_code == 0
    assert (seen, evaluated) == ([], [])


def test_partial_files_of_killed_processes_are_removed(caches: Path, tmp_path: Path) -> None:
    store = tmp_path / "t"
    store.mkdir()
    old, new = store / "a.safetensors.1.partial", store / "b.safetensors.2.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
    assert run(*command, trained=store).exit_code == 0
    assert (old.exists(), new.exists()) == (False, True)  # the other may be under way


def test_another_version_of_python_may_continue(caches: Path, tmp_path: Path) -> None:
    """No figure depends on it. One of torch may not, and is named."""
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
    assert run(*command).exit_code == 0
    path = tmp_path / "r/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "versions": {"python": "3.11.0", "ser-memory": "0.0.9"}}))
    assert run(*command).exit_code == 0
    path.write_text(json.dumps({**config, "torch": "2.0.0"}))
    assert "another experiment (different: torch)" in refused(run(*command), 2)


def workers_of(pid: int) -> list[int]:
    """Spawned workers among a process's children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_more_jobs_than_cores_are_not_used(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_memory.train.experiment.cores", lambda: 1)
    result = run(
        "--cache", caches, "--seed", 0, "--strategy", "finetune", "--jobs", 64, "--output", tmp_path / "r"
    )
    assert result.exit_code == 0
    assert "--jobs 64 is more than the 1 cores of this machine: 1 are used." in result.stderr


def test_embeddings_beyond_memory_are_streamed(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "experience-replay", "--epochs", 30]
    result = run(*command, "--memory-share", 0, "--output", tmp_path / "streamed")
    assert result.exit_code == 0
    assert "are more than 0% of this machine's" in result.stderr
    assert "they are read from the disk in shuffled blocks" in result.stderr
    result = run(*command, "--output", tmp_path / "usual")
    assert "embeddings" not in result.stderr
    for folder in ("streamed", "usual"):
        (value,) = [
            float(row["value"]) for row in rows(tmp_path / folder)
            if (row["stage"], row["corpus"], row["split"], row["dimension"], row["metric"])
            == ("3", "iemocap", "test", "activation", "ccc")
        ]  # fmt: skip
        assert value > 0.8


class TestStacks:
    """What a GPU does, on a CPU: all runs of a strategy as one stack."""

    seeds = (0, 1, 2)

    def experiment(self) -> Experiment:
        chosen = StrategySettings(
            strategy=("finetune", "gem", "experience-replay", "ewc"),
            sampler=("random", "speaker"),
            memory_size=(10,),
        )
        training = TrainingSettings(batch_size=16, epochs=3, patience=2, learning_rate=1e-3)
        return Experiment(chosen.variants, STAGES, self.seeds, training)

    def carried_out(
        self, engine: Callable[[Trainer], Engine], folder: Path
    ) -> tuple[dict[Run, Outcome], float, int]:
        """Outcomes, the epochs that were reported, and the stages that had to be trained."""
        store = Store(folder)
        trainer = Trainer(self.experiment(), corpora(), store, torch.device("cpu"))
        todo = plan(self.experiment(), trainer, store)
        epochs: list[float] = []
        return dict(engine(trainer).run(todo.tasks, epochs.append)), sum(epochs), len(todo.untrained)

    def values(self, outcomes: dict[Run, Outcome]) -> dict[tuple[object, ...], float]:
        stages = {
            (run, number): result for run, out in outcomes.items() for number, result in out.stages.items()
        }
        return {
            (r.strategy, r.sampler, r.seed, r.stage, r.corpus, r.split, r.dimension, r.metric): r.value
            for r in tabulate(self.experiment(), stages)
        }

    def test_stacked_runs_are_the_same_as_single_ones(self, tmp_path: Path) -> None:
        found = {}
        for name, engine in (("apart", Inline), ("stacked", Stacked)):
            outcomes, epochs, untrained = self.carried_out(engine, tmp_path / name)
            assert not any(outcome.failed for outcome in outcomes.values())
            assert epochs == untrained * 3 == (3 + 3 * 6 * 2) * 3
            found[name] = self.values(outcomes)
        apart, stacked = found["apart"], found["stacked"]
        assert len(apart) == 6 * 3 * 3 * 3 * 2 * 4
        assert set(stacked) == set(apart)
        # A rounding may decide which epoch is best, or turn a prediction over a bin's edge: so nearly all.
        close = [stacked[key] == pytest.approx(value, abs=1e-3) for key, value in apart.items()]
        assert sum(close) > 0.95 * len(close)

    def test_out_of_memory_halves_the_stack(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A simulated error, for more than two runs at once."""
        seen: list[int] = []
        original = Training.run

        def failing(self: Training, *arguments: object) -> object:
            seen.append(self.stage.runs)
            if self.stage.runs > 2:
                raise torch.cuda.OutOfMemoryError
            return original(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Training, "run", failing)
        outcomes, _, _ = self.carried_out(Stacked, tmp_path)
        assert max(seen) == 6
        assert len(self.values(outcomes)) == 6 * 3 * 3 * 3 * 2 * 4

    def test_one_run_of_a_stack_that_fails_leaves_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = GradientStack.training

        def spoilt(self: GradientStack, number: int, start: torch.Tensor, kept: Sequence[Kept]) -> Training:
            start = start.clone()
            for row, one in enumerate(self.runs):
                if (one.seed, number) == (1, 2):
                    start[row] = torch.nan
            return original(self, number, start, kept)

        monkeypatch.setattr(GradientStack, "training", spoilt)
        outcomes, _, _ = self.carried_out(Stacked, tmp_path)
        failed = {run: outcome.failed for run, outcome in outcomes.items() if outcome.failed}
        assert {(run.seed, stage) for run, stage in failed.items()} == {(1, 2)}
        assert len(failed) == 6
        there = self.values(outcomes)
        assert {key[3] for key in there if key[2] == 1} == {1}
        assert len([key for key in there if key[2] != 1]) == 6 * 2 * 3 * 3 * 2 * 4


@pytest.mark.parametrize("engine", [Inline, Stacked])
def test_stopped_after_every_epoch_it_comes_to_the_same(
    engine: type[Inline | Stacked], tmp_path: Path
) -> None:
    """A stack that is paused continues as a stack, to the bit."""
    chosen = StrategySettings(strategy=("gem", "ewc"), memory_size=(10,))
    training = TrainingSettings(batch_size=16, epochs=3, patience=2, learning_rate=1e-3)
    experiment, made, device = (
        Experiment(chosen.variants, STAGES, (0, 1), training),
        corpora(),
        torch.device("cpu"),
    )
    whole = Trainer(experiment, made, Store(tmp_path / "whole"), device)
    tasks = plan(experiment, whole, Store(tmp_path / "whole")).tasks
    expected = {
        (run, number): result
        for run, outcome in engine(whole).run(tasks, lambda _: None)
        for number, result in outcome.stages.items()
    }
    store, stops = Store(tmp_path / "broken"), 0
    while True:
        trainer = Trainer(experiment, made, store, device)
        todo = plan(experiment, trainer, store)
        if not todo.tasks:
            break
        broken = engine(trainer)
        list(broken.run(todo.tasks, lambda _: broken.stop()))  # noqa: B023
        stops += 1
    assert stops > 8
    assert todo.finished == expected
    assert all(result.seconds for result in todo.finished.values())
    assert any(result.bent for result in todo.finished.values())
    assert not list((tmp_path / "broken").glob("*.paused"))


class TestRecipes:
    """Experiments as files."""

    def test_the_paper_in_one_command(self, caches: Path, tmp_path: Path) -> None:
        result = run("--preset", "paper", "--cache", caches, "--dry-run")
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.output.splitlines()]
        assert ["P", "all", "5", "4"] in [line[:4] for line in lines]
        assert ["P+M+I", "experience-replay", "20", "7"] in [line[:4] for line in lines]
        assert ["P+M+I", "gem", "5", "4"] in [line[:4] for line in lines]
        assert "At most " in result.output
        result = run("--preset", "paper", "--seed", 3, "--cache", caches, "--dry-run")
        assert ["P", "all", "1", "4"] in [line.split()[:4] for line in result.output.splitlines()]
        assert not list(tmp_path.iterdir())

    def test_a_file_gives_options_that_the_command_line_overrides(self, caches: Path, tmp_path: Path) -> None:
        recipe = tmp_path / "mine.toml"
        recipe.write_text(
            'stages = ["msp-podcast", "iemocap"]\nstrategy = ["finetune", "gem:speaker"]\nseeds = 3\n'
        )
        result = run("--experiment", recipe, "--cache", caches, "--seeds", 2, "--output", tmp_path / "r")
        assert result.exit_code == 0, result.output
        made = rows(tmp_path / "r")
        assert {row["seed"] for row in made} == {"0", "1"}
        assert {(row["strategy"], row["sampler"]) for row in made} == {
            ("finetune", "none"),
            ("gem", "speaker"),
        }
        assert {row["stage_name"] for row in made} == {"P", "P+I"}

    def test_files_of_other_programs_are_read(self, caches: Path, tmp_path: Path) -> None:
        """Windows puts a byte-order mark before the text, and Python writes names with underscores."""
        (tmp_path / "mine.toml").write_text("\ufeffstrategy = 'gem'\r\nseeds = 1\r\ngem_batch = 4\n", "utf-8")
        command = ["--experiment", tmp_path / "mine.toml", "--cache", caches, "--output", tmp_path / "r"]
        result = run(*command)
        assert result.exit_code == 0, result.output
        config = json.loads((tmp_path / "r/config.json").read_text())
        assert config["experiment"]["options"]["gem"]["gem_batch"] == 4
        (tmp_path / "mine.toml").write_text("seeds = 1", "utf-16")
        assert "is not UTF-8 text: save it as UTF-8." in refused(run(*command), 2)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("epoch = 3", "mine.toml has epoch: its keys are those options of ser-train, stages, "),
            ("patience = 0", "Invalid value for '--patience'"),
            ("epochs = ", "mine.toml cannot be read as TOML: "),
            ("[loop]\nepochs = 3", "has loop: its keys are"),
            ("epochs = [{a = 1}]", "must be a text or number, or a list of some"),
            ("patience = 2.5", "Invalid value for '--patience'"),
            ("learning-rate = true", "must be a text or number"),
            ("seeds = 2024-01-01", "must be a text or number"),
            ("strategy = []", "must be a text or number"),
            ("patience = [1, 2]", "must be one value, not 2."),
            (
                "batch-size = 8\nbatch_size = 9",
                "mine.toml has batch-size twice, with - and with _: give it once.",
            ),
        ],
    )
    def test_files_that_are_wrong(self, text: str, says: str, caches: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(text)
        assert says in refused(run("--experiment", tmp_path / "mine.toml", "--cache", caches), 2)
