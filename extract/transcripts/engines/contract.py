"""What a transcriber is, which options it gets, and which errors it raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ser_memory.extract.settings import WHISPER_MODEL

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform


@dataclass(frozen=True)
class Transcription:
    """What an engine returns for one recording."""

    text: str  # "" is a result: there is no speech
    language: str | None = None  # in the engine's own notation; None if it does not report one
    confidence: float | None = None  # 0 to 1, on the engine's own scale
    no_speech: float | None = None  # 0 to 1, the engine's probability that there is no speech
    status: str = "done"  # as the engine reports it


@dataclass(frozen=True)
class TranscriberOptions:
    """What the user decides about an engine; each engine uses the options that apply to it."""

    model: str = WHISPER_MODEL  # name or folder
    language: str | None = None  # None: the engine detects it
    device: str = "auto"
    batch_size: int = 16  # recordings per call of an engine on this machine
    concurrency: int = 4  # simultaneous requests to an engine elsewhere
    retry_for: float = 600.0  # seconds without any answer after which the run gives up


class Transcriber(Protocol):
    """An engine. The result for a recording does not depend on the other recordings of its batch."""

    @property
    def name(self) -> str: ...  # its key in TRANSCRIBERS
    @property
    def version(self) -> str: ...  # of everything that determines the text: model, revision, language
    @property
    def batch_size(self) -> int: ...  # recordings per call
    @property
    def concurrency(self) -> int: ...  # simultaneous calls, each from its own thread
    @property
    def paid(self) -> bool: ...  # whether transcription costs money

    def transcribe(self, waveforms: list[Waveform]) -> list[Transcription]:
        """Transcribe (samples,) float32 waveforms at 16 kHz; one Transcription each, in the same order.

        Raises TryAgainError or RefusedError, or SerError if every further call would fail too.
        """
        ...

    def close(self) -> None: ...


class TryAgainError(Exception):
    """The engine could not answer now; the same call may succeed later."""

    def __init__(self, reason: str, after: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.after = after  # seconds that the engine asks to wait, if it says so
        self.busy = busy  # the engine is overloaded: all callers should wait, not only this one


class RefusedError(Exception):
    """The engine does not accept this recording; it may accept others."""
