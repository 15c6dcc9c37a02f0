"""Three small corpora of real speech that differ in room, speakers, sentences and rating scale, and their caches.

    .venv/bin/python -m tests.benchmarks.real_speech --speech DIR --output DIR --acoustic-encoder E --text-encoder E

DIR has recordings of RAVDESS (Livingstone and Russo 2018), actors 1 to 6, in any format that libsndfile reads. Its
licence forbids copying them into the project, so they are an argument. OUTPUT/releases gets a release and a manifest
per corpus, OUTPUT/cache what ser-extract makes of them:

    corpus   room                                   speakers   sentence   scale      renderings of a recording
    clean    a booth, as recorded                   1 and 2    Kids ...   1 to 5     5
    hall     a hall that reverberates for 0.8 s     3 and 4    Dogs ...   1 to 7     5
    phone    an office with noise, by telephone     5 and 6    both       0 to 100   3

Each rendering of a recording has a place, a gain and a noise of its own; all are in one split and have the same
ratings. Splits are 60, 20 and 20 % of the recordings of each emotion. The two speakers of a corpus are in all its
splits: it measures forgetting between rooms, not generalisation to new voices.

RAVDESS has no ratings of activation, valence and dominance. Ours follow from the emotion that was acted and its
intensity, with the spread of a panel of raters: a stand-in for ratings, good for comparing strategies only.

A corpus has about 200 training rows, which need small batches and a memory that cannot hold all of them:

    ser-train --cache DIR/cache --stages clean,hall,phone --batch-size 16 --epochs 100 --memory-size 40
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract import audio
from ser_memory.extract.api import extract
from ser_memory.extract.cli import report
from ser_memory.extract.conditions import Audio, add_noise, telephone
from ser_memory.extract.simulation.rooms import HALL, STUDIO, Environment, place

SEED = 2018
# (valence, activation, dominance) in [-1, 1] of the words for these emotions in Russell and Mehrabian (1977), Evidence
# for a three-factor theory of emotions, to 0.05: their directions count here. "Calm" has the values of "relaxed".
EMOTIONS = {
    "01": ("neutral", 0.0, 0.0, 0.0),
    "02": ("calm", 0.7, -0.45, 0.05),
    "03": ("happy", 0.8, 0.5, 0.45),
    "04": ("sad", -0.65, -0.25, -0.35),
    "05": ("angry", -0.5, 0.6, 0.25),
    "06": ("fearful", -0.65, 0.6, -0.45),
    "07": ("disgust", -0.6, 0.35, 0.1),
    "08": ("surprised", 0.4, 0.65, -0.15),
}
INTENSITIES = {"01": 0.7, "02": 1.2}  # normal and strong: what the values are multiplied with
RATER_NOISE = 0.1  # standard deviation of a panel's mean, in the same unit
SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
SPLITS = ("train", "validation", "train", "test", "train")  # in turn, over the recordings of an emotion
OFFICE_SNR = (10.0, 25.0)  # dB, of the telephone calls

# The recordings are at up to 60 dB below full scale, so that rooms must be quiet, and some reach full scale.
BOOTH = replace(
    STUDIO, decay=0.1, echo=0.02, band=(20.0, 7900.0), noise=-95.0, hum=-110.0, gain=-4.0, levelling=0.0
)
_HALL = replace(HALL, echo=1.0, noise=-75.0, hum=-90.0, gain=-6.0, levelling=0.0)
_OFFICE = replace(STUDIO, decay=0.3, echo=0.2, noise=-95.0, hum=-110.0, gain=-4.0, levelling=0.0)

MANIFEST = """\
name = "{name}"
layout = "table"
scale = {{ min = {low:g}, max = {high:g} }}
files = {{ labels = ["labels.csv"], audio = ["audio"] }}
[protocols.given]
by = "split"
train = ["train"]
validation = ["validation"]
test = ["test"]
shared_speakers = true
"""
COLUMNS = ("file", "id", "speaker", "gender", "activation", "valence", "dominance", "transcript", "split")


@dataclass(frozen=True)
class RealCorpus:
    """Which recordings a corpus has, where they are heard, and how they are rated."""

    name: str
    room: Environment
    by_telephone: bool
    actors: tuple[str, ...]
    statements: tuple[str, ...]
    scale: tuple[float, float]
    renderings: int
    snr: tuple[float, float] = OFFICE_SNR  # dB, of the telephone calls


CORPORA = (
    RealCorpus("clean", BOOTH, False, ("01", "02"), ("01",), (1.0, 5.0), 5),
    RealCorpus("hall", _HALL, False, ("03", "04"), ("02",), (1.0, 7.0), 5),
    RealCorpus("phone", _OFFICE, True, ("05", "06"), ("01", "02"), (0.0, 100.0), 3),
)


@dataclass(frozen=True)
class Recording:
    """One file of RAVDESS and what its name says."""

    path: Path
    emotion: str
    intensity: str
    statement: str
    actor: str

    @classmethod
    def of(cls, path: Path) -> Recording:
        """From a name such as 03-01-05-02-01-01-04: modality, channel, emotion, ..., statement, repetition, actor."""
        _, _, emotion, intensity, statement, _, actor = path.stem.split("-")
        return cls(path, emotion, intensity, statement, actor)

    @property
    def felt(self) -> tuple[float, float, float]:
        """Activation, valence and dominance in about [-1, 1], before anybody rates them."""
        _, valence, activation, dominance = EMOTIONS[self.emotion]
        strength = INTENSITIES[self.intensity]
        return strength * activation, strength * valence, strength * dominance

    @property
    def gender(self) -> str:
        """Odd actors are men."""
        return "Male" if int(self.actor) % 2 else "Female"


def write_releases(speech: Path, output: Path, corpora: Sequence[RealCorpus] = CORPORA) -> list[Path]:
    """Write the release and the manifest of each corpus below `output`; returns the manifests.

    The same recordings give the same bytes. Raises SystemExit if a corpus would have no recording.
    """
    found = sorted(
        (path for path in speech.rglob("03-01-*") if path.stem.count("-") == 6), key=lambda path: path.stem
    )
    recordings = [Recording.of(path) for path in found]
    return [_write(corpus, number, recordings, output) for number, corpus in enumerate(corpora)]


def _write(corpus: RealCorpus, number: int, recordings: Sequence[Recording], output: Path) -> Path:
    chosen = [
        each for each in recordings if each.actor in corpus.actors and each.statement in corpus.statements
    ]
    if not chosen:
        raise SystemExit(
            f"There is no recording of the actors {' and '.join(corpus.actors)} for {corpus.name}."
        )
    folder = output / corpus.name
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([SEED, number])
    splits = split(chosen, rng)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for recording in chosen:
            ratings = _ratings(recording, corpus.scale, rng)
            waveform = audio.load(recording.path)
            for rendering in range(1, corpus.renderings + 1):
                name = f"{recording.path.stem}-{rendering}"
                heard = _heard(waveform, corpus, rng)
                soundfile.write(folder / f"audio/{name}.flac", heard, SAMPLING_RATE, subtype="PCM_16")
                facts = (
                    f"{name}.flac", name, f"actor-{recording.actor}", recording.gender, *ratings,
                    SENTENCES[recording.statement], splits[recording],
                )  # fmt: skip
                writer.writerow(dict(zip(COLUMNS, facts, strict=True)))
    manifest = output / f"{corpus.name}.toml"
    manifest.write_text(MANIFEST.format(name=corpus.name, low=corpus.scale[0], high=corpus.scale[1]))
    return manifest


def split(recordings: Sequence[Recording], rng: np.random.Generator) -> dict[Recording, str]:
    """60, 20 and 20 % of the recordings, shuffled within each emotion; the turn goes on from one to the next."""
    by_emotion: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        by_emotion[recording.emotion].append(recording)
    shuffled = [
        group[place] for _, group in sorted(by_emotion.items()) for place in rng.permutation(len(group))
    ]
    return {recording: SPLITS[place % len(SPLITS)] for place, recording in enumerate(shuffled)}


def _ratings(recording: Recording, scale: tuple[float, float], rng: np.random.Generator) -> list[float]:
    """Activation, valence and dominance as a panel rates them, on a scale."""
    low, high = scale
    rated = np.clip(recording.felt + rng.normal(0.0, RATER_NOISE, 3), -1.0, 1.0)
    ratings: list[float] = np.round(low + (high - low) * (rated + 1.0) / 2.0, 2).tolist()
    return ratings


def _heard(waveform: Audio, corpus: RealCorpus, rng: np.random.Generator) -> Audio:
    heard = place(waveform, corpus.room, rng)
    return telephone(add_noise(heard, rng.uniform(*corpus.snr), rng)) if corpus.by_telephone else heard


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, required=True, help="folder of the RAVDESS recordings")
    parser.add_argument("--output", type=Path, required=True, help="folder of the releases and caches")
    parser.add_argument("--acoustic-encoder", required=True, help="as ser-extract takes it")
    parser.add_argument("--text-encoder", required=True, help="as ser-extract takes it")
    given = parser.parse_args()
    encoders = {"acoustic_encoder": given.acoustic_encoder, "text_encoder": given.text_encoder}
    for manifest in write_releases(given.speech, given.output / "releases"):
        root = manifest.with_suffix("")
        report(extract(manifest, root=root, cache=given.output / "cache", overwrite=True, **encoders))


if __name__ == "__main__":
    main()
