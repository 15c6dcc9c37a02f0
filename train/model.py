"""The network: an acoustic trunk shared by two heads, and text for the valence head alone.

Many models of one shape are trained as one stack: every tensor has a leading axis of runs, and run r never
looks at another's slice. All parameters of a run are one row of a flat (R, P) tensor, so that optimiser and
strategies see a gradient as what it is, a vector. The backward pass is written out, which saves a third of
autograd's time at this size; tests hold it against autograd in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ser_memory.train.data import Samples

_EPS = 1e-5  # of LayerNorm
_SLOPE = 0.01  # of LeakyReLU
_ROWS = 1024  # predicted together: more would leave the processor's cache


@dataclass(frozen=True)
class Architecture:
    """Widths and dropout rates; the paper gives the rates, the widths are our choice."""

    acoustic_width: int  # of the cached acoustic embedding
    text_width: int  # of the cached text embedding
    trunk_width: int = 256
    head_width: int = 128
    trunk_blocks: int = 3
    trunk_dropout: float = 0.2
    text_dropout: float = 0.2
    head_dropout: float = 0.1
    layers: int = 0  # of the acoustic encoder to be weighted, 0 for a single one


class Layer(NamedTuple):
    """Parameters of LayerNorm and the Linear behind it, or their gradients."""

    gain: Tensor  # (R, 1, I)
    shift: Tensor  # (R, 1, I)
    weight: Tensor  # (R, O, I)
    bias: Tensor  # (R, 1, O)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a stack of runs, or their gradients: one flat tensor, and views of it by layer."""

    flat: Tensor  # (R, P)
    layers: dict[str, Layer]
    mixture: Tensor | None  # (R, L), the layer weights before their softmax


