"""Simulated releases: reproducible, in the true layouts, and with something to learn in them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_memory.common import manifests
from ser_memory.common.conventions import SAMPLING_RATE, UNKNOWN
from ser_memory.common.errors import UsageError
from ser_memory.extract.corpora import Utterance, read_release
from ser_memory.extract.simulation import plan, write_encoders, write_releases
from ser_memory.extract.simulation.rooms import HALL, STAGE, STUDIO, Environment, between, place
from ser_memory.extract.simulation.voice import Array, Audio, Gender, Speaker, speak, syllables
from ser_memory.extract.simulation.words import COMMON, FLAVOURS, sentence, vocabulary

SMALL = 0.01
CORPORA = ("msp-podcast", "msp-improv", "iemocap")


def _files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def _read(root: Path, corpus: str) -> list[Utterance]:
    manifest = manifests.load(corpus)
    return read_release(root / corpus, manifest)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("releases")
    write_releases(root, SMALL)
    return root


def test_the_plan_is_what_is_written(tmp_path: Path) -> None:
    calls: list[None] = []
    written = write_releases(tmp_path, SMALL, on_turn=lambda: calls.append(None))
    assert written == len(calls) == sum(len(release.turns) for release in plan(SMALL))


def test_same_scale_same_bytes(releases: Path, tmp_path: Path) -> None:
    write_releases(tmp_path, SMALL)
    assert _files(tmp_path) == _files(releases)


def test_the_usual_size() -> None:
    assert {release.name: len(release.turns) for release in plan()} == {
        "msp-podcast": 1030,
        "msp-improv": 540,
        "iemocap": 550,
    }


def test_ids_are_unique_and_speakers_keep_to_one_split() -> None:
    for release in plan():
        assert len({turn.id for turn in release.turns}) == len(release.turns)
    podcast = plan()[0]
    homes = {(turn.speaker, turn.group) for turn in podcast.turns if turn.speaker != UNKNOWN}
    assert len({speaker for speaker, _ in homes}) == len(homes)


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "iemocap").mkdir()
    with pytest.raises(UsageError, match="iemocap exists"):
        write_releases(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["iemocap"]


def test_the_layouts_have_their_files(releases: Path) -> None:
    for name in (
        "msp-podcast/Labels/labels_consensus.csv",
        "msp-podcast/Audios/MSP-PODCAST_0000_0000.wav",
        "msp-podcast/Transcripts/MSP-PODCAST_0000_0000.txt",
        "msp-improv/Evalution.txt",
        "iemocap/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
        "iemocap/Session5/dialog/EmoEvaluation/Ses05F_impro01.txt",
        "iemocap/Session5/dialog/EmoEvaluation/._Ses05F_impro01.txt",
        "iemocap/Session5/dialog/transcriptions/Ses05F_impro01.txt",
    ):
        assert (releases / name).is_file(), name


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_readers_read_what_was_meant(releases: Path, corpus: str) -> None:
    planned = {turn.id: turn for release in plan(SMALL) if release.name == corpus for turn in release.turns}
    read = _read(releases, corpus)
    assert {utterance.id for utterance in read} == set(planned)
    assert {"train", "validation", "test"} <= {utterance.split for utterance in read}
    for utterance in read:
        turn = planned[utterance.id]
        assert utterance.speaker == turn.speaker
        assert utterance.gender == turn.voice.gender
        assert utterance.audio == (releases / corpus / turn.wav if turn.trap != "no recording" else None)
    assert sum(utterance.transcript is not None for utterance in read) >= 0.9 * len(read)


def test_the_podcast_has_its_traps(releases: Path) -> None:
    read = _read(releases, "msp-podcast")
    assert {utterance.split for utterance in read} == {"train", "validation", "test", "test2", "test3"}
    assert any(utterance.speaker == UNKNOWN for utterance in read)
    assert all(np.isnan(utterance.activation) == (utterance.split == "test3") for utterance in read)
    assert any(utterance.transcript is None for utterance in read)
    assert sum(utterance.audio is None for utterance in read) == 1
    durations, rates, unreadable = [], [], 0
    for path in (utterance.audio for utterance in read if utterance.audio is not None):
        try:
            header = soundfile.info(path)
        except soundfile.LibsndfileError:
            unreadable += 1
            continue
        durations.append(header.duration)
        rates.append((header.samplerate, header.channels))
    assert unreadable == 1
    assert Counter(rates)[(44_100, 2)] == 1
    assert sum(seconds > 30.0 for seconds in durations) == 1
    assert sum(seconds < 3.0 for seconds in durations) == 1


def test_improv_stores_activation_from_high_to_low(releases: Path) -> None:
    first = _read(releases, "msp-improv")[0]
    header = (releases / "msp-improv/Evalution.txt").read_text(encoding="utf-8").splitlines()[0]
    stored = float(header.split("A:")[1].split(";")[0])
    assert first.activation == pytest.approx(6.0 - stored)


def test_two_raters_of_iemocap_average_in_halves(releases: Path) -> None:
    for utterance in _read(releases, "iemocap"):
        assert (2.0 * utterance.activation).is_integer()
        assert 1.0 <= utterance.activation <= 5.0


def _level(audio: Audio) -> float:
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))


def _pitch(audio: Audio) -> float:
    """Hz: the median over frames of the highest peak of the cepstrum between 60 and 400 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::512] * np.hanning(1024)
    loud = frames[frames.std(axis=1) > frames.std()]
    cepstrum: Array = np.fft.irfft(np.log(np.abs(np.fft.rfft(loud)) + 1e-6))
    shortest, longest = SAMPLING_RATE // 400, SAMPLING_RATE // 60
    lags = shortest + cepstrum[:, shortest:longest].argmax(axis=1)
    return SAMPLING_RATE / float(np.median(lags))


