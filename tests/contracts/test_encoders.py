"""Every acoustic and text encoder: a batched row is what the utterance alone would get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

from extract.audio import SAMPLING_RATE, Waveform
from extract.encoders import EXACT, AcousticEncoder, TextEncoder, relative_error
from tests.models import ACOUSTIC, save_acoustic, save_text

# Padding within the batch for these; the others fall back to batches of equal length.
PADDED = set(ACOUSTIC) - {"sew"}
SECONDS = (3.0, 4.123, 7.7, 30.0, 12.0213)
TEXTS = ["", "it was a good day", "awful", "so very very not lovely " * 30, "the late day is bad and unheard"]


def waveforms() -> list[Waveform]:
    """Noise of 3 to 30 s whose level and colour change over time, as speech does."""
    random = np.random.default_rng(5)
    made = []
    for seconds in SECONDS:
        n = int(seconds * SAMPLING_RATE)
        envelope = np.interp(np.arange(n), np.linspace(0, n, 12), random.uniform(0.01, 1.0, 12))
        made.append((envelope * random.standard_normal(n)).astype(np.float32))
    return made


@torch.no_grad()
def one_at_a_time(folder: str, batch: list[Waveform]) -> np.ndarray:
    """What Hugging Face gives without any of our code."""
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for waveform in batch:
        values = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_values
        rows.append(model(values).last_hidden_state[0].mean(dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("kind", ACOUSTIC)
def test_a_batched_acoustic_row_is_exact(kind: str, tmp_path: Path) -> None:
    folder = save_acoustic(tmp_path, kind)
    batch = waveforms()
    encoder = AcousticEncoder.from_pretrained(folder)
    rows = encoder.encode(batch)
    error = relative_error(rows, one_at_a_time(folder, batch))
    print(f"{kind}: largest relative error {error:.1e}")
    assert error < EXACT
    assert encoder.pads_exactly == (kind in PADDED)
    assert rows.dtype == np.float32
    assert rows.shape == (len(batch), 32)


def test_plain_padding_would_not_be_exact(tmp_path: Path) -> None:
    """The check above can fail: Hugging Face's own padded batch is far off."""
    folder = save_acoustic(tmp_path, "wav2vec2 with group norm")
    batch = waveforms()
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    padded = extractor(batch, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model(padded.input_values).last_hidden_state.mean(dim=1).numpy()
    assert relative_error(rows, one_at_a_time(folder, batch)) > 1e-2


@pytest.mark.parametrize("kind", sorted(PADDED))
def test_the_shortest_utterance_has_a_row(kind: str, tmp_path: Path) -> None:
    encoder = AcousticEncoder.from_pretrained(save_acoustic(tmp_path, kind))
    random = np.random.default_rng(0)
    short = random.standard_normal(encoder.min_samples).astype(np.float32)
    long = random.standard_normal(5000).astype(np.float32)
    assert np.isfinite(encoder.encode([short])).all()
    assert relative_error(encoder.encode([long, short])[1:], encoder.encode([short])) < EXACT


def test_silence_has_a_finite_row(tmp_path: Path) -> None:
    encoder = AcousticEncoder.from_pretrained(save_acoustic(tmp_path, "wav2vec2 with group norm"))
    assert np.isfinite(encoder.encode([np.zeros(48_000, np.float32), np.ones(60_000, np.float32)])).all()


def test_a_batched_text_row_is_exact(tmp_path: Path) -> None:
    folder = save_text(tmp_path)
    rows = TextEncoder.from_pretrained(folder).encode(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    alone = []
    with torch.no_grad():
        for text in TEXTS:
            tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            alone.append(model(**tokens).last_hidden_state[0, 0].numpy())
    error = relative_error(rows, np.stack(alone))
    print(f"bert: largest relative error {error:.1e}")
    assert error < EXACT
    assert rows.shape == (len(TEXTS), 32)


def test_revisions_tell_weights_apart(tmp_path: Path) -> None:
    revisions = [
        AcousticEncoder.from_pretrained(save_acoustic(tmp_path / str(i), "hubert", seed)).revision
        for i, seed in enumerate((0, 0, 1))
    ]
    assert revisions[0] == revisions[1] != revisions[2]
