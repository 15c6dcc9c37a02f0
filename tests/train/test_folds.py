"""Split protocols at training time: folds, their figures, and what cannot be used."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_memory.extract.settings import EncoderSettings, TranscriptSettings, UtteranceSettings
from ser_memory.train.cli import main
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import load_corpora, source_of
from ser_memory.train.engines.inline import Inline
from ser_memory.train.engines.stacked import Stacked
from ser_memory.train.experiment import load, plan, pooled
from ser_memory.train.gradient import GradientStack
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Result, overall, read_results, tabulate
from ser_memory.train.runs import POOLED, Run
from ser_memory.train.settings import DataSettings, StrategySettings, TrainingSettings
from ser_memory.train.splits import EXTRACTION
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.reference import plain
from tests.train.test_cli import refused, rows, run
from tests.train.test_resume import trained_stages
from tests.train.worlds import STAGES, corpora_in_folds, write_caches

SESSIONS = ["--protocol", "iemocap=sessions", "--protocol", "msp-improv=sessions"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of five sessions each; no speaker is in two of them."""
    folder = tmp_path_factory.mktemp("sessions")
    write_sessions(folder)
    return folder


def write_sessions(folder: Path, sessions: int = 5, **changes: Any) -> None:
    """Caches whose own splits are by session too, as those of the releases are."""
    write_caches(folder, sessions=sessions, **changes)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            names = {"4": "validation", "5": "test"} if sessions > 3 else {"2": "validation", "3": "test"}
            file["split"][...] = [names.get(value, "train") for value in file["session"].asstr()[:]]


def altered(path: Path, **columns: list[str]) -> None:
    with h5py.File(path, "r+") as file:
        for name, values in columns.items():
            file[name][...] = values


def of(found: list[dict[str, str]], **wanted: object) -> list[dict[str, str]]:
    return [row for row in found if all(row[name] == str(value) for name, value in wanted.items())]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sessions=st.lists(st.sampled_from(["1", "2", "3", "9", "10", ""]), min_size=105, max_size=105).filter(
        lambda values: len(set(values) - {""}) > 2
    )
)
def test_folds_partition_the_corpus(sessions: list[str], tmp_path: Path) -> None:
    """Each utterance with a session is in one split of every fold, tested in one fold, and validates in one."""
    write_sessions(tmp_path)
    altered(tmp_path / "iemocap.h5", session=sessions, speaker=["Unknown"] * 105)
    data = DataSettings(("iemocap",), tmp_path, protocol=("iemocap=sessions",))
    (corpus,) = load_corpora(source_of(data, "cpu", 0.5))
    used = [row for row, session in enumerate(sessions) if session]
    assert len(corpus.folds) == len(set(sessions) - {""})
    for fold in corpus.folds:
        places = Counter(row for part in fold.splits.values() for row in part.rows.tolist())
        assert places == Counter(used)
        assert {sessions[row] for row in fold.splits["test"].rows.tolist()} == {
            next(sessions[row] for row in fold.splits["test"].rows.tolist())
        }
    for split in ("validation", "test"):
        assert Counter(row for fold in corpus.folds for row in fold.splits[split].rows.tolist()) == Counter(
            used
        )


def predicted(
    folder: Path, caches: Path, options: dict[str, Any]
) -> dict[tuple[str, int, int], npt.NDArray[np.float64]]:
    """(N, 2) of every utterance of iemocap by the model of the fold that tests it: by strategy, seed and stage.

    The saved parameters run in the plain PyTorch network.
    """
    experiment, _, corpora = load(Settings.take({**options, "cache": caches, "trained": folder}))
    trainer = Trainer(experiment, corpora, Store(folder), torch.device("cpu"))
    with h5py.File(caches / "iemocap.h5") as file:
        sessions = file["session"].asstr()[:]
        acoustic, text = (torch.from_numpy(file[name][:]) for name in ("acoustic", "text"))
    found = {}
    for variant in experiment.variants:
        for seed in experiment.seeds:
            for stage in range(1, len(experiment.stages) + 1):
                made = np.full((len(sessions), 2), np.nan)
                for number, session in enumerate("12345", start=1):
                    own = Run(variant if stage > 1 else None, seed, str(number))
                    (flat,) = Store(folder).parameters([trainer.keys.of(own, stage)])
                    model = plain(trainer.network, flat).eval()
                    with torch.no_grad():
                        answers = model(acoustic, text).numpy()
                    made[sessions == session] = answers[sessions == session]
                found[variant.strategy, seed, stage] = made
    return found


