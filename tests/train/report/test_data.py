"""Reading a run folder: every value comes back, older folders lack files, and damage is one sentence."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ser_memory.common.errors import SerError
from ser_memory.common.metrics import ccc
from ser_memory.train.report.data import load_run
from ser_memory.train.runs import Variant
from tests.train.report.runs import STAGES, build_run

_VARIANTS = (Variant("finetune"), Variant("gem", "speaker", 20))
_SPLITS = {"train": 60, "validation": 20, "test": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"), variants=_VARIANTS, seeds=2, splits=_SPLITS)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_run_comes_back_whole(folder: Path) -> None:
    run = load_run(folder)
    assert run.complete
    assert run.missing == ()
    tables: dict[str, Sequence[Any]] = {
        "results": run.results,
        "memory": run.memory,
        "costs": run.costs,
        "epochs": run.epochs,
    }
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert len(rows) == len(lines) > 0
        for row, line in zip(rows, lines, strict=True):
            for column, text in line.items():
                if column.endswith("_bin"):
                    value = row.bins[("activation_bin", "valence_bin").index(column)]
                else:
                    value = getattr(row, column, "")
                assert str("" if value is None else value) == text
    assert run.config["experiment"]["stages"] == list(STAGES)


def test_the_predictions_give_the_figures_of_the_results(folder: Path) -> None:
    run = load_run(folder)
    assert run.predictions is not None
    shown = [result for result in run.results if result.metric == "ccc"]
    assert shown
    for result in shown:
        key = (result.strategy, result.sampler, result.memory_size, result.seed)
        (row,) = [
            index
            for index, made in enumerate(run.predictions.runs)
            if (made.strategy, made.sampler, made.memory_size, made.seed) == key
        ]
        column = run.predictions.dimensions.index(result.dimension)
        truth = run.predictions.truth(result.corpus, result.split)[:, column]
        after = run.predictions.after(result.corpus, result.split, result.stage)[row, :, column]
        assert ccc(truth, after) == pytest.approx(result.value)


def test_texts_of_the_predictions(folder: Path) -> None:
    predictions = load_run(folder).predictions
    assert predictions is not None
    assert predictions.splits["iemocap"] == ("validation", "test")
    assert predictions.texts("iemocap", "test", "id")[:2] == ("iemocap-test-0", "iemocap-test-1")
    assert set(predictions.texts("iemocap", "test", "gender")) == {"Female", "Male"}


def test_folds_and_unfinished_runs(tmp_path: Path) -> None:
    run = load_run(
        build_run(tmp_path / "run", variants=_VARIANTS, seeds=2, splits=_SPLITS, folds=3, unfinished=1)
    )
    assert not run.complete
    assert run.predictions is not None
    assert {made.fold for made in run.predictions.runs} == {"1", "2", "3"}
    first = run.predictions.after("iemocap", "test", 1)
    assert np.isfinite(first[:3]).all(axis=2).sum(axis=0).tolist() == [1] * 30  # each utterance in one fold
    assert np.isnan(run.predictions.after("iemocap", "test", 2)[-1]).all()  # not finished
    assert {row.fold for row in run.memory} == {row.fold for row in run.costs} == {"1", "2", "3"}


def test_kept_bytes_need_all_parts(folder: Path, copy: Path) -> None:
    costs = load_run(folder).costs
    assert [row.kept_bytes for row in costs[:3]] == [0, 0, 0]  # fine-tuning
    assert costs[-1].kept_bytes == 3 * 20 * 4 * (768 + 768 + 2)
    path = copy / "costs.csv"
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    lines[1][lines[0].index("other_bytes")] = lines[1][lines[0].index("seconds")] = ""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    first = load_run(copy).costs[0]
    assert (first.kept_bytes, first.seconds, first.memory_bytes) == (None, None, 0)


def test_an_older_folder_says_what_it_lacks(copy: Path) -> None:
    for name in ("costs.csv", "epochs.csv", "predictions.h5"):
        (copy / name).unlink()
    memory = [line.rpartition(",")[0] for line in (copy / "memory.csv").read_text().splitlines()]
    (copy / "memory.csv").write_text("\n".join(memory) + "\n")  # without the column fold
    run = load_run(copy)
    assert run.missing == ("costs.csv", "epochs.csv", "predictions.h5")
    assert (run.costs, run.epochs, run.predictions) == ([], [], None)
    assert {row.fold for row in run.memory} == {""}


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(SerError, match="There is no folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(SerError, match="not the folder of a run"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("memory.csv", "sampler,n\nrandom,3\n", "has no column memory_size, seed"),
        ("costs.csv", "", "has no column strategy"),
        ("config.json", "{", "is damaged"),
        ("config.json", "[]", "has no settings of a run"),
        ("predictions.h5", "text", "cannot be read"),
    ],
)
def test_damage_is_one_sentence(copy: Path, name: str, content: str, said: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(SerError, match=said) as raised:
        load_run(copy)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_value_that_is_no_number_names_its_line(copy: Path) -> None:
    lines = (copy / "epochs.csv").read_text().splitlines()
    lines[2] = lines[2].replace("finetune,none,0,0", "finetune,none,0,x")
    (copy / "epochs.csv").write_text("\n".join(lines))
    with pytest.raises(SerError, match=r"epochs\.csv is damaged at line 3"):
        load_run(copy)


def test_other_formats_of_predictions_are_refused(copy: Path) -> None:
    with h5py.File(copy / "predictions.h5", "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(SerError, match="format version 2, and this program reads version 1"):
        load_run(copy)
    with h5py.File(copy / "predictions.h5", "r+") as file:
        file.attrs["format"] = "ser-feature-cache"
    with pytest.raises(SerError, match="holds no predictions"):
        load_run(copy)


def test_a_part_that_is_not_there_is_named(copy: Path) -> None:
    predictions = load_run(copy).predictions
    assert predictions is not None
    with pytest.raises(SerError, match="has no iemocap/test2/truth: it has iemocap/"):
        predictions.truth("iemocap", "test2")
    (copy / "predictions.h5").write_bytes((copy / "predictions.h5").read_bytes()[:3000])
    with pytest.raises(SerError, match="cannot be read"):
        predictions.truth("iemocap", "test")
