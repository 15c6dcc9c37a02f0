"""The network: an acoustic trunk shared by two heads, and text for the valence head alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


class EmotionModel(nn.Module):
    """(B, D) acoustic and (B, E) text embeddings -> (B, 2) activation and valence.

    With layers to be weighted the acoustic embedding is (B, L, D), and their softmax-weighted sum is used.

    Text reaches the valence head only: with both, text hurts activation, while valence still
    regularises the shared trunk.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        widths = [a.acoustic_width] + [a.trunk_width] * a.trunk_blocks
        self.layer_weights = nn.Parameter(torch.zeros(a.layers)) if a.layers else None
        self.trunk = nn.Sequential(*(_block(i, o, a.trunk_dropout) for i, o in itertools.pairwise(widths)))
        self.text = nn.Sequential(
            nn.Dropout(a.text_dropout), nn.LayerNorm(a.text_width), nn.Linear(a.text_width, a.trunk_width)
        )
        self.activation = _head(a.trunk_width, a.head_width, a.head_dropout)
        self.valence = _head(2 * a.trunk_width, a.head_width, a.head_dropout)

    def forward(self, acoustic: Tensor, text: Tensor) -> Tensor:
        if self.layer_weights is not None:
            acoustic = torch.einsum("l,bld->bd", self.layer_weights.softmax(dim=0), acoustic)
        trunk = self.trunk(acoustic)
        both = torch.cat([trunk, self.text(text)], dim=1)
        return torch.cat([self.activation(trunk), self.valence(both)], dim=1)

    @torch.inference_mode()
    def predict(self, acoustic: Tensor, text: Tensor, rows: int = 8192) -> Tensor:
        """(N, 2) predictions without dropout, `rows` at a time so that memory stays bounded."""
        training = self.training
        self.eval()
        parts = [self(a, t) for a, t in zip(acoustic.split(rows), text.split(rows), strict=True)]
        self.train(training)
        return torch.cat(parts)


def _block(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width_in), nn.Linear(width_in, width_out), nn.LeakyReLU(), nn.Dropout(dropout)
    )


def _head(width_in: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_block(width_in, width, dropout), nn.LayerNorm(width), nn.Linear(width, 1))
