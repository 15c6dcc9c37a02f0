"""ser-predict on hours of sound, and after every kind of extraction and training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_memory.common.cache import FeatureCache
from ser_memory.common.metrics import ccc
from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.train.api import load, read_results, train
from ser_memory.train.bundle_files import bundles_in
from ser_memory.train.predictions import Predictions
from tests.models import save_acoustic, save_text
from tests.releases import BUILDERS
from tests.train.predict.world import World, make_world

RATE = 16_000
STEPS = {"epochs": 2, "batch_size": 2}
GROWTH = 300  # MB: less than the 460 MB of two hours decoded

MEASURED = """
import resource, sys
from ser_memory.train.api import load
predictor = load(sys.argv[1], device="cpu", workers=1)
(rating,) = predictor.predict([sys.argv[2]])
assert not rating.error, rating.error
edges = [0.0] + [moment.end for moment in rating.track]
assert [moment.start for moment in rating.track] == edges[:-1]
lengths = [moment.end - moment.start for moment in rating.track]
assert max(lengths) <= 30 and min(lengths) >= 3, (min(lengths), max(lengths))
print(rating.duration, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With an encoder that needs little memory of its own, so that what the recording needs shows."""
    return make_world(tmp_path_factory.mktemp("world"), 12, "log-mel", jobs=1, epochs=1, seed=0)


def noise(random: np.random.Generator, rate: int) -> np.ndarray:
    """A minute without a pause."""
    return random.normal(0, 0.1, 60 * rate).clip(-1, 1)


def speech(random: np.random.Generator, rate: int) -> np.ndarray:
    """A minute with pauses."""
    minute, at = noise(random, rate), 0
    while at < len(minute):
        at += int(random.uniform(1.5, 6) * rate)
        pause = int(random.uniform(0.2, 1) * rate)
        minute[at : at + pause] *= 1e-3
        at += pause
    return minute


def write(
    path: Path, minutes: int, rate: int, minute: Callable[[np.random.Generator, int], np.ndarray]
) -> Path:
    random = np.random.default_rng(minutes)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for _ in range(minutes):
            file.write(minute(random, rate))
    return path


def measure(world: World, path: Path) -> tuple[float, int]:
    """Seconds that were rated, and the peak memory of the whole process in MB."""
    command = [sys.executable, "-c", MEASURED, str(bundles_in(world.bundles)[0]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, memory = done.stdout.split()
    return float(seconds), int(memory)


@pytest.mark.parametrize(
    ("name", "rate", "minute"), [("noise.wav", RATE, noise), ("speech.flac", 44_100, speech)]
)
def test_two_hours_need_no_more_memory_than_ten_minutes(
    name: str,
    rate: int,
    minute: Callable[[np.random.Generator, int], np.ndarray],
    world: World,
    tmp_path: Path,
) -> None:
    _, short = measure(world, write(tmp_path / f"short-{name}", 10, rate, minute))
    seconds, long = measure(world, write(tmp_path / name, 120, rate, minute))
    assert seconds == pytest.approx(7200)
    assert long - short < GROWTH


def test_a_wav_from_a_pipe_is_not_read_as_a_whole(world: World, tmp_path: Path) -> None:
    """Its header has no length, as ffmpeg writes it."""
    path = write(tmp_path / "piped.wav", 120, RATE, noise)
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 4)
    _, short = measure(world, write(tmp_path / "short.wav", 10, RATE, noise))
    seconds, long = measure(world, path)
    assert seconds == pytest.approx(7200)
    assert long - short < GROWTH


@pytest.mark.parametrize(
    ("acoustic", "extraction", "training"),
    [
        ("log-mel", {}, {"strategy": "gem", "memory_size": 4, **STEPS}),
        ("wav2vec2", {"layers": "0,2"}, {"layer": "2", "strategy": "analytic"}),
        (
            "wav2vec2",
            {"layers": "all", "pooling": "mean+std"},
            {"layer": "weighted", "strategy": "ewc", **STEPS},
        ),
    ],
)
def test_predictions_are_those_of_the_run_after_two_corpora(
    acoustic: str, extraction: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    """The test recordings of both corpora, from their files, with the texts of the cache."""
    name = acoustic if acoustic == "log-mel" else save_acoustic(tmp_path / "a", "wav2vec2 with group norm")
    words, cache = save_text(tmp_path / "t"), tmp_path / "cache"
    corpora = ("msp-podcast", "iemocap")
    for corpus in corpora:
        BUILDERS[corpus](tmp_path / corpus)
        extract(
            corpus, root=tmp_path / corpus, cache=cache, acoustic_encoder=name, text_encoder=words,
            device="cpu", min_duration=0.1, reporter=Silent(), **extraction,
        )  # fmt: skip
    run = tmp_path / "run"
    train(
        cache=cache, stages=list(corpora), output=run, bundles=True, seeds=1, device="cpu", jobs=1,
        reporter=Silent(), **training,
    )  # fmt: skip
    (folder,) = bundles_in(run / "bundles")
    predictor = load(folder, device="cpu")
    stored, results = Predictions(run), read_results(run)
    for corpus in corpora:
        columns = FeatureCache(cache / f"{corpus}.h5")
        texts = dict(zip(columns.read("id"), columns.read("transcript"), strict=True))
        files = {path.stem: path for path in (tmp_path / corpus).rglob("*.wav")}
        ids = stored.texts(corpus, "test", "id")
        ratings = predictor.predict([files[each] for each in ids], [texts[each] for each in ids])
        expected = stored.predicted(corpus, "test", 2, 0)
        for column, dimension in enumerate(predictor.dimensions):
            found = [(rating.values or {})[dimension] for rating in ratings]
            np.testing.assert_allclose(found, expected[:, column], atol=1e-5)
            (figure,) = [
                each.value for each in results
                if (each.corpus, each.split, each.dimension, each.metric, each.stage)
                == (corpus, "test", dimension, "ccc", 2)
            ]  # fmt: skip
            truth = stored.truth(corpus, "test")[:, column]
            assert ccc(truth, found) == pytest.approx(figure, abs=1e-4)
