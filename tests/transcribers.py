"""Builders of every registered transcriber for the contract tests: name -> builder of its options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ser_memory.extract.transcripts.engines import TranscriberOptions
from tests.azure_server import KEY, Azure, serving
from tests.models import save_whisper


@contextmanager
def azure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TranscriberOptions]:
    pytest.importorskip("azure.ai.transcription")
    with serving(Azure()) as server:
        server.register({path.stem: path for path in folder.parent.rglob("*.flac")})
        monkeypatch.setenv("AZURE_SPEECH_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AZURE_SPEECH_API_KEY", KEY)
        yield TranscriberOptions(language="en-US")


@contextmanager
def whisper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TranscriberOptions]:
    yield TranscriberOptions(model=save_whisper(folder), device="cpu")


@contextmanager
def faster_whisper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TranscriberOptions]:
    pytest.importorskip("faster_whisper")
    spare_threads(monkeypatch)
    yield TranscriberOptions(model=save_converted(folder), device="cpu")


def spare_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread: CTranslate2 also sets how many torch has, for all tests that follow."""
    monkeypatch.setattr("ser_memory.extract.transcripts.engines.faster_whisper.cores", lambda: 1)


def save_converted(folder: Path) -> str:
    """A small Whisper in the format of faster-whisper, which only supports windows of 30 s."""
    from ctranslate2.converters import TransformersConverter

    save_whisper(folder / "original", seconds=30, tokens=448)
    converter = TransformersConverter(str(folder / "original"), copy_files=["tokenizer.json"])
    return str(converter.convert(str(folder / "converted")))


BUILDERS: dict[str, Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[TranscriberOptions]]] = {
    "azure": azure,
    "whisper": whisper,
    "faster-whisper": faster_whisper,
}
