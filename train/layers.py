"""The layers of the network: forward and backward passes as functions, over a stack of R runs.

A forward function returns its output and a trace: the tensors that the backward functions need. Nothing is kept
between calls. I and O are the widths of a layer's input and output, B is the number of utterances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5  # of LayerNorm
SLOPE = 0.01  # of LeakyReLU


class Layer(NamedTuple):
    """Parameters of LayerNorm and the Linear behind it, or their gradients."""

    gain: Tensor  # (R, 1, I)
    shift: Tensor  # (R, 1, I)
    weight: Tensor  # (R, O, I)
    bias: Tensor  # (R, 1, O)


class LinearTrace(NamedTuple):
    """What the gradients of a normalised linear layer need."""

    x: Tensor  # (R, B, I) input
    normal: Tensor  # (R, B, I) input after normalisation, before gain and shift
    mean: Tensor  # (R, B, 1)
    rstd: Tensor  # (R, B, 1) reciprocal standard deviation
    weight: Tensor  # (R, O, I) weight times gain


class ActivationTrace(NamedTuple):
    """What the gradient of an activation with dropout needs."""

    y: Tensor  # (R, B, O) input
    mask: Tensor | None  # (R, B, O)


class MixtureTrace(NamedTuple):
    """What the gradients of a weighted sum of encoder layers need."""

    acoustic: Tensor  # (R, B, L, D) input
    shares: Tensor  # (R, L) weights after their softmax


def normalised_linear(layer: Layer, x: Tensor) -> tuple[Tensor, LinearTrace]:
    r"""LayerNorm, then Linear: :math:`y = (\hat x \circ \gamma + \beta) W^\top + b`, (R, B, I) -> (R, B, O).

    Computed as :math:`\hat x (W \circ \gamma)^\top + (W\beta + b)`. So all gradients of the layer follow from
    one product, :math:`M = dY^\top \hat x`. None needs :math:`dY\,W`, which the first layer then saves.
    """
    normal, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)
    weight = layer.weight * layer.gain
    bias = torch.baddbmm(layer.bias, layer.shift, layer.weight.mT)
    return torch.baddbmm(bias, normal, weight.mT), LinearTrace(x, normal, mean, rstd, weight)


def linear_gradients(layer: Layer, trace: LinearTrace, dy: Tensor, into: Layer) -> None:
    """Write the parameters' gradients, summed over the batch, to `into`; `dy` is (R, B, O)."""
    product = torch.bmm(dy.mT, trace.normal, out=into.weight)
    torch.sum(layer.weight * product, dim=1, keepdim=True, out=into.gain)
    torch.sum(dy, dim=1, keepdim=True, out=into.bias)
    torch.bmm(into.bias, layer.weight, out=into.shift)
    product.mul_(layer.gain).addcmul_(into.bias.mT, layer.shift)


def linear_squares(layer: Layer, trace: LinearTrace, dy: Tensor, into: Layer) -> None:
    """Write the sum over the batch of every utterance's squared gradients to `into`; `dy` is (R, B, O).

    For one utterance, the gradient of a weight is `dy` times the weight's input.
    """
    input_squares = torch.bmm(dy, layer.weight).square()
    scaled = trace.normal * layer.gain + layer.shift
    torch.bmm(dy.square().mT, scaled.square(), out=into.weight)
    torch.sum(input_squares * trace.normal.square(), dim=1, keepdim=True, out=into.gain)
    torch.sum(input_squares, dim=1, keepdim=True, out=into.shift)
    torch.sum(dy.square(), dim=1, keepdim=True, out=into.bias)


def linear_input_gradient(trace: LinearTrace, dy: Tensor) -> Tensor:
    """(R, B, I) gradient of the layer's input from the (R, B, O) gradient of its output."""
    normal = torch.bmm(dy, trace.weight)
    dx: Tensor = torch.ops.aten.native_layer_norm_backward(
        normal, trace.x, trace.x.shape[-1:], trace.mean, trace.rstd, None, None, [True, False, False]
    )[0]
    return dx


def dropped_leaky_relu(y: Tensor, mask: Tensor | None) -> tuple[Tensor, ActivationTrace]:
    """LeakyReLU, then dropout: the mask is 0, or the inverse of the share kept; without one nothing is dropped."""
    x = F.leaky_relu(y, SLOPE)
    return x if mask is None else x.mul_(mask), ActivationTrace(y, mask)


def dropped_leaky_relu_gradient(trace: ActivationTrace, dx: Tensor) -> Tensor:
    """Gradient of the activation's input from that of its output, both (R, B, O)."""
    dx = dx if trace.mask is None else dx * trace.mask
    dy: Tensor = torch.ops.aten.leaky_relu_backward(dx, trace.y, SLOPE, False)
    return dy


def mixed(weights: Tensor, acoustic: Tensor) -> tuple[Tensor, MixtureTrace]:
    """(R, L) weights before their softmax and (R, B, L, D) encoder layers -> (R, B, D) weighted sum."""
    shares = weights.softmax(dim=1)
    return torch.einsum("rl,rbld->rbd", shares, acoustic), MixtureTrace(acoustic, shares)


def mixture_gradient(trace: MixtureTrace, dx: Tensor, into: Tensor, squares: bool) -> None:
    """Write the (R, L) gradient of the weights to `into`, from the (R, B, D) gradient of the weighted sum.

    With `squares`, the gradients of every utterance are squared before the sum over the batch.
    """
    share_gradient = torch.einsum("rbd,rbld->rbl", dx, trace.acoustic)
    shares = trace.shares[:, None]
    gradient = shares * (share_gradient - (share_gradient * shares).sum(dim=2, keepdim=True))
    into.copy_((gradient.square() if squares else gradient).sum(dim=1))
