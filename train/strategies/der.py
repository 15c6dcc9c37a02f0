"""Dark Experience Replay++ (Buzzega et al. 2020): the memory also keeps the model's predictions of that time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import Kept, Stage, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.samples import Samples


@dataclass(frozen=True)
class DarkExperienceReplayOptions(Options):
    title = "Strategy der++"

    der_alpha: float = option(0.5, minimum=0, help="Weight of the distance to old answers.")
    der_beta: float = option(0.5, minimum=0, help="Weight of the loss on remembered utterances.")


class DarkExperienceReplay(Strategy):
    """Adds to every step the distance to old predictions for some remembered samples, and the loss on others."""

    earlier = "memory"
    options = DarkExperienceReplayOptions

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        assert allowed is not None
        memory = allowed.shared(parameters.flat)
        return Kept(allowed, answers=network.infer(parameters, memory.acoustic, memory.text))

    def __init__(self, stage: Stage, options: DarkExperienceReplayOptions) -> None:
        import torch

        super().__init__(stage, options)
        self._options = options
        self._gradient = stage.gradient()
        memories = stage.memories()
        self._memory = memories[0].join(memories[1:]) if memories else None
        if memories:
            self._answers = torch.cat(
                [kept.answers for kept in stage.kept if kept.answers is not None], dim=1
            )

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        from ser_memory.train.objective import mse_loss
        from ser_memory.train.samples import take

        memory, stage = self._memory, self.stage
        if memory is None:
            return gradient
        terms = (
            (self._options.der_alpha, mse_loss, self._answers),
            (self._options.der_beta, stage.objective, memory.targets),
        )
        for weight, objective, targets in terms:
            index = stage.draw(targets.shape[1], stage.batch_size)
            acoustic, text = take(memory.acoustic, index), take(memory.text, index)
            masks = stage.dropout.masks(index.shape[1])
            prediction, trace = stage.network.forward(parameters, acoustic, text, masks)
            _, output_gradient = objective(prediction, take(targets, index))
            stage.network.backward(parameters, trace, output_gradient, self._gradient)
            gradient = gradient.add_(self._gradient.flat, alpha=weight)
        return gradient
