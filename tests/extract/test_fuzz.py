"""Any file in the place of a recording ends as a finite row or as a named reason, and no cut recording has a row."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from ser_memory.common.cache import REASONS
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.encoders import load_acoustic
from ser_memory.extract.encoding import AcousticWorker, Item, encode, gather
from ser_memory.extract.identity import Glimpses
from ser_memory.extract.screening import screen
from tests.containers import CONTAINERS, LENGTH_UNKNOWN, write
from tests.models import save_acoustic

FILES = int(os.environ.get("SER_FUZZ_FILES", "100"))  # 2,000 and more for a long run
RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000)
FORMATS = (
    ("wav", "PCM_16"),
    ("wav", "FLOAT"),
    ("wav", "DOUBLE"),
    ("wav", "PCM_24"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
)
NAMES = ("{0}", "a b {0}", "ä{0}", "a\u0308{0}", "x.y.{0}")


def write_case(folder: Path, number: int) -> tuple[Path, str]:
    """A file, and what it is: any, cut, unknown length, or no file."""
    random = np.random.default_rng([19, number])
    kind = str(random.choice(["any", "cut", "unknown", "no file"], p=[0.6, 0.2, 0.1, 0.1]))
    name = str(random.choice(NAMES)).format(f"{number:05d}")
    if kind == "any":
        path = write_any(folder, number)
        return path.rename(path.with_name(name + path.suffix)), kind
    noise = random.standard_normal(int(random.integers(8_000, 40_000))) / 9
    if kind == "cut":
        path = write(folder, str(random.choice(list(CONTAINERS))), noise, name=name)
        data = path.read_bytes()
        path.write_bytes(data[: int(random.uniform(0.0, 0.8) * len(data))])
    elif kind == "unknown":
        container, unknown = LENGTH_UNKNOWN[str(random.choice(list(LENGTH_UNKNOWN)))]
        path = write(folder, container, noise, name=name)
        path.write_bytes(unknown(path.read_bytes()))
    else:
        path = folder / f"{name}.wav"
        make = random.integers(5)
        if make == 0:
            path.symlink_to("gone.wav")
        elif make == 1:
            path.symlink_to(path.name)
        elif make == 2:
            path.symlink_to(folder)
        elif make == 3:
            path.mkdir()
        else:
            os.mkfifo(path)
    return path, kind


def write_any(folder: Path, number: int) -> Path:
    """A recording of any rate, channels, format and content, mutated every other time."""
    random = np.random.default_rng([17, number])
    extension, subtype = FORMATS[random.integers(len(FORMATS))]
    rate = int(random.choice(RATES))
    if extension == "ogg":
        rate = min(rate, 48_000)
    samples = int(
        random.choice([0, 1, 2, 399, 400]) if random.random() < 0.3 else random.integers(500, 2 * rate)
    )
    channels = int(random.integers(1, 9))
    values = random.standard_normal((samples, channels)) * 0.1
    content = random.choice(
        ["noise", "noise", "noise", "silence", "constant", "clipped", "nan", "infinite", "huge", "tiny"]
    )
    if content in ("nan", "infinite") and samples:
        values[random.integers(samples), random.integers(channels)] = np.nan if content == "nan" else np.inf
    scale = {"silence": 0.0, "clipped": 1e3, "huge": 1e30, "tiny": 1e-30}.get(str(content), 1.0)
    values = np.full_like(values, 0.25) if content == "constant" else values * scale
    if subtype not in ("FLOAT", "DOUBLE"):
        values = np.nan_to_num(values).clip(-1, 1)
    path = folder / f"{number:05d}.{extension}"
    soundfile.write(path, values, rate, subtype=subtype)
    if random.random() < 0.4:
        path.write_bytes(mutate(path.read_bytes(), random))
    return path


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, padded, with bytes changed at random or in the header, or a completely different file."""
    kind = random.integers(6) if data else 1
    if kind == 0:
        return data[: random.integers(len(data) + 1)]
    if kind == 1:
        return data + random.bytes(int(random.integers(1, 500)))
    if kind == 2:
        return random.bytes(int(random.integers(0, 3000)))
    changed = bytearray(data)
    reach = min(len(changed), 64) if kind < 5 else len(changed)
    for _ in range(int(random.integers(1, 20))):
        changed[random.integers(reach)] = int(random.integers(256))
    return bytes(changed)


def test_every_file_ends_as_a_row_or_a_reason(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    cases = [write_case(tmp_path / "audio", i) for i in range(FILES)]
    kinds = {f"{i:05d}": kind for i, (_, kind) in enumerate(cases)}
    turns = [
        Utterance(f"{i:05d}", path, "train", 3.0, 3.0, transcript="a good day")
        for i, (path, _) in enumerate(cases)
    ]
    assert len(Glimpses(turns).digest(turns[0].audio or Path())) <= 32
    screened = screen(turns, 0.0, 30.0)
    worker = AcousticWorker(load_acoustic(save_acoustic(tmp_path / "acoustic", "wav2vec2 with group norm")))
    items = [Item(each.id, each.audio, seconds) for each, seconds in screened.kept]
    encoded = gather(items, list(encode(items, worker, 0.0, 30.0)), worker)

    assert np.isfinite(encoded.acoustic).all()
    rows = len(encoded.places)
    ended = {name: reason for reason, ids in screened.dropped.items() for name in ids}
    ended |= {items[place].id: "row" for place in encoded.places.tolist()}
    ended |= {items[place].id: reason for place, reason in encoded.refused.items()}
    assert len(ended) == FILES
    assert set(ended.values()) <= {"row", *REASONS}
    counts = {outcome: list(ended.values()).count(outcome) for outcome in ("row", *REASONS)}
    print(f"{FILES} files: {counts}")
    for kind in ("any", "cut", "unknown", "no file"):
        of_kind = Counter(ended[name] for name in kinds if kinds[name] == kind)
        print(f"  {kind}: {dict(of_kind)}")
        if kind in ("cut", "no file"):
            assert not of_kind["row"]
        if kind == "unknown":
            assert set(of_kind) <= {"row"}
    assert rows > FILES / 5
    assert len({reason for reason, count in counts.items() if count}) >= 4
