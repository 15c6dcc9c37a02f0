"""Whisper through faster-whisper (CTranslate2), which is fast on a CPU; an optional package."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.machine import cores
from ser_memory.extract.huggingface import digest, importable
from ser_memory.extract.transcripts.engines.contract import TranscriberOptions, Transcription
from ser_memory.extract.transcripts.engines.whisper import most_tokens

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

EXTRA = "faster-whisper"
_FILES = ("config.json", "tokenizer.json")  # without the second, it would ask the hub for another model's
_OPENAI = "openai/whisper-"  # the converted checkpoints are named by what follows: base.en, small, ...


def load(options: TranscriberOptions) -> FasterWhisperTranscriber:
    """Load a model by size (base.en), Hugging Face name or from the folder of a converted model.

    Raises SerError if the package is missing, or if the model or the language cannot be used.
    """
    try:
        with importable():
            from faster_whisper import WhisperModel
    except SerError as error:
        if importlib.util.find_spec("faster_whisper") is not None:
            raise error from None  # it is there, and something that it needs is broken
        raise UsageError(
            f"The transcriber faster-whisper needs the package faster-whisper: pip install 'ser-memory[{EXTRA}]'."
        ) from None
    source = options.model.removeprefix(_OPENAI)
    folder = Path(source)
    if folder.exists() and not (folder / "model.bin").exists():
        raise UsageError(
            f"{source} holds no converted Whisper model, there is no model.bin: make one with "
            "ct2-transformers-converter, or use --transcriber whisper for a folder that save_pretrained wrote."
        )
    absent = [name for name in _FILES if folder.exists() and not (folder / name).exists()]
    if absent:
        raise SerError(
            f"{source} lacks {absent[0]}: convert the model again with ct2-transformers-converter --copy_files "
            "tokenizer.json preprocessor_config.json, or copy the file into it."
        )
    device = options.device if options.device in ("cpu", "cuda") else "auto"
    try:
        # The default of four threads is slower than one per core if there are fewer cores.
        model = WhisperModel(source, device=device, compute_type="float32", cpu_threads=cores())
    except Exception as error:  # the hub, the format and the device raise different types of errors
        reason = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        if isinstance(error, PermissionError):
            raise SerError(
                f"There is no permission to read {error.filename or source}: ask for it."
            ) from error
        if not folder.exists() and type(error).__name__ in (
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
        ):
            raise SerError(
                f"The cache of the hub lacks the faster-whisper model {source} or a file of it, and the hub cannot be "
                "reached: download it elsewhere, and give the folder with --whisper-model."
            ) from error
        raise SerError(
            f"The faster-whisper model {source} cannot be loaded ({reason}): give a size such as base.en, or the "
            "folder of a converted model, with --whisper-model."
        ) from error
    return FasterWhisperTranscriber(model, source, options.language)


def version(options: TranscriberOptions) -> str:
    """The version of the transcriber that `load` returns; it loads the model, which alone knows its languages."""
    return load(options).version


class FasterWhisperTranscriber:
    """Greedy decoding, one recording at a time. Text on silence is not removed: `quality.flags` marks it."""

    name = "faster-whisper"
    batch_size = 1
    concurrency = 1
    paid = False

    def __init__(self, model: Any, source: str, language: str | None = None) -> None:
        self._model = model
        self._language = _check_language(language, model)
        folder = Path(source)
        name = f"{folder.name} {digest(folder)}" if folder.exists() else source
        self.version = f"{name}, {self._language or 'language detected'}"

    def transcribe(self, waveforms: list[Waveform]) -> list[Transcription]:
        return [self._one(waveform) for waveform in waveforms]

    def close(self) -> None:
        pass

    def _one(self, waveform: Waveform) -> Transcription:
        segments, info = self._model.transcribe(
            waveform,
            language=self._language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=most_tokens(len(waveform) / SAMPLING_RATE),
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        parts = list(segments)
        confidence = None
        if parts:
            weights = [max(1, len(part.tokens)) for part in parts]
            confidence = math.exp(float(np.average([part.avg_logprob for part in parts], weights=weights)))
        return Transcription(
            " ".join(part.text.strip() for part in parts).strip(),
            info.language,
            confidence,
            min((part.no_speech_prob for part in parts), default=None),
        )


def _check_language(language: str | None, model: Any) -> str | None:
    """`en` of `en` or `en-US`; None if the language is to be detected. Raises UsageError."""
    if language is None:
        return None if model.model.is_multilingual else "en"
    code = language.split("-")[0].lower()
    known = list(model.supported_languages)
    if code not in known:
        raise UsageError(
            f"The model does not know the language {language!r}: it knows {listing(sorted(known))}."
        )
    return code
