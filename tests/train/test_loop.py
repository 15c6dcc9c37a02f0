"""One stage: what a step does, when it stops, what it leaves behind, and that runs do not meet."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_memory.common.metrics import ccc
from ser_memory.train.corpora import Corpus
from ser_memory.train.dropout import _DeviceWords
from ser_memory.train.evaluation import evaluate, measure
from ser_memory.train.loop import PausedError, Training
from ser_memory.train.model import HEADS, Head
from ser_memory.train.settings import LaterStageSettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies.experience_replay import ExperienceReplayOptions
from ser_memory.train.strategies.mixture import ReplayLossOptions
from tests.train.reference import PlainModel, plain, plain_training
from tests.train.worlds import BY_GRADIENT, begin, learnable, network, parameters, samples

NO_DROPOUT = {"trunk_dropout": 0.0, "text_dropout": 0.0, "head_dropout": 0.0}


# One, two and three dimensions.
HEADS_BY_NUMBER = [HEADS[:1], HEADS[:2], HEADS]


@pytest.mark.parametrize("heads", HEADS_BY_NUMBER, ids=len)
def test_the_loop_is_the_textbook_loop(heads: tuple[Head, ...]) -> None:
    """Against a reference written out: shuffle, loss, backward, Adam; the best epoch at the end."""
    train, validation = samples(50, 0, len(heads)), samples(20, 1, len(heads))
    net = network(**NO_DROPOUT, heads=heads)
    loop = TrainingSettings(batch_size=16, epochs=4, patience=4, learning_rate=1e-2)
    (trained,) = begin("finetune", train, net=net, loop=loop).run(validation)
    order = np.random.default_rng([0, 1])
    model = plain(net, parameters(net)[0])
    orders = [order.permutation(50) for _ in range(4)]
    best = 0
    for epochs in range(1, 5):
        model = plain(net, parameters(net)[0])
        expected = plain_training(model, train, validation, epochs, 16, 1e-2, orders)
        best = epochs if epochs == 1 + int(np.argmax(expected)) else best
        if epochs == best:
            at_best = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert trained.scores == pytest.approx(expected, abs=1e-5)
    ours = torch.nn.utils.parameters_to_vector(plain(net, trained.parameters).parameters()).detach()
    assert best == 1 + int(np.argmax(trained.scores))
    torch.testing.assert_close(ours, at_best, atol=1e-5, rtol=1e-4)


def test_learning_is_not_paid_for_speed() -> None:
    """With dropout, whose masks are drawn another way: learning curves agree within the spread over seeds."""
    train, validation = learnable(400, 0), learnable(200, 1)
    loop = TrainingSettings(batch_size=32, epochs=12, patience=12, learning_rate=3e-3)
    seeds = range(8)
    net = network()
    ours = np.array(
        [trained.scores for trained in begin("finetune", train, runs=seeds, loop=loop).run(validation)]
    )
    theirs = []
    for seed in seeds:
        torch.manual_seed(seed)
        theirs.append(plain_training(PlainModel(net.architecture), train, validation, 12, 32, 3e-3))
    reference = np.array(theirs)
    assert reference[:, -1].mean() > reference[:, 0].mean() + 0.1  # something is learned
    error = np.sqrt(ours.var(axis=0, ddof=1) / 8 + reference.var(axis=0, ddof=1) / 8)
    difference = np.abs(ours.mean(axis=0) - reference.mean(axis=0))
    print(f"largest difference of the means in standard errors: {(difference / error).max():.2f}")
    assert (difference < 4 * error).all()  # 12 epochs at once: a chance below 1 in 1,000


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_run_does_not_depend_on_its_neighbours(name: str) -> None:
    """Run 3 alone is run 3 of five, though the others' products go through the same calls."""
    loop = TrainingSettings(batch_size=16, epochs=2, patience=3, learning_rate=1e-3)
    options = {"gem_batch": 8, "replay_share": 0.5}
    current, earlier, validation = samples(50, 0), [samples(20, 1), samples(30, 2)], samples(20, 3)
    together = begin(name, current, earlier, range(5), options, loop=loop).run(validation)[3]
    (alone,) = begin(name, current, earlier, (3,), options, loop=loop).run(validation)
    assert together.scores == pytest.approx(alone.scores, abs=1e-5)
    torch.testing.assert_close(together.parameters, alone.parameters, atol=1e-5, rtol=1e-5)


def test_a_stage_stops_when_patience_ends_and_keeps_its_best_epoch() -> None:
    """Each run of a stack at its own epoch."""
    validation = samples(20, 1)
    loop = TrainingSettings(batch_size=16, epochs=200, patience=3, learning_rate=1e-2)
    told: list[float] = []
    training = begin("finetune", samples(50, 0), runs=range(4), loop=loop)
    trained = training.run(validation, told.append)
    assert len({len(one.scores) for one in trained}) > 1
    for one in trained:
        best = int(np.argmax(one.scores))
        assert len(one.scores) == best + 1 + 3 < 200
        training.parameters.flat[0] = one.parameters
        assert training.validate(validation)[0] == pytest.approx(one.scores[best], abs=1e-6)
    assert sum(told) == 4 * 200  # the bar reaches its end all the same


