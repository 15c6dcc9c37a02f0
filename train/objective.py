"""Losses of a batch, summed over dimensions, with their gradients written out.

(R, B, K) predictions and targets of R runs, B utterances and K dimensions -> (R,) losses and the (R, B, K)
gradient of each run's loss with respect to its predictions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ccc_loss(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
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


def mse_loss(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over dimensions of the mean squared error on the batch; at least 0."""
    error = prediction - target
    return error.square().mean(dim=1).sum(dim=1), error * (2 / prediction.shape[1])


OBJECTIVES: dict[str, Objective] = {"ccc": ccc_loss, "mse": mse_loss}
