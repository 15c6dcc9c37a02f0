"""Elastic Weight Consolidation (Kirkpatrick et al. 2017): important parameters stay near their old values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Kept, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.samples import Samples

_ROWS = 1024  # per forward pass


@dataclass(frozen=True)
class ElasticWeightConsolidationOptions(Options):
    title = "Strategy ewc"

    ewc_strength: float = option(100.0, minimum=0, help="Weight of the penalty.")


class ElasticWeightConsolidation(GradientStrategy):
    r"""Adds the gradient of :math:`\tfrac{\lambda}{2} F_k (\theta - \theta_k)^2` for every earlier corpus k. No memory."""

    keeps = ("parameters", "importance")
    options = (ElasticWeightConsolidationOptions,)

    def __init__(self, stage: Stage, options: ElasticWeightConsolidationOptions) -> None:
        super().__init__(stage)
        self._strength = options.ewc_strength

    @classmethod
    def keep(
        cls,
        network: Network,
        parameters: Parameters,
        train: Samples,
        allowed: Samples | None,
        *options: Any,
    ) -> Kept:
        return Kept(parameters=parameters.flat.clone(), importance=fisher(network, parameters, train))

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        for kept in self.stage.kept:
            assert kept.parameters is not None
            assert kept.importance is not None
            pull = (parameters.flat - kept.parameters).mul_(kept.importance)
            gradient = gradient.add_(pull, alpha=self._strength)
        return gradient


def fisher(network: Network, parameters: Parameters, samples: Samples) -> Tensor:
    r"""(R, P) diagonal of the Fisher information: the mean of :math:`\sum_d (\partial f_d / \partial \theta)^2`.

    It is that of a normal distribution with unit variance around each output f, for every loss. An output that the
    corpus does not rate says nothing about it, and is left out.
    """
    import torch

    device = parameters.flat.device
    rated = samples.targets.isfinite().any(dim=0).to(parameters.flat)
    total = torch.zeros_like(parameters.flat)
    squares = network.unpack(torch.empty_like(parameters.flat))
    for batch in samples.batches(_ROWS):
        shared = batch.to(device).expand(len(parameters.flat))
        prediction, trace = network.forward(parameters, shared.acoustic, shared.text)
        for dimension in range(prediction.shape[2]):
            one = torch.zeros_like(prediction)
            one[..., dimension] = rated[dimension]
            network.backward(parameters, trace, one, squares, squares=True)
            total += squares.flat
    return total / len(samples)
