"""Training recordings of corpora, re-encoded as an attacker may have them, and their caches.

    .venv/bin/python -m tests.benchmarks.reencoded --releases OUTPUT/releases --output OUTPUT/reencoded \\
        --acoustic-encoder E --text-encoder E

OUTPUT/releases is what tests.benchmarks.real_speech wrote. Each way gets a folder with the releases and a cache per
corpus, with the same ids: `mp3` (libsndfile's encoder at its middle quality, decoded again) and `telephone` (300 to 3400
Hz, 8 kHz, 8 bits; `ser-extract --condition telephone` does that to test recordings).
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract import audio
from ser_memory.extract.api import extract
from ser_memory.extract.conditions import Audio, telephone


def mp3(waveform: Audio) -> Audio:
    """As MP3 and back; the encoder's delay is cut off."""
    file = io.BytesIO()
    soundfile.write(
        file, waveform, SAMPLING_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.5
    )
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.asarray(decoded[: len(waveform)], np.float32)


WAYS: dict[str, Callable[[Audio], Audio]] = {"mp3": mp3, "telephone": telephone}


def reencode(release: Path, output: Path, way: Callable[[Audio], Audio]) -> None:
    """A copy of the training utterances of a release, their recordings re-encoded under their names.

    ser-extract wants every split, so that one utterance of each other one comes along.
    """
    (output / "audio").mkdir(parents=True, exist_ok=True)
    with (release / "labels.csv").open(newline="") as file:
        every = list(csv.DictReader(file))
    first = {row["split"]: row for row in reversed(every)}
    rows = [row for row in every if row["split"] == "train" or row is first[row["split"]]]
    with (output / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        heard = np.clip(way(audio.load(release / "audio" / row["file"])), -1.0, 1.0)
        soundfile.write(output / "audio" / row["file"], heard, SAMPLING_RATE, subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--corpora", default="clean,hall,phone")
    parser.add_argument("--acoustic-encoder", required=True, help="as ser-extract takes it")
    parser.add_argument("--text-encoder", required=True, help="as ser-extract takes it")
    given = parser.parse_args()
    encoders = {"acoustic_encoder": given.acoustic_encoder, "text_encoder": given.text_encoder}
    for name, way in WAYS.items():
        for corpus in given.corpora.split(","):
            root = given.output / name / "releases" / corpus
            reencode(given.releases / corpus, root, way)
            extract(
                given.releases / f"{corpus}.toml",
                root=root,
                cache=given.output / name,
                overwrite=True,
                **encoders,
            )


if __name__ == "__main__":
    main()
