"""Engines that transcribe recordings, by the name that `--transcriber` takes.

TRANSCRIBERS loads an engine. VERSIONS gives its version only, and loads as little as it can for that: it is needed
to compare a store with the engine when no recording is left to transcribe. Optional packages are imported by these
functions, not before.
"""

from __future__ import annotations

from collections.abc import Callable

from ser_memory.extract.transcripts.engines import azure, faster_whisper, whisper
from ser_memory.extract.transcripts.engines.contract import Transcriber, TranscriberOptions

TRANSCRIBERS: dict[str, Callable[[TranscriberOptions], Transcriber]] = {
    "whisper": whisper.load,
    "faster-whisper": faster_whisper.load,
    "azure": azure.load,
}
VERSIONS: dict[str, Callable[[TranscriberOptions], str]] = {
    "whisper": whisper.version,
    "faster-whisper": faster_whisper.version,
    "azure": azure.version,
}

__all__ = ["TRANSCRIBERS", "VERSIONS", "Transcriber", "TranscriberOptions"]