def literal(truth: npt.NDArray[np.floating], prediction: npt.NDArray[np.floating], metric: str) -> float:
    """CCC and UAR written out."""
    if metric == "ccc":
        x, y = truth - truth.mean(), prediction - prediction.mean()
        shift = truth.mean() - prediction.mean()
        return float(2 * (x * y).mean() / ((x * x).mean() + (y * y).mean() + shift**2))
    levels, answers = (np.clip(((values + 1) * 1.5).astype(int), 0, 2) for values in (truth, prediction))
    return float(np.mean([(answers[levels == level] == level).mean() for level in set(levels)]))


def test_a_first_stage_of_its_own_is_pooled_too(caches: Path, tmp_path: Path) -> None:
    command = [
        "--cache",
        caches,
        "--stages",
        "iemocap,msp-improv",
        "--protocol",
        "iemocap=sessions",
        "--seed",
        0,
    ]
    both = ["--strategy", "analytic", "--strategy", "finetune"]
    assert run(*command, *both, "--epochs", 2, "--output", tmp_path / "r").exit_code == 0
    pooled = {(row["strategy"], row["stage"]) for row in of(rows(tmp_path / "r"), fold="pooled")}
    assert pooled == {("analytic", "1"), ("analytic", "2"), ("finetune", "1"), ("finetune", "2")}


def test_pooled_figures_are_of_the_predictions_of_all_folds(caches: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "stages": ["msp-podcast", "iemocap"], "strategy": ["finetune", "gem"], "protocol": "iemocap=sessions",
        "memory_size": 20, "seeds": 2, "epochs": 3, "batch_size": 16, "learning_rate": 0.01,
    }  # fmt: skip
    command = ["--cache", caches, "--stages", "msp-podcast,iemocap", "--protocol", "iemocap=sessions",
               "--strategy", "finetune", "--strategy", "gem", "--seeds", 2, "--output", tmp_path / "r"]  # fmt: skip
    result = run(*command, trained=tmp_path / "t")
    assert result.exit_code == 0, result.output
    made = rows(tmp_path / "r")
    with h5py.File(caches / "iemocap.h5") as file:
        truth = (
            np.stack([file[name][:] for name in ("activation", "valence")], axis=1).astype(float) - 3
        ) / 2
    compared = 0
    for (strategy, seed, stage), answers in predicted(tmp_path / "t", caches, options).items():
        for column, dimension in enumerate(("activation", "valence")):
            for metric in ("ccc", "uar"):
                (row,) = of(made, strategy=strategy, seed=seed, stage=stage, corpus="iemocap", split="test",
                            dimension=dimension, metric=metric, fold=POOLED)  # fmt: skip
                expected = literal(truth[:, column], answers[:, column], metric)
                assert float(row["value"]) == pytest.approx(expected, abs=1e-5 if metric == "ccc" else 0.02)
                assert row["n"] == "105"
                compared += 1
    assert compared == 2 * 2 * 2 * 4
    assert len(of(made, fold=POOLED)) == compared  # of tests of a corpus with folds, and of nothing else
    # A corpus without folds has the figures of a model in every fold, the same as long as folds share the model.
    for number in "12345":
        first, later = (
            [row["value"] for row in of(made, corpus="msp-podcast", stage=stage, fold=number)]
            for stage in (1, 2)
        )
        assert first == [row["value"] for row in of(made, corpus="msp-podcast", stage=1, fold="1")]
        assert number == "1" or later != [
            row["value"] for row in of(made, corpus="msp-podcast", stage=2, fold="1")
        ]
    check_tables(result.output, read_results(tmp_path / "r"))
    with (tmp_path / "r/memory.csv").open() as file:
        held = list(csv.DictReader(file))
    assert list(held[0])[-1] == "fold"
    assert {row["fold"] for row in held} == set("12345")
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["protocols"] == {"msp-podcast": "", "iemocap": "sessions"}


