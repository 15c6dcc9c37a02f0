"""Does extraction's memory grow with the corpus, and how long does MSP-Podcast's merge take?

    .venv/bin/python -m tests.benchmarks.scaling [--rows 151654]

Peak memory of encoding 1,000 and 10,000 utterances with a tiny encoder; then parts of 768 + 768 wide rows of
a corpus of MSP-Podcast's size, from an encoder replaced by random numbers, merged and verified.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ser_memory.common.cache import CacheInfo, FeatureCache
from ser_memory.common.machine import cores
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.encoders import load_acoustic, load_text
from ser_memory.extract.encoding import AcousticWorker, Item, Rows, Text
from ser_memory.extract.merge import merge
from ser_memory.extract.parts import Parts, plan_parts, plan_texts
from ser_memory.extract.rows import Known
from ser_memory.extract.screening import Screening
from ser_memory.extract.workers import Work, encode_recordings, encode_transcripts
from tests.models import save_acoustic, save_text

INFO = CacheInfo(
    "msp-podcast", "1.11", 1.0, 7.0, "a", "r", "mean", "last", "t", "r", "CLS", "release", 0.0, 30.0, 16000, "float32",
    "benchmark", "f", 0, {},
)  # fmt: skip


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def encode(utterances: int, folder: str) -> None:
    root = Path(folder)
    audio = root / "a.wav"
    turns = [Utterance(str(i), audio, "train", 3.0, 3.0, transcript="a good day") for i in range(utterances)]
    names = [turn.id for turn in turns]
    work = Work([Item(name, audio, 3.0, name) for name in names], 0.0, 30.0)
    acoustic, text = load_acoustic(str(root / "acoustic")), load_text(str(root / "text"))
    parts = Parts(root / f"{utterances}.h5", vars(INFO), (0.0, 30.0))
    start = time.perf_counter()
    workers = [AcousticWorker(acoustic) for _ in range(cores())]
    encode_recordings(work, plan_parts([3.0] * utterances), parts, workers, lambda _: None)
    texts = [Text("0", "a good day")]
    encode_transcripts(texts, plan_texts(1), parts, [text], lambda _: None)
    screened = Screening(dropped=defaultdict(list))
    merge(root / f"{utterances}.h5", INFO, turns, names, screened, Known(parts.stores()))
    print(
        f"{utterances:7,} utterances encoded and merged: {time.perf_counter() - start:6.1f} s, peak {peak():,.0f} MB"
    )


def merge_rows(rows: int, folder: str) -> None:
    root = Path(folder)
    random = np.random.default_rng(0)
    seconds = random.uniform(3, 11, rows)
    said = [f"as they said it {i} " * 3 for i in range(rows)]
    turns = [
        Utterance(f"MSP-PODCAST_{i:06d}", None, "train", 4.0, 4.0, 4.0, str(i % 1400), "Female", said[i])
        for i in range(rows)
    ]
    names = [turn.id for turn in turns]
    parts = Parts(root / "msp-podcast.h5", vars(INFO), (0.0, 30.0))
    plan = plan_parts(seconds.tolist())
    for part in plan:
        acoustic = random.standard_normal((len(part.places), 768), np.float32)
        durations = seconds[list(part.places)].astype(np.float32)
        keys = [names[place] for place in part.places]
        parts.write(keys, Rows(np.arange(len(keys)), durations, acoustic, {}))
    for part in plan_texts(rows):
        some = [said[place] for place in part.places]
        parts.write_texts(some, random.standard_normal((len(some), 768), np.float32))
    before = peak()
    start = time.perf_counter()
    screened = Screening(dropped=defaultdict(list))
    merge(root / "msp-podcast.h5", INFO, turns, names, screened, Known(parts.stores()))
    merged = time.perf_counter() - start
    print(
        f"{rows:7,} rows in {parts.count():,} parts merged: {merged:.1f} s, peak {peak():,.0f} MB ({before:,.0f} before)"
    )
    start = time.perf_counter()
    cache = FeatureCache(root / "msp-podcast.h5")
    cache.validate()
    size = cache.path.stat().st_size / 1e6
    verified = time.perf_counter() - start
    print(
        f"{len(cache):7,} rows verified: {verified:.1f} s, peak {peak():,.0f} MB; the cache has {size:,.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=151_654)
    rows = parser.parse_args().rows
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        save_acoustic(Path(folder) / "acoustic", "wav2vec2 with layer norm")
        save_text(Path(folder) / "text")
        soundfile.write(
            Path(folder) / "a.wav", np.random.default_rng(0).standard_normal(48_000) * 0.1, 16_000
        )
        for task, size in ((encode, 1_000), (encode, 10_000), (merge_rows, rows)):
            process = context.Process(target=task, args=(size, folder))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{task.__name__} of {size:,} failed")


if __name__ == "__main__":
    main()
