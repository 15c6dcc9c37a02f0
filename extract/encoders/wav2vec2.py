"""The wav2vec2 family (wav2vec2, HuBERT, WavLM, Data2Vec audio, ...): exact in padded batches."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders.contract import (
    EXACT,
    AcousticEncoder,
    AcousticIdentity,
    EncoderOptions,
    States,
    not_exported,
    parse_layers,
    pool,
    probe,
    relative_error,
    valid,
)
from ser_memory.extract.encoders.graphs import WaveformGraph
from ser_memory.extract.encoders.padding import Padding
from ser_memory.extract.huggingface import config_revision, load_model

# Model types of configurations whose export the tests compare with this class.
EXPORTED = {
    "data2vec-audio",
    "hubert",
    "sew",
    "sew-d",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-conformer",
    "wavlm",
}


class Wav2Vec2Encoder(AcousticEncoder):
    """A self-supervised model of raw waveforms.

    Waveforms are normalised as by the model's own feature extractor, then zero-padded to a batch, and the padding
    is hidden from the model. Whether the model is exact that way is measured before the first batch. A model that is not
    gets batches of equal length, which need no padding; if its rows depend on their batch mates there too, it gets
    one waveform at a time.
    """

    def __init__(self, model: Any, feature_extractor: Any, identity: AcousticIdentity) -> None:
        super().__init__(identity)
        self._model = model
        self._feature_extractor = feature_extractor
        self._padding = Padding(model)
        self.min_samples = _samples_of_one_frame(self._model.config)

    @classmethod
    def load(cls, name: str, device: torch.device | str, options: EncoderOptions) -> Wav2Vec2Encoder:
        """From a Hugging Face name or local folder. Raises SerError for a model of another kind or sampling rate."""
        from transformers import AutoFeatureExtractor

        feature_extractor = AutoFeatureExtractor.from_pretrained(name)
        model = load_model(name, device)
        if not _takes_waveforms(model):
            raise SerError(
                f"{name} holds a {type(model).__name__}, which does not take waveforms: give a model of the "
                "wav2vec2 family (Wav2Vec2, HuBERT, WavLM, Data2Vec audio) or Whisper."
            )
        if feature_extractor.model_input_names[:1] != ["input_values"]:
            raise SerError(
                f"{name} prepares {feature_extractor.model_input_names[0]}, and its {type(model).__name__} takes waveforms: "
                "its preprocessor_config.json is that of another model, copy the model's own into it."
            )
        if feature_extractor.sampling_rate != SAMPLING_RATE:
            raise SerError(
                f"{name} works at {feature_extractor.sampling_rate} Hz; recordings are prepared at {SAMPLING_RATE} Hz."
            )

        return cls(model, feature_extractor, cls.identify(name, options))

    @classmethod
    def identify(cls, name: str, options: EncoderOptions) -> AcousticIdentity:
        """From the model's configuration alone. Raises UsageError for layers that it does not have."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(name)
        # What has no such number is no model for speech, which loading it says.
        layers = parse_layers(options.layers, getattr(config, "num_hidden_layers", 0), name)
        return AcousticIdentity(
            name, config_revision(config, name), layers, options.pooling or "mean", options.precision
        )

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._model.device)

    @property
    def pads_exactly(self) -> bool:
        """Whether padding changes no row."""
        return self._exactness[0]

    @property
    def batches_exactly(self) -> bool:
        """Whether waveforms of equal length change no row."""
        return self._exactness[1]

    def graph(self) -> WaveformGraph:
        """Raises SerError for a type of model that no test has exported."""
        if self._model.config.model_type not in EXPORTED:
            raise not_exported(self.name, type(self._model).__name__)
        return WaveformGraph(self._model, bool(self._feature_extractor.do_normalize), self)

    def _normalise(self, waveform: Waveform) -> Waveform:
        ready = self._feature_extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="np")
        return cast(Waveform, ready["input_values"][0].astype(np.float32, copy=False))

    def _states(self, waveforms: list[Waveform]) -> list[States]:
        ready = [torch.from_numpy(self._normalise(waveform)) for waveform in waveforms]
        if len(ready) == 1 or self.pads_exactly:
            return self._padded(ready)
        groups = list(_equal_lengths(ready)) if self.batches_exactly else [[i] for i in range(len(ready))]
        parts = [self._padded([ready[i] for i in group]) for group in groups]
        order = torch.tensor([i for group in groups for i in group]).argsort()
        return [_in_order([part[layer] for part in parts], order) for layer in range(len(parts[0]))]

    def _padded(self, waveforms: list[Tensor]) -> list[States]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = pad_sequence(waveforms, batch_first=True)
        mask = None if bool((lengths == lengths[0]).all()) else valid(lengths, batch.shape[1])
        with self._padding.hidden(lengths):
            output = self._model(
                _to(self.device, batch),
                attention_mask=None if mask is None else _to(self.device, mask),
                output_hidden_states=self.layers is not None,
            )
        layers = (
            [output.last_hidden_state]
            if self.layers is None
            else [output.hidden_states[layer] for layer in self.layers]
        )
        if mask is None:  # all frames are valid, also of a model whose inner layers have fewer than its last
            return [(states, torch.full((len(states),), states.shape[1])) for states in layers]
        frames = self._padding.frames(lengths)
        return [(states, frames) for states in layers]

    @cached_property
    def _exactness(self) -> tuple[bool, bool]:
        """Whether padded and equally long batches are exact, in float32: half precision would hide it."""
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return self._measure_exactness()

    def _measure_exactness(self) -> tuple[bool, bool]:
        """Encode noise together and apart, and compare: of three lengths, with a mask, and of one length, without."""

        def pooled(batch: list[Tensor]) -> Tensor:
            return torch.stack(
                [pool(states, frames, "mean") for states, frames in self._padded(batch)], dim=1
            ).cpu()

        def is_exact(batch: list[Tensor], apart: Tensor) -> bool:
            return relative_error(pooled(batch), apart) < EXACT

        waveforms = probe()
        apart = [pooled([waveform]) for waveform in waveforms]
        *_, shortest = waveforms
        mate = waveforms[0][-len(shortest) :]
        equal = is_exact([mate, shortest], torch.cat([pooled([mate]), apart[-1]]))
        # Waveforms of one length meet in padded batches too.
        return equal and is_exact(waveforms, torch.cat(apart)), equal


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """Copy to the device; to a GPU from pinned memory, so that it still computes the previous batch meanwhile."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _in_order(groups: list[States], order: Tensor) -> States:
    """Join one layer's states of several batches into one batch, and put its rows into `order`."""
    rows = [row for states, _ in groups for row in states]
    frames = torch.cat([frames for _, frames in groups])
    return pad_sequence(rows, batch_first=True)[order], frames[order]


def _equal_lengths(waveforms: list[Tensor]) -> Iterable[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, waveform in enumerate(waveforms):
        groups.setdefault(len(waveform), []).append(index)
    return groups.values()


def _takes_waveforms(model: Any) -> bool:
    """Whether a model reads raw samples through convolutions, and has no decoder."""
    return (
        hasattr(model, "_get_feat_extract_output_lengths")
        and hasattr(model.config, "conv_kernel")
        and hasattr(model.config, "conv_stride")
        and not getattr(model.config, "is_encoder_decoder", False)
    )


def _samples_of_one_frame(config: Any) -> int:
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return int(samples)
