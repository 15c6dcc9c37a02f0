"""One stage of training: epochs, early stopping, the best state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import SerError
from common.metrics import ccc
from train.data import DIMENSIONS, Samples
from train.model import EmotionModel
from train.objective import OBJECTIVES
from train.strategies import Strategy


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained; all our choice, the source gives none of it."""

    loss: str = "ccc"  # a key of train.objective.OBJECTIVES
    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 50  # at most
    patience: int = 10  # epochs without a better validation CCC before a stage stops


def train_stage(
    model: EmotionModel,
    strategy: Strategy,
    validation: Samples,
    settings: LoopSettings,
    order: torch.Generator,
    advance: Callable[[float], None] = lambda _: None,
) -> list[float]:
    """Train `model` in place and leave it in the state of its best epoch.

    Draws batches on `order` and dropout on torch's global generator. Returns the validation CCC (mean of
    both dimensions) after each epoch. `advance` is told of epochs done, those not needed included.
    Raises SerError when the predictions stop being finite.
    """
    objective = OBJECTIVES[settings.loss]
    samples = strategy.samples
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    scores: list[float] = []
    best = copy.deepcopy(model.state_dict())
    for _ in range(settings.epochs):
        model.train()
        for batch in strategy.batches(settings.batch_size, order):
            rows = batch.to(samples.targets.device)
            prediction = model(samples.acoustic.index_select(0, rows), samples.text.index_select(0, rows))
            loss = objective(prediction, samples.targets.index_select(0, rows))
            optimiser.zero_grad()
            loss.backward()
            strategy.adjust_gradients(model, objective)
            optimiser.step()
        scores.append(validation_ccc(model, validation))
        advance(1)
        best_epoch = int(np.argmax(scores))  # the first of equals
        if best_epoch == len(scores) - 1:
            best = copy.deepcopy(model.state_dict())
        elif len(scores) - 1 - best_epoch >= settings.patience:
            break
    advance(settings.epochs - len(scores))
    model.load_state_dict(best)
    return scores


def validation_ccc(model: EmotionModel, validation: Samples) -> float:
    """Mean CCC of both dimensions on the whole validation split."""
    prediction = model.predict(validation.acoustic, validation.text).cpu().numpy()
    if not np.isfinite(prediction).all():
        raise SerError("The predictions are no longer finite: lower --learning-rate.")
    truth = validation.targets.cpu().numpy()
    return float(np.mean([ccc(truth[:, i], prediction[:, i]) for i in range(len(DIMENSIONS))]))
