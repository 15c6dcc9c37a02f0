"""Losses of a batch, summed over dimensions, with their gradients written out.

(R, B, K) predictions and targets of R runs, B utterances and K dimensions -> (R,) losses and the (R, B, K)
gradient of each run's loss with respect to its predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LossAndGradient = tuple[Tensor, Tensor]
SMALLEST_GROUP = 16  # utterances whose CCC says something about their corpus


def ccc_loss(prediction: Tensor, target: Tensor) -> LossAndGradient:
    r"""Sum over dimensions of 1 - CCC on the batch (Lin 1989), with population variances; in [0, 2K].

    With :math:`C = 2 c / s`, :math:`c` the covariance and :math:`s` the sum of the variances and the squared
    difference of the means, :math:`B\,\partial C / \partial x = 2 (\dot y - C (\dot x + \bar x - \bar y)) / s`,
    where a dot means less its mean. A batch in which prediction and target are the same constant has CCC 0.
    """
    prediction_mean, target_mean = prediction.mean(dim=1, keepdim=True), target.mean(dim=1, keepdim=True)
    p, t, shift = prediction - prediction_mean, target - target_mean, prediction_mean - target_mean
    spread = (p * p).mean(dim=1, keepdim=True) + (t * t).mean(dim=1, keepdim=True) + shift.square()
    # The clamp only guards 0 / 0; any real batch is far above the smallest float.
    spread = spread.clamp_min(torch.finfo(spread.dtype).tiny)
    ccc = 2 * (p * t).mean(dim=1, keepdim=True) / spread
    gradient = (ccc * (p + shift) - t).mul_(2 / (spread * prediction.shape[1]))
    return (1 - ccc).sum(dim=(1, 2)), gradient


def mse_loss(prediction: Tensor, target: Tensor) -> LossAndGradient:
    """Sum over dimensions of the mean squared error on the batch; at least 0."""
    error = prediction - target
    return error.square().mean(dim=1).sum(dim=1), error * (2 / prediction.shape[1])


def ccc_loss_of(chosen: Tensor, prediction: Tensor, target: Tensor) -> LossAndGradient:
    """1 - CCC of the utterances that (R, B, K) `chosen`, 0 or 1, chooses for each dimension: (R, K) and the gradient.

    A dimension for which none is chosen has the loss 0.
    """
    n = chosen.sum(dim=1, keepdim=True)
    share = chosen / n.clamp_min(1)
    prediction_mean = (share * prediction).sum(dim=1, keepdim=True)
    target_mean = (share * target).sum(dim=1, keepdim=True)
    p, t, shift = prediction - prediction_mean, target - target_mean, prediction_mean - target_mean
    spread = (share * (p * p + t * t)).sum(dim=1, keepdim=True) + shift.square()
    spread = spread.clamp_min(torch.finfo(spread.dtype).tiny)
    ccc = 2 * (share * p * t).sum(dim=1, keepdim=True) / spread
    gradient = (ccc * (p + shift) - t).mul_(2 * share / spread)
    return torch.where(n > 0, 1 - ccc, 0.0)[:, 0], gradient


def mse_loss_of(chosen: Tensor, prediction: Tensor, target: Tensor) -> LossAndGradient:
    """The mean squared error of the utterances that `chosen` chooses, as `ccc_loss_of` has it."""
    error = (prediction - target) * chosen
    share = chosen.sum(dim=1, keepdim=True).clamp_min(1).reciprocal()
    return (error.square() * share).sum(dim=1), error * (2 * share)


@dataclass(frozen=True)
class Objective:
    """What a stage minimises."""

    whole: Callable[[Tensor, Tensor], LossAndGradient]
    part: Callable[[Tensor, Tensor, Tensor], LossAndGradient]
    rated: bool = True  # in every dimension; otherwise targets are NaN where there is no rating

    def __call__(self, prediction: Tensor, target: Tensor) -> LossAndGradient:
        """The loss of each run's whole batch; what is not rated adds nothing."""
        if self.rated:
            return self.whole(prediction, target)
        loss, gradient = self.part(target.isfinite().to(target), prediction, target.nan_to_num())
        return loss.sum(dim=1), gradient

    def per_group(self, prediction: Tensor, target: Tensor, groups: Tensor) -> LossAndGradient:
        """For each run and dimension the mean of the losses of its groups, as if each were a batch.

        (R, B) int64 `groups`, on the host, numbers the groups from 0 in each run. A group in which a dimension is not
        rated does not count in that dimension.
        """
        rated, target = target.isfinite().to(target), target.nan_to_num()
        number, groups = int(groups.max()) + 1, groups.to(prediction.device)
        of_groups = [rated * (groups == group)[..., None] for group in range(number)]
        there = torch.stack([chosen.amax(dim=1) for chosen in of_groups])  # (G, R, K)
        shares = there / there.sum(dim=0).clamp_min(1)
        loss, gradient = prediction.new_zeros(len(prediction)), torch.zeros_like(prediction)
        for share, chosen in zip(shares, of_groups, strict=True):
            its_loss, its_gradient = self.part(chosen, prediction, target)
            loss = loss + (share * its_loss).sum(dim=1)
            gradient = gradient.addcmul_(share[:, None], its_gradient)
        return loss, gradient


OBJECTIVES: dict[str, Objective] = {
    "ccc": Objective(ccc_loss, ccc_loss_of),
    "mse": Objective(mse_loss, mse_loss_of),
}


def squared_distance(objective: Objective) -> Objective:
    """The mean squared distance to answers, NaN where there is none if the objective's targets may be NaN."""
    return replace(OBJECTIVES["mse"], rated=objective.rated)


def groups_of(corpora: Tensor, smallest: int = SMALLEST_GROUP) -> Tensor:
    """(R, B) int64 groups, from 0 in each run, of utterances by their corpora; (R, B) int64 on the host.

    Corpora with fewer than `smallest` utterances in the batch are pooled: the smallest group joins the next larger one
    until none is too small, or one is left.
    """
    groups = torch.empty_like(corpora)
    for into, row in zip(groups, corpora, strict=True):
        names, counts = row.unique(return_counts=True)
        found = sorted((n, [name]) for name, n in zip(names.tolist(), counts.tolist(), strict=True))
        while len(found) > 1 and found[0][0] < smallest:
            (n, few), (more, others), *rest = found
            found = sorted([(n + more, few + others), *rest])
        for number, (_, members) in enumerate(found):
            into[torch.isin(row, row.new_tensor(members))] = number
    return groups
