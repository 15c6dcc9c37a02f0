"""What was said: the release's own transcripts, a file of them, or what an engine heard.

A transcriber is a function Options -> Transcriber (`contract.py`), and one Options -> its version, which is asked of a
store that needs no hearing and so loads as little as it can. An optional package is imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable

from ser_memory.extract.transcripts import azure, faster_whisper, whisper
from ser_memory.extract.transcripts.contract import Options, Transcriber

TRANSCRIBERS: dict[str, Callable[[Options], Transcriber]] = {
    "whisper": whisper.load,
    "faster-whisper": faster_whisper.load,
    "azure": azure.load,
}
VERSIONS: dict[str, Callable[[Options], str]] = {
    "whisper": whisper.version,
    "faster-whisper": faster_whisper.version,
    "azure": azure.version,
}

__all__ = ["TRANSCRIBERS", "VERSIONS", "Options", "Transcriber"]
