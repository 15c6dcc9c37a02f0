"""What sharing the work costs: claims per part, how workers add up, and the merge of many parts.

    .venv/bin/python -m tests.benchmarks.workers [--folder DIR] [--parts 1780 --parts 178000]

Processes are forked on this machine, and the folder is on one of its disks: latencies of a network are not in it. The
ideal is as many times one worker as there are, for work that only sleeps, and up to the cores for work that computes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ser_memory.common import manifests
from ser_memory.common.claims import Claims, claimed
from ser_memory.common.machine import cores
from ser_memory.common.reporting import Silent, reporting_to
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.encoding import Rows
from ser_memory.extract.merge import merge
from ser_memory.extract.parts import Part, Parts, plan_texts
from ser_memory.extract.pipeline import extract_corpus
from ser_memory.extract.rows import Known
from ser_memory.extract.screening import Screening
from ser_memory.extract.settings import Extraction, ExtractionSettings
from ser_memory.extract.sharing import Together
from ser_memory.extract.workers import Encoders
from tests.benchmarks.scaling import INFO
from tests.models import save_acoustic, save_text
from tests.recordings import write_noises

FORK = multiprocessing.get_context("fork")
PIECES, PAUSE = 400, 0.05
RECORDINGS = 160
ROWS = 151_654  # of MSP-Podcast 1.12


def claim(root: Path) -> None:
    """One worker alone: a claim and the note that it is finished."""
    with Claims(root / "alone") as claims:
        start = time.perf_counter()
        for piece in claimed(claims, range(PIECES), str):
            claims.finish(str(piece), "part-0123456789abcdef.safetensors")
        each = (time.perf_counter() - start) / PIECES
        start = time.perf_counter()
        for piece in range(PIECES):
            assert claims.is_done(str(piece))
        again = (time.perf_counter() - start) / PIECES
    print(f"a part claimed and finished: {1e3 * each:.3f} ms; seen to be done: {1e3 * again:.3f} ms")


def rate(number: int, work: Callable[[], object], pieces: int) -> float:
    """Pieces per second of so many processes."""
    processes = [FORK.Process(target=work) for _ in range(number)]
    start = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return pieces / (time.perf_counter() - start)


def sleep(root: Path) -> None:
    """Parts that take 50 ms of no work at all and are then written, 100 rows of 768 figures each."""

    def work(folder: Path) -> None:
        parts = Parts(folder / "c.h5", vars(INFO), (0.0, 30.0))
        rows = Rows(np.arange(100), np.ones(100, np.float32), np.ones((100, 768), np.float32), {})
        with Claims(folder / "claims") as claims:
            for piece in claimed(claims, range(PIECES), str):
                time.sleep(PAUSE)
                claims.finish(str(piece), parts.write([f"{piece} {i}" for i in range(100)], rows))

    alone = 0.0
    for number in (1, 2, 4, 8):
        folder = root / f"sleep {number}"
        found = rate(number, lambda folder=folder: work(folder), PIECES)  # type: ignore[misc]
        alone = alone or found
        print(f"{number} workers that sleep: {found:6.1f} parts/s; ideal {number * alone:6.1f}")


def encode(root: Path) -> None:
    """ser-extract with a Wav2Vec2 of 256 features and 6 layers, 24 s of audio per part, start and merge included."""
    texts = {f"n{i:02d}": "a good day" for i in range(RECORDINGS)}
    write_noises(root / "release", RECORDINGS, texts, seconds=12.0)
    size: dict[str, Any] = {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "intermediate_size": 1024,
        "conv_dim": (128,) * 7,
    }
    acoustic, text = str(root / "acoustic"), str(root / "text")

    def save() -> None:
        save_acoustic(Path(acoustic), "wav2vec2 with group norm", **size)
        save_text(Path(text))

    rate(1, save, 1)  # not in this process: what is forked after PyTorch's threads began would wait for them
    manifest = manifests.load(str(root / "release/noises.toml"))

    def work(cache: Path, worker: bool) -> None:
        settings = ExtractionSettings(
            acoustic_encoder=acoustic, text_encoder=text, device="cpu", workers=1, worker=worker
        )
        extraction = Extraction(manifest, root / "release", cache, settings, part_seconds=24.0)
        with reporting_to(Silent()):
            extract_corpus(extraction, Encoders(settings))

    parts = RECORDINGS // 2
    local = rate(1, lambda: work(root / "local", False), parts)
    print(f"ser-extract without --worker: {local:6.2f} parts/s")
    for number in (1, 2, 4):
        cache = root / f"encode {number}"
        cache.mkdir()
        found = rate(number, lambda cache=cache: work(cache, True), parts)  # type: ignore[misc]
        ideal = min(number, cores()) * local
        print(
            f"ser-extract, {number} with --worker: {found:6.2f} parts/s; ideal on {cores()} cores {ideal:6.2f}"
        )
        assert (cache / "noises.h5").read_bytes() == (root / "local/noises.h5").read_bytes()


def merge_parts(number: int, root: Path) -> None:
    """The end for a worker that has done none of the parts: it learns of them, and merges."""
    random = np.random.default_rng(0)
    names = [f"{i:064x}" for i in range(ROWS)]
    said = [f"as they said it {i}" for i in range(ROWS)]
    turns = [
        Utterance(f"u{i:06d}", None, "train", 4.0, 4.0, 4.0, str(i % 1400), "Female", said[i])
        for i in range(ROWS)
    ]
    folder = root / f"{number}"
    target = folder / "msp-podcast.h5"
    writer, parts = (Parts(target, vars(INFO), (0.0, 30.0)) for _ in range(2))
    plan = [Part(tuple(map(int, places))) for places in np.array_split(np.arange(ROWS), number)]
    with Claims(folder / "claims") as other, Claims(folder / "claims") as claims:
        share = Together(claims, parts)
        plan = list(share.plan(plan, names, lambda _: False))
        start = time.perf_counter()
        with mock.patch("ser_memory.common.files.flush_to_disk"):  # a fixture, not what is measured
            for part in plan:
                size = len(part.places)
                acoustic = random.standard_normal((size, 768), np.float32)
                rows = Rows(np.arange(size), np.full(size, 4, np.float32), acoustic, {})
                other.finish(part.name, writer.write([names[place] for place in part.places], rows))
            for part in plan_texts(ROWS):
                some = [said[place] for place in part.places]
                writer.write_texts(some, random.standard_normal((len(some), 768), np.float32))
        print(f"{number:7,} parts written: {time.perf_counter() - start:.1f} s")
        before, start = peak(), time.perf_counter()
        assert all(not part.places for part in share.pieces(plan, lambda: False))
        learned = time.perf_counter()
        known = Known(parts.stores())
        opened = time.perf_counter()
        merge(target, INFO, turns, names, Screening(dropped=defaultdict(list)), known)
        merged = time.perf_counter()
    print(
        f"{number:7,} parts, {ROWS:,} rows: seen to be done {learned - start:.1f} s, opened {opened - learned:.1f} s, "
        f"merged {merged - opened:.1f} s; peak {peak():,.0f} MB ({before:,.0f} before)"
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--parts", type=int, action="append")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        claim(folder)
        sleep(folder)
        encode(folder)
        for number in given.parts or [1_780]:
            process = FORK.Process(target=merge_parts, args=(number, folder))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"merging {number:,} parts failed")


if __name__ == "__main__":
    main()
