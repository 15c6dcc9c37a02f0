"""Gradient Episodic Memory (Lopez-Paz and Ranzato 2017): no step may raise the loss on a memory."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from train.data import Samples
from train.model import EmotionModel
from train.objective import Objective
from train.strategies.base import Strategy, StrategySettings


class GEM(Strategy):
    """Trains on the new corpus; memory only bends the gradient away from harming earlier corpora."""

    earlier = "memory"

    def __init__(self, current: Samples, earlier: list[Samples], settings: StrategySettings) -> None:
        super().__init__(current, earlier, settings)
        self._memories = earlier
        self._margin = settings.gem_margin

    def adjust_gradients(self, model: EmotionModel, objective: Objective) -> None:
        if not self._memories:
            return
        parameters = list(model.parameters())
        batch = torch.cat(
            [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
        )
        model.eval()  # a constraint should not carry dropout's noise
        memories = torch.stack([_gradient(model, objective, memory) for memory in self._memories])
        model.train()
        projected = project(batch, memories, self._margin)
        if projected is not batch:
            sizes = [parameter.numel() for parameter in parameters]
            for parameter, part in zip(parameters, projected.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter)


def project(gradient: Tensor, memories: Tensor, margin: float = 0.0) -> Tensor:
    r"""The vector closest to `gradient` (P,) whose product with no row of `memories` (K, P) is negative.

    .. math:: \tilde g = g + G^\top v^*, \quad
        v^* = \arg\min_{v \ge \gamma} \tfrac12 v^\top G G^\top v + (G g)^\top v

    with :math:`\gamma` the `margin` of the original, which pushes further than needed when above 0. The
    dual is non-negative least squares in K unknowns: :math:`\min_{u \ge 0} |R u + Q^\top g|` for
    :math:`G^\top = Q R`. Rows are brought to unit length and the algebra is done in float64, so the answer
    is exact whatever the scale of the gradients; there is no ridge. Returns `gradient` itself where no
    constraint is violated.
    """
    if not bool((memories @ gradient < 0).any()):
        return gradient
    g, rows = gradient.double(), memories.double()
    # Dividing by the largest entry first keeps the squares of tiny and huge gradients in range.
    size = g.abs().max()
    lengths = rows.abs().amax(dim=1, keepdim=True)
    rows, lengths = rows[lengths[:, 0] > 0], lengths[lengths[:, 0] > 0]
    unit = rows / lengths
    norms = unit.norm(dim=1, keepdim=True)
    unit = unit / norms
    bound = margin * (lengths * norms)[:, 0] / size  # v >= margin, in units of the scaled problem
    target = g / size + bound @ unit
    q, r = torch.linalg.qr(unit.T)
    dual, _ = nnls(r.cpu().numpy(), -(q.T @ target).cpu().numpy())
    step = torch.from_numpy(np.asarray(dual)).to(unit) @ unit
    projected: Tensor = (target + step) * size
    return projected.to(gradient.dtype)


def _gradient(model: EmotionModel, objective: Objective, memory: Samples) -> Tensor:
    """Gradient of the loss on a whole memory, flat (P,)."""
    loss = objective(model(memory.acoustic, memory.text), memory.targets)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
