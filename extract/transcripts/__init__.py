"""What was said: the release's own transcripts, a file of them, or what an engine heard.

A transcriber is a function Options -> Transcriber (`contract.py`); an optional package is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable

from extract.transcripts import azure, faster_whisper, whisper
from extract.transcripts.contract import Options, Transcriber

TRANSCRIBERS: dict[str, Callable[[Options], Transcriber]] = {
    "whisper": whisper.load,
    "faster-whisper": faster_whisper.load,
    "azure": azure.load,
}

__all__ = ["TRANSCRIBERS", "Options", "Transcriber"]
