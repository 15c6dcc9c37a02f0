"""What does it cost to change labels, splits or a few recordings of a corpus of MSP-Podcast's size?

    .venv/bin/python -m tests.benchmarks.relabelling [--rows 151654] [--rounds 2]

A release of short recordings, all different, and its cache of 768 + 768 wide rows: random numbers in place of the
encoders' rows, written as an extraction writes them. Then `ser-extract --overwrite` runs as a process: with all labels
and splits changed, with 10 recordings and a transcript changed, and the floor beside it, a copy of the cache by `cp`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ser_memory.common import manifests
from ser_memory.common.cache import cache_path
from ser_memory.extract.encoders import EncoderOptions, identify_acoustic, identify_text
from ser_memory.extract.encoding import Rows
from ser_memory.extract.identity import describe
from ser_memory.extract.merge import merge
from ser_memory.extract.parts import Parts, plan_texts
from ser_memory.extract.pipeline import read_corpus
from ser_memory.extract.rows import Known
from ser_memory.extract.settings import Extraction, ExtractionSettings
from tests.benchmarks.extraction import save_base
from tests.models import save_text

MANIFEST = """\
name = "large"
layout = "table"
scale = { min = 1, max = 7 }
files = { labels = ["labels.csv"], audio = ["audio"] }
[protocols.given]
by = "split"
train = ["train"]
validation = ["validation"]
test = "*"
"""
SECONDS = 0.1  # of a recording: only its name, header and content matter here


def write_recordings(root: Path, rows: int) -> None:
    """A header that soundfile wrote, and noise of its own in each file."""
    audio = root / "audio"
    audio.mkdir()
    soundfile.write(root / "one.wav", np.zeros(int(SECONDS * 16_000)), 16_000)
    header, size = (root / "one.wav").read_bytes()[:44], int(SECONDS * 32_000)
    random = np.random.default_rng(0)
    for i in range(rows):
        (audio / f"r{i:06d}.wav").write_bytes(header + random.bytes(size))


def write_table(root: Path, rows: int, seed: int) -> None:
    """Labels and splits by the seed; transcripts, which are all different, stay."""
    random = np.random.default_rng(seed)
    ratings = random.uniform(1, 7, (rows, 2)).round(2)
    splits = random.choice(["train", "validation", "test"], rows)
    lines = ["file,activation,valence,split,speaker,transcript"]
    lines += [
        f"r{i:06d}.wav,{ratings[i, 0]},{ratings[i, 1]},{splits[i]},s{i % 1400},as they said it and so on {i}"
        for i in range(rows)
    ]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def options(root: Path) -> dict[str, Any]:
    return {
        "acoustic_encoder": str(root / "acoustic"), "text_encoder": str(root / "text"), "device": "cpu",
    }  # fmt: skip


def write_random_cache(root: Path, rows: int) -> None:
    """The cache that an extraction would write, with random rows."""
    settings = ExtractionSettings(min_duration=0.0, **options(root))
    extraction = Extraction(manifests.load(str(root / "large.toml")), root, root / "cache", settings)
    turns, _, glimpses, screened = read_corpus(extraction)
    attributes = (
        identify_acoustic(settings.acoustic_encoder, EncoderOptions()).attributes()
        | identify_text(settings.text_encoder).attributes()
    )
    target = cache_path(extraction.cache, "large")
    parts = Parts(target, attributes, (settings.min_duration, settings.max_duration))
    recordings = [glimpses.recording(turn.audio) for turn in turns]
    texts = [turn.transcript or "" for turn in turns]
    random = np.random.default_rng(0)
    for part in plan_texts(rows):  # 500 rows
        places = list(part.places)
        acoustic, text = random.standard_normal((2, len(places), 768), np.float32)
        durations = np.full(len(places), SECONDS, np.float32)
        rows_of_part = Rows(np.arange(len(places)), durations, acoustic, {})
        parts.write([recordings[place] for place in places], rows_of_part)
        parts.write_texts([texts[place] for place in places], text)
    info = describe(extraction, turns, attributes, None, glimpses)
    screened.dropped = defaultdict(list)
    merge(target, info, turns, recordings, screened, Known(parts.stores()))
    parts.clear(recordings)


# Starts a command from a small process: what a process has before it becomes the command counts as its peak.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def measured(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds and peak memory in MB of a process, and its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command} failed: {done.stderr}")
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=151_654)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.rows, given.rounds)


def measure(root: Path, rows: int, rounds: int) -> None:
    save_base(root / "acoustic")
    save_text(root / "text", hidden_size=768)
    (root / "large.toml").write_text(MANIFEST)
    write_recordings(root, rows)
    write_table(root, rows, 0)
    write_random_cache(root, rows)
    cache = root / "cache/large.h5"
    print(f"{rows:,} rows, a cache of {cache.stat().st_size / 1e6:,.0f} MB", flush=True)
    command = [str(Path(sys.executable).parent / "ser-extract"), "--corpus", str(root / "large.toml")]
    command += ["--root", str(root), "--cache", str(root / "cache"), "--min-duration", "0"]
    for name, value in options(root).items():
        command += [f"--{name.replace('_', '-')}", value]
    steps: dict[str, tuple[Callable[[int], None], list[str]]] = {
        "cp": (lambda _: None, ["cp", str(cache), str(root / "copy.h5")]),
        "nothing changed": (lambda _: None, command),
        "labels and splits changed": (partial(write_table, root, rows), [*command, "--overwrite"]),
        "10 recordings changed": (partial(change_recordings, root), [*command, "--overwrite"]),
    }
    for turn in range(1, rounds + 1):
        for name, (change, words) in steps.items():
            change(turn)
            seconds, memory, said = measured(words)
            counts = next((line for line in said.splitlines() if "reused" in line), "")
            print(f"round {turn}, {name:26}{seconds:7.1f} s, peak {memory:6,.0f} MB  {counts}", flush=True)
        (root / "copy.h5").unlink()


def change_recordings(root: Path, seed: int) -> None:
    """Ten recordings of the release, spread over it, become others."""
    paths = sorted((root / "audio").iterdir())
    for path in paths[:: max(1, len(paths) // 10)][:10]:
        samples = np.random.default_rng([seed, len(path.name)]).standard_normal(int(SECONDS * 16_000)) / 9
        soundfile.write(path, samples * (1 + paths.index(path) / len(paths)), 16_000)


if __name__ == "__main__":
    main()
