"""Windows of any recordings are transcribed; what is paid for is kept, and what is free leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError
from ser_memory.extract.recordings import Bounds, Recording
from ser_memory.extract.settings import EngineSettings
from ser_memory.extract.transcripts.recordings import WindowTranscriber
from ser_memory.extract.transcripts.sources import Sources
from tests.azure_server import KEY, Azure, serving
from tests.models import save_whisper

BOUNDS = Bounds(1.0, 4.0)


def recordings() -> dict[int, Recording]:
    random = np.random.default_rng(0)
    sounds = {1: 3, 4: 7}  # place -> seconds
    return {
        place: Recording(str(place), random.normal(0, 0.1, seconds * SAMPLING_RATE).astype(np.float32))
        for place, seconds in sounds.items()
    }


def test_what_is_paid_is_never_paid_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.ai.transcription")
    with serving(Azure()) as server:
        monkeypatch.setenv("AZURE_SPEECH_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AZURE_SPEECH_API_KEY", KEY)
        paying = EngineSettings(language="en-US", price_per_hour=1.0, yes=True)
        sources = Sources.of("azure", paying, "ser-predict", tmp_path, "cpu")
        first = WindowTranscriber(sources).transcribe(recordings(), 10.0, BOUNDS)
        assert [len(first[place]) for place in (1, 4)] == [1, 2]
        assert len(server.requests) == 3
        assert WindowTranscriber(sources).transcribe(recordings(), 10.0, BOUNDS) == first
        assert len(server.requests) == 3
        dear = replace(sources, spending=replace(sources.spending, most=1e-4))
        with pytest.raises(SerError, match="would exceed --max-cost"):
            WindowTranscriber(dear).transcribe(recordings(), 10.0, BOUNDS)


def test_what_is_free_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_whisper(tmp_path / "whisper")
    cache = tmp_path / "cache"
    sources = Sources.of("whisper", EngineSettings(whisper_model=model), "ser-predict", cache, "cpu")
    broken = {**recordings(), 7: Recording("7", tmp_path / "absent.wav")}
    texts = WindowTranscriber(sources).transcribe(broken, 10.0, BOUNDS)
    assert [len(texts[place]) for place in (1, 4, 7)] == [1, 2, 0]
    assert all(texts[4])
    assert not cache.exists()
