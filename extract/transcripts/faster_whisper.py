"""Whisper through faster-whisper (CTranslate2): quick on a CPU; an optional package."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.extract.revisions import digest
from ser_memory.extract.transcripts.contract import Heard, Options
from ser_memory.extract.transcripts.whisper import most_tokens

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

EXTRA = "faster-whisper"
_OPENAI = "openai/whisper-"  # its checkpoints go by what follows, converted: base.en, small, ...


def load(options: Options) -> FasterWhisperTranscriber:
    """By size (base.en), Hugging Face name or folder of a converted model. Raises SerError when it cannot be."""
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise UsageError(
            f"The transcriber faster-whisper needs the package of that name: pip install 'ser-memory[{EXTRA}]'."
        ) from None
    source = options.model.removeprefix(_OPENAI)
    folder = Path(source)
    if folder.exists() and not (folder / "model.bin").exists():
        raise UsageError(
            f"{source} holds no converted Whisper model, there is no model.bin: make one with "
            "ct2-transformers-converter, or use --transcriber whisper for a folder that save_pretrained wrote."
        )
    device = options.device if options.device in ("cpu", "cuda") else "auto"
    try:
        # Its default of four threads is slower than one per core where there are fewer.
        model = WhisperModel(source, device=device, compute_type="float32", cpu_threads=_cores())
    except Exception as error:  # the hub, the converter's format and the device fail each in their way
        reason = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise SerError(
            f"The faster-whisper model {source} cannot be had ({reason}): give a size such as base.en, or the folder "
            "of a converted model, with --whisper-model."
        ) from error
    return FasterWhisperTranscriber(model, source, options.language)


def version(options: Options) -> str:
    """The version of the transcriber that `load` gives; only the loaded model tells its languages."""
    return load(options).version


class FasterWhisperTranscriber:
    """Greedy, one recording after the other; what it takes for silence is kept, and flagged by us."""

    name = "faster-whisper"
    batch_size = 1
    concurrency = 1
    paid = False

    def __init__(self, model: Any, source: str, language: str | None = None) -> None:
        self._model = model
        self._language = _checked(language, model)
        folder = Path(source)
        name = f"{folder.name} {digest(folder)}" if folder.exists() else source
        self.version = f"{name}, {self._language or 'language detected'}"

    def transcribe(self, waveforms: list[Waveform]) -> list[Heard]:
        return [self._one(waveform) for waveform in waveforms]

    def close(self) -> None:
        pass

    def _one(self, waveform: Waveform) -> Heard:
        segments, info = self._model.transcribe(
            waveform,
            language=self._language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=most_tokens(len(waveform) / 16_000),
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        parts = list(segments)
        weights = [max(1, len(part.tokens)) for part in parts]
        return Heard(
            " ".join(part.text.strip() for part in parts).strip(),
            info.language,
            math.exp(float(np.average([part.avg_logprob for part in parts], weights=weights)))
            if parts
            else None,
            min((part.no_speech_prob for part in parts), default=None),
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(language: str | None, model: Any) -> str | None:
    if language is None:
        return None if model.model.is_multilingual else "en"
    code = language.split("-")[0].lower()
    known = list(model.supported_languages)
    if code not in known:
        raise UsageError(
            f"The model does not know the language {language!r}: it knows {listing(sorted(known))}."
        )
    return code
