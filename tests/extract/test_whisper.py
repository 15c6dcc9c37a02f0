"""A small Whisper of the real class: windows, languages, limits and flags."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, VERSIONS, TranscriberOptions
from ser_memory.extract.transcripts.engines.whisper import WhisperTranscriber, load
from ser_memory.extract.transcripts.quality.flags import (
    FEW_WORDS,
    ON_SILENCE,
    REPETITION,
    flags,
    is_repetitive,
)
from ser_memory.extract.windows import windows
from tests.models import save_text, save_whisper


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


def noise(seconds: float, seed: int = 0) -> Waveform:
    random = np.random.default_rng(seed)
    n = int(seconds * SAMPLING_RATE)
    envelope = np.interp(np.arange(n), np.linspace(0, n, 9), random.uniform(0.01, 1, 9))
    return (0.1 * envelope * random.standard_normal(n)).astype(np.float32)


def whisper(model: str, **options: Any) -> WhisperTranscriber:
    return load(TranscriberOptions(model=model, device="cpu", **options))


@torch.inference_mode()
def test_the_text_is_what_transformers_gives(multilingual: str) -> None:
    processor = WhisperProcessor.from_pretrained(multilingual)
    model = WhisperForConditionalGeneration.from_pretrained(multilingual).eval()
    for seed in range(3):
        values = processor(noise(4, seed), sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features
        tokens = model.generate(values, language="de", task="transcribe", do_sample=False, max_new_tokens=56)
        (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
        assert text.strip()
        (transcription,) = whisper(multilingual, language="de").transcribe([noise(4, seed)])
        assert transcription.text == text.strip()


@torch.inference_mode()
def test_confidence_is_the_tokens_geometric_mean(multilingual: str) -> None:
    processor = WhisperProcessor.from_pretrained(multilingual)
    model = WhisperForConditionalGeneration.from_pretrained(multilingual).eval()
    values = processor(noise(4), sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features
    made = model.generate(
        values, language="en", task="transcribe", do_sample=False, max_new_tokens=56,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    chosen = [float(scores.log_softmax(-1).max()) for scores in made.scores]
    (transcription,) = whisper(multilingual, language="en").transcribe([noise(4)])
    assert transcription.confidence == pytest.approx(np.exp(np.mean(chosen)), rel=1e-4)


def test_a_language_is_fixed_or_found(multilingual: str, tmp_path: Path) -> None:
    found = {
        each.language for each in whisper(multilingual).transcribe([noise(3, seed) for seed in range(3)])
    }
    assert found <= {"en", "de", "fr"}
    fixed = whisper(multilingual, language="de-AT")
    assert [each.language for each in fixed.transcribe([noise(3)])] == ["de"]
    assert whisper(multilingual).version.endswith(", language detected")
    assert fixed.version.endswith(", de")
    with pytest.raises(UsageError, match="does not know the language 'ja': it knows de, en, fr"):
        whisper(multilingual, language="ja")
    english = save_whisper(tmp_path / "english", multilingual=False)
    assert whisper(english).version.endswith(", en")
    assert whisper(english).transcribe([noise(3)])[0].language == "en"
    with pytest.raises(UsageError, match="it knows en"):
        whisper(english, language="de")


class TestAnOlderCheckpoint:
    """Its generation configuration does not say whether the model is multilingual."""

    KEYS = ("is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id")

    def strip(self, model: str | Path, keys: tuple[str, ...], forced: list[str]) -> str:
        """Remove keys, and force the tokens of a prompt as older configurations do."""
        path = Path(model) / "generation_config.json"
        settings = {key: value for key, value in json.loads(path.read_text()).items() if key not in keys}
        numbers = WhisperProcessor.from_pretrained(model).tokenizer.get_vocab()
        settings["forced_decoder_ids"] = [[i, numbers[token]] for i, token in enumerate(forced, start=1)]
        path.write_text(json.dumps(settings))
        return str(model)

    @pytest.mark.parametrize("keys", [KEYS[:1], KEYS])
    def test_a_multilingual_one(
        self, keys: tuple[str, ...], multilingual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ser_memory.extract.transcripts.engines.whisper._MULTILINGUAL_VOCABULARY", 100)
        older = shutil.copytree(multilingual, tmp_path / "older")
        self.strip(older, keys, ["<|en|>", "<|transcribe|>", "<|notimestamps|>"])
        recordings = [noise(3, seed) for seed in range(3)]
        for language in (None, "de"):
            expected = whisper(multilingual, language=language)
            transcriber = whisper(str(older), language=language)
            assert transcriber.transcribe(recordings) == expected.transcribe(recordings)
            assert transcriber.version.split(", ")[1] == expected.version.split(", ")[1]
            options = TranscriberOptions(model=str(older), language=language)
            assert VERSIONS["whisper"](options) == transcriber.version

    def test_one_of_english_alone(self, tmp_path: Path) -> None:
        english = save_whisper(tmp_path / "english", multilingual=False)
        expected = whisper(english).transcribe([noise(3)])
        transcriber = whisper(self.strip(english, self.KEYS[:3], ["<|notimestamps|>"]))
        assert transcriber.transcribe([noise(3)]) == expected
        assert transcriber.version.endswith(", en")


def test_a_long_recording_is_cut_where_it_is_quiet(multilingual: str) -> None:
    long = np.concatenate([noise(8, 1), np.zeros(8_000, np.float32), noise(6, 2)])
    first, second = windows([long], 160_000)
    assert abs(len(first) - 132_000) <= 4_000
    assert np.array_equal(np.concatenate([first, second]), long)
    transcriber = whisper(multilingual, language="en")
    texts = [each.text for each in transcriber.transcribe([first, second])]
    assert transcriber.transcribe([long])[0].text == " ".join(texts)


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no Whisper model"):
        whisper(str(tmp_path / "empty"))
    with pytest.raises(SerError, match="holds a bert model: give --whisper-model a Whisper model"):
        whisper(save_text(tmp_path / "bert"))
    save_whisper(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SerError, match=r"The weights of .* cannot be read"):
        whisper(str(tmp_path / "cut"))
    # A model without a tokenizer, and one with the tokenizer of another model.
    save_whisper(tmp_path / "mute")
    english = Path(save_whisper(tmp_path / "english", multilingual=False))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(english / name, tmp_path / "cut" / name)
        (tmp_path / "mute" / name).unlink()
    shutil.copy(tmp_path / "mute" / "model.safetensors", weights)
    for folder in ("mute", "cut"):
        with pytest.raises(SerError, match="has no tokenizer, or that of another model"):
            whisper(str(tmp_path / folder))


def test_damaged_weights(tmp_path: Path) -> None:
    model = WhisperForConditionalGeneration.from_pretrained(save_whisper(tmp_path))
    with torch.no_grad():
        model.model.encoder.conv1.bias[3] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(SerError, match=r"weights that are not finite, model\.encoder\.conv1\.bias"):
        whisper(str(tmp_path))
    WhisperForConditionalGeneration(model.config).model.encoder.save_pretrained(tmp_path)
    with pytest.raises(SerError, match="lacks weights of a WhisperForConditionalGeneration"):
        whisper(str(tmp_path))


def test_a_name_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SerError, match="--whisper-model FOLDER"):
        whisper("someone/some-whisper")


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [("azure", "azure.ai.transcription", "azure"), ("faster-whisper", "faster_whisper", "faster-whisper")],
)
def test_an_absent_package_is_named(
    engine: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith(module):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setenv("AZURE_SPEECH_ENDPOINT", "https://x.example")
    monkeypatch.setenv("AZURE_SPEECH_API_KEY", "k")
    with pytest.raises(UsageError, match=rf"pip install 'ser-memory\[{extra}\]'"):
        TRANSCRIBERS[engine](TranscriberOptions())


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        ("no, no, no, no", False),
        ("I know, I know, I know what you mean, I know", False),
        ("thank you. Thank you. Thank you. Thank you.", True),
        ("so we went and we went and we went and we went and home", True),
        ("you " * 30, True),
        ("Kids are talking by the door.", False),
        (
            "the quick brown fox jumps over the lazy dog while seven wizards mix a potion of unusual strength",
            False,
        ),
    ],
)
def test_loops(text: str, loop: bool) -> None:
    assert is_repetitive(text) == loop


def test_flags() -> None:
    silence, speech = np.zeros(48_000, np.float32), noise(5)
    text = "that is what she said to me"
    assert flags(text, speech) == ()
    assert flags("", silence) == flags("  ", speech) == ()
    assert flags(text, silence) == flags(text, 1e-3 * speech) == (ON_SILENCE,)
    assert flags(text, speech, no_speech=0.9, confidence=0.2) == (ON_SILENCE,)
    assert flags(text, speech, no_speech=0.9, confidence=0.8) == ()
    assert flags("well", noise(12)) == (FEW_WORDS,)
    assert flags("well", np.concatenate([noise(1), np.zeros(160_000, np.float32)])) == ()
    assert flags("thank you " * 8, silence) == (REPETITION, ON_SILENCE)
    assert flags("hm", np.zeros(0, np.float32)) == (ON_SILENCE,)
