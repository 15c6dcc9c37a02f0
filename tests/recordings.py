"""A corpus in a table, of noises that no two recordings share, for tests that need many or special ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

MANIFEST = """\
name = "noises"
layout = "table"
scale = { min = 1, max = 5 }
[protocols.given]
by = "split"
train = ["train"]
validation = ["validation"]
test = ["test"]
[files]
labels = ["labels.csv"]
audio = ["clips"]
"""


def write_noises(
    root: Path, number: int, texts: dict[str, str] | None = None, seconds: float = 3.0
) -> dict[str, Path]:
    """Write `number` recordings n00, n01, ... and their table; id -> recording. `texts` are the transcripts told."""
    (root / "clips").mkdir(parents=True)
    rows = ["file,activation,valence,split,transcript"]
    recordings = {}
    for i in range(number):
        name = f"n{i:02d}"
        noise = np.random.default_rng(i).normal(0, 0.1, int(16_000 * seconds))
        recordings[name] = root / "clips" / f"{name}.flac"
        soundfile.write(recordings[name], noise.clip(-1, 1), 16_000, subtype="PCM_16")
        rows.append(f"{name}.flac,3,3,{('train', 'validation', 'test')[i % 3]},{(texts or {}).get(name, '')}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "noises.toml").write_text(MANIFEST)
    return recordings
