"""Losses of a batch: (B, 2) predictions and targets -> a scalar, summed over activation and valence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]


def ccc_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum over dimensions of 1 - CCC on the batch (Lin 1989), with population variances.

    In [0, 4]. A batch in which prediction and target are the same constant counts as CCC 0.
    """
    prediction_mean, target_mean = prediction.mean(dim=0), target.mean(dim=0)
    p, t = prediction - prediction_mean, target - target_mean
    spread = (p * p).mean(dim=0) + (t * t).mean(dim=0) + (prediction_mean - target_mean).square()
    # The clamp only guards 0 / 0; any real batch is far above the smallest float.
    ccc = 2 * (p * t).mean(dim=0) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    return (1 - ccc).sum()


def mse_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum over dimensions of the mean squared error."""
    return (prediction - target).square().mean(dim=0).sum()


OBJECTIVES: dict[str, Objective] = {"ccc": ccc_loss, "mse": mse_loss}
