"""Encoders as modules of one waveform, for export to other runtimes.

A module takes (1, samples) float32 at 16 kHz and returns the row that `AcousticEncoder.encode` returns for it: (1, W), or
(1, L, W) with layers. The features, the model and the pooling over time are inside. There are no batches and no padding
to hide, and every shape follows from the number of samples, so that this number stays free in an exported graph.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_memory.extract.encoders.contract import AcousticIdentity

_VARIANCE_FLOOR = 1e-7  # the feature extractor of the wav2vec2 family adds it
_WHISPER_FLOOR, _WHISPER_RANGE = 1e-10, 8.0  # least power; decades below the loudest that are kept


class EncoderGraph(nn.Module):
    """What the modules share: which states are taken, and their pooling."""

    def __init__(self, identity: AcousticIdentity) -> None:
        super().__init__()
        self._layers, self._deviation = identity.layers, identity.pooling == "mean+std"

    def _row(self, output: Any, inside: Tensor | None = None) -> Tensor:
        """The pooled row, from what a Hugging Face model returns and the (1, T) bool frames that count."""
        if self._layers is None:
            return self._pooled(output.last_hidden_state, inside)
        return torch.stack([self._pooled(output.hidden_states[i], inside) for i in self._layers], dim=1)

    def _pooled(self, states: Tensor, inside: Tensor | None = None) -> Tensor:
        """(1, T, D) states -> (1, D) mean over time, or (1, 2D) mean and standard deviation."""
        if inside is None:
            inside = torch.ones_like(states[:, :, 0], dtype=torch.bool)
        weight = inside[:, :, None].to(states.dtype) / inside.sum()
        mean = (states * weight).sum(dim=1)
        if not self._deviation:
            return mean
        squares = (states - mean[:, None]).square()
        return torch.cat([mean, (squares * weight).sum(dim=1).sqrt()], dim=1)


class WaveformGraph(EncoderGraph):
    """A model of raw waveforms, whose feature extractor may scale them to mean 0 and variance 1."""

    def __init__(self, model: nn.Module, normalise: bool, identity: AcousticIdentity) -> None:
        super().__init__(identity)
        self._model, self._normalise = model, normalise

    def forward(self, waveform: Tensor) -> Tensor:
        if self._normalise:
            variance = waveform.var(dim=1, correction=0, keepdim=True)
            waveform = (waveform - waveform.mean(dim=1, keepdim=True)) / (variance + _VARIANCE_FLOOR).sqrt()
        return self._row(self._model(waveform, output_hidden_states=self._layers is not None))


class WhisperGraph(EncoderGraph):
    """Whisper's encoder and its log-mel features, over a waveform padded with zeros to the model's window."""

    def __init__(self, encoder: nn.Module, feature_extractor: Any, identity: AcousticIdentity) -> None:
        super().__init__(identity)
        self._encoder = encoder
        self._window, self._hop = int(feature_extractor.n_samples), int(feature_extractor.hop_length)
        self._margin = int(feature_extractor.n_fft) // 2  # mirrored at both ends, so that frames are centred
        self._power = PowerSpectrum(2 * self._margin, self._hop, 2 * self._margin)
        self.register_buffer("_bank", torch.from_numpy(feature_extractor.mel_filters).float())

    def forward(self, waveform: Tensor) -> Tensor:
        padded = F.pad(waveform, (0, self._window - waveform.shape[1]))
        power = self._power(F.pad(padded[:, None], (self._margin, self._margin), mode="reflect")[:, 0])
        mel = (self._bank.T @ power[:, :, :-1]).clamp_min(_WHISPER_FLOOR).log10()
        features = (torch.maximum(mel, mel.max() - _WHISPER_RANGE) + 4) / 4
        output = self._encoder(features, output_hidden_states=self._layers is not None)
        # The second convolution of the encoder halves the spectrogram's frames.
        frames = torch.arange(self._window // (2 * self._hop), device=waveform.device)
        return self._row(output, (frames * (2 * self._hop) < waveform.shape[1])[None])


class LogMelGraph(EncoderGraph):
    """Log-mel filter banks from the bank's (frequencies, bands) weights."""

    def __init__(
        self, bank: Tensor, window: int, hop: int, fft: int, floor: float, identity: AcousticIdentity
    ) -> None:
        super().__init__(identity)
        self._power, self._floor = PowerSpectrum(window, hop, fft), floor
        self.register_buffer("_bank", bank.cpu())

    def forward(self, waveform: Tensor) -> Tensor:
        mel = self._power(waveform).mT @ self._bank
        return self._pooled(mel.clamp_min(self._floor).log())


class PowerSpectrum(nn.Module):
    """(1, samples) -> (1, fft / 2 + 1, T) power of frames that lie completely inside, each under a Hann window.

    The Fourier transform is a convolution with its cosines and sines: runtimes differ in what transforms they have.
    """

    _cosines: Tensor
    _sines: Tensor

    def __init__(self, window: int, hop: int, fft: int) -> None:
        super().__init__()
        self._hop = hop
        turns = torch.outer(torch.arange(fft // 2 + 1), torch.arange(window)) % fft
        angle = turns.double() * (2 * math.pi / fft)
        shape = torch.hann_window(window, dtype=torch.float64)
        self.register_buffer("_cosines", (angle.cos() * shape)[:, None].float())
        self.register_buffer("_sines", (angle.sin() * shape)[:, None].float())

    def forward(self, waveform: Tensor) -> Tensor:
        signal = waveform[:, None]
        real = F.conv1d(signal, self._cosines, stride=self._hop)
        imaginary = F.conv1d(signal, self._sines, stride=self._hop)
        return real.square() + imaginary.square()
