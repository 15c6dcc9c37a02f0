"""Learning without Forgetting (Li and Hoiem 2016): the model also keeps its old predictions for the new corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Stage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LearningWithoutForgettingOptions(Options):
    title = "Strategy lwf"

    lwf_strength: float = option(1.0, minimum=0, help="Weight of the old model's answers.")


class LearningWithoutForgetting(GradientStrategy):
    """Adds to the loss the squared distance to what the model answered when the stage began. No memory."""

    options = (LearningWithoutForgettingOptions,)

    def __init__(self, stage: Stage, options: LearningWithoutForgettingOptions) -> None:
        super().__init__(stage)
        self._strength = options.lwf_strength
        start = stage.network.unpack(stage.start)
        self._answers = stage.network.predict(start, stage.current) if stage.kept else None  # (R, N, K)

    def output_gradient(self, index: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        from ser_memory.train.objective import mse_loss
        from ser_memory.train.samples import take

        gradient = super().output_gradient(index, prediction, targets)
        if self._answers is None:
            return gradient
        _, distance = mse_loss(prediction, take(self._answers, index.to(prediction.device)))
        return gradient + self._strength * distance
