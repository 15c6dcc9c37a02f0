"""Hides the zero padding of a batch from a wav2vec2-like model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ser_memory.extract.encoders.contract import valid


class Padding:
    """Closes two of the three ways by which padding changes valid frames.

    A group norm over time computes its statistics over the valid frames only. Position convolutions get zeros
    beyond the end, as for the utterance alone. The third way is attention, which the model masks itself. Several
    threads may run the model at the same time, each with its own batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._batch = threading.local()  # .lengths: samples of each waveform of this thread's batch
        for index, layer in enumerate(getattr(getattr(model, "feature_extractor", None), "conv_layers", ())):
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                layer.layer_norm = _ValidFramesGroupNorm(norm, partial(self._frames_after, index))
        positions = getattr(getattr(model, "encoder", None), "pos_conv_embed", None)
        for module in positions.modules() if positions is not None else ():
            if isinstance(module, nn.Conv1d):
                module.register_forward_pre_hook(self._silence_padding)

    @contextmanager
    def hidden(self, lengths: Tensor) -> Iterator[None]:
        """While a batch of waveforms of these (B,) lengths, in samples, runs through the model."""
        self._batch.lengths = lengths
        try:
            yield
        finally:
            self._batch.lengths = None

    def frames(self, lengths: Tensor) -> Tensor:
        """Samples -> frames of the last hidden states, both (B,); an adapter of the model makes them fewer."""
        return cast(Tensor, self._model._get_feat_extract_output_lengths(lengths)).long()

    def _frames_after(self, depth: int) -> list[int] | None:
        """Valid frames after convolution `depth` of the front end; None outside a batch."""
        lengths: Tensor | None = getattr(self._batch, "lengths", None)
        return None if lengths is None else self._front_end(lengths, depth + 1).tolist()

    def _front_end(self, frames: Tensor, depth: int | None = None) -> Tensor:
        """Samples -> frames after the first `depth` convolutions of the front end, or after all of them."""
        config = self._model.config
        for kernel, stride in list(zip(config.conv_kernel, config.conv_stride, strict=True))[:depth]:
            frames = (frames - kernel) // stride + 1
        return frames

    def _silence_padding(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Zero (B, C, T) states beyond each utterance's end, as the convolution's own padding would be."""
        lengths: Tensor | None = getattr(self._batch, "lengths", None)
        if lengths is None or bool((lengths == lengths[0]).all()):
            return None  # there is no padding
        states = inputs[0]
        inside = valid(self._front_end(lengths), states.shape[-1]).to(states.device)
        return (states * inside[:, None, :].to(states.dtype), *inputs[1:])


class _ValidFramesGroupNorm(nn.Module):
    """A group norm over time with statistics of each row's valid frames only.

    Each row goes through the model's own norm, so the result is that of the utterance alone, to the last bit.
    Beyond the valid frames the output is zero.
    """

    def __init__(self, norm: nn.GroupNorm, valid_frames: Callable[[], list[int] | None]) -> None:
        super().__init__()
        self.norm = norm
        self._valid_frames = valid_frames

    def forward(self, states: Tensor) -> Tensor:  # (B, C, T)
        frames = self._valid_frames()
        if frames is None or min(frames) == states.shape[-1]:
            return cast(Tensor, self.norm(states))
        normed = torch.zeros_like(states, dtype=torch.float32)
        for row, n in enumerate(frames):
            normed[row : row + 1, :, :n] = self.norm(states[row : row + 1, :, :n])
        return normed
