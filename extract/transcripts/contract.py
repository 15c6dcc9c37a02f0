"""What a transcriber is, what it is told, and how it says that something went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

WHISPER_MODEL = "openai/whisper-base.en"


@dataclass(frozen=True)
class Heard:
    """What one recording was heard to say."""

    text: str  # "" is a value: nothing was said
    language: str | None = None  # as the engine names it; None when it does not tell
    confidence: float | None = None  # 0 to 1, on the engine's own scale
    no_speech: float | None = None  # 0 to 1, the engine's belief that nobody speaks
    status: str = "done"  # as the engine told it


@dataclass(frozen=True)
class Options:
    """What the user decides about an engine; each takes what concerns it."""

    model: str = WHISPER_MODEL  # name or folder
    language: str | None = None  # None: the engine finds out
    device: str = "auto"
    batch_size: int = 16  # recordings at a time, for what runs here
    concurrency: int = 4  # requests at a time, for what runs elsewhere
    retry_for: float = 600.0  # seconds without an answer after which a service is given up


class Transcriber(Protocol):
    """An engine: waveforms in, what was heard out; a row does not depend on its batch mates."""

    @property
    def name(self) -> str: ...  # its key in TRANSCRIBERS
    @property
    def version(self) -> str: ...  # of everything that determines the text: model, revision, language
    @property
    def batch_size(self) -> int: ...  # recordings per call
    @property
    def concurrency(self) -> int: ...  # calls at a time, from as many threads
    @property
    def paid(self) -> bool: ...  # whether an hour of audio costs money

    def transcribe(self, waveforms: list[Waveform]) -> list[Heard]:
        """(samples,) float32 waveforms at 16 kHz -> one Heard each, in order.

        Raises TryAgainError, RefusedError, or SerError for what no further call can mend.
        """
        ...

    def close(self) -> None: ...


class TryAgainError(Exception):
    """The engine could not answer now; the same call may be answered later."""

    def __init__(self, reason: str, after: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.after = after  # seconds the engine asks to wait, where it says
        self.busy = busy  # the engine has too much to do: every caller should wait, not this one only


class RefusedError(Exception):
    """The engine will not hear this recording; others it may."""
