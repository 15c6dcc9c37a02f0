"""A third dimension that not every corpus rates, nor every utterance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ser_memory.train.checks import before_training
from ser_memory.train.model import HEADS
from ser_memory.train.plan import Experiment
from ser_memory.train.predictions import Predictions
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies.ewc import fisher
from tests.train.reference import flat_gradient, plain, plain_ccc_loss
from tests.train.test_cli import refused, rows, run
from tests.train.test_predictions import recomputed
from tests.train.test_resume import trained_stages
from tests.train.worlds import SCALES, STAGES, begin, corpora, network, parameters, samples, write_caches

RATINGS = {"msp-podcast": 1.0, "msp-improv": 0.6}  # shares that are rated; iemocap has none
ALL_THREE = ["--dimensions", "activation,valence,dominance"]
ONE = ["--seed", 0, "--strategy", "finetune"]


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one corpus all utterances are rated, of one a part, of one none."""
    folder = tmp_path_factory.mktemp("some")
    write_caches(folder, dominance=RATINGS)
    return folder


@pytest.fixture(scope="module")
def none(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without any."""
    folder = tmp_path_factory.mktemp("none")
    write_caches(folder)
    return folder


def column(folder: Path, corpus: str, split: str) -> npt.NDArray[np.float32]:
    """The ratings of a split as the cache has them, NaN without one."""
    with h5py.File(folder / f"{corpus}.h5") as file:
        return np.asarray(file["dominance"][:][file["split"].asstr()[:] == split])


def trains_what_is_rated(some: Path, folder: Path, names: Sequence[str], *more: object) -> None:
    """Figures are those of the rated utterances, by a formula of their own; what nobody rates has none."""
    strategies = [word for name in names for word in ("--strategy", name)]
    command = ["--cache", some, "--seed", 0, *strategies, *ALL_THREE, *more, "--output", folder]
    result = run(*command)
    assert result.exit_code == 0, result.output
    missing = int(
        np.isnan(
            np.concatenate([column(some, "msp-improv", s) for s in ("train", "validation", "test")])
        ).sum()
    )
    assert (
        f"{missing} of 105 utterances of msp-improv have no rating of dominance and do not count"
        in result.stderr
    )
    assert "iemocap has no ratings of dominance: it trains and tests the other dimensions." in result.stderr
    made = rows(folder)
    assert len(made) == recomputed(folder) == len(names) * 3 * 2 * 2 * (3 + 3 + 2)
    counts = {(row["corpus"], row["split"]): int(row["n"]) for row in made if row["dimension"] == "dominance"}
    assert counts == {
        (corpus, split): int(np.isfinite(column(some, corpus, split)).sum())
        for corpus, split in itertools.product(RATINGS, ("validation", "test"))
    }
    assert {row["n"] for row in made if row["dimension"] != "dominance"} == {"20", "25"}
    found = Predictions(folder)
    for corpus, stage, place in itertools.product(STAGES, (1, 2, 3), range(len(names))):
        assert np.isfinite(found.predicted(corpus, "test", stage, place)).all()
    low, high = SCALES["msp-improv"]
    expected = 2 * (column(some, "msp-improv", "test") - low) / (high - low) - 1
    np.testing.assert_allclose(found.truth("msp-improv", "test")[:, 2], expected, atol=1e-6)
    assert "CCC of dominance, test split" in result.output


def test_what_is_rated_is_trained(some: Path, tmp_path: Path) -> None:
    """Of all strategies the integration tests see it."""
    trains_what_is_rated(some, tmp_path / "r", ["der++", "analytic"])


def test_all_corpora_may_have_it_and_the_order_of_names_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_caches(tmp_path, dominance=dict.fromkeys(STAGES, 1.0))
    seen, made = trained_stages(monkeypatch), []
    for names in (
        "activation,valence,dominance",
        "dominance,valence,activation",
        " valence , activation,dominance",
    ):
        result = run(
            "--cache",
            tmp_path,
            *ONE,
            "--dimensions",
            names,
            "--output",
            tmp_path / "r",
            trained=tmp_path / "t",
        )
        assert result.exit_code == 0, result.output
        assert "dominance and do not count" not in result.stderr
        made.append((tmp_path / "r/results.csv").read_bytes())
    assert len(seen) == 3  # stages, of the first command only
    assert len(set(made)) == 1
    assert len(rows(tmp_path / "r")) == 3 * 3 * 2 * 3 * 2


def test_dominance_alone(some: Path, tmp_path: Path) -> None:
    asked = ["--cache", some, *ONE, "--dimensions", "dominance", "--output", tmp_path / "r"]
    assert refused(run(*asked), 2) == (
        "iemocap has no ratings of dominance, and nothing else is trained: leave iemocap out of --stages, or name more "
        "--dimensions."
    )
    assert run(*asked, "--stages", "msp-podcast,msp-improv").exit_code == 0
    assert {row["dimension"] for row in rows(tmp_path / "r")} == {"dominance"}
    assert recomputed(tmp_path / "r") == 2 * 2 * 2 * 2


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("activation,dominance", "No corpus has ratings of dominance: leave it out of --dimensions."),
        ("valence,valence", "--dimensions valence,valence must name each dimension once."),
        ("arousal", "--dimensions 'arousal' must be one of activation, valence, dominance."),
        ("activation,", "--dimensions '' must be one of activation, valence, dominance."),
    ],
)
def test_dimensions_that_cannot_be_trained(names: str, says: str, none: Path) -> None:
    assert refused(run("--cache", none, *ONE, "--dimensions", names), 2) == says


def test_ratings_that_are_not_asked_for_change_nothing(
    some: Path, none: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, and stages that were trained without them are found."""
    command = ["--seed", 0, "--strategy", "finetune", "--strategy", "gem"]
    for name, cache in (("some", some), ("none", none)):
        assert run("--cache", cache, *command, "--output", tmp_path / name).exit_code == 0
    for name in ("results.csv", "memory.csv", "epochs.csv", "predictions.h5"):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "none" / name).read_bytes()
    assert run("--cache", none, *command, "--output", tmp_path / "a", trained=tmp_path / "t").exit_code == 0
    seen = trained_stages(monkeypatch)
    assert run("--cache", some, *command, "--output", tmp_path / "b", trained=tmp_path / "t").exit_code == 0
    assert seen == []


