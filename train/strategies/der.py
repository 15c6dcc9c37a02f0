"""Dark Experience Replay++ (Buzzega et al. 2020): the memory also keeps the model's predictions of that time."""

from __future__ import annotations

import torch
from torch import Tensor

from ser_memory.train.data import Samples
from ser_memory.train.model import Network, Parameters
from ser_memory.train.objective import mse_loss
from ser_memory.train.strategies.base import (
    Kept,
    Stage,
    Strategy,
    StrategySettings,
    draw,
    remembered,
    take,
    together,
    whole,
)


class DarkExperienceReplay(Strategy):
    """Adds to every step the distance to old predictions for some remembered samples, and the loss on others."""

    earlier = "memory"
    options = ("der_alpha", "der_beta")

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        assert allowed is not None
        memory = whole(allowed, parameters.flat)
        return Kept(allowed, answers=network.infer(parameters, memory.acoustic, memory.text))

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        super().__init__(stage, settings)
        self._memory = together(remembered(stage))
        self._gradient = stage.network.unpack(torch.empty_like(stage.start))
        if self._memory is not None:
            self._answers = torch.cat(
                [kept.answers for kept in stage.kept if kept.answers is not None], dim=1
            )

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        memory, stage = self._memory, self.stage
        if memory is None:
            return gradient
        terms = (
            (self.settings.der_alpha, mse_loss, self._answers),
            (self.settings.der_beta, stage.objective, memory.targets),
        )
        for weight, objective, targets in terms:
            index = draw(targets.shape[1], stage.batch_size, stage)
            acoustic, text = take(memory.acoustic, index), take(memory.text, index)
            masks = stage.dropout.masks(index.shape[1])
            prediction, trace = stage.network.forward(parameters, acoustic, text, masks)
            _, output_gradient = objective(prediction, take(targets, index))
            stage.network.backward(parameters, trace, output_gradient, self._gradient)
            gradient = gradient.add_(self._gradient.flat, alpha=weight)
        return gradient
