"""The closed form through the command: its predictions are those of ridge regression on all training rows at once."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar

from ser_memory.train.kept import KeptBytes
from ser_memory.train.predictions import PredictedRun, Predictions
from tests.train.test_cli import refused, rows, run
from tests.train.worlds import ACOUSTIC_WIDTH, SCALES, STAGES, TEXT_WIDTH, write_caches

Floats = npt.NDArray[np.float64]
ANALYTIC = ["--strategy", "analytic"]
NAMES = ("activation", "valence", "dominance")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two corpora some utterances have dominance, of iemocap none; all have five sessions."""
    folder = tmp_path_factory.mktemp("caches")
    write_caches(folder, sessions=5, dominance={"msp-podcast": 0.8, "msp-improv": 0.5})
    return folder


def table(folder: Path, corpus: str) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a cache, with labels in [-1, 1]; features are the embeddings with mean 0 and variance 1."""
    low, high = SCALES[corpus]
    with h5py.File(folder / f"{corpus}.h5") as file:
        made = {name: 2 * (file[name][:].astype(float) - low) / (high - low) - 1 for name in NAMES}
        for name in ("acoustic", "text"):
            rows = file[name][:].astype(float)
            made[name] = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(
                rows.var(axis=1, keepdims=True) + 1e-5
            )
        return {**made, "split": file["split"].asstr()[:], "session": file["session"].asstr()[:]}


def ridge(features: Floats, labels: Floats, asked: Floats) -> Floats:
    """Predictions for the rows `asked`, with the ridge of least generalised cross-validation, from its definition.

    They are moved and stretched so that those for the training rows have the mean and spread of the labels.
    """
    x, y, n = features - features.mean(axis=0), labels - labels.mean(), len(labels)
    products = x.T @ x

    def weights(log_ridge: float) -> Floats:
        found: Floats = np.linalg.solve(products + np.exp(log_ridge) * np.eye(x.shape[1]), x.T @ y)
        return found

    def criterion(log_ridge: float) -> float:
        shrunk = np.linalg.solve(products + np.exp(log_ridge) * np.eye(x.shape[1]), products)
        left = ((y - x @ weights(log_ridge)) ** 2).sum()
        return float(n * left / (n - 1 - np.trace(shrunk)) ** 2)

    grid = np.linspace(-16, 16, 129)
    at = int(np.argmin([criterion(value) for value in grid]))
    best = minimize_scalar(
        criterion,
        bounds=(grid[max(at - 1, 0)], grid[min(at + 1, 128)]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    w = weights(float(best.x))
    trained = x @ w
    predicted: Floats = labels.mean() + (asked - features.mean(axis=0)) @ w * (labels.std() / trained.std())
    return predicted


def literal(
    folder: Path, parts: Sequence[tuple[str, npt.NDArray[np.bool_]]], asked: dict[str, Floats]
) -> Floats:
    """(N, 3) predictions of the model of some rows of some corpora; activation and dominance do not read the text."""
    tables = [(table(folder, corpus), chosen) for corpus, chosen in parts]
    columns = []
    for name in NAMES:
        read = ("acoustic", "text") if name == "valence" else ("acoustic",)
        features = np.concatenate([np.hstack([own[part] for part in read])[rows] for own, rows in tables])
        labels = np.concatenate([own[name][rows] for own, rows in tables])
        rated = np.isfinite(labels)
        columns.append(ridge(features[rated], labels[rated], np.hstack([asked[part] for part in read])))
    return np.stack(columns, axis=1)


def train_rows(folder: Path, corpus: str) -> npt.NDArray[np.bool_]:
    return np.asarray(table(folder, corpus)["split"] == "train")


def embeddings(folder: Path, corpus: str) -> dict[str, Floats]:
    own = table(folder, corpus)
    return {name: own[name][own["split"] == "test"] for name in ("acoustic", "text")}


def close(ours: npt.NDArray[np.float32], theirs: Floats) -> None:
    # Features are float32, and the criterion is flat around its least value.
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_every_order_comes_to_all_rows_at_once(caches: Path, tmp_path: Path) -> None:
    """Also where corpora and utterances lack a dimension: these add nothing to its sums."""
    for order in itertools.permutations(STAGES):
        command = [
            "--cache",
            caches,
            *ANALYTIC,
            "--seed",
            0,
            "--dimensions",
            ",".join(NAMES),
            "--stages",
            ",".join(order),
        ]
        result = run(*command, "--output", tmp_path / "-".join(order))
        assert result.exit_code == 0, result.output
        found = Predictions(tmp_path / "-".join(order))
        for stage in (1, 2, 3) if order == STAGES else (3,):
            parts = [(corpus, train_rows(caches, corpus)) for corpus in order[:stage]]
            for corpus in STAGES:
                close(
                    found.predicted(corpus, "test", stage, 0),
                    literal(caches, parts, embeddings(caches, corpus)),
                )
    with (tmp_path / "-".join(STAGES) / "costs.csv").open() as file:
        costs = [int(row["memory_bytes"]) for row in csv.DictReader(file)]
    # Sums of utterances with and without dominance: the first corpus brings both, the others bring none.
    f = ACOUSTIC_WIDTH + TEXT_WIDTH
    assert costs == [sum(8 * (f * (f + 1) // 2 + f + f * k + 2 * k) for k in (2, 3))] * 3


def test_dimensions_that_come_later_bring_sums_of_their_own(caches: Path, tmp_path: Path) -> None:
    order = ("iemocap", "msp-podcast")
    command = [
        "--cache",
        caches,
        *ANALYTIC,
        "--seed",
        0,
        "--dimensions",
        ",".join(NAMES),
        "--stages",
        ",".join(order),
    ]
    assert run(*command, "--output", tmp_path / "r").exit_code == 0
    found = Predictions(tmp_path / "r")
    assert (found.predicted("msp-podcast", "test", 1, 0)[:, 2] == 0).all()  # nobody has rated it: the middle
    with (tmp_path / "r/costs.csv").open() as file:
        costs = [KeptBytes(int(row["memory_bytes"])) for row in csv.DictReader(file)]
    f = ACOUSTIC_WIDTH + TEXT_WIDTH
    of_two, of_three = (8 * (f * (f + 1) // 2 + f + f * k + 2 * k) for k in (2, 3))
    assert costs == [KeptBytes(of_two), KeptBytes(of_two + of_three)]


def test_folds_have_models_of_their_own(caches: Path, tmp_path: Path) -> None:
    """Each of the rows that its fold trains: all sessions but the one that is tested and the next."""
    command = [
        "--cache",
        caches,
        *ANALYTIC,
        "--seed",
        0,
        "--dimensions",
        ",".join(NAMES),
        "--stages",
        "msp-podcast,iemocap",
    ]
    result = run(*command, "--protocol", "iemocap=sessions", "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    found, own = Predictions(tmp_path / "r"), table(caches, "iemocap")
    with h5py.File(caches / "iemocap.h5") as file, h5py.File(tmp_path / "r/predictions.h5") as made:
        ids = list(file["id"].asstr()[:])
        wanted = [ids.index(name) for name in made["iemocap/test"]["id"].asstr()[:]]
    for fold in range(1, 6):
        here, after = str(fold), str(fold % 5 + 1)
        trained = (own["session"] != here) & (own["session"] != after)
        parts = [("msp-podcast", train_rows(caches, "msp-podcast")), ("iemocap", trained)]
        asked = {name: own[name][wanted] for name in ("acoustic", "text")}
        place = found.runs.index(PredictedRun("analytic", "none", 0, 0, here))
        ours = found.predicted("iemocap", "test", 2, place)
        there = own["session"][wanted] == here
        assert (np.isfinite(ours).all(axis=1) == there).all()
        close(ours[there], literal(caches, parts, asked)[there])


def test_seeds_share_a_stage_unless_features_are_random(caches: Path, tmp_path: Path) -> None:
    def stages(name: str, *more: object) -> int:
        command = ["--cache", caches, *ANALYTIC, "--seeds", 3, *more, "--output", tmp_path / name / "r"]
        result = run(*command, trained=tmp_path / name)
        assert result.exit_code == 0, result.output
        return len(list((tmp_path / name).glob("*.safetensors")))

    assert stages("plain") == 3
    assert stages("random", "--analytic-features", 16) == 9
    by_seed = [
        {
            tuple(row[key] for key in row if key not in ("seed", "value")): row["value"]
            for row in rows(tmp_path / "plain/r")
            if row["seed"] == seed
        }
        for seed in "012"
    ]
    assert by_seed[0] == by_seed[1] == by_seed[2]
    assert len({row["value"] for row in rows(tmp_path / "random/r")}) > len(by_seed[0])


@pytest.mark.parametrize("more", [[], ["--analytic-features", 16]], ids=["plain", "random"])
def test_read_from_the_disk_it_is_the_same(more: list[object], caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, *ANALYTIC, "--seed", 0, *more]
    assert run(*command, "--output", tmp_path / "usual").exit_code == 0
    result = run(*command, "--memory-share", 0, "--output", tmp_path / "streamed")
    assert "they are read from the disk in shuffled blocks" in result.stderr
    for name in ("results.csv", "predictions.h5", "epochs.csv"):
        assert (tmp_path / "usual" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()


def test_an_estimate_of_a_closed_form_has_no_steps(caches: Path, tmp_path: Path) -> None:
    result = run("--cache", caches, *ANALYTIC, "--seeds", 2, "--dry-run", trained=tmp_path / "t")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    for number, stage in enumerate(("P", "P+M", "P+M+I")):
        (line,) = [line for line in lines if line[:2] == [stage, "analytic"]]
        assert line[2:5] == ["1", "-", "-"], number  # seeds share it
    assert ": nothing is trained step by step." in result.output
    assert "epochs." not in result.output
    both = run("--cache", caches, *ANALYTIC, "--strategy", "finetune", "--seeds", 2, "--dry-run")
    lines = [line.split() for line in both.output.splitlines()]
    assert ["P", "all", "2", "4"] in [line[:4] for line in lines]
    assert ["P", "analytic", "1", "-", "-"] in [line[:5] for line in lines]
    assert "if every stage takes all of its 3 epochs." in both.output


def test_embeddings_without_content_have_no_closed_form(tmp_path: Path) -> None:
    write_caches(tmp_path)
    for name in STAGES:
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            for column in ("acoustic", "text"):
                file[column][...] = 1.0
    result = run("--cache", tmp_path, *ANALYTIC, "--seed", 0, "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert (
        "CCC is 0 because the model predicts one value for the whole split, in 36 cases (activation of msp-podcast "
        "validation at stage P, analytic, seed 0; " in result.stderr
    )
    assert (
        "the closed form found no positive correlation of the features with these labels, or no corpus so far rates them."
        in result.stderr
    )
    assert "--learning-rate" not in result.stderr


class TestBadInput:
    def test_more_features_than_this_machine_can_solve(self, caches: Path) -> None:
        message = refused(run("--cache", caches, *ANALYTIC, "--analytic-features", 10**6), 2)
        assert message.startswith(
            "analytic with so many features needs 128,000 GB of memory, and this machine has "
        )
        assert message.endswith(" GB: lower --analytic-features.")
        many = run("--cache", caches, *ANALYTIC, "--analytic-features", 10**6, "--jobs", 2)
        assert refused(many, 2).endswith("lower --analytic-features or --jobs.")

    def test_a_mixture_of_layers(self, tmp_path: Path) -> None:
        write_caches(tmp_path, acoustic_layers="7,9")
        assert refused(run("--cache", tmp_path, *ANALYTIC, "--layer", "weighted"), 2) == (
            "--layer weighted learns a mixture of layers by gradient steps, and analytic takes none: choose one layer, or "
            "another strategy."
        )
        assert run("--cache", tmp_path, *ANALYTIC, "--layer", 9, "--output", tmp_path / "r").exit_code == 0
