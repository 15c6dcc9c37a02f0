"""Frozen encoders: a batch of utterances in, one pooled row each out.

A row is that of its utterance alone: on a CPU to the bit, where utterances are encoded one by one; in a batch of a
GPU to rounding (1e-6), which depends on the batch mates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from ser_memory.common.errors import UsageError
from ser_memory.extract.encoders.contract import (
    EXACT,
    AcousticEncoder,
    AcousticIdentity,
    EncoderOptions,
    TextEncoder,
    TextIdentity,
    relative_error,
)
from ser_memory.extract.encoders.log_mel import NAME, LogMelEncoder
from ser_memory.extract.encoders.text import BertEncoder
from ser_memory.extract.encoders.wav2vec2 import Wav2Vec2Encoder
from ser_memory.extract.encoders.whisper import WhisperEncoder
from ser_memory.extract.huggingface import ACOUSTIC, TEXT, loading


class Kind(Protocol):
    """A class of acoustic encoders."""

    def load(self, name: str, device: torch.device | str, options: EncoderOptions) -> AcousticEncoder:
        """The encoder, ready to compute."""

    def identify(self, name: str, options: EncoderOptions) -> AcousticIdentity:
        """What the loaded encoder would determine of a cache, without its weights."""


# By a name that needs no model, or else by the model type of the configuration.
ACOUSTIC_ENCODERS: dict[str, Kind] = {
    NAME: LogMelEncoder,
    "whisper": WhisperEncoder,
    "wav2vec2": Wav2Vec2Encoder,  # and all others that take waveforms
}

__all__ = [
    "ACOUSTIC_ENCODERS", "EXACT", "AcousticEncoder", "AcousticIdentity", "EncoderOptions", "TextEncoder",
    "TextIdentity", "identify_acoustic", "identify_text", "load_acoustic", "load_text", "relative_error",
]  # fmt: skip


def load_acoustic(
    name: str, device: torch.device | str = "cpu", options: EncoderOptions | None = None
) -> AcousticEncoder:
    """An acoustic encoder: log-mel, or a model by Hugging Face name or local folder.

    Raises UsageError for a name or layers that do not exist; SerError if the model cannot be loaded, does not take
    speech, or gives wrong rows in `options.precision` on this device.
    """
    with _kind_of(name) as kind:
        encoder = kind.load(name, device, options or EncoderOptions())
    encoder.refuse_imprecise()
    return encoder


def identify_acoustic(name: str, options: EncoderOptions | None = None) -> AcousticIdentity:
    """What `load_acoustic` would give, without its weights: from the configuration, and the files of a local folder.

    Raises UsageError for a name or layers that do not exist; SerError if the configuration cannot be read.
    """
    with _kind_of(name) as kind:
        return kind.identify(name, options or EncoderOptions())


def load_text(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder by Hugging Face name or local folder. Raises SerError if it cannot be loaded."""
    with loading(name, TEXT):
        return BertEncoder.load(name, device)


def identify_text(name: str) -> TextIdentity:
    """What `load_text` would give, without its weights. Raises SerError if the configuration cannot be read."""
    with loading(name, TEXT):
        return BertEncoder.identify(name)


@contextmanager
def _kind_of(name: str) -> Iterator[Kind]:
    """The class for a name or a model; every error of the block becomes one sentence."""
    if name == NAME:
        yield ACOUSTIC_ENCODERS[name]
        return
    if name.lower().replace("_", "").replace("-", "") == "logmel" and not Path(name).exists():
        raise UsageError(f"There is no acoustic encoder {name!r}: did you mean log-mel?")
    with loading(name, ACOUSTIC):
        # Before the name is looked up: a package that cannot be imported is the first cause to report.
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel  # noqa: F401

        yield ACOUSTIC_ENCODERS.get(AutoConfig.from_pretrained(name).model_type, Wav2Vec2Encoder)
