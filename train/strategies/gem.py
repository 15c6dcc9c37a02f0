"""Gradient Episodic Memory (Lopez-Paz and Ranzato 2017): no step may raise the loss on a memory."""

from __future__ import annotations

from torch import Tensor

from ser_memory.train.data import Batch
from ser_memory.train.model import Parameters
from ser_memory.train.projection import project
from ser_memory.train.strategies.base import Stage, Strategy, StrategySettings, draw, remembered, take


class GEM(Strategy):
    """Trains on the new corpus. The memory only turns the gradient away from harm to earlier corpora."""

    earlier = "memory"
    options = ("gem_margin", "gem_batch")

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        super().__init__(stage, settings)
        self._memories = self.constraints(remembered(stage))
        self._gradients = stage.start.new_empty(len(self._memories), *stage.start.shape)
        self._unpacked = [stage.network.unpack(row) for row in self._gradients]

    def constraints(self, memories: list[Batch]) -> list[Batch]:
        """What no step may harm: each memory is a constraint of its own."""
        return memories

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        if not self._memories:
            return gradient
        for memory, into in zip(self._memories, self._unpacked, strict=True):
            memory_gradient(self.stage, parameters, self._of_this_step(memory), into)
        return project(gradient, self._gradients.transpose(0, 1), self.settings.gem_margin)

    def _of_this_step(self, memory: Batch) -> Batch:
        size = memory.targets.shape[1]
        if self.settings.gem_batch is None or self.settings.gem_batch >= size:
            return memory
        index = draw(size, self.settings.gem_batch, self.stage)
        return Batch(*(take(values, index) for values in memory))


def memory_gradient(stage: Stage, parameters: Parameters, memory: Batch, into: Parameters) -> None:
    """Write the gradient of the loss on remembered samples to `into`.

    Without dropout: a constraint should not carry its noise.
    """
    prediction, trace = stage.network.forward(parameters, memory.acoustic, memory.text)
    _, output_gradient = stage.objective(prediction, memory.targets)
    stage.network.backward(parameters, trace, output_gradient, into)