def test_a_stage_does_not_depend_on_what_later_corpora_rate(some: Path, tmp_path: Path) -> None:
    """All utterances of the first corpus are rated, whichever corpora come next: the same file, the same bytes."""
    kept = []
    for stages in ("msp-podcast", "msp-podcast,iemocap"):
        store = tmp_path / stages
        command = [
            "--cache",
            some,
            *ONE,
            *ALL_THREE,
            "--stages",
            stages,
            "--output",
            tmp_path / f"{stages} r",
        ]
        assert run(*command, trained=store).exit_code == 0
        kept.append({path.stem: Store(store).parameters([path.stem]) for path in store.glob("*.safetensors")})
    (first,) = kept[0]
    assert torch.equal(kept[0][first], kept[1][first])


def test_the_observed_scale_is_that_of_what_is_rated(some: Path, tmp_path: Path) -> None:
    command = ["--cache", some, *ONE, *ALL_THREE, "--label-scale", "observed", "--output", tmp_path / "r"]
    assert run(*command).exit_code == 0
    with h5py.File(some / "msp-improv.h5") as file:
        ratings = file["dominance"][:]
    low, high = np.nanmin(ratings), np.nanmax(ratings)
    expected = 2 * (column(some, "msp-improv", "test") - low) / (high - low) - 1
    truth = Predictions(tmp_path / "r").truth("msp-improv", "test")[:, 2]
    np.testing.assert_allclose(truth, expected, atol=1e-6)


def test_splits_without_ratings_are_reported() -> None:
    made = [
        replace(corpus, dimensions=("activation", "valence", "dominance"), splits={
            split: samples(len(part), 3 * number + place, 3) for place, (split, part) in enumerate(corpus.splits.items())
        }) for number, corpus in enumerate(corpora())
    ]  # fmt: skip
    made[0].splits["train"].targets[:, 2] = torch.nan
    made[1].splits["validation"].targets[:, 2] = torch.nan
    for part in made[2].splits.values():  # which is reported with the caches
        part.targets[:, 2] = torch.nan
    chosen = StrategySettings(strategy=("finetune",))
    assert before_training(Experiment(chosen.variants, STAGES, (0,), TrainingSettings()), made) == [
        "The train split of msp-podcast has no ratings of dominance, though the corpus has: a model learns nothing about it "
        "there.",
        "The validation split of msp-improv has no ratings of dominance, though the corpus has: early stopping goes by "
        "activation and valence alone.",
    ]


def test_what_no_corpus_has_rated_is_not_held_on_to() -> None:
    """Importance for a corpus and answers of the old model, in a dimension that nobody has taught it."""
    net = network(heads=HEADS, trunk_dropout=0.0, text_dropout=0.0, head_dropout=0.0)
    old, current = samples(30, 1, 3), samples(40, 0, 3)
    old.targets[:, 2] = torch.nan
    importance = net.unpack(fisher(net, net.unpack(parameters(net)), old))
    assert all((values == 0).all() for values in importance.layers["dominance.hidden"])
    assert all((values == 0).all() for values in importance.layers["dominance.out"])
    assert (importance.layers["valence.hidden"].weight > 0).any()
    # Of lwf's step, by autograd: at the start, answers are those of the model itself, so two steps are needed.
    training = begin("lwf", current, [old], options={"lwf_strength": 3.0}, net=net, rated=False)
    start, whole = training.stage.start.clone(), torch.arange(40)[None]
    training.step(whole)
    now = training.parameters.flat.clone()
    training.step(whole)
    then, model = plain(net, start[0].double()), plain(net, now[0].double())
    inputs = current.acoustic.double(), current.text.double()
    prediction, answers = model(*inputs), then(*inputs).detach()
    distance = ((prediction - answers) ** 2)[:, :2].mean(dim=0).sum()
    (plain_ccc_loss(prediction, current.targets.double()) + 3 * distance).backward()
    assert training._flat.grad is not None
    torch.testing.assert_close(
        training._flat.grad[0].double(), flat_gradient(net, model), rtol=1e-3, atol=2e-5
    )