@pytest.mark.parametrize("heads", HEADS_BY_NUMBER, ids=len)
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_every_strategy_trains_any_number_of_dimensions(name: str, heads: tuple[Head, ...]) -> None:
    """The validation CCC rises above that of the start, and the measures are named by dimension."""
    made = [learnable(200, seed) for seed in range(4)]
    # A third dimension between the other two.
    columns = [
        replace(
            item, targets=torch.cat([item.targets, item.targets.mean(1, keepdim=True)], 1)[:, : len(heads)]
        )
        for item in made
    ]
    loop = TrainingSettings(batch_size=32, epochs=8, learning_rate=1e-2)
    current, *earlier, validation = columns
    training = begin(name, current, earlier, (0, 1), {}, network(heads=heads), loop)
    before = training.validate(validation)
    for run, trained in enumerate(training.run(validation)):
        assert max(trained.scores) > before[run] + 0.05
    corpus = Corpus(
        "a",
        {"validation": validation, "test": validation},
        ("a",),
        {},
        tuple(head.dimension for head in heads),
    )
    net = training.stage.network
    figures = evaluate(lambda split: net.predict(training.parameters, split), training.stage.runs, [corpus])
    assert {figure.dimension for figure in figures[0]} == {head.dimension for head in heads}


def test_targets_of_other_dimensions_are_refused() -> None:
    """They would broadcast against a single prediction."""
    with pytest.raises(ValueError, match=r"2 columns, but the network predicts activation\."):
        begin("finetune", samples(50, 0), net=network(heads=(Head("activation"),)))
    with pytest.raises(
        ValueError, match=r"2 columns of labels and 1 of predictions are not those of activation\."
    ):
        measure(np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32), ("activation",))


@pytest.mark.parametrize("words", ["of the host", "of a device"])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_paused_and_gone_on_with_it_is_the_same_to_the_bit(name: str, words: str, tmp_path: Path) -> None:
    """After every epoch, through the store, in a Training made anew; also with a GPU's kind of random streams."""
    loop = TrainingSettings(batch_size=16, epochs=6, patience=2, learning_rate=1e-2)
    options, store, validation = {"gem_batch": 8}, Store(tmp_path), samples(20, 3)

    def fresh() -> Training:
        made = begin(name, samples(50, 0), [samples(20, 1), samples(30, 2)], (1,), options, loop=loop)
        if words == "of a device":
            made.stage.dropout._words = _DeviceWords([np.random.SeedSequence(1)], torch.device("cpu"))
        return made

    (unbroken,) = fresh().run(validation)
    pauses = 0
    while True:
        training = fresh()
        if (state := store.paused("key")) is not None:
            training.restore([state])
        try:
            (broken,) = training.run(validation, pause=lambda: True)
            break
        except PausedError:
            store.pause("key", training.states()[0])
            pauses += 1
    assert pauses == len(unbroken.scores)
    assert broken.scores == unbroken.scores
    assert torch.equal(broken.parameters, unbroken.parameters)


def test_a_run_that_diverges_stops_alone() -> None:
    loop = TrainingSettings(batch_size=16, epochs=5, learning_rate=1e-3)
    alone = begin("finetune", samples(50, 0), runs=(0,), loop=loop).run(samples(20, 1))
    training = begin("finetune", samples(50, 0), runs=(0, 1), loop=loop)
    training.parameters.flat[1] = math.nan
    good, bad = training.run(samples(20, 1))
    assert bad.diverged
    assert len(bad.scores) == 1
    assert not good.diverged
    torch.testing.assert_close(good.parameters, alone[0].parameters, atol=1e-5, rtol=1e-5)


def test_divergence_in_training_is_noticed() -> None:
    loop = TrainingSettings(loss="mse", batch_size=16, epochs=50, learning_rate=1e30)
    (trained,) = begin("finetune", samples(50, 0), loop=loop).run(samples(20, 1))
    assert trained.diverged


@pytest.mark.parametrize("average", ["none", "interpolate", "ema"])
def test_the_score_is_that_of_the_parameters_that_are_kept(average: str) -> None:
    """Predicted anew by plain PyTorch, and scored as half the current corpus and half the mean of the memories."""
    validation, memories = samples(20, 3), [samples(15, 1), samples(12, 2)]
    loop = TrainingSettings(batch_size=16, epochs=6, patience=6, learning_rate=1e-2)
    stage = begin("experience-replay", samples(50, 0), memories, loop=loop).stage
    stage = replace(
        stage, kept=[replace(kept, held_out=each) for kept, each in zip(stage.kept, memories, strict=True)]
    )
    later = LaterStageSettings("memory", average)
    (trained,) = Training(
        stage,
        BY_GRADIENT["experience-replay"](stage, ReplayLossOptions(), ExperienceReplayOptions()),
        loop,
        later,
    ).run(validation)
    model = plain(stage.network, trained.parameters).eval()
    scores = []
    for each in (validation, *memories):
        with torch.no_grad():
            predicted = model(each.acoustic, each.text).numpy()
        scores.append(np.mean([ccc(each.targets.numpy()[:, i], predicted[:, i]) for i in (0, 1)]))
    assert trained.score == pytest.approx((scores[0] + (scores[1] + scores[2]) / 2) / 2, abs=1e-5)
    assert (trained.score == max(trained.scores)) == (average != "interpolate")


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_replay_share_holds_in_every_batch(share: float) -> None:
    training = begin(
        "experience-replay", samples(50, 0), [samples(7, 1), samples(6, 2)], (0, 1), {"replay_share": share},
        loop=TrainingSettings(batch_size=20),
    )  # fmt: skip
    batches = list(training.strategy.batches())
    for run in range(2):
        rows = torch.cat([batch[run] for batch in batches])
        for batch in batches:
            assert int((batch[run] >= 50).sum()) == round(share * 20)
        assert sorted(rows[rows < 50].tolist()) == list(range(50))
        drawn = torch.bincount(rows[rows >= 50] - 50, minlength=13)
        assert int(drawn.max() - drawn.min()) <= 1  # memory is gone through evenly
