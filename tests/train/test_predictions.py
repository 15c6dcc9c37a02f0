"""What a run keeps for a report: every prediction, costs and epochs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from ser_memory.common.errors import SerError
from ser_memory.train.gradient import GradientStack
from ser_memory.train.kept import KeptBytes
from ser_memory.train.plan import Experiment
from ser_memory.train.predictions import PredictedRun, Predictions
from ser_memory.train.runs import Run
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.test_cli import refused, rows, run
from tests.train.test_folds import caches, literal, of
from tests.train.test_resume import trained_stages
from tests.train.worlds import ACOUSTIC_WIDTH, BY_GRADIENT, STAGES, TEXT_WIDTH, corpora

assert caches  # the fixture
STRATEGY = ["--strategy", "finetune", "--strategy", "gem", "--strategy", "der++"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def recomputed(folder: Path) -> int:
    """Every figure of results.csv from predictions.h5 alone; returns how many there are."""
    made, predictions = rows(folder), Predictions(folder)
    places = {each: place for place, each in enumerate(predictions.runs)}
    for row in made:
        variant = (row["strategy"], row["sampler"], int(row["memory_size"]), int(row["seed"]))
        own = [row["fold"]] if row["fold"] != "pooled" else sorted(
            {each.fold for each in places} - {""}, key=int
        )  # fmt: skip
        truth = predictions.truth(row["corpus"], row["split"])
        column = predictions.dimensions.index(row["dimension"])
        pairs = []
        for fold in own:
            place = places[PredictedRun(*variant, fold)]
            answers = predictions.predicted(row["corpus"], row["split"], int(row["stage"]), place)
            there = np.isfinite(answers[:, column]) & np.isfinite(truth[:, column])
            pairs.append((truth[there, column], answers[there, column]))
        labels, answers = (np.concatenate(values).astype(float) for values in zip(*pairs, strict=True))
        assert len(labels) == int(row["n"])
        # Rounding may put a value on the other side of the edge of a bin.
        close = 1e-6 if row["metric"] == "ccc" else 1e-9
        assert literal(labels, answers, row["metric"]) == pytest.approx(float(row["value"]), abs=close)
    return len(made)


def test_runs_that_are_not_finished_have_no_predictions(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--strategy", "lwf"]
    result = run(*command, "--lwf-strength", "3e38", "--output", tmp_path / "r")
    assert result.exit_code == 1
    found = Predictions(tmp_path / "r")
    assert [each.strategy for each in found.runs] == ["finetune", "lwf"]
    finite = [
        [bool(np.isfinite(found.predicted("iemocap", "test", stage, place)).all()) for stage in (1, 2, 3)]
        for place in (0, 1)
    ]
    assert finite == [[True, True, True], [True, False, False]]
    assert np.isnan(found.predicted("iemocap", "test", 2, 1)).all()
    recomputed(tmp_path / "r")


def test_which_predictions_are_kept(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]

    def kept(which: str) -> dict[str, list[str]]:
        assert run(*command, "--predictions", which, trained=tmp_path / "t").exit_code == 0
        return {corpus: list(splits) for corpus, splits in Predictions(tmp_path / "r").splits.items()}

    assert kept("test") == {name: ["test"] for name in STAGES}
    assert kept("all") == {name: ["validation", "test"] for name in STAGES}
    with pytest.raises(SerError, match="There is no"):
        kept("none")
    assert not (tmp_path / "r/predictions.h5").exists()


def test_a_full_disk_is_told(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
    assert run(*command, "--predictions", "none", trained=tmp_path / "t").exit_code == 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    message = refused(run(*command, trained=tmp_path / "t"), 1)
    assert (
        "predictions.h5 needs 0 MB and its disk has 0 MB left. All else of the run is kept: make room"
        in message
    )


def test_files_that_are_no_predictions(caches: Path, tmp_path: Path) -> None:
    with pytest.raises(SerError, match="holds no predictions"):
        Predictions(caches / "iemocap.h5")
    (tmp_path / "predictions.h5").write_bytes((caches / "iemocap.h5").read_bytes()[:900])
    with pytest.raises(SerError, match="cannot be read"):
        Predictions(tmp_path)


def test_the_paper_fits_in_half_a_gigabyte() -> None:
    """Its six variants with five seeds, at the sizes of the releases, without headers."""
    evaluated = 20_000 + 31_000 + 15_000 + 2 * 2_000 + 2 * 2_000  # rows of msp-podcast 1.11 and of the others
    runs, stages, dimensions = 6 * 5, 3, 2
    assert evaluated * runs * stages * dimensions * 4 < 60e6


class TestCosts:
    """costs.csv and epochs.csv."""

    def test_seconds_bytes_and_epochs_of_every_stage(self, caches: Path, tmp_path: Path) -> None:
        command = ["--cache", caches, "--seeds", 2, *STRATEGY, "--protocol", "iemocap=sessions"]
        assert run(*command, "--output", tmp_path / "r").exit_code == 0
        costs, epochs = table(tmp_path / "r/costs.csv"), table(tmp_path / "r/epochs.csv")
        assert list(costs[0]) == [
            "strategy", "sampler", "memory_size", "seed", "stage", "stage_name", "seconds", "memory_bytes",
            "parameter_bytes", "other_bytes", "fold",
        ]  # fmt: skip
        assert len(costs) == 3 * 2 * 3 * 5
        assert all(0 < float(row["seconds"]) < 60 for row in costs)
        first = {row["seconds"] for row in of(costs, stage=1, seed=0)}
        assert len(first) == 1  # it is shared
        per_row = 4 * (ACOUSTIC_WIDTH + TEXT_WIDTH + 2) + 2 * 8
        for stage in (1, 2, 3):
            assert {row["memory_bytes"] for row in of(costs, stage=stage, strategy="gem")} == {
                str(stage * 20 * per_row)
            }
            assert {row["other_bytes"] for row in of(costs, stage=stage, strategy="der++")} == {
                str(stage * 20 * 2 * 4)
            }
            assert {row["memory_bytes"] for row in of(costs, stage=stage, strategy="finetune")} == {"0"}
        assert list(epochs[0]) == [
            "strategy", "sampler", "memory_size", "seed", "stage", "stage_name", "epoch", "validation_ccc", "bent_share",
            "fold",
        ]  # fmt: skip
        assert len(epochs) == 3 * 2 * 3 * 5 * 3
        assert {row["epoch"] for row in epochs} == {"1", "2", "3"}
        assert {row["bent_share"] == "" for row in of(epochs, strategy="gem", stage=2)} == {False}
        assert all(0 <= float(row["bent_share"]) <= 1 for row in of(epochs, strategy="gem", stage=3))
        assert any(float(row["bent_share"]) > 0 for row in of(epochs, strategy="gem", stage=3))
        assert {row["bent_share"] for row in epochs if row["strategy"] != "gem" or row["stage"] == "1"} == {
            ""
        }
        # The best epoch is the one whose model is evaluated.
        made = rows(tmp_path / "r")
        for fold in "12345":
            kept = of(
                made,
                strategy="gem",
                seed=1,
                stage=3,
                corpus="iemocap",
                split="validation",
                metric="ccc",
                fold=fold,
            )
            scores = [
                float(row["validation_ccc"]) for row in of(epochs, strategy="gem", seed=1, stage=3, fold=fold)
            ]
            assert np.mean([float(row["value"]) for row in kept]) == pytest.approx(max(scores), abs=1e-6)

    def test_stages_of_an_older_version_are_used_without_them(
        self, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = ["--cache", caches, "--seed", 0, "--strategy", "gem"]
        assert run(*command, "--output", tmp_path / "a", trained=tmp_path / "t").exit_code == 0
        for path in (tmp_path / "t").glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                facts, tensors = file.metadata(), {"parameters": file.get_tensor("parameters")}
            record = {
                name: value
                for name, value in json.loads(facts["record"]).items()
                if name in ("scores", "memory")
            }
            path.write_bytes(save(tensors, {**facts, "record": json.dumps(record)}))
        seen = trained_stages(monkeypatch)
        assert run(*command, "--output", tmp_path / "b", trained=tmp_path / "t").exit_code == 0
        assert seen == []
        for name in ("results.csv", "memory.csv", "predictions.h5"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        before, after = (table(tmp_path / folder / "costs.csv") for folder in "ab")
        assert after == [{**row, "seconds": ""} for row in before]
        before, after = (table(tmp_path / folder / "epochs.csv") for folder in "ab")
        assert after == [{**row, "bent_share": ""} for row in before]

    @pytest.mark.parametrize("name", BY_GRADIENT)
    def test_bytes_are_those_of_what_is_kept(self, name: str, tmp_path: Path) -> None:
        (variant,) = StrategySettings(strategy=(name,), memory_size=(10,)).variants
        experiment = Experiment((variant,), STAGES, (0,), TrainingSettings())
        trainer, own = Trainer(experiment, corpora(), Store(tmp_path), torch.device("cpu")), Run(variant, 0)
        stack = trainer.stack([own])
        assert isinstance(stack, GradientStack)
        what = stack.kept(3, stack.start(1))[1]
        tensors = {
            field: value.nbytes for field, value in vars(what).items() if isinstance(value, torch.Tensor)
        }
        samples: Any = what.samples
        held = (
            [samples.acoustic, samples.text, samples.rows, samples.targets, samples.speakers]
            if samples
            else []
        )
        assert trainer.kept_bytes(own, 2, 2) == KeptBytes(
            sum(value.nbytes for value in held) + (what.prototypes.nbytes if what.prototypes else 0),
            tensors.get("parameters", 0) + tensors.get("importance", 0),
            tensors.get("answers", 0),
        )
        assert sum(trainer.kept_bytes(own, 2, 2)) > 0 or name in ("finetune", "lwf")


def test_the_command_is_noted(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "my run"]
    assert run(*command).exit_code == 0
    typed = json.loads((tmp_path / "my run/config.json").read_text())["command"]
    assert typed.startswith("ser-train --epochs 3 ")
    assert typed.endswith(f"--strategy finetune --output '{tmp_path}/my run'")
