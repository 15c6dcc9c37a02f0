"""Learning without Forgetting (Li and Hoiem 2016): predictions for the new corpus stay near the old model's."""

from __future__ import annotations

from torch import Tensor

from ser_memory.train.objective import mse_loss
from ser_memory.train.strategies.base import Stage, Strategy, StrategySettings, take


class LearningWithoutForgetting(Strategy):
    """Adds to the loss the squared distance to the model's predictions at the start of the stage. No memory."""

    options = ("lwf_strength",)

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        super().__init__(stage, settings)
        start = stage.network.unpack(stage.start)
        self._answers = stage.network.predict(start, stage.current) if stage.kept else None  # (R, N, K)

    def output_gradient(self, index: Tensor, prediction: Tensor, gradient: Tensor) -> Tensor:
        if self._answers is None:
            return gradient
        _, distance = mse_loss(prediction, take(self._answers, index.to(prediction.device)))
        return gradient + self.settings.lwf_strength * distance
