"""Gradient Episodic Memory (Lopez-Paz and Ranzato 2017): no step may raise the loss on a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_memory.common.errors import UsageError
from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Parameters
    from ser_memory.train.samples import Batch


@dataclass(frozen=True)
class GEMOptions(Options):
    title = "Strategies gem and a-gem"

    gem_margin: float = option(0.0, minimum=0, help="Lower bound of the dual variables; 0 projects exactly.")
    gem_batch: int | None = option(
        None,
        minimum=1,
        none="all",
        help="Remembered utterances per memory gradient: all, or a number of them drawn anew at every step.",
    )


class GEM(GradientStrategy):
    """Trains on the new corpus; memory only bends the gradient away from harming earlier corpora."""

    earlier = "memory"
    keeps = ("samples",)
    options = (GEMOptions,)

    def __init__(self, stage: Stage, options: GEMOptions) -> None:
        import torch

        super().__init__(stage)
        self._options = options
        self._memories = self.constraints(stage.memories())
        self._gradients = stage.start.new_empty(len(self._memories), *stage.start.shape)
        self._unpacked = [stage.network.unpack(row) for row in self._gradients]
        self._steps, self._bent = 0, stage.start.new_zeros(stage.runs, dtype=torch.int64)  # in this epoch

    @classmethod
    def refuse_single_samples(cls, options: GEMOptions) -> None:
        if options.gem_batch == 1:
            raise UsageError(
                "--gem-batch 1 teaches nothing with --loss ccc, the CCC of one utterance is 0: use 2 or more."
            )

    def constraints(self, memories: list[Batch]) -> list[Batch]:
        """What no step may harm: every memory on its own."""
        return memories

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        from ser_memory.train.projection import project

        if not self._memories:
            return gradient
        for memory, into in zip(self._memories, self._unpacked, strict=True):
            memory_gradient(self.stage, parameters, self._of_this_step(memory), into)
        self._steps += 1
        return project(gradient, self._gradients.transpose(0, 1), self._options.gem_margin, self._bent)

    def bent_shares(self) -> list[float] | None:
        if not self._steps:
            return None
        shares = [steps / self._steps for steps in self._bent.tolist()]
        self._steps = 0
        self._bent.zero_()
        return shares

    def _of_this_step(self, memory: Batch) -> Batch:
        size = memory.targets.shape[1]
        if self._options.gem_batch is None or self._options.gem_batch >= size:
            return memory
        return memory.take(self.stage.draw(size, self._options.gem_batch).to(self.stage.start.device))


def memory_gradient(stage: Stage, parameters: Parameters, memory: Batch, into: Parameters) -> None:
    """Gradient of the loss on remembered samples, without dropout: a constraint should not carry its noise."""
    prediction, trace = stage.network.forward(parameters, memory.acoustic, memory.text)
    _, gradient = stage.objective(prediction, memory.targets)
    stage.network.backward(parameters, trace, gradient, into)
