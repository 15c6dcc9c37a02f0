"""Test recordings in other acoustic conditions: evaluated beside the corpora, and nothing to train on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner

from ser_memory.common.cache import CacheInfo, FeatureCache, write_cache
from ser_memory.common.errors import UsageError
from ser_memory.common.reporting import Silent
from ser_memory.train.api import read_conditions, train
from ser_memory.train.bundle_files import bundles_in, read_bundle
from ser_memory.train.cli import main
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import transcripts_in
from ser_memory.train.experiment import load
from ser_memory.train.results import Result, read_results
from ser_memory.train.runs import Run
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.reference import plain
from tests.train.test_cli import refused, run
from tests.train.test_folds import literal, of, write_sessions
from tests.train.test_resume import trained_stages
from tests.train.worlds import STAGES, write_caches

ALL = [word for name in ("finetune", "gem", "analytic") for word in ("--strategy", name)]


def in_condition(folder: Path, name: str, condition: str, everything: bool = False, **facts: Any) -> Path:
    """A cache of the test utterances, or of all, with other acoustic rows, in another order."""
    own = FeatureCache(folder / f"{name}.h5")
    chosen = np.flatnonzero(everything | (own.read("split") == "test"))[::-1]
    columns = {column: own.read(column)[chosen] for column in own.shapes}
    noise = np.random.default_rng(len(condition)).standard_normal(columns["acoustic"].shape)
    columns["acoustic"] = 0.5 * columns["acoustic"] + noise
    info = CacheInfo(**{**vars(own.info), "condition": condition, **facts})
    path = folder / f"{name}.{condition.replace(':', '-')}.h5"
    write_cache(path, info, columns)
    return path


def heard_instead(folder: Path, into: Path, corpus: str, condition: str) -> Path:
    """A copy of all caches in which the test rows of a corpus are those of a condition."""
    shutil.copytree(folder, into)
    with h5py.File(into / f"{corpus}.{condition}.h5") as heard, h5py.File(into / f"{corpus}.h5", "r+") as own:
        places = {name: row for row, name in enumerate(own["id"].asstr())}
        for name, values in zip(heard["id"].asstr(), heard["acoustic"], strict=True):
            own["acoustic"][places[name]] = values
    return into


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "conditions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("more", [[], ["--layer", "1"], ["--memory-share", 0], ["--dimensions", "valence"]])
def test_figures_are_those_of_a_corpus_with_these_test_recordings(more: list[object], tmp_path: Path) -> None:
    """All but the test rows is the same, so the models are, and results.csv has what conditions.csv should have."""
    (tmp_path / "caches").mkdir()
    layers: dict[str, Any] = {"acoustic_layers": "1,2"} if "--layer" in more else {}
    write_caches(tmp_path / "caches", **layers)
    in_condition(tmp_path / "caches", "iemocap", "telephone")
    other = heard_instead(tmp_path / "caches", tmp_path / "other", "iemocap", "telephone")
    command = [
        *ALL,
        "--stages",
        "msp-podcast,iemocap",
        "--seed",
        3,
        "--epochs",
        2,
        "--predictions",
        "none",
        *more,
    ]
    made = run("--cache", tmp_path / "caches", *command, "--output", tmp_path / "r")
    assert made.exit_code == 0, made.output
    assert "Also evaluated in other acoustic conditions: telephone (iemocap)." in made.stderr
    assert run("--cache", other, *command, "--conditions", "none", "--output", tmp_path / "o").exit_code == 0
    assert not (tmp_path / "o/conditions.csv").exists()
    found = read_conditions(tmp_path / "r")
    assert {row.condition for row in found} == {"telephone"}
    expected = [row for row in read_results(tmp_path / "o") if (row.corpus, row.split) == ("iemocap", "test")]
    assert [Result(**{k: v for k, v in vars(row).items() if k != "condition"}) for row in found] == expected
    clean = [row for row in read_results(tmp_path / "r") if (row.corpus, row.split) == ("iemocap", "test")]
    assert all(here.value != row.value for here, row in zip(found, clean, strict=True) if row.metric == "ccc")


def test_results_stay_the_same_and_nothing_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = tmp_path / "caches"
    caches.mkdir()
    write_caches(caches)
    command = ["--cache", caches, *ALL, "--seeds", 1, "--epochs", 2, "--output", tmp_path / "r"]
    kept: dict[str, Any] = {"trained": tmp_path / "t"}
    assert run(*command, **kept).exit_code == 0
    assert not (tmp_path / "r/conditions.csv").exists()
    before = {name: (tmp_path / "r" / name).read_bytes() for name in ("results.csv", "predictions.h5")}
    in_condition(caches, "iemocap", "telephone")
    in_condition(caches, "msp-improv", "noise:10")
    seen = trained_stages(monkeypatch)
    assert run(*command, **kept).exit_code == 0
    assert seen == []
    assert {name: (tmp_path / "r" / name).read_bytes() for name in before} == before
    made = (tmp_path / "r/conditions.csv").read_bytes()
    assert [*rows(tmp_path / "r")[0]][-2:] == ["fold", "condition"]
    assert {(row["condition"], row["corpus"], row["n"]) for row in rows(tmp_path / "r")} == {
        ("noise:10", "msp-improv", "25"), ("telephone", "iemocap", "25"),
    }  # fmt: skip
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert {name: list(digests) for name, digests in config["conditions"].items()} == {
        "iemocap": ["telephone"], "msp-improv": ["noise:10"],
    }  # fmt: skip
    # Fewer or other conditions are another run, since no figure is overwritten.
    fewer = refused(run(*command, "--conditions", "telephone", **kept), 2)
    assert "already holds more than this (msp-improv.noise:10)" in fewer
    with h5py.File(caches / "iemocap.telephone.h5", "r+") as file:
        file["acoustic"][0] += 1
    assert "(different: iemocap.telephone)" in refused(run(*command, **kept), 2)
    assert (tmp_path / "r/conditions.csv").read_bytes() == made


def test_folds_beside_the_plain_network(tmp_path: Path) -> None:
    """Figures of each fold and of all together, from the saved parameters in plain PyTorch."""
    write_sessions(tmp_path)
    in_condition(tmp_path, "iemocap", "room", everything=True)
    options: dict[str, Any] = {
        "stages": ["msp-podcast", "iemocap"], "strategy": ["finetune"], "protocol": "iemocap=sessions", "seeds": 1,
        "epochs": 2, "batch_size": 16, "learning_rate": 0.01, "cache": tmp_path, "trained": tmp_path / "t",
    }  # fmt: skip
    train(**options, jobs=1, output=tmp_path / "r", reporter=Silent())
    experiment, _, corpora = load(Settings.take(options))
    trainer = Trainer(experiment, corpora, Store(tmp_path / "t"), torch.device("cpu"))
    with h5py.File(tmp_path / "iemocap.room.h5") as file:
        names, sessions = file["id"].asstr()[:], file["session"].asstr()[:]
        acoustic, text = (torch.from_numpy(file[name][:]) for name in ("acoustic", "text"))
    with h5py.File(tmp_path / "iemocap.h5") as file:
        labels = dict(
            zip(file["id"].asstr()[:], zip(file["activation"], file["valence"], strict=True), strict=True)
        )
    truth = np.array([labels[name] for name in names]) / 2 - 1.5  # 1 to 5 -> -1 to 1
    found = rows(tmp_path / "r")
    for stage in (1, 2):
        made: npt.NDArray[np.float64] = np.full((len(names), 2), np.nan)
        for fold in "12345":
            own = Run(experiment.variants[0] if stage > 1 else None, 0, fold if stage > 1 else "")
            (flat,) = Store(tmp_path / "t").parameters([trainer.keys.of(own, stage)])
            with torch.no_grad():
                answers = plain(trainer.network, flat).eval()(acoustic, text).numpy()
            here = sessions == fold
            made[here] = answers[here]
            for row in of(found, stage=stage, fold=fold):
                k = ("activation", "valence").index(row["dimension"])
                expected = literal(truth[here][:, k], answers[here][:, k], row["metric"])
                assert float(row["value"]) == pytest.approx(expected, abs=1e-5)
        pooled = of(found, stage=stage, fold="pooled")
        assert len(pooled) == 2 * 2
        for row in pooled:
            k = ("activation", "valence").index(row["dimension"])
            assert float(row["value"]) == pytest.approx(
                literal(truth[:, k], made[:, k], row["metric"]), abs=1e-5
            )


@pytest.mark.parametrize("strategy", ["gem", "analytic"])
def test_bundles_predict_these_figures_before_and_after_adaptation(strategy: str, tmp_path: Path) -> None:
    write_caches(tmp_path)
    path = in_condition(tmp_path, "iemocap", "telephone")
    options: dict[str, Any] = {"cache": tmp_path, "trained": tmp_path / "t", "jobs": 1, "bundles": True}
    small: dict[str, Any] = {} if strategy == "analytic" else {"epochs": 2, "memory_size": 20}
    silent: dict[str, Any] = {"reporter": Silent(), "predictions": "none"}
    first, second = tmp_path / "first", tmp_path / "second"
    train(stages="msp-podcast", strategy=strategy, seeds=1, output=first, **options, **small, **silent)
    train(stages="iemocap", from_=first / "bundles", output=second, **options, **silent)
    found = {(row.stage, row.dimension): row.value for row in read_conditions(second) if row.metric == "ccc"}
    heard = FeatureCache(path)
    truth = [(heard.read(name).astype(np.float64) - 3) / 2 for name in ("activation", "valence")]
    expected = {}
    for stage, folder in ((1, first), (2, second)):
        (bundle,) = bundles_in(folder / "bundles")
        made = read_bundle(bundle).predict(heard.read("acoustic"), heard.read("text"))
        for k, dimension in enumerate(("activation", "valence")):
            expected[stage, dimension] = literal(truth[k], made[:, k], "ccc")
    assert found == pytest.approx(expected, abs=1e-5)


class TestWhatIsRefused:
    @pytest.fixture
    def caches(self, tmp_path: Path) -> Path:
        write_caches(tmp_path)
        return tmp_path

    def refusal(self, caches: Path, *more: object, code: int = 1) -> str:
        command = ["--cache", caches, "--stages", "iemocap", "--strategy", "finetune", "--seed", 0, *more]
        return refused(run(*command, "--output", caches / "r"), code)

    @pytest.mark.parametrize(
        ("facts", "says"),
        [
            ({"acoustic_revision": "r2"}, "were made by different encoders and cannot be used together"),
            ({"release": "made up later"}, "is of iemocap, release made up later, and"),
            ({"corpus": "msp-improv"}, "is of msp-improv, release made up, and"),
        ],
    )
    def test_another_origin(self, facts: dict[str, Any], says: str, caches: Path) -> None:
        in_condition(caches, "iemocap", "telephone", **facts)
        assert says in self.refusal(caches)

    def test_other_labels_and_utterances(self, caches: Path) -> None:
        path = in_condition(caches, "iemocap", "telephone")
        with h5py.File(path, "r+") as file:
            file["valence"][3] = 4.25 if file["valence"][3] < 4 else 2.5
        message = self.refusal(caches)
        assert "iemocap.telephone.h5 has other labels, speakers, transcripts or recordings than" in message
        assert "for 1 utterances: make it again with ser-extract --corpus iemocap --cache" in message
        assert "--overwrite --condition telephone, or leave it out with --conditions none" in message
        in_condition(caches, "iemocap", "telephone")
        with h5py.File(path, "r+") as file:
            file["id"][2] = "another"
        assert "lacks 1 of the test utterances of" in self.refusal(caches)

    def test_a_file_that_is_cut_off(self, caches: Path) -> None:
        path = in_condition(caches, "iemocap", "noise:10")
        path.write_bytes(path.read_bytes()[:2000])
        assert "iemocap.noise-10.h5" in self.refusal(caches)
        path.rename(caches / "iemocap.another.h5")  # perhaps other transcripts, which are not used
        assert run("--cache", caches, "--stages", "iemocap", "--strategy", "finetune", "--seed", 0,
                   "--output", caches / "r").exit_code == 0  # fmt: skip

    def test_names(self, caches: Path) -> None:
        in_condition(caches, "iemocap", "noise:10")
        message = self.refusal(caches, "--conditions", "telephone,noise:10", code=2)
        assert "in the condition 'telephone'" in message
        assert "has caches in the conditions noise:10; ser-extract --condition makes others" in message
        assert "give all, none, or names" in self.refusal(caches, "--conditions", "all,room", code=2)

    def test_other_transcripts_are_left_out(self, caches: Path) -> None:
        in_condition(caches, "iemocap", "room", transcriber="whisper")
        made = run("--cache", caches, "--stages", "iemocap", "--strategy", "finetune", "--seed", 0,
                   "--output", caches / "r")  # fmt: skip
        assert made.exit_code == 0
        assert (
            "iemocap.room.h5 has the transcripts of whisper, and this run uses those of release"
            in made.stderr
        )
        assert not (caches / "r/conditions.csv").exists()


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """Those of the corpora, and one by telephone."""
    write_caches(tmp_path)
    in_condition(tmp_path, "iemocap", "telephone")
    return tmp_path


def test_it_is_refused_as_transcripts(caches: Path) -> None:
    with pytest.raises(
        UsageError, match=r"iemocap.telephone.h5 has test recordings in the condition telephone"
    ):
        train(cache=caches, output=caches / "run", transcripts="telephone", seeds=1, reporter=Silent())


def test_it_is_refused_as_a_stage(caches: Path) -> None:
    stages = ["msp-podcast", "iemocap.telephone"]
    with pytest.raises(UsageError, match="choose others with --transcripts or --stages, such as iemocap"):
        train(cache=caches, output=caches / "run", stages=stages, seeds=1, reporter=Silent())


def test_a_study_of_transcripts_ignores_it(caches: Path) -> None:
    assert transcripts_in(caches, STAGES) == []
    asked = ["--study", "transcripts", "--cache", str(caches), "--output", str(caches / "run")]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 1
    assert "There is no cache with other transcripts" in result.output
    (caches / "iemocap.whisper.h5").write_bytes((caches / "iemocap.h5").read_bytes())
    (caches / "iemocap.damaged.h5").write_bytes(b"no cache")
    assert transcripts_in(caches, STAGES) == ["damaged", "whisper"]
