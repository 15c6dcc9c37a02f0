"""Frozen encoders: a batch of utterances in, one pooled row each out.

A row never depends on its batch mates: it agrees with inference on that utterance alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ser_memory.common.errors import UsageError
from ser_memory.extract.encoders.contract import (
    EXACT,
    POOLINGS,
    PRECISIONS,
    AcousticEncoder,
    Options,
    TextEncoder,
    relative_error,
)
from ser_memory.extract.encoders.log_mel import LogMelEncoder
from ser_memory.extract.encoders.text import BertEncoder
from ser_memory.extract.encoders.wav2vec2 import Wav2Vec2Encoder
from ser_memory.extract.encoders.whisper import WhisperEncoder
from ser_memory.extract.huggingface import ACOUSTIC, TEXT, loading

Loader = Callable[[str, torch.device | str, Options], AcousticEncoder]

# By what stands in for a model's name, or else by the model type of its configuration.
ACOUSTIC_ENCODERS: dict[str, Loader] = {
    "log-mel": lambda _, device, options: LogMelEncoder(device, options),
    "whisper": WhisperEncoder.load,
    "wav2vec2": Wav2Vec2Encoder.load,  # and all others that take waveforms
}

__all__ = [
    "ACOUSTIC_ENCODERS", "EXACT", "POOLINGS", "PRECISIONS",
    "AcousticEncoder", "Options", "TextEncoder", "load_acoustic", "load_text", "relative_error",
]  # fmt: skip


def load_acoustic(
    name: str, device: torch.device | str = "cpu", options: Options | None = None
) -> AcousticEncoder:
    """An acoustic encoder: log-mel, or a model by Hugging Face name or local folder.

    Raises SerError when it cannot be loaded or does not take speech.
    """
    options = options or Options()
    if name == "log-mel":  # no model, so there is no configuration to ask
        return ACOUSTIC_ENCODERS[name](name, device, options)
    if name.lower().replace("_", "").replace("-", "") == "logmel" and not Path(name).exists():
        raise UsageError(f"There is no acoustic encoder {name!r}: did you mean log-mel?")
    from transformers import AutoConfig

    with loading(name, ACOUSTIC):
        kind = AutoConfig.from_pretrained(name).model_type
        return ACOUSTIC_ENCODERS.get(kind, Wav2Vec2Encoder.load)(name, device, options)


def load_text(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder by Hugging Face name or local folder. Raises SerError when it cannot be loaded."""
    with loading(name, TEXT):
        return BertEncoder.load(name, device)