class Network:
    """(R, B, D) acoustic and (R, B, E) text embeddings -> (R, B, 2) activation and valence.

    With layers to be weighted the acoustic embedding is (R, B, L, D), and their softmax-weighted sum is used.

    Text reaches the valence head only: with both, text hurts activation, while valence still regularises the
    shared trunk. The object holds no parameters; it remembers the last `forward` for `backward`.
    """

    def __init__(self, architecture: Architecture) -> None:
        a = self.architecture = architecture
        self._trunk = [f"trunk.{number}" for number in range(a.trunk_blocks)]
        self.widths = {
            **dict.fromkeys(self._trunk, (a.trunk_width, a.trunk_width)),
            self._trunk[0]: (a.acoustic_width, a.trunk_width),
            "text": (a.text_width, a.trunk_width),
            "activation.hidden": (a.trunk_width, a.head_width),
            "activation.out": (a.head_width, 1),
            "valence.hidden": (2 * a.trunk_width, a.head_width),
            "valence.out": (a.head_width, 1),
        }  # (in, out) of every linear layer
        self._linear = {name: _NormalisedLinear() for name in self.widths}
        hidden = [*self._trunk, "activation.hidden", "valence.hidden"]
        self._activation = {name: _DroppedLeakyReLU() for name in hidden}
        self.size = sum(2 * i + o * i + o for i, o in self.widths.values()) + a.layers

    @property
    def dropouts(self) -> dict[str, tuple[int, float]]:
        """Where there is dropout: (width, rate). Of the text it is on the input, elsewhere on the activations."""
        a = self.architecture
        return {
            "text": (a.text_width, a.text_dropout),
            **dict.fromkeys(self._trunk, (a.trunk_width, a.trunk_dropout)),
            "activation.hidden": (a.head_width, a.head_dropout),
            "valence.hidden": (a.head_width, a.head_dropout),
        }

    def initial(self, generator: np.random.Generator) -> Tensor:
        """(P,) float32 of one run: PyTorch's own defaults, uniform within 1 / sqrt(in) around 0; gains are 1."""
        flat = torch.zeros(1, self.size)
        for name, layer in self.unpack(flat).layers.items():
            bound = 1 / math.sqrt(self.widths[name][0])
            layer.gain.fill_(1)
            for drawn in (layer.weight, layer.bias):
                values = generator.uniform(-bound, bound, tuple(drawn.shape))
                drawn.copy_(torch.from_numpy(values))
        return flat[0]

    def unpack(self, flat: Tensor) -> Parameters:
        """Views of a flat (R, P) tensor by layer."""
        pieces = _Pieces(flat)
        layers = {
            name: Layer(pieces.next(1, i), pieces.next(1, i), pieces.next(o, i), pieces.next(1, o))
            for name, (i, o) in self.widths.items()
        }
        mixed = self.architecture.layers
        return Parameters(flat, layers, pieces.next(mixed) if mixed else None)

    def forward(
        self, parameters: Parameters, acoustic: Tensor, text: Tensor, masks: dict[str, Tensor] | None = None
    ) -> Tensor:
        """(R, B, 2) predictions. `masks` are those of `dropouts`, scaled; without them nothing is dropped."""
        if parameters.mixture is not None:
            acoustic = self._mix(parameters.mixture, acoustic)
        x = acoustic
        for name in self._trunk:
            x = self._hidden(name, parameters, x, masks)
        words = self._linear["text"].forward(
            parameters.layers["text"], text if masks is None else text * masks["text"]
        )
        inputs = {"activation": x, "valence": torch.cat([x, words], dim=2)}
        return torch.cat([self._head(name, parameters, x, masks) for name, x in inputs.items()], dim=2)

    def backward(
        self, parameters: Parameters, gradient: Tensor, into: Parameters, squares: bool = False
    ) -> None:
        """Gradients for the last `forward`, from (R, B, 2) of its predictions; they replace what `into` holds.

        With `squares` those of every utterance are squared before they are summed over the batch, as the Fisher
        information wants it.
        """
        arguments = parameters, into, squares
        trunk = self._head_back("activation", gradient[..., :1], *arguments)
        both = self._head_back("valence", gradient[..., 1:], *arguments)
        width = trunk.shape[2]
        self._linear_back("text", both[..., width:], *arguments, inward=False)
        trunk = trunk + both[..., :width]
        for name in reversed(self._trunk):
            # Nothing lies before the first layer of the trunk that could learn, unless layers are mixed.
            inward = name != self._trunk[0] or parameters.mixture is not None
            trunk = self._linear_back(name, self._activation[name].backward(trunk), *arguments, inward=inward)
        if parameters.mixture is not None and into.mixture is not None:
            self._mix_back(trunk, into.mixture, squares)

    def predict(self, parameters: Parameters, samples: Samples, rows: int = _ROWS) -> Tensor:
        """(R, N, 2) every run's predictions for the same samples, without dropout, `rows` at a time."""
        device, runs = parameters.flat.device, len(parameters.flat)
        batches = (batch.to(device).expand(runs) for batch in samples.batches(rows))
        return torch.cat([self.forward(parameters, batch.acoustic, batch.text) for batch in batches], dim=1)

    def _hidden(
        self, name: str, parameters: Parameters, x: Tensor, masks: dict[str, Tensor] | None
    ) -> Tensor:
        y = self._linear[name].forward(parameters.layers[name], x)
        return self._activation[name].forward(y, None if masks is None else masks[name])

    def _head(self, name: str, parameters: Parameters, x: Tensor, masks: dict[str, Tensor] | None) -> Tensor:
        hidden = self._hidden(f"{name}.hidden", parameters, x, masks)
        return self._linear[f"{name}.out"].forward(parameters.layers[f"{name}.out"], hidden)

    def _head_back(
        self, name: str, dy: Tensor, parameters: Parameters, into: Parameters, squares: bool
    ) -> Tensor:
        dx = self._linear_back(f"{name}.out", dy.contiguous(), parameters, into, squares)
        dx = self._activation[f"{name}.hidden"].backward(dx)
        return self._linear_back(f"{name}.hidden", dx, parameters, into, squares)

    def _linear_back(
        self,
        name: str,
        dy: Tensor,
        parameters: Parameters,
        into: Parameters,
        squares: bool,
        inward: bool = True,
    ) -> Tensor:
        linear, layer = self._linear[name], parameters.layers[name]
        if squares:
            linear.squares(layer, dy, into.layers[name])
        else:
            linear.gradients(layer, dy, into.layers[name])
        return linear.backward(dy) if inward else dy

    def _mix(self, mixture: Tensor, acoustic: Tensor) -> Tensor:
        self._mixed, self._shares = acoustic, mixture.softmax(dim=1)
        return torch.einsum("rl,rbld->rbd", self._shares, acoustic)

    def _mix_back(self, dx: Tensor, into: Tensor, squares: bool) -> None:
        of_shares = torch.einsum("rbd,rbld->rbl", dx, self._mixed)
        shares = self._shares[:, None]
        of_weights = shares * (of_shares - (of_shares * shares).sum(dim=2, keepdim=True))
        into.copy_((of_weights.square() if squares else of_weights).sum(dim=1))


