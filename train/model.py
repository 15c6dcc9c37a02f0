"""The network: an acoustic trunk shared by one head per dimension, and text for some of the heads.

Many models of one shape are trained as one stack: every tensor has a leading axis of runs, and no run reads
another's slice. All parameters of a run are one row of a flat (R, P) tensor, so optimiser and strategies see
a gradient as what it is, a vector. The backward pass is written out, which saves a third of autograd's time at
this size. Tests compare it with autograd in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ser_memory.train.layers import (
    ActivationTrace,
    Layer,
    LinearTrace,
    MixtureTrace,
    dropped_leaky_relu,
    dropped_leaky_relu_gradient,
    linear_gradients,
    linear_input_gradient,
    linear_squares,
    mixed,
    mixture_gradient,
    normalised_linear,
)
from ser_memory.train.samples import Samples

_ROWS = 1024  # predicted together: more would leave the processor's cache


@dataclass(frozen=True)
class Head:
    """A dimension that the network predicts, and whether the text embedding reaches it."""

    dimension: str
    text: bool = False


# Text reaches valence only: with both, text hurts activation, while valence still regularises the shared trunk.
HEADS = (Head("activation"), Head("valence", text=True), Head("dominance"))


@dataclass(frozen=True)
class Architecture:
    """Widths, dropout rates and heads. The paper gives the rates and the heads, the widths are our choice.

    Raises ValueError if there is no head, a dimension appears twice, or the trunk has no block.
    """

    acoustic_width: int  # of the cached acoustic embedding
    text_width: int  # of the cached text embedding
    trunk_width: int = 256
    head_width: int = 128
    trunk_blocks: int = 3
    trunk_dropout: float = 0.2
    text_dropout: float = 0.2
    head_dropout: float = 0.1
    layers: int = 0  # of the acoustic encoder to be weighted, 0 for a single one
    heads: tuple[Head, ...] = HEADS[:2]  # in the order of the columns of predictions and targets

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("An architecture needs at least one head.")
        if len(set(self.dimensions)) < len(self.heads):
            raise ValueError(f"Each dimension can have one head only, not {', '.join(self.dimensions)}.")
        if self.trunk_blocks < 1:
            raise ValueError(f"The trunk needs at least one block, not {self.trunk_blocks}.")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the K predicted dimensions, in the order of the columns."""
        return tuple(head.dimension for head in self.heads)

    @property
    def reads_text(self) -> bool:
        """Whether the text embedding reaches any head. Otherwise the network has no text layer."""
        return any(head.text for head in self.heads)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a stack of runs, or their gradients: one flat tensor, and views of it by layer."""

    flat: Tensor  # (R, P)
    layers: dict[str, Layer]
    mixture: Tensor | None  # (R, L), the layer weights before their softmax


@dataclass
class Trace:
    """What `Network.backward` needs of one `Network.forward`. It holds the activations of that batch."""

    linear: dict[str, LinearTrace] = field(default_factory=dict)
    activation: dict[str, ActivationTrace] = field(default_factory=dict)
    mixture: MixtureTrace | None = None


class Network:
    """(R, B, D) acoustic and (R, B, E) text embeddings -> (R, B, K) predictions of K dimensions for R runs.

    With encoder layers to be weighted the acoustic embedding is (R, B, L, D), and the network uses their
    softmax-weighted sum. The object holds neither parameters nor any other state, so threads can share it.
    """

    def __init__(self, architecture: Architecture) -> None:
        a = self.architecture = architecture
        self._trunk = [f"trunk.{number}" for number in range(a.trunk_blocks)]
        self.widths = {
            **dict.fromkeys(self._trunk, (a.trunk_width, a.trunk_width)),
            self._trunk[0]: (a.acoustic_width, a.trunk_width),
        }  # (in, out) of every linear layer, in the order of the flat parameters
        if a.reads_text:
            self.widths["text"] = (a.text_width, a.trunk_width)
        for head in a.heads:
            self.widths[f"{head.dimension}.hidden"] = ((1 + head.text) * a.trunk_width, a.head_width)
            self.widths[f"{head.dimension}.out"] = (a.head_width, 1)
        self.size = sum(2 * i + o * i + o for i, o in self.widths.values()) + a.layers

    @property
    def dropouts(self) -> dict[str, tuple[int, float]]:
        """Width and rate of every dropout by name. For text it is on the input, elsewhere on the activations."""
        a = self.architecture
        return {
            **({"text": (a.text_width, a.text_dropout)} if a.reads_text else {}),
            **dict.fromkeys(self._trunk, (a.trunk_width, a.trunk_dropout)),
            **{f"{name}.hidden": (a.head_width, a.head_dropout) for name in a.dimensions},
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
        weights = self.architecture.layers
        return Parameters(flat, layers, pieces.next(weights) if weights else None)

    def forward(
        self, parameters: Parameters, acoustic: Tensor, text: Tensor, masks: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Trace]:
        """(R, B, K) predictions, and the trace that `backward` needs.

        `masks` are those of `dropouts`, (R, B, width) each and already scaled; without them nothing is dropped.
        """
        trace = Trace()
        return self._run(parameters, acoustic, text, masks, trace), trace

    def infer(self, parameters: Parameters, acoustic: Tensor, text: Tensor) -> Tensor:
        """(R, B, K) predictions without dropout and without a trace: activations are freed on the way."""
        return self._run(parameters, acoustic, text, None, None)

    def predict(self, parameters: Parameters, samples: Samples, rows: int = _ROWS) -> Tensor:
        """(R, N, K) every run's predictions for the same samples, without dropout, `rows` at a time."""
        device, runs = parameters.flat.device, len(parameters.flat)
        batches = (batch.to(device).expand(runs) for batch in samples.batches(rows))
        return torch.cat([self.infer(parameters, batch.acoustic, batch.text) for batch in batches], dim=1)

    def backward(
        self,
        parameters: Parameters,
        trace: Trace,
        output_gradient: Tensor,
        into: Parameters,
        *,
        squares: bool = False,
    ) -> None:
        """Replace what `into` holds by the gradients for one `forward`, summed over the batch.

        Args:
            parameters: those of the forward pass, unchanged since.
            trace: that of the forward pass. It stays valid for further calls.
            output_gradient: (R, B, K) gradient with respect to the predictions.
            into: where the (R, P) gradients go.
            squares: square the gradients of every utterance before the sum, as the Fisher information needs it.
        """
        back = _Backward(parameters, trace, into, squares)
        width, trunk, words = self.architecture.trunk_width, None, None
        for column, head in enumerate(self.architecture.heads):
            dx = back.linear(f"{head.dimension}.out", output_gradient[..., column : column + 1].contiguous())
            dx = back.linear(f"{head.dimension}.hidden", back.activation(f"{head.dimension}.hidden", dx))
            if head.text:
                words = dx[..., width:] if words is None else words + dx[..., width:]
                dx = dx[..., :width]
            trunk = dx if trunk is None else trunk + dx
        assert trunk is not None  # there is a head
        if words is not None:
            back.parameters_of("text", words)
        for name in reversed(self._trunk):
            trunk = back.activation(name, trunk)
            # Nothing before the first layer of the trunk can learn, unless encoder layers are weighted.
            if name != self._trunk[0] or trace.mixture is not None:
                trunk = back.linear(name, trunk)
            else:
                back.parameters_of(name, trunk)
        if trace.mixture is not None and into.mixture is not None:
            mixture_gradient(trace.mixture, trunk, into.mixture, squares)

    def _run(
        self,
        parameters: Parameters,
        acoustic: Tensor,
        text: Tensor,
        masks: dict[str, Tensor] | None,
        trace: Trace | None,
    ) -> Tensor:
        x, layers = acoustic, parameters.layers

        def linear(name: str, x: Tensor) -> Tensor:
            y, kept = normalised_linear(layers[name], x)
            if trace is not None:
                trace.linear[name] = kept
            return y

        def hidden(name: str, x: Tensor) -> Tensor:
            y, kept = dropped_leaky_relu(linear(name, x), None if masks is None else masks[name])
            if trace is not None:
                trace.activation[name] = kept
            return y

        if parameters.mixture is not None:
            x, kept = mixed(parameters.mixture, x)
            if trace is not None:
                trace.mixture = kept
        for name in self._trunk:
            x = hidden(name, x)
        both = x
        if self.architecture.reads_text:
            words = linear("text", text if masks is None else text * masks["text"])
            both = torch.cat([x, words], dim=2)
        outputs = [
            linear(f"{head.dimension}.out", hidden(f"{head.dimension}.hidden", both if head.text else x))
            for head in self.architecture.heads
        ]
        return torch.cat(outputs, dim=2)


@dataclass(frozen=True)
class _Backward:
    """One backward pass: its steps by the name of a layer."""

    parameters: Parameters
    trace: Trace
    into: Parameters
    squares: bool

    def parameters_of(self, name: str, dy: Tensor) -> None:
        """Write the gradients of a linear layer's parameters."""
        write = linear_squares if self.squares else linear_gradients
        write(self.parameters.layers[name], self.trace.linear[name], dy, self.into.layers[name])

    def linear(self, name: str, dy: Tensor) -> Tensor:
        """Write the gradients of a linear layer's parameters; returns that of its input."""
        self.parameters_of(name, dy)
        return linear_input_gradient(self.trace.linear[name], dy)

    def activation(self, name: str, dx: Tensor) -> Tensor:
        return dropped_leaky_relu_gradient(self.trace.activation[name], dx)


class _Pieces:
    """Cuts one view after the other off a flat (R, P) tensor."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat
        self._at = 0

    def next(self, *shape: int) -> Tensor:
        start, self._at = self._at, self._at + math.prod(shape)
        piece: Tensor = self._flat[:, start : self._at].unflatten(1, shape)
        return piece
