"""Learning without Forgetting (Li and Hoiem 2016): the model also keeps its old predictions for the new corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Kept, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.samples import Samples


@dataclass(frozen=True)
class LearningWithoutForgettingOptions(Options):
    title = "Strategy lwf"

    lwf_strength: float = option(1.0, minimum=0, help="Weight of the old model's answers.")


class LearningWithoutForgetting(GradientStrategy):
    """Adds to the loss the squared distance to what the model answered when the stage began. No memory."""

    keeps = ("rated",)
    options = (LearningWithoutForgettingOptions,)

    def __init__(self, stage: Stage, options: LearningWithoutForgettingOptions) -> None:
        from ser_memory.train.objective import squared_distance

        super().__init__(stage)
        self._strength = options.lwf_strength
        self._distance = squared_distance(stage.objective)
        self._answers = self._old_answers() if stage.kept else None  # (R, N, K)

    @classmethod
    def keep(
        cls,
        network: Network,
        parameters: Parameters,
        train: Samples,
        allowed: Samples | None,
        *options: Any,
    ) -> Kept:
        return Kept(rated=train.targets.isfinite().any(dim=0).to(parameters.flat.device))

    def _old_answers(self) -> Tensor:
        """(R, N, K) for the new corpus; NaN in a dimension that no earlier corpus rates, where answers are chance."""
        import torch

        stage = self.stage
        answers = stage.network.predict(stage.network.unpack(stage.start), stage.current)
        rated = torch.stack([kept.rated for kept in stage.kept if kept.rated is not None]).any(dim=0)
        return answers.masked_fill(~rated, torch.nan)

    def output_gradient(self, index: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        from ser_memory.train.samples import take

        gradient = super().output_gradient(index, prediction, targets)
        if self._answers is None:
            return gradient
        _, distance = self._distance(prediction, take(self._answers, index.to(prediction.device)))
        return gradient + self._strength * distance
