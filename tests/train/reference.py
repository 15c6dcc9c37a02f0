"""The network and one training loop as anybody would write them in PyTorch: the fast path must agree with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ser_memory.common.metrics import ccc
from ser_memory.train.model import Architecture, Network
from ser_memory.train.samples import Samples


class PlainModel(nn.Module):
    """The network of METHOD.md in nn.Modules."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        widths = [a.acoustic_width] + [a.trunk_width] * a.trunk_blocks
        self.mixture = nn.Parameter(torch.zeros(a.layers)) if a.layers else None
        self.trunk = nn.Sequential(*(block(i, o, a.trunk_dropout) for i, o in itertools.pairwise(widths)))
        with_text = {item.dimension: item.text for item in a.heads}
        if any(with_text.values()):
            self.text: nn.Sequential | None = nn.Sequential(
                nn.Dropout(a.text_dropout), nn.LayerNorm(a.text_width), nn.Linear(a.text_width, a.trunk_width)
            )
        else:
            self.text = None
        self.heads = nn.ModuleDict(
            {
                name: head(2 * a.trunk_width if text else a.trunk_width, a.head_width, a.head_dropout)
                for name, text in with_text.items()
            }
        )
        self.with_text = with_text

    def forward(self, acoustic: Tensor, text: Tensor) -> Tensor:
        if self.mixture is not None:
            acoustic = torch.einsum("l,bld->bd", self.mixture.softmax(dim=0), acoustic)
        trunk = self.trunk(acoustic)
        both = trunk if self.text is None else torch.cat([trunk, self.text(text)], dim=1)
        outputs = [part(both if self.with_text[name] else trunk) for name, part in self.heads.items()]
        return torch.cat(outputs, dim=1)

    def linear_layers(self) -> dict[str, tuple[Any, Any]]:
        """LayerNorm and Linear by the names that train.model gives them."""
        return {
            **{f"trunk.{number}": (part[0], part[1]) for number, part in enumerate(self.trunk)},  # type: ignore[index]
            **({} if self.text is None else {"text": (self.text[1], self.text[2])}),
            **{
                f"{name}.{place}": (part[at], part[at + 1])  # type: ignore[index]
                for name, part in self.heads.items()
                for place, at in (("hidden", 0), ("out", 4))
            },
        }


def block(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width_in), nn.Linear(width_in, width_out), nn.LeakyReLU(), nn.Dropout(dropout)
    )


def head(width_in: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*block(width_in, width, dropout), nn.LayerNorm(width), nn.Linear(width, 1))


def plain(network: Network, flat: Tensor) -> PlainModel:
    """The plain model with (P,) parameters of ours, in their precision."""
    model = PlainModel(network.architecture).to(flat.dtype)
    parameters = network.unpack(flat[None])
    with torch.no_grad():
        for name, (norm, linear) in model.linear_layers().items():
            layer = parameters.layers[name]
            for into, value in zip((norm.weight, norm.bias, linear.weight, linear.bias), layer, strict=True):
                into.copy_(value[0].reshape(into.shape))
        if model.mixture is not None and parameters.mixture is not None:
            model.mixture.copy_(parameters.mixture[0])
    return model


def flat_gradient(network: Network, model: PlainModel) -> Tensor:
    """(P,) the gradients that autograd left on a plain model, in our order."""
    flat = torch.zeros(1, network.size, dtype=next(model.parameters()).dtype)
    into = network.unpack(flat)
    for name, (norm, linear) in model.linear_layers().items():
        for place, parameter in zip(
            into.layers[name], (norm.weight, norm.bias, linear.weight, linear.bias), strict=True
        ):
            place.copy_(parameter.grad.reshape(place.shape))
    if model.mixture is not None and into.mixture is not None and model.mixture.grad is not None:
        into.mixture.copy_(model.mixture.grad)
    return flat[0]


def plain_ccc_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum over dimensions of 1 - 2 cov / (var + var + (mean - mean)^2)."""
    loss = prediction.new_zeros(())
    for p, t in zip(prediction.T, target.T, strict=True):
        covariance = ((p - p.mean()) * (t - t.mean())).mean()
        spread = p.var(unbiased=False) + t.var(unbiased=False) + (p.mean() - t.mean()) ** 2
        loss = loss + 1 - 2 * covariance / spread
    return loss


def plain_training(
    model: PlainModel, train: Samples, validation: Samples, epochs: int, batch_size: int, learning_rate: float,
    orders: list[np.ndarray] | None = None,
) -> list[float]:  # fmt: skip
    """Shuffle, loss, backward, Adam; the validation CCC (mean over dimensions) after every epoch."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    scores = []
    everything = train.batch(torch.arange(len(train)))
    held_out = validation.batch(torch.arange(len(validation)))
    for epoch in range(epochs):
        model.train()
        order = torch.from_numpy(orders[epoch]) if orders else torch.randperm(len(train))
        for rows in order.split(batch_size):
            prediction = model(everything.acoustic[rows], everything.text[rows])
            optimiser.zero_grad()
            plain_ccc_loss(prediction, everything.targets[rows]).backward()
            optimiser.step()
        model.eval()
        with torch.no_grad():
            predicted = model(held_out.acoustic, held_out.text).numpy()
        truth = held_out.targets.numpy()
        scores.append(float(np.mean([ccc(truth[:, i], predicted[:, i]) for i in range(truth.shape[1])])))
    return scores
