"""No result that means nothing is silent, and no option that does nothing."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache
from ser_memory.common.cache_cli import describe
from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.cli import report
from ser_memory.train.checks import after_training, before_training, unchanged
from ser_memory.train.cli import main
from ser_memory.train.configuration import Settings
from ser_memory.train.engines import processes
from ser_memory.train.engines.contract import WorkerKilledError
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Result, StageResult
from ser_memory.train.runs import Run
from ser_memory.train.settings import LaterStageSettings, StrategySettings, TrainingSettings
from ser_memory.train.store import Record, Store
from ser_memory.train.strategies.experience_replay import ExperienceReplayOptions
from ser_memory.train.strategies.mixture import ReplayLossOptions
from tests.train.test_cli import caches, refused, rows, run
from tests.train.worlds import STAGES, corpora, corpora_in_folds, write_caches

assert caches  # the fixture


def experiment(**strategies: Any) -> Experiment:
    chosen = StrategySettings.take(strategies)
    return Experiment(chosen.variants, STAGES, chosen.chosen_seeds, TrainingSettings())


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A world whose labels are the same in some splits."""
    write_caches(tmp_path, {"train": 30, "validation": 10, "test": 12, "test2": 1})
    for name, split, dimensions in (
        ("msp-podcast", "train", DIMENSIONS),
        ("msp-improv", "validation", DIMENSIONS),
        ("iemocap", "validation", ["valence"]),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            for dimension in dimensions:
                values = file[dimension][:]
                values[file["split"].asstr()[:] == split] = 3
                file[dimension][...] = values
    return tmp_path


def test_splits_whose_ccc_cannot_move_are_told_before_training(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("--cache", flat, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if " split of " in line]
    both = "the same activation and valence in all of its"
    one = "has only 1 utterance. CCC of activation and valence is always 0 there."
    assert told == [
        f"The train split of msp-podcast has {both} 30 utterances. CCC of them is always 0 there, so a model learns "
        "nothing about them.",
        f"The test2 split of msp-podcast {one}",
        f"The validation split of msp-improv has {both} 10 utterances. CCC of them is always 0 there, so the first epoch "
        "is kept.",
        f"The test2 split of msp-improv {one}",
        "The validation split of iemocap has the same valence in all of its 10 utterances. CCC of it is always 0 there, "
        "so early stopping goes by activation alone.",
        f"The test2 split of iemocap {one}",
    ]
    describe(FeatureCache(flat / "msp-improv.h5"))
    assert told[2] in capsys.readouterr().out
    report(FeatureCache(flat / "msp-improv.h5"))  # the summary of ser-extract
    assert f"  {told[2]}" in capsys.readouterr().out


FEW = "Fewer than 10 utterances, over which a CCC means very little: "


def test_splits_of_few_utterances_are_told_before_training(tmp_path: Path) -> None:
    write_caches(tmp_path, {"train": 30, "validation": 10, "test": 2})
    result = run("--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    (told,) = [line for line in result.stderr.splitlines() if line.startswith(FEW)]
    places = ", ".join(f"test split of {name} (n = 2)" for name in STAGES)
    assert told == f"{FEW}{places}. Even over 10, one of 0.5 has a 95% interval from -0.19 to 0.86."


def test_few_ratings_of_a_dimension_count_and_splits_that_are_flat_do_not() -> None:
    made = corpora({"train": 60, "validation": 10, "test": 9})
    made[0].splits["test"].targets[:, 0] = 0.5  # always 0 there, for which there is another sentence
    made[0].splits["validation"].targets[4:, 1] = float("nan")
    made[1].splits["test"].targets[:] = 0.5
    (told,) = [line for line in before_training(experiment(seeds=1), made) if line.startswith(FEW)]
    assert told.removeprefix(FEW).partition(". ")[0] == (
        "valence in the validation split of msp-podcast (n = 4), test split of msp-podcast (n = 9), "
        "test split of iemocap (n = 9)"
    )
    made = corpora_in_folds(12, with_folds=STAGES[2:])  # of 105 utterances
    (told,) = [line for line in before_training(experiment(seeds=1), made) if line.startswith(FEW)]
    assert told.removeprefix(FEW).partition(". ")[0] == (
        "validation split of the smallest fold of iemocap (n = 8), test split of the smallest fold of iemocap (n = 8)"
    )


def test_a_model_that_predicts_one_value_is_told(tmp_path: Path) -> None:
    """Embeddings without content: nothing can be learned from them."""
    write_caches(tmp_path)
    for name in STAGES:
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            for column in ("acoustic", "text"):
                file[column][...] = 1.0
    result = run("--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "CCC is 0 because the model predicts one value for the whole split, in 36 cases (" in result.stderr
    assert " split of " not in result.stderr


def test_a_memory_that_holds_all_of_the_last_corpus_is_named_where_it_leaves_the_machine() -> None:
    made, wanted = corpora(), "The memory of iemocap holds all of its 60 training utterances."
    large = experiment(memory_size=60, seeds=1)
    assert wanted not in before_training(large, made)
    assert wanted in before_training(large, made, bundles=True)


def test_samplers_and_memories_that_cannot_do_their_work() -> None:
    made = corpora()
    assert before_training(experiment(sampler=("speaker", "emotion"), memory_size=20), made) == []
    for corpus, known in zip(made[:2], (1, 0), strict=True):
        corpus.splits["train"].speakers[:] = known - 1
        corpus.splits["train"].targets[:, 0] = 0.9
    made[1].splits["train"].targets[:, 1] = 0.9
    made[1].splits["train"].targets[:3] = 0.8  # not flat, but in one cell
    told = before_training(experiment(sampler=("speaker", "emotion"), memory_size=2, seeds=1), made)
    assert told == [
        "The train split of msp-podcast has the same activation in all of its 60 utterances. CCC of it is always 0 "
        "there, so a model learns nothing about it.",
        "The training split of msp-podcast has 1 known speaker: the sampler speaker cannot spread its memory over "
        "speakers.",
        "The memory of msp-podcast has the same activation in all of its utterances (speaker, 2 utterances, seed 0; "
        "emotion, 2 utterances, seed 0): its CCC of activation is always 0, so it keeps nothing of it. Choose a larger "
        "--memory-size or another --sampler.",
        "The training split of msp-improv has no known speakers: the sampler speaker cannot spread its memory over "
        "speakers.",
        "The training split of msp-improv is in one cell of activation and valence: the sampler emotion cannot spread "
        "its memory over emotions.",
        "The memory of msp-improv has the same activation and valence in all of its utterances (speaker, 2 utterances, "
        "seed 0; emotion, 2 utterances, seed 0): its CCC of activation and valence is always 0, so it keeps nothing of "
        "it. Choose a larger --memory-size or another --sampler.",
    ]


def test_a_learned_ccc_of_0_is_told() -> None:
    made = corpora()
    made[0].splits["test"].targets[:, 0] = 0.5  # which was told before
    figures = [
        Result("gem", "random", 9, 3, 2, "P+M", corpus, "test", "activation", metric, value, 25)
        for corpus, metric, value in (
            ("msp-podcast", "ccc", 0.0), ("msp-improv", "ccc", 0.0), ("msp-improv", "uar", 0.0), ("iemocap", "ccc", 0.1),
        )
    ]  # fmt: skip
    (told,) = after_training(figures, made)
    assert told.startswith(
        "CCC is 0 because the model predicts one value for the whole split, in 1 case (activation of msp-improv test at "
        "stage P+M, gem, seed 3): these models have learned nothing there. Try another --learning-rate"
    )
    assert after_training(figures[-1:], made) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strategy": "finetune", "memory_size": 5, "sampler": ["speaker"]},
         "--sampler, --memory-size have no effect: this run trains finetune, which keeps no memory"),
        ({"strategy": ["ewc", "gem:speaker"], "sampler": "emotion", "memory_size": 5},
         "--sampler has no effect: every strategy with a memory names its own sampler"),
        ({"strategy": "ewc", "gem_margin": 0.5, "ewc_strength": 2.0},
         "--gem-margin has no effect: only gem, a-gem have it, and this run trains ewc"),
        ({"strategy": "gem", "stages": "iemocap", "memory_size": 5},
         "--memory-size, --strategy have no effect: with one stage there is nothing before it to be remembered"),
        ({"stages": "iemocap", "strategy": "finetune", "average": "ema"},
         "--average has no effect: with one stage there is nothing before it to be remembered"),
        ({"strategy": "gem", "replay_loss": "per-corpus"},
         "--replay-loss has no effect: only experience-replay, der++, prototype-replay, joint have it, "
         "and this run trains gem"),
        ({"strategy": "analytic", "learning_rate": 0.1, "average": "ema"},
         "--learning-rate, --average have no effect: this run trains analytic, which takes no step of training"),
        ({"strategy": "ewc", "stop_on": "memory"},
         "--stop-on has no effect: this run trains ewc, which keeps no memory"),
        ({"strategy": "gem", "average": "interpolate", "average_share": 0.3},
         "--average-share has no effect: only --average interpolate without a memory has it"),
        ({"average_decay": 0.5}, "--average-decay has no effect: only --average ema has it"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        Settings.take(options)
    assert str(refused.value).startswith(f"{told}. Leave ")


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "a-gem", "gem_margin": 0.5, "memory_size": 5, "sampler": "emotion"},
        {"strategy": "finetune", "stages": "iemocap"},
        {"strategy": ["analytic", "finetune"], "stages": "iemocap", "analytic_features": 10, "epochs": 3},
        {"strategy": ["finetune", "gem"], "average": "interpolate", "average_share": 0.3},
        {"strategy": "ewc", "average": "ema", "average_decay": 0.3},
        {},
    ],
)
def test_options_with_an_effect_are_not(options: dict[str, Any]) -> None:
    Settings.take(options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--strategy", "ewc", "--memory-size", 5],
         "--memory-size has no effect: this run trains ewc, which keeps no memory. Leave it out."),
        (["--strategy", "gem", "--lwf-strength", 2],
         "--lwf-strength has no effect: only lwf has it, and this run trains gem. Leave it out."),
        (["--strategy", "lwf", "--replay-share", 0.5],
         "--replay-share has no effect: only experience-replay, prototype-replay have it, and this run trains lwf. Leave it "
         "out."),
        (["--strategy", "gem:speaker", "--sampler", "random"],
         "--sampler has no effect: every strategy with a memory names its own sampler. Leave it out."),
        (["--strategy", "analytic", "--patience", 3, "--loss", "mse"],
         "--loss, --patience have no effect: this run trains analytic, which takes no step of training. Leave them out."),
        (["--strategy", "prototype-replay", "--stop-on", "memory"],
         "--stop-on has no effect: this run trains prototype-replay, which keeps no memory. Leave it out."),
        (["--strategy", "finetune", "--average-share", 0.3],
         "--average-share has no effect: only --average interpolate without a memory has it. Leave it out."),
        (["--strategy", "finetune", "--average", "interpolate", "--average-decay", 0.3],
         "--average-decay has no effect: only --average ema has it. Leave it out."),
        (["--strategy", "finetune", "--stages", "iemocap", "--average", "ema"],
         "--average has no effect: with one stage there is nothing before it to be remembered. Leave it out."),
        (["--strategy", "gem", "--memory-size", 5, "--stop-on", "memory"],
         "--memory-size 5 is too small for --stop-on memory, which looks at a fifth of each memory: keep 10 or more."),
        (["--strategy", "gem", "--memory-size", 9, "--average", "interpolate"],
         "--memory-size 9 is too small for --average interpolate, which looks at a fifth of each memory: keep 10 or more."),
    ],
)  # fmt: skip
def test_what_the_command_refuses(arguments: list[object], says: str, caches: Path) -> None:
    assert refused(run("--cache", caches, *arguments), 2) == says


