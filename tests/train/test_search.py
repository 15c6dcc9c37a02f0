"""ser-train --search: what it refuses, what a trial comes to, and that a search can be interrupted."""

from __future__ import annotations

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import Silent
from ser_memory.train import api
from ser_memory.train.cli import main
from ser_memory.train.configuration import Settings
from ser_memory.train.report.data import load_run
from ser_memory.train.search_folder import Trial
from ser_memory.train.search_space import Choice, Range, SearchSettings, search_of
from ser_memory.train.settings import StrategySettings
from tests.train.test_cli import refused, rows
from tests.train.test_folds import caches
from tests.train.test_predictions import table

pytest.importorskip("optuna")
from ser_memory.train.search import propose

assert caches  # the fixture: with sessions, so that there can be folds

QUICK = {"--epochs": 3, "--batch-size": 16, "--memory-size": 20, "--jobs": 1, "--seeds": 1, "--trials": 3}
RATES = "learning-rate=1e-4..1e-1"


def typed(*arguments: object) -> list[str]:
    """The arguments, after those options of QUICK that are not among them and have an effect."""
    words = [str(argument) for argument in arguments]
    without = {"--memory-size"} if {"finetune", "analytic"} & set(words) else set()
    return [str(word) for pair in QUICK.items() if pair[0] not in {*words, *without} for word in pair] + words


def search(*arguments: object) -> Result:
    return CliRunner().invoke(main, typed(*arguments))


def searched(*arguments: object) -> Result:
    result = search(*arguments)
    assert result.exit_code == 0, result.output
    return result


