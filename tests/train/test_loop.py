"""One stage: what a step does, when it stops, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import SerError
from common.metrics import ccc
from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH, samples
from train.loop import LoopSettings, train_stage, validation_ccc
from train.model import Architecture, EmotionModel
from train.objective import ccc_loss
from train.strategies import STRATEGIES, StrategySettings


def model() -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH, 16, 8))


def test_the_loop_is_the_textbook_loop() -> None:
    """Against a reference written out here: shuffle, loss, backward, Adam; the best epoch at the end."""
    train, validation = samples(50, 0), samples(20, 1)
    settings = LoopSettings(batch_size=16, epochs=4, patience=4, learning_rate=1e-2)
    ours = model()
    torch.manual_seed(3)
    policy = STRATEGIES["finetune"](train, [], StrategySettings())
    scores = train_stage(ours, policy, validation, settings, torch.Generator().manual_seed(7))

    reference = model()
    torch.manual_seed(3)
    order = torch.Generator().manual_seed(7)
    optimiser = torch.optim.Adam(reference.parameters(), lr=1e-2)
    states, expected = [], []
    for _ in range(4):
        reference.train()
        permutation = torch.randperm(50, generator=order)
        for start in range(0, 50, 16):
            rows = permutation[start : start + 16]
            loss = ccc_loss(reference(train.acoustic[rows], train.text[rows]), train.targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        reference.eval()
        with torch.no_grad():
            prediction = reference(validation.acoustic, validation.text).numpy()
        truth = validation.targets.numpy()
        expected.append(np.mean([ccc(truth[:, i], prediction[:, i]) for i in range(2)]))
        states.append({key: value.clone() for key, value in reference.state_dict().items()})
    assert scores == pytest.approx(expected, abs=1e-5)
    for key, value in states[int(np.argmax(expected))].items():
        torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-5, rtol=1e-4)


def test_a_stage_stops_when_patience_ends_and_keeps_its_best_epoch() -> None:
    train, validation = samples(50, 0), samples(20, 1)
    settings = LoopSettings(batch_size=16, epochs=200, patience=3, learning_rate=1e-2)
    net = model()
    told: list[float] = []
    policy = STRATEGIES["finetune"](train, [], StrategySettings())
    scores = train_stage(net, policy, validation, settings, torch.Generator().manual_seed(0), told.append)
    best = int(np.argmax(scores))
    assert len(scores) == best + 1 + 3 < 200
    assert validation_ccc(net, validation) == scores[best]
    assert sum(told) == 200  # the bar reaches its end all the same


def test_divergence_is_told_in_a_sentence() -> None:
    settings = LoopSettings(loss="mse", batch_size=16, epochs=50, learning_rate=1e30)
    policy = STRATEGIES["finetune"](samples(50, 0), [], StrategySettings())
    with pytest.raises(SerError, match="lower --learning-rate"):
        train_stage(model(), policy, samples(20, 1), settings, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_replay_share_holds_in_every_batch(share: float) -> None:
    policy = STRATEGIES["experience-replay"](
        samples(50, 0), [samples(7, 1), samples(6, 2)], StrategySettings(share)
    )
    batches = list(policy.batches(20, torch.Generator().manual_seed(0)))
    for batch in batches:
        assert int((batch >= 50).sum()) == round(share * 20)
    fresh = torch.cat(batches)
    assert sorted(fresh[fresh < 50].tolist()) == list(range(50))
    drawn = torch.bincount(fresh[fresh >= 50] - 50, minlength=13)
    assert int(drawn.max() - drawn.min()) <= 1  # memory is gone through evenly
