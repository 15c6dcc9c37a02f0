"""The benchmark's corpora of real speech, on noises with the names of its recordings."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_memory.common import manifests
from ser_memory.extract.corpora import Utterance, read_release
from tests.benchmarks.real_speech import CORPORA, SENTENCES, write_releases

EMOTIONS = ("01", "05")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actors 1 to 7, two emotions, and a song, which is not used."""
    folder = tmp_path_factory.mktemp("speech")
    names = product(EMOTIONS, ("01", "02"), ("01", "02"), [f"{actor:02d}" for actor in range(1, 8)])
    everything = [f"03-01-{emotion}-01-{said}-{again}-{actor}" for emotion, said, again, actor in names]
    for number, name in enumerate([*everything, "03-02-05-01-01-01-01"]):
        folder.joinpath(f"Actor_{name[-2:]}").mkdir(exist_ok=True)
        noise = np.random.default_rng(number).standard_normal(1600) / 20
        soundfile.write(folder / f"Actor_{name[-2:]}" / f"{name}.flac", noise, 16_000)
    return folder


def read(path: Path) -> list[Utterance]:
    return read_release(path.with_suffix(""), manifests.load(str(path)))


def test_corpora_differ_in_speakers_sentences_and_scale(speech: Path, tmp_path: Path) -> None:
    corpora = {path.stem: read(path) for path in write_releases(speech, tmp_path)}
    assert list(corpora) == [corpus.name for corpus in CORPORA] == ["clean", "hall", "phone"]
    speakers = Counter(speaker for turns in corpora.values() for speaker in {turn.speaker for turn in turns})
    assert speakers == {f"actor-0{actor}": 1 for actor in range(1, 7)}
    said = {name: {turn.transcript for turn in turns} for name, turns in corpora.items()}
    one, other = SENTENCES.values()
    assert said == {"clean": {one}, "hall": {other}, "phone": {one, other}}
    assert {name: len(turns) for name, turns in corpora.items()} == {"clean": 40, "hall": 40, "phone": 48}
    for corpus in CORPORA:
        low, high = corpus.scale
        ratings = np.array([(each.activation, each.valence, each.dominance) for each in corpora[corpus.name]])
        assert ((ratings >= low) & (ratings <= high)).all()
        angry = np.array(["-05-" in turn.id[5:9] for turn in corpora[corpus.name]])
        unit = 2 * (ratings[angry].mean(axis=0) - low) / (high - low) - 1
        np.testing.assert_allclose(unit, (0.7 * 0.6, 0.7 * -0.5, 0.7 * 0.25), atol=0.15)


def test_renderings_of_a_recording_differ_and_share_split_and_ratings(speech: Path, tmp_path: Path) -> None:
    for path in write_releases(speech, tmp_path):
        renderings = defaultdict(list)
        for turn in read(path):
            renderings[turn.id.rpartition("-")[0]].append(turn)
        splits: Counter[str] = Counter()
        for group in renderings.values():
            assert len({(turn.split, turn.activation, turn.valence, turn.dominance) for turn in group}) == 1
            splits[group[0].split] += 1
            assert all(turn.audio is not None for turn in group)
            assert len({turn.audio.read_bytes() for turn in group if turn.audio}) == len(group)
        total = splits.total()
        for split, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
            assert abs(splits[split] - share * total) <= 1


def test_the_same_recordings_give_the_same_bytes(speech: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_releases(speech, tmp_path / name)
    made = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 40 + 40 + 48 + 3 + 3


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no recording of the actors 01 and 02 for clean"):
        write_releases(tmp_path, tmp_path / "output")