def check_tables(output: str, made: list[Result]) -> None:
    """The tables have the pooled figure, or the mean of the folds, and beside them how the folds differ."""
    title = (
        "CCC of valence, test split (iemocap over the predictions of all 5 folds; msp-podcast the mean over 5 folds): "
        "mean ± standard deviation over 2 seeds"
    )
    printed = output.split(title)[1].split("UAR of", maxsplit=1)[0]
    main, by_fold = printed.split(
        "The same by fold: mean ± standard deviation over the folds of the mean over the seeds (CCC of valence)"
    )
    wanted = [each for each in made if (each.split, each.dimension, each.metric) == ("test", "valence", "ccc")
              and (each.strategy, each.stage) == ("gem", 2)]  # fmt: skip
    cells = []
    for corpus in ("msp-podcast", "iemocap"):
        seeds = [
            np.mean([each.value for each in wanted if (each.corpus, each.seed) == (corpus, seed)
                     and (each.fold == POOLED) == (corpus == "iemocap")])
            for seed in range(2)
        ]  # fmt: skip
        cells.append(f"{np.mean(seeds):.3f} ± {np.std(seeds, ddof=1):.3f}")
    (line,) = [line for line in main.splitlines() if line.split()[:2] == ["P+I", "gem"]]
    assert [part.split("*")[0].strip() for part in line.split("gem")[1].split("   ") if part.strip()] == cells
    folds = [
        np.mean([each.value for each in wanted if (each.corpus, each.fold) == ("iemocap", str(fold))])
        for fold in range(1, 6)
    ]
    (line,) = [line for line in by_fold.splitlines() if line.split()[:2] == ["P+I", "gem"]]
    assert line.split("gem")[1].strip() == f"{np.mean(folds):.3f} ± {np.std(folds, ddof=1):.3f}"


def test_overall_takes_the_pooled_figure_or_the_mean_of_the_folds() -> None:
    one = Result("gem", "random", 9, 3, 2, "P+I", "iemocap", "test", "valence", "ccc", 0.1, 20, "1")
    other = replace(one, value=0.4, n=30, fold="2")
    pooled = replace(one, value=0.2, n=50, fold=POOLED)
    plain_row = replace(one, seed=4, fold="")
    assert overall([one, other, pooled, plain_row]) == [replace(pooled, fold=""), plain_row]
    assert overall([one, other]) == [replace(one, value=0.25, n=25, fold="")]
    assert overall([plain_row]) == [plain_row]


