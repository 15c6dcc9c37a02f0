"""Whisper's encoder, its states over the frames that hold speech."""

from __future__ import annotations

from typing import Any, cast

import torch

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders.contract import AcousticEncoder, EncoderOptions, States, parse_layers
from ser_memory.extract.huggingface import load_model, revision


class WhisperEncoder(AcousticEncoder):
    """The encoder half of a Whisper model.

    Whisper's input is always 30 s, zero-padded, so a row cannot depend on its batch. The frames up to the
    utterance's end are pooled. Longer utterances cannot be encoded.
    """

    min_samples = 1

    def __init__(
        self, model: Any, feature_extractor: Any, name: str, revision: str, options: EncoderOptions
    ) -> None:
        super().__init__(options)
        self.name = name
        self.revision = revision
        self._encoder = model.get_encoder()
        self._feature_extractor = feature_extractor
        config = model.config
        self.layers = parse_layers(options.layers, config.encoder_layers, name)
        self.max_samples = int(feature_extractor.n_samples)
        # The second convolution of the encoder halves the spectrogram's frames.
        self._samples_per_frame = 2 * int(feature_extractor.hop_length)

    @classmethod
    def load(cls, name: str, device: torch.device | str, options: EncoderOptions) -> WhisperEncoder:
        """From a Hugging Face name or local folder. Raises SerError for weights that are damaged."""
        from transformers import AutoFeatureExtractor

        model = load_model(name, device)
        return cls(model, AutoFeatureExtractor.from_pretrained(name), name, revision(model, name), options)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._encoder.device)

    def _states(self, waveforms: list[Waveform]) -> list[States]:
        with torch.autocast("cpu", enabled=False):  # the spectrogram is computed here, and in float32
            spectrogram = self._feature_extractor(waveforms, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        output = self._encoder(
            spectrogram.input_features.to(self.device), output_hidden_states=self.layers is not None
        )
        frames = torch.tensor([-(-len(waveform) // self._samples_per_frame) for waveform in waveforms])
        if self.layers is None:
            return [(output.last_hidden_state, frames)]
        return [(output.hidden_states[layer], frames) for layer in self.layers]