def _say(gender: Gender, activation: float, seed: int = 0) -> Audio:
    speaker = Speaker.draw(gender, np.random.default_rng(seed))
    words = "we really love this wonderful place and hope you know it"
    return speak(words, speaker, activation, 0.0, np.random.default_rng(seed))


@pytest.mark.parametrize("gender", ["Female", "Male"])
def test_an_active_voice_is_louder_higher_and_quicker(gender: Gender) -> None:
    calm, active = _say(gender, -1.0), _say(gender, 1.0)
    assert calm.dtype == np.float32
    assert _level(active) > 2.0 * _level(calm)
    assert _pitch(active) > 1.2 * _pitch(calm)
    assert len(active) < 0.9 * len(calm)


def test_speakers_differ() -> None:
    assert _pitch(_say("Female", 0.0)) > 1.3 * _pitch(_say("Male", 0.0))
    assert not np.array_equal(
        _say("Male", 0.0, seed=1)[:SAMPLING_RATE], _say("Male", 0.0, seed=2)[:SAMPLING_RATE]
    )


def test_a_sentence_lasts_as_long_as_planned() -> None:
    rng = np.random.default_rng(0)
    for activation in (-1.0, 0.0, 1.0):
        speaker = Speaker.draw("Male", rng)
        words = sentence(0.0, rng, "podcast", 4.0 * speaker.pace_at(activation))
        assert len(speak(words, speaker, activation, 0.0, rng)) / SAMPLING_RATE == pytest.approx(4.0, abs=0.8)


@pytest.mark.parametrize("environment", [STUDIO, STAGE, HALL])
def test_an_environment_keeps_length_and_range(environment: Environment) -> None:
    voice = _say("Male", 1.0)
    recorded = place(100.0 * voice, environment, np.random.default_rng(0))
    assert recorded.shape == voice.shape
    assert recorded.dtype == np.float32
    assert np.abs(recorded).max() <= 1.0


def test_rooms_between_two_rooms() -> None:
    assert between(STUDIO, HALL, 0.0) == STUDIO
    assert between(STUDIO, HALL, 1.0) == HALL
    middle = between(STUDIO, HALL, 0.5)
    assert middle.decay == pytest.approx((STUDIO.decay + HALL.decay) / 2)
    assert middle.band == pytest.approx(
        [math.sqrt(a * b) for a, b in zip(STUDIO.band, HALL.band, strict=True)]
    )
    assert between(STUDIO, HALL, 2.0).noise == pytest.approx(2 * HALL.noise - STUDIO.noise)
    with pytest.raises(ValueError, match="negative"):
        between(STUDIO, HALL, -0.1)


def test_every_word_has_a_vowel_and_is_unique() -> None:
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert all(syllables(word) for word in words)
    assert syllables("beautiful") == "eiu"
    assert syllables("just") == "u"


def test_words_follow_valence() -> None:
    rng = np.random.default_rng(0)
    kind = {
        word: sign
        for table in (COMMON, *FLAVOURS.values())
        for sign, group in table.items()
        for word in group
    }

    def polarity(valence: float) -> float:
        words = sentence(valence, rng, "improv", 300.0).split()
        return float(np.mean([kind[word] for word in words if word in kind]))

    assert polarity(-0.8) < -0.4 < polarity(0.0) < 0.4 < polarity(0.8)


def test_encoders_load_as_downloaded_ones_would(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

    state = torch.random.get_rng_state()
    acoustic, text = write_encoders(tmp_path / "first")
    again = write_encoders(tmp_path / "second")
    assert torch.equal(torch.random.get_rng_state(), state)
    for folder, copy in zip((acoustic, text), again, strict=True):
        assert _files(folder) == _files(copy)

    with torch.inference_mode():
        sound = AutoFeatureExtractor.from_pretrained(acoustic)(
            _say("Male", 0.0), sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        states = AutoModel.from_pretrained(acoustic).eval()(**sound).last_hidden_state
        tokens = AutoTokenizer.from_pretrained(text)("We really love vacation.", return_tensors="pt")
        read = AutoModel.from_pretrained(text).eval()(**tokens).last_hidden_state
    assert torch.isfinite(states).all()
    assert states.shape[2] == 64
    assert 1 not in tokens["input_ids"]  # [UNK]
    assert tokens["input_ids"].shape == (1, 7)  # every word is known: [CLS], four words, the full stop, [SEP]
    assert torch.isfinite(read).all()
    assert read.shape == (1, 7, 96)