def test_the_first_stage_is_trained_once_or_in_every_fold(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained_stages(monkeypatch)
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", *SESSIONS]
    assert run(*command, "--output", tmp_path / "a", trained=tmp_path / "t").exit_code == 0
    assert len(seen) == 1 + 5 * 2
    seen.clear()
    every = [*command, "--protocol", "msp-podcast=mine"]
    write_sessions(tmp_path / "own", protocols={"mine": {"folds": "session"}})
    every[1] = tmp_path / "own"
    result = run(*every, "--output", tmp_path / "b", trained=tmp_path / "t")
    assert result.exit_code == 0, result.output
    assert len(seen) == 5 * 3
    assert {row["fold"] for row in of(rows(tmp_path / "b"), stage=1, corpus="msp-podcast")} == {
        *"12345",
        POOLED,
    }


def test_a_test_label_that_is_corrected_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only figures are measured again. A label that trains in one fold costs that fold and those after it."""
    write_sessions(tmp_path)
    seen = trained_stages(monkeypatch)
    command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune"]

    def again(name: str, *more: object) -> int:
        seen.clear()
        assert run(*command, *more, "--output", tmp_path / name, trained=tmp_path / "t").exit_code == 0
        return len(seen)

    assert again("a") == 3
    with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
        (row, *_) = np.flatnonzero(file["split"].asstr()[:] == "test")
        file["valence"][row] = 1.5
    assert again("b") == 0
    changed = [
        one for one, other in zip(rows(tmp_path / "a"), rows(tmp_path / "b"), strict=True) if one != other
    ]
    assert {(row["corpus"], row["split"], row["dimension"]) for row in changed} == {
        ("iemocap", "test", "valence")
    }
    assert again("c", "--protocol", "iemocap=sessions") == 5
    with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
        file["valence"][0] = 2.5  # session 1: tested in fold 1, in all others seen
    assert again("d", "--protocol", "iemocap=sessions") == 4
    with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
        file.attrs["fingerprint"] = file.attrs["created_by"] = "another version"
    assert again("e") == 1  # the training label that was changed last


def test_folds_that_train_on_the_same_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = [
        {"train": ["1", "2"], "validation": ["3"], "test": ["4"], "test2": ["5"]},
        {"train": ["1", "2"], "validation": ["3"], "test": ["5"], "test2": ["4"]},
    ]
    write_sessions(tmp_path, protocols={"two": {"by": "session", "folds": folds}})
    seen = trained_stages(monkeypatch)
    command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "msp-podcast,iemocap"]
    result = run(*command, "--protocol", "iemocap=two", "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert len(seen) == 2
    made = of(rows(tmp_path / "r"), stage=2, corpus="iemocap", dimension="valence", metric="ccc")
    values = {(row["fold"], row["split"]): float(row["value"]) for row in made}
    assert values["1", "test"] == values["2", "test2"] != values["2", "test"]
    assert values[POOLED, "test"] == pytest.approx(values[POOLED, "test2"])


class TestProtocols:
    """Which protocol is used, and those that cannot be."""

    def test_one_without_folds(self, tmp_path: Path) -> None:
        write_sessions(
            tmp_path, protocols={"mine": {"by": "session", "train": "*", "validation": ["1"], "test": ["2"]}}
        )
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        assert run(*command, "--protocol", "iemocap=mine", "--output", tmp_path / "r").exit_code == 0
        assert run(*command, "--protocol", "iemocap=sessions", "--output", tmp_path / "folds").exit_code == 0
        made = rows(tmp_path / "r")
        assert {row["fold"] for row in made} == {""}
        assert {row["split"]: row["n"] for row in made} == {"validation": "21", "test": "21"}

    def test_that_of_the_cache_is_used_if_it_has_folds(self, tmp_path: Path) -> None:
        protocols = {
            "mine": {"folds": "session"},
            "plain": {"by": "session", "train": "*", "validation": ["1"], "test": ["2"]},
        }
        write_sessions(tmp_path, protocol="mine", protocols=protocols)
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        assert run(*command, "--output", tmp_path / "r").exit_code == 0
        assert {row["fold"] for row in rows(tmp_path / "r")} == {*"12345", POOLED}
        assert json.loads((tmp_path / "r/config.json").read_text())["protocols"] == {"iemocap": "mine"}
        write_sessions(tmp_path, protocol="plain", protocols=protocols)
        assert run(*command, "--output", tmp_path / "plain").exit_code == 0
        assert {row["n"] for row in of(rows(tmp_path / "plain"), split="test")} == {"21"}
        assert json.loads((tmp_path / "plain/config.json").read_text())["protocols"] == {"iemocap": "plain"}

    def test_a_protocol_of_the_cache_wins_over_the_shipped_one(self, tmp_path: Path) -> None:
        ours = {"by": "session", "train": ["1", "2", "3"], "validation": ["5"], "test": ["4"]}
        write_sessions(tmp_path, protocols={"sessions": ours})
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        assert run(*command, "--protocol", "iemocap=sessions", "--output", tmp_path / "r").exit_code == 0
        assert {row["fold"] for row in rows(tmp_path / "r")} == {""}

    @pytest.mark.parametrize(
        ("protocol", "says"),
        [
            (["iemocap"], "--protocol 'iemocap' must be CORPUS=NAME, such as iemocap=sessions."),
            (["=sessions"], "--protocol '=sessions' must be CORPUS=NAME"),
            (
                ["clinic=x"],
                "--protocol clinic=x: clinic is not among the --stages msp-podcast, msp-improv, iemocap.",
            ),
            (["iemocap=a", "iemocap=a"], "--protocol gives iemocap twice: a corpus has one protocol."),
        ],
    )
    def test_options_that_are_wrong(self, protocol: list[str], says: str, caches: Path) -> None:
        asked = [word for item in protocol for word in ("--protocol", item)]
        assert says in refused(run("--cache", caches, *asked), 2)

    def test_one_that_nobody_knows(self, caches: Path) -> None:
        message = refused(run("--cache", caches, "--protocol", "msp-improv=session"), 2)
        assert message == (
            f"There is no protocol 'session' of msp-improv: {caches}/msp-improv.h5 knows fixed, author, sessions. After "
            f"adding it to the manifest, ser-extract --corpus msp-improv --cache {caches} --acoustic-encoder a "
            "--text-encoder t --overwrite takes it into the cache and encodes nothing."
        )

    def test_a_cache_of_an_older_version_lacks_sessions(self, tmp_path: Path) -> None:
        folder = tmp_path / "my caches"
        usual: dict[str, Any] = {
            "acoustic_encoder": "facebook/wav2vec2-base",
            "text_encoder": "my models/bert",
            "min_duration": 2.5,
        }
        write_caches(folder, **usual)
        message = refused(run("--cache", folder, "--protocol", "iemocap=sessions"), 1)
        assert message == (
            f"Protocol 'sessions' splits iemocap by session, and {folder}/iemocap.h5 has no session, because an older "
            f"version wrote it: ser-extract --corpus iemocap --cache '{folder}' --text-encoder 'my models/bert' "
            "--min-duration 2.5 --overwrite adds it and encodes nothing."
        )

    def test_the_settings_of_an_extraction_are_left_out_where_they_are_its_defaults(self) -> None:
        made = {**vars(EncoderSettings()), **vars(TranscriptSettings()), **vars(UtteranceSettings())}
        assert {option: default for option, (_, default) in EXTRACTION.items()} == {
            option: made[option] for option in EXTRACTION
        }

    def test_sessions_that_the_release_does_not_tell(self, tmp_path: Path) -> None:
        write_sessions(tmp_path)
        altered(tmp_path / "iemocap.h5", session=[""] * 105)
        message = refused(run("--cache", tmp_path, "--protocol", "iemocap=sessions"), 1)
        assert message.startswith(
            f"Protocol 'sessions' splits iemocap by session, and {tmp_path}/iemocap.h5 has no session of any utterance"
        )

    def test_one_by_the_splits_of_the_release(self, tmp_path: Path) -> None:
        given = {
            "by": "split",
            "train": ["train", "test"],
            "validation": ["validation"],
            "test2": ["held out"],
        }
        own: dict[str, Any] = {"protocols": {"given": given}}
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        command += ["--protocol", "iemocap=given", "--output", tmp_path / "r"]
        write_caches(tmp_path, **own)
        says = "splits iemocap by split, and {}/iemocap.h5 has no split of the release, because an older version wrote it"
        assert says.format(tmp_path) in refused(run(*command), 1)
        write_sessions(tmp_path, **own)
        with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
            file["release_split"][...] = file["split"].asstr()[:]
            file["release_split"][::5] = "held out"
        altered(tmp_path / "iemocap.h5", speaker=[f"{row % 3}" for row in range(105)])
        shared = refused(run(*command), 1)
        assert shared.startswith("Protocol 'given' of iemocap has the speaker")
        altered(tmp_path / "iemocap.h5", speaker=["Unknown"] * 105)
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert {row["split"]: row["n"] for row in rows(tmp_path / "r")} == {"validation": "21", "test2": "21"}

    def test_folds_and_splits_without_utterances(self, tmp_path: Path) -> None:
        folds = [
            {"train": "*", "validation": ["1"], "test": ["2"]},
            {"train": "*", "validation": ["2"], "test": ["7", "8"]},
        ]
        write_sessions(tmp_path, protocols={
            "listed": {"by": "session", "folds": folds},
            "plain": {"by": "session", "train": "*", "validation": ["9"], "test": ["2"]},
            "untested": {"by": "session", "train": "*", "validation": ["1"]},
        })  # fmt: skip
        for name, says in (
            ("listed", "Fold 2 of protocol 'listed' of iemocap has no test utterances: it should have the session 7, 8, "
                       "and the corpus has 1, 2, 3, 4, 5. Correct the protocol, or choose another with --protocol."),
            ("plain", "Protocol 'plain' of iemocap has no validation utterances: it should have the session 9, and"),
            ("untested", "Protocol 'untested' of iemocap has no test utterances: it names none, and the corpus has 1, 2"),
        ):  # fmt: skip
            message = refused(run("--cache", tmp_path, "--protocol", f"iemocap={name}"), 1)
            assert message.startswith(says)

    def test_a_value_that_no_split_names(self, tmp_path: Path) -> None:
        write_sessions(tmp_path)
        altered(tmp_path / "iemocap.h5", session=[*["1", "2", "3", "4", "6"] * 21])
        message = refused(run("--cache", tmp_path, "--protocol", "iemocap=fixed"), 1)
        assert message.startswith("iemocap-4 has the session '6', which no split of the protocol")

    def test_a_speaker_in_two_splits(self, tmp_path: Path) -> None:
        write_sessions(tmp_path)
        with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
            file["speaker"][1] = file["speaker"][13] = "1M"  # of sessions 2 and 4
        says = "Fold 1 of protocol 'sessions' of iemocap has the speaker 1M in more than one split, so that its test"
        assert refused(run("--cache", tmp_path, "--protocol", "iemocap=sessions"), 1).startswith(says)
        says = "Protocol 'fixed' of iemocap has the speaker 1M in more than one split"
        assert refused(run("--cache", tmp_path, "--protocol", "iemocap=fixed"), 1).startswith(says)
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--jobs", 2]
        result = run(*command, "--output", tmp_path / "r")
        assert result.exit_code == 0, result.output
        assert (
            result.stderr.count("iemocap has the speaker 1M in more than one split, so that its test is") == 1
        )

    def test_unequal_numbers_of_folds(self, tmp_path: Path) -> None:
        write_sessions(tmp_path)
        write_sessions(tmp_path / "other", sessions=3)
        (tmp_path / "other/iemocap.h5").replace(tmp_path / "iemocap.h5")
        message = refused(run("--cache", tmp_path, *SESSIONS), 2)
        assert message.startswith(
            "The corpora have different numbers of folds (msp-improv 5, iemocap 3), and the k-th fold of each is used "
            "together: give another protocol with --protocol CORPUS=NAME"
        )

    def test_utterances_in_no_split_are_counted_once(self, tmp_path: Path) -> None:
        write_sessions(tmp_path)
        with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
            file["split"][:3], file["session"][:3] = "none", ""
        command = ["--cache", tmp_path, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        for protocol in ([], ["--protocol", "iemocap=sessions"]):
            result = run(*command, *protocol, "--output", tmp_path / f"r{len(protocol)}")
            assert result.exit_code == 0, result.output
            assert result.stderr.count("3 utterances of iemocap are in no split and are not used.") == 1
        assert of(rows(tmp_path / "r2"), fold=POOLED)[0]["n"] == "102"

    def test_a_run_in_a_folder_of_another_protocol(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--stages", "iemocap"]
        assert run(*command, "--output", tmp_path / "r").exit_code == 0
        other = run(*command, "--protocol", "iemocap=sessions", "--output", tmp_path / "r")
        assert "already holds another experiment (different: digests, protocols)" in refused(other, 2)


class TestSizes:
    """Several sizes of memory in one run."""

    def test_every_sampler_with_every_size(self, tmp_path: Path) -> None:
        write_caches(tmp_path)
        sweep = ["--strategy", "finetune", "--strategy", "gem", "--strategy", "experience-replay:emotion",
                 "--sampler", "random", "--sampler", "speaker", "--memory-size", 10, "--memory-size", 20]  # fmt: skip
        command = ["--cache", tmp_path, "--seeds", 2, "--stages", "msp-podcast,iemocap"]
        result = run(*command, *sweep, "--output", tmp_path / "r", trained=tmp_path / "t")
        assert result.exit_code == 0, result.output
        made = {(row["strategy"], row["sampler"], row["memory_size"]) for row in rows(tmp_path / "r")}
        sizes = ("10", "20")
        assert made == {("finetune", "none", "0")} | {
            (*memory, size)
            for memory in (("gem", "random"), ("gem", "speaker"), ("experience-replay", "emotion"))
            for size in sizes
        }
        assert "P+I    gem (speaker, 20) " in result.output
        assert "with a random memory of the same size, p < 0.05" in result.output
        estimate = run(*command, *sweep, "--dry-run")
        lines = [line.split() for line in estimate.output.splitlines()]
        assert ["P+I", "gem", "(10)", "4"] in [line[:4] for line in lines]
        # One size of it alone is the same, and a further size may be added.
        alone = run(*command, "--strategy", "gem", "--memory-size", 20, "--output", tmp_path / "alone")
        assert alone.exit_code == 0
        assert rows(tmp_path / "alone") == of(
            rows(tmp_path / "r"), strategy="gem", sampler="random", memory_size=20
        )
        more = ["--strategy", "gem", "--memory-size", 20, "--memory-size", 10]
        assert run(*command, *more, "--output", tmp_path / "alone").exit_code == 0
        fewer = run(*command, "--strategy", "gem", "--memory-size", 10, "--output", tmp_path / "alone")
        assert "already holds more than this (gem:random of 20)" in refused(fewer, 2)

    def test_daggers_compare_with_random_of_the_same_size(self) -> None:
        from ser_memory.train.report.terminal import _cell
        from ser_memory.train.runs import Variant

        low, high = ({seed: base + 0.01 * seed * seed for seed in range(5)} for base in (0.1, 0.5))
        higher = {seed: value + 0.2 + 0.001 * seed for seed, value in low.items()}
        values = {
            (2, Variant("gem", "random", 10), "c"): low, (2, Variant("gem", "random", 20), "c"): high,
            (2, Variant("gem", "speaker", 10), "c"): higher, (2, Variant("gem", "speaker", 20), "c"): higher,
        }  # fmt: skip
        assert "†+" in _cell(values, 2, Variant("gem", "speaker", 10), "c", True)
        assert "†-" in _cell(values, 2, Variant("gem", "speaker", 20), "c", True)

    def test_a_list_in_a_file(self, tmp_path: Path) -> None:
        write_caches(tmp_path)
        for key in ("memory-size", "memory_size"):
            (tmp_path / "mine.toml").write_text(f"strategy = 'gem'\nseeds = 1\n{key} = [10, 15]\n")
            command = [
                "--experiment",
                tmp_path / "mine.toml",
                "--cache",
                tmp_path,
                "--stages",
                "msp-podcast,iemocap",
            ]
            result = CliRunner().invoke(main, [str(word) for word in [*command, "--dry-run"]])
            assert "gem (10)" in result.output, result.output
            assert "gem (15)" in result.output

    def test_memories_that_hold_everything_name_their_size(self, tmp_path: Path) -> None:
        write_caches(tmp_path)
        sizes = ["--memory-size", 20, "--memory-size", 60, "--memory-size", 70]
        result = run("--cache", tmp_path, "--seed", 0, "--strategy", "gem", *sizes, "--dry-run")
        says = "The memory of 60, 70 utterances of msp-podcast holds all of its 60 training utterances."
        assert says in result.stderr


def test_a_plan_shares_first_stages(caches: Path, tmp_path: Path) -> None:
    options = {"cache": caches, "seeds": 2, "protocol": "iemocap=sessions", "strategy": ["finetune", "joint"]}
    experiment, _, corpora = load(Settings.take(options))
    store = Store(tmp_path)
    todo = plan(experiment, Trainer(experiment, corpora, store, torch.device("cpu")), store)
    assert [run for run in todo.tasks if run.variant is None] == [Run(None, 0), Run(None, 1)]
    # P once for all, P+M once for all folds, since msp-improv has none; P+M+I in every fold.
    assert len(todo.tasks) == 2 * (1 + 2 + 2 * 5)
    assert Counter(number for number, _ in todo.untrained) == {1: 2, 2: 2 * 2, 3: 2 * 2 * 5}


@pytest.mark.parametrize("with_folds", [STAGES, STAGES[1:], STAGES[2:], STAGES[:1]])
def test_stacks_of_each_fold_are_the_same_as_single_runs(with_folds: tuple[str, ...], tmp_path: Path) -> None:
    """Whichever corpora have folds."""
    made = corpora_in_folds(with_folds=with_folds)
    chosen = StrategySettings(strategy=("finetune", "gem"), memory_size=(10,))
    training = TrainingSettings(batch_size=16, epochs=1, learning_rate=1e-3)
    folds = tuple(len(corpus.folds) for corpus in made)
    experiment = Experiment(chosen.variants, STAGES, (0, 1), training, folds=folds)
    values = []
    for name, engine in (("apart", Inline), ("stacked", Stacked)):
        store = Store(tmp_path / name)
        trainer = Trainer(experiment, made, store, torch.device("cpu"))
        todo = plan(experiment, trainer, store)
        list(engine(trainer).run(todo.tasks, lambda _: None))
        first = STAGES.index(with_folds[0]) + 1
        assert len(todo.untrained) == sum(
            2 * (2 if number > 1 else 1) * (3 if number >= first else 1) for number in (1, 2, 3)
        )
        finished = plan(experiment, trainer, store).finished
        assert len(finished) == len(todo.untrained)
        found = tabulate(experiment, {**finished, **pooled(experiment, trainer, finished)})
        values.append({replace(each, value=0.0): each.value for each in found})
    apart, stacked = values
    assert apart.keys() == stacked.keys()
    # variants x seeds x stages x dimensions x measures, of both splits in every fold and of pooled tests
    assert len(apart) == 2 * 2 * 3 * 4 * (3 * 3 * 2 + len(with_folds))
    close = [stacked[key] == pytest.approx(value, abs=1e-3) for key, value in apart.items()]
    assert sum(close) > 0.95 * len(close)


def test_a_first_stage_that_diverges_takes_only_what_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GradientStack.training

    def spoilt(self: GradientStack, number: int, start: torch.Tensor, kept: Any) -> Any:
        bad = [(run.seed, run.fold, number) == (1, "2", 1) for run in self.runs]
        start = torch.where(torch.tensor(bad)[:, None], torch.nan, start)
        return original(self, number, start, kept)

    monkeypatch.setattr(GradientStack, "training", spoilt)
    made = corpora_in_folds(with_folds=STAGES)
    training = TrainingSettings(batch_size=16, epochs=1, learning_rate=1e-3)
    variants = StrategySettings(strategy=("finetune",)).variants
    experiment = Experiment(variants, STAGES, (0, 1), training, folds=(3, 3, 3))
    for engine in (Inline, Stacked):
        store = Store(tmp_path / engine.__name__)
        trainer = Trainer(experiment, made, store, torch.device("cpu"))
        outcomes = dict(engine(trainer).run(plan(experiment, trainer, store).tasks, lambda _: None))
        assert {run for run, outcome in outcomes.items() if outcome.failed} == {Run(None, 1, "2")}
        assert set(experiment.owners) - set(outcomes) == {Run(variants[0], 1, "2")}
        finished = plan(experiment, trainer, store).finished
        assert {run.seed for run, _ in pooled(experiment, trainer, finished)} == {0}