README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("ser-train ")])
def test_the_readmes_commands_have_only_options_with_an_effect(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that they lack here are the caches, and the bundle that one continues from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SER_CACHE", raising=False)
    (tmp_path / "mine.toml").write_text('strategy = ["ewc", "gem:speaker"]\n')
    result = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
    message = refused(result, 1)
    lacking = (
        "There is no cache of ",
        "There is no cache with other transcripts in ",
        "There is no bundle in MODEL",
    )
    assert message.startswith(lacking)


def test_a_corpus_too_small_to_hold_out_a_fifth(tmp_path: Path) -> None:
    """The last corpus is nobody's memory, and plain strategies hold nothing out."""
    write_caches(tmp_path, {"train": 9, "validation": 8, "test": 8})
    command = ["--cache", tmp_path, "--seed", 0, "--batch-size", 4]
    for option in (["--stop-on", "memory"], ["--average", "interpolate"]):
        assert refused(run(*command, "--strategy", "gem", *option), 2) == (
            f"msp-podcast has 9 training utterances, too few for {' '.join(option)}, which looks at a fifth of each memory: "
            "10 or more are needed, so leave the option out."
        )
    for strategy, average in (("gem", "ema"), ("finetune", "interpolate")):
        more = ["--strategy", strategy, "--average", average, "--output", tmp_path / strategy]
        assert run(*command, *more).exit_code == 0


def test_options_of_a_file_count_as_asked_for_and_those_of_a_preset_do_not(
    caches: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("lwf-strength = 2.0")
    result = run(
        "--cache", caches, "--experiment", tmp_path / "mine.toml", "--strategy", "finetune", "--dry-run"
    )
    assert result.exit_code == 2
    assert "--lwf-strength has no effect: only lwf has it, and this run trains finetune." in result.stderr
    for more in (["--preset", "paper"], []):
        assert run("--cache", caches, *more, "--strategy", "finetune", "--dry-run").exit_code == 0


def test_a_held_out_fifth_of_few_utterances_is_told() -> None:
    chosen = StrategySettings(strategy=("gem", "finetune"), memory_size=(20, 60))
    later = LaterStageSettings(stop_on="memory")
    made = Experiment(chosen.variants, STAGES, (0,), TrainingSettings(), later=later)
    told = [line for line in before_training(made, corpora()) if line.startswith("A fifth")]
    assert told == [
        "A fifth of a memory of 20 is 4 utterances: their CCC says little, and --stop-on memory chooses by it."
    ]


@pytest.mark.parametrize(
    ("share", "batch", "told"),
    [
        (None, 16, "a batch has about 4 remembered utterances"),  # 20 beside 60
        (0.5, 16, "a batch has about 8 remembered utterances"),
        (0.5, 64, None),
    ],
)
def test_a_loss_per_corpus_that_is_always_pooled_is_told(
    share: float | None, batch: int, told: str | None
) -> None:
    chosen = StrategySettings(strategy=("experience-replay",), memory_size=(20,))
    options = (ReplayLossOptions(replay_loss="per-corpus"), ExperienceReplayOptions(replay_share=share))
    made = Experiment(chosen.variants, STAGES, (0,), TrainingSettings(batch_size=batch), options)
    found = [line for line in before_training(made, corpora()) if line.startswith("--replay-loss per-corpus")]
    assert bool(found) == (told is not None)
    assert told is None or told in found[0]


def test_a_stage_that_interpolation_left_as_it_was_is_told() -> None:
    made = experiment(strategy="gem", seeds=2)
    run_of = {seed: Run(made.variants[0], seed) for seed in (0, 1)}
    outcomes = {
        (run_of[0], 2): StageResult([0.1], [], [], share=0.0), (run_of[1], 2): StageResult([0.1], [], [], share=0.3),
    }  # fmt: skip
    (told,) = unchanged(made, outcomes)
    assert told.endswith("so the stage changed nothing: gem at P+M, seed 0.")
    assert unchanged(made, {}) == []


def test_stages_may_be_given_one_by_one(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--stages", "msp-podcast", "--stages", "iemocap", "--strategy", "finetune"]
    assert run(*command, "--seed", 0, "--output", tmp_path / "r").exit_code == 0
    assert {row["stage_name"] for row in rows(tmp_path / "r")} == {"P", "P+I"}
    assert "--epochs is given 2 times" in refused(run("--epochs", 3, "--epochs", 4), 2)


class TestInterrupted:
    """A run without --output, stopped and started again."""

    @pytest.fixture
    def here(self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return caches

    def folders(self) -> list[Path]:
        return sorted(Path("runs").iterdir())

    def test_it_is_found_again(self, here: Path) -> None:
        options = ["--cache", here, "--seed", 0, "--strategy", "finetune"]
        assert run(*options).exit_code == 0
        (folder,) = self.folders()
        whole = (folder / "results.csv").read_bytes()
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"complete": true', '"complete": false'))
        (folder / "results.csv").write_text("")
        result = run(*options)
        assert (
            f"Continuing in {folder}, since a run of this experiment was interrupted there." in result.stderr
        )
        assert f"All figures: {folder}/results.csv" in result.output
        assert (folder / "results.csv").read_bytes() == whole
        assert json.loads(config.read_text())["complete"] is True
        assert self.folders() == [folder]


def test_nothing_is_kept_when_nothing_was_trained(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise WorkerKilledError("A worker process was killed, perhaps because memory ran out.")

    monkeypatch.setattr(processes.Processes, "run", killed)
    command = [
        "--cache",
        caches,
        "--seed",
        0,
        "--jobs",
        2,
        "--strategy",
        "finetune",
        "--output",
        tmp_path / "r",
    ]
    message = refused(run(*command), 1)
    assert message == (
        "A worker process was killed, perhaps because memory ran out. No epoch was finished, so nothing is kept: run the "
        f"same command with --output {tmp_path / 'r'} and fewer --jobs."
    )


def test_a_file_that_cannot_be_opened_is_not_damaged(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
    assert run(*command, trained=tmp_path / "t").exit_code == 0
    kept = next(iter((tmp_path / "t").glob("*.figures")))
    content = kept.read_bytes()
    kept.unlink()
    kept.mkdir()
    says = f"The finished stage {kept} cannot be read (Is a directory): solve that, or give another folder"
    assert says in refused(run(*command, trained=tmp_path / "t"), 1)
    kept.rmdir()
    kept.write_bytes(content[:-5])
    assert f"{kept} is damaged and will be made again." in run(*command, trained=tmp_path / "t").stderr
    (tmp_path / "r/config.json").unlink()
    (tmp_path / "r/config.json").mkdir()
    says = (
        f"{tmp_path / 'r/config.json'} cannot be read (Is a directory): solve that, or give another --output."
    )
    assert says in refused(run(*command, trained=tmp_path / "t"), 1)


def test_a_stage_that_is_removed_while_it_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("key", torch.zeros(3), Record([0.5], []))
    assert store.record("key") is not None
    (tmp_path / "key.safetensors").unlink()
    with pytest.raises(
        SerError, match=r"key\.safetensors was removed or changed while it was used: run the same"
    ):
        store.parameters(["key"])


def test_marks_tell_the_direction() -> None:
    from ser_memory.train.report.statistics import differs

    low, high = dict(enumerate(np.linspace(0, 0.1, 5))), dict(enumerate(np.linspace(0.5, 0.7, 5)))
    assert [differs(high, low), differs(low, high), differs(low, low)] == [1, -1, 0]
