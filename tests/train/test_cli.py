"""ser-train from end to end, on small caches."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from scipy.stats import ttest_rel

from ser_memory.train.cli import main
from ser_memory.train.strategies import STRATEGIES
from tests.train.worlds import write_caches

QUICK = [
    "--epochs",
    "3",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.01",
    "--memory-size",
    "20",
    "--jobs",
    "1",
]


def quick(*arguments: object) -> list[str]:
    """The arguments, after those options of QUICK that are not among them and have an effect."""
    typed = [str(argument) for argument in arguments]
    strategies = [
        STRATEGIES.get(value.partition(":")[0])
        for name, value in itertools.pairwise(typed)
        if name == "--strategy"
    ]
    without_effect = []
    if strategies and not any(strategy is None or strategy.earlier == "memory" for strategy in strategies):
        without_effect.append("--memory-size")
    if "--worker" in typed or "--address" in typed:
        without_effect.append("--jobs")
    if strategies and not any(strategy is None or strategy.by_gradient for strategy in strategies):
        without_effect += ["--epochs", "--batch-size", "--learning-rate"]
    pairs = zip(QUICK[::2], QUICK[1::2], strict=True)
    asked = [word for pair in pairs if pair[0] not in (*typed, *without_effect) for word in pair]
    return asked + typed


def run(*arguments: object, trained: Path | None = None) -> Result:
    """In this process, on one core; nothing that another test has trained is used unless `trained` says so."""
    with tempfile.TemporaryDirectory() as fresh:
        return CliRunner().invoke(main, quick("--trained", trained or fresh, *arguments))


def refused(result: Result, exit_code: int) -> str:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    write_caches(folder)
    return folder


def test_the_same_command_gives_the_same_bytes(caches: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = run("--cache", caches, "--seeds", 2, "--output", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "one/results.csv").read_bytes() == (tmp_path / "two/results.csv").read_bytes()


def test_results_name_everything(caches: Path, tmp_path: Path) -> None:
    assert run("--cache", caches, "--seed", 4, "--strategy", "gem", "--output", tmp_path / "r").exit_code == 0
    first = rows(tmp_path / "r")[0]
    assert list(first) == [
        "strategy", "sampler", "memory_size", "seed", "stage", "stage_name",
        "corpus", "split", "dimension", "metric", "value", "n", "fold",
    ]  # fmt: skip
    assert list(first.values())[:6] == ["gem", "random", "20", "4", "1", "P"]
    assert {row["split"]: row["n"] for row in rows(tmp_path / "r")} == {"validation": "20", "test": "25"}
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["experiment"]["seeds"] == [4]
    assert set(config["digests"]) == {"msp-podcast", "msp-improv", "iemocap"}


def test_memory_csv_tells_what_is_remembered(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seeds", 2, "--strategy", "finetune", "--strategy", "experience-replay"]
    samplers = ["--sampler", "speaker", "--sampler", "emotion", "--strategy", "gem:random"]
    assert run(*command, *samplers, "--output", tmp_path / "r").exit_code == 0
    with (tmp_path / "r/memory.csv").open() as file:
        held = list(csv.DictReader(file))
    assert list(held[0]) == [
        "sampler", "memory_size", "seed", "corpus", "activation_bin", "valence_bin", "speaker", "n", "fold",
    ]  # fmt: skip
    per_memory: Counter[tuple[str, str, str]] = Counter()
    speakers: Counter[str] = Counter()
    for row in held:
        per_memory[row["sampler"], row["seed"], row["corpus"]] += int(row["n"])
        if (row["sampler"], row["seed"], row["corpus"]) == ("speaker", "0", "msp-podcast"):
            speakers[row["speaker"]] += int(row["n"])
    assert set(per_memory.values()) == {20}
    assert len(per_memory) == 3 * 2 * 2  # samplers, seeds, earlier corpora
    assert speakers == {"0": 5, "1": 5, "2": 5, "3": 5}
    assert {(row["strategy"], row["sampler"]) for row in rows(tmp_path / "r")} == {
        ("finetune", "none"), ("experience-replay", "speaker"), ("experience-replay", "emotion"), ("gem", "random"),
    }  # fmt: skip


def test_the_closing_table_is_the_results(caches: Path, tmp_path: Path) -> None:
    """Means, deviations and stars of the table, recomputed from results.csv."""
    result = run("--cache", caches, "--seeds", 4, "--output", tmp_path / "r")
    table = rows(tmp_path / "r")
    for metric in ("ccc", "uar"):
        for dimension in ("activation", "valence"):
            printed = result.output.split(f"{metric.upper()} of {dimension}, test split")[1].splitlines()
            for stage, label in ((2, "P+M"), (3, "P+M+I")):
                for strategy in ("finetune", "experience-replay", "gem"):
                    (line,) = [line for line in printed[:10] if line.split()[:2] == [label, strategy]]
                    cells = []
                    for corpus in ("msp-podcast", "msp-improv", "iemocap"):
                        ours, base = (
                            [float(row["value"]) for row in table
                             if (row["strategy"], row["stage"], row["corpus"], row["split"], row["dimension"], row["metric"])
                             == (name, str(stage), corpus, "test", dimension, metric)]
                            for name in (strategy, "finetune")
                        )  # fmt: skip
                        star = strategy != "finetune" and ours != base and ttest_rel(ours, base).pvalue < 0.05
                        sign = "*+" if np.mean(ours) > np.mean(base) else "*-"
                        cells.append(
                            f"{np.mean(ours):.3f} ± {np.std(ours, ddof=1):.3f}{sign if star else ''}"
                        )
                    assert line.split(maxsplit=2)[2].split() == " ".join(cells).split()


def test_samplers_are_held_against_a_random_memory(caches: Path, tmp_path: Path) -> None:
    """Daggers of the table, recomputed from results.csv."""
    samplers = ["--sampler", "random", "--sampler", "emotion", "--sampler", "density"]
    command = ["--cache", caches, "--seeds", 4, "--strategy", "experience-replay", *samplers]
    result = run(*command, "--output", tmp_path / "r")
    table = rows(tmp_path / "r")
    printed = result.output.split("CCC of valence, test split")[1].splitlines()
    daggers = 0
    for stage, label in ((2, "P+M"), (3, "P+M+I")):
        for sampler in ("random", "emotion", "density"):
            (line,) = [
                line
                for line in printed[:10]
                if line.split()[:3] == [label, "experience-replay", f"({sampler})"]
            ]
            cells = line.split(maxsplit=3)[3].replace(" ± ", "±").split()
            for cell, corpus in zip(cells, ("msp-podcast", "msp-improv", "iemocap"), strict=True):
                ours, base = (
                    [float(row["value"]) for row in table
                     if (row["sampler"], row["stage"], row["corpus"], row["split"], row["dimension"], row["metric"])
                     == (name, str(stage), corpus, "test", "valence", "ccc")]
                    for name in (sampler, "random")
                )  # fmt: skip
                dagger = sampler != "random" and ttest_rel(ours, base).pvalue < 0.05
                sign = "†+" if np.mean(ours) > np.mean(base) else "†-"
                assert cell == f"{np.mean(ours):.3f}±{np.std(ours, ddof=1):.3f}{sign if dagger else ''}"
                daggers += dagger
    assert daggers == result.output.split("CCC of valence, test split")[1].split("UAR of")[0].count("†")
    assert "†+ higher, †- lower than the same strategy with a random memory, p < 0.05 (two" in result.output


def test_observed_scale(caches: Path, tmp_path: Path) -> None:
    for scale in ("declared", "observed"):
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--label-scale", scale]
        assert run(*command, "--output", tmp_path / scale).exit_code == 0
    assert rows(tmp_path / "declared") != rows(tmp_path / "observed")


class TestBadInput:
    def test_missing_caches_name_the_commands(self, tmp_path: Path) -> None:
        message = refused(run("--cache", tmp_path, "--stages", "msp-podcast,iemocap"), 1)
        assert f"ser-extract --corpus msp-podcast --cache {tmp_path}" in message
        assert f"ser-extract --corpus iemocap --cache {tmp_path}" in message

    def test_caches_of_different_encoders(self, tmp_path: Path) -> None:
        write_caches(tmp_path)
        write_caches(tmp_path / "other", text_revision="r2")
        (tmp_path / "other/iemocap.h5").replace(tmp_path / "iemocap.h5")
        message = refused(run("--cache", tmp_path), 1)
        assert "different encoders" in message
        assert "text_revision r1" in message

    def test_the_same_encoder_in_another_folder_is_the_same(self, tmp_path: Path) -> None:
        write_caches(tmp_path)
        write_caches(tmp_path / "other", text_encoder="elsewhere/bert")
        (tmp_path / "other/iemocap.h5").replace(tmp_path / "iemocap.h5")
        result = run("--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r")
        assert result.exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (
                ["--strategy", "ewma"],
                "There is no strategy 'ewma': choose among finetune, experience-replay, gem, a-gem, der++, ewc, lwf, "
                "prototype-replay, analytic, joint.",
            ),
            (["--sampler", "best"], "There is no sampler 'best': choose among random"),
            (["--strategy", "gem:best"], "There is no sampler 'best': choose among random"),
            (["--gem-batch", "some"], "'some' is not a valid integer range, and it is not 'all'."),
            (["--gem-batch", "1"], "--gem-batch 1 teaches nothing with --loss ccc"),
            (["--stages", "iemocap,iemocap"], "must name different caches"),
            (["--seeds", "3", "--seed", "1"], "Give --seeds N or --seed S, not both."),
            (["--strategy", "finetune", "--stages", "a/iemocap.h5"], "give names of caches such as iemocap"),
            (["--strategy", "finetune:speaker"], "finetune keeps no memory, so leave :speaker out."),
            (["--memory-size", "1"], "teaches nothing with --loss ccc"),
            (["--learning-rate", "nan"], "nan is not a finite number"),
            (["--device", "cuda"], "Device 'cuda' is not available here"),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], says: str, caches: Path) -> None:
        assert says in refused(run("--cache", caches, *arguments), 2)

    def test_a_corpus_without_validation(self, tmp_path: Path) -> None:
        write_caches(tmp_path, {"train": 30, "test": 10})
        message = refused(run("--cache", tmp_path), 1)
        assert "has no validation split" in message
        assert "it has train, test" in message

    def test_results_are_never_overwritten(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--strategy", "gem", "--output", tmp_path / "r"]
        assert run(*command, "--seeds", 2).exit_code == 0
        before = (tmp_path / "r/results.csv").read_bytes()
        assert "already holds more than this (seed 0)" in refused(run(*command, "--seed", 1), 2)
        assert "already holds more than this (seed 0, seed 1)" in refused(run(*command, "--seed", 9), 2)
        other = run(*command, "--seeds", 2, "--sampler", "speaker")
        assert "already holds more than this (gem:random of 20)" in refused(other, 2)
        for options, differing in (
            (["--epochs", 4], "epochs"),
            (["--label-scale", "observed"], "label_scale, digests"),
            (["--gem-margin", 0.5], "gem_margin"),
        ):
            says = f"already holds another experiment (different: {differing})"
            assert says in refused(run(*command, "--seeds", 2, *options), 2)
        (tmp_path / "r/config.json").write_text("{")
        assert "another experiment (different: config.json)" in refused(run(*command, "--seeds", 2), 2)
        (tmp_path / "r/config.json").unlink()
        assert "already holds results of another program" in refused(run(*command, "--seeds", 2), 2)
        assert (tmp_path / "r/results.csv").read_bytes() == before

    def test_two_runs_do_not_write_to_one_folder(self, caches: Path, tmp_path: Path) -> None:
        (tmp_path / "r").mkdir()
        with FileLock(tmp_path / "r/.lock"):
            message = refused(run("--cache", caches, "--seed", 0, "--output", tmp_path / "r"), 2)
        assert "Another ser-train is writing to" in message

    def test_what_cannot_be_kept_is_not_begun(
        self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        message = refused(run(*command, trained=tmp_path / "file/below"), 1)
        assert message.startswith("Finished stages cannot be kept in ")
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
        message = refused(run(*command), 1)
        assert "Finished stages need 3 MB and " in message
        assert "has 1 MB left: make room" in message

    def test_a_diverging_run_names_itself_and_the_others_go_on(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--strategy", "lwf"]
        result = run(*command, "--lwf-strength", "3e38", "--output", tmp_path / "r")
        message = refused(result, 1)
        assert message.startswith(
            "The predictions stopped being finite for lwf with seed 0 at stage P+M: lower"
        )
        assert {(row["strategy"], row["stage_name"]) for row in rows(tmp_path / "r")} == {
            ("finetune", "P"), ("finetune", "P+M"), ("finetune", "P+M+I"), ("lwf", "P"),
        }  # fmt: skip
        assert "P+M+I  finetune" in result.output

    def test_a_first_stage_that_diverges(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seed", 0, "--learning-rate", "1e30", "--loss", "mse"]
        assert "for all strategies with seed 0 at stage P: " in refused(
            run(*command, "--output", tmp_path / "r"), 1
        )

    def test_caches_that_were_changed(self, tmp_path: Path) -> None:
        for column, value, says in (
            ("acoustic", np.nan, "the acoustic of iemocap-3 is not finite"),
            ("activation", 50.0, "the activation of iemocap-3 is not finite or outside the scale"),
        ):
            write_caches(tmp_path)
            with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
                file[column][3] = value
            assert says in refused(run("--cache", tmp_path), 1)

    def test_a_memory_that_holds_everything_is_told(self, caches: Path, tmp_path: Path) -> None:
        result = run("--cache", caches, "--seed", 0, "--memory-size", 100, "--output", tmp_path / "r")
        assert "The memory of msp-podcast holds all of its 60 training utterances." in result.stderr


class TestLayers:
    """Caches of several layers: one of them, or a learned mixture."""

    @pytest.fixture
    def layered(self, tmp_path: Path) -> Path:
        write_caches(tmp_path, acoustic_layers="7,9")
        return tmp_path

    def test_one_layer_is_a_cache_of_that_layer(self, layered: Path, tmp_path: Path) -> None:
        """Layer 7 of the layered caches is what plain caches hold; layer 9 is not."""
        write_caches(tmp_path / "plain")
        command = ["--seed", 0, "--strategy", "finetune"]
        for layer in ("7", "9", "weighted"):
            result = run("--cache", layered, *command, "--layer", layer, "--output", tmp_path / layer)
            assert result.exit_code == 0, result.output
        assert run("--cache", tmp_path / "plain", *command, "--output", tmp_path / "r").exit_code == 0
        assert rows(tmp_path / "7") == rows(tmp_path / "r")
        assert rows(tmp_path / "9") != rows(tmp_path / "r")
        assert rows(tmp_path / "weighted") != rows(tmp_path / "r")

    def test_a_layer_that_all_caches_have(self, layered: Path, tmp_path: Path) -> None:
        """Whatever other layers lie beside it in one of them."""
        write_caches(tmp_path / "other", acoustic_layers="9,7")
        (tmp_path / "other/iemocap.h5").replace(layered / "iemocap.h5")
        command = ["--cache", layered, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
        assert "different encoders" in refused(run(*command, "--layer", "weighted"), 1)
        assert run(*command, "--layer", "7").exit_code == 0

    def test_layers_that_are_not_there(self, layered: Path, caches: Path) -> None:
        assert "holds the layers 7,9: --layer 8 is not among them" in refused(
            run("--cache", layered, "--layer", "8"), 2
        )
        assert "holds the layers 7,9: say which with --layer" in refused(run("--cache", layered), 2)
        assert "holds the last hidden states only" in refused(run("--cache", caches, "--layer", "7"), 2)
