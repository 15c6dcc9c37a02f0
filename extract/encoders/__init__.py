"""Frozen encoders: a batch of utterances in, one pooled row each out.

A row never depends on its batch mates: it is the same as for that utterance alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ser_memory.common.errors import UsageError
from ser_memory.extract.encoders.contract import (
    EXACT,
    AcousticEncoder,
    EncoderOptions,
    TextEncoder,
    relative_error,
)
from ser_memory.extract.encoders.log_mel import LogMelEncoder
from ser_memory.extract.encoders.text import BertEncoder
from ser_memory.extract.encoders.wav2vec2 import Wav2Vec2Encoder
from ser_memory.extract.encoders.whisper import WhisperEncoder
from ser_memory.extract.huggingface import ACOUSTIC, TEXT, loading

Loader = Callable[[str, torch.device | str, EncoderOptions], AcousticEncoder]

# By a name that needs no model, or else by the model type of the configuration.
ACOUSTIC_ENCODERS: dict[str, Loader] = {
    "log-mel": lambda _, device, options: LogMelEncoder(device, options),
    "whisper": WhisperEncoder.load,
    "wav2vec2": Wav2Vec2Encoder.load,  # and all others that take waveforms
}

__all__ = [
    "ACOUSTIC_ENCODERS", "EXACT", "AcousticEncoder", "EncoderOptions", "TextEncoder", "load_acoustic", "load_text",
    "relative_error",
]  # fmt: skip


def load_acoustic(
    name: str, device: torch.device | str = "cpu", options: EncoderOptions | None = None
) -> AcousticEncoder:
    """An acoustic encoder: log-mel, or a model by Hugging Face name or local folder.

    Raises UsageError for a name or layers that do not exist; SerError if the model cannot be loaded, does not take
    speech, or gives wrong rows in `options.precision` on this device.
    """
    encoder = _load_acoustic(name, device, options or EncoderOptions())
    encoder.refuse_imprecise()
    return encoder


def load_text(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder by Hugging Face name or local folder. Raises SerError if it cannot be loaded."""
    with loading(name, TEXT):
        return BertEncoder.load(name, device)


def _load_acoustic(name: str, device: torch.device | str, options: EncoderOptions) -> AcousticEncoder:
    if name == "log-mel":
        return ACOUSTIC_ENCODERS[name](name, device, options)
    if name.lower().replace("_", "").replace("-", "") == "logmel" and not Path(name).exists():
        raise UsageError(f"There is no acoustic encoder {name!r}: did you mean log-mel?")
    with loading(name, ACOUSTIC):
        # Before the name is looked up: a package that cannot be imported is the first cause to report.
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel  # noqa: F401

        kind = AutoConfig.from_pretrained(name).model_type
        return ACOUSTIC_ENCODERS.get(kind, Wav2Vec2Encoder.load)(name, device, options)
