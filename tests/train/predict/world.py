"""A small corpus of real files, extracted and trained for real: recordings, a cache, a run and its bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.train.api import train
from tests.models import save_acoustic, save_text
from tests.recordings import write_noises

TEXTS = ["so good", "awful day", "we", "", "it was late"]


@dataclass(frozen=True)
class World:
    """Where everything is."""

    folder: Path
    recordings: dict[str, Path]  # by id
    texts: dict[str, str]

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "noises.h5"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bundles(self) -> Path:
        """Of one seed each."""
        return self.run / "bundles"


def make_world(folder: Path, number: int = 24, acoustic: str | None = None, **options: Any) -> World:
    """Extract and train; None is a small wav2vec2, `options` are those of ser-train."""
    texts = {f"n{i:02d}": TEXTS[i % len(TEXTS)] for i in range(number)}
    recordings = write_noises(folder / "corpus", number, seconds=3.0)
    random = np.random.default_rng(0)
    rows = ["file,activation,valence,dominance,split,transcript"]
    for i, path in enumerate(recordings.values()):
        ratings = random.uniform(1, 5, 3).round(2)
        split = ("train", "validation", "test")[i % 3]
        rows.append(f"{path.name},{','.join(map(str, ratings))},{split},{texts[path.stem]}")
    (folder / "corpus" / "labels.csv").write_text("\n".join(rows) + "\n")
    transcripts = folder / "texts.jsonl"
    transcripts.write_text("".join(f'{{"id": "{name}", "text": "{text}"}}\n' for name, text in texts.items()))
    acoustic = acoustic or save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    text = save_text(folder / "text")
    extract(
        folder / "corpus" / "noises.toml", root=folder / "corpus", cache=folder / "cache", device="cpu",
        acoustic_encoder=acoustic, text_encoder=text, transcripts=transcripts, reporter=Silent(),
    )  # fmt: skip
    train(
        cache=folder / "cache", stages=["noises"], output=folder / "run", bundles=True, device="cpu",
        reporter=Silent(), **{"strategy": "finetune", "seed": [0, 1], "epochs": 2, "batch_size": 4, **options},
    )  # fmt: skip
    return World(folder, recordings, texts)
