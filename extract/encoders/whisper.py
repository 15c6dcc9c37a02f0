"""Whisper's encoder, its states over the frames that hold speech."""

from __future__ import annotations

from typing import Any, cast

import torch

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders.contract import (
    AcousticEncoder,
    AcousticIdentity,
    EncoderOptions,
    States,
    parse_layers,
)
from ser_memory.extract.encoders.graphs import WhisperGraph
from ser_memory.extract.huggingface import config_revision, load_model


class WhisperEncoder(AcousticEncoder):
    """The encoder half of a Whisper model.

    Whisper's input is always 30 s, zero-padded, so a row cannot depend on its batch. The frames up to the
    utterance's end are pooled. Longer utterances cannot be encoded.
    """

    min_samples = 1

    def __init__(self, model: Any, feature_extractor: Any, identity: AcousticIdentity) -> None:
        super().__init__(identity)
        self._encoder = model.get_encoder()
        self._feature_extractor = feature_extractor
        # The second convolution of the encoder halves the spectrogram's frames.
        self._samples_per_frame = 2 * int(feature_extractor.hop_length)

    @classmethod
    def load(cls, name: str, device: torch.device | str, options: EncoderOptions) -> WhisperEncoder:
        """From a Hugging Face name or local folder. Raises SerError for weights that are damaged."""
        from transformers import AutoFeatureExtractor

        model = load_model(name, device)
        return cls(model, AutoFeatureExtractor.from_pretrained(name), cls.identify(name, options))

    @classmethod
    def identify(cls, name: str, options: EncoderOptions) -> AcousticIdentity:
        """From the model's configuration alone. Raises UsageError for layers that it does not have."""
        from transformers import AutoConfig, AutoFeatureExtractor

        config = AutoConfig.from_pretrained(name)
        layers = parse_layers(options.layers, config.encoder_layers, name)
        window = int(AutoFeatureExtractor.from_pretrained(name).n_samples)
        pooling = options.pooling or "mean"
        return AcousticIdentity(
            name, config_revision(config, name), layers, pooling, options.precision, window
        )

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._encoder.device)

    def graph(self) -> WhisperGraph:
        return WhisperGraph(self._encoder, self._feature_extractor, self)

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
