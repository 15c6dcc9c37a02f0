"""Trained heads as plain PyTorch modules, for export: (N, D) or (N, L, D) acoustic and (N, E) text rows -> (N, K).

They say the same as `Network.infer` and `Analytic.predict`, in the layers that every runtime knows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_memory.common.errors import SerError
from ser_memory.train.bundle import Bundle, model_of
from ser_memory.train.layers import EPS, SLOPE, Layer
from ser_memory.train.model import Architecture, Network
from ser_memory.train.strategies.analytic import Analytic


def head_of(bundle: Bundle) -> nn.Module:
    """The head of a bundle. Raises SerError for a closed form that has no module."""
    architecture, model = bundle.info.architecture, model_of(bundle.info)
    if isinstance(model, Network):
        return NetworkHead(architecture, bundle.parameters)
    if isinstance(model, Analytic):
        return AnalyticHead(architecture, model, bundle.parameters)
    raise SerError(f"A bundle of the strategy {bundle.info.strategy} cannot be exported to ONNX.")


class NetworkHead(nn.Module):
    """The network of one run, from its (P,) parameters."""

    def __init__(self, architecture: Architecture, parameters: Tensor) -> None:
        super().__init__()
        unpacked = Network(architecture).unpack(parameters[None].float())
        layers = {name: _normalised_linear(layer) for name, layer in unpacked.layers.items()}
        blocks = [layers[f"trunk.{number}"] for number in range(architecture.trunk_blocks)]
        self._trunk = nn.Sequential(*(nn.Sequential(block, nn.LeakyReLU(SLOPE)) for block in blocks))
        self._words = layers.get("text")
        self._heads = nn.ModuleList(
            nn.Sequential(layers[f"{name}.hidden"], nn.LeakyReLU(SLOPE), layers[f"{name}.out"])
            for name in architecture.dimensions
        )
        self._reads_text = [head.text for head in architecture.heads]
        self._mixture = None if unpacked.mixture is None else nn.Parameter(unpacked.mixture[0])

    def forward(self, acoustic: Tensor, text: Tensor) -> Tensor:
        if self._mixture is not None:
            acoustic = (acoustic * self._mixture.softmax(dim=0)[:, None]).sum(dim=1)
        speech = both = self._trunk(acoustic)
        if self._words is not None:
            both = torch.cat([speech, self._words(text)], dim=1)
        heads = zip(self._heads, self._reads_text, strict=True)
        return torch.cat([head(both if reads_text else speech) for head, reads_text in heads], dim=1)


class AnalyticHead(nn.Module):
    """The linear heads in closed form with the features that they read, from the (P,) parameters.

    The features are float32 and everything after them is float64, as when the heads were computed.
    """

    def __init__(self, architecture: Architecture, strategy: Analytic, parameters: Tensor) -> None:
        super().__init__()
        self._embeddings = 1 + architecture.reads_text
        self._projections = nn.ParameterList(torch.from_numpy(each) for each in strategy.projections)
        self._columns = strategy.columns_read
        pieces = parameters.double().split([n + 1 for n in self._columns])
        self._heads = nn.ModuleList(_linear(piece[None, :-1], piece[-1:]) for piece in pieces)

    def forward(self, acoustic: Tensor, text: Tensor) -> Tensor:
        embeddings = (acoustic, text)[: self._embeddings]
        features = [F.layer_norm(each, each.shape[-1:]) for each in embeddings]
        if self._projections:
            features = [(x @ w).relu() for x, w in zip(features, self._projections, strict=True)]
        wide = torch.cat(features, dim=1).double()
        heads = zip(self._heads, self._columns, strict=True)
        return torch.cat([head(wide[:, :n]) for head, n in heads], dim=1).float()


def _normalised_linear(layer: Layer) -> nn.Module:
    """LayerNorm and the Linear behind it, from those of one run in a stack of one."""
    norm = nn.LayerNorm(layer.gain.shape[-1], EPS)
    norm.weight, norm.bias = nn.Parameter(layer.gain[0, 0]), nn.Parameter(layer.shift[0, 0])
    return nn.Sequential(norm, _linear(layer.weight[0], layer.bias[0, 0]))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear of (O, I) weights and (O,) biases, in their type."""
    made = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, device="meta")
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made
