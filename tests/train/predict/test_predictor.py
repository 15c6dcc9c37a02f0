"""A bundle and recordings in, ratings out; compared with the cache, the run, and models that are asked one by one."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.metrics import ccc
from ser_memory.extract.audio import load as load_audio
from ser_memory.extract.encoders import load_acoustic, load_text
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, TranscriberOptions
from ser_memory.train.api import load, read_results
from ser_memory.train.bundle_files import bundles_in, read_bundle
from ser_memory.train.predict.predictor import Predictor
from ser_memory.train.predictions import Predictions
from tests.models import save_acoustic, save_text, save_whisper
from tests.train.predict.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), jobs=1)


@pytest.fixture(scope="module")
def predictor(world: World) -> Predictor:
    return load(world.bundles, device="cpu", workers=2)


@pytest.fixture(scope="module")
def long(world: World) -> Path:
    path = world.folder / "long.wav"
    soundfile.write(path, np.random.default_rng(5).normal(0, 0.1, 45 * 16_000), 16_000)
    return path


def values(ratings: list, name: str = "valence") -> list[float]:  # type: ignore[type-arg]
    return [rating.values[name] for rating in ratings]


def test_predictions_and_figures_are_those_of_the_run(world: World) -> None:
    """Through files on one side, through the cache on the other."""
    stored = Predictions(world.run)
    ids = stored.texts("noises", "test", "id")
    for seed, run in enumerate(stored.runs):
        one = load(world.bundles / "finetune" / f"seed-{seed}", device="cpu")
        ratings = one.predict([world.recordings[name] for name in ids], [world.texts[name] for name in ids])
        expected = stored.predicted("noises", "test", 1, seed)
        truth = stored.truth("noises", "test")
        for column, dimension in enumerate(one.dimensions):
            np.testing.assert_allclose(values(ratings, dimension), expected[:, column], atol=1e-6)
            (figure,) = [
                each.value for each in read_results(world.run)
                if (each.dimension, each.metric, each.split, each.seed) == (dimension, "ccc", "test", run.seed)
            ]  # fmt: skip
            assert ccc(truth[:, column], values(ratings, dimension)) == pytest.approx(figure, abs=1e-6)


def test_several_seeds_give_mean_and_spread(world: World, predictor: Predictor) -> None:
    paths = list(world.recordings.values())[:3]
    apart = [load(folder, device="cpu").predict(paths) for folder in bundles_in(world.bundles)]
    assert len(apart) == 2
    for place, rating in enumerate(predictor.predict(paths)):
        of_seeds = [values(each)[place] for each in apart]
        assert rating.values is not None
        assert rating.spread is not None
        assert rating.values["valence"] == pytest.approx(np.mean(of_seeds), abs=1e-6)
        assert rating.spread["valence"] == pytest.approx(np.std(of_seeds, ddof=1), abs=1e-6)


def test_a_long_recording_is_rated_window_by_window(world: World, long: Path) -> None:
    """Each window as one sees it alone, through models loaded apart."""
    folder = bundles_in(world.bundles)[0]
    bundle = read_bundle(folder)
    acoustic, text = load_acoustic(str(world.folder / "acoustic")), load_text(str(world.folder / "text"))
    (rating,) = load(folder, device="cpu").predict([long], ["so good"])
    waveform, words = load_audio(long), text.encode(["so good"]).numpy()
    total = np.zeros(2)
    assert len(rating.track) == 2
    for moment in rating.track:
        part = waveform[round(moment.start * 16_000) : round(moment.end * 16_000)]
        row = acoustic.encode([part]).numpy()
        expected = bundle.predict(row, words)[0]
        assert list(moment.values.values()) == pytest.approx(expected, abs=1e-6)
        assert moment.distance == pytest.approx(bundle.distances(row)[0])
        total += expected * (moment.end - moment.start)
    assert rating.values is not None
    assert list(rating.values.values()) == pytest.approx(total / 45, abs=1e-6)


def test_without_a_text_the_neutral_one_stands_for_it(
    world: World, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FeatureCache(world.cache)
    rows = dict(zip(cache.read("id"), cache.read("acoustic"), strict=True))
    names = ["n03", "n04", "n05"]
    ratings = predictor.predict([world.recordings[name] for name in names], [None, "so good", None])
    for place in (0, 2):
        bundles = predictor.bundles
        expected = [each.predict(rows[names[place]][None], each.neutral_text[None])[0, 1] for each in bundles]
        assert values(ratings)[place] == pytest.approx(np.mean(expected), abs=1e-6)
    assert [rating.text for rating in ratings] == [None, "so good", None]
    said = capsys.readouterr().err
    assert said.count("There is no text for 2 of 3 recordings") == 1


def test_a_text_without_words_is_a_text(world: World, predictor: Predictor) -> None:
    path = world.recordings["n00"]
    empty, none = predictor.predict([path, path], ["", None])
    assert values([empty]) != values([none])
    assert values([empty], "activation") == values([none], "activation")  # which no text reaches


def test_arrays_and_threads(world: World, predictor: Predictor, long: Path) -> None:
    paths = [world.recordings["n00"], long]
    expected = predictor.predict(paths)
    found: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        found[number] = values(predictor.predict([load_audio(path) for path in paths]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [values(expected)] * 3
    with pytest.raises(SerError, match=r"shape \(2, 100\): give finite samples at 16000 Hz"):
        predictor.predict([np.zeros((2, 100), np.float32)])
    with pytest.raises(SerError, match="There are 1 texts for 2 recordings"):
        predictor.predict(paths, ["x"])


def test_what_cannot_be_rated_says_why_in_its_place(
    world: World, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    soundfile.write(tmp_path / "short.wav", np.full(16_000, 0.999), 16_000)
    soundfile.write(tmp_path / "tiny.wav", np.zeros(20), 16_000)
    names = ("absent.wav", "film.mp4", "short.wav", "tiny.wav")
    ratings = predictor.predict([tmp_path / name for name in names])
    assert [bool(rating.error) for rating in ratings] == [True, True, False, True]
    assert "absent.wav does not exist" in ratings[0].error
    assert "film.mp4 has no audio track that can be read" in ratings[1].error
    assert "tiny.wav is too short" in ratings[3].error
    assert set(ratings[2].flags) >= {"short", "clipped"}
    assert predictor.predict([]) == []


def test_encoders_may_be_elsewhere_and_must_be_the_same(world: World, tmp_path: Path) -> None:
    folder = bundles_in(world.bundles)[0]
    path = world.recordings["n01"]
    expected = values(load(folder, device="cpu").predict([path], ["so good"]))
    moved = {
        f"{kind}_encoder": str(shutil.copytree(world.folder / kind, tmp_path / kind))
        for kind in ("acoustic", "text")
    }
    assert values(load(folder, device="cpu", **moved).predict([path], ["so good"])) == expected
    other = save_acoustic(tmp_path / "other", "hubert")
    with pytest.raises(
        SerError, match=r"other has the revision sha256:\w+, and .* was trained on sha256:\w+ of"
    ):
        load(folder, acoustic_encoder=other)
    words = save_text(tmp_path / "words", seed=1)
    with pytest.raises(SerError, match=r"The text encoder .*words has the revision .* --text-encoder"):
        load(folder, text_encoder=words, device="cpu").predict([path], ["so good"])
    with pytest.raises(UsageError, match="There is no option 'cache'"):
        load(folder, cache="x")


def test_an_engine_gives_each_window_its_text(world: World, long: Path, tmp_path: Path) -> None:
    """The window's own, as the engine hears it alone; a text that is given is kept."""
    model = save_whisper(tmp_path / "whisper", seconds=30)
    folder = bundles_in(world.bundles)[0]
    asked = load(folder, device="cpu", transcriber="whisper", whisper_model=model)
    given, heard = asked.predict([world.recordings["n01"], long], ["so good", None])
    assert given.text == "so good"
    whisper = TRANSCRIBERS["whisper"](TranscriberOptions(model=model, device="cpu"))
    waveform = load_audio(long)
    for moment in heard.track:
        part = waveform[round(moment.start * 16_000) : round(moment.end * 16_000)]
        assert moment.text == whisper.transcribe([part])[0].text
    assert heard.text == " ".join(moment.text or "" for moment in heard.track)


def test_bundles_of_other_models_do_not_go_together(world: World, tmp_path: Path) -> None:
    shutil.copytree(bundles_in(world.bundles)[0], tmp_path / "seed-0")
    other = make_world(tmp_path / "other", 12, jobs=1, seed=1, epochs=1, dimensions="valence")
    shutil.copytree(bundles_in(other.bundles)[0], tmp_path / "seeds" / "seed-1")
    (tmp_path / "seed-0").rename(tmp_path / "seeds" / "seed-0")
    with pytest.raises(SerError, match=r"differ in .*architecture.*, so they are not seeds of one model"):
        load(tmp_path / "seeds")
