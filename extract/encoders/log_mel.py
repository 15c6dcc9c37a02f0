"""Log-mel filter banks: a baseline without pre-training."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import UsageError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders.contract import (
    AcousticEncoder,
    AcousticIdentity,
    EncoderOptions,
    States,
)
from ser_memory.extract.encoders.graphs import LogMelGraph
from ser_memory.extract.huggingface import importable
from ser_memory.extract.settings import LAST

NAME = "log-mel"
BANDS = 40
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms every 10 ms
_FLOOR = 1e-10  # of the power, so that digital silence has a finite logarithm


class LogMelEncoder(AcousticEncoder):
    """Natural logarithm of the power in 40 mel bands (HTK scale, 0 to 8 kHz), Hann windows of 25 ms every 10 ms.

    Pooled to mean and standard deviation over time by default. Raises UsageError if layers are asked for.
    """

    min_samples = _WINDOW

    def __init__(self, device: torch.device | str, options: EncoderOptions) -> None:
        with importable():
            from transformers.audio_utils import mel_filter_bank

        super().__init__(self.identify(NAME, options))
        self._device = torch.device(device)
        bank = mel_filter_bank(_FFT // 2 + 1, BANDS, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, mel_scale="htk")
        self._bank = torch.from_numpy(bank).float().to(device)  # (frequencies, BANDS)
        self._window = torch.hann_window(_WINDOW, device=device)

    @classmethod
    def load(cls, name: str, device: torch.device | str, options: EncoderOptions) -> LogMelEncoder:
        """Nothing is loaded, and `name` is `log-mel`."""
        del name
        return cls(device, options)

    @classmethod
    def identify(cls, name: str, options: EncoderOptions) -> AcousticIdentity:
        """Raises UsageError if layers are asked for."""
        if options.layers != LAST:
            raise UsageError(
                f"--layers {options.layers!r} is not possible with log-mel, which has no layers: leave it out."
            )
        return AcousticIdentity(
            name, f"{BANDS} bands", None, options.pooling or "mean+std", options.precision
        )

    @property
    def device(self) -> torch.device:
        return self._device

    def graph(self) -> LogMelGraph:
        return LogMelGraph(self._bank, _WINDOW, _HOP, _FFT, _FLOOR, self)

    def _states(self, waveforms: list[Waveform]) -> list[States]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
        # Frames that lie completely inside an utterance contain no padding.
        frames = batch.to(self._device).unfold(1, _WINDOW, _HOP) * self._window
        power = torch.fft.rfft(frames, n=_FFT).abs().square()
        return [((power @ self._bank).clamp_min(_FLOOR).log(), (lengths - _WINDOW) // _HOP + 1)]