def trials(folder: Path) -> list[dict[str, str]]:
    """trials.csv, without the seconds."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in table(folder / "trials.csv")
    ]


def asked_for(*searches: str, objective: str = "held-out", **options: Any) -> Any:
    searching = SearchSettings.take({"search": searches, "search_objective": objective})
    return search_of(searching, options, options)


def test_ranges_and_choices() -> None:
    found = asked_for(
        "learning-rate=1e-5..1e-3", "batch_size=16..128", "patience=5..20", "--gem-batch=all,64", "average=none,ema",
        "gem-margin=0..1", strategy="gem",
    )  # fmt: skip
    assert found.space == (
        Range("learning_rate", 1e-5, 1e-3), Range("batch_size", 16, 128), Range("patience", 5, 20),
        Choice("gem_batch", (None, 64), ("all", "64")), Choice("average", ("none", "ema"), ("none", "ema")),
        Range("gem_margin", 0.0, 1.0),
    )  # fmt: skip
    ranges = {each.name: each for each in found.space if isinstance(each, Range)}
    assert [each.is_logarithmic for each in ranges.values()] == [True, False, False, False]
    assert [type(each.low) for each in ranges.values()] == [float, int, int, float]
    settings = found.settings({"learning_rate": 1e-4, "gem_batch": None, "average": "ema"})
    assert isinstance(settings, Settings)
    assert (settings.training.learning_rate, settings.later.average) == (1e-4, "ema")
    assert settings.later.stop_on == "memory"  # which the objective looks at
    assert settings.strategies.strategy == ("gem",)


def test_without_a_strategy_it_is_experience_replay() -> None:
    assert asked_for("replay-share=0.1..0.9").settings({}).strategies.strategy == ("experience-replay",)
    assert asked_for("epochs=1..2", stages="iemocap").settings({}).strategies.strategy == ("finetune",)
    assert asked_for("epochs=1..2", objective="all-seen").settings({}).later.stop_on == "current"


@pytest.mark.parametrize(
    ("searches", "options", "message"),
    [
        (["rate=1..2"], {}, "--search rate=1..2: rate is no option of ser-train; what can be is loss, learning-rate, "),
        (["seeds=1..5"], {}, "--search seeds=1..5: seeds cannot be searched; what can be is loss, learning-rate, "),
        (["stages=a,b"], {}, "--search stages=a,b: stages cannot be searched; "),
        (["dimensions=activation,valence"], {}, "dimensions cannot be searched; "),
        (["trials=1..5"], {}, "trials is no option of ser-train; "),
        (["learning-rate"], {}, "--search 'learning-rate' must be OPTION=LOW..HIGH or OPTION=A,B,C, such as "),
        (["learning-rate="], {}, "--search 'learning-rate=' must be OPTION=LOW..HIGH"),
        (["learning-rate=1e-3..1e-5"], {}, "--search learning-rate=1e-3..1e-5: the first end must be a number below the "),
        (["epochs=5..5"], {}, "--search epochs=5..5: the first end must be"),
        (["learning-rate=0..1"], {}, "--search learning-rate=0..1: --learning-rate 0.0 must be above 0."),
        (["replay-share=0.1..1"], {}, "--search replay-share=0.1..1: --replay-share 1.0 must be above 0 and below 1."),
        (["learning-rate=nan..1"], {}, "--search learning-rate=nan..1: --learning-rate nan must be above 0."),
        (["epochs=1.5..3"], {}, "--search epochs=1.5..3: --epochs '1.5' must be a whole number."),
        (["learning-rate=low..high"], {}, "--learning-rate 'low' must be a number."),
        (["learning-rate=1..2..3"], {}, "--learning-rate '2..3' must be a number."),
        (["loss=ccc..mse"], {}, "--search loss=ccc..mse: --loss 'ccc..mse' must be one of ccc, mse."),
        (["loss=ccc,mae"], {}, "--search loss=ccc,mae: --loss 'mae' must be one of ccc, mse."),
        (["loss=ccc,"], {}, "--search loss=ccc,: --loss '' must be one of ccc, mse."),
        (["loss=ccc"], {}, "--search loss=ccc must name different values, two or more."),
        (["batch-size=8,8"], {}, "--search batch-size=8,8 must name different values, two or more, or a range such as 1"),
        (["sampler=random,best"], {}, "--search sampler=random,best: There is no sampler 'best': choose among random, "),
        (["gem-batch=all..5"], {"strategy": "gem"}, "--search gem-batch=all..5: the first end must be a number below"),
        (["loss=ccc,mse", "loss=mse,ccc"], {}, "--search gives loss twice: give it once."),
        (["learning-rate=1e-4..1"], {"learning_rate": 1e-3}, "--learning-rate is given and also searched: leave one"),
        (["gem-batch=8..64"], {}, "--gem-batch has no effect: only gem, a-gem have it, and this run trains experience-"),
        (["replay-share=0.1..0.5"], {"strategy": "gem"}, "--replay-share has no effect: only experience-replay"),
        (["sampler=random,speaker"], {"strategy": "ewc"}, "--sampler has no effect: this run trains ewc, which keeps no "),
        (["learning-rate=0.1..1"], {"strategy": "analytic"}, "--learning-rate has no effect: this run trains analytic"),
        (["average-decay=0.1..0.5"], {}, "--average-decay has no effect: only --average ema has it."),
        (["epochs=1..5"], {"average_decay": 0.5}, "--average-decay has no effect: only --average ema has it."),
        (["epochs=1..5"], {"strategy": ["gem", "ewc"]}, "--search tunes one strategy with one memory, not gem:random of "
         "1000, ewc: give one --strategy, and at most one --sampler and --memory-size."),
        (["epochs=1..5"], {"strategy": StrategySettings.strategy}, "not finetune, experience-replay:random of 1000, gem:"),
        (["epochs=1..5"], {"memory_size": [10, 20]}, "not experience-replay:random of 10, experience-replay:random of 20:"),
        (["memory-size=5..50"], {}, "--memory-size 5 is too small for --stop-on memory, which looks at a fifth"),
        (["stop-on=current,memory"], {}, "--search stop-on does not go with --search-objective held-out, for which every "),
        (["epochs=1..5"], {"stop_on": "current"}, "--stop-on current does not go with --search-objective held-out"),
        (["epochs=1..5"], {"epoch": 3}, "There is no option 'epoch'"),
        ([], {}, "There is nothing to search: give --search OPTION=LOW..HIGH"),
    ],
)  # fmt: skip
def test_what_is_refused(searches: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        asked_for(*searches, **options)
    assert message in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_an_option_is_used_if_it_is_in_some_trials() -> None:
    asked_for("average-decay=0.1..0.5", "average=none,ema")
    asked_for("average=none,ema", average_decay=0.5)
    asked_for("stop-on=current,memory", objective="all-seen")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", 5], "--trials has no effect without --search: leave it out."),
        (
            ["--search-objective", "held-out"],
            "--search-objective has no effect without --search: leave it out.",
        ),
        (
            ["--search", "epochs=1..5", "--dry-run"],
            "--search does not go with --dry-run: leave one of them out.",
        ),
        (
            ["--search", "epochs=1..5", "--study", "heads"],
            "--search does not go with --study: leave one of them out.",
        ),
    ],
)
def test_the_command_refuses(words: list[object], message: str) -> None:
    assert refused(CliRunner().invoke(main, list(map(str, words))), 2) == message


def test_proposals_follow_from_the_trials_before() -> None:
    space = (
        Range("rate", 1e-5, 1e-1),
        Range("size", 2, 9),
        Choice("loss", ("ccc", "mse", None), ("ccc", "mse", "-")),
    )
    done: list[Trial] = []
    for number in range(1, 16):
        chosen = propose(space, done)
        assert propose(space, done) == chosen
        assert 1e-5 <= chosen["rate"] <= 1e-1
        assert chosen["size"] in range(2, 10)
        assert chosen["loss"] in ("ccc", "mse", None)
        done.append(Trial(number, chosen, None if number == 4 else -abs(chosen["rate"] - 1e-3), 0.0))
    rates = [trial.chosen["rate"] for trial in done]
    assert len(set(rates)) == 15
    assert sum(rate < 1e-3 for rate in rates) > 3  # as on a logarithmic scale: of an even one, 1 in 100
    other = [Trial(each.number, each.chosen, -(each.objective or 0.0), 0.0) for each in done]
    assert propose(space, other) != propose(space, done)  # it learns


def by_hand(folder: Path) -> float:
    """The mean over seeds, folds and stages of the best epoch's score."""
    scores: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in table(folder / "epochs.csv"):
        scores[row["seed"], row["fold"], row["stage"]].append(float(row["validation_ccc"]))
    return fmean(max(epochs) for epochs in scores.values())


