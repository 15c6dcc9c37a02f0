"""An extraction that is killed, interrupted, out of disk or run twice loses nothing and mixes nothing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import SerError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.encoders import AcousticEncoder, load_acoustic
from ser_memory.extract.encoding import AcousticWorker
from ser_memory.extract.parts import Parts, plan_parts, plan_texts
from ser_memory.extract.pipeline import extract_corpus
from ser_memory.extract.settings import Extraction, ExtractionSettings
from ser_memory.extract.workers import Encoders
from tests.models import save_acoustic, save_text

TURNS = 60
PART_SECONDS = 1.5
TIMEOUT = 3.0  # seconds without a sign of life of a worker


class Slow(AcousticEncoder):
    """A real encoder, slowed down."""

    def __init__(self, encoder: AcousticEncoder, pause: float) -> None:
        self.__dict__.update(encoder.__dict__)
        self.min_samples = encoder.min_samples
        self._inner, self._pause = encoder, pause

    @property
    def device(self) -> torch.device:
        return self._inner.device

    def _states(self, waveforms: list[Waveform]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        time.sleep(self._pause)
        return self._inner._states(waveforms)


class SlowEncoders(Encoders):
    """The encoders of the settings, the acoustic one slowed down."""

    def __init__(self, settings: ExtractionSettings, pause: float) -> None:
        super().__init__(settings)
        self._pause = pause

    def acoustic(self) -> list[AcousticWorker]:
        return [AcousticWorker(Slow(worker.encoder, self._pause)) for worker in super().acoustic()]


def extract(
    world: Path,
    cache: Path,
    pause: float = 0.0,
    overwrite: bool = False,
    workers: int = 2,
    precision: str = "float32",
    fresh: bool = False,
    limit: int | None = None,
    worker: bool = False,
) -> FeatureCache:
    """Extract the world's corpus in small parts."""
    settings = ExtractionSettings(
        worker=worker,
        claim_timeout=TIMEOUT if worker else 60.0,
        min_duration=0.0,
        overwrite=overwrite,
        fresh=fresh,
        limit=limit,
        acoustic_encoder=str(world / "acoustic"),
        text_encoder=str(world / "text"),
        precision=precision,
        device="cpu",
        workers=workers,
    )
    manifest = manifests.load(str(world / "own.toml"))
    extraction = Extraction(manifest, world, cache, settings, part_seconds=PART_SECONDS)
    return extract_corpus(extraction, SlowEncoders(settings, pause))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of short recordings and two small encoders."""
    folder = tmp_path_factory.mktemp("world")
    # Groups of 16 channels: narrower ones are wrong in bfloat16 on processors with AMX.
    save_acoustic(folder / "acoustic", "wav2vec2 with group norm", num_conv_pos_embedding_groups=2)
    save_text(folder / "text")
    (folder / "own.toml").write_text(
        'name = "own"\nlayout = "table"\nscale = { min = 1, max = 5 }\nfiles = { labels = ["labels.csv"] }\n'
        '[protocols.all]\nby = "speaker"\ntrain = ["*"]\n'
    )
    draw = np.random.default_rng(3)
    lines = ["file,speaker,activation,valence,transcript"]
    for i in range(TURNS):
        noise = draw.standard_normal(int(draw.uniform(0.2, 1.5) * 16_000)) * 0.1
        soundfile.write(folder / f"{i:03d}.wav", noise, 16_000)
        lines.append(f"{i:03d}.wav,s,{draw.uniform(1, 5):.2f},{draw.uniform(1, 5):.2f},a good day {i}")
    (folder / "010.wav").write_bytes(b"broken")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def unbroken(world: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("unbroken")
    cache = extract(world, folder)
    assert len(cache) == TURNS - 1
    assert cache.info.dropped == {"unreadable": ["010"]}
    assert sorted(item.name for item in folder.iterdir()) == [".own.lock", "own.h5"]
    return cache.path.read_bytes()


class Life:
    """The pipeline in a process of its own, slowed by `pause` seconds per batch so that a kill hits it at work.

    Forked, since importing torch anew takes longer than all the rest.
    """

    def __init__(
        self,
        world: Path,
        cache: Path,
        pause: float,
        overwrite: bool = False,
        fresh: bool = False,
        largest: int = 0,
        worker: bool = False,
    ) -> None:
        self._said = cache.with_name(f"{cache.name}-said-{uuid.uuid4().hex}")
        arguments = (world, cache, pause, overwrite, fresh, largest, worker)
        self._process = multiprocessing.get_context("fork").Process(target=self._live, args=arguments)
        self._process.start()

    def _live(
        self,
        world: Path,
        cache: Path,
        pause: float,
        overwrite: bool,
        fresh: bool,
        largest: int,
        worker: bool,
    ) -> None:
        sys.stderr = self._said.open("w", buffering=1)
        if largest:  # bytes: a file that grows beyond fails as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        try:
            extract(world, cache, pause, overwrite, fresh=fresh, worker=worker)
        except SerError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def end(self, number: int | None = None) -> int:
        """Send a signal, if any, and wait; returns the exit status, negative for a signal."""
        if number is not None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)
        self._process.join(timeout=60)
        assert self._process.exitcode is not None
        return self._process.exitcode


def parts(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("own.parts/**/*.safetensors"))}


def wait_until(condition: Callable[[], bool], life: Life) -> None:
    deadline = time.monotonic() + 60
    while not condition() and life.running:
        assert time.monotonic() < deadline, life.said
        time.sleep(0.002)
    assert condition(), life.said


def test_what_is_kept_is_not_made_again(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    life = Life(world, cache, pause=0.1)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    done = len(parts(cache))
    before = {path: path.stat().st_mtime_ns for path in cache.glob("own.parts/*/*.safetensors")}
    damaged, *others = before
    damaged.write_bytes(damaged.read_bytes()[:100])
    life = Life(world, cache, pause=30)  # so slow that nothing new is finished
    wait_until(lambda: "Continuing" in life.said, life)
    life.end(signal.SIGKILL)
    assert f"{damaged} is damaged and will be made again." in life.said
    assert f"Continuing: {done - 1} finished parts are in " in life.said
    assert {path: path.stat().st_mtime_ns for path in others} == {path: before[path] for path in others}
    assert extract(world, cache).path.read_bytes() == unbroken


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_and_says_how_to_continue(
    world: Path, unbroken: bytes, tmp_path: Path, number: int
) -> None:
    cache = tmp_path / "cache"
    life = Life(world, cache, pause=0.1)
    wait_until(lambda: len(parts(cache)) >= 1, life)
    assert life.end(number) == 128 + number
    assert "Stopped as asked: " in life.said
    assert "run the same command again to continue" in life.said
    assert "Traceback" not in life.said
    assert extract(world, cache).path.read_bytes() == unbroken


def test_a_full_disk_keeps_the_parts_and_says_what_is_needed(
    world: Path, unbroken: bytes, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    size = max(len(data) for data in _all_parts(world, tmp_path / "other").values())
    life = Life(world, cache, pause=0, largest=size - 200)  # the largest part does not fit, others do
    assert life.end() == 1
    assert "all parts need about" in life.said
    assert "make room and run the same command" in life.said
    assert not (cache / "own.h5").exists()
    kept = parts(cache)
    life = Life(world, cache, pause=0, largest=size + 200)  # now the parts fit, the cache does not
    assert life.end() == 1
    assert "could not be written (File too large): it needs about" in life.said
    assert not (cache / "own.h5").exists()
    assert kept.items() <= parts(cache).items()
    assert extract(world, cache).path.read_bytes() == unbroken


def test_overwriting_uses_the_rows_of_parts_and_cache(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    life = Life(world, cache, pause=0.1, fresh=True)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    (cache / "own.h5").write_bytes(unbroken)
    life = Life(world, cache, pause=30, overwrite=True)
    assert life.end() == 0
    assert f"{TURNS - 1} rows are reused, nothing is encoded." in life.said
    assert (cache / "own.h5").read_bytes() == unbroken
    assert sorted(item.name for item in cache.iterdir()) == [".own.lock", "own.h5"]


def test_a_trial_leaves_the_parts_of_the_whole(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    """A few utterances into the same folder must not cost the hours that the whole corpus took so far."""
    cache = tmp_path / "cache"
    life = Life(world, cache, pause=0.1)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    kept = parts(cache)
    assert len(extract(world, cache, limit=4)) == 4
    assert kept.items() <= parts(cache).items()
    assert extract(world, cache, overwrite=True).path.read_bytes() == unbroken
    assert not parts(cache)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_cache_does_not_depend_on_the_workers(
    world: Path, unbroken: bytes, tmp_path: Path, workers: int
) -> None:
    assert extract(world, tmp_path, workers=workers).path.read_bytes() == unbroken


def test_out_of_memory_halves_the_batch(
    world: Path, unbroken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that holds three utterances at once; the rows are the same to rounding."""
    sizes: list[int] = []
    states = Slow._states

    def small(self: Slow, waveforms: list[Waveform]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sizes.append(len(waveforms))
        if len(waveforms) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return states(self, waveforms)

    def batching(self: SlowEncoders) -> list[AcousticWorker]:
        worker = AcousticWorker(Slow(load_acoustic(str(world / "acoustic")), 0.0))
        worker.batch_seconds = 10.0
        return [worker]

    monkeypatch.setattr(Slow, "_states", small)
    monkeypatch.setattr(SlowEncoders, "acoustic", batching)
    cache = extract(world, tmp_path)
    assert sizes.count(max(sizes)) == 1  # remembered: what did not fit is not tried again
    (tmp_path / "whole.h5").write_bytes(unbroken)
    np.testing.assert_allclose(
        cache.read("acoustic"), FeatureCache(tmp_path / "whole.h5").read("acoustic"), atol=1e-5
    )


def test_an_encoder_that_overflows_stops_with_the_recordings_id(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = Slow._states
    monkeypatch.setattr(
        Slow, "_states", lambda self, batch: [(h * float("inf"), n) for h, n in states(self, batch)]
    )
    with pytest.raises(
        SerError, match=r"The acoustic encoder gave (\d{3}) values that are not finite: look at .*/\1.wav"
    ):
        extract(world, tmp_path)
    with pytest.raises(SerError, match="values that are not finite: use --precision float32"):
        extract(world, tmp_path, precision="bfloat16")
    assert not (tmp_path / "own.h5").exists()


def test_a_part_without_a_single_usable_recording(world: Path, tmp_path: Path) -> None:
    """The headers are right, but the samples of every recording are not finite."""
    for name in ("own.toml", "labels.csv", "acoustic", "text"):
        (tmp_path / name).symlink_to(world / name)
    seconds = {path: soundfile.info(path).duration for path in world.glob("*.wav") if path.stem != "010"}
    shortest = sorted(seconds, key=lambda path: seconds[path])[:3]
    for path in world.glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in shortest:
        samples = np.full(int(seconds[path] * 16_000), np.nan, np.float32)
        soundfile.write(tmp_path / path.name, samples, 16_000, subtype="FLOAT")
    cache = extract(tmp_path, tmp_path / "cache")
    assert len(cache) == TURNS - 4
    assert cache.info.dropped["not finite"] == sorted(path.stem for path in shortest)


def test_files_that_a_killed_process_left_are_removed(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    left, recent = tmp_path / "own.h5.0.partial", tmp_path / "other.h5.0.partial"
    for path in (left, recent):
        path.write_bytes(b"cut off")
    os.utime(left, (0, 0))
    assert extract(world, tmp_path).path.read_bytes() == unbroken
    assert not left.exists()
    assert recent.exists()  # another extraction may be writing it


def test_the_cache_names_the_precision_of_its_encoder(world: Path, tmp_path: Path) -> None:
    assert extract(world, tmp_path, precision="bfloat16").info.precision == "bfloat16"


def test_the_plan_holds_everything_once() -> None:
    seconds = list(np.random.default_rng(0).uniform(3, 30, 500))
    plan = plan_parts(seconds, 100.0)
    assert sorted(place for part in plan for place in part.places) == list(range(500))
    for part in plan:
        lengths = [seconds[place] for place in part.places]
        assert lengths == sorted(lengths, reverse=True)
        assert sum(lengths) <= 100.0
    assert plan == plan_parts(seconds, 100.0)
    assert plan_parts([40.0], 10.0)[0].places == (0,)
    assert [place for part in plan_texts(1234) for place in part.places] == list(range(1234))
    assert plan_texts(0) == []


@pytest.mark.parametrize(("hours", "most"), [(0.1, 30.0), (0.5, 90.0), (100.0, 600.0)])
def test_a_short_corpus_has_parts_too(hours: float, most: float) -> None:
    """A twentieth of the corpus, 30 to 600 s."""
    seconds = [5.0] * int(hours * 720)
    lengths = [5.0 * len(part.places) for part in plan_parts(seconds)]
    assert max(lengths) == most
    assert sum(lengths) == sum(seconds)


def _all_parts(world: Path, cache: Path) -> dict[str, bytes]:
    """The parts of a whole extraction, caught before the merge removes them."""
    caught: dict[str, bytes] = {}
    clear = Parts.clear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "clear", lambda self, some: (caught.update(parts(cache)), clear(self, some)))
        extract(world, cache)
    return caught