class _NormalisedLinear:
    r"""LayerNorm, then Linear: :math:`y = (\hat x \circ \gamma + \beta) W^\top + b`.

    Computed as :math:`\hat x (W \circ \gamma)^\top + (W\beta + b)`. So all gradients of the layer follow from
    one product, :math:`M = dY^\top \hat x`, and none needs :math:`dY\,W`, which a first layer then spares.
    """

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        self._x = x
        self._normal, self._mean, self._rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, _EPS)
        self._weight = layer.weight * layer.gain
        bias = torch.baddbmm(layer.bias, layer.shift, layer.weight.mT)
        return torch.baddbmm(bias, self._normal, self._weight.mT)

    def gradients(self, layer: Layer, dy: Tensor, into: Layer) -> None:
        product = torch.bmm(dy.mT, self._normal, out=into.weight)
        torch.sum(layer.weight * product, dim=1, keepdim=True, out=into.gain)
        torch.sum(dy, dim=1, keepdim=True, out=into.bias)
        torch.bmm(into.bias, layer.weight, out=into.shift)
        product.mul_(layer.gain).addcmul_(into.bias.mT, layer.shift)

    def squares(self, layer: Layer, dy: Tensor, into: Layer) -> None:
        """Of every utterance apart, squared and summed; a weight's gradient there is dy times its input."""
        of_input = torch.bmm(dy, layer.weight).square()
        entered = self._normal * layer.gain + layer.shift
        torch.bmm(dy.square().mT, entered.square(), out=into.weight)
        torch.sum(of_input * self._normal.square(), dim=1, keepdim=True, out=into.gain)
        torch.sum(of_input, dim=1, keepdim=True, out=into.shift)
        torch.sum(dy.square(), dim=1, keepdim=True, out=into.bias)

    def backward(self, dy: Tensor) -> Tensor:
        normal = torch.bmm(dy, self._weight)
        dx: Tensor = torch.ops.aten.native_layer_norm_backward(
            normal, self._x, self._x.shape[-1:], self._mean, self._rstd, None, None, [True, False, False]
        )[0]
        return dx


class _DroppedLeakyReLU:
    """LeakyReLU, then dropout by a mask that is 0 or the inverse of the share kept."""

    def forward(self, y: Tensor, mask: Tensor | None) -> Tensor:
        self._y, self._mask = y, mask
        x = F.leaky_relu(y, _SLOPE)
        return x if mask is None else x.mul_(mask)

    def backward(self, dx: Tensor) -> Tensor:
        dx = dx if self._mask is None else dx * self._mask
        dy: Tensor = torch.ops.aten.leaky_relu_backward(dx, self._y, _SLOPE, False)
        return dy


class _Pieces:
    """Cuts one view after the other off a flat (R, P) tensor."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat
        self._at = 0

    def next(self, *shape: int) -> Tensor:
        start, self._at = self._at, self._at + math.prod(shape)
        piece: Tensor = self._flat[:, start : self._at].unflatten(1, shape)
        return piece