def validation(folder: Path, all_seen: bool) -> float:
    """The mean over seeds and stages of the validation CCC: of the current corpus, or of all so far."""
    values: dict[tuple[str, ...], list[float]] = defaultdict(list)
    order = ["msp-podcast", "msp-improv", "iemocap"]
    for row in rows(folder):
        stage = int(row["stage"])
        seen = order[:stage] if all_seen else [order[stage - 1]]
        if (row["split"], row["metric"]) == ("validation", "ccc") and row["corpus"] in seen:
            values[row["seed"], row["stage"]].append(
                float(row["value"])
            )  # as many dimensions for every corpus
    return fmean(fmean(stage) for stage in values.values())


def best_of(folder: Path, column: str = "objective") -> dict[str, str]:
    return max(trials(folder), key=lambda row: float(row[column] or "-inf"))


FOLDS = ["--seeds", 2, "--protocol", "iemocap=sessions", "--stages", "msp-podcast,iemocap", "--epochs", 2]


@pytest.mark.parametrize("more", [[], FOLDS], ids=["plain", "folds"])
def test_a_search(more: list[object], caches: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = [
        "--cache",
        caches,
        "--trained",
        tmp_path / "t",
        "--search",
        RATES,
        "--search",
        "replay-share=0.2..0.8",
        *more,
    ]
    result = searched(*command, "--output", out)
    made = trials(out)
    assert [list(row) for row in made] == [
        ["number", "objective", "learning_rate", "replay_share", "state"]
    ] * 3
    assert [(row["number"], row["state"]) for row in made] == [(str(n), "finished") for n in (1, 2, 3)]
    assert len({row["objective"] for row in made}) == 3  # what is searched has an effect
    best = best_of(out)
    assert float(best["objective"]) == pytest.approx(by_hand(out / "best"), abs=1e-12)
    config = json.loads((out / "best/config.json").read_text())
    assert config["complete"] is True
    assert config["experiment"]["training"]["stop_on"] == "memory"
    assert config["experiment"]["training"]["learning_rate"] == float(best["learning_rate"])
    facts = json.loads((out / "search.json").read_text())
    assert facts["search"] == {"learning_rate": "0.0001..0.1", "replay_share": "0.2..0.8"}
    assert (facts["objective"], facts["oracle"], facts["trials"], facts["complete"]) == (
        "held-out",
        False,
        3,
        True,
    )
    assert str(facts["best"]) == best["number"]
    assert "oracle" not in result.output
    assert (
        f"Train the best on all seeds with: ser-train --experiment {out}/best.toml --seeds 5" in result.output
    )
    assert load_run(out / "best").complete
    # From nothing, the file of the best gives the same figures.
    again = CliRunner().invoke(
        main,
        [
            "--experiment",
            str(out / "best.toml"),
            "--trained",
            str(tmp_path / "u"),
            "--output",
            str(tmp_path / "r"),
        ],
    )
    assert again.exit_code == 0, again.output
    assert (tmp_path / "r/results.csv").read_bytes() == (out / "best/results.csv").read_bytes()


def test_of_an_average_the_score_is_its_own(caches: Path, tmp_path: Path) -> None:
    """Without a memory it is the validation CCC of the current corpus, which results.csv has too."""
    common = ["--cache", caches, "--trained", tmp_path / "t", "--strategy", "finetune"]
    result = searched(
        *common, "--average", "interpolate", "--search", "average-share=0..1", "--output", tmp_path / "s"
    )
    assert float(best_of(tmp_path / "s")["objective"]) == pytest.approx(
        validation(tmp_path / "s/best", False), abs=1e-6
    )
    assert (
        "finetune keeps no memory, so that the objective is the validation CCC of the current corpus alone"
        in result.stderr
    )
    options = ["--strategy", "analytic", "--search", "analytic-features=none,8,16"]
    line = [
        "--cache",
        str(caches),
        "--trained",
        str(tmp_path / "t"),
        *options,
        "--trials",
        "3",
        "--seeds",
        "1",
        "--jobs",
        "1",
    ]
    done = CliRunner().invoke(main, [*line, "--output", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert float(best_of(tmp_path / "a")["objective"]) == pytest.approx(
        validation(tmp_path / "a/best", False), abs=1e-6
    )


def test_an_oracle_is_called_one(caches: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    result = searched(
        "--cache", caches, "--trained", tmp_path / "t", "--search", RATES, "--search", "stop-on=current,memory",
        "--search-objective", "all-seen", "--seeds", 2, "--output", out,
    )  # fmt: skip
    best = best_of(out, "oracle_objective")
    assert float(best["oracle_objective"]) == pytest.approx(validation(out / "best", True), abs=1e-12)
    assert json.loads((out / "search.json").read_text())["oracle"] is True
    assert "oracle" in json.loads((out / "best/config.json").read_text())["command"]
    assert "oracle" in (out / "best.toml").read_text()
    assert all(
        "oracle" in line
        for line in result.stderr.splitlines()
        if line.startswith("trial ") and "with" in line
    )
    assert "Train the best (oracle) on all seeds with: ser-train " in result.output
    assert "oracle objective" in result.output


def test_a_longer_search_continues_a_shorter(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--trained", tmp_path / "t", "--search", RATES]
    searched(*command, "--trials", 4, "--output", tmp_path / "whole")
    searched(*command, "--trials", 1, "--output", tmp_path / "parts")
    result = searched(*command, "--trials", 4, "--output", tmp_path / "parts")
    assert "1 of 4 trials are finished already." in result.stderr
    assert trials(tmp_path / "parts") == trials(tmp_path / "whole")
    for name in ("best.toml", "best/results.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = (tmp_path / "parts/trials.csv").read_bytes()
    searched(*command, "--trials", 4, "--output", tmp_path / "parts")
    assert (tmp_path / "parts/trials.csv").read_bytes() == before


def test_another_search_in_the_folder_is_refused(caches: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = ["--cache", caches, "--trained", tmp_path / "t", "--trials", 1, "--output", out]
    searched(*command, "--search", RATES)
    content = (out / "trials.csv").read_bytes()
    for other, differing in (
        (["--search", "learning-rate=1e-3..1e-1"], "search learning-rate"),
        (["--search", RATES, "--search", "replay-share=0.2..0.8"], "search replay-share"),
        (["--search", RATES, "--seeds", 2, "--epochs", 2], "seeds, epochs"),
        (["--search", RATES, "--search-objective", "all-seen"], "objective, stop-on"),
    ):
        message = refused(search(*command, *other), 2)
        assert message.startswith(f"{out} already holds another search (different: "), message
        assert set(differing.split(", ")) <= set(
            message.partition("different: ")[2].partition(")")[0].split(", ")
        ), message
    assert (out / "trials.csv").read_bytes() == content
    (out / "trials.csv").write_bytes(content.replace(b"finished", b"diverged"))
    assert "trials.csv is not as the search wrote it (trial 1): restore it, or" in refused(
        search(*command, "--search", RATES), 1
    )
    run = ["--output", out / "best", "--cache", caches, "--trained", tmp_path / "t"]
    assert "best already holds other results: give another" in refused(search(*run, "--search", RATES), 2)


def test_a_trial_that_diverges_is_passed_over(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--trained", tmp_path / "t", "--loss", "mse", "--strategy", "finetune"]
    result = searched(
        *command, "--search", "learning-rate=0.01,1e30", "--output", tmp_path / "s", "--trials", 4
    )
    made = {row["learning_rate"]: (row["objective"] != "", row["state"]) for row in trials(tmp_path / "s")}
    assert made == {"0.01": (True, "finished"), "1e30": (False, "diverged")}
    assert "diverged with learning-rate 1e+30" in result.stderr
    done = [row["number"] for row in trials(tmp_path / "s") if row["objective"]]  # all are equal
    assert [line.split()[0] for line in result.stdout.splitlines()[2 : 2 + len(done)]] == done
    assert "of which" in result.output
    message = refused(search(*command, "--search", "learning-rate=1e29..1e30", "--output", tmp_path / "u"), 1)
    assert message.startswith(
        "All 3 trials diverged, since their predictions stopped being finite: search smaller values"
    )
    assert len(trials(tmp_path / "u")) == 3


def test_without_optuna_nothing_is_trained(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    message = refused(search("--cache", caches, "--search", RATES, "--output", tmp_path / "s"), 1)
    assert message == "--search needs the package optuna: pip install 'ser-memory[search]'"
    assert not (tmp_path / "s").exists()


def test_from_python_it_is_the_command(
    caches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    searched("--cache", caches, "--search", RATES, "--output", tmp_path / "c", "--trained", tmp_path / "t")
    capfd.readouterr()
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in QUICK.items()}
    common: dict[str, Any] = {**options, "cache": caches, "trained": tmp_path / "t", "reporter": Silent()}
    found = api.search(RATES, output=tmp_path / "p", **common)
    assert capfd.readouterr() == ("", "")
    assert trials(tmp_path / "p") == trials(tmp_path / "c")
    assert found.best == max(found.trials, key=lambda trial: trial.objective or -1)
    assert str(found.best.objective) == best_of(tmp_path / "c")["objective"]
    assert found.run.results == api.read_results(tmp_path / "c/best")
    with pytest.raises(SerError, match="--trials 0 must be at least 1"):
        api.search(RATES, **{**common, "trials": 0})


def test_the_file_of_the_best_has_what_has_an_effect(caches: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    searched("--cache", caches, "--search", "average=none,ema", "--search", "average-decay=0.5..0.9",
             "--search", "sampler=random,speaker", "--stages", "msp-podcast,iemocap", "--output", out,
             "--trained", tmp_path / "t", "--strategy", "gem")  # fmt: skip
    best, content = best_of(out), tomllib.loads((out / "best.toml").read_text())
    decay = {"average-decay": float(best["average_decay"])} if best["average"] == "ema" else {}
    assert content == {
        "stages": ["msp-podcast", "iemocap"], "cache": str(caches), "strategy": ["gem"], "sampler": [best["sampler"]],
        "memory-size": [20], "seeds": 1, "batch-size": 16, "epochs": 3, "stop-on": "memory", "average": best["average"],
        **decay, "trained": str(tmp_path / "t"), "jobs": 1,
    }  # fmt: skip
